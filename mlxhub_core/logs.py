"""One log file per model: where it is, how it is opened, and its last lines.

The model itself writes into the file, through its stdout and stderr: nothing of ours stands in between, so nothing is
lost or late. The file is opened to append, so that truncating it leaves no hole and a restart overwrites nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

TAIL_BYTES = 16 * 1024
"""How much of a log's end is read to find its last lines."""
TAIL_LINES = 20
"""How many lines of a dead model's output go along with the event."""
LINE_LENGTH = 500
"""Characters of one such line."""


def log_file(directory: Path, name: str) -> Path:
    """The log of the model `name`. Names are slugs, so it is always inside `directory`."""
    return directory / f"{name}.log"


def open_log(path: Path) -> int:
    """Open a log to append; its directory is made, readable only by the user if it was not there.

    Returns a file descriptor that children do not inherit by themselves.

    Raises:
        OSError: it cannot be opened, or is something that a reader or writer could be made to wait at, as a named pipe.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        # Not blocking, as opening a named pipe would else wait for a reader.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise _no_log(path) if error.errno == errno.ENXIO else error from None
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
        os.close(descriptor)
        raise _no_log(path)
    os.set_blocking(descriptor, True)
    return descriptor


def _no_log(path: Path) -> OSError:
    return OSError(errno.ENXIO, "no file that a log could be written to; remove it", str(path))


def size(path: Path) -> int:
    """Its length in bytes; 0 if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def read_from(path: Path, since: int, limit: int) -> bytes:
    """The last `limit` bytes of what was written from the byte `since` on; nothing if it cannot be read.

    A log that is shorter than `since` was truncated meanwhile, so all of it is newer.
    """
    try:
        # Should it be a named pipe by now, nobody shall wait for somebody to write into it.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return b""
            end = file.seek(0, os.SEEK_END)
            file.seek(max(since if since <= end else 0, end - limit))
            return file.read(limit)
    except OSError:
        return b""


def tail(path: Path, since: int = 0, lines: int = TAIL_LINES) -> tuple[str, ...]:
    """The last lines of a log, from the byte `since` on; none if it cannot be read."""
    text = read_from(path, since, TAIL_BYTES).decode("utf-8", errors="replace")
    shown = text.rstrip().split("\n") if text.strip() else []
    # A progress bar redraws its line after each carriage return; what it last showed is the line.
    return tuple(line.rstrip("\r").rpartition("\r")[2][:LINE_LENGTH] for line in shown[max(0, len(shown) - lines) :])
