"""Waits of a command that Ctrl-C ends whenever it comes.

Python runs its handler of a signal between two of its own steps. A signal that comes after the last of them, and before
the system call that waits, is heeded only when that call returns, which it may never do. The byte that the system's
own handler puts into a pipe is there for the wait itself to see, and stays there should a `KeyboardInterrupt` get lost
on its way, as in a destructor.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator

_bell = -1  # the end of that pipe to read from, if there is one


def heed_signals() -> None:
    """Have the waits of this process see the signals that Python handles. For the main thread, once, at its start."""
    global _bell
    if _bell < 0:
        _bell, ring = os.pipe()
        os.set_blocking(_bell, False)
        os.set_blocking(ring, False)
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)


def until_readable(*files: int, timeout: float | None = None) -> list[int]:
    """Wait until one of these can be read without waiting. Returns which can; none after `timeout` seconds or a signal.

    Raises:
        KeyboardInterrupt: there was a SIGINT, now or before, that nobody has heeded.
    """
    bells = [_bell] if _bell >= 0 and threading.current_thread() is threading.main_thread() else []
    ready, _, _ = select.select([*files, *bells], [], [], timeout)
    if bells and _bell in ready:
        ready.remove(_bell)
        with contextlib.suppress(BlockingIOError):
            if signal.SIGINT in os.read(_bell, 64) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                raise KeyboardInterrupt
    return ready


@contextlib.contextmanager
def interrupted_later() -> Iterator[None]:
    """A Ctrl-C that comes meanwhile is seen by the next wait. For the main thread."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def until_done(call: Callable[[], object]) -> None:
    """Make a call that waits where no signal can end it. It is left behind, on a thread of its own, if one does.

    Raises:
        KeyboardInterrupt: see `until_readable`.
    """
    read, write = os.pipe()

    def run() -> None:
        try:
            call()
        finally:
            os.close(write)

    threading.Thread(target=run, name="wait", daemon=True).start()
    while not until_readable(read):
        pass
    os.close(read)
