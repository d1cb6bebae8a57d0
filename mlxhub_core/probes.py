"""Ask a model whether it can answer. A probe returns what it learned; it never raises.

`mlx_lm server` says 200 on /health while it still loads, and with its generation thread dead some versions say so for
ever. Only an answer to a completion tells the truth, so it is asked for one token.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mlxhub_core.net import listens, reachable, refuse_itself

COMPLETION_TIMEOUT = 60.0
"""Seconds for one token. A server that still loads answers when it has loaded; a big model on a CPU takes a while."""
HEALTH_TIMEOUT = 5.0
"""Seconds for an answer on a health path."""
MAX_ANSWER = 64 * 1024
"""Bytes of an answer that are read."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Whether the model answered, and if not, what happened instead, in a few words."""

    ready: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask, and how.

    Attributes:
        host: the address the model listens on.
        port: its port.
        model: the name to ask mlx_lm for: exactly what its `--model` was, or it would load another; None: no mlx_lm.
        health_path: the path to ask others for.
        pid: the model's process: it, or a child of it, must be the one that listens there; None: whoever answers will do.
    """

    host: str
    port: int
    model: str | None = None
    health_path: str = "/health"
    pid: int | None = None


class Prober(Protocol):
    """Asks in the background; `probe_in_thread` is the real one."""

    def __call__(self, target: Target, answer: Callable[[ProbeResult], None]) -> None:
        """Ask once, without waiting; `answer` is called once, from any thread."""
        ...


def probe_in_thread(target: Target, answer: Callable[[ProbeResult], None]) -> None:
    """Ask once, in a thread of its own, which does not keep the hub from ending."""
    threading.Thread(target=lambda: answer(probe(target)), name=f"probe-{target.port}", daemon=True).start()


def probe(target: Target) -> ProbeResult:
    """Ask once and wait for the answer."""
    try:
        result = _completion(target) if target.model is not None else _health(target)
        if result.ready and target.pid is not None and not listens(target.pid, target.port):
            # mlx_lm lives on when it cannot bind its port, and the stranger who has it may answer just as well.
            return ProbeResult(False, f"port {target.port} is answered by another program")
        return result
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a host that is no name at all
        return ProbeResult(False, _in_brief(getattr(error, "strerror", None) or str(error)) or type(error).__name__)


def _completion(target: Target) -> ProbeResult:
    # Never an empty prompt: it kills the generation thread of mlx-lm 0.32.2 for good.
    body = {"model": target.model, "prompt": "hi", "max_tokens": 1}
    status, text = _ask(target, COMPLETION_TIMEOUT, "POST", "/v1/completions", json.dumps(body))
    return _verdict(status == 200 and '"choices"' in text, status, text)


def _health(target: Target) -> ProbeResult:
    status, text = _ask(target, HEALTH_TIMEOUT, "GET", target.health_path)
    return _verdict(status == 200, status, text)


def _ask(target: Target, timeout: float, method: str, path: str, body: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(reachable(target.host), target.port, timeout=timeout)
    try:
        connection.connect()
        refuse_itself(connection.sock)
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        return response.status, _text(response)
    finally:
        connection.close()


def _text(response: http.client.HTTPResponse) -> str:
    """The beginning of the body. The status says enough if that breaks off, or never comes to an end."""
    try:
        return response.read(MAX_ANSWER).decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException):
        return ""


def _verdict(ready: bool, status: int, text: str) -> ProbeResult:
    return ProbeResult(ready, "" if ready else _in_brief(f"HTTP {status} {text}"))


def _in_brief(text: str) -> str:
    """On one line, and without what could upset a terminal: it is shown in the status."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
