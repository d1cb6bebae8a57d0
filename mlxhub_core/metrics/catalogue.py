"""Every metric there is, declared once. Pure.

The stem is the name that OpenTelemetry would give it, dotted; what Prometheus and StatsD call it follows from that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

START_DURATION_BUCKETS = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds: from a command that listens at once to `startup_timeout`, which is 600 by default."""


class Kind(StrEnum):
    """How a metric behaves."""

    COUNTER = "counter"
    """It only grows."""
    GAUGE = "gauge"
    """It is what it is at the moment."""
    HISTOGRAM = "histogram"
    """How many observations were no larger than each of some bounds."""
    INFO = "info"
    """Always 1: what it tells is in its labels."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        stem: its name in OpenTelemetry, without what all names begin with: ``model.started``.
        kind: see `Kind`.
        labels: the names of its labels.
        help: what it is, in a sentence.
        unit: as OpenTelemetry writes it (UCUM): ``s``, ``By``, or in braces what is counted, as ``{start}``.
        buckets: the upper bounds of a histogram, without infinity; in `unit`.
        additive: of a gauge: whether the sum over its series is a number that means something. OpenTelemetry has a kind
            of its own for these, the UpDownCounter.
    """

    stem: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    unit: str = ""
    buckets: tuple[float, ...] = ()
    additive: bool = False


_SUFFIXES = {"s": "seconds", "By": "bytes"}
"""What Prometheus and StatsD add to a name for its unit; what is counted (``{start}``) has none."""


def prometheus_name(metric: Metric, namespace: str = "mlxhub") -> str:
    """As ``mlxhub_model_started_total``: underscores, the unit, and ``_total`` or ``_info``."""
    words = [namespace, *metric.stem.split(".")]
    if metric.unit in _SUFFIXES:
        words.append(_SUFFIXES[metric.unit])
    if metric.kind is Kind.COUNTER:
        words.append("total")
    if metric.kind is Kind.INFO:
        words.append("info")
    return "_".join(words)


def statsd_name(metric: Metric) -> str:
    """As ``model.start_duration``: what it is about, a dot, and the rest; bytes are said, time is in a timer's unit.

    The processes of models have a branch of their own: ``model.process.threads``.
    """
    process = "model.process"
    about = process if metric.stem.startswith(f"{process}.") else metric.stem.partition(".")[0]
    rest = metric.stem.removeprefix(about).removeprefix(".")
    unit = "_bytes" if metric.unit == "By" else ""
    return ".".join(filter(None, (about, rest.replace(".", "_") + unit)))


def otlp_name(metric: Metric, namespace: str = "mlxhub") -> str:
    """As ``mlxhub.model.started``."""
    return f"{namespace}.{metric.stem}"


_C, _G, _I = Kind.COUNTER, Kind.GAUGE, Kind.INFO
_MODEL = ("model", "group")
_SINK = ("sink",)

STARTED = Metric("model.started", _C, _MODEL, "Model process starts.", "{start}")
STOPPED = Metric("model.stopped", _C, _MODEL, "Model process exits asked for, or with exit code 0.", "{stop}")
FAILED = Metric(
    "model.failed",
    _C,
    (*_MODEL, "exit_code"),
    "Unexpected exits of the model process by exit code; negative: a signal, empty: it could not be started.",
    "{failure}",
)
RESTARTS = Metric("model.restarts", _C, _MODEL, "Automatic restarts of the model.", "{restart}")
STATE = Metric(
    "model.state",
    _G,
    (*_MODEL, "state"),
    "Lifecycle state of the model; exactly one state is 1.",
    "{model}",
    additive=True,
)
READY = Metric("model.ready", _G, _MODEL, "Whether the model answers its health check.", "{model}")
UP = Metric("model.up", _G, _MODEL, "Whether the model process is running.", "{model}")
START_DURATION = Metric(
    "model.start.duration",
    Kind.HISTOGRAM,
    _MODEL,
    "Time from process start to the first successful health check.",
    "s",
    START_DURATION_BUCKETS,
)
START_TIME = Metric(
    "model.start_time",
    _G,
    _MODEL,
    "Start time of the model process since unix epoch in seconds; 0 when not running.",
    "s",
)
LAST_FAILURE = Metric(
    "model.last_failure.timestamp",
    _G,
    _MODEL,
    "Time of the last unexpected exit since unix epoch in seconds; 0: never.",
    "s",
)
LAST_EXIT_CODE = Metric(
    "model.last_exit_code", _G, _MODEL, "Exit code of the last exit of the model process.", "{code}"
)
HEALTH_CHECKS = Metric(
    "model.health_checks", _C, _MODEL, "Health checks of the model since it first was ready.", "{check}"
)
HEALTH_CHECKS_FAILED = Metric(
    "model.health_checks.failed", _C, _MODEL, "Failed health checks of the model since it first was ready.", "{check}"
)
MODEL_INFO = Metric("model", _I, (*_MODEL, "source", "port", "backend"), "Static properties of a configured model.")

RESIDENT_MEMORY = Metric(
    "model.process.resident_memory",
    _G,
    _MODEL,
    "Resident memory of the model process tree in bytes.",
    "By",
    additive=True,
)
CPU = Metric(
    "model.process.cpu",
    _C,
    _MODEL,
    "User and system CPU time of the model process tree, over restarts, in seconds.",
    "s",
)
OPEN_FDS = Metric(
    "model.process.open_fds",
    _G,
    _MODEL,
    "Open file descriptors of the model process tree.",
    "{fd}",
    additive=True,
)
THREADS = Metric("model.process.threads", _G, _MODEL, "Threads of the model process tree.", "{thread}", additive=True)

BUILD_INFO = Metric("build", _I, ("version", "python", "mlx_lm"), "Build of the running hub.")
HUB_START_TIME = Metric("start_time", _G, (), "Start time of the hub since unix epoch in seconds.", "s")
RELOAD_SUCCESSFUL = Metric(
    "config.last_reload.successful", _G, (), "Whether the last read of hub.yaml was applied.", "{reload}"
)
RELOAD_TIME = Metric(
    "config.last_reload.success.timestamp",
    _G,
    (),
    "Time when hub.yaml was last applied since unix epoch in seconds; 0: never.",
    "s",
)

SINK_EVENTS = Metric("sink.events", _C, _SINK, "Events offered to the sink.", "{event}")
SINK_FAILED = Metric("sink.events.failed", _C, _SINK, "Events that the sink failed to deliver.", "{event}")
SINK_DROPPED = Metric(
    "sink.events.dropped",
    _C,
    _SINK,
    "Events dropped before delivery because the queue was full or the sink was closed.",
    "{event}",
)
SINK_QUEUE_LENGTH = Metric("sink.queue.length", _G, _SINK, "Events waiting for the sink.", "{event}", additive=True)
SINK_QUEUE_CAPACITY = Metric(
    "sink.queue.capacity", _G, _SINK, "Events that may wait for the sink.", "{event}", additive=True
)
SINK_LAST_SUCCESS = Metric(
    "sink.last_success.timestamp",
    _G,
    _SINK,
    "Time of the last delivery since unix epoch in seconds; 0: none.",
    "s",
)
SINK_UP = Metric("sink.up", _G, _SINK, "Whether the sink is open.", "{sink}")
SINK_INFO = Metric("sink", _I, ("sink", "plugin", "version"), "Distribution that provides the sink.")

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order in which people want to read them."""
