"""What a piece of code does to the world outside, seen and refused as it is done."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_QUIET = frozenset({"socket.gethostname"})
"""Asks nobody outside."""
_LOUD = ("socket.", "subprocess.", "sqlite3.connect", "os.system", "os.fork", "os.posix_spawn", "os.exec", "os.mkdir")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

_of_this_thread = threading.local()


@contextmanager
def nothing_outside() -> Iterator[list[str]]:
    """Refuse sockets, threads, processes and written files to this thread, and list what it tried."""
    _install()
    tried: list[str] = []
    start = threading.Thread.start

    def watched_start(thread: threading.Thread) -> None:
        _refuse("a thread was started")
        start(thread)

    _of_this_thread.tried = tried
    # Python 3.11 has no audit event for threads.
    threading.Thread.start = watched_start  # type: ignore[method-assign,assignment]
    try:
        yield tried
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
        _of_this_thread.tried = None


def _refuse(what: str) -> None:
    tried = getattr(_of_this_thread, "tried", None)
    if tried is not None:
        tried.append(what)
        raise PermissionError(f"refused here: {what}")


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if getattr(_of_this_thread, "tried", None) is not None and (what := _described(event, arguments)) is not None:
        _refuse(what)


def _described(event: str, arguments: tuple[Any, ...]) -> str | None:
    if event == "open":
        path, _, flags = arguments
        # An import that the constructor makes may leave its bytecode.
        if flags & _WRITING and "__pycache__" not in str(path):
            return f"{path} was opened for writing"
        return None
    if event.startswith(_LOUD) and event not in _QUIET:
        return f"{event} was called"
    return None


_installed = threading.Lock()


def _install() -> None:
    # An audit hook sees what C code does too; it stays for the life of the process, so there is only ever one.
    if _installed.acquire(blocking=False):
        sys.addaudithook(_hook)
