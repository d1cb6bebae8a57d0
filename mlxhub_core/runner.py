"""One sink, run where it can hurt nobody: a bounded queue and a thread of its own.

The hub offers events, which takes a moment and never fails. The thread opens the sink, hands it the events one after
the other, and closes it. A sink that raises, hangs, is slow, or calls `sys.exit` harms neither hub nor other sinks.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from mlxhub_core import hookspecs
from mlxhub_core.errors import HubError, did_you_mean, listed
from mlxhub_core.events import HubEvent
from mlxhub_core.observability import SINK_API, HubObservabilitySink, Sink, SinkStats

QUEUE_CAPACITY = 1024
"""Events that may wait for one sink. Lifecycle events are few: even a crash loop of 50 models takes minutes to fill it."""
BACKOFF = (0.1, 60.0)
"""Seconds to wait after a failed `open`, or after `PATIENCE` failed events in a row: at first, and at most; doubling."""
PATIENCE = 3
"""Failed events in a row after which the sink is given a pause."""

Arguments = Mapping[str, Any]

HOOKS: Mapping[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(spec).parameters)
    for name, spec in vars(hookspecs).items()
    if inspect.isfunction(spec) and spec.__module__ == hookspecs.__name__
}
"""Every hook and the names of its arguments."""

_Kind = inspect.Parameter


def hooks_of(sink: object) -> dict[str, Callable[[Arguments], None]]:
    """The hooks that a sink implements, each as a call that passes it just the arguments it names.

    Raises:
        HubError: `sink` has no hook at all, or one that the hub could not call or that would not be told the truth.
    """
    kind = type(sink).__name__
    if isinstance(sink, type):
        raise HubError(f"{sink.__name__} is a class, not a sink; call it: {sink.__name__}()")
    for name in ("open", "close"):
        if callable(method := getattr(sink, name, None)):
            _names_wanted(f"{kind}.{name}", method, known=())
    hooks = {}
    for name, arguments in HOOKS.items():
        method = getattr(sink, name, None)
        if callable(method) and not _is_inherited_noop(method, name):
            hooks[name] = _call_with_named(method, _names_wanted(f"{kind}.{name}", method, arguments))
    if not hooks:
        raise HubError(f"{kind} has no hook, so there is nothing to tell it; give it one of {listed(HOOKS)}")
    return hooks


def _is_inherited_noop(method: Callable[..., Any], name: str) -> bool:
    function = getattr(method, "__func__", None)
    return function is not None and function in (getattr(Sink, name, None), getattr(HubObservabilitySink, name, None))


def _names_wanted(where: str, method: Callable[..., Any], known: tuple[str, ...]) -> tuple[str, ...]:
    if inspect.iscoroutinefunction(method):
        raise HubError(f"{where} is async, and nobody would await it; make it a plain function")
    parameters = inspect.signature(method).parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    # `*args` beside `**more` is a decorator's catch-all: what the hub passes arrives in `more`.
    if _Kind.POSITIONAL_ONLY in kinds or (_Kind.VAR_POSITIONAL in kinds and _Kind.VAR_KEYWORD not in kinds):
        raise HubError(f"{where} takes arguments by position, and the hub passes them by name; drop `/` and `*args`")
    named = [p for p in parameters if p.kind in (_Kind.POSITIONAL_OR_KEYWORD, _Kind.KEYWORD_ONLY)]
    for parameter in named:
        if parameter.name not in known and parameter.default is parameter.empty:
            message = f"{where} asks for {parameter.name!r}, which sink API {SINK_API} does not pass"
            hint = did_you_mean(parameter.name, known)
            raise HubError(f"{message}{hint} (it has {listed(known)}); upgrade mlxhub-core, or tell the sink's author")
    if _Kind.VAR_KEYWORD in kinds:
        return known
    return tuple(parameter.name for parameter in named if parameter.name in known)


def _call_with_named(method: Callable[..., Any], names: tuple[str, ...]) -> Callable[[Arguments], None]:
    def call(arguments: Arguments) -> None:
        method(**{name: arguments[name] for name in names})

    return call


def described(error: BaseException) -> str:
    """The type and the text of an exception of a stranger, as one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001  # even its text may fail, and that must not be the end of the one who asks
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class SinkRunner:
    """Delivers events to one sink.

    Args:
        name: its key in hub.yaml, for messages and statistics.
        sink: any object with hooks; `open` and `close` are called if it has them.
        report: gets one line when something is wrong with the sink, on the sink's thread.
        capacity: events that may wait; when one more comes, the oldest is dropped.
    """

    def __init__(self, name: str, sink: object, report: Callable[[str], None], capacity: int = QUEUE_CAPACITY) -> None:
        self.name = name
        self.sink = sink
        self.hooks = hooks_of(sink)
        self._report = report
        self._capacity = capacity
        self._queue: deque[tuple[str, Arguments]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._pid = os.getpid()
        self._open = False
        self._offered = self._delivered = self._failed = self._dropped = 0
        self._lost = 0
        self._failures_in_a_row = 0
        self._troubles: Counter[str] = Counter()
        self._last_error: str | None = None
        self._last_success: float | None = None
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)
        self._thread.start()

    def offer(self, hook: str, arguments: Arguments) -> None:
        """Queue an event. Returns at once and never raises, whatever the sink does."""
        # A forked child of an embedder has this object but not the thread, and its parent sends the event anyway.
        if hook not in self.hooks or os.getpid() != self._pid:
            return
        with self._changed:
            self._offered += 1
            if self._closing:
                self._dropped += 1
                return
            if len(self._queue) >= self._capacity:
                # But for the greeting: a sink gets its view of the hub there and nowhere else.
                del self._queue[1 if self._greeting_is_next() and self._capacity > 1 else 0]
                self._dropped += 1
                self._lost += 1
            self._queue.append((hook, arguments))
            self._changed.notify()

    def stats(self) -> SinkStats:
        """What became of the events so far."""
        with self._changed:
            busy = self._busy_since
            return SinkStats(
                name=self.name,
                offered=self._offered,
                delivered=self._delivered,
                failed=self._failed,
                dropped=self._dropped,
                queue_length=len(self._queue),
                queue_capacity=self._capacity,
                open=self._open,
                last_error=self._last_error,
                last_success=self._last_success,
                stuck_seconds=0.0 if busy is None else time.monotonic() - busy,
            )

    def begin_close(self) -> None:
        """Take no more events; deliver those that wait and close the sink. Returns at once."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def end_close(self, timeout: float) -> int:
        """Wait for that, so many seconds at most. Returns how many events were not delivered."""
        if threading.current_thread() is self._thread:
            # A sink that ends the hub from one of its hooks: it gets what waits as soon as that hook returns.
            return 0
        self._thread.join(timeout)
        with self._changed:
            undelivered = self._offered - self._delivered - self._failed - self._dropped
            self._dropped += len(self._queue)
            self._queue.clear()
            return undelivered

    def _run(self) -> None:
        self._open_sink()
        while (item := self._next()) is not None:
            self._deliver(*item)
        self._attempt(getattr(self.sink, "close", None), "close")

    def _open_sink(self) -> None:
        opener = getattr(self.sink, "open", None)
        pause = BACKOFF[0]
        while not self._attempt(opener, "open"):
            if self._pause(pause):
                return
            pause = min(pause * 2, BACKOFF[1])
        self._open = True

    def _next(self) -> tuple[str, Arguments] | None:
        """The next event; None when there will be none. A sink that never opened is spared the rest."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            if not self._queue or not self._open:
                return None
            if self._lost and "events_lost" in self.hooks and not self._greeting_is_next():
                lost, self._lost = self._lost, 0
                return "events_lost", _gap(lost, self._queue[0][1]["event"])
            return self._queue.popleft()

    def _greeting_is_next(self) -> bool:
        return self._queue[0][0] == "hub_started"

    def _deliver(self, hook: str, arguments: Arguments) -> None:
        done = self._attempt(lambda: self.hooks[hook](arguments), hook)
        with self._changed:
            if hook == "events_lost":
                return
            if done:
                self._delivered += 1
                self._failures_in_a_row = 0
                self._last_success = time.time()
                return
            self._failed += 1
            self._failures_in_a_row += 1
            in_a_row = self._failures_in_a_row
        if in_a_row >= PATIENCE:
            self._pause(min(BACKOFF[0] * 2.0 ** min(in_a_row - PATIENCE, 16), BACKOFF[1]))

    def _attempt(self, call: Callable[[], Any] | None, what: str) -> bool:
        """Call into the sink, if it has that method. Returns whether it came back without an exception."""
        if not callable(call):
            return True
        self._busy_since = time.monotonic()
        try:
            call()
        except BaseException as error:  # noqa: BLE001  # SystemExit too: it would end the thread without a word
            self._note(what, error)
            return False
        else:
            return True
        finally:
            self._busy_since = None

    def _note(self, what: str, error: BaseException) -> None:
        self._last_error = f"{what}: {described(error)}"
        self._troubles[what] += 1
        number = self._troubles[what]
        if number in (1, PATIENCE) or number % 100 == 0:
            # Loguru raises what a handler raises, if the application asked it to: not here, where it would end the thread.
            with contextlib.suppress(Exception):
                self._report(f"sink {self.name}: {self._last_error} (failure {number})")

    def _pause(self, seconds: float) -> bool:
        """Wait, but not when the hub is closing. Returns whether it is."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._closing and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._closing


def _gap(count: int, following: HubEvent) -> Arguments:
    event = HubEvent(seq=following.seq, id=str(uuid.uuid4()), time=time.time(), detail="the queue was full")
    return {"count": count, "event": event}
