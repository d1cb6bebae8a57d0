"""Whether a model can answer: asked of real sockets that answer, misbehave, or are not there."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from mlxhub_core import probes
from mlxhub_core.net import listens
from mlxhub_core.probes import MAX_ANSWER, ProbeResult, Target, probe, probe_in_thread
from mlxhub_core.testing import FAKE_SERVER

HOST = "127.0.0.1"
PATIENCE = 5.0
"""Seconds to wait for what must happen."""
MODEL = "mlx-community/Qwen3-4B-4bit"


@dataclass
class Server:
    """Somebody who answers one connection with the same bytes whatever is asked."""

    port: int
    questions: list[bytes] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    @property
    def head(self) -> list[str]:
        """The lines of the question before its body."""
        return self.questions[0].partition(b"\r\n\r\n")[0].decode().split("\r\n")

    @property
    def body(self) -> Any:
        """What was asked, from JSON."""
        return json.loads(self.questions[0].partition(b"\r\n\r\n")[2])


@contextlib.contextmanager
def serving(answer: bytes, host: str = HOST, *, keep_open: bool = False) -> Iterator[Server]:
    """A server for one connection; with `keep_open` it does not close that before the test is over."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        listener.settimeout(PATIENCE)
        server = Server(listener.getsockname()[1])
        thread = threading.Thread(target=_serve, args=(listener, server, answer, keep_open))
        thread.start()
        yield server
        server.release.set()
        thread.join(PATIENCE)


def _serve(listener: socket.socket, server: Server, answer: bytes, keep_open: bool) -> None:
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        connection.settimeout(PATIENCE)
        with connection:
            server.questions.append(_question(connection))
            connection.sendall(answer)
            if keep_open:
                server.release.wait(PATIENCE)


def _question(connection: socket.socket) -> bytes:
    asked = b""
    while not _is_whole(asked) and (more := connection.recv(65536)):
        asked += more
    return asked


def _is_whole(asked: bytes) -> bool:
    head, end, body = asked.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    return bool(end) and len(body) >= sum(lengths)


def http(status: int, body: str | bytes = b"", reason: str = "Whatever") -> bytes:
    content = body.encode() if isinstance(body, str) else body
    return b"HTTP/1.0 %d %s\r\nContent-Length: %d\r\n\r\n" % (status, reason.encode(), len(content)) + content


def asked(answer: bytes, model: str | None = None, **target: Any) -> ProbeResult:
    """What a probe learns from such an answer."""
    with serving(answer) as server:
        return probe(Target(HOST, server.port, model, **target))


def unused_port() -> int:
    with socket.socket() as holder:
        holder.bind((HOST, 0))
        return int(holder.getsockname()[1])


COMPLETION = http(200, '{"object": "text_completion", "choices": [{"text": "!", "index": 0}]}')


# Health: of a server that is not mlx_lm's.


@pytest.mark.parametrize(
    "body", [b"", b'{"status": "ok"}', b"not ready", b"\xff\xfe"], ids=["nothing", "JSON", "any words", "no UTF-8"]
)
def test_200_on_health_is_ready_whatever_it_says(body: bytes) -> None:
    assert asked(http(200, body)) == ProbeResult(ready=True, detail="")


@pytest.mark.parametrize("status", [201, 204, 301, 302, 400, 401, 404, 500, 503])
def test_anything_else_on_health_is_not_and_the_detail_tells(status: int) -> None:
    result = asked(http(status, '{"status": "loading model"}'))
    assert not result.ready
    assert result.detail.startswith(f"HTTP {status}")
    assert ("loading model" in result.detail) == (status != 204), "204 has no body"


def test_the_path_of_health_is_the_one_from_hub_yaml() -> None:
    with serving(http(200)) as server:
        probe(Target(HOST, server.port, health_path="/v1/models?ready=1"))
    assert server.head[0] == "GET /v1/models?ready=1 HTTP/1.1"
    assert f"Host: {HOST}:{server.port}" in server.head


def test_a_health_answer_whose_body_never_comes_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "HEALTH_TIMEOUT", 0.05)
    with serving(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", keep_open=True) as server:
        assert probe(Target(HOST, server.port)).ready


def test_an_answer_without_an_end_is_not_read_to_it() -> None:
    with serving(b"HTTP/1.1 500 No\r\n\r\n" + b"x" * MAX_ANSWER, keep_open=True) as server:
        assert probe(Target(HOST, server.port)).detail.startswith("HTTP 500 xxx")


def test_a_detail_is_short_and_on_one_line_and_does_nothing_to_a_terminal() -> None:
    result = asked(http(500, "<html>\r\n  <b>Oh\tno</b>\n\x1b[2J\0" + "x" * 10_000))
    assert result.detail.startswith("HTTP 500 <html> <b>Oh no</b> [2J xxx")
    assert len(result.detail) <= 200
    assert result.detail.isprintable()


# A completion: of mlx_lm server.


@pytest.mark.parametrize(
    "model",
    [MODEL, "/models/qwen/", "./models/qwen", 'quo"te\\{port}', "Modèle ✓"],
    ids=["name", "slash at the end", "relative", "quotes", "not ASCII"],
)
def test_mlx_lm_is_asked_for_one_token_of_exactly_its_own_model(model: str) -> None:
    # Any other name would make it load another model.
    with serving(COMPLETION) as server:
        assert probe(Target(HOST, server.port, model)) == ProbeResult(ready=True, detail="")
    assert server.head[0] == "POST /v1/completions HTTP/1.1"
    assert "Content-Type: application/json" in server.head
    assert server.body["model"] == model
    assert server.body["max_tokens"] == 1


def test_mlx_lm_is_never_asked_with_a_prompt_that_kills_it() -> None:
    with serving(COMPLETION) as server:
        probe(Target(HOST, server.port, MODEL))
    prompt = server.body["prompt"]
    assert isinstance(prompt, str), "a list of prompts kills it"
    assert prompt.strip(), "and so does an empty one"
    assert set(server.body) == {"model", "prompt", "max_tokens"}, "and some of the other keys"


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (http(404, '{"error": "generation thread died"}'), ["HTTP 404", "generation thread died"]),
        (http(503, '{"status": "unavailable"}'), ["HTTP 503", "unavailable"]),
        (http(200, '{"status": "ok"}'), ["HTTP 200", "ok"]),
        (http(200), ["HTTP 200"]),
        (http(500, '{"choices": []}'), ["HTTP 500"]),
    ],
    ids=["zombie", "unavailable", "no completion", "empty", "error with choices"],
)
def test_anything_but_a_completion_is_not_ready(answer: bytes, parts: list[str]) -> None:
    result = asked(answer, MODEL)
    assert not result.ready
    assert all(part in result.detail for part in parts)


def test_a_completion_that_breaks_off_is_none() -> None:
    assert not asked(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"id": "1", "cho', MODEL).ready


def test_the_health_of_mlx_lm_is_not_asked_because_it_lies() -> None:
    with serving(http(404, '{"error": "generation thread died"}')) as server:
        assert not probe(Target(HOST, server.port, MODEL, health_path="/health")).ready
    assert "/health" not in server.head[0]


# Servers that are not there, or are no servers.


@pytest.mark.parametrize("model", [None, MODEL], ids=["health", "completion"])
def test_nobody_is_not_ready(model: str | None) -> None:
    assert probe(Target(HOST, unused_port(), model)) == ProbeResult(ready=False, detail="Connection refused")


@pytest.mark.parametrize(
    ("model", "timeout"),
    [(None, "HEALTH_TIMEOUT"), (MODEL, "COMPLETION_TIMEOUT")],
    ids=["health", "completion"],
)
def test_one_who_accepts_but_does_not_answer_is_not_ready(
    model: str | None, timeout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, timeout, 0.05)
    with serving(b"", keep_open=True) as server:
        assert probe(Target(HOST, server.port, model)) == ProbeResult(ready=False, detail="timed out")


def test_a_model_that_loads_for_long_has_the_time() -> None:
    assert probes.COMPLETION_TIMEOUT >= 60
    assert probes.HEALTH_TIMEOUT <= 10


GARBAGE = {
    "nothing": b"",
    "zeros": bytes(5000),
    "every byte": bytes(range(256)) * 100,
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "words": b"hello world\r\n\r\n",
    "no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a number that is none": b"HTTP/1.1 99999 OK\r\n\r\n",
    "another version": b"HTTP/9.9 200 OK\r\n\r\n",
    "an endless line": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000,
    "only a status line": b"HTTP/1.1 404",
    "continue, and then nothing": b"HTTP/1.1 100 Continue\r\n\r\n",
    "bad chunks": b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnonsense",
    "a chunk beyond all bounds": b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nx",
    "a chunk of less than nothing": b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nx\r\n0\r\n\r\n",
    "a length that is none": b"HTTP/1.1 500 No\r\nContent-Length: many\r\n\r\nx",
    "a length of less than nothing": b"HTTP/1.1 500 No\r\nContent-Length: -1\r\n\r\nx",
    "a length beyond all bounds": b"HTTP/1.1 500 No\r\nContent-Length: 99999999999999999999\r\n\r\nx",
    "no UTF-8": b"HTTP/1.1 500 \xff\r\nX: \xff\r\n\r\n\xff\xfe",
}


@pytest.mark.parametrize("model", [None, MODEL], ids=["health", "completion"])
@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_not_ready_and_never_raises(answer: bytes, model: str | None) -> None:
    result = asked(answer, model)
    assert not result.ready
    assert result.detail
    assert result.detail.isprintable()
    assert len(result.detail) <= 200


@pytest.mark.parametrize("host", ["a..b", "127.0.0.1:80"], ids=["no name", "with a port"])
def test_a_host_that_is_none_is_not_ready_and_never_raises(host: str) -> None:
    result = probe(Target(host, 20600))
    assert not result.ready
    assert result.detail


@pytest.mark.parametrize("model", [None, MODEL], ids=["health", "completion"])
def test_a_connection_that_meets_itself_is_refused_and_leaves_the_port_free(
    model: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.create_connection

    def from_the_same_port(to: Any, timeout: float, source_address: Any = None) -> socket.socket:
        return connect(to, timeout, to)

    monkeypatch.setattr(socket, "create_connection", from_the_same_port)
    port = unused_port()
    result = probe(Target(HOST, port, model))
    assert not result.ready
    assert "met itself" in result.detail
    socket.create_server((HOST, port)).close()


# Whom it asks.


@pytest.mark.parametrize(
    ("told", "listens", "asked_for"),
    [("::1", "::1", "[::1]"), ("::", "::1", "[::1]"), ("0.0.0.0", HOST, HOST), ("localhost", HOST, "localhost")],
    ids=["IPv6", "all of IPv6", "all of IPv4", "localhost"],
)
def test_a_server_is_found_on_the_host_that_it_was_told(told: str, listens: str, asked_for: str) -> None:
    if told == "localhost" and socket.getaddrinfo("localhost", 1)[0][4][0] != HOST:
        listens = "::1"
    with serving(http(200), listens) as server:
        assert probe(Target(told, server.port)).ready
    assert f"Host: {asked_for}:{server.port}" in server.head


def test_no_proxy_of_the_users_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{HOST}:{unused_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert asked(http(200)).ready


# Against a process that behaves as mlx_lm server does.


@contextlib.contextmanager
def fake(*flags: str) -> Iterator[int]:
    """A fake server as a process of its own; its port, once it listens."""
    command = [sys.executable, "-I", "-S", FAKE_SERVER, "--port", "0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield next(int(found[1]) for line in process.stderr if (found := re.search(r" on port (\d+)", line)))
        finally:
            process.kill()


def test_a_server_that_works_is_ready() -> None:
    with fake() as port:
        assert probe(Target(HOST, port, MODEL)).ready
        assert probe(Target(HOST, port)).ready


def test_a_server_that_still_loads_is_not_ready_though_its_health_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "COMPLETION_TIMEOUT", 0.1)
    with fake("--load-seconds", "60") as port:
        assert probe(Target(HOST, port)).ready
        assert probe(Target(HOST, port, MODEL)) == ProbeResult(ready=False, detail="timed out")


def test_a_zombie_is_not_ready() -> None:
    with fake("--zombie-after", "0") as port:
        result = probe(Target(HOST, port, MODEL))
    assert not result.ready
    assert result.detail == 'HTTP 404 {"error": "generation thread died"}'


# Whose answer it is.


@contextlib.contextmanager
def bystander() -> Iterator[int]:
    """The id of a process that listens nowhere."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        yield process.pid


@pytest.mark.parametrize(("model", "answer"), [(None, http(200)), (MODEL, COMPLETION)], ids=["health", "completion"])
def test_only_the_model_itself_can_be_ready_on_its_port(model: str | None, answer: bytes) -> None:
    with serving(answer) as server:
        assert probe(Target(HOST, server.port, model, pid=os.getpid())).ready
    with serving(answer) as server, bystander() as pid:
        detail = f"port {server.port} is answered by another program"
        assert probe(Target(HOST, server.port, model, pid=pid)) == ProbeResult(ready=False, detail=detail)


def test_a_child_of_the_model_may_answer_for_it() -> None:
    with fake() as port:
        assert probe(Target(HOST, port, pid=os.getpid())).ready


def test_one_who_listens_elsewhere_does_not_count() -> None:
    with socket.create_server((HOST, 0)) as elsewhere:
        assert listens(os.getpid(), elsewhere.getsockname()[1])
        assert not listens(os.getpid(), unused_port())


def test_a_connection_on_the_port_is_no_listener() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((HOST, port)), listener.accept()[0]:
            listener.close()
            assert not listens(os.getpid(), port)


def test_a_model_that_is_gone_answers_nothing() -> None:
    with bystander() as pid:
        pass
    with serving(http(200)) as server:
        assert not probe(Target(HOST, server.port, pid=pid)).ready


def test_where_the_system_does_not_let_us_look_an_answer_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: psutil.Process, kind: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "net_connections", refuse)
    assert listens(os.getpid(), 1)


def test_what_an_unready_model_said_is_told_whoever_it_was() -> None:
    with serving(http(503, "loading")) as server, bystander() as pid:
        assert probe(Target(HOST, server.port, pid=pid)).detail == "HTTP 503 loading"


# In the background.


def test_a_probe_in_a_thread_answers_once_and_does_not_keep_the_program_from_ending() -> None:
    answers: queue.SimpleQueue[tuple[ProbeResult, threading.Thread]] = queue.SimpleQueue()
    with serving(http(200)) as server:
        probe_in_thread(Target(HOST, server.port), lambda result: answers.put((result, threading.current_thread())))
        result, thread = answers.get(timeout=PATIENCE)
    assert result.ready
    assert thread is not threading.current_thread()
    assert thread.daemon
    thread.join(PATIENCE)
    assert answers.empty()


def test_a_probe_in_a_thread_does_not_wait_for_the_answer() -> None:
    answers: queue.SimpleQueue[ProbeResult] = queue.SimpleQueue()
    with serving(b"", keep_open=True) as server:
        probe_in_thread(Target(HOST, server.port), answers.put)
        assert answers.empty()
        server.release.set()
        assert not answers.get(timeout=PATIENCE).ready


@pytest.mark.parametrize("host", [HOST, "a..b"], ids=["nobody listens", "no name at all"])
def test_a_probe_in_a_thread_answers_whatever_happens(host: str) -> None:
    answers: queue.SimpleQueue[ProbeResult] = queue.SimpleQueue()
    probe_in_thread(Target(host, unused_port()), answers.put)
    assert not answers.get(timeout=PATIENCE).ready
