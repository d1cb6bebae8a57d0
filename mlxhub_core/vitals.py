"""How a process and the machine are doing: what a process has used so far, and how much memory is left."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from mlxhub_core import logs

_VMSTAT = Path("/proc/vmstat")
_OOM_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a process and its children had used at one moment.

    Attributes:
        cpu_seconds: time on any core. Less than before if a child has ended meanwhile.
        memory_bytes: memory of their own, without what the system can drop at once (mapped files, where it tells).
        log_bytes: the length of the log.
        available_bytes: memory of the whole machine that could be had without swapping.
    """

    cpu_seconds: float
    memory_bytes: int
    log_bytes: int
    available_bytes: int


class Machine(Protocol):
    """The machine's memory; `ThisMachine` is the real one."""

    def available_memory(self) -> int:
        """Bytes that could be had without swapping."""
        ...

    def total_memory(self) -> int:
        """Bytes that there are."""
        ...

    def oom_kills(self) -> int | None:
        """How many processes the system has killed for want of memory since it booted; None: it does not say."""
        ...


class ThisMachine:
    """The machine that the hub runs on."""

    def available_memory(self) -> int:
        """See `Machine`."""
        return int(psutil.virtual_memory().available)

    def total_memory(self) -> int:
        """See `Machine`."""
        return int(psutil.virtual_memory().total)

    def oom_kills(self) -> int | None:
        """See `Machine`. Only Linux says so (kernel.org/doc/Documentation/filesystems/proc.rst)."""
        try:
            found = _OOM_KILLS.search(_VMSTAT.read_text())
        except OSError:
            return None
        return int(found[1]) if found else None


def vitals_of(pid: int, log: Path | None) -> Vitals | None:
    """What a process and its children have used so far; None if it has ended, or the system does not let us look."""
    try:
        leader = psutil.Process(pid)
        own = _used(leader)
        if own is None:
            return None
        used = [own, *filter(None, map(_used, leader.children(recursive=True)))]
        available = ThisMachine().available_memory()
    except (psutil.Error, OSError):  # OSError: the hub itself has no file descriptor left.
        return None
    return Vitals(
        cpu_seconds=sum(cpu for cpu, _ in used),
        memory_bytes=sum(memory for _, memory in used),
        log_bytes=logs.size(log) if log else 0,
        available_bytes=available,
    )


def _used(process: psutil.Process) -> tuple[float, int] | None:
    """Seconds and bytes; None if it has ended, or the system does not let us look."""
    try:
        with process.oneshot():
            cpu, memory = process.cpu_times(), process.memory_info()
    except psutil.Error:
        return None
    # Linux still lists a process that is ending, or has ended and was not yet waited for, but it has nothing any more.
    if memory.vms == 0:
        return None
    # Linux counts mapped files with the rest, though it gives them back at once; macOS does not tell them apart.
    return cpu.user + cpu.system, memory.rss - getattr(memory, "shared", 0)
