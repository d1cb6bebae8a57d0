"""What a scrape of the prometheus sink costs, and what an event costs the hub with it, beside plain prometheus_client.

The floor of a scrape is a registry of `Counter`, `Gauge` and `Histogram` objects with as many series, behind the server of
the library; that of an event is one `inc()` of such a counter. A floor has no state that is right at the moment, keeps the
series of models that are gone, and loses the whole page to one that raises. Ways alternate, so that a busy moment hits all.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from contextlib import ExitStack

from mlxhub_prom_sink import PrometheusSink
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from bench.figure import OURS, Figure
from bench.pace import Pace
from mlxhub_core import HubEvent, HubInfo, HubModelContext, ModelState, ModelStatus, SinkStats
from mlxhub_core.metrics import CATALOGUE, Kind, Metric, Usage, prometheus_name
from mlxhub_core.runner import SinkRunner

FLOOR = "plain objects"
MODELS = 50
EVENTS = 500
"""Events in a round; fewer than the queue holds, so that none is dropped."""
ACCEPT = "application/openmetrics-text; version=1.0.0"
EVENT = HubEvent(seq=1, id="1", time=1000.0)


class Hub:
    """A hub with so many models, as a sink sees it."""

    def __init__(self, models: int) -> None:
        self._models = [
            ModelStatus(f"model-{i}", ModelState.READY, "chat", "", pid=1, port=27850 + i, exit_code=0, source="org/m")
            for i in range(models)
        ]

    def status(self) -> list[ModelStatus]:
        """All are ready."""
        return self._models

    def sink_stats(self) -> list[SinkStats]:
        """Three sinks."""
        return [SinkStats(f"sink-{i}", 9, 9, 0, 0, 0, 1024, True, None, 1000.0, 0.0) for i in range(3)]

    def info(self) -> HubInfo:
        """It has just started."""
        return HubInfo("0.1.0", "3.11", None, 1, "hub.yaml", 1000.0)


def figures(pace: Pace) -> list[Figure]:
    """Measure."""
    return [_scrapes(pace), _events(pace)]


def _scrapes(pace: Pace) -> Figure:
    figure = Figure(
        f"scrape of {MODELS} models",
        "ms",
        "a GET of /metrics in OpenMetrics; the floor is as many series as objects of prometheus_client, and its server",
        FLOOR,
    )
    with ExitStack() as stack:
        hub = Hub(MODELS)
        sink = PrometheusSink("127.0.0.1:0", process_metrics=False)
        sink.hub_started(hub=hub, event=EVENT)
        sink.set_usage({model.name: Usage(10**9, 1.0, 9, 9) for model in hub.status()})
        sink.open()
        stack.callback(sink.close)
        server, thread = start_http_server(0, "127.0.0.1", _plain(sink))
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        ports = {FLOOR: server.server_port, OURS: int(str(sink.where).split(":")[2].split("/")[0])}
        for _ in pace.rounds(30, 5, seconds=20):
            for name, port in ports.items():
                begin = time.perf_counter()
                _scrape(port)
                figure.add(name, (time.perf_counter() - begin) * 1000)
    return figure


def _scrape(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"Accept": ACCEPT, "Accept-Encoding": "identity"}
    connection.request("GET", "/metrics", headers=headers)
    body = connection.getresponse().read()
    connection.close()
    return body


def _plain(sink: PrometheusSink) -> CollectorRegistry:
    """The same series as objects of the library."""
    registry = CollectorRegistry()
    made = {metric.stem: _object(metric, registry) for metric in CATALOGUE}
    for sample in sink.samples():
        child = made[sample.metric.stem].labels(*sample.labels) if sample.labels else made[sample.metric.stem]
        if isinstance(child, Gauge) and isinstance(sample.value, int | float):
            child.set(sample.value)
    return registry


def _object(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    name = prometheus_name(metric, "plain")
    match metric.kind:
        case Kind.COUNTER:
            return Counter(name, metric.help, metric.labels, registry=registry)
        case Kind.HISTOGRAM:
            return Histogram(name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
    return Gauge(name, metric.help, metric.labels, registry=registry)


def _events(pace: Pace) -> Figure:
    figure = Figure(
        "event told to the Prometheus sink",
        "µs",
        f"of the hub's thread, until it is in the sink's queue; rounds of {EVENTS}; the floor is one `labels().inc()`",
        "plain Counter",
    )
    ctx = HubModelContext("model-0", "chat", "")
    runner = SinkRunner("prometheus", PrometheusSink("127.0.0.1:0", process_metrics=False), print)
    counter = Counter("plain", "A counter.", ("model", "group"), registry=CollectorRegistry())
    arguments = {"ctx": ctx, "exit_code": 0, "event": EVENT}
    ways: dict[str, Callable[[], object]] = {
        "plain Counter": lambda: counter.labels("model-0", "chat").inc(),
        OURS: lambda: runner.offer("model_stopped", arguments),
    }
    for _ in pace.rounds(40, 5, seconds=20):
        for name, call in ways.items():
            begin = time.perf_counter()
            for _ in range(EVENTS):
                call()
            figure.add(name, (time.perf_counter() - begin) / EVENTS * 1e6)
            while runner.stats().queue_length:
                time.sleep(0.001)
    runner.begin_close()
    runner.end_close(5)
    return figure
