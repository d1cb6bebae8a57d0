"""One log file per model: where it is, how it is opened, and its last lines.

The model itself writes into the file, through its stdout and stderr: nothing of ours stands in between, so nothing is
lost or late. The file is opened to append, so that truncating it leaves no hole and a restart overwrites nothing.
"""

from __future__ import annotations

import os
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

    Returns a file descriptor that children do not inherit by themselves. Raises OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


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
        with path.open("rb") as file:
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
