"""The webhook sink against a real HTTP server that answers as it is told."""

from __future__ import annotations

import inspect
import json
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

import mlxhub_webhook_sink
import pytest
from mlxhub_webhook_sink import WebhookError, WebhookSink

from mlxhub_core import HubEvent, HubManager, HubModelContext, Reason, Secret
from mlxhub_core.testing import wait_until
from mlxhub_core.testing.day import FakeHub

CTX = HubModelContext("qwen", "small", "logs/qwen.log")
EVENT = HubEvent(seq=7, id="an id", time=1.5, reason=Reason.CRASH, detail="a sentence")
TOKEN = "s3cret"

Answer = Callable[[BaseHTTPRequestHandler], object]


@dataclass
class Request:
    path: str
    headers: Message
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


class Server(ThreadingTCPServer):
    """Gives the answers it was told, one after the other, and 200 after that; keeps the requests."""

    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Handler)
        self.root = f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}"
        self.url = f"{self.root}/hooks?team=a%20b"
        self.answers: list[Answer] = []
        self.requests: list[Request] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.005,), daemon=True)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.shutdown()
        self.thread.join()
        self.server_close()

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [request.document for request in self.requests]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = self.server.answers.pop(0) if self.server.answers else status(200)
        self.server.requests.append(Request(self.path, self.headers, body))
        answer(self)

    def do_GET(self) -> None:
        """What a client sends that follows a redirect."""
        self.server.requests.append(Request(self.path, self.headers, b""))
        status(200)(self)

    def log_message(self, *_: object) -> None:
        pass


def status(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def close(handler: BaseHTTPRequestHandler) -> None:
    """Hang up without a word."""


def silence(handler: BaseHTTPRequestHandler) -> None:
    assert isinstance(handler.server, Server)
    handler.server.over.wait()


def echo_of_the_token(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(f"no HTTP, but {handler.headers['Authorization']}\r\n\r\n".encode())


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the sink made, in seconds. None of them takes any time here."""
    pauses: list[float] = []
    monkeypatch.setattr(mlxhub_webhook_sink, "sleep", pauses.append)
    return pauses


def fail(sink: WebhookSink) -> None:
    sink.model_failed(CTX, exit_code=3, event=EVENT)


def test_every_event_is_posted_once_and_in_order(server: Server) -> None:
    sink = WebhookSink(server.url)
    sent = []
    for hook, arguments in FakeHub().day():
        getattr(sink, hook)(**arguments)
        sent.append((hook, arguments["event"].id))
    assert [(document["hook"], document["id"]) for document in server.documents] == sent


def test_a_document_says_which_model_what_happened_and_the_arguments_of_the_hook(server: Server) -> None:
    fail(WebhookSink(server.url))
    (request,) = server.requests
    assert request.headers["Content-Type"] == "application/json"
    assert request.document == {
        "hook": "model_failed",
        "model": "qwen",
        "group": "small",
        "log_path": "logs/qwen.log",
        "time": 1.5,
        "seq": 7,
        "id": "an id",
        "reason": "crash",
        "detail": "a sentence",
        "exit_code": 3,
    }


def test_an_event_about_no_model_says_so(server: Server) -> None:
    WebhookSink(server.url).hub_started(hub=FakeHub(), event=EVENT)
    assert server.documents[0]["model"] is None
    assert "hub" not in server.documents[0]


def test_why_a_model_is_unhealthy_is_a_detail_and_the_reason_is_one_of_the_hubs_words(server: Server) -> None:
    event = HubEvent(seq=1, id="1", time=0.0, reason=Reason.UNHEALTHY)
    WebhookSink(server.url).model_unhealthy(CTX, reason="no answer within 5 s", event=event)
    assert (server.documents[0]["reason"], server.documents[0]["detail"]) == ("unhealthy", "no answer within 5 s")


@pytest.mark.parametrize("name", ["日本 🦙", 'a"\n\\', "\udc80", "e\u0301\u202e", "\0"])
def test_a_name_arrives_whatever_it_is_made_of(server: Server, name: str) -> None:
    WebhookSink(server.url).model_gave_up(HubModelContext(name, name, name), failures=5, event=EVENT)
    (document,) = server.documents
    assert [document["model"], document["group"], document["log_path"]] == [name] * 3


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_path_and_query_are_asked_for_as_they_are_written(host: str) -> None:
    with Server(host) as server:
        fail(WebhookSink(server.url))
    assert [request.path for request in server.requests] == ["/hooks?team=a%20b"]


def test_a_url_without_a_path_asks_for_the_root(server: Server) -> None:
    fail(WebhookSink(server.root))
    fail(WebhookSink(f"{server.root}?team=b"))
    assert [request.path for request in server.requests] == ["/", "/?team=b"]


def test_the_token_goes_into_the_authorization_header(server: Server) -> None:
    fail(WebhookSink(server.url, token=Secret(TOKEN)))
    fail(WebhookSink(server.url))
    assert [request.headers["Authorization"] for request in server.requests] == [f"Bearer {TOKEN}", None]


def test_a_proxy_of_the_environment_gets_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    fail(WebhookSink(server.url))
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [status(408), status(429), status(500), status(503), close, silence])
def test_what_may_pass_is_tried_again_with_the_same_document(server: Server, answer: Answer) -> None:
    server.answers = [answer, answer]
    fail(WebhookSink(server.url, timeout=0.2, retries=10))
    assert server.answers == []
    assert len({request.body for request in server.requests}) == 1


@pytest.mark.parametrize("code", [400, 401, 404, 410])
def test_a_refusal_is_not_tried_again(server: Server, code: int) -> None:
    server.answers = [status(code)]
    with pytest.raises(WebhookError, match=rf"^127\.0\.0\.1:\d+ answered {code}; check url and token"):
        fail(WebhookSink(server.url))
    assert len(server.requests) == 1


@pytest.mark.parametrize("retries", [0, 2])
def test_an_event_that_cannot_be_delivered_raises_when_the_retries_are_used_up(server: Server, retries: int) -> None:
    server.answers = [status(503)] * 9
    with pytest.raises(WebhookError, match="answered 503; look at its log"):
        fail(WebhookSink(server.url, retries=retries))
    assert len(server.requests) == retries + 1


def test_a_server_that_does_not_run_is_named_with_the_systems_reason() -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        with pytest.raises(WebhookError, match=rf"^127\.0\.0\.1:{port} cannot be reached: Connection refused"):
            fail(WebhookSink(f"http://127.0.0.1:{port}"))


def test_each_pause_is_twice_as_long_as_the_one_before_but_not_over_thirty_seconds(
    server: Server, slept: list[float]
) -> None:
    server.answers = [status(500)] * 8
    fail(WebhookSink(server.url, retries=10))
    assert slept == [0.5, 1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(
    ("retry_after", "pause"),
    [("1", 1), ("7", 7), ("3600", 30), ("9" * 5000, 30)],
    ids=["1", "7", "an hour", "absurd"],
)
def test_the_seconds_that_a_server_asks_for_are_waited_up_to_thirty(
    server: Server, slept: list[float], retry_after: str, pause: float
) -> None:
    server.answers = [status(429, Retry_After=retry_after)]
    fail(WebhookSink(server.url))
    assert slept == [pause]


def test_no_pause_is_shorter_because_a_server_is_impatient(server: Server, slept: list[float]) -> None:
    server.answers = [status(503, Retry_After="0"), status(500), status(503, Retry_After="1")]
    fail(WebhookSink(server.url))
    assert slept == [0.5, 1, 2]


@pytest.mark.parametrize("retry_after", ["Fri, 31 Dec 1999 23:59:59 GMT", "-1", "nan", "1e9", "²", ""])
def test_what_is_no_number_of_seconds_asks_for_nothing(server: Server, slept: list[float], retry_after: str) -> None:
    server.answers = [status(503, Retry_After=retry_after)]
    fail(WebhookSink(server.url))
    assert slept == [0.5]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_error_and_takes_the_token_nowhere(server: Server, code: int) -> None:
    with Server() as elsewhere:
        server.answers = [status(code, Location=elsewhere.url)]
        with pytest.raises(WebhookError, match=rf"answered {code}; .*\(redirects are not followed\)$"):
            fail(WebhookSink(server.url, token=Secret(TOKEN)))
    assert (len(server.requests), elsewhere.requests) == (1, [])


def test_https_says_nothing_to_a_server_that_does_not_speak_it(server: Server) -> None:
    with pytest.raises(WebhookError, match=r"cannot be reached: .*SSL"):
        fail(WebhookSink(server.url.replace("http", "https"), token=Secret(TOKEN), retries=1))
    assert server.requests == []


@pytest.mark.parametrize("answer", [echo_of_the_token, status(404), status(500), status(302), close])
def test_no_error_shows_the_token_or_the_path_which_may_be_a_secret_too(server: Server, answer: Answer) -> None:
    server.answers = [answer] * 2
    with pytest.raises(WebhookError) as caught:
        fail(WebhookSink(server.url, token=Secret(TOKEN), retries=1))
    shown = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in shown
    assert "team=" not in shown


def test_the_repr_of_a_sink_shows_nothing() -> None:
    shown = repr(WebhookSink("http://h/path", token=Secret(TOKEN)))
    assert TOKEN not in shown
    assert "path" not in shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/SECRET", "must begin with http:// or https://"),
        ("host/SECRET", "must begin with http:// or https://"),
        ("http:///SECRET", "and a host"),
        ("http://:80/SECRET", "and a host"),
        ("http://[SECRET", "and a host"),
        ("http://host:SECRET", "and a host"),
        ("http://host:65536/SECRET", "and a host"),
        ("http://host..SECRET", "and a host"),
        ("https://user:SECRET@host", "must not hold a user or password"),
        ("https://SECRET@host", "must not hold a user or password"),
        ("http://user:SECRET/@host", "and a host"),
        ("http://host/SECRET path", "must be ASCII without blanks"),
        ("http://host/SECRET\r\nX: y", "must be ASCII without blanks"),
        ("http://hôst/SECRET", "must be ASCII without blanks"),
        ("", "must be ASCII without blanks"),
    ],
)
def test_a_url_that_cannot_be_is_refused_without_being_repeated(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^url .*{message}") as caught:
        WebhookSink(url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "two words", "a\r\nX-Admin: yes", "ümlaut"])
def test_a_token_that_no_header_can_hold_is_refused_without_being_repeated(token: str) -> None:
    with pytest.raises(ValueError, match=r"^token must be ASCII without blanks and line breaks$"):
        WebhookSink("http://host", token=Secret(token))


def test_the_readme_has_every_option_with_its_default_and_every_hook() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    for option in inspect.signature(WebhookSink).parameters.values():
        default = {option.empty: "required", None: "none"}.get(option.default, f"`{option.default}`")
        assert f"| `{option.name}` | {default} |" in readme
    _, _, table = readme.partition("| `hook` |")
    assert {hook for hook, _ in FakeHub().day() if f"`{hook}`" not in table} == set()


def test_in_a_real_hub_the_end_of_a_model_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text(
        "log_path: logs\nsinks: {loguru: off}\n"
        "models: [{name: qwen, default: true, restart: never, command: [sh, -c, 'exit 3']}]\n"
    )
    with HubManager(tmp_path / "hub.yaml", observability_sink=WebhookSink(server.url)) as hub:
        hub.reload()
        wait_until(lambda: any(document["hook"] == "model_failed" for document in server.documents))
    hooks = [document["hook"] for document in server.documents]
    assert hooks == ["hub_started", "model_started", "model_ready", "model_failed", "hub_stopping"]
    assert server.documents[3]["exit_code"] == 3
