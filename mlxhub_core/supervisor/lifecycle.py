"""The life of one model: the only code that moves its state, and the only source of its events.

Every process gets exactly one `model_started` and exactly one `model_stopped` or `model_failed`, whatever is asked of
the model meanwhile.
"""

from __future__ import annotations

import signal
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mlxhub_core.actor import Timer
from mlxhub_core.errors import HubError, IllegalMoveError, LaunchError
from mlxhub_core.events import HubModelContext, Reason
from mlxhub_core.probes import ProbeResult, Target
from mlxhub_core.process import Exit, Process
from mlxhub_core.restart import Failures, RestartRule
from mlxhub_core.settings import ModelSettings
from mlxhub_core.states import MOVES, ModelState, ModelStatus
from mlxhub_core.supervisor.messages import Message, ProbeDue, Reply, RestartDue

FIRST_PROBE = 0.05
"""Seconds from a process's start to the first question whether it can answer."""
PROBE_GROWTH = 1.5
"""Each further question comes so many times later than the one before."""
MAX_PROBE_INTERVAL = 1.0
"""Seconds between two questions at most: as much later than it became ready may a model be called ready."""

RUNNING = frozenset({ModelState.STARTING, ModelState.READY, ModelState.UNHEALTHY})
"""The states in which a model has a process that was not asked to end."""


@dataclass(frozen=True, slots=True)
class Started:
    """A process that was started, where it listens, and whom to ask whether it is ready (None: nobody)."""

    process: Process
    host: str
    port: int | None
    target: Target | None


class Surroundings(Protocol):
    """What a model needs of the loop around it."""

    rule: RestartRule
    patient: bool
    """Whether processes that are asked to end get their `stop_timeout`."""

    def clock(self) -> float:
        """Seconds that only grow."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch."""
        ...

    def jitter(self) -> float:
        """A random number from -1 to 1."""
        ...

    def after(self, seconds: float, message: Message) -> Timer:
        """Have the loop get a message later."""
        ...

    def launch(self, model: ModelSettings, run_id: str) -> Started:
        """Start a process, or raise."""
        ...

    def probe(self, name: str, run_id: str, target: Target) -> None:
        """Ask, and have the loop get the answer."""
        ...

    def announce(self, hook: str, about: Mapping[str, Any], **arguments: Any) -> None:
        """Send an event: its hook, the fields of its envelope, and the hook's own arguments."""
        ...

    def answer(self, replies: list[Reply], error: Exception | None = None) -> None:
        """Answer those who wait, and empty the list."""
        ...


@dataclass(slots=True)
class Run:
    """One process of the model."""

    id: str
    ctx: HubModelContext
    started: Started
    since: float
    stop_reason: Reason | None = None
    probe_interval: float = FIRST_PROBE


class Lifecycle:
    """One model of hub.yaml.

    Args:
        settings: its entry; may be replaced at any time and is used from the next start on.
        log_path: its log file.
        world: what is around it.
    """

    def __init__(self, settings: ModelSettings, log_path: str, world: Surroundings) -> None:
        self.settings = settings
        self.log_path = log_path
        self.retired = False
        """No longer in hub.yaml: to be forgotten once its process has ended."""
        self._world = world
        self._state = ModelState.STOPPED
        self._reason: str | None = None
        self._run: Run | None = None
        self._timer: Timer | None = None
        self._failures = Failures()
        self._restarts = 0
        self._exit_code: int | None = None
        self._started_at: float | None = None
        self._ready_at: float | None = None
        self._stopped_at: float | None = None
        self._awaiting_stop: list[Reply] = []

    @property
    def name(self) -> str:
        """As in hub.yaml."""
        return self.settings.name

    @property
    def state(self) -> ModelState:
        """Where it is in its life."""
        return self._state

    @property
    def port(self) -> int | None:
        """The port of its process; None if it has none."""
        return self._run.started.port if self._run else None

    @property
    def ctx(self) -> HubModelContext:
        """Itself, as sinks see it."""
        return HubModelContext(self.name, self.settings.group, self.log_path)

    def status(self) -> ModelStatus:
        """What is known about it now."""
        started = self._run.started if self._run else None
        return ModelStatus(
            name=self.name,
            state=self._state,
            group=self.settings.group,
            log_path=self.log_path,
            default=self.settings.default,
            host=started.host if started else None,
            port=started.port if started else None,
            pid=started.process.pid if started else None,
            exit_code=self._exit_code,
            started_at=self._started_at,
            ready_at=self._ready_at,
            stopped_at=self._stopped_at,
            restarts=self._restarts,
            reason=self._reason,
        )

    # What may be asked of it.

    def start(self, reason: Reason, replies: list[Reply]) -> None:
        """Run, unless it does. It must not be stopping. `replies` are answered when it runs, or cannot be started."""
        if self._state in RUNNING:
            self._world.answer(replies)
            return
        self._cancel_timer()
        self._failures = Failures()
        self._restarts = 0
        self._launch(reason, replies)

    def stop(self, reason: Reason, reply: Reply) -> None:
        """Do not run, and do not restart. `reply` is answered when the process has ended."""
        self._awaiting_stop.append(reply)
        if self._state in RUNNING:
            self._end_run(reason)
        elif self._state is not ModelState.STOPPING:
            self._rest(reason)

    def kill(self) -> None:
        """If it is stopping, have that done at once."""
        if self._run and self._state is ModelState.STOPPING:
            self._run.started.process.kill()

    # What happens to it.

    def on_exit(self, run_id: str, outcome: Exit) -> None:
        """Its process has ended."""
        run = self._run
        if run is None or run.id != run_id:
            return
        self._run = None
        self._exit_code = outcome.code
        self._stopped_at = self._world.wall()
        if self._state is ModelState.STOPPING:
            self._on_wanted_exit(run, outcome)
        else:
            self._on_unasked_exit(run, outcome)

    def on_probe_due(self, run_id: str) -> None:
        """It is time to ask whether it can answer."""
        run = self._starting_run(run_id)
        if run and run.started.target:
            self._world.probe(self.name, run_id, run.started.target)

    def on_probed(self, run_id: str, result: ProbeResult) -> None:
        """It has answered, or not."""
        run = self._starting_run(run_id)
        if run is None:
            return
        if result.ready:
            self._on_ready(run)
            return
        self._reason = f"not ready yet: {result.detail}"
        self._world.after(run.probe_interval, ProbeDue(self.name, run.id))
        run.probe_interval = min(run.probe_interval * PROBE_GROWTH, MAX_PROBE_INTERVAL)

    def on_restart_due(self, place: bool) -> None:
        """The wait before a restart is over; `place` says whether its group has one for it."""
        if self._state is not ModelState.BACKOFF:
            return
        if not place:
            self._reason = "waits for a place in its group, or for its port"
            self._timer = self._world.after(self._world.rule.delay, RestartDue(self.name))
            return
        self._restarts += 1
        self._launch(Reason.RESTART, [])

    # How it does that.

    def _move(self, state: ModelState, reason: str | None) -> None:
        if state not in MOVES[self._state]:
            raise IllegalMoveError(f"{self.name}: {self._state} -> {state} ({reason})")
        self._state = state
        self._reason = reason

    def _launch(self, reason: Reason, replies: list[Reply]) -> None:
        run_id = uuid.uuid4().hex
        self._move(ModelState.STARTING, reason)
        try:
            started = self._world.launch(self.settings, run_id)
        except Exception as error:  # noqa: BLE001  # whatever it was, the model has no process now and must not seem to
            self._world.answer(replies, self._on_launch_failure(run_id, reason, error))
            return
        self._run = run = Run(run_id, self.ctx, started, self._world.clock())
        self._started_at, self._ready_at, self._stopped_at = self._world.wall(), None, None
        self._announce(run, "model_started", reason, pid=started.process.pid)
        self._world.answer(replies)
        if started.target is None:
            self._on_ready(run)
        else:
            self._world.after(FIRST_PROBE, ProbeDue(self.name, run_id))

    def _on_launch_failure(self, run_id: str, reason: Reason, error: Exception) -> HubError:
        if not isinstance(error, HubError):
            error = LaunchError(self.name, f"cannot be started: {_said(error)}")
        about = {"run_id": run_id, "reason": Reason.SPAWN_ERROR, "detail": str(error)}
        if reason is Reason.RESTART:
            self._fail(self.ctx, None, about, uptime=0.0)
        else:
            # It was somebody's wish, and that somebody is told: trying again by ourselves would surprise them.
            self._move(ModelState.FAILED, str(error))
            self._world.announce("model_failed", about, ctx=self.ctx, exit_code=None)
        return error

    def _starting_run(self, run_id: str) -> Run | None:
        run = self._run
        return run if run and run.id == run_id and self._state is ModelState.STARTING else None

    def _on_ready(self, run: Run) -> None:
        self._move(ModelState.READY, None)
        self._ready_at = self._world.wall()
        self._announce(run, "model_ready", None, startup_seconds=self._world.clock() - run.since)

    def _end_run(self, reason: Reason) -> None:
        assert self._run is not None
        self._move(ModelState.STOPPING, reason)
        self._run.stop_reason = reason
        self._run.started.process.stop(self.settings.stop_timeout if self._world.patient else 0.0)

    def _rest(self, reason: Reason) -> None:
        """Be stopped, having no process."""
        self._cancel_timer()
        if self._state is not ModelState.STOPPED:
            self._move(ModelState.STOPPED, reason)
        self._world.answer(self._awaiting_stop)

    def _on_wanted_exit(self, run: Run, outcome: Exit) -> None:
        self._move(ModelState.STOPPED, run.stop_reason)
        self._announce_end(run, "model_stopped", run.stop_reason, outcome)
        self._world.answer(self._awaiting_stop)

    def _on_unasked_exit(self, run: Run, outcome: Exit) -> None:
        if outcome.code == 0:
            self._on_clean_exit(run, outcome)
            return
        reason = Reason.SIGNAL if outcome.code < 0 else Reason.CRASH
        about = self._end_of(run, reason, outcome)
        self._fail(run.ctx, outcome.code, about, about["uptime_seconds"])

    def _on_clean_exit(self, run: Run, outcome: Exit) -> None:
        again = self.settings.restart == "always"
        delay = self._next_delay(self._world.clock() - run.since) if again else None
        self._move(
            ModelState.STOPPED if not again else ModelState.FAILED if delay is None else ModelState.BACKOFF, Reason.EXIT
        )
        self._announce_end(run, "model_stopped", Reason.EXIT, outcome, restart_in=delay)
        self._announce_restart(run.ctx, run.id, again, delay)

    def _fail(self, ctx: HubModelContext, exit_code: int | None, about: dict[str, Any], uptime: float) -> None:
        again = self.settings.restart != "never"
        delay = self._next_delay(uptime) if again else None
        self._move(ModelState.FAILED if delay is None else ModelState.BACKOFF, about.get("detail") or about["reason"])
        self._world.announce("model_failed", {**about, "restart_in": delay}, ctx=ctx, exit_code=exit_code)
        self._announce_restart(ctx, about["run_id"], again, delay)

    def _next_delay(self, uptime: float) -> float | None:
        self._failures = self._failures.another(self._world.rule, self._world.clock(), uptime)
        return self._failures.delay(self._world.rule, self._world.jitter())

    def _announce_restart(self, ctx: HubModelContext, run_id: str, again: bool, delay: float | None) -> None:
        about = {"run_id": run_id, "reason": Reason.RESTART}
        if delay is not None:
            self._timer = self._world.after(delay, RestartDue(self.name))
            attempt = self._failures.in_a_row
            self._world.announce("model_restarting", about, ctx=ctx, attempt=attempt, delay_seconds=delay)
        elif again:
            self._world.announce("model_gave_up", about, ctx=ctx, failures=len(self._failures.times))

    def _announce(self, run: Run, hook: str, reason: Reason | None, **arguments: Any) -> None:
        self._world.announce(hook, {"run_id": run.id, "reason": reason}, ctx=run.ctx, **arguments)

    def _announce_end(self, run: Run, hook: str, reason: Reason | None, outcome: Exit, **more: Any) -> None:
        self._world.announce(hook, {**self._end_of(run, reason, outcome), **more}, ctx=run.ctx, exit_code=outcome.code)

    def _end_of(self, run: Run, reason: Reason | None, outcome: Exit) -> dict[str, Any]:
        return {
            "run_id": run.id,
            "reason": reason,
            "uptime_seconds": self._world.clock() - run.since,
            "signal": _signal_name(outcome.code),
            "forced": outcome.forced,
            "log_tail": outcome.tail,
        }

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _said(error: Exception) -> str:
    """What an exception says, with the file that an OSError is about."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


def _signal_name(code: int) -> str | None:
    if code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
