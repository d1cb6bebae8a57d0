"""What a StatsD server holds, and what it must be sent so that it holds what is true.

It keeps the last value of each gauge for ever, also of a hub that is long gone: so all are sent again on an interval, and
one that is no longer there is set to 0. Counters it adds up: of one that the hub has as a total only the growth is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
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
        self._sent: dict[Series, Sample] | None = None

    def to_send(self, now: Iterable[Sample]) -> list[Sample]:
        """What each has grown by. The first time that is nothing: who sent what was before is not known."""
        if self._sent is None:
            return []
        known = {series: sample.value for series, sample in self._sent.items()}
        grown = [replace(s, value=s.value - known.get(series, 0)) for series, s in _by_series(now).items()]
        return [sample for sample in grown if sample.value > 0]

    def was_sent(self, now: Iterable[Sample]) -> None:
        """The growth up to these was sent."""
        self._sent = _by_series(now)


def _by_series(samples: Iterable[Sample]) -> dict[Series, Sample]:
    return {(sample.name, sample.labels): sample for sample in samples}
