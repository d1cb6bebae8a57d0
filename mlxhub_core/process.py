"""One child process: started in its own session, waited for by a thread of its own, stopped by a ladder.

The end of a process is an event: a thread sleeps in the kernel until it comes. Its whole session goes with its leader,
also groups that a shell made in it: what a model leaves behind would keep its port and its memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from mlxhub_core import logs
from mlxhub_core.launch import Launch

GROUP_POLL = (0.02, 0.25)
"""Seconds between looks at what is left of a session whose leader has ended, at first and at most: no event tells when
those end."""

KILL_WAIT = 1.0
"""Seconds to wait until the killed are gone; one that hangs in the kernel for longer is not waited for."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended.

    Attributes:
        code: its exit code, or the negative number of the signal that ended it, as `subprocess` has it.
        forced: whether the hub ended it, or a child of it, by SIGKILL.
        tail: the last lines of its output.
    """

    code: int
    forced: bool = False
    tail: tuple[str, ...] = ()


class Process(Protocol):
    """A running process, as the supervisor sees it."""

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group and of its session."""
        ...

    def stop(self, grace: float) -> None:
        """Ask its session to end (SIGTERM); after `grace` seconds make it (SIGKILL). Returns at once."""
        ...

    def kill(self) -> None:
        """Make its session end now (SIGKILL). Returns at once."""
        ...


class ProcessFactory(Protocol):
    """Starts processes; `spawn` is the real one."""

    def __call__(self, launch: Launch, log: Path, on_exit: Callable[[Exit], None]) -> Process:
        """Start a process that writes into `log`. `on_exit` is called once, from any thread, when it has ended.

        Raises:
            OSError: it cannot be started.
        """
        ...


def spawn(launch: Launch, log: Path, on_exit: Callable[[Exit], None]) -> Process:
    """Start a real process: own session and group, stdin from nowhere, stdout and stderr into `log`."""
    output = logs.open_log(log)
    try:
        begin = os.fstat(output).st_size
        popen = subprocess.Popen(
            launch.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=launch.cwd,
            env=dict(launch.env),
            start_new_session=True,
        )
    finally:
        os.close(output)
    try:
        return _Child(popen, lambda: logs.tail(log, since=begin), on_exit)
    except RuntimeError as error:  # No thread is left that could wait for it.
        _signal_session(popen.pid, signal.SIGKILL)
        popen.wait()
        raise OSError(errno.EAGAIN, str(error)) from None


class _Child:
    def __init__(
        self, popen: subprocess.Popen[bytes], tail: Callable[[], tuple[str, ...]], on_exit: Callable[[Exit], None]
    ) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._tail = tail
        self._on_exit = on_exit
        self._lock = threading.Lock()
        self._reaped = False
        self._forced = False
        self._deadline: float | None = None
        self._timer: threading.Timer | None = None
        threading.Thread(target=self._wait, name=f"wait-{self.pid}", daemon=True).start()

    def stop(self, grace: float) -> None:
        with self._lock:
            if self._deadline is not None or self._reaped:
                return
            self._deadline = time.monotonic() + grace
            self._timer = threading.Timer(grace, self.kill)
            self._timer.daemon = True
        try:
            self._timer.start()
        except RuntimeError:  # No thread is left that could count the seconds, and who is to stop shall stop.
            self.kill()
            return
        self._signal(signal.SIGTERM)
        # A stopped process (Ctrl-Z, SIGSTOP) would not see the SIGTERM before it is let go on.
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._forced = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with self._lock:
            # Once its leader is reaped the kernel may give the session's number to a stranger.
            if not self._reaped:
                _signal_session(self.pid, number)

    def _wait(self) -> None:
        _until_dead(self.pid)
        self._clear_session()
        with self._lock:
            code = self._popen.wait()
            self._reaped = True
            if self._timer is not None:
                self._timer.cancel()
        forced = self._deadline is not None and self._forced
        self._on_exit(Exit(code, forced, self._tail()))

    def _clear_session(self) -> None:
        """Nothing of the session outlives its leader: after a stop it has the rest of the grace, after a crash none."""
        self._await_session(until=self._deadline or 0.0)
        if any(_others(self.pid)):
            self.kill()
            self._await_session(until=time.monotonic() + KILL_WAIT)

    def _await_session(self, until: float) -> None:
        pause = GROUP_POLL[0]
        while time.monotonic() < until and any(_others(self.pid)):
            time.sleep(pause)
            pause = min(pause * 1.5, GROUP_POLL[1])


def _until_dead(pid: int) -> None:
    """Sleep until our child `pid` has ended, without reaping it: so its group's number stays its own."""
    if hasattr(os, "waitid"):
        # No child: whoever embeds us ignores SIGCHLD, or waits for all children; it has ended all the same.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return
    queue = select.kqueue()  # type: ignore[attr-defined, unused-ignore]  # macOS before Python 3.13
    try:
        flags = select.KQ_EV_ADD | select.KQ_EV_ONESHOT  # type: ignore[attr-defined, unused-ignore]
        exit_of = select.kevent(pid, select.KQ_FILTER_PROC, flags, select.KQ_NOTE_EXIT)  # type: ignore[attr-defined, unused-ignore]
        queue.control([exit_of], 1)
    except ProcessLookupError:
        pass  # It had ended before we asked.
    finally:
        queue.close()


def _signal_session(leader: int, number: int) -> None:
    groups = {leader: None}
    for pid in _others(leader):
        with contextlib.suppress(OSError):
            groups[os.getpgid(pid)] = None
    # By group: one by one, a child that is made meanwhile would be missed.
    for group in groups:
        # Nobody is left; or, on macOS, only the dead leader.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


def _others(leader: int) -> Iterator[int]:
    """The living members of a session besides its leader."""
    for pid in psutil.pids():
        try:
            if pid != leader and os.getsid(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                yield pid
        except (OSError, psutil.Error):
            continue
