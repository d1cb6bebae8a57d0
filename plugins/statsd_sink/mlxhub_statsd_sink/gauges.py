"""What a StatsD server holds: it keeps the last value of each gauge for ever, also of a hub that is long gone.

So all are sent again on an interval, and one whose model or sink is no longer there is set to 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .dialects import Sample


class Gauges:
    """The gauges that were sent, and with that those that must be sent."""

    def __init__(self) -> None:
        self._sent: dict[tuple[object, ...], Sample] = {}

    def to_send(self, now: Iterable[Sample], *, all_of_them: bool) -> list[Sample]:
        """What to send so that the server holds these: those that changed, or all; and a 0 for each that is gone."""
        current = _by_series(now)
        gone = [replace(sample, value=0) for series, sample in self._sent.items() if series not in current]
        # The zeros first: where the group of a model has changed, both are one path in the plain dialect.
        return gone + [sample for series, sample in current.items() if all_of_them or self._sent.get(series) != sample]

    def was_sent(self, now: Iterable[Sample]) -> None:
        """The server holds these now, and no others."""
        self._sent = _by_series(now)


def _by_series(samples: Iterable[Sample]) -> dict[tuple[object, ...], Sample]:
    return {(sample.name, sample.labels): sample for sample in samples}
