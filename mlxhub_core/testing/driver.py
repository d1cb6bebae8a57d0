"""A sink on a thread of its own, called as the hub's runner calls it."""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from mlxhub_core.hooks import hooks_of

Day = Iterable[tuple[str, Mapping[str, Any]]]


class Driver:
    """Calls a sink on one thread: `open`, hooks by keyword, `flush` when no event waits, `close`.

    Args:
        make: makes the sink, on that thread too.
        patience: seconds that each call may take.
        tolerant: whether what the sink raises is kept and not passed on.

    Attributes:
        sink: what was made.
        raised: what the sink raised, where that is tolerated.
        seconds: for each hook, how long each call of it took, with its flush.
    """

    def __init__(self, make: Callable[[], object], patience: float, *, tolerant: bool = False) -> None:
        self._patience = patience
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        # A daemon: a sink that never comes back must not keep the test run from ending.
        self._thread = threading.Thread(target=self._run, name="conformance", daemon=True)
        self._thread.start()
        self._tolerant = False  # that it can be made at all is no matter of tolerance
        self.raised: list[BaseException] = []
        self.seconds: dict[str, list[float]] = {}
        self.sink: object = None
        try:
            self.do("the constructor", lambda: setattr(self, "sink", make()))
            self._hooks = hooks_of(self.sink)
        except BaseException:
            self.end()
            raise
        self._tolerant = tolerant

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.end()

    def open(self) -> bool:
        """Open it. Returns whether that worked."""
        return self._call("open")

    def tell(self, hook: str, arguments: Mapping[str, Any], *, flush: bool = True) -> None:
        """Tell it one event, if it has that hook; then none waits, so it is flushed.

        Raises:
            AssertionError: it has changed what it was given.
        """
        if hook not in self._hooks:
            return
        before = {name: copy.copy(value) for name, value in arguments.items() if name != "hub"}
        began = time.perf_counter()
        self.do(hook, lambda: self._hooks[hook](arguments))
        if flush:
            self.flush()
        self.seconds.setdefault(hook, []).append(time.perf_counter() - began)
        for name, value in before.items():
            if arguments[name] != value:
                raise AssertionError(f"{hook} changed the {name} it was given, which other sinks get too")

    def flush(self) -> None:
        """Flush it."""
        self._call("flush")

    def close(self) -> None:
        """Close it."""
        self._call("close")

    def live(self, day: Day) -> None:
        """Its whole life: open, a day, close. Like the hub, it tells nothing to a sink that could not be opened."""
        if self.open():
            for hook, arguments in day:
                self.tell(hook, arguments)
            # Some are flushed at intervals, too, with nothing new.
            self.flush()
        self.close()

    def do(self, what: str, call: Callable[[], object]) -> bool:
        """Do something on the sink's thread. Returns whether it worked.

        Raises:
            AssertionError: it raised, and that is not tolerated; or it did not come back.
        """
        self._calls.put(call)
        try:
            error = self._answers.get(timeout=self._patience)
        except queue.Empty:
            raise AssertionError(f"{what} had not come back after {self._patience:g} s; give it a timeout") from None
        if error is None:
            return True
        if self._tolerant:
            self.raised.append(error)
            return False
        raise AssertionError(f"{what} raised {type(error).__name__}: {error}") from error

    def end(self) -> None:
        """Let the thread go, when it comes back."""
        self._calls.put(None)
        self._thread.join(self._patience)

    def _call(self, name: str) -> bool:
        method = getattr(self.sink, name, None)
        return not callable(method) or self.do(name, method)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001  # a sink may even call sys.exit()
                self._answers.put(error)
            else:
                self._answers.put(None)
