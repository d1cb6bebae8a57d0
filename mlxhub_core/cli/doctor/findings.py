"""What the doctor finds, and that each look at something ends."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mlxhub_core.runner import described

Level = Literal["ok", "warn", "fail"]
FIRST_LIMIT = 12.0
"""Seconds for hub.yaml and the hub, which is asked two things and has five seconds for each."""
LIMIT = 25.0
"""Seconds for all else together: more than a first import of mlx from a cold disk, less than patience."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        check: what was looked at.
        level: whether all is well, something deserves a look, or the hub or a model cannot run like this.
        message: what was found, and what to do about it.
    """

    check: str
    level: Level
    message: str


Check = Callable[[], Iterable[Finding]]


def findings(checks: Sequence[tuple[str, Check]], limit: float = LIMIT) -> Iterator[Finding]:
    """What the checks find, in their order. They look at the same time, each on a thread of its own."""
    deadline = time.monotonic() + limit
    outcomes = [(name, _started(name, check)) for name, check in checks]
    for name, outcome in outcomes:
        try:
            yield from outcome.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            message = f"has not come back for {limit:g} s; a disk, a network or a program that it waits for hangs"
            yield Finding(name, "fail", message)


def _started(name: str, check: Check) -> queue.SimpleQueue[list[Finding]]:
    outcome: queue.SimpleQueue[list[Finding]] = queue.SimpleQueue()

    def look() -> None:
        try:
            outcome.put(list(check()))
        except BaseException as error:  # noqa: BLE001  # one that cannot look must not hide what the others find
            outcome.put([Finding(name, "fail", f"cannot be looked at: {described(error)}")])

    threading.Thread(target=look, name=f"doctor-{name}", daemon=True).start()
    return outcome
