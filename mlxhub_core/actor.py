"""A thread with one inbox: messages and timers are handled one after the other, so its owner's state needs no lock."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

M = TypeVar("M")


class Timer:
    """A message to come. `cancel` keeps it from coming."""

    __slots__ = ("cancelled",)

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        """Forget it. Does nothing if it has come already."""
        self.cancelled = True


class Actor(Generic[M]):
    """Hands messages to `handle`, in the order in which they were told, and timers when they are due.

    Args:
        handle: called with each message, always on the actor's thread. What it raises goes to `failed`.
        failed: called with such an exception; the actor goes on.
        clock: seconds that only grow. Tests hand in their own and call `drain` instead of `start`.
        name: of the thread.
    """

    def __init__(
        self,
        handle: Callable[[M], None],
        failed: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
        name: str = "mlxhub",
    ) -> None:
        self.clock = clock
        self._handle = handle
        self._failed = failed
        self._inbox: queue.SimpleQueue[M | None] = queue.SimpleQueue()
        self._finished = False
        # Re-entrant, because a signal handler may tell something while its thread does.
        self._door = threading.RLock()
        self._timers: list[tuple[float, int, Timer, M]] = []
        self._order = itertools.count()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_here(self) -> bool:
        """Whether the caller runs on the actor's own thread, and so would wait for itself."""
        return threading.current_thread() is self._thread

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def finish(self) -> None:
        """End the thread after the messages told so far; timers that are not due are forgotten. Waits for it."""
        with self._door:
            self._finished = True
            self._inbox.put(None)
        # One that was never started has nothing to wait for.
        if self._thread.is_alive() and not self.is_here:
            self._thread.join()

    def tell(self, message: M) -> bool:
        """Put a message into the inbox. From any thread; returns at once. False: the actor has finished."""
        # The door keeps a message from slipping in after the last one, where nobody would ever read it.
        with self._door:
            if not self._finished:
                self._inbox.put(message)
            return not self._finished

    def after(self, seconds: float, message: M) -> Timer:
        """Have a message handled in so many seconds. Only from the actor's own thread."""
        timer = Timer()
        heapq.heappush(self._timers, (self.clock() + seconds, next(self._order), timer, message))
        return timer

    def drain(self) -> None:
        """Handle everything that is waiting or due, on the calling thread, without waiting. For tests."""
        while self._step(wait=False):
            pass

    def _run(self) -> None:
        while self._step(wait=True):
            pass

    def _step(self, wait: bool) -> bool:
        """Handle one message or timer. Returns whether to go on."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        if self._timers and self._timers[0][0] <= self.clock():
            self._safely(heapq.heappop(self._timers)[3])
            return True
        try:
            message = self._inbox.get(block=wait, timeout=self._until_next_timer() if wait else None)
        except queue.Empty:
            return wait
        if message is None:
            return False
        self._safely(message)
        return True

    def _until_next_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - self.clock()) if self._timers else None

    def _safely(self, message: M) -> None:
        try:
            self._handle(message)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # one bug must not end the loop that all depend on
            with contextlib.suppress(Exception):  # nobody is left to tell
                self._failed(error)
