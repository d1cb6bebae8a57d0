"""Whether a model can answer: asked of real sockets that answer, misbehave, or are not there."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client as http_client
import json
import os
import queue
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxhub_core import probes
from mlxhub_core.net import listens
from mlxhub_core.probes import MAX_ANSWER, MAX_LOG, TRUST, ProbeResult, Question, ServerProbe, Target
from mlxhub_core.settings import HealthSettings
from mlxhub_core.testing import FAKE_SERVER, wait_until
from mlxhub_core.testing.fake_server import ZOMBIE_CAUSE
from mlxhub_core.vitals import children_of

HOST = "127.0.0.1"
PATIENCE = 5.0
"""Seconds to wait for what must happen."""
PAUSE = 0.01
"""Seconds between the drops of a server that drips."""
MODEL = "mlx-community/Qwen3-4B-4bit"
READY, ALIVE = Question.READY, Question.ALIVE
LONGEST = 300
"""Characters of a detail."""
SHORT = HealthSettings(timeout=0.1)


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
def serving(*answers: bytes, host: str = HOST, keep_open: bool = False, drip: bytes = b"") -> Iterator[Server]:
    """A server for so many connections, one after the other.

    With `keep_open` it does not close them before the test is over; with `drip` it sends that, too, again and again.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        listener.settimeout(PATIENCE)
        server = Server(listener.getsockname()[1])
        thread = threading.Thread(target=_serve, args=(listener, server, answers, keep_open, drip))
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


def _serve(listener: socket.socket, server: Server, answers: tuple[bytes, ...], keep_open: bool, drip: bytes) -> None:
    for answer in answers:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            connection.settimeout(PATIENCE)
            with connection:
                server.questions.append(_question(connection))
                connection.sendall(answer)
                # Who is hung up on with its hands full may not hear of it.
                connection.settimeout(0.3 if drip else PATIENCE)
                while drip and not server.release.wait(PAUSE):
                    connection.sendall(drip)
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


def look(
    port: int,
    model: str | None = None,
    question: Question = READY,
    health: HealthSettings | None = None,
    host: str = HOST,
    **target: Any,
) -> ProbeResult:
    """What a new probe learns."""
    return ServerProbe(Target(host, port, model, **target)).look(question, health or HealthSettings())


def asked(answer: bytes, model: str | None = None, question: Question = READY, **target: Any) -> ProbeResult:
    """What a new probe learns from such an answer."""
    with serving(answer) as server:
        return look(server.port, model, question, **target)


@contextlib.contextmanager
def nobody() -> Iterator[int]:
    """A port on which nobody listens, and nobody will."""
    with socket.socket() as holder:
        holder.bind((HOST, 0))
        yield holder.getsockname()[1]


def low_port() -> int:
    """A free port below every ephemeral range: no connection gets it by chance."""
    for port in range(20_000, 28_000):
        with contextlib.suppress(OSError):
            socket.create_server((HOST, port)).close()
            return port
    raise AssertionError("no free port")


COMPLETION = http(200, '{"object": "text_completion", "choices": [{"text": "!", "index": 0}]}')


# Health: of a server that is not mlx_lm's.


@pytest.mark.parametrize(
    "body", [b"", b'{"status": "ok"}', b"not ready", b"\xff\xfe"], ids=["nothing", "JSON", "any words", "no UTF-8"]
)
def test_200_on_health_is_ready_whatever_it_says(body: bytes) -> None:
    assert asked(http(200, body)) == ProbeResult(ok=True, detail="")


@pytest.mark.parametrize("question", Question, ids=lambda question: question.value)
@pytest.mark.parametrize("status", [201, 204, 301, 302, 400, 401, 404, 500, 503])
def test_anything_else_on_health_is_not_and_the_detail_tells(status: int, question: Question) -> None:
    result = asked(http(status, '{"status": "loading model"}'), question=question)
    assert not result.ok
    assert not result.final, "who knows what another server means by it"
    assert result.detail.startswith(f"HTTP {status}")
    assert ("loading model" in result.detail) == (status != 204), "204 has no body"


@pytest.mark.parametrize("question", Question, ids=lambda question: question.value)
def test_the_path_of_health_is_the_one_from_hub_yaml(question: Question) -> None:
    with serving(http(200)) as server:
        look(server.port, question=question, health=HealthSettings(path="/v1/models?ready=1"))
    assert server.head[0] == "GET /v1/models?ready=1 HTTP/1.1"
    assert f"Host: {HOST}:{server.port}" in server.head


def test_a_health_answer_whose_body_never_comes_is_an_answer() -> None:
    with serving(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", keep_open=True) as server:
        assert look(server.port, health=SHORT).ok


def test_an_answer_without_an_end_is_not_read_to_it() -> None:
    with serving(b"HTTP/1.1 500 No\r\n\r\n" + b"x" * MAX_ANSWER, keep_open=True) as server:
        assert look(server.port).detail.startswith("HTTP 500 xxx")


def test_a_detail_is_short_and_on_one_line_and_does_nothing_to_a_terminal() -> None:
    result = asked(http(500, "<html>\r\n  <b>Oh\tno</b>\n\x1b[2J\0" + "x" * 10_000))
    assert result.detail.startswith("HTTP 500 <html> <b>Oh no</b> [2J xxx")
    assert len(result.detail) <= LONGEST
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
        assert look(server.port, model) == ProbeResult(ok=True, detail="")
    assert server.head[0] == "POST /v1/completions HTTP/1.1"
    assert "Content-Type: application/json" in server.head
    assert server.body["model"] == model
    assert server.body["max_tokens"] == 1


def test_mlx_lm_is_never_asked_with_a_prompt_that_kills_it() -> None:
    with serving(COMPLETION) as server:
        look(server.port, MODEL)
    prompt = server.body["prompt"]
    assert isinstance(prompt, str), "a list of prompts kills it"
    assert prompt.strip(), "and so does an empty one"
    assert set(server.body) == {"model", "prompt", "max_tokens"}, "and some of the other keys"


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (http(404, '{"error": "Repository Not Found"}'), ["HTTP 404", "Repository Not Found"]),
        (http(503, '{"status": "unavailable"}'), ["HTTP 503", "unavailable"]),
        (http(200, '{"status": "ok"}'), ["HTTP 200", "ok"]),
        (http(200), ["HTTP 200"]),
        (http(500, '{"choices": []}'), ["HTTP 500"]),
    ],
    ids=["another 404", "unavailable", "no completion", "empty", "error with choices"],
)
def test_anything_but_a_completion_is_not_ready(answer: bytes, parts: list[str]) -> None:
    result = asked(answer, MODEL)
    assert not result.ok
    assert not result.final
    assert all(part in result.detail for part in parts)


def test_a_completion_that_breaks_off_is_none() -> None:
    assert not asked(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"id": "1", "cho', MODEL).ok


def test_the_health_of_mlx_lm_is_not_asked_before_it_is_ready_because_it_lies() -> None:
    with serving(http(404, "{}")) as server:
        assert not look(server.port, MODEL, health=HealthSettings(path="/health")).ok
    assert server.head[0].startswith("POST /v1/completions ")


def test_afterwards_the_health_of_mlx_lm_is_asked_and_nothing_that_could_make_it_load() -> None:
    with serving(http(200, '{"status": "ok"}')) as server:
        assert look(server.port, MODEL, ALIVE, HealthSettings(path="/elsewhere")) == ProbeResult(ok=True)
    assert server.head[0] == "GET /health HTTP/1.1"


# Servers that are not there, or are no servers.


EACH = pytest.mark.parametrize(
    ("model", "question"),
    [(None, READY), (None, ALIVE), (MODEL, READY), (MODEL, ALIVE)],
    ids=["command-ready", "command-alive", "mlx_lm-ready", "mlx_lm-alive"],
)
"""Everything that is asked of anybody."""


@EACH
def test_nobody_does_not_answer(model: str | None, question: Question) -> None:
    with nobody() as port:
        assert look(port, model, question) == ProbeResult(ok=False, detail="Connection refused")


@EACH
def test_one_who_accepts_but_does_not_answer_is_given_the_time_that_hub_yaml_says(
    model: str | None, question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the question for a token has a time of its own: it is answered after the load.
    monkeypatch.setattr(probes, "COMPLETION_TIMEOUT", 0.3)
    seconds = 0.3 if (model, question) == (MODEL, READY) else 0.1
    with serving(b"", keep_open=True) as server:
        begun = time.monotonic()
        result = look(server.port, model, question, SHORT)
        assert seconds <= time.monotonic() - begun < seconds + 1
        assert result == ProbeResult(ok=False, detail=f"no answer within {seconds:g} s", silent=True)


def test_a_change_of_hub_yaml_holds_from_the_next_question_on() -> None:
    with serving(http(404), http(200)) as server:
        probe = ServerProbe(Target(HOST, server.port))
        assert not probe.look(READY, HealthSettings(path="/old")).ok
        assert probe.look(READY, HealthSettings(path="/new")).ok
    assert [question.split()[1] for question in server.questions] == [b"/old", b"/new"]


def test_a_model_that_loads_for_long_has_the_time() -> None:
    assert probes.COMPLETION_TIMEOUT >= 60


# Those who answer too slowly: each byte in time, but never the whole.


DRIPS = {
    "a status line": (b"HTTP/1.1 2", b"0"),
    "a reason": (b"HTTP/1.1 200 O", b"K"),
    "one header": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "nothing but continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@EACH
@pytest.mark.parametrize(("begin", "drip"), DRIPS.values(), ids=DRIPS)
def test_an_answer_that_only_drips_in_is_none(
    begin: bytes, drip: bytes, model: str | None, question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "COMPLETION_TIMEOUT", 0.1)
    with serving(begin, drip=drip) as server:
        begun = time.monotonic()
        result = look(server.port, model, question, SHORT)
        assert time.monotonic() - begun < 2
        assert result == ProbeResult(ok=False, detail="no answer within 0.1 s", silent=True)


@pytest.mark.parametrize("length", [b"", b"Content-Length: 5000\r\n"], ids=["no length", "a length"])
def test_a_completion_that_only_drips_in_is_none(length: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "COMPLETION_TIMEOUT", 0.1)
    with serving(b"HTTP/1.0 200 OK\r\n" + length + b'\r\n{"choices": [', drip=b" ") as server:
        assert look(server.port, MODEL) == ProbeResult(ok=False, detail="no answer within 0.1 s", silent=True)


def test_of_a_no_whose_explanation_only_drips_in_the_no_is_heard() -> None:
    with serving(b"HTTP/1.0 503 No\r\n\r\nloading ", drip=b"x") as server:
        assert look(server.port, health=SHORT).detail.startswith("HTTP 503")
    with serving(b"HTTP/1.0 503 No\r\n\r\nloading ", drip=b"x") as server:
        assert look(server.port, MODEL, ALIVE, health=SHORT).final


@EACH
def test_a_flood_comes_to_an_end(model: str | None, question: Question, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "COMPLETION_TIMEOUT", 0.1)
    monkeypatch.setattr(sys.modules[__name__], "PAUSE", 0)
    with serving(b"", drip=b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000) as server:
        begun = time.monotonic()
        assert not look(server.port, model, question, SHORT).ok
        assert time.monotonic() - begun < 2


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


@EACH
@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_no_answer_and_never_raises(answer: bytes, model: str | None, question: Question) -> None:
    result = asked(answer, model, question)
    assert (result.ok, result.final, result.silent) == (False, False, False)
    assert result.detail
    assert result.detail.isprintable()
    assert len(result.detail) <= LONGEST


@pytest.mark.parametrize("host", ["a..b", "127.0.0.1:80"], ids=["no name", "with a port"])
def test_a_host_that_is_none_does_not_answer_and_never_raises(host: str) -> None:
    result = look(20600, host=host)
    assert not result.ok
    assert result.detail


@EACH
def test_a_connection_that_meets_itself_is_refused_and_leaves_the_port_free(
    model: str | None, question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.create_connection

    def from_the_same_port(to: Any, timeout: float, source_address: Any = None) -> socket.socket:
        return connect(to, timeout, to)

    monkeypatch.setattr(socket, "create_connection", from_the_same_port)
    port = low_port()
    result = look(port, model, question)
    assert not result.ok
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
    with serving(http(200), host=listens) as server:
        assert look(server.port, host=told).ok
    assert f"Host: {asked_for}:{server.port}" in server.head


def test_no_proxy_of_the_users_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    with nobody() as port:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{HOST}:{port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert asked(http(200)).ok


# Against a process that behaves as mlx_lm server does.


@dataclass
class Fake:
    """A fake server as a process of its own, with its output in a log."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def probe(self, model: str | None = MODEL) -> ServerProbe:
        return ServerProbe(Target(HOST, self.port, model, self.process.pid, self.log))

    def post(self, prompt: str) -> int:
        """Somebody else's question; the status of the answer."""
        connection = http_client.HTTPConnection(HOST, self.port, timeout=PATIENCE)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": prompt}))
        with contextlib.closing(connection), connection.getresponse() as response:
            return response.status


Start = Callable[..., Fake]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Start]:
    """Start one; it has begun to listen."""
    with contextlib.ExitStack() as running:

        def start(*flags: str) -> Fake:
            log = tmp_path / "fake.log"
            command = [sys.executable, "-I", "-S", FAKE_SERVER, "--port", "0", *flags]
            with log.open("wb") as output:
                process = running.enter_context(subprocess.Popen(command, stdout=output, stderr=output))
            running.callback(process.kill)
            wait_until(lambda: " on port " in log.read_text())
            return Fake(process, int(re.findall(r" on port (\d+)", log.read_text())[0]), log)

        yield start


def test_a_server_that_works_can_answer(fake: Start) -> None:
    server = fake()
    for question in Question:
        assert server.probe().look(question, HealthSettings()).ok
        assert server.probe(model=None).look(question, HealthSettings()).ok


def test_a_server_that_still_loads_is_not_ready_though_its_health_says_so(
    fake: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "COMPLETION_TIMEOUT", 0.1)
    server = fake("--load-seconds", "60")
    assert server.probe(model=None).look(READY, HealthSettings()).ok
    result = server.probe().look(READY, HealthSettings())
    assert (result.ok, result.final, result.detail) == (False, False, "no answer within 0.1 s")


def test_silence_is_told_from_a_no_and_from_a_closed_door() -> None:
    with nobody() as port:
        assert not look(port, health=SHORT).silent
    assert not asked(http(503)).silent
    with serving(b"HTTP/1.0 503 No\r\n\r\nloading ", drip=b"x") as server:
        assert not look(server.port, health=SHORT).silent, "it said enough"
    with serving(b"", keep_open=True) as server:
        assert look(server.port, health=SHORT).silent


def test_one_that_is_too_busy_even_to_accept_is_silent() -> None:
    with contextlib.ExitStack() as waiting, socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(8):  # More than wait at its door.
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
        result = look(address[1], health=SHORT)
    assert (result.ok, result.silent, result.detail) == (False, True, "no answer within 0.1 s")


def test_a_deaf_one_is_not_given_up(fake: Start) -> None:
    server = fake("--deaf-after", "0")
    result = server.probe().look(ALIVE, SHORT)
    assert (result.ok, result.final, result.detail) == (False, False, "no answer within 0.1 s")


# What is for good.


@pytest.mark.parametrize("question", Question, ids=lambda question: question.value)
def test_a_zombie_is_dead_for_good_and_its_own_words_say_why(fake: Start, question: Question) -> None:
    result = fake("--zombie-after", "0").probe().look(question, HealthSettings())
    assert (result.ok, result.final, result.detail) == (False, True, ZOMBIE_CAUSE)


def test_who_dies_of_a_question_right_after_an_answer_is_dead_at_once(fake: Start) -> None:
    server = fake("--die-on-prompt", "")
    probe = server.probe()
    assert probe.look(READY, HealthSettings()).ok
    assert server.post("hi") == 200
    assert server.post("") == 404
    result = probe.look(ALIVE, HealthSettings())
    assert (result.ok, result.final) == (False, True), "though its log shows an answer since the last look"


DEATHS = {
    "a cause": ("generation thread died: no such tensor\nTraceback\n", "generation thread died: no such tensor"),
    "no end yet": ("generation thread died: no such tensor", "generation thread died: no such tensor"),
    "behind other words": ("09:00 - ERROR - server generation thread died: a\n", "generation thread died: a"),
    "the last of two": ("generation thread died: a\ngeneration thread died: b\n", "generation thread died: b"),
    "an error that says nothing": ("generation thread died: \nTraceback\n", "generation thread died"),
    "a terminal's worst": ("generation thread died: \x1b[2Ja\tb\0\n", "generation thread died: [2Ja b"),
    "no word of it": ("all is well\n", "generation thread died"),
    "nothing": ("", "generation thread died"),
    "no UTF-8": ("generation thread died: \udcff\n", "generation thread died: \ufffd"),
    "a huge one": ("generation thread died: " + "x" * 9999, "generation thread died: " + "x" * (LONGEST - 24)),
}
DEAD = http(404, '{"error": "generation thread died"}')
UNAVAILABLE = http(503, '{"status": "unavailable"}')


@pytest.mark.parametrize(("question", "answer"), [(READY, DEAD), (ALIVE, UNAVAILABLE)], ids=["ready", "alive"])
@pytest.mark.parametrize(("said", "detail"), DEATHS.values(), ids=DEATHS)
def test_the_cause_of_a_death_is_the_one_in_its_log(
    tmp_path: Path, said: str, detail: str, question: Question, answer: bytes
) -> None:
    log = tmp_path / "log"
    log.write_bytes(said.encode(errors="surrogateescape"))
    assert asked(answer, MODEL, question, log=log) == ProbeResult(ok=False, detail=detail, final=True)


@pytest.mark.parametrize("make", [None, "directory"], ids=["none", "a directory"])
def test_a_death_without_a_log_is_one_too(tmp_path: Path, make: str | None) -> None:
    for log in (None, tmp_path if make else tmp_path / "gone"):
        assert asked(UNAVAILABLE, MODEL, ALIVE, log=log) == ProbeResult(False, "generation thread died", final=True)


def test_the_death_of_an_earlier_process_is_not_the_cause(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("generation thread died: old\n")
    begin = log.stat().st_size
    assert asked(DEAD, MODEL, log=log, log_begin=begin).detail == "generation thread died"
    with log.open("a") as output:
        output.write("generation thread died: new\n")
    assert asked(DEAD, MODEL, log=log, log_begin=begin).detail == "generation thread died: new"


def test_the_cause_is_found_though_the_log_was_truncated(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("generation thread died: new\n")
    assert asked(DEAD, MODEL, log=log, log_begin=1_000_000).detail == "generation thread died: new"


def test_a_cause_that_was_logged_too_long_ago_is_not_looked_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    cause = "generation thread died: old\n"
    log.write_text(cause + "x" * (MAX_LOG - len(cause)))
    assert asked(DEAD, MODEL, log=log).detail == "generation thread died: old"
    log.write_text(cause + "x" * MAX_LOG)
    assert asked(DEAD, MODEL, log=log).detail == "generation thread died"


# Whose answer it is.


@contextlib.contextmanager
def bystander() -> Iterator[int]:
    """The id of a process that listens nowhere."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        yield process.pid


@EACH
def test_only_the_model_itself_can_answer_on_its_port(model: str | None, question: Question) -> None:
    assert asked(COMPLETION, model, question, pid=os.getpid()).ok
    with bystander() as pid, serving(COMPLETION) as server:
        result = look(server.port, model, question, pid=pid)
        assert (result.ok, result.detail) == (False, f"port {server.port} is answered by another program")
        # mlx_lm will never have that port; who knows how others go about it.
        assert result.final == (model is not None)


@pytest.mark.parametrize("question", Question, ids=lambda question: question.value)
@pytest.mark.parametrize(
    "answer",
    [http(403), http(404, "Not Found"), DEAD, UNAVAILABLE, http(500)],
    ids=["forbidden", "not found", "a zombie", "unavailable", "an error"],
)
def test_a_stranger_on_the_port_of_mlx_lm_is_for_good_whatever_it_answers(answer: bytes, question: Question) -> None:
    # AirPlay on port 5000, say, or the last zombie: what it says is not said of the model.
    with bystander() as pid, serving(answer) as server:
        result = look(server.port, MODEL, question, pid=pid)
        detail = f"port {server.port} is answered by another program"
        assert (result.ok, result.final, result.detail) == (False, True, detail)


@pytest.mark.parametrize("question", Question, ids=lambda question: question.value)
def test_of_a_process_that_has_ended_nothing_is_final(question: Question) -> None:
    # Else its crash would be told as somebody else's answer.
    with bystander() as pid:
        pass
    result = asked(COMPLETION, MODEL, question, pid=pid)
    assert (result.ok, result.final, result.vitals) == (False, False, None)


def test_a_child_of_the_model_may_answer_for_it(fake: Start) -> None:
    port = fake().port
    assert look(port, pid=os.getpid()).ok
    assert look(port, MODEL, pid=os.getpid()).ok


def test_one_who_listens_elsewhere_does_not_count() -> None:
    with socket.create_server((HOST, 0)) as elsewhere, nobody() as port:
        assert listens(os.getpid(), elsewhere.getsockname()[1])
        assert not listens(os.getpid(), port)


def test_a_connection_on_the_port_is_no_listener() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((HOST, port)), listener.accept()[0]:
            listener.close()
            assert not listens(os.getpid(), port)


def test_where_the_system_does_not_let_us_look_an_answer_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: psutil.Process, kind: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "net_connections", refuse)
    assert listens(os.getpid(), 1)


def test_what_a_command_that_is_not_ready_said_is_told_whoever_it_was() -> None:
    # Perhaps something that belongs to it stands in between.
    with bystander() as pid:
        result = asked(http(503, "loading"), pid=pid)
    assert (result.detail, result.final) == ("HTTP 503 loading", False)


# What the log of mlx_lm says instead of an answer.


ANSWERED = b'127.0.0.1 - - [24/Nov/2026 09:00:00] "POST /v1/chat/completions HTTP/1.1" 200 -\n'


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "model.log"
    path.write_bytes(b"an earlier process\n" + ANSWERED)
    return path


@pytest.fixture
def unheard(log: Path) -> Iterator[ServerProbe]:
    """A probe of a port where nobody listens: whoever is asked there does not answer, so only the log can speak."""
    with nobody() as port:
        yield ServerProbe(Target(HOST, port, MODEL, log=log, log_begin=log.stat().st_size))


def is_alive(probe: ServerProbe) -> bool:
    return probe.look(ALIVE, HealthSettings()).ok


def write(log: Path, text: bytes) -> None:
    with log.open("ab") as output:
        output.write(text)


EVIDENCE = {
    "chat": (ANSWERED, True),
    "completion": (ANSWERED.replace(b"chat/", b""), True),
    "older HTTP": (ANSWERED.replace(b"1.1", b"1.0"), True),
    "among others": (b"INFO - x\n" + ANSWERED + b"INFO - y\n", True),
    "nothing": (b"", False),
    "other words": (b"INFO - Prompt processing progress: 1/2\n", False),
    "health": (ANSWERED.replace(b"POST /v1/chat/completions", b"GET /health"), False),
    "the list of models": (ANSWERED.replace(b"POST /v1/chat/completions", b"GET /v1/models"), False),
    "a zombie's": (ANSWERED.replace(b"200", b"404"), False),
    "a bad question": (ANSWERED.replace(b"200", b"400"), False),
    "nothing to tell": (ANSWERED.replace(b"POST", b"OPTIONS"), False),
    "a number that only begins so": (ANSWERED.replace(b"200", b"2000"), False),
    "quoted in a prompt": (ANSWERED.replace(b'"', b'\\"'), False),
    "broken off": (ANSWERED.partition(b" 200")[0], False),
    "over two lines": (ANSWERED.replace(b" HTTP", b"\n HTTP"), False),
    "a death after it": (ANSWERED + b"ERROR - mlx_lm.server generation thread died: x\n", False),
}


@pytest.mark.parametrize(("text", "alive"), EVIDENCE.values(), ids=EVIDENCE)
def test_only_an_answer_to_somebody_else_spares_the_question(
    unheard: ServerProbe, log: Path, text: bytes, alive: bool
) -> None:
    write(log, text)
    assert is_alive(unheard) == alive


def test_who_served_is_not_asked(log: Path) -> None:
    with serving(http(200), http(200)) as server:
        probe = ServerProbe(Target(HOST, server.port, MODEL, log=log, log_begin=log.stat().st_size))
        write(log, ANSWERED)
        assert is_alive(probe)
        assert server.questions == []
        assert is_alive(probe)
        assert len(server.questions) == 1


def test_an_answer_counts_once(unheard: ServerProbe, log: Path) -> None:
    for _ in range(2):
        write(log, ANSWERED)
        assert is_alive(unheard)
        assert not is_alive(unheard)


def test_what_an_earlier_process_served_does_not_count(unheard: ServerProbe) -> None:
    assert not is_alive(unheard)


def test_whether_it_is_ready_is_not_read_from_the_log(unheard: ServerProbe, log: Path) -> None:
    write(log, ANSWERED)
    assert not unheard.look(READY, HealthSettings()).ok


def test_its_own_question_whether_it_is_ready_does_not_count(fake: Start) -> None:
    server = fake()
    probe = server.probe()
    assert probe.look(READY, HealthSettings()).ok
    assert '"POST /v1/completions HTTP/1.1" 200' in server.log.read_text()
    server.process.kill()
    server.process.wait()
    assert probe.look(ALIVE, HealthSettings()).detail == "Connection refused"


def test_the_answers_of_a_server_that_went_deaf_since_count_only_once(fake: Start) -> None:
    server = fake("--deaf-after", "0.5")
    probe = server.probe()
    assert probe.look(READY, HealthSettings()).ok
    assert server.post("hi") == 200
    assert probe.look(ALIVE, SHORT).ok
    wait_until(lambda: not probe.look(ALIVE, SHORT).ok)


def test_a_log_that_was_truncated_meanwhile_is_all_new(unheard: ServerProbe, log: Path) -> None:
    write(log, b"x" * 1000)
    assert not is_alive(unheard)
    os.truncate(log, 0)
    write(log, ANSWERED)
    assert is_alive(unheard)
    assert not is_alive(unheard), "and then it is read on from there"
    write(log, ANSWERED)
    assert is_alive(unheard)


def test_a_log_that_was_truncated_and_says_nothing_since_is_no_evidence(unheard: ServerProbe, log: Path) -> None:
    write(log, ANSWERED)
    os.truncate(log, 0)
    assert not is_alive(unheard)


def test_a_log_that_was_replaced_meanwhile_counts_from_where_the_old_one_was_read(
    unheard: ServerProbe, log: Path, tmp_path: Path
) -> None:
    edited = tmp_path / "edited"
    edited.write_bytes(log.read_bytes())
    edited.replace(log)
    assert not is_alive(unheard), "the same words in another file are not new"
    write(log, ANSWERED)
    assert is_alive(unheard)


def test_a_log_that_is_gone_is_no_evidence_and_a_new_one_in_its_place_is_all_new(
    unheard: ServerProbe, log: Path
) -> None:
    log.unlink()
    assert not is_alive(unheard)
    log.write_bytes(ANSWERED)
    assert is_alive(unheard)


def test_an_answer_before_a_flood_is_no_evidence_any_more(unheard: ServerProbe, log: Path) -> None:
    write(log, ANSWERED + b"x" * (MAX_LOG - len(ANSWERED)))
    assert is_alive(unheard)
    write(log, ANSWERED + b"x" * MAX_LOG)
    assert not is_alive(unheard), "it is not looked for so far back"
    assert not is_alive(unheard), "nor later"


def test_a_command_is_asked_whatever_its_log_says(log: Path) -> None:
    with nobody() as port:
        probe = ServerProbe(Target(HOST, port, log=log))
        assert not is_alive(probe)


def test_a_model_without_a_log_is_asked() -> None:
    with nobody() as port:
        assert not is_alive(ServerProbe(Target(HOST, port, MODEL)))


# What it has used by then.


@EACH
@pytest.mark.parametrize("answer", [COMPLETION, http(500), b""], ids=["yes", "no", "nothing"])
def test_each_answer_says_what_the_process_has_used_by_then(
    answer: bytes, model: str | None, question: Question, log: Path
) -> None:
    vitals = asked(answer, model, question, pid=os.getpid(), log=log).vitals
    assert vitals is not None
    assert vitals.cpu_seconds > 0
    assert vitals.memory_bytes > 1 << 20
    assert vitals.log_bytes == log.stat().st_size
    assert vitals.available_bytes > 0


def test_so_does_a_look_that_needs_no_answer_and_one_that_gets_none(log: Path) -> None:
    with nobody() as port:
        probe = ServerProbe(Target(HOST, port, MODEL, os.getpid(), log))
        served, refused = probe.look(ALIVE, HealthSettings()), probe.look(ALIVE, HealthSettings())
    assert (served.ok, refused.ok) == (True, False)
    assert served.vitals is not None
    assert refused.vitals is not None


def test_of_no_process_in_particular_nothing_is_known() -> None:
    assert asked(http(200)).vitals is None


# In the background.


def test_a_question_is_answered_once_and_does_not_keep_the_program_from_ending() -> None:
    answers: queue.SimpleQueue[tuple[ProbeResult, threading.Thread]] = queue.SimpleQueue()
    with serving(http(200)) as server:
        probe = ServerProbe(Target(HOST, server.port))
        probe.ask(READY, HealthSettings(), lambda result: answers.put((result, threading.current_thread())))
        result, thread = answers.get(timeout=PATIENCE)
    assert result.ok
    assert thread is not threading.current_thread()
    assert thread.daemon
    thread.join(PATIENCE)
    assert answers.empty()


def test_neither_who_asks_nor_the_end_of_the_program_waits_for_the_answer() -> None:
    answers: queue.SimpleQueue[ProbeResult] = queue.SimpleQueue()
    with serving(b"", keep_open=True) as server:
        before = set(threading.enumerate())
        ServerProbe(Target(HOST, server.port)).ask(READY, HealthSettings(), answers.put)
        assert answers.empty()
        wait_until(lambda: server.questions != [])
        assert {thread.daemon for thread in set(threading.enumerate()) - before} == {True}
        server.release.set()
        assert not answers.get(timeout=PATIENCE).ok


@pytest.mark.parametrize("host", [HOST, "a..b"], ids=["nobody listens", "no name at all"])
def test_an_answer_comes_whatever_happens(host: str) -> None:
    answers: queue.SimpleQueue[ProbeResult] = queue.SimpleQueue()
    with nobody() as port:
        ServerProbe(Target(host, port)).ask(READY, HealthSettings(), answers.put)
        assert not answers.get(timeout=PATIENCE).ok


@EACH
def test_an_answer_comes_even_if_the_hub_has_no_file_descriptor_left(
    model: str | None, question: Question, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nobody() as port:
        probe = ServerProbe(Target(HOST, port, model, os.getpid(), log))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            result = probe.look(question, HealthSettings())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (result.ok, result.final, result.detail) == (False, False, "Too many open files")
    assert not result.asked, "what the hub lacks says nothing about the model"


def test_an_answer_comes_even_if_the_system_has_no_thread_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    answers: queue.SimpleQueue[ProbeResult] = queue.SimpleQueue()
    ServerProbe(Target(HOST, 9)).ask(READY, HealthSettings(), answers.put)
    result = answers.get_nowait()
    assert (result.ok, result.final, result.asked, result.detail) == (False, False, False, "can't start new thread")


def test_whoever_could_be_asked_was_asked() -> None:
    with nobody() as port:
        assert look(port).asked
    assert asked(http(500)).asked


def test_once_it_has_proved_to_be_itself_it_is_believed_without_a_look_at_every_socket(
    fake: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def listens_indeed(pid: int, port: int) -> bool:
        looks.append(pid)
        return True

    monkeypatch.setattr(probes, "listens", listens_indeed)
    probe = fake().probe()
    assert probe.look(READY, HealthSettings()).ok
    seen = []
    for _ in range(2 * TRUST):
        assert probe.look(ALIVE, HealthSettings()).ok
        seen.append(len(looks))
    assert seen == [1] * (TRUST - 1) + [2] * TRUST + [3]


def test_it_is_looked_up_each_ten_answers_who_gives_them() -> None:
    assert TRUST == 10


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What it is answered when it is looked up whether the model listens; it does as long as nothing is left here."""
    answers: list[bool] = []
    monkeypatch.setattr(probes, "listens", lambda pid, port: answers.pop() if answers else True)
    return answers


@pytest.mark.parametrize("model", [None, MODEL], ids=["command", "mlx_lm"])
@pytest.mark.parametrize("answer", [http(500), b"", b"junk\r\n\r\n"], ids=["an error", "silence", "garbage"])
def test_after_any_answer_that_is_no_yes_the_next_one_is_looked_into(
    answer: bytes, model: str | None, looks: list[bool]
) -> None:
    # Between the two it may have lost its port to a stranger.
    with serving(http(200), answer, http(200)) as server:
        probe = ServerProbe(Target(HOST, server.port, model, os.getpid()))
        assert probe.look(ALIVE, SHORT).ok
        assert not probe.look(ALIVE, SHORT).ok
        looks.append(False)
        result = probe.look(ALIVE, SHORT)
    assert (result.ok, result.detail) == (False, f"port {server.port} is answered by another program")


@pytest.mark.parametrize("model", [None, MODEL], ids=["command", "mlx_lm"])
def test_a_stranger_who_took_over_the_port_of_one_that_lives_on_is_found_out(model: str | None) -> None:
    # Its worker has died, say: a closed door, and then somebody else behind it.
    with bystander() as pid, serving(http(200), http(200), http(200)) as server:
        probe = ServerProbe(Target(HOST, server.port, model, os.getpid()))
        assert probe.look(ALIVE, HealthSettings()).ok
        with nobody() as port:
            probe._target = dataclasses.replace(probe._target, port=port)
            assert probe.look(ALIVE, HealthSettings()).detail == "Connection refused"
        probe._target = dataclasses.replace(probe._target, port=server.port, pid=pid)
        result = probe.look(ALIVE, HealthSettings())
    assert (result.ok, result.detail) == (False, f"port {server.port} is answered by another program")


def test_one_who_did_not_prove_to_be_itself_is_not_believed_the_next_time(looks: list[bool]) -> None:
    with serving(http(200), http(200), http(200)) as server:
        probe = ServerProbe(Target(HOST, server.port, None, os.getpid()))
        looks += [False, False]
        assert [probe.look(ALIVE, HealthSettings()).ok for _ in range(3)] == [False, False, True]


def test_children_are_looked_for_until_it_is_ready_and_then_remembered(
    fake: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def looked_for(pid: int) -> Sequence[psutil.Process]:
        looks.append(pid)
        return children_of(pid)

    monkeypatch.setattr(probes, "children_of", looked_for)
    server = fake("--spawn-child")
    probe = server.probe()
    alone = psutil.Process(server.process.pid).memory_info()
    for question in (READY, ALIVE, ALIVE):
        vitals = probe.look(question, HealthSettings()).vitals
        assert vitals is not None
        assert vitals.memory_bytes > alone.rss - getattr(alone, "shared", 0), "its child counts too"
    assert len(looks) == 1


def test_no_question_leaves_a_thread_behind() -> None:
    before = set(threading.enumerate())
    for answer in (http(200), http(500), b""):
        asked(answer, health=HealthSettings(timeout=30))
    wait_until(lambda: set(threading.enumerate()) <= before, timeout=PATIENCE)
