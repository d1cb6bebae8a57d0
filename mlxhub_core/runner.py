"""One sink, run where it can hurt nobody: a bounded queue and a thread of its own.

The hub offers events, which takes a moment and never fails. The thread opens the sink, hands it the events one after
the other, and closes it. A sink that raises, hangs, is slow, or calls `sys.exit` harms neither hub nor other sinks.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from mlxhub_core.errors import DeliveryDelayedError, DeliveryRefusedError
from mlxhub_core.events import HubEvent, HubModelContext
from mlxhub_core.hooks import Arguments, hooks_of, is_inherited_noop
from mlxhub_core.observability import SinkStats
from mlxhub_core.settings import DeliverySettings, OnlySettings

BACKOFF = (0.1, 60.0)
"""Seconds to wait after a failed `open`, or after `PATIENCE` failed events in a row: at first, and at most; doubling."""
PATIENCE = 3
"""Failed events in a row after which the sink is given a pause."""
STUCK = 10.0
"""Seconds in one call after which a sink is reported to be stuck."""
MOST_IN_HAND = 100
"""Events after which a sink is flushed though more wait."""
WAITS = (0.001, 86_400.0)
"""Seconds that a sink can ask for, at least and at most: without end it could not be waited, and without a pause it
would take all of a processor."""
CLOSE_DEADLINE = 5.0
"""Seconds that sinks which are closed get to deliver what waits, all together."""

ALWAYS = frozenset({"hub_started", "events_lost"})
"""Hooks that `only:` does not keep from a sink: its view of the hub, and that something is missing."""


def described(error: BaseException) -> str:
    """The type and the text of an exception of a stranger, as one line."""
    try:
        text = " ".join(str(error).split())
    except BaseException:  # noqa: BLE001  # even its text may fail, and that must not be the end of the one who asks
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@dataclass(frozen=True, slots=True)
class _Gap:
    """Events that were dropped one after the other: how many, and the number of the last."""

    count: int = 0
    seq: int = 0

    def and_then(self, other: _Gap) -> _Gap:
        return _Gap(self.count + other.count, max(self.seq, other.seq))


_NO_GAP = _Gap()
_FLUSH: tuple[str, Arguments] = ("flush", {})


@dataclass(slots=True)
class _Waiting:
    """An event in the queue, and the gap before it."""

    hook: str
    arguments: Arguments
    gap: _Gap = _NO_GAP

    @property
    def loss(self) -> _Gap:
        """The gap that there is when it is dropped."""
        return self.gap.and_then(_Gap(1, self.arguments["event"].seq))


class SinkRunner:
    """Delivers events to one sink.

    Args:
        name: its key in hub.yaml, for messages and statistics.
        sink: any object with hooks; `open` and `close` are called if it has them.
        report: gets one line when something is wrong with the sink, on a thread where it may take its time.
        delivery: how many events may wait, which are dropped when there are more, and which are meant for it.
        predecessor: one that is closing; this one is opened when that is done, but does not wait longer than
            `CLOSE_DEADLINE`. Two sinks that share a port follow each other so.
        origin: the name and the version of the package that it comes from.

    Raises:
        SinkError: `sink` is none.
        RuntimeError: the machine has no more threads.
    """

    def __init__(
        self,
        name: str,
        sink: object,
        report: Callable[[str], None],
        delivery: DeliverySettings | None = None,
        predecessor: Self | None = None,
        origin: tuple[str, str] = ("", ""),
    ) -> None:
        self.name = name
        self.sink = sink
        self.hooks = hooks_of(sink)
        self._flush = _flush_of(sink)
        self._unflushed = False
        self._in_hand = 0
        self._report = report
        self._delivery = delivery or DeliverySettings()
        self._wants = _filter(self._delivery.only)
        self._predecessor = predecessor
        self._successor: SinkRunner | None = None
        self._queue: deque[_Waiting] = deque()
        self._gap = _NO_GAP
        self._changed = threading.Condition()
        self._closing = False
        self._pid = os.getpid()
        self._open = False
        self._where: str | None = None
        self._origin = origin
        self._offered = self._delivered = self._failed = self._dropped = 0
        self._retried = self._failures_in_a_row = 0
        self._troubles: Counter[str] = Counter()
        self._last_error: str | None = None
        self._last_success: float | None = None
        self._busy: tuple[str, float] | None = None
        self._called = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)
        self._thread.start()
        try:
            threading.Thread(target=self._watch, name=f"watch-{name}", daemon=True).start()
        except RuntimeError:
            self.begin_close()
            raise

    def offer(self, hook: str, arguments: Arguments) -> None:
        """Queue an event. Returns at once and never raises, whatever the sink does."""
        # A forked child of an embedder has this object but not the thread, and its parent sends the event anyway.
        if os.getpid() != self._pid:
            return
        with self._changed:
            successor = self._successor
            if successor is None and hook in self.hooks and self._wants(hook, arguments):
                self._take(_Waiting(hook, arguments))
        if successor is not None:
            successor.offer(hook, arguments)

    def stats(self) -> SinkStats:
        """What became of the events so far."""
        with self._changed:
            return SinkStats(
                name=self.name,
                offered=self._offered,
                delivered=self._delivered,
                failed=self._failed,
                dropped=self._dropped,
                queue_length=len(self._queue),
                queue_capacity=self._delivery.queue,
                open=self._open,
                last_error=self._last_error,
                last_success=self._last_success,
                stuck_seconds=_seconds_in(self._busy),
                where=self._where,
                plugin=self._origin[0],
                version=self._origin[1],
                retried=self._retried,
            )

    def begin_close(self, successor: SinkRunner | None = None) -> None:
        """Take no more events, which from now on are the successor's; deliver those that wait and close the sink.

        Returns at once.
        """
        with self._changed:
            self._closing, self._successor = True, successor
            self._changed.notify()

    def wait(self, timeout: float) -> None:
        """Wait until the sink is closed, so many seconds at most."""
        self._thread.join(timeout)

    def end_close(self, timeout: float) -> int:
        """Wait until the sink is closed, so many seconds at most. Returns how many events were not delivered."""
        if threading.current_thread() is self._thread:
            # A sink that ends the hub from one of its hooks: it gets what waits as soon as that hook returns.
            return 0
        self.wait(timeout)
        with self._changed:
            undelivered = self._offered - self._delivered - self._failed - self._dropped
            self._dropped += len(self._queue)
            self._queue.clear()
            return undelivered

    def _take(self, item: _Waiting) -> None:
        self._offered += 1
        if self._closing:
            self._dropped += 1
            return
        item.gap, self._gap = self._gap, _NO_GAP
        self._queue.append(item)
        if len(self._queue) > self._delivery.queue:
            self._drop_one()
        self._changed.notify()

    def _drop_one(self) -> None:
        """Make room. The event after the one that goes remembers the gap, so that the sink is told of it there."""
        if self._delivery.when_full == "drop_newest":
            index = len(self._queue) - 1
        else:
            # Not the greeting: a sink gets its view of the hub there and nowhere else.
            index = 1 if self._queue[0].hook == "hub_started" else 0
        gap = self._queue[index].loss
        del self._queue[index]
        self._dropped += 1
        if index < len(self._queue):
            # It had none itself: where the oldest go, a gap is always at the front.
            self._queue[index].gap = gap
        else:
            self._gap = gap

    def _run(self) -> None:
        if self._predecessor is not None:
            self._predecessor.wait(CLOSE_DEADLINE)
            self._predecessor = None
        self._open_sink()
        while (item := self._next()) is not None:
            if item is _FLUSH:
                self._flush_sink()
            else:
                self._deliver(*item)
        self._attempt(getattr(self.sink, "close", None), "close")
        self._over.set()
        self._called.set()

    def _open_sink(self) -> None:
        opened = self._persist(getattr(self.sink, "open", None), "open") is None
        self._where = self._place() if opened else None
        self._open = opened

    def _flush_sink(self) -> None:
        """Have the sink send what it has in hand. At the end of the hub it gets one more chance."""
        error = self._persist(self._flush, "flush", hopeless=DeliveryRefusedError)
        if error is not None and not isinstance(error, DeliveryRefusedError):
            error = self._attempt(self._flush, "flush")
        with self._changed:
            if error is None and self._in_hand:
                self._delivered += self._in_hand
                self._last_success = time.time()
            if isinstance(error, DeliveryRefusedError):
                self._failed += self._in_hand
            self._in_hand, self._unflushed = 0, False

    def _persist(
        self, call: Callable[[], Any] | None, what: str, hopeless: type[BaseException] | tuple[()] = ()
    ) -> BaseException | None:
        """Call into the sink until that works, is hopeless, or the sink is to close. Returns what it raised at last."""
        pause = BACKOFF[0]
        while (error := self._attempt(call, what)) is not None and not isinstance(error, hopeless):
            asked_for = _seconds(error.seconds) if isinstance(error, DeliveryDelayedError) else None
            if self._pause(min(max(pause, asked_for or 0.0), BACKOFF[1])):
                break
            self._retried += 1
            pause = min(pause * 2, BACKOFF[1])
        return error

    def _place(self) -> str | None:
        """Where the sink says that it is. Read here, on its own thread: it may be a property."""
        with contextlib.suppress(Exception):
            where = getattr(self.sink, "where", None)
            return where if isinstance(where, str) else None
        return None

    def _next(self) -> tuple[str, Arguments] | None:
        """The next event; None when there will be none. A sink that never opened is spared the rest."""
        interval = self._interval()
        with self._changed:
            while self._open:
                if self._in_hand >= MOST_IN_HAND:
                    return _FLUSH
                if (gap := self._take_gap()) and "events_lost" in self.hooks:
                    return "events_lost", _told_of(gap)
                if self._queue:
                    item = self._queue.popleft()
                    return item.hook, item.arguments
                if self._unflushed:
                    return _FLUSH
                if self._closing:
                    break
                if not self._changed.wait(interval):
                    return _FLUSH
            return None

    def _interval(self) -> float | None:
        """After how many seconds without an event the sink is flushed. Read on its thread: it may be a property."""
        with contextlib.suppress(Exception):
            if self._flush is not None:
                return _seconds(getattr(self.sink, "flush_interval", None))
        return None

    def _take_gap(self) -> _Gap | None:
        """What was dropped before the next event, or, if there is none, since the last."""
        if self._queue:
            gap, self._queue[0].gap = self._queue[0].gap, _NO_GAP
        else:
            gap, self._gap = self._gap, _NO_GAP
        return gap if gap.count else None

    def _deliver(self, hook: str, arguments: Arguments) -> None:
        done = self._attempt(lambda: self.hooks[hook](arguments), hook) is None
        with self._changed:
            self._unflushed = self._flush is not None
            if hook == "events_lost":
                return
            if done:
                self._failures_in_a_row = 0
                if self._unflushed:
                    self._in_hand += 1
                    return
                self._delivered += 1
                self._last_success = time.time()
                return
            self._failed += 1
            self._failures_in_a_row += 1
            in_a_row = self._failures_in_a_row
        if in_a_row >= PATIENCE:
            self._pause(min(BACKOFF[0] * 2.0 ** min(in_a_row - PATIENCE, 16), BACKOFF[1]))

    def _attempt(self, call: Callable[[], Any] | None, what: str) -> BaseException | None:
        """Call into the sink, if it has that method. Returns what it raised."""
        if not callable(call):
            return None
        self._busy = (what, time.monotonic())
        self._called.set()
        try:
            call()
        except BaseException as error:  # noqa: BLE001  # SystemExit too: it would end the thread without a word
            self._note(what, error)
            return error
        else:
            return None
        finally:
            self._busy = None

    def _note(self, what: str, error: BaseException) -> None:
        self._last_error = f"{what}: {described(error)}"
        self._troubles[what] += 1
        number = self._troubles[what]
        if number in (1, PATIENCE) or number % 100 == 0:
            self._say(f"{self._last_error} (failure {number})")

    def _watch(self) -> None:
        """Report a call that does not come back, once. The sink's own thread cannot: it is the one that hangs.

        While nothing is called it does not wake up.
        """
        told = None
        while self._called.wait() and not self._over.is_set():
            self._called.clear()
            pause = STUCK
            while not self._over.wait(pause) and (busy := self._busy) is not None:
                pause = STUCK - _seconds_in(busy)
                if pause <= 0:
                    if busy is not told:
                        told = busy
                        self._say(
                            f"has not come back from {busy[0]} for {_seconds_in(busy):.0f} s; what comes meanwhile waits or is dropped"
                        )
                    break

    def _say(self, words: str) -> None:
        # Loguru raises what a handler raises, if the application asked it to: not here, where it would end the thread.
        with contextlib.suppress(BaseException):
            self._report(f"sink {self.name}: {words}")

    def _pause(self, seconds: float) -> bool:
        """Wait, but not when the hub is closing. Returns whether it is."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._closing and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._closing


def _flush_of(sink: object) -> Callable[[], object] | None:
    method = getattr(sink, "flush", None)
    return method if callable(method) and not is_inherited_noop(method, "flush") else None


def _seconds(value: object) -> float | None:
    """A time that a sink has asked for, within `WAITS`; None: it is none."""
    if not isinstance(value, int | float):
        return None
    bounded = float(min(max(value, WAITS[0]), WAITS[1]))
    return None if math.isnan(bounded) else bounded


def _seconds_in(busy: tuple[str, float] | None) -> float:
    return 0.0 if busy is None else time.monotonic() - busy[1]


def _filter(only: OnlySettings) -> Callable[[str, Arguments], bool]:
    """Whether an event is meant for the sink: its hook is wanted, and its model, or that one's group, if it has one."""
    events, models, groups = frozenset(only.events), frozenset(only.models), frozenset(only.groups)

    def wants(hook: str, arguments: Arguments) -> bool:
        if events and hook not in events and hook not in ALWAYS:
            return False
        ctx: HubModelContext | None = arguments.get("ctx")
        return ctx is None or not (models or groups) or ctx.name in models or ctx.group in groups

    return wants


def _told_of(gap: _Gap) -> Arguments:
    event = HubEvent(seq=gap.seq, id=str(uuid.uuid4()), time=time.time(), detail="the queue was full")
    return {"count": gap.count, "event": event}
