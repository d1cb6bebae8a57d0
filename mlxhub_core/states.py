"""The states a model can be in, the moves between them, and the snapshot that people see.

               ┌────────────────────────┐
stopped ──> starting ──> ready <──> unhealthy
               └───────────┴────────────┤
                                        ├──> stopping ──┐
                                        ├───────────────┼──> stopped
                                        ├───────────────┼──> backoff ──> starting, stopped, failed
                                        └───────────────┴──> failed ───> starting, stopped
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mlxhub_core.events import Failure


class ModelState(StrEnum):
    """Where a model is in its life."""

    STOPPED = "stopped"
    """No process, and none wanted."""
    STARTING = "starting"
    """The process runs but has not answered yet."""
    READY = "ready"
    """The process answered its readiness probe."""
    UNHEALTHY = "unhealthy"
    """The process runs but does not answer: no longer, or not within its ``startup_timeout``."""
    STOPPING = "stopping"
    """The process was asked to end and has not yet."""
    BACKOFF = "backoff"
    """The process ended unasked; the hub waits before it starts another."""
    FAILED = "failed"
    """The process could not be started, or ended unasked and will not be restarted by the hub."""


_S = ModelState

MOVES: Mapping[ModelState, frozenset[ModelState]] = {
    _S.STOPPED: frozenset({_S.STARTING}),
    _S.STARTING: frozenset({_S.READY, _S.UNHEALTHY, _S.STOPPING, _S.STOPPED, _S.BACKOFF, _S.FAILED}),
    _S.READY: frozenset({_S.UNHEALTHY, _S.STOPPING, _S.STOPPED, _S.BACKOFF, _S.FAILED}),
    _S.UNHEALTHY: frozenset({_S.READY, _S.STOPPING, _S.STOPPED, _S.BACKOFF, _S.FAILED}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.BACKOFF, _S.FAILED}),
    _S.BACKOFF: frozenset({_S.STARTING, _S.STOPPED, _S.FAILED}),
    _S.FAILED: frozenset({_S.STARTING, _S.STOPPED}),
}
"""Every allowed move. Any other is a bug and raises ``IllegalMoveError``."""

RUNNING = frozenset({_S.STARTING, _S.READY, _S.UNHEALTHY})
"""The states in which a model has a process that was not asked to end."""

ALIVE = RUNNING | {_S.STOPPING}
"""The states in which the model has a process, and so a place in its group."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What the hub knew about one model at one moment.

    Attributes:
        name: as in hub.yaml.
        state: see `ModelState`.
        group: as in hub.yaml, or None.
        log_path: the file that holds the model's stdout and stderr.
        default: whether it starts with the hub.
        host: the address the model is told to listen on.
        port: its port, or None for a command that has none.
        pid: of the running process, or None.
        exit_code: of the last process that ended: negative for a signal, as `subprocess` has it; None before that.
        started_at: when the current or last process started, in seconds since the epoch; None before that.
        ready_at: when the current process first answered, in seconds since the epoch; None until then.
        stopped_at: when the last process ended, in seconds since the epoch; None while one runs.
        restarts: automatic restarts since the model was last started by hand, by a reload, or with the hub.
        reason: why it is in this state, one of `events.Reason` or a sentence; None before its first start.
        log_lost_bytes: output of the current or last process that could not be written to the log.
        health_checks: questions whether it can answer that were put to it since it was first ready, by this hub.
        health_checks_failed: those of them that it did not answer.
        source: its ``model_path``, if it has one.
        backend: what serves it: ``mlx_lm``, or ``command``.
        first_failure: how the last series of failures began; None if it never failed.
        last_failure: how it failed last; None if it never did.
        restart_at: when the hub will start it again, in seconds since the epoch; in the past if that has to wait, for
            what `reason` then says; None if the hub will not.
        log_begin: the byte of its log where the output of the current or last process began; None before that. The
            log may have been rotated since, see `log_reader.Mark`.
        previous_started_at: when the process before that started, in seconds since the epoch; None if this hub knows
            of none.
        previous_log_begin: where the output of that one began.
    """

    name: str
    state: ModelState
    group: str | None
    log_path: str
    default: bool = False
    host: str | None = None
    port: int | None = None
    pid: int | None = None
    exit_code: int | None = None
    started_at: float | None = None
    ready_at: float | None = None
    stopped_at: float | None = None
    restarts: int = 0
    reason: str | None = None
    log_lost_bytes: int = 0
    health_checks: int = 0
    health_checks_failed: int = 0
    source: str | None = None
    backend: str = "mlx_lm"
    first_failure: Failure | None = None
    last_failure: Failure | None = None
    restart_at: float | None = None
    log_begin: int | None = None
    previous_started_at: float | None = None
    previous_log_begin: int | None = None
