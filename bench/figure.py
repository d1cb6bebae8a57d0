"""A figure as data: what was measured, for whom, and what it should be. Table and plot are made of nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

OURS = "mlxhub"


@dataclass(frozen=True, slots=True)
class Bound:
    """One condition of a target: this statistic of ours is no worse than a limit, or than so many times another's.

    Attributes:
        statistic: of our samples, and of the other's.
        limit: in the figure's unit; with `than` a factor.
        than: whose figure the limit is a factor of; empty: the limit stands for itself.
    """

    statistic: Literal["median", "p95", "max"]
    limit: float
    than: str = ""


@dataclass(slots=True)
class Figure:
    """One line of the table.

    Attributes:
        name: what it is; also its place in the plot.
        unit: of every sample.
        how: how it was taken, in a sentence.
        floor: the contestant that does the least that the system allows; empty: there is none.
        better: whether less of it is better, or more.
        target: all of it must hold; empty: none was set.
        why: what keeps it from being met, with evidence. It is shown only when it is not met.
        samples: of each contestant, ours under `OURS`.
    """

    name: str
    unit: str
    how: str
    floor: str = ""
    better: Literal["less", "more"] = "less"
    target: tuple[Bound, ...] = ()
    why: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, contestant: str, *values: float) -> None:
        """Samples of a contestant, in the order in which contestants are shown."""
        self.samples.setdefault(contestant, []).extend(values)

    def value(self, statistic: str, contestant: str = OURS) -> float | None:
        """A statistic of a contestant's samples; None if it has none."""
        samples = self.samples.get(contestant)
        return STATISTICS[statistic](samples) if samples else None

    def holds(self, bound: Bound) -> bool | None:
        """Whether it does; None if one of the two has not been measured."""
        ours, other = self.value(bound.statistic), self.value(bound.statistic, bound.than)
        if ours is None or (bound.than and other is None):
            return None
        limit = bound.limit * other if bound.than and other is not None else bound.limit
        return ours <= limit if self.better == "less" else ours >= limit

    def ratio(self, contestant: str) -> float | None:
        """How many times worse than we a contestant is, by the medians; below 1 it is better."""
        ours, other = self.value("median"), self.value("median", contestant)
        if not ours or not other:
            return None
        return other / ours if self.better == "less" else ours / other


def p95(samples: list[float]) -> float:
    """The 95th percentile; of fewer than twenty samples the greatest."""
    return sorted(samples)[min(int(len(samples) * 0.95), len(samples) - 1)]


STATISTICS: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "p95": p95, "max": max}
