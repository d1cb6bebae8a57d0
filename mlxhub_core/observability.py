"""What a sink is: the protocol, a base class to start from, and the sink that writes to Loguru."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from mlxhub_core.events import HubEvent, HubModelContext
from mlxhub_core.states import ModelStatus

if TYPE_CHECKING:
    from loguru import Logger

SINK_API = 1
"""Version of the contract between hub and sinks. It grows only for a change that breaks a sink."""


@runtime_checkable
class HubObservabilitySink(Protocol):
    """The least a sink can be. Hooks it lacks are never called; further hooks are those of `Sink`."""

    def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None:
        """The process of a model was started."""

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        """A process ended because it was asked to, or by itself with exit code 0."""

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        """A process ended unasked, or was ended because it did not answer.

        Negative exit codes are signals; None: it could not be started.
        """


@dataclass(frozen=True, slots=True)
class SinkStats:
    """What the hub knows about the delivery to one sink.

    Each event offered was delivered, failed, was dropped or waits; but for the one that the sink has in hand, or those
    that it has not flushed yet.

    Attributes:
        name: the sink's key in hub.yaml, as ``statsd`` or ``statsd/eu``.
        offered: events meant for it since it was added.
        delivered: events its hook returned from; of a sink that has a ``flush``, those that were flushed.
        failed: events its hook raised on, or which its ``flush`` said will never be taken.
        dropped: events thrown away because its queue was full, or it was closed before they were delivered.
        queue_length: events waiting now.
        queue_capacity: events that may wait before the oldest is dropped.
        open: whether its ``open()`` has succeeded, or it has none.
        last_error: the last exception, as one line; None if there was none.
        last_success: when it last took an event, in seconds since the epoch; None before that.
        stuck_seconds: seconds for which the sink has had the call that it has in hand; 0 when it has none.
        where: where it listens, or what it sends to, as it said itself when it was opened; None if it does not say.
        plugin: the package that it comes from; empty if it was passed to the hub by a program.
        version: of that package.
        retried: how often ``open`` or ``flush`` was called again because it had raised.
    """

    name: str
    offered: int
    delivered: int
    failed: int
    dropped: int
    queue_length: int
    queue_capacity: int
    open: bool
    last_error: str | None
    last_success: float | None
    stuck_seconds: float
    where: str | None = None
    plugin: str = ""
    version: str = ""
    retried: int = 0


@dataclass(frozen=True, slots=True)
class HubInfo:
    """The hub itself.

    Attributes:
        version: of mlxhub-core.
        python: the version of the Python that it runs in.
        mlx_lm: the version of mlx-lm in that Python; None if it is not there, or does not say.
        pid: its process.
        config_path: its hub.yaml.
        started_at: when it started, in seconds since the epoch.
        last_reload_successful: whether hub.yaml, when it was last read, could be used; True before that.
        last_reload_at: when hub.yaml was last applied, in seconds since the epoch; None before that.
        stopping: whether it is about to end.
    """

    version: str
    python: str
    mlx_lm: str | None
    pid: int
    config_path: str
    started_at: float
    last_reload_successful: bool = True
    last_reload_at: float | None = None
    stopping: bool = False


class HubView(Protocol):
    """The little of the hub that a sink may look at. All calls return at once, from any thread."""

    def status(self) -> Sequence[ModelStatus]:
        """Every model of hub.yaml, in its order."""
        ...

    def sink_stats(self) -> Sequence[SinkStats]:
        """Every sink that is on."""
        ...

    def info(self) -> HubInfo:
        """The hub itself."""
        ...


class Sink:
    """A sink that does nothing: a base to override what you need of. Subclassing it is not required.

    The keyword parameters of ``__init__`` are the sink's options in hub.yaml. ``__init__`` only keeps them;
    ``open`` connects. All hooks run on the sink's own thread, one at a time, in the order of events.
    A hook takes the arguments it names and no others; end a typed override with ``**_: object``
    for those it leaves out, now or in later versions.

    Attributes:
        where: where it listens, or what it sends to, for people who ask for the sinks' status: no secrets. Read when
            ``open`` has returned.
        flush_interval: seconds without an event after which `flush` is called all the same; None: it is not. It is read
            after each event and each flush.
        trace: None, or what to call with a line of text for whatever is sent; `mlxhub sinks test` sets and shows it.
    """

    where: str | None = None
    flush_interval: float | None = None
    trace: Callable[[str], object] | None = None

    def open(self) -> None:
        """Connect to the backend. Called again, after a while, when it raises."""

    def flush(self) -> None:
        """Send what the hooks have collected: no event waits now. Called again, after a while, when it raises.

        Raise `DeliveryRefusedError` for what will never be taken, and `DeliveryDelayedError` if the server said when to
        come again.

        Events count as delivered only when it has returned. A sink that sends each event at once needs none.
        """

    def close(self) -> None:
        """Flush and let go. Called once, also when ``open`` never succeeded."""

    def hub_started(self, *, hub: HubView, event: HubEvent) -> None:
        """The hub runs. The first event each sink gets."""

    def hub_stopping(self, *, event: HubEvent) -> None:
        """The hub begins to shut down; the models' last events follow."""

    def config_reloaded(
        self, *, started: Sequence[str], stopped: Sequence[str], unchanged: Sequence[str], event: HubEvent
    ) -> None:
        """hub.yaml was read and applied; the names of the models it started, stopped and left alone."""

    def model_started(self, ctx: HubModelContext, *, pid: int | None, event: HubEvent) -> None:
        """The process of a model was started. It may not answer yet."""

    def model_adopted(self, ctx: HubModelContext, *, pid: int, event: HubEvent) -> None:
        """A process that a former hub had started was found running, and is this hub's now.

        For this hub it takes the place of `model_started`; ``model_ready`` follows only if it was not ready before.
        """

    def model_ready(self, ctx: HubModelContext, *, startup_seconds: float, event: HubEvent) -> None:
        """The model answered its readiness probe, so many seconds after its process started."""

    def model_unhealthy(self, ctx: HubModelContext, *, reason: str, event: HubEvent) -> None:
        """The model no longer answers, or was not ready in time, though its process runs; ``reason`` is a sentence.

        By its restart policy the hub then ends the process, which is a failure, or waits whether it recovers.
        """

    def model_recovered(self, ctx: HubModelContext, *, unhealthy_seconds: float, event: HubEvent) -> None:
        """A model that was ready and then unhealthy answers again."""

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None, event: HubEvent) -> None:
        """A process ended because it was asked to, or by itself with exit code 0."""

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None, event: HubEvent) -> None:
        """A process ended unasked, or was ended because it did not answer.

        Negative exit codes are signals; None: it could not be started.
        """

    def model_restarting(self, ctx: HubModelContext, *, attempt: int, delay_seconds: float, event: HubEvent) -> None:
        """The hub will start the model again, for the ``attempt``-th time in a row, after the delay."""

    def model_gave_up(self, ctx: HubModelContext, *, failures: int, event: HubEvent) -> None:
        """The model failed so often that the hub will not restart it until somebody starts it."""

    def model_log_failing(self, ctx: HubModelContext, *, reason: str, event: HubEvent) -> None:
        """What the model writes cannot be written to its log any more, and is lost; ``reason`` is a sentence."""

    def model_log_recovered(self, ctx: HubModelContext, *, lost_bytes: int, event: HubEvent) -> None:
        """What the model writes reaches its log again; so much of this process's output is missing there by now."""

    def events_lost(self, *, count: int, event: HubEvent) -> None:
        """So many events before the next one were dropped, because this sink was slower than they came."""


class LoggingHubObservabilitySink:
    """Writes each event to Loguru, with ``hub_model``, ``hub_group`` and ``hub_log_path`` bound to the record.

    Levels: info for a start, a stop, readiness and recovery; warning for a model that does not answer, a failure and
    what follows from it; error for giving up. Where they are known, ``hub_reason`` is one of `Reason` and ``hub_detail``
    a sentence.

    Args:
        base_logger: the Loguru logger to write to; default: ``loguru.logger``. Its handlers are never touched.
    """

    def __init__(self, base_logger: Logger | None = None) -> None:
        # Here and not above: importing Loguru costs about 70 ms, which no other user of this file should pay.
        from loguru import logger

        self._logger = base_logger or logger

    def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None:
        """Log the start, at info."""
        self._bind(ctx, "model_started", hub_pid=pid).info("{} started (pid {})", ctx.name, pid)

    def model_adopted(self, ctx: HubModelContext, *, pid: int) -> None:
        """Log that it was found running, at info."""
        self._bind(ctx, "model_adopted", hub_pid=pid).info("{} was found running (pid {}), and goes on", ctx.name, pid)

    def model_ready(self, ctx: HubModelContext, *, startup_seconds: float) -> None:
        """Log the readiness, at info."""
        log = self._bind(ctx, "model_ready", hub_startup_seconds=startup_seconds)
        log.info("{} is ready after {:.1f} s", ctx.name, startup_seconds)

    def model_unhealthy(self, ctx: HubModelContext, *, reason: str, event: HubEvent | None = None) -> None:
        """Log that it does not answer, at warning."""
        log = self._bind(ctx, "model_unhealthy", hub_reason=event.reason if event else None, hub_detail=reason)
        log.warning("{} is unhealthy: {}", ctx.name, reason)

    def model_recovered(self, ctx: HubModelContext, *, unhealthy_seconds: float, event: HubEvent | None = None) -> None:
        """Log that it answers again, at info."""
        log = self._bind(ctx, "model_recovered", hub_unhealthy_seconds=unhealthy_seconds)
        said = event.detail if event and event.detail else f"answers again after {unhealthy_seconds:.1f} s"
        log.info("{}: {}" if event and event.detail else "{} {}", ctx.name, said)

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None, event: HubEvent | None = None) -> None:
        """Log the stop, at info."""
        log = self._bind(ctx, "model_stopped", hub_exit_code=exit_code)
        log.info("{} stopped ({}){}", ctx.name, _outcome(exit_code, event), _forced(event))

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None, event: HubEvent | None = None) -> None:
        """Log the failure, at warning, with what the model last wrote bound as ``hub_log_tail``."""
        reason, detail, tail = (event.reason, event.detail, event.log_tail) if event else (None, None, ())
        log = self._bind(ctx, "model_failed", hub_exit_code=exit_code, hub_reason=reason, hub_detail=detail)
        where = f"; its output is in {ctx.log_path}" if exit_code is not None else ""
        message = "{} failed ({}){}{}"
        log.bind(hub_log_tail=tail).warning(message, ctx.name, _outcome(exit_code, event), _forced(event), where)

    def model_restarting(self, ctx: HubModelContext, *, attempt: int, delay_seconds: float) -> None:
        """Log the coming restart, at warning."""
        log = self._bind(ctx, "model_restarting", hub_attempt=attempt, hub_delay_seconds=delay_seconds)
        log.warning("{} restarts in {:.1f} s (attempt {})", ctx.name, delay_seconds, attempt)

    def model_gave_up(self, ctx: HubModelContext, *, failures: int) -> None:
        """Log the end of the restarts, at error."""
        log = self._bind(ctx, "model_gave_up", hub_failures=failures)
        log.error("{} ended {} times; it stays down until somebody starts it", ctx.name, failures)

    def model_log_failing(self, ctx: HubModelContext, *, reason: str) -> None:
        """Log that output is lost, at warning."""
        log = self._bind(ctx, "model_log_failing", hub_detail=reason)
        log.warning("{}: the log {}; what the model writes meanwhile is lost", ctx.name, reason)

    def model_log_recovered(self, ctx: HubModelContext, *, lost_bytes: int) -> None:
        """Log the end of that, at info."""
        log = self._bind(ctx, "model_log_recovered", hub_lost_bytes=lost_bytes)
        log.info("{}: the log is written again; {} bytes of this run are missing", ctx.name, lost_bytes)

    def config_reloaded(self, *, started: Sequence[str], stopped: Sequence[str], unchanged: Sequence[str]) -> None:
        """Log the outcome of a reload, at info."""
        log = self._logger.bind(hub_event="config_reloaded")
        log.info("hub.yaml applied: started {}, stopped {}, unchanged {}", *map(_names, (started, stopped, unchanged)))

    def events_lost(self, *, count: int) -> None:
        """Log the gap, at warning."""
        self._logger.bind(hub_event="events_lost").warning("{} events were dropped before this line", count)

    def _bind(self, ctx: HubModelContext, hook: str, **extra: object) -> Logger:
        return self._logger.bind(
            hub_model=ctx.name, hub_group=ctx.group, hub_log_path=ctx.log_path, hub_event=hook, **extra
        )


def _outcome(exit_code: int | None, event: HubEvent | None) -> str:
    """How a process ended, in a few words: ``exit code 3``, ``SIGKILL``; and why, if that is known."""
    detail = event.detail if event else None
    if exit_code is None:
        return detail or "no exit code"
    if event is not None and event.signal:
        end = event.signal
    else:
        end = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return f"{end}; {detail}" if detail else end


def _forced(event: HubEvent | None) -> str:
    return "; the hub had to kill it" if event is not None and event.forced else ""


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
