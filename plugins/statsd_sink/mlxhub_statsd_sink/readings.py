"""What StatsD is sent of the catalogue of metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mlxhub_core import metrics
from mlxhub_core.metrics import CATALOGUE, Kind, Metric, statsd_name
from mlxhub_core.metrics.catalogue import FAILED, LAST_EXIT_CODE, RESTARTS, STARTED, STOPPED

from .dialects import Kind as WireKind
from .dialects import Sample

TOLD_BY_EVENTS = frozenset(metric.stem for metric in (STARTED, STOPPED, FAILED, RESTARTS))
"""Counters that are sent when the event comes, and not when the table is read: that of the last event of a model which
left hub.yaml would be in there no more."""

_NAMES = {metric.stem: statsd_name(metric) for metric in CATALOGUE}
_KINDS: dict[Kind, WireKind] = {Kind.COUNTER: "c", Kind.GAUGE: "g", Kind.HISTOGRAM: "ms"}


class Readings(NamedTuple):
    """The table at one moment, or some of it.

    Attributes:
        models: the gauges of each model.
        others: those of each sink.
        totals: counters, as they have grown from the beginning.
    """

    models: dict[str, list[Sample]]
    others: dict[str, list[Sample]]
    totals: list[Sample]


def is_for_statsd(metric: Metric) -> bool:
    """Whether StatsD has it: nothing that is always 1, no points in time or sums of it, and nothing of the hub itself.

    What StatsD knows of time are timers.
    """
    return metric.kind in _KINDS and bool(metric.labels) and (metric.unit != "s" or metric.kind is Kind.HISTOGRAM)


def sample_of(metric: Metric, labels: tuple[str, ...], value: float) -> Sample:
    """A value of a metric, as it goes on the wire. Of a histogram it is one observation, in milliseconds."""
    return Sample(_NAMES[metric.stem], _KINDS[metric.kind], value, tuple(zip(metric.labels, labels, strict=True)))


def read(samples: Iterable[metrics.Sample], *, signed: bool) -> Readings:
    """Sort the samples of the table; `signed`: with the gauges that may be below 0."""
    readings = Readings({}, {}, [])
    for metric, labels, value in samples:
        if isinstance(value, tuple) or metric.stem in TOLD_BY_EVENTS or not is_for_statsd(metric):
            continue
        if metric.kind is Kind.COUNTER:
            readings.totals.append(sample_of(metric, labels, value))
        elif signed or metric is not LAST_EXIT_CODE:
            owners = readings.models if metric.labels[0] == "model" else readings.others
            owners.setdefault(labels[0], []).append(sample_of(metric, labels, value))
    return readings
