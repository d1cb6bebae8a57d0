"""What the processes of models use, as the system says. Takes its time: about 0.1 ms for each process of the machine."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping

import psutil

from mlxhub_core.metrics.table import Usage
from mlxhub_core.states import ModelStatus

_ProcessKey = tuple[int, float]
"""A process: its number, which the system uses again, and when it was started."""


def memory_of(models: Iterable[ModelStatus]) -> Mapping[str, int]:
    """Bytes of memory of each model: of its process and all others of its session, which is what a stop ends.

    Those that have none are left out. Quicker than a `UsageMeter`: which session a process is in is told at once, and
    who its parent is not.
    """
    sessions = {model.pid: model.name for model in models if model.pid is not None}
    memory: dict[str, int] = defaultdict(int)
    for pid in psutil.pids() if sessions else ():
        with contextlib.suppress(OSError, psutil.Error):  # it has ended meanwhile, or the system does not let us look
            if (name := sessions.get(os.getsid(pid))) is not None:
                memory[name] += _memory(psutil.Process(pid))
    return memory


class UsageMeter:
    """Measures the process trees of models, again and again."""

    def __init__(self) -> None:
        self._cpu: dict[str, _Cpu] = {}

    def measure(self, models: Iterable[ModelStatus]) -> Mapping[str, Usage]:
        """What each model uses now, by its name. One without a process uses nothing, but keeps its time of computing."""
        models = list(models)
        self._cpu = {model.name: self._cpu.get(model.name) or _Cpu() for model in models}
        children = _children()
        return {model.name: self._of(model, children) for model in models}

    def _of(self, model: ModelStatus, children: Mapping[int, list[psutil.Process]]) -> Usage:
        cpu = self._cpu[model.name]
        memory = threads = 0
        fds: int | None = 0
        seconds: dict[_ProcessKey, float] = {}
        for process in _tree(model.pid, children):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    seconds[process.pid, process.create_time()] = times.user + times.system
                    memory += _memory(process)
                    threads += process.num_threads()
                fds = _sum(fds, _fds(process))
            except (psutil.Error, OSError):
                continue  # It has ended meanwhile, or the system does not let us look.
        return Usage(resident_memory=memory, cpu_seconds=cpu.add(seconds), open_fds=fds, threads=threads)


class _Cpu:
    """Adds up what the processes of one model have computed, so that the sum never gets less when one of them ends."""

    def __init__(self) -> None:
        self._total = 0.0
        self._before: Mapping[_ProcessKey, float] = {}

    def add(self, seconds: Mapping[_ProcessKey, float]) -> float:
        self._total += sum(max(0.0, value - self._before.get(key, 0.0)) for key, value in seconds.items())
        self._before = seconds
        return self._total


def _children() -> Mapping[int, list[psutil.Process]]:
    """The children of every process. One look at all is cheaper than one for each model."""
    children: dict[int, list[psutil.Process]] = defaultdict(list)
    for process in psutil.process_iter():
        try:
            children[process.ppid()].append(process)
        except (psutil.Error, OSError):
            continue
    return children


def _tree(pid: int | None, children: Mapping[int, list[psutil.Process]]) -> list[psutil.Process]:
    """A process and all that descend from it."""
    try:
        found = [] if pid is None else [psutil.Process(pid)]
    except (psutil.Error, OSError):
        return []
    for process in found:  # grows meanwhile
        found += children.get(process.pid, ())
    return found


def _memory(process: psutil.Process) -> int:
    """Bytes: the physical footprint where psutil tells it (on macOS it has what Metal holds; 7.2 does not), else RSS."""
    extended = getattr(process, "memory_info_ex", None)
    footprint = getattr(extended(), "phys_footprint", None) if extended is not None else None
    return int(footprint if footprint is not None else process.memory_info().rss)


def _fds(process: psutil.Process) -> int | None:
    try:
        return int(process.num_fds())
    except psutil.AccessDenied:
        return None


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
