"""What all parts of a process share, and what a sink must therefore leave alone.

Run as a program, ``python -P state.py MODULE``, it imports a module and writes on stderr, as a JSON list, what that
changed. Standard library and Loguru only: what it imports itself cannot be seen to be imported.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Shared = Mapping[str, Any]

_KINDS: tuple[tuple[str, Callable[[int], bool]], ...] = (
    ("socket", stat.S_ISSOCK),
    ("pipe", stat.S_ISFIFO),
    ("file", stat.S_ISREG),
)


def shared_state() -> Shared:
    """What belongs to the whole process, by what people call it."""
    from loguru import logger

    root = logging.getLogger()
    return {
        "the environment": dict(os.environ),
        "the current directory": Path.cwd(),
        "the signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "the root logger": (root.level, list(root.handlers), list(root.filters), root.disabled, root.manager.disable),
        # Loguru has no other way to ask for them.
        "Loguru's handlers": sorted(logger._core.handlers),  # type: ignore[attr-defined]  # noqa: SLF001
        "what is done with exceptions nobody caught": (sys.excepthook, threading.excepthook),
        "the default timeout of sockets": socket.getdefaulttimeout(),
    }


def differences(before: Shared, after: Shared) -> list[str]:
    """What is not as it was."""
    return [what for what, value in before.items() if after[what] != value]


def threads() -> set[threading.Thread]:
    """Every thread there is now."""
    return set(threading.enumerate())


def descriptors() -> set[tuple[str, int, int]]:
    """Every open socket, pipe and file: its kind, its number, and which it is, as numbers are used again."""
    found = set()
    for name in os.listdir("/dev/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # that of the list itself
            continue
        for kind, is_one in _KINDS:
            if is_one(status.st_mode):
                found.add((kind, int(name), status.st_ino))
    return found


def _import_and_tell(module: str) -> None:
    state, running, opened = shared_state(), threads(), descriptors()
    importlib.import_module(module)
    changed = differences(state, shared_state())
    changed += [f"a thread ({thread.name})" for thread in threads() - running]
    changed += [f"an open {kind}" for kind, _, _ in descriptors() - opened]
    sys.stderr.write(f"\n{json.dumps(changed)}\n")


if __name__ == "__main__":
    _import_and_tell(sys.argv[1])
