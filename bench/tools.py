"""What every family needs: a place of its own, lines out of a named pipe, and what processes have used."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

MARK = "MLXHUB_BENCH"
"""In the environment of all that a run starts: the directory of the run, or the one below it for which it was started."""


@contextmanager
def place() -> Iterator[Path]:
    """A directory that is gone afterwards, with all that was started for it and still runs."""
    directory = Path(tempfile.mkdtemp(dir=os.environ[MARK]))
    try:
        yield directory
    finally:
        end_all(marked(str(directory)))
        shutil.rmtree(directory, ignore_errors=True)


def environment(directory: Path) -> dict[str, str]:
    """For whatever is started for a directory."""
    return {**os.environ, MARK: str(directory)}


def marked(directory: str = "") -> list[psutil.Process]:
    """The processes that were started for a directory, or for any of this run; not this one."""
    wanted = directory or os.environ[MARK]
    return [each for each in psutil.process_iter() if each.pid != os.getpid() and _mark(each).startswith(wanted)]


def _mark(process: psutil.Process) -> str:
    try:
        return process.environ().get(MARK, "")
    except (psutil.Error, OSError):
        return ""


def end_all(processes: Collection[psutil.Process]) -> None:
    """Kill them, and wait until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    # Not psutil.wait_procs, which takes a second and more for those of others.
    wait(gone(process.pid for process in processes), 0.002, timeout=10)


class Lines:
    """A named pipe into which others write lines, and which nobody needs to open first."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._end = os.open(path, os.O_RDWR)
        self._rest = b""

    def next(self, timeout: float = 60) -> tuple[str, float]:
        """The next line, and when it was read: seconds of the monotonic clock.

        Raises:
            TimeoutError: none came.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            if not select.select([self._end], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"nothing was written into {self.path.name} for {timeout:g} s")
            self._rest += os.read(self._end, 65536)
        now = time.monotonic()
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode(), now

    def clear(self) -> None:
        """Forget what was written until now."""
        while select.select([self._end], [], [], 0)[0]:
            os.read(self._end, 65536)
        self._rest = b""

    def close(self) -> None:
        """Let go of it."""
        os.close(self._end)


def wait(condition: Callable[[], bool], pause: float = 0.01, timeout: float = 60) -> None:
    """Until it is so.

    Raises:
        TimeoutError: it never was.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what a figure waits for did not happen")
        time.sleep(pause)


def gone(pids: Iterable[int]) -> Callable[[], bool]:
    """Whether all of these processes have ended; to be asked again and again."""
    left = set(pids)

    def look() -> bool:
        left.intersection_update([pid for pid in left if alive(pid)])
        return not left

    return look


def alive(pid: int) -> bool:
    """Whether it runs. A zombie does not."""
    try:
        os.kill(pid, 0)
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """What they have used of the processors: to the nanosecond on Linux, where it is usually counted in hundredths."""
    return sum(_cpu_seconds(process) for process in processes)


def _cpu_seconds(process: psutil.Process) -> float:
    tasks = list(Path(f"/proc/{process.pid}/task").glob("*/schedstat"))
    if tasks:
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
    times = process.cpu_times()
    return float(times.user + times.system)


def switches(processes: Iterable[psutil.Process]) -> int:
    """How often they were given a processor: with no work to do, how often they woke up."""
    return sum(_switches(process) for process in processes)


def _switches(process: psutil.Process) -> int:
    tasks = list(Path(f"/proc/{process.pid}/task").glob("*/status"))
    if not tasks:
        return int(sum(process.num_ctx_switches()))
    # psutil would give those of the first thread alone.
    return sum(
        int(line.split()[1]) for task in tasks for line in task.read_text().splitlines() if "ctxt_switches" in line
    )


def memory_mib(processes: Iterable[psutil.Process]) -> float:
    """What they keep, each page shared out among those who share it; on a Mac only what they do not share."""
    infos = [process.memory_full_info() for process in processes]
    return float(sum(getattr(info, "pss", info.uss) for info in infos)) / 2**20


def free_port() -> int:
    """A port of the loopback that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
