"""How a process ended, and why. Pure."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from mlxhub_core.events import Failure, Reason
from mlxhub_core.exits import signal_name
from mlxhub_core.process import Exit
from mlxhub_core.vitals import Machine, Vitals

LOW_MEMORY = 0.05
"""Of all memory: with less than that left, a SIGKILL out of nowhere is the system's, where that does not say so."""

LAST_WORDS = 5
"""Lines at the end of its output in which a process says what it died of; before that it only talks."""
_SENT_BY_PEOPLE = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
_CODES_OF_PEOPLE = frozenset(code for number in _SENT_BY_PEOPLE for code in (-number, 128 + number))
"""The exit codes of one that such a signal ended, and of a shell whose child it ended."""

_OUT_OF_MEMORY = re.compile(
    r"insufficient memory|out[ _-]?of[ _-]?memory|\bMemoryError\b|\bbad_alloc\b|unable to allocate|cannot allocate memory"
    r"|\[metal::malloc\]",
    re.IGNORECASE,
)
"""What Metal (`kIOGPUCommandBufferCallbackErrorOutOfMemory`), CUDA (`CUDA_ERROR_OUT_OF_MEMORY`), Python, C++ and the C
library say when memory runs out."""
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[@-~]")


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the hub ends a process that nobody asked to end."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Shortage:
    """What points to the system having killed a process for want of memory.

    Attributes:
        kills: processes that it killed for that while this one ran; None: it does not say.
        low: whether memory was low when the process was last looked at.
    """

    kills: int | None
    low: bool


def shortage(before: int | None, vitals: Vitals | None, machine: Machine) -> Shortage:
    """What the machine says now.

    Args:
        before: its `oom_kills` when the process was started.
        vitals: what was seen at the last look at the process.
        machine: tells.
    """
    now = machine.oom_kills()
    if vitals is not None and vitals.oom_kills is not None:
        before = vitals.oom_kills
    kills = now - before if now is not None and before is not None else None
    low = vitals is not None and vitals.available_bytes < LOW_MEMORY * machine.total_memory()
    return Shortage(kills, low)


def failure(outcome: Exit, *, time: float, uptime: float, trouble: Trouble | None, memory: Shortage) -> Failure:
    """The story of a process that ended though nobody asked it to, or only the hub because of a `trouble`."""
    if trouble is not None:
        reason, detail = trouble.reason, trouble.detail or None
    else:
        reason, detail = _unasked(outcome, memory)
    return Failure(time, reason, outcome.code, signal_name(outcome.code), detail, uptime, outcome.tail)


def _unasked(outcome: Exit, memory: Shortage) -> tuple[Reason, str | None]:
    if outcome.code is None:
        return Reason.UNSUPERVISED, "its keeper was killed, so that nobody saw how it ended"
    for line in map(_plain, reversed(outcome.tail[-LAST_WORDS:])):
        if _OUT_OF_MEMORY.search(line) and outcome.code not in _CODES_OF_PEOPLE:
            return Reason.SUSPECTED_OOM, line
    if outcome.code in (-signal.SIGKILL, 128 + signal.SIGKILL):  # The latter is what a shell says of its child.
        if memory.kills:
            return Reason.SUSPECTED_OOM, "the system has killed processes for want of memory while it ran"
        if memory.kills is None and memory.low:
            return Reason.SUSPECTED_OOM, "it was killed while hardly any memory was left"
    return (Reason.SIGNAL if outcome.code < 0 else Reason.CRASH), None


def _plain(line: str) -> str:
    """Without colours, which hide where a word begins, and what else could upset a terminal: it is shown in the status."""
    text = _COLOUR.sub("", line)
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
