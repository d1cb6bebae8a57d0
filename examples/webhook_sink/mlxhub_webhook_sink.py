"""The sink `webhook` for mlxhub: each event is posted to a URL as one JSON document."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from time import sleep
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from annotated_types import Gt, Interval, Le

from mlxhub_core import HubError, HubEvent, HubModelContext, Secret, Sink

FIRST_PAUSE = 0.5
"""Seconds before the first retry; each further pause is twice as long."""
LONGEST_PAUSE = 30.0
"""Seconds that no pause exceeds, whatever the server asks for."""


class WebhookError(HubError):
    """The server did not take an event. The message names its host and never the rest of the URL."""


class WebhookUnavailableError(WebhookError):
    """The server may take it later: after ``wanted`` seconds, if it said so, or else 0."""

    def __init__(self, message: str, wanted: float = 0.0) -> None:
        super().__init__(message)
        self.wanted = wanted


class WebhookSink(Sink):
    """Posts each event to a URL as one JSON document.

    Connection errors, timeouts and the answers 408, 429 and 5xx are tried again, after a pause; other answers are not.
    A server that says nothing holds the sink up for ``(retries + 1) * timeout`` seconds and the pauses between, each of
    30 seconds at most; by default that is 23.5 seconds. Nothing cuts it short, for `close` comes on the same thread: a
    hub that ends waits its 5 seconds and leaves the rest.

    Args:
        url: where to, beginning with http:// or https://; redirects are not followed.
        token: sent as Authorization: Bearer.
        timeout: seconds to wait for the server, at each step: to connect, to send, to answer.
        retries: how often an event is tried again before it counts as failed.

    Raises:
        ValueError: the url or the token cannot be sent. The message repeats neither.
    """

    def __init__(
        self,
        url: str,
        token: Secret | None = None,
        timeout: Annotated[float, Gt(0), Le(60)] = 5.0,
        retries: Annotated[int, Interval(ge=0, le=10)] = 3,
    ) -> None:
        if token is not None and not _VISIBLE.fullmatch(token.reveal()):
            raise ValueError("token must be ASCII without blanks and line breaks")
        self._url = _parts(url)
        self._token = token
        self._timeout = timeout
        self._retries = retries

    # No open() and close(): events are rare, so each has a connection of its own, and nothing is kept to let go of.

    def hub_started(self, *, event: HubEvent, **_: object) -> None:
        self._send("hub_started", event)

    def hub_stopping(self, *, event: HubEvent) -> None:
        self._send("hub_stopping", event)

    def config_reloaded(
        self, *, started: Sequence[str], stopped: Sequence[str], unchanged: Sequence[str], event: HubEvent
    ) -> None:
        self._send("config_reloaded", event, started=started, stopped=stopped, unchanged=unchanged)

    def model_started(self, ctx: HubModelContext, *, pid: int | None, event: HubEvent) -> None:
        self._send("model_started", event, ctx, pid=pid)

    def model_adopted(self, ctx: HubModelContext, *, pid: int, event: HubEvent) -> None:
        self._send("model_adopted", event, ctx, pid=pid)

    def model_ready(self, ctx: HubModelContext, *, startup_seconds: float, event: HubEvent) -> None:
        self._send("model_ready", event, ctx, startup_seconds=startup_seconds)

    def model_unhealthy(self, ctx: HubModelContext, *, reason: str, event: HubEvent) -> None:
        # The hook's reason is a sentence; in the document `reason` is always one of mlxhub's words, as for other hooks.
        self._send("model_unhealthy", event, ctx, detail=reason)

    def model_recovered(self, ctx: HubModelContext, *, unhealthy_seconds: float, event: HubEvent) -> None:
        self._send("model_recovered", event, ctx, unhealthy_seconds=unhealthy_seconds)

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None, event: HubEvent) -> None:
        self._send("model_stopped", event, ctx, exit_code=exit_code)

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None, event: HubEvent) -> None:
        self._send("model_failed", event, ctx, exit_code=exit_code)

    def model_restarting(self, ctx: HubModelContext, *, attempt: int, delay_seconds: float, event: HubEvent) -> None:
        self._send("model_restarting", event, ctx, attempt=attempt, delay_seconds=delay_seconds)

    def model_gave_up(self, ctx: HubModelContext, *, failures: int, event: HubEvent) -> None:
        self._send("model_gave_up", event, ctx, failures=failures)

    def model_log_failing(self, ctx: HubModelContext, *, reason: str, event: HubEvent) -> None:
        self._send("model_log_failing", event, ctx, detail=reason)

    def model_log_recovered(self, ctx: HubModelContext, *, lost_bytes: int, event: HubEvent) -> None:
        self._send("model_log_recovered", event, ctx, lost_bytes=lost_bytes)

    def events_lost(self, *, count: int, event: HubEvent) -> None:
        self._send("events_lost", event, count=count)

    def _send(self, hook: str, event: HubEvent, ctx: HubModelContext | None = None, **arguments: object) -> None:
        document = {
            "hook": hook,
            "model": ctx and ctx.name,
            "group": ctx and ctx.group,
            "log_path": ctx and ctx.log_path,
            "time": event.time,
            "seq": event.seq,
            "id": event.id,
            "reason": event.reason,
            "detail": event.detail,
            **arguments,
        }
        self._deliver(json.dumps(document).encode())

    def _deliver(self, body: bytes) -> None:
        pause = FIRST_PAUSE
        for _ in range(self._retries):
            try:
                return self._post(body)
            except WebhookUnavailableError as error:
                sleep(min(max(pause, error.wanted), LONGEST_PAUSE))
                pause *= 2
        return self._post(body)

    def _post(self, body: bytes) -> None:
        """Post once. Raises WebhookError when the server does not take it."""
        host = self._url.netloc
        try:
            status, wanted = self._exchange(body)
        except (OSError, HTTPException) as error:
            # The system's words only: those of a broken answer are the server's, and may repeat the token.
            why = getattr(error, "strerror", None) or type(error).__name__
            raise WebhookUnavailableError(f"{host} cannot be reached: {why}; check that it runs") from None
        if status in (408, 429) or status >= 500:
            raise WebhookUnavailableError(f"{host} answered {status}; look at its log", wanted)
        if not 200 <= status < 300:
            raise WebhookError(f"{host} answered {status}; check url and token (redirects are not followed)")

    def _exchange(self, body: bytes) -> tuple[int, float]:
        """The status of the answer, and how many seconds the server asks to be left alone."""
        connect = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        target = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        headers = {"Content-Type": "application/json", "User-Agent": "mlxhub-webhook-sink"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.reveal()}"
        # http.client follows no redirect and asks no proxy: the token goes to this host or nowhere.
        with closing(connect(self._url.netloc, timeout=self._timeout)) as connection:
            connection.request("POST", target, body, headers)
            with connection.getresponse() as answer:
                seconds = answer.headers.get("Retry-After", "")
                return answer.status, float(seconds) if seconds.isdecimal() else 0.0


_VISIBLE = re.compile("[!-~]+")


def _parts(url: str) -> SplitResult:
    """Take a URL apart. Raises ValueError without a word of it: what many services call a URL is a secret."""
    if not _VISIBLE.fullmatch(url):
        raise ValueError("url must be ASCII without blanks; write other characters as %20")
    try:
        parts = urlsplit(url)
        # The port is checked when it is read, and a name as `hooks..example` when it is encoded.
        host, _ = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:
        host = b""
    if not host or parts.scheme not in ("http", "https"):
        raise ValueError("url must begin with http:// or https:// and a host, as https://hooks.example.com/mlxhub")
    if "@" in parts.netloc:
        raise ValueError("url must not hold a user or password; the server gets a secret as token")
    return parts
