"""What is left of a run when its keeper or its hub has ended: files, and processes that nobody keeps."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

from mlxhub_core.keeper.session import ASK, birth, is_living, others, signal_session
from mlxhub_core.place import is_held, is_scarcity

POLL = 0.02
"""Seconds between looks at what no event tells: a socket that a keeper makes anew; on macOS, the end of an orphan."""
KILL_WAIT = 2.0
"""Seconds to wait for such a one after SIGKILL."""


def lock_of(place: Path) -> Path:
    """The file that its keeper holds locked."""
    return place.with_name(f"{place.name}.lock")


def keeper_of(place: Path) -> int:
    """The process id that the holder of a lock has written there. Raises ValueError if it has not."""
    return int(lock_of(place).read_text(encoding="ascii"))


def end_keeper(place: Path) -> dict[str, Any] | None:
    """See that a keeper has ended that cannot be spoken to. Returns what its file says. Raises as `state_of`."""
    with contextlib.suppress(OSError, ValueError):
        if is_held(lock_of(place)):
            os.kill(keeper_of(place), signal.SIGKILL)
    return state_of(place)


def abandon(place: Path) -> None:
    """Leave nothing of a start that was not answered in time."""
    state = end_keeper(place)
    if state is not None:
        end_session(state["pid"], state["birth"], 0.0)
    remove(place)


def state_of(place: Path) -> dict[str, Any] | None:
    """What the file of a run says; None if it cannot be read. Raises OSError: no file can be opened now."""
    try:
        state = json.loads(Path(f"{place}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if is_scarcity(error):
            raise
        return None
    return state if isinstance(state, dict) else None


def end_session(pid: int, born: str | None, grace: float) -> bool:
    """End a session that has no keeper, and wait for it. Returns whether that took a SIGKILL."""
    forced = False
    if is_living(pid, born):
        signal_session(pid, *ASK)
        if not _has_ended(pid, born, grace):
            forced = True
            signal_session(pid, signal.SIGKILL)
            _has_ended(pid, born, KILL_WAIT)
    if birth(pid) in (None, born) and any(others(pid)):
        signal_session(pid, signal.SIGKILL)
    return forced


def _has_ended(pid: int, born: str | None, seconds: float) -> bool:
    """Whether a process, which is no child of ours, ends within so many seconds."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):  # It has ended; or the system is too old for that after all.
            file = os.pidfd_open(pid)
            poll = select.poll()
            poll.register(file, select.POLLIN)
            try:
                return bool(poll.poll(seconds * 1000))
            finally:
                os.close(file)
    until = time.monotonic() + seconds
    while is_living(pid, born):
        if time.monotonic() > until:
            return False
        time.sleep(POLL)
    return True


def remove(place: Path) -> None:
    """Remove the files of a run."""
    # The lock first: a keeper that has not hung up yet writes the state, and then looks whether the lock is there.
    for ending in (".lock", ".json", ".json.part", ".sock"):
        with contextlib.suppress(OSError):
            Path(f"{place}{ending}").unlink(missing_ok=True)
