"""Ask a model whether it can answer. A probe returns what it learned; it never raises.

`mlx_lm server` says 200 on /health while it still loads, so it is ready when it has answered a completion of one
token. Later such a question could make it load another model, or keep one in memory that nobody uses: then /health is
asked, which since mlx-lm 0.32 says 503 for ever once the thread that generates is dead; and not even that is asked
while its log shows that it serves others.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import http.client
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import psutil

from mlxhub_core import logs
from mlxhub_core.net import listens, reachable, refuse_itself
from mlxhub_core.settings import HealthSettings
from mlxhub_core.vitals import Vitals, children_of, vitals_of

COMPLETION_TIMEOUT = 60.0
"""Seconds for one token. A server that still loads answers when it has loaded; a big model on a CPU takes a while."""
TRUST = 10
"""Answers until it is looked up again who listens on the port, which can take longer than to ask."""
MAX_ANSWER = 64 * 1024
"""Bytes of an answer that are read."""
MAX_LOG = 256 * 1024
"""Bytes at the end of a log that are searched."""

_OWN_WANT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Errors that tell of what the hub lacks: descriptors, memory, ports of its own."""
_SERVED = re.compile(rb'"POST /[^"\n]* HTTP/1\.[01]" 200 ')
"""A line of mlx_lm's access log: somebody got an answer, and so the thread that generates lives."""
_DEATH = "generation thread died"
"""What mlx_lm answers (404), and logs with the cause after a colon, when nothing will ever be generated again."""


class Question(enum.Enum):
    """What a model is asked."""

    READY = "ready"
    """Can you answer yet?"""
    ALIVE = "alive"
    """Can you still answer?"""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a model answered.

    Attributes:
        ok: whether it can answer.
        detail: if not, what happened instead, in a few words.
        final: that this process never will again.
        vitals: what it had used by then; None if that is unknown.
        asked: False: the hub could not even ask, which says nothing about the model.
        silent: whether it took the question, and gave no answer in time.
    """

    ok: bool
    detail: str = ""
    final: bool = False
    vitals: Vitals | None = None
    asked: bool = True
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask.

    Attributes:
        host: the address the model listens on.
        port: its port.
        model: the name to ask mlx_lm for: exactly what its `--model` was, or it would load another; None: no mlx_lm.
        pid: the model's process: it, or a child of it, must be the one that listens there; None: whoever answers will do.
        log: the file with its output.
        log_begin: the byte of `log` where the output of this process begins.
    """

    host: str
    port: int
    model: str | None = None
    pid: int | None = None
    log: Path | None = None
    log_begin: int = 0


class Probe(Protocol):
    """Asks one process."""

    def ask(self, question: Question, health: HealthSettings, answer: Callable[[ProbeResult], None]) -> None:
        """Ask once, without waiting; `answer` is called once, from any thread."""
        ...


class ProbeFactory(Protocol):
    """Makes a probe for each process; `ServerProbe` is the real one."""

    def __call__(self, target: Target) -> Probe:
        """A probe of a process that has just been started."""
        ...


class ServerProbe:
    """Asks a server over HTTP.

    Args:
        target: whom to ask.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._log_seen = target.log_begin
        self._children: Sequence[psutil.Process] | None = None
        self._trust = 0

    def ask(self, question: Question, health: HealthSettings, answer: Callable[[ProbeResult], None]) -> None:
        """See `Probe`. Asks in a thread of its own, which does not keep the hub from ending."""
        name = f"probe-{self._target.port}"
        try:
            threading.Thread(target=lambda: answer(self.look(question, health)), name=name, daemon=True).start()
        except RuntimeError as error:  # The system has no thread left for us.
            answer(ProbeResult(False, str(error), asked=False))

    def look(self, question: Question, health: HealthSettings) -> ProbeResult:
        """Ask once and wait for the answer."""
        try:
            result = self._result(question, health)
        except Exception as error:  # noqa: BLE001  # without an answer nobody would ever ask again
            result = _unanswered(error)
            self._trust = 0
        if self._target.pid is None:
            return result
        # Servers have their children by the time they are ready; looking for them each time would cost more than asking.
        if question is Question.READY or self._children is None:
            self._children = children_of(self._target.pid)
        vitals = vitals_of(self._target.pid, self._target.log, self._children)
        # Of a process that ended meanwhile its end tells more than who answers in its place.
        return replace(result, final=result.final and vitals is not None, vitals=vitals)

    def _result(self, question: Question, health: HealthSettings) -> ProbeResult:
        if self._target.model is None:
            result = self._health(health.path, health.timeout)
        elif question is Question.READY:
            result = self._completion(self._target.model)
            # What follows in the log is not about this question.
            self._log_seen = logs.size(self._target.log) if self._target.log else 0
        elif self._has_served():
            return ProbeResult(True)
        else:
            result = self._mlx_health(health.timeout)
        return self._own(result)

    def _own(self, result: ProbeResult) -> ProbeResult:
        """Believe only the process itself."""
        target, is_mlx = self._target, self._target.model is not None
        # As long as it holds the port nobody else can have it, so one proof is good for a while.
        self._trust = self._trust - 1 if result.ok else 0
        if target.pid is None or not (result.ok or is_mlx) or self._trust > 0:
            return result
        if listens(target.pid, target.port):
            self._trust = TRUST if result.ok else 0
            return result
        # mlx_lm lives on when it cannot bind its port, and whatever the stranger who has it answers, it will not.
        return ProbeResult(False, f"port {target.port} is answered by another program", final=is_mlx)

    def _completion(self, model: str) -> ProbeResult:
        # Never an empty prompt: it kills the generation thread of mlx-lm 0.32.2 for good.
        body = json.dumps({"model": model, "prompt": "hi", "max_tokens": 1})
        status, text = self._request(COMPLETION_TIMEOUT, "POST", "/v1/completions", body)
        if _DEATH in text:
            return self._death()
        return _verdict(status == 200 and '"choices"' in text, status, text)

    def _mlx_health(self, timeout: float) -> ProbeResult:
        status, text = self._request(timeout, "GET", "/health")
        return self._death() if status == 503 else _verdict(status == 200, status, text)

    def _health(self, path: str, timeout: float) -> ProbeResult:
        status, text = self._request(timeout, "GET", path)
        return _verdict(status == 200, status, text)

    def _death(self) -> ProbeResult:
        """With the cause, in the words of the server."""
        text = self._log_text(self._target.log_begin)
        line = text[text.rfind(f"{_DEATH}: ") :].partition("\n")[0] if f"{_DEATH}: " in text else _DEATH
        return ProbeResult(False, _in_brief(line).rstrip(":"), final=True)  # Some errors say nothing.

    def _log_text(self, since: int) -> str:
        log = self._target.log
        return logs.read_from(log, since, MAX_LOG).decode("utf-8", errors="replace") if log else ""

    def _has_served(self) -> bool:
        """Whether its log shows an answer to somebody since the last look, and no death."""
        log = self._target.log
        if log is None:
            return False
        since, self._log_seen = self._log_seen, logs.size(log)
        written = logs.read_from(log, since, MAX_LOG)
        return _DEATH.encode() not in written and _SERVED.search(written) is not None

    def _request(self, timeout: float, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        host, port = reachable(self._target.host), self._target.port
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.connect()
            refuse_itself(connection.sock)
            with _deadline(connection.sock, timeout) as late:
                connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
                response = connection.getresponse()
                # The body of a 200 for a GET says nothing more, and might never come to an end.
                text = "" if response.status == 200 and body is None else _text(response)
            # What broke off because we hung up can look like a whole answer.
            if response.status == 200 and late.is_set():
                raise TimeoutError
            return response.status, text
        except TimeoutError:
            raise TimeoutError(f"no answer within {timeout:g} s") from None
        finally:
            connection.close()


@contextlib.contextmanager
def _deadline(connection: socket.socket, seconds: float) -> Iterator[threading.Event]:
    """Hang up after so many seconds: the timeout of a socket begins anew with each byte that drips in.

    Gives an event that says whether that has happened.
    """
    late = threading.Event()

    def hang_up() -> None:
        late.set()
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.start()
    try:
        yield late
    except (OSError, http.client.HTTPException):
        if late.is_set():
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()


def _text(response: http.client.HTTPResponse) -> str:
    """The beginning of the body. The status says enough if that breaks off, or never comes to an end."""
    try:
        return response.read(MAX_ANSWER).decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException):
        return ""


def _verdict(ok: bool, status: int, text: str) -> ProbeResult:
    return ProbeResult(ok, "" if ok else _in_brief(f"HTTP {status} {text}"))


def _unanswered(error: Exception) -> ProbeResult:
    said = _in_brief(getattr(error, "strerror", None) or str(error)) or type(error).__name__
    silent = isinstance(error, TimeoutError)
    return ProbeResult(False, said, asked=getattr(error, "errno", None) not in _OWN_WANT, silent=silent)


def _in_brief(text: str) -> str:
    """On one line, and without what could upset a terminal: it is shown in the status."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]
