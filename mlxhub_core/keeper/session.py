"""The session of a model: its process, what that starts, how all of it is ended, and how a process is told from others."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

SESSION_POLL = (0.02, 0.25)
"""Seconds between looks at what is left of a session whose leader has ended, at first and at most: no event tells."""
ASK = (signal.SIGTERM, signal.SIGCONT)
"""What asks a process to end: one that is stopped (Ctrl-Z, SIGSTOP) sees the SIGTERM only when it goes on."""
KILL_WAIT = 1.0
"""Seconds to wait until the killed are gone; one that hangs in the kernel for longer is not waited for."""
_PROC = "/proc/self/stat"


class Session:
    """The model's process and all that it has in its session. Nothing of a session outlives its leader for long.

    Args:
        order: ``argv``, ``env`` and ``cwd``.
        output: the writing end of a pipe.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, order: dict[str, Any], output: int) -> None:
        self._popen = subprocess.Popen(
            order["argv"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=order["cwd"],
            env=order["env"],
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self._asked = self._killed = self._over = False
        self._kill_at: float | None = None
        self._give_up_at: float | None = None
        self._pause = SESSION_POLL[0]

    @property
    def forced(self) -> bool:
        """Whether it was asked to end and had to be made to."""
        return self._asked and self._killed

    def stop(self, grace: float) -> None:
        """Ask it to end (SIGTERM); after so many seconds it is made to (SIGKILL)."""
        kill_at = time.monotonic() + grace
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)
        if not self._asked:
            self._asked = True
            signal_session(self.pid, *ASK)

    def kill(self) -> None:
        """Make it end now (SIGKILL)."""
        self._killed = True
        signal_session(self.pid, signal.SIGKILL)

    def abort(self) -> None:
        """Make it end, and wait for that: nobody will keep it."""
        self.kill()
        self._popen.wait()

    def look(self) -> float | None:
        """Do what is due. Returns the seconds until something else is; None: nothing is, until the leader ends.

        When all of it has ended, `ended` says so.
        """
        now = time.monotonic()
        if not self._over and self._leader_has_ended():
            self._over = True
            if not self._asked or self._killed:
                self._kill_at = now  # After a crash the rest has no grace, after a stop what is left of it.
        if self._over and self._is_alone():
            self._give_up_at = now
            return 0.0
        if self._kill_at is not None and now >= self._kill_at and self._give_up_at is None:
            self.kill()
            self._kill_at = None
            if self._over:
                self._give_up_at = now + KILL_WAIT
        if not self._over:
            return None if self._kill_at is None else self._kill_at - now
        pause, self._pause = self._pause, min(self._pause * 1.5, SESSION_POLL[1])
        return pause

    @property
    def ended(self) -> bool:
        """Whether all of it has ended, or was killed and not waited for any longer."""
        return self._over and self._give_up_at is not None and time.monotonic() >= self._give_up_at

    def reap(self) -> int:
        """How its leader ended: the exit code, or the negative number of a signal."""
        return self._popen.wait()

    def _is_alone(self) -> bool:
        try:
            return not any(others(self.pid))
        except OSError:  # No file can be opened, or no `ps` started, to find that out: it is tried again.
            return False

    def _leader_has_ended(self) -> bool:
        if hasattr(os, "waitid"):
            # Not reaped: so the number of its group cannot pass to a stranger.
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        return self._popen.poll() is not None  # macOS before Python 3.13


def others(leader: int) -> Iterator[int]:
    """The living members of a session besides its leader. Raises OSError if they cannot be found out now."""
    session_of = os.getsid
    for pid in _pids():
        try:  # a tenth of the cost of `contextlib.suppress`, for each process there is
            if session_of(pid) != leader:
                continue
        except OSError:
            continue
        if pid != leader and not _is_zombie(pid):
            yield pid


def signal_session(leader: int, *numbers: int) -> None:
    """Send signals to all of a session; if its members cannot be found out now, to the group of its leader."""
    groups = {leader: None}
    with contextlib.suppress(OSError):
        for pid in others(leader):
            with contextlib.suppress(OSError):
                groups[os.getpgid(pid)] = None
    # By group: one by one, a child that is made meanwhile would be missed.
    for group in groups:
        # Nobody is left; or, on macOS, only the dead leader.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            for number in numbers:
                os.killpg(group, number)


def birth(pid: int) -> str | None:
    """What tells a process from all others that ever have its number; None: there is none.

    Raises:
        OSError: that cannot be found out now, as no file can be opened, or no process started.
    """
    if os.path.exists(_PROC):
        if (found := _stat(pid)) is None:
            return None
        return f"{_boot()} {found[19]}"  # proc(5): starttime, in clock ticks since boot
    return _ps("-o", "lstart=", "-p", str(pid)).strip() or None


def is_living(pid: int, born: str | None) -> bool:
    """Whether the process that was `born` so still runs. Raises as `birth`."""
    return birth(pid) == born is not None and not _is_zombie(pid)


def session_lives(leader: int, born: str | None) -> bool:
    """Whether anything is left of the session of the process that was `born` so. Raises as `birth`."""
    found = birth(leader)
    if found is not None:
        # No number is given away as long as a session has it: so if it is a stranger's, nothing is left.
        return found == born and (not _is_zombie(leader) or any(others(leader)))
    # Nor does anything outlive the boot. Where that has no name, nobody is taken for what he might not be.
    return born is not None and _boot() != "" and born.startswith(_boot()) and any(others(leader))


def _pids() -> Iterator[int]:
    if os.path.exists(_PROC):
        return map(int, filter(str.isdigit, os.listdir("/proc")))
    return map(int, _ps("-axo", "pid=").split())


def _is_zombie(pid: int) -> bool:
    if not os.path.exists(_PROC):
        return _ps("-o", "stat=", "-p", str(pid)).startswith("Z")
    found = _stat(pid)
    return found is None or found[0] in ("Z", "X")


def _boot() -> str:
    """What tells this boot of a Linux machine from all others."""
    with contextlib.suppress(OSError):
        return _boot_id()
    return ""


@functools.cache
def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", "rb") as boot:
        return boot.read().decode().strip()


def _stat(pid: int) -> list[str] | None:
    """What Linux tells of a process, from its state on; None: there is none, or it is none of ours."""
    try:
        # As bytes: its name may be no text, and a decoder of text would cost a keeper an import at each start.
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _ps(*arguments: str) -> str:
    program = ["/bin/ps", *arguments]
    environment = {"LC_ALL": "C", "TZ": "UTC"}  # A birth must look the same after a journey.
    done = subprocess.run(
        program, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.stdout
