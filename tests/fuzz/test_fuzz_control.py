"""What is said to the control socket at random: each answer is one in HTTP, none is a bug of ours, and the hub goes on."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from loguru import logger

from mlxhub_core import HubManager
from mlxhub_core.control.operations import OPERATIONS
from mlxhub_core.control.server import ControlServer
from mlxhub_core.place import Place, place_of

PATIENCE = 10.0
"""Seconds without a word from the hub, on a busy machine, after which it hangs."""
PAUSE = 0.05
"""Seconds without a word after which we have no more to say."""
SECRET = b"what only the file next to the logs says"

PARAMETERS = sorted({parameter.name for operation in OPERATIONS for parameter in operation.parameters})
names = st.sampled_from(
    [
        "a",
        "b",
        "../a",
        "..%2fsecret",
        "%2e%2e/secret",
        "../../../../etc/passwd",
        "a%00",
        "secret",
        "a/../a",
        "*",
        "a.log",
        ".",
        "..",
    ]
) | st.text(max_size=8).map(lambda text: quote(text.encode("utf-8", "surrogatepass")))
METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "BREW", ""]
anywhere = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map("/".__add__)
known = st.builds(
    lambda operation, name: (operation.method, operation.path.replace("{name}", name)),
    st.sampled_from(OPERATIONS),
    names,
)
# Mostly what there is: what there is not is refused before anybody looks at the rest.
targets = known | known | known | st.tuples(st.sampled_from(METHODS), known.map(lambda target: target[1]) | anywhere)
queries = st.lists(
    st.tuples(
        st.sampled_from(PARAMETERS) | st.text(max_size=4),
        st.sampled_from(["true", "false", "1", "-1", "0", "nan", "1e400", "a", "start", "previous", "", "9" * 400])
        | st.text(max_size=6),
    ),
    max_size=3,
).map(lambda pairs: "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs))
HEADERS = (
    "Last-Event-ID: x",
    f"Last-Event-ID: {'9' * 5000}",
    "Content-Length: 5",
    "Content-Length: -1",
    "Expect: 100-continue",
    "Transfer-Encoding: chunked",
    "Connection: upgrade",
    "Upgrade: websocket",
    "Host:",
    "Authorization: Bearer x",
    "Range: bytes=0-9",
    "Origin: http://evil.example",
    "A" * 70_000,
)
headers = st.lists(st.sampled_from(HEADERS), max_size=3)
requests = st.builds(
    lambda target, query, extra, body: (
        f"{target[0]} {target[1]}{'?' if query else ''}{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        + "".join(f"{line}\r\n" for line in extra)
        + f"\r\n{body}"
    ).encode("utf-8", "surrogatepass"),
    targets,
    st.just("") | st.just("") | queries,
    st.just([]) | headers,
    st.text(max_size=5),
)


class Serving:
    """A hub with a model, its control socket, and what it logged."""

    def __init__(self, place: Place, bugs: list[str]) -> None:
        self.place = place
        self.bugs = bugs

    def ask(self, request: bytes) -> bytes:
        """All that comes back until the hub hangs up, which it does when it has answered: nobody asks more."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(self.place.socket))
            answer = b""
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                peer.sendall(request)
                peer.settimeout(PAUSE)
                with contextlib.suppress(TimeoutError):
                    while said := peer.recv(65536):
                        answer += said
                # It waits for more, or tells events as they come. Who says that there is no more is answered no more.
                peer.shutdown(socket.SHUT_WR)
                peer.settimeout(PATIENCE)
                while said := peer.recv(65536):
                    answer += said
            return answer


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("api")
    config = directory / "hub.yaml"
    entries = (
        "models:\n- {name: a, default: true, health: off, command: [sleep, '600']}\n- {name: b, command: [nowhere]}\n"
    )
    config.write_text("log_path: logs\nsinks: {loguru: off}\n" + entries)
    bugs: list[str] = []
    log = logger.add(lambda message: bugs.append(str(message)), level="ERROR")
    with HubManager(config) as manager:
        manager.reload()
        for place in (directory, directory / "logs"):
            (place / "secret.log").write_bytes(SECRET)
        server = ControlServer(manager, place_of(config), lambda _: None)
        server.start()
        yield Serving(place_of(config), bugs)
        server.close()
    logger.remove(log)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests | st.binary(max_size=200))
@example(b"GET /hub/models/a.log/log HTTP/1.1\r\nHost: x\r\n\r\n")
@example(b"GET /hub/models/secret/log HTTP/1.1\r\nHost: x\r\n\r\n")
@example(b"GET /hub/models/..%2f..%2fsecret/log HTTP/1.1\r\nHost: x\r\n\r\n")
@example(b"GET /hub/models/%2e%2e%2fsecret/log?lines=5 HTTP/1.1\r\nHost: x\r\n\r\n")
def test_whatever_is_asked_the_answer_is_none_of_a_bug_and_of_no_other_file(hub: Serving, said: bytes) -> None:
    answer = hub.ask(said)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 "), answer[:200]
    assert SECRET not in answer
    assert b"root:" not in answer
    assert b"Traceback" not in answer
    assert b"internal_error" not in answer
    assert not answer.startswith(b"HTTP/1.1 500 ") or b'"failed"' in answer, answer
    assert hub.bugs == []


def test_afterwards_it_answers_as_before(hub: Serving) -> None:
    with contextlib.closing(HTTPConnection("hub", timeout=PATIENCE)) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(hub.place.socket))
        connection.request("GET", "/hub/status")
        body = json.loads(connection.getresponse().read())
    assert [model["name"] for model in body["models"]] == ["a", "b"]
    assert not [
        path for path in Path(body["config"]).parent.iterdir() if path.name not in ("hub.yaml", "logs", "secret.log")
    ]
