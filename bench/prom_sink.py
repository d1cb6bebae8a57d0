"""What a scrape of the prometheus sink costs, and what an event costs the hub with it, beside plain prometheus_client.

The floor of a scrape is a registry of `Counter`, `Gauge` and `Histogram` objects with as many series, behind the server of
the library; that of an event is one `inc()` of such a counter. A floor has no state that is right at the moment, keeps the
series of models that are gone, and loses the whole page to one that raises. Ways alternate, so that a busy moment hits all.
"""

from __future__ import annotations

import gc
import http.client
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from mlxhub_prom_sink import PrometheusSink
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from mlxhub_core import HubEvent, HubInfo, HubModelContext, ModelState, ModelStatus, SinkStats
from mlxhub_core.metrics import CATALOGUE, Kind, Metric, Usage, prometheus_name
from mlxhub_core.runner import SinkRunner

SCRAPES = 30
EVENTS = 500
"""Events in a round; fewer than the queue holds, so that none is dropped."""
ROUNDS = 40
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


def main() -> None:
    """Measure and print two tables."""
    print(f"Python {sys.version.split()[0]} on {sys.platform}; medians")
    print(f"\nA scrape over HTTP in OpenMetrics, {SCRAPES} times")
    print(f"{'models':>6} {'series':>7} {'way':24} {'ms':>8} {'of CPU':>8} {'bytes':>9} {'gzip':>8}")
    for models in (5, 50, 200):
        _scrapes(models)
    print(f"\nAn event, in microseconds of the hub's thread; {ROUNDS} rounds of {EVENTS}")
    _events()


def _scrapes(models: int) -> None:
    with ExitStack() as stack:
        hub = Hub(models)
        sink = PrometheusSink("127.0.0.1:0", process_metrics=False)
        sink.hub_started(hub=hub, event=EVENT)
        sink.set_usage({model.name: Usage(10**9, 1.0, 9, 9) for model in hub.status()})
        sink.open()
        stack.callback(sink.close)
        registry = _plain(sink)
        server, thread = start_http_server(0, "127.0.0.1", registry)
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        ports = {"mlxhub sink": int(str(sink.where).split(":")[2].split("/")[0]), "plain objects": server.server_port}
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in ports}
        for _ in range(SCRAPES):
            for name, port in ports.items():
                wall, cpu = time.perf_counter(), time.process_time()
                _scrape(port)
                took[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        for name, port in ports.items():
            body = _scrape(port)
            series = sum(not line.startswith(b"#") for line in body.splitlines())
            ms, cpu = (statistics.median(each) * 1000 for each in zip(*took[name], strict=True))
            packed = len(_scrape(port, gzip=True))
            print(f"{models:6} {series:7} {name:24} {ms:8.1f} {cpu:8.1f} {len(body):9} {packed:8}")


def _scrape(port: int, *, gzip: bool = False) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"Accept": ACCEPT, "Accept-Encoding": "gzip" if gzip else "identity"}
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


def _events() -> None:
    ctx = HubModelContext("model-0", "chat", "")
    sink = PrometheusSink("127.0.0.1:0", process_metrics=False)
    runner = SinkRunner("prometheus", sink, print)
    counter = Counter("plain", "A counter.", ("model", "group"), registry=CollectorRegistry())
    arguments = {"ctx": ctx, "exit_code": 0, "event": EVENT}
    ways: dict[str, Callable[[], object]] = {
        "plain Counter.labels().inc()": lambda: counter.labels("model-0", "chat").inc(),
        "the sink's hook alone": lambda: sink.model_stopped(ctx, exit_code=0, event=EVENT),
        "offered to the sink's queue": lambda: runner.offer("model_stopped", arguments),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    gc.disable()
    for _ in range(ROUNDS):
        for name, call in ways.items():
            begin = time.perf_counter()
            for _ in range(EVENTS):
                call()
            took[name].append((time.perf_counter() - begin) / EVENTS * 1e6)
            while runner.stats().queue_length:
                time.sleep(0.001)
    gc.enable()
    floor = statistics.median(took["plain Counter.labels().inc()"])
    for name, each in took.items():
        print(f"{name:32} {statistics.median(each):8.2f} {statistics.median(each) / floor:6.1f} times the floor")
    runner.begin_close()
    runner.end_close(5)


if __name__ == "__main__":
    main()
