"""What a StatsD server holds, and what it must be sent so that it holds what is true.

It keeps the last value of each gauge for ever, also of a hub that is long gone: so all are sent again on an interval, and
one that is no longer there is set to 0. Counters it adds up: of one that the hub has as a total only the growth is sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from .dialects import Sample

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A name with its labels."""
Gauged = Mapping[str, Iterable[Sample]]
"""The gauges of each owner: of the model or the sink that they are about."""


class Gauges:
    """The gauges that were sent."""

    def __init__(self) -> None:
        self._sent: dict[str, dict[Series, Sample]] = {}

    def to_send(self, now: Gauged, owners: Collection[str], *, all_of_them: bool) -> list[Sample]:
        """What to send so that the server holds the truth: gauges that changed, or all; and a 0 for each that is gone.

        Args:
            now: what these owners have now. Others have what they had.
            owners: all that there are.
            all_of_them: send also what did not change, of those in `now`.
        """
        gone = [sample for owner, held in self._sent.items() if owner not in owners for sample in held.values()]
        changed: list[Sample] = []
        for owner, samples in now.items():
            held, current = self._sent.get(owner, {}), _by_series(samples)
            gone += (sample for series, sample in held.items() if series not in current)
            changed += (sample for series, sample in current.items() if all_of_them or held.get(series) != sample)
        # The zeros first: where the group of a model has changed, both are one path in the plain dialect.
        return [replace(sample, value=0) for sample in gone] + changed

    def was_sent(self, now: Gauged, owners: Collection[str]) -> None:
        """The server holds the truth."""
        held = self._sent | {owner: _by_series(samples) for owner, samples in now.items()}
        self._sent = {owner: series for owner, series in held.items() if owner in owners}


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
