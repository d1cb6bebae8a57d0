"""From the table to metric families, anew for each scrape: so nothing stays behind of a model that is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mlxhub_core import ModelState, ModelStatus

from .table import Counts, Snapshot, Table

LABELS = ("model", "group")

_COUNTERS: tuple[tuple[str, str, Callable[[Counts], int]], ...] = (
    ("started", "Starts of the model's process.", lambda counts: counts.started),
    ("stopped", "Ends of the model's process that were asked for, or had exit code 0.", lambda counts: counts.stopped),
    ("restarts", "Starts of the model's process that nobody but the hub asked for.", lambda counts: counts.restarts),
)
_FLAGS: tuple[tuple[str, str, Callable[[ModelStatus], bool]], ...] = (
    ("ready", "Whether the model answers.", lambda status: status.state is ModelState.READY),
    ("up", "Whether the model has a process.", lambda status: status.pid is not None),
)


class HubCollector(Collector):
    """Shows a table to a registry."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def collect(self) -> Iterator[Metric]:
        """The families with the samples of this moment."""
        return _families(self._table.snapshot())

    def describe(self) -> Iterator[Metric]:
        """The families alone. The registry needs their names to answer `/metrics?name[]=…`."""
        return _families(Snapshot())


def _families(shown: Snapshot) -> Iterator[Metric]:
    yield _start_time(shown)
    yield from _counters(shown)
    yield _failures(shown)
    yield from _flags(shown)
    yield _states(shown)


def _start_time(shown: Snapshot) -> Metric:
    text = "When the hub began to tell this sink its events, in seconds since the epoch."
    family = GaugeMetricFamily("mlxhub_start_time_seconds", text)
    if shown.since is not None:
        family.add_metric((), shown.since)
    return family


def _counters(shown: Snapshot) -> Iterator[Metric]:
    for name, text, count in _COUNTERS:
        family = CounterMetricFamily(f"mlxhub_model_{name}", text, labels=LABELS)
        for row in shown.rows:
            family.add_metric(_labels(row.status), count(row.counts), created=shown.since)
        yield family


def _failures(shown: Snapshot) -> Metric:
    text = "Ends of the model's process that nobody asked for, by exit code (negative: a signal; empty: it never ran)."
    family = CounterMetricFamily("mlxhub_model_failed", text, labels=(*LABELS, "exit_code"))
    for row in shown.rows:
        for exit_code, count in row.counts.failed.items():
            # A series that is born at 1 looks to Prometheus as if nothing had happened, unless it is told since when.
            family.add_metric((*_labels(row.status), exit_code), count, created=shown.since)
    return family


def _flags(shown: Snapshot) -> Iterator[Metric]:
    for name, text, holds in _FLAGS:
        family = GaugeMetricFamily(f"mlxhub_model_{name}", text, labels=LABELS)
        for row in shown.rows:
            family.add_metric(_labels(row.status), holds(row.status))
        yield family


def _states(shown: Snapshot) -> Metric:
    text = "The model's state: exactly one is 1."
    family = GaugeMetricFamily("mlxhub_model_state", text, labels=(*LABELS, "state"))
    for row in shown.rows:
        for state in ModelState:
            family.add_metric((*_labels(row.status), state.value), row.status.state is state)
    return family


def _labels(status: ModelStatus) -> tuple[str, str]:
    # Never None, which would become the group "None".
    return status.name, status.group or ""
