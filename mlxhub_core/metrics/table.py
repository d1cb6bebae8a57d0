"""What each metric is now: events folded into counts, and the hub's own picture of its models and sinks. Pure.

No clock and no I/O. A sink's thread tells the events while any number of readers asks: a lock stands between them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

from mlxhub_core.events import HubEvent, HubModelContext, Reason
from mlxhub_core.metrics import catalogue as c
from mlxhub_core.metrics.catalogue import START_DURATION_BUCKETS, Metric
from mlxhub_core.observability import HubView, Sink, SinkStats
from mlxhub_core.states import ModelState, ModelStatus

OTHER = "other"
"""The label of all exit codes of a model beyond the first `MAX_EXIT_CODES`."""
MAX_EXIT_CODES = 20
"""Each exit code is a series that is kept for long; a program that ends with random ones must not flood a server."""
NEVER_RAN = ""
"""The exit code, as a label, of a process that could not be started, or whose end nobody saw."""


class Histogram(NamedTuple):
    """A histogram.

    Attributes:
        counts: observations in each bucket alone, the last of them beyond all bounds.
        sum: of all observations.
    """

    counts: tuple[int, ...]
    sum: float


class Sample(NamedTuple):
    """One series and its value.

    Attributes:
        metric: which metric.
        labels: the values of its labels, in their order; empty where there is none, never None.
        value: a number, or a `Histogram`.
    """

    metric: Metric
    labels: tuple[str, ...]
    value: float | Histogram


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of a model use.

    Attributes:
        resident_memory: bytes.
        cpu_seconds: time on any core, over all its processes since the hub has looked; never less than before.
        open_fds: open file descriptors; None: the system does not say.
        threads: threads.
    """

    resident_memory: int
    cpu_seconds: float
    open_fds: int | None
    threads: int


@dataclass(slots=True)
class _Counts:
    """What happened to one model."""

    started: int = 0
    stopped: int = 0
    restarts: int = 0
    failed: dict[str, int] = field(default_factory=lambda: {NEVER_RAN: 0})
    durations: list[int] = field(default_factory=lambda: [0] * (len(START_DURATION_BUCKETS) + 1))
    duration_sum: float = 0.0


class MetricSink(Sink):
    """A sink that knows the value of every metric of the catalogue, at any moment and from any thread.

    Subclass it to show `samples()`. Counts begin with the sink and end with the model: one that leaves hub.yaml takes
    its own with it. States, health checks and sinks are asked of the hub when somebody reads, so they are right at once,
    also for models that ran before the sink did. A subclass that overrides a hook calls ``super()``.

    Attributes:
        since: when the counting began, in seconds since the epoch; None before the hub's first event.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self._lock = Lock()
        self._counts: dict[str, _Counts] = {}
        self._usage: Mapping[str, Usage] = {}
        self._hub: HubView | None = None

    def samples(self) -> Iterator[Sample]:
        """Every series as it is now; none before the hub's first event. Those of one model follow each other."""
        hub = self._hub
        if hub is None:
            return
        yield from self.samples_of(hub.status())
        yield from _of_hub(hub)
        for sink in hub.sink_stats():
            yield from _of_sink(sink)

    def samples_of(self, models: Iterable[ModelStatus]) -> Iterator[Sample]:
        """Every series of these models, for a sink that shows only what has changed."""
        for model in models:
            yield from self._of_model(model)

    def models(self) -> Sequence[ModelStatus]:
        """The hub's models as they are now."""
        return self._hub.status() if self._hub is not None else ()

    def set_usage(self, usage: Mapping[str, Usage]) -> None:
        """Show this use of the machine, by the names of models; of a model without one nothing is shown."""
        self._usage = usage

    # Hooks, on the sink's own thread.

    def hub_started(self, *, hub: HubView, event: HubEvent) -> None:
        """Ask this hub from now on."""
        self._hub, self.since = hub, event.time

    def config_reloaded(self, **_: object) -> None:
        """Forget the models that are gone."""
        names = {model.name for model in self.models()}
        with self._lock:
            self._counts = {name: counts for name, counts in self._counts.items() if name in names}

    def model_started(self, ctx: HubModelContext, *, event: HubEvent, **_: object) -> None:
        """Count a start; also as a restart, if nobody but the hub asked for it."""
        with self._lock:
            counts = self._at(ctx.name)
            counts.started += 1
            counts.restarts += event.reason == Reason.RESTART

    def model_ready(self, ctx: HubModelContext, *, startup_seconds: float, **_: object) -> None:
        """Count how long a start took."""
        with self._lock:
            counts = self._at(ctx.name)
            counts.durations[bisect_left(START_DURATION_BUCKETS, startup_seconds)] += 1
            counts.duration_sum += startup_seconds

    def model_stopped(self, ctx: HubModelContext, **_: object) -> None:
        """Count a stop."""
        with self._lock:
            self._at(ctx.name).stopped += 1

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None, **_: object) -> None:
        """Count a failure by its exit code."""
        label = NEVER_RAN if exit_code is None else str(exit_code)
        with self._lock:
            failed = self._at(ctx.name).failed
            if label not in failed and len(failed) > MAX_EXIT_CODES:
                label = OTHER
            failed[label] = failed.get(label, 0) + 1

    def _at(self, name: str) -> _Counts:
        return self._counts.setdefault(name, _Counts())

    def _of_model(self, model: ModelStatus) -> Iterator[Sample]:
        labels = (model.name, model.group or "")
        with self._lock:
            counted = list(_counted(labels, self._counts.get(model.name, _NOTHING)))
        yield from counted
        yield from _shown(labels, model)
        usage = self._usage.get(model.name)
        if usage is not None:
            yield from _used(labels, usage)


_NOTHING = _Counts()


def _counted(labels: tuple[str, ...], counts: _Counts) -> Iterator[Sample]:
    yield Sample(c.STARTED, labels, counts.started)
    yield Sample(c.STOPPED, labels, counts.stopped)
    for exit_code, count in counts.failed.items():
        yield Sample(c.FAILED, (*labels, exit_code), count)
    yield Sample(c.RESTARTS, labels, counts.restarts)
    yield Sample(c.START_DURATION, labels, Histogram(tuple(counts.durations), counts.duration_sum))


def _shown(labels: tuple[str, ...], model: ModelStatus) -> Iterator[Sample]:
    """What the hub says of a model."""
    for state in ModelState:
        yield Sample(c.STATE, (*labels, state.value), int(model.state is state))
    running = model.pid is not None
    yield Sample(c.READY, labels, int(model.state is ModelState.READY))
    yield Sample(c.UP, labels, int(running))
    yield Sample(c.START_TIME, labels, (running and model.started_at) or 0)
    yield Sample(c.LAST_FAILURE, labels, model.last_failure.time if model.last_failure else 0)
    if model.exit_code is not None:
        yield Sample(c.LAST_EXIT_CODE, labels, model.exit_code)
    yield Sample(c.HEALTH_CHECKS, labels, model.health_checks)
    yield Sample(c.HEALTH_CHECKS_FAILED, labels, model.health_checks_failed)
    port = "" if model.port is None else str(model.port)
    yield Sample(c.MODEL_INFO, (*labels, model.source or "", port, model.backend), 1)


def _used(labels: tuple[str, ...], usage: Usage) -> Iterator[Sample]:
    yield Sample(c.RESIDENT_MEMORY, labels, usage.resident_memory)
    yield Sample(c.CPU, labels, usage.cpu_seconds)
    if usage.open_fds is not None:
        yield Sample(c.OPEN_FDS, labels, usage.open_fds)
    yield Sample(c.THREADS, labels, usage.threads)


def _of_hub(hub: HubView) -> Iterator[Sample]:
    info = hub.info()
    yield Sample(c.BUILD_INFO, (info.version, info.python, info.mlx_lm or ""), 1)
    yield Sample(c.HUB_START_TIME, (), info.started_at)
    yield Sample(c.RELOAD_SUCCESSFUL, (), int(info.last_reload_successful))
    yield Sample(c.RELOAD_TIME, (), info.last_reload_at or 0)


_OF_SINK: Iterable[tuple[Metric, Callable[[SinkStats], float]]] = (
    (c.SINK_EVENTS, lambda sink: sink.offered),
    (c.SINK_FAILED, lambda sink: sink.failed),
    (c.SINK_DROPPED, lambda sink: sink.dropped),
    (c.SINK_QUEUE_LENGTH, lambda sink: sink.queue_length),
    (c.SINK_QUEUE_CAPACITY, lambda sink: sink.queue_capacity),
    (c.SINK_LAST_SUCCESS, lambda sink: sink.last_success or 0),
    (c.SINK_UP, lambda sink: int(sink.open)),
)


def _of_sink(sink: SinkStats) -> Iterator[Sample]:
    for metric, value in _OF_SINK:
        yield Sample(metric, (sink.name,), value(sink))
    yield Sample(c.SINK_INFO, (sink.name, sink.plugin, sink.version), 1)
