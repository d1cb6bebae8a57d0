"""One log file per model, as the hub sees it: where it is, its length, what was written since.

The model's keeper writes it, see ``mlxhub_core.keeper``; while there is none, the hub can rotate it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mlxhub_core.keeper.logfile import Log


def log_file(directory: Path, name: str) -> Path:
    """The log of the model `name`. Names are slugs, so it is always inside `directory`."""
    return directory / f"{name}.log"


def hub_log_file(directory: Path) -> Path:
    """The log of a hub that runs in the background. No model's log has this name: theirs begin with a letter or digit."""
    return directory / "_hub.log"


def rotate(path: Path, backups: int) -> str | None:
    """Rotate a log that nobody writes, so that so many rotated ones are kept; what was in the way, or None.

    It is compressed when the model is started again.
    """
    log = Log(str(path), {"max_bytes": None, "backups": backups, "compress": False}, lambda _: None)
    try:
        log.rotate()
    except OSError as error:
        return error.strerror or str(error)
    finally:
        log.close()
    return None


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
