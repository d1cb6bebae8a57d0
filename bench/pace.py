"""How often and how long: a full run, or a quick one that shows that all works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pace:
    """What the families ask before they repeat something.

    Attributes:
        quick: few samples; under a minute for all families together.
    """

    quick: bool = False

    def pick(self, full: T, quick: T) -> T:
        """One of the two."""
        return quick if self.quick else full

    def rounds(self, full: int, quick: int, seconds: float = 100) -> Iterator[int]:
        """Numbers of rounds, until there were enough, or the time is over: a slow machine takes fewer, not longer.

        Args:
            full: how many are enough in a full run.
            quick: in a quick one.
            seconds: what a full run may take for it; a quick one may take a sixth of that.
        """
        end = time.monotonic() + (seconds / 6 if self.quick else seconds)
        for number in range(self.pick(full, quick)):
            if number and time.monotonic() > end:
                return
            yield number
