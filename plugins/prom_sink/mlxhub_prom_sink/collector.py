"""From samples to metric families, anew for each scrape: so nothing stays behind of a model that is gone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from mlxhub_core.metrics import CATALOGUE, Histogram, Kind, Metric, MetricSink, Sample, prometheus_name

ERRORS = Metric(
    "exposition.errors",
    Kind.COUNTER,
    (),
    "Scrapes that were answered with what the last good one had.",
    "{error}",
)
"""What the exposition says of itself, beside the catalogue."""

_SUFFIXES = {Kind.COUNTER: "_total", Kind.INFO: "_info"}
"""What the library adds to a name by itself."""


class HubCollector(Collector):
    """Shows the samples of a sink to a registry. Never raises: that would cost the whole scrape.

    Args:
        source: what to show.
        namespace: what all names begin with.
        created: whether counters say since when they count; only OpenMetrics has a place for that.
    """

    def __init__(self, source: MetricSink, namespace: str, *, created: bool) -> None:
        self._source = source
        self._namespace = namespace
        self._created = created
        self._lock = threading.Lock()
        self._errors = 0
        self._last_good: list[Family] = []

    def collect(self) -> Iterator[Family]:
        """The families with the samples of this moment."""
        try:
            shown = self._families(self._source.samples(), self._source.since)
        except Exception:
            with self._lock:
                self._errors += 1
                shown = self._last_good
            logging.getLogger(__name__).exception("a bug in mlxhub-prom-sink; please report it with these lines")
        else:
            self._last_good = shown
        yield from shown
        yield CounterMetricFamily(self._name(ERRORS), ERRORS.help, value=self._errors, created=self._since())

    def describe(self) -> Iterator[Family]:
        """The families alone. The registry needs their names to answer `/metrics?name[]=…`."""
        yield from self._families((), None)
        yield CounterMetricFamily(self._name(ERRORS), ERRORS.help)

    def _since(self) -> float | None:
        return self._source.since if self._created else None

    def _families(self, samples: Iterable[Sample], since: float | None) -> list[Family]:
        of: dict[str, list[Sample]] = {metric.stem: [] for metric in CATALOGUE}
        for sample in samples:
            of[sample.metric.stem].append(sample)
        created = since if self._created else None
        return [_family(metric, self._name(metric), of[metric.stem], created) for metric in CATALOGUE]

    def _name(self, metric: Metric) -> str:
        return prometheus_name(metric, self._namespace).removesuffix(_SUFFIXES.get(metric.kind, ""))


def _family(metric: Metric, name: str, samples: Sequence[Sample], created: float | None) -> Family:
    family: Family
    match metric.kind:
        case Kind.COUNTER:
            family = counter = CounterMetricFamily(name, metric.help, labels=metric.labels)
            for _, labels, value in samples:
                # A series that is born at 1 looks to Prometheus as if nothing had happened, unless told since when.
                counter.add_metric(labels, value, created=created)  # type: ignore[arg-type]
        case Kind.GAUGE:
            family = gauge = GaugeMetricFamily(name, metric.help, labels=metric.labels)
            for _, labels, value in samples:
                gauge.add_metric(labels, value)  # type: ignore[arg-type]
        case Kind.INFO:
            family = info = InfoMetricFamily(name, metric.help, labels=metric.labels)
            for _, labels, _ in samples:
                info.add_metric(labels, {})
        case Kind.HISTOGRAM:
            family = _histogram(metric, name, samples, created)
    return family


def _histogram(metric: Metric, name: str, samples: Sequence[Sample], created: float | None) -> Family:
    family = HistogramMetricFamily(name, metric.help, labels=metric.labels)
    bounds = [str(floatToGoString(bound)) for bound in (*metric.buckets, float("inf"))]  # type: ignore[no-untyped-call]
    for _, labels, value in samples:
        assert isinstance(value, Histogram)
        family.add_metric(labels, list(zip(bounds, accumulate(value.counts), strict=True)), value.sum)
        if created is not None:
            family.add_sample(f"{name}_created", dict(zip(metric.labels, labels, strict=True)), created)
    return family
