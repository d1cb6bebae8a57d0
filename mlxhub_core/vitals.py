"""How a process and the machine are doing: what a process has used so far, and how much memory is left."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
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
        io_bytes: read from and written to files, those that went to or came from the disk twice; good for comparisons
            only. 0 where the system does not say (macOS).
        available_bytes: memory of the whole machine that could be had without swapping.
        oom_kills: see `Machine`.
    """

    cpu_seconds: float
    memory_bytes: int
    log_bytes: int
    available_bytes: int
    oom_kills: int | None = None
    io_bytes: int = 0


class Machine(Protocol):
    """The machine's memory; `ThisMachine` is the real one."""

    def available_memory(self) -> int:
        """Bytes that could be had without swapping."""
        ...

    def total_memory(self) -> int:
        """Bytes that there are."""
        ...

    def memory_of(self, pid: int) -> int:
        """Bytes that a process has, without its children; 0 if it has ended."""
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
        return _total_memory()

    def memory_of(self, pid: int) -> int:
        """See `Machine`."""
        vitals = vitals_of(pid, None, children=())
        return vitals.memory_bytes if vitals else 0

    def oom_kills(self) -> int | None:
        """See `Machine`. Only Linux says so (kernel.org/doc/Documentation/filesystems/proc.rst)."""
        try:
            found = _OOM_KILLS.search(_VMSTAT.read_text())
        except OSError:
            return None
        return int(found[1]) if found else None


@functools.cache
def _total_memory() -> int:
    return int(psutil.virtual_memory().total)


def children_of(pid: int) -> Sequence[psutil.Process]:
    """All that descend from a process. Costs a look at every process there is; empty if the system does not let us."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except (psutil.Error, OSError):
        return ()


def vitals_of(pid: int, log: Path | None, children: Sequence[psutil.Process] | None = None) -> Vitals | None:
    """What a process and its children have used so far.

    Args:
        pid: the process.
        log: the file with its output.
        children: those that are known to belong to it; None: look for them.

    Returns:
        None if it has ended, or the system does not let us look.
    """
    try:
        own = _used(psutil.Process(pid))
        if own is None:
            return None
        known = children_of(pid) if children is None else [child for child in children if child.is_running()]
        used = [own, *filter(None, map(_used, known))]
        machine = ThisMachine()
        available, kills = machine.available_memory(), machine.oom_kills()
    except (psutil.Error, OSError):  # OSError: the hub itself has no file descriptor left.
        return None
    return Vitals(
        cpu_seconds=sum(cpu for cpu, _, _ in used),
        memory_bytes=sum(memory for _, memory, _ in used),
        io_bytes=sum(io for _, _, io in used),
        log_bytes=logs.size(log) if log else 0,
        available_bytes=available,
        oom_kills=kills,
    )


def _used(process: psutil.Process) -> tuple[float, int, int] | None:
    """Seconds, bytes of memory and of files; None if it has ended, or the system does not let us look."""
    try:
        with process.oneshot():
            cpu, memory = process.cpu_times(), process.memory_info()
    except psutil.Error:
        return None
    # Linux still lists a process that is ending, or has ended and was not yet waited for, but it has nothing any more.
    if memory.vms == 0:
        return None
    # Linux counts mapped files with the rest, though it gives them back at once; macOS does not tell them apart.
    return cpu.user + cpu.system, memory.rss - getattr(memory, "shared", 0), _io(process)


def _io(process: psutil.Process) -> int:
    try:
        counters = process.io_counters()
    except (AttributeError, RuntimeError, psutil.Error):  # RuntimeError: the system says nothing of this one.
        return 0
    # What comes by mapped files is counted only as it is fetched, and what comes from the cache only as it is read.
    return int(counters.read_chars + counters.write_chars + counters.read_bytes + counters.write_bytes)
