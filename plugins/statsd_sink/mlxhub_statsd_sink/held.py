"""What a StatsD server holds, and what it must be sent so that it holds what is true.

It keeps the last value of each gauge for ever, also of a hub that is long gone: so all are sent again on an interval, and
one that is no longer there is set to 0. Counters it adds up: of one that the hub has as a total only the growth is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .dialects import Sample

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A name with its labels."""


class Gauges:
    """The gauges that were sent."""

    def __init__(self) -> None:
        self._sent: dict[Series, Sample] = {}

    def to_send(self, now: Iterable[Sample], *, all_of_them: bool) -> list[Sample]:
        """What to send so that the server holds these: those that changed, or all; and a 0 for each that is gone."""
        current = _by_series(now)
        gone = [replace(sample, value=0) for series, sample in self._sent.items() if series not in current]
        changed = [sample for series, sample in current.items() if all_of_them or self._sent.get(series) != sample]
        # The zeros first: where the group of a model has changed, both are one path in the plain dialect.
        return gone + changed

    def was_sent(self, now: Iterable[Sample]) -> None:
        """The server holds these now, and no others."""
        self._sent = _by_series(now)


class Totals:
    """The totals up to which the growth was sent."""

    def __init__(self) -> None:
        self._sent: dict[Series, float] = {}

    def growth(self, now: Sequence[Sample]) -> list[Sample]:
        """What each has grown by since the last time; one that has begun anew has grown from 0."""
        before, self._sent = self._sent, {_series(sample): sample.value for sample in now}
        grown = []
        for sample in now:
            last = before.get(_series(sample), 0)
            growth = sample.value - (last if last <= sample.value else 0)
            if growth:
                grown.append(replace(sample, value=growth))
        return grown


def _by_series(samples: Iterable[Sample]) -> dict[Series, Sample]:
    return {_series(sample): sample for sample in samples}


def _series(sample: Sample) -> Series:
    return sample.name, sample.labels
