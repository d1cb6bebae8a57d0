"""The facts that travel from the hub to its sinks: frozen, copied at the moment, and free of the hub.

A hook's own arguments (``ctx``, ``pid``, ``exit_code`` …) say what most sinks need. A sink that wants more
also names ``event`` and gets the envelope, a `HubEvent`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

EVENT_SCHEMA = 1
"""Version of `HubEvent`. It grows only when a field changes its meaning; new fields do not raise it."""


class Reason(StrEnum):
    """Why something happened to a model."""

    HUB_START = "hub_start"
    """It starts with the hub (``default: true``)."""
    HUB_SHUTDOWN = "hub_shutdown"
    """The hub is shutting down."""
    OPERATOR = "operator"
    """Somebody asked for it, by the command line, the API or the library."""
    RELOAD = "reload"
    """hub.yaml was applied."""
    RESTART = "restart"
    """The hub starts it again by its ``restart`` rule."""
    EXIT = "exit"
    """It ended by itself with exit code 0."""
    CRASH = "crash"
    """It ended by itself with another exit code."""
    SIGNAL = "signal"
    """It was ended by a signal that the hub did not send."""
    SPAWN_ERROR = "spawn_error"
    """Its process could not be started."""
    STARTUP_TIMEOUT = "startup_timeout"
    """It was not ready within its ``startup_timeout``."""
    UNHEALTHY = "unhealthy"
    """Its process runs but no longer answers."""
    UNSUPERVISED = "unsupervised"
    """Its keeper was killed, so that nobody read its output any more; the hub has ended it."""
    SUSPECTED_OOM = "suspected_oom"
    """It ended unasked, and there are signs that memory ran out."""


TROUBLES = frozenset({Reason.STARTUP_TIMEOUT, Reason.UNHEALTHY})
"""The reasons for which the hub itself ends a process that nobody asked to end: a failure, not a stop."""


@dataclass(frozen=True, slots=True)
class HubModelContext:
    """Which model an event is about.

    Attributes:
        name: as in hub.yaml.
        group: as in hub.yaml, or None.
        log_path: the file that holds the model's stdout and stderr.
    """

    name: str
    group: str | None
    log_path: str


@dataclass(frozen=True, slots=True)
class Failure:
    """How a model failed once.

    Attributes:
        time: when, in seconds since the epoch.
        reason: why.
        exit_code: negative for a signal; None: it could not be started.
        signal: the name of the signal that ended the process, as ``SIGKILL``; else None.
        detail: one sentence for people, or None.
        uptime_seconds: how many seconds the process had run.
        log_tail: the last lines of that run's output.
    """

    time: float
    reason: Reason
    exit_code: int | None = None
    signal: str | None = None
    detail: str | None = None
    uptime_seconds: float = 0.0
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HubEvent:
    """The envelope of one event.

    Attributes:
        seq: 1 for the hub's first event, one more for each after it: a gap means that events were lost.
        id: a UUID, unique across hubs and restarts.
        time: when it happened (not when it was delivered), in seconds since the epoch.
        schema: `EVENT_SCHEMA`.
        run_id: the same for all events of one process of one model; None where no process is concerned.
        reason: one of `Reason`, or None.
        detail: one sentence for people, or None.
        uptime_seconds: how many seconds the process had run, for events that end it; else None.
        signal: the name of the signal that ended the process, as ``SIGKILL``; else None.
        forced: whether the hub ended it, or a child of it, by SIGKILL: it took longer than its ``stop_timeout``, or
            somebody lost patience.
        restart_in: seconds until the hub restarts it; None: it will not.
        log_tail: the last lines of this run's output, for events that end it.
        first_failure: how the series of failures began of which this one is not the first; else None.
    """

    seq: int
    id: str
    time: float
    schema: int = EVENT_SCHEMA
    run_id: str | None = None
    reason: Reason | None = None
    detail: str | None = None
    uptime_seconds: float | None = None
    signal: str | None = None
    forced: bool = False
    restart_in: float | None = None
    log_tail: tuple[str, ...] = ()
    first_failure: Failure | None = None
