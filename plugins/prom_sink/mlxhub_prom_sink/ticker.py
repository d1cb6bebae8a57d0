"""Something done now and then, on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable


class Ticker:
    """Calls a function every so many seconds, at once for the first time, until it is closed.

    What the function raises is logged, once for each kind of trouble until it works again, and does not end the calls.

    Args:
        name: of the thread, and in the log.
        seconds: from the end of a call to the beginning of the next.
        call: the function.
    """

    def __init__(self, name: str, seconds: float, call: Callable[[], object]) -> None:
        self._name = name
        self._seconds = seconds
        self._call = call
        self._trouble: str | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Call it no more. Returns when the call that runs has returned."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._call()
            except Exception as error:  # noqa: BLE001  # whatever it is, it may work next time
                self._note(f"{type(error).__name__}: {error}")
            else:
                self._trouble = None
            if self._end.wait(self._seconds):
                return

    def _note(self, trouble: str) -> None:
        if trouble != self._trouble:
            logging.getLogger(__name__).error("%s: %s; it is tried again", self._name, trouble)
        self._trouble = trouble
