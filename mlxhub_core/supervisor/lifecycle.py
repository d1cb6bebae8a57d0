"""The life of one model: the only code that moves its state, and the only source of its events.

Every process gets exactly one `model_started` and exactly one `model_stopped` or `model_failed`, whatever is asked of
the model meanwhile.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlxhub_core.actor import Timer
from mlxhub_core.errors import HubError, IllegalMoveError, LaunchError
from mlxhub_core.events import TROUBLES, Failure, HubModelContext, Reason
from mlxhub_core.probes import Probe, ProbeResult
from mlxhub_core.process import Exit, Process
from mlxhub_core.restart import Failures
from mlxhub_core.settings import ModelSettings
from mlxhub_core.states import MOVES, ModelState, ModelStatus
from mlxhub_core.supervisor import endings
from mlxhub_core.supervisor.endings import Shortage, Trouble
from mlxhub_core.supervisor.health import FIRST_PROBE, Verdict, Watch
from mlxhub_core.supervisor.messages import Message, ProbeDue, Reply, RestartDue, StartupDue

RUNNING = frozenset({ModelState.STARTING, ModelState.READY, ModelState.UNHEALTHY})
"""The states in which a model has a process that was not asked to end."""


@dataclass(frozen=True, slots=True)
class Started:
    """A process that was started.

    Attributes:
        process: the process.
        host: the address it is to listen on.
        port: its port, or None.
        probe: asks it whether it can answer; None: it listens nowhere.
        oom_kills: the machine's count when it was started; see `vitals.Machine`.
        note: a sentence about its start that people should know.
    """

    process: Process
    host: str
    port: int | None
    probe: Probe | None
    oom_kills: int | None = None
    note: str | None = None


class Surroundings(Protocol):
    """What a model needs of the loop around it."""

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

    def ask(self, run: Run, model: ModelSettings) -> None:
        """Ask a process whether it can answer, and have the loop get the answer."""
        ...

    def ended(self, run: Run) -> Shortage:
        """Take note of the end of a process, and say whether it looks like a lack of memory."""
        ...

    def announce(self, hook: str, about: Mapping[str, Any], **arguments: Any) -> None:
        """Send an event: its hook, the fields of its envelope, and the hook's own arguments."""
        ...

    def answer(self, replies: list[Reply], error: Exception | None = None) -> None:
        """Answer those who wait, and empty the list."""
        ...


@dataclass(slots=True)
class Run:
    """One process of the model.

    Attributes:
        id: in all its events.
        ctx: the model as it was when the process was started.
        started: the process.
        since: when it was started, on the hub's clock.
        watch: its health.
        stop_reason: why it was asked to end; None: nobody asked.
        trouble: why the hub calls it unhealthy; None: it does not.
        asking: whether it has been asked and has not answered yet.
        next_question: the timer for it.
        startup_due: the timer for its `startup_timeout`.
    """

    id: str
    ctx: HubModelContext
    started: Started
    since: float
    watch: Watch = field(default_factory=Watch)
    stop_reason: Reason | None = None
    trouble: Trouble | None = None
    asking: bool = False
    next_question: Timer | None = None
    startup_due: Timer | None = None

    def seconds_well(self, now: float) -> float:
        """How long it has been ready, until now or until it turned unhealthy."""
        if self.watch.ready_since is None:
            return 0.0
        sick_since = self.watch.unhealthy_since
        return (now if sick_since is None else sick_since) - self.watch.ready_since


class Lifecycle:
    """One model of hub.yaml.

    Args:
        settings: its entry.
        log_path: its log file.
        world: what is around it.
    """

    def __init__(self, settings: ModelSettings, log_path: str, world: Surroundings) -> None:
        self.settings = settings
        self.log_path = log_path
        self.retired = False
        """No longer in hub.yaml: to be forgotten once its process has ended."""
        self.due = False
        """Its back-off is over, and it is to be started again as soon as that is possible."""
        self._world = world
        self._state = ModelState.STOPPED
        self._reason: str | None = None
        self._run: Run | None = None
        self._timer: Timer | None = None
        self._failures = Failures()
        self._new_series = True
        self._first_failure: Failure | None = None
        self._last_failure: Failure | None = None
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
    def promised_memory(self) -> int:
        """Bytes that it requires and has not taken yet, as it still starts."""
        required, watch = self.settings.memory.required, self._run.watch if self._run else None
        if required is None or watch is None or self._state not in RUNNING or watch.ready_since is not None:
            return 0
        vitals = watch.vitals
        return max(0, required - (vitals.memory_bytes if vitals else 0))

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
            first_failure=self._first_failure,
            last_failure=self._last_failure,
        )

    # What may be asked of it.

    def update(self, settings: ModelSettings, log_path: str) -> None:
        """Heed these settings: what concerns only the hub at once, the rest from the next start on."""
        before, self.settings = self.settings.health, settings
        self.log_path, self.retired = log_path, False
        if self._run and self._state in RUNNING and settings.health != before:
            self._watch_anew(self._run)

    def start(self, reason: Reason, replies: list[Reply]) -> None:
        """Run, unless it does. It must not be stopping. `replies` are answered when it runs, or cannot be started."""
        if self._state in RUNNING:
            self._world.answer(replies)
            return
        self._begin_anew()
        self._launch(reason, replies)

    def refuse(self, reason: Reason, error: HubError) -> None:
        """Take note that it was to be started for `reason` and could not. A restart that is under way is not disturbed."""
        if self._state in (ModelState.STOPPED, ModelState.FAILED):
            self._begin_anew()
            self._move(ModelState.STARTING, reason)
            self._on_launch_failure(uuid.uuid4().hex, reason, error)

    def stop(self, reason: Reason, reply: Reply) -> None:
        """Do not run, and do not restart. `reply` is answered when the process has ended."""
        self._awaiting_stop.append(reply)
        if self._state in RUNNING:
            self._end_run(reason)
        elif self._state is not ModelState.STOPPING:
            self._rest(reason)
        elif self._run and self._run.stop_reason in TROUBLES:
            # The hub was about to restart it; now somebody does not want it.
            self._run.stop_reason = reason
            self._reason = reason

    def kill(self) -> None:
        """If it is stopping, have that done at once."""
        if self._run and self._state is ModelState.STOPPING:
            self._run.started.process.kill()

    def restart(self) -> None:
        """Start it again after its back-off."""
        self.due = False
        self._restarts += 1
        self._launch(Reason.RESTART, [])

    def postpone(self, obstacle: str) -> None:
        """Its restart is due, and has to wait for something."""
        self._reason = obstacle

    def give_back(self, error: HubError) -> None:
        """Its restart is due, and cannot be: that is a failure like any other."""
        self.due = False
        self._move(ModelState.STARTING, Reason.RESTART)
        self._on_launch_failure(uuid.uuid4().hex, Reason.RESTART, error)

    # What happens to it.

    def on_exit(self, run_id: str, outcome: Exit) -> None:
        """Its process has ended."""
        run = self._live(run_id)
        if run is None:
            return
        self._run = None
        self._exit_code = outcome.code
        self._stopped_at = self._world.wall()
        memory = self._world.ended(run)
        if run.stop_reason in TROUBLES or (run.stop_reason is None and outcome.code != 0):
            self._on_failure(run, outcome, memory)
        elif run.stop_reason is None:
            self._on_clean_exit(run, outcome)
        else:
            self._on_wanted_exit(run, outcome)

    def on_startup_due(self, run_id: str) -> None:
        """Its `startup_timeout` is over."""
        run = self._live(run_id)
        if run is None or self._state is not ModelState.STARTING or self.settings.health is None:
            return
        detail = f"not ready after {self.settings.health.startup_timeout:g} s: {run.watch.said}"
        run.watch.late(self._world.clock())
        self._on_unhealthy(run, Trouble(Reason.STARTUP_TIMEOUT, detail))

    def on_probe_due(self, run_id: str) -> None:
        """It is time to ask whether it can answer."""
        run = self._live(run_id)
        if run is None or self._state not in RUNNING:
            return
        health = self.settings.health
        if health is None:  # Turned off meanwhile.
            self._on_ok(run)
        elif not run.asking:
            # If it cannot be asked now, for want of a thread perhaps, it must be asked again all the same.
            self._ask_later(run, health.interval)
            self._world.ask(run, self.settings)
            run.asking = True

    def on_probed(self, run_id: str, result: ProbeResult) -> None:
        """It has answered, or not."""
        run, health = self._live(run_id), self.settings.health
        if run is None or not run.asking or self._state not in RUNNING:
            return
        run.asking = False
        if result.ok or health is None:
            run.watch.see(result.vitals, self._world.clock())
            self._on_ok(run)
        elif run.watch.missed(result, health, self._world.clock()):
            self._on_lost(run, result)
        elif self._state is ModelState.STARTING:
            self._reason = f"not ready yet: {run.watch.said}"
        if health is not None:
            self._ask_later(run, run.watch.pause(health))

    def on_restart_due(self) -> None:
        """The wait before a restart is over."""
        self.due = self._state is ModelState.BACKOFF

    # How it does that.

    def _move(self, state: ModelState, reason: str | None) -> None:
        if state not in MOVES[self._state]:
            raise IllegalMoveError(f"{self.name}: {self._state} -> {state} ({reason})")
        self._state = state
        self._reason = reason

    def _live(self, run_id: str) -> Run | None:
        return self._run if self._run and self._run.id == run_id else None

    def _begin_anew(self) -> None:
        self._cancel_restart()
        self._failures = Failures()
        self._new_series = True
        self._restarts = 0

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
        self._announce(run, "model_started", reason, started.note, pid=started.process.pid)
        self._world.answer(replies)
        if started.probe is None or self.settings.health is None:
            self._on_ok(run)
        else:
            self._ask_later(run, FIRST_PROBE)
            self._allow_time(run, self.settings.health.startup_timeout)

    def _on_launch_failure(self, run_id: str, reason: Reason, error: Exception) -> HubError:
        if not isinstance(error, HubError):
            error = LaunchError(self.name, f"cannot be started: {_said(error)}")
        failure = Failure(self._world.wall(), Reason.SPAWN_ERROR, detail=str(error))
        # A first start was somebody's wish, and that somebody is told: trying again by ourselves would surprise them.
        self._fail(self.ctx, run_id, failure, again=reason is Reason.RESTART)
        return error

    def _ask_later(self, run: Run, seconds: float) -> None:
        if run.next_question is not None:
            run.next_question.cancel()
        if run.started.probe is not None:
            run.next_question = self._world.after(seconds, ProbeDue(self.name, run.id))

    def _allow_time(self, run: Run, seconds: float) -> None:
        """Have it be late when it is not ready so many seconds after its start."""
        if run.startup_due is not None:
            run.startup_due.cancel()
        left = run.since + seconds - self._world.clock()
        run.startup_due = self._world.after(left, StartupDue(self.name, run.id))

    def _watch_anew(self, run: Run) -> None:
        """Its `health` has changed: what it still waits for by the old one shall not hold it up."""
        health = self.settings.health
        self._ask_later(run, run.watch.pause(health) if health is not None else 0.0)
        if health is not None and self._state is ModelState.STARTING:
            self._allow_time(run, health.startup_timeout)

    def _on_ok(self, run: Run) -> None:
        now, sick_since, verdict = self._world.clock(), run.watch.unhealthy_since, run.watch.well(self._world.clock())
        if verdict is Verdict.NOTHING:
            return
        run.trouble = None
        self._move(ModelState.READY, None)
        if verdict is Verdict.READY:
            self._ready_at = self._world.wall()
            self._announce(run, "model_ready", None, startup_seconds=now - run.since)
        else:
            self._announce(run, "model_recovered", None, unhealthy_seconds=now - (sick_since or now))

    def _on_lost(self, run: Run, result: ProbeResult) -> None:
        if result.final or run.trouble is None:
            times = f", {run.watch.misses} times in a row" if run.watch.misses > 1 and not result.final else ""
            trouble = Trouble(Reason.UNHEALTHY, f"{result.detail}{times}")
            if run.trouble is None:
                self._on_unhealthy(run, trouble)
            # The cause may show only after it was late.
            run.trouble, self._reason = trouble, trouble.detail
        assert run.trouble is not None
        if self.settings.restart.policy != "never":
            self._end_run(run.trouble.reason)

    def _on_unhealthy(self, run: Run, trouble: Trouble) -> None:
        run.trouble = trouble
        self._move(ModelState.UNHEALTHY, trouble.detail)
        self._announce(run, "model_unhealthy", trouble.reason, trouble.detail, reason=trouble.detail)

    def _end_run(self, reason: Reason) -> None:
        assert self._run is not None
        self._move(ModelState.STOPPING, reason)
        self._run.stop_reason = reason
        self._run.started.process.stop(self.settings.stop_timeout if self._world.patient else 0.0)

    def _rest(self, reason: Reason) -> None:
        """Be stopped, having no process."""
        self._cancel_restart()
        if self._state is not ModelState.STOPPED:
            self._move(ModelState.STOPPED, reason)
        self._world.answer(self._awaiting_stop)

    def _on_wanted_exit(self, run: Run, outcome: Exit) -> None:
        self._move(ModelState.STOPPED, run.stop_reason)
        self._announce_stop(run, run.stop_reason, outcome)
        self._world.answer(self._awaiting_stop)

    def _on_clean_exit(self, run: Run, outcome: Exit) -> None:
        again = self.settings.restart.policy == "always"
        delay = self._next_delay(run) if again else None
        self._move(
            ModelState.STOPPED if not again else ModelState.FAILED if delay is None else ModelState.BACKOFF, Reason.EXIT
        )
        self._announce_stop(run, Reason.EXIT, outcome, restart_in=delay)
        self._announce_restart(run.ctx, run.id, again, delay)

    def _on_failure(self, run: Run, outcome: Exit, memory: Shortage) -> None:
        uptime = self._world.clock() - run.since
        trouble = run.trouble if run.stop_reason in TROUBLES else None
        failure = endings.failure(outcome, time=self._world.wall(), uptime=uptime, trouble=trouble, memory=memory)
        self._fail(run.ctx, run.id, failure, again=True, run=run, forced=outcome.forced)

    def _fail(
        self, ctx: HubModelContext, run_id: str, failure: Failure, *, again: bool, run: Run | None = None, **more: Any
    ) -> None:
        again = again and self.settings.restart.policy != "never"
        delay = self._next_delay(run) if again else None
        first = self._remember(failure)
        self._move(ModelState.FAILED if delay is None else ModelState.BACKOFF, failure.detail or failure.reason)
        about = {**_envelope(failure), **more, "run_id": run_id, "restart_in": delay, "first_failure": first}
        self._world.announce("model_failed", about, ctx=ctx, exit_code=failure.exit_code)
        self._announce_restart(ctx, run_id, again, delay)

    def _remember(self, failure: Failure) -> Failure | None:
        """Keep a failure, and return the first of its series if that is another."""
        if self._new_series:
            self._first_failure, self._new_series = failure, False
        self._last_failure = failure
        return self._first_failure if self._first_failure is not failure else None

    def _next_delay(self, run: Run | None) -> float | None:
        """Seconds until it is started again; None: give up. Only time in which it could answer counts as stable."""
        now, rule = self._world.clock(), self.settings.restart.rule
        self._failures = self._failures.another(rule, now, run.seconds_well(now) if run else 0.0)
        # Ends with exit code 0 count too: then the first failure may come later in the row.
        self._new_series = self._new_series or self._failures.in_a_row == 1
        return self._failures.delay(rule, self._world.jitter())

    def _announce_restart(self, ctx: HubModelContext, run_id: str, again: bool, delay: float | None) -> None:
        about: dict[str, Any] = {"run_id": run_id, "reason": Reason.RESTART}
        if delay is not None:
            self._timer = self._world.after(delay, RestartDue(self.name))
            attempt = self._failures.in_a_row
            self._world.announce("model_restarting", about, ctx=ctx, attempt=attempt, delay_seconds=delay)
        elif again:
            about = {**about, "first_failure": self._first_failure}
            self._world.announce("model_gave_up", about, ctx=ctx, failures=len(self._failures.times))

    def _announce(self, run: Run, hook: str, why: Reason | None, detail: str | None = None, **arguments: Any) -> None:
        about = {"run_id": run.id, "reason": why, "detail": detail}
        self._world.announce(hook, about, ctx=run.ctx, **arguments)

    def _announce_stop(self, run: Run, reason: Reason | None, outcome: Exit, **more: Any) -> None:
        about = {
            "run_id": run.id,
            "reason": reason,
            "uptime_seconds": self._world.clock() - run.since,
            "signal": endings.signal_name(outcome.code),
            "forced": outcome.forced,
            "log_tail": outcome.tail,
        }
        self._world.announce("model_stopped", {**about, **more}, ctx=run.ctx, exit_code=outcome.code)

    def _cancel_restart(self) -> None:
        self.due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _envelope(failure: Failure) -> dict[str, Any]:
    """The fields of an event that tell of a failure."""
    return {
        "reason": failure.reason,
        "detail": failure.detail,
        "uptime_seconds": failure.uptime_seconds if failure.exit_code is not None else None,
        "signal": failure.signal,
        "log_tail": failure.log_tail,
    }


def _said(error: Exception) -> str:
    """What an exception says, with the file that an OSError is about."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
