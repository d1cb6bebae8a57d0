"""From the table of metrics to instruments of a MeterProvider of our own: the global one is the program's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    Histogram,
    MeterProvider,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
)
from opentelemetry.sdk.metrics.export import CardinalityLimits, InMemoryMetricReader, MetricsData, ResourceMetrics
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import Metric as MetricData
from opentelemetry.sdk.resources import Resource

from mlxhub_core.metrics import CATALOGUE, Kind, Metric, Sample, otlp_name
from mlxhub_core.metrics.catalogue import START_DURATION, STARTED

from .names import MODEL, attributes_of, is_for_otlp

_MANY = 1_000_000
_SERIES: CardinalityLimits = {
    Histogram: _MANY,
    ObservableCounter: _MANY,
    ObservableGauge: _MANY,
    ObservableUpDownCounter: _MANY,
}
"""The SDK throws all series of an instrument beyond 2000 together, and counts those of models that are long gone."""

Observer = Callable[[CallbackOptions], Iterable[Observation]]


class Instruments:
    """One for each metric of the catalogue. All but the histogram show the table as it is when it is read.

    Args:
        resource: who sends it.
        version: of this package.
    """

    def __init__(self, resource: Resource, version: str) -> None:
        self._reader = InMemoryMetricReader(
            cardinality_limits=_SERIES
        )  # which sends nothing by itself, and has no thread
        self._provider = MeterProvider(
            [self._reader], resource, exemplar_filter=AlwaysOffExemplarFilter(), shutdown_on_exit=False
        )
        self._now: dict[str, list[Observation]] = {}
        meter = self._provider.get_meter("mlxhub", version)
        for metric in filter(is_for_otlp, CATALOGUE):
            self._make(meter, metric)
        self._durations = meter.create_histogram(
            otlp_name(START_DURATION),
            START_DURATION.unit,
            START_DURATION.help,
            explicit_bucket_boundaries_advisory=START_DURATION.buckets,
        )

    def started_after(self, seconds: float, labels: tuple[str, str]) -> None:
        """Count how long a start took, of the model and the group that these labels name."""
        self._durations.record(seconds, attributes_of(START_DURATION, labels))

    def read(self, samples: Iterable[Sample]) -> MetricsData:
        """All metrics at this moment."""
        now: dict[str, list[Observation]] = defaultdict(list)
        for metric, labels, value in samples:
            if is_for_otlp(metric) and not isinstance(value, tuple):
                now[metric.stem].append(Observation(value, attributes_of(metric, labels)))
        self._now = now
        data = self._reader.get_metrics_data() or MetricsData([])
        there = {str((observation.attributes or {})[MODEL]) for observation in now[STARTED.stem]}
        return _without_the_gone(data, there)

    def close(self) -> None:
        """Let go of them."""
        self._provider.shutdown()

    def _make(self, meter: Meter, metric: Metric) -> None:
        name, what = otlp_name(metric), (metric.unit, metric.help)
        if metric.kind is Kind.COUNTER:
            meter.create_observable_counter(name, [self._observer(metric)], *what)
        elif metric.additive:
            meter.create_observable_up_down_counter(name, [self._observer(metric)], *what)
        elif metric.kind is Kind.GAUGE:
            meter.create_observable_gauge(name, [self._observer(metric)], *what)

    def _observer(self, metric: Metric) -> Observer:
        return lambda _options: self._now.get(metric.stem, ())


def _without_the_gone(data: MetricsData, models: set[str]) -> MetricsData:
    """The SDK's histograms keep a series for ever, also that of a model that has left hub.yaml."""

    def of_those_there(metrics: Iterable[MetricData]) -> Iterator[MetricData]:
        for metric in metrics:
            if not isinstance(metric.data, HistogramData):
                yield metric
            elif points := [p for p in metric.data.data_points if str((p.attributes or {})[MODEL]) in models]:
                yield replace(metric, data=replace(metric.data, data_points=points))

    def only(resource: ResourceMetrics) -> ResourceMetrics:
        scopes = [replace(scope, metrics=list(of_those_there(scope.metrics))) for scope in resource.scope_metrics]
        return replace(resource, scope_metrics=scopes)

    return MetricsData([only(resource) for resource in data.resource_metrics])
