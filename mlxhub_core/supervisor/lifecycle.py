"""The life of one model: the only code that moves its state, and the only source of its events.

Every process gets exactly one `model_started` and exactly one `model_stopped` or `model_failed`, whatever is asked of
the model meanwhile.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

from mlxhub_core import logs
from mlxhub_core.actor import Timer
from mlxhub_core.errors import HubError, HubStateError, IllegalMoveError, LaunchError, ModelError
from mlxhub_core.events import TROUBLES, Failure, HubModelContext, Reason
from mlxhub_core.probes import ProbeResult
from mlxhub_core.process import Exit, Survivor
from mlxhub_core.settings import HealthSettings, ModelSettings, RotationSettings
from mlxhub_core.states import MOVES, RUNNING, ModelState, ModelStatus
from mlxhub_core.supervisor import endings
from mlxhub_core.supervisor.announcements import Announcements
from mlxhub_core.supervisor.endings import Shortage, Trouble
from mlxhub_core.supervisor.facts import Facts
from mlxhub_core.supervisor.health import Verdict
from mlxhub_core.supervisor.legacy import reason_of
from mlxhub_core.supervisor.messages import Reply, RestartDue
from mlxhub_core.supervisor.run import Run
from mlxhub_core.supervisor.series import Series
from mlxhub_core.supervisor.world import Started, Surroundings


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
        self.last_memory = 0
        """Bytes that its last process had when it was last looked at; 0 if there was none, or that is unknown."""
        self._world = world
        self._state = ModelState.STOPPED
        self._reason: str | None = None
        self._obstacle: str | None = None
        self._run: Run | None = None
        self._timer: Timer | None = None
        self._series = Series()
        self._facts = Facts()
        self._announcements = Announcements(world)
        self._restart_at: float | None = None
        self._awaiting_stop: list[Reply] = []
        self._released = False

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
    def memory_promised_to(self) -> tuple[int, int] | None:
        """The process that still loads, and the bytes that it requires; None if none does, or none are required."""
        required, run = self.settings.memory.required, self._run
        if required is None or run is None or self._state not in RUNNING or run.watch.ready_since is not None:
            return None
        return run.started.process.pid, required

    @property
    def ctx(self) -> HubModelContext:
        """Itself, as sinks see it."""
        return HubModelContext(self.name, self.settings.group, self.log_path)

    def status(self) -> ModelStatus:
        """What is known about it now."""
        started, facts = self._run.started if self._run else None, self._facts
        return ModelStatus(
            name=self.name,
            state=self._state,
            group=self.settings.group,
            log_path=self.log_path,
            default=self.settings.default,
            host=started.host if started else None,
            port=started.port if started else None,
            pid=started.process.pid if started else None,
            exit_code=facts.exit_code,
            started_at=facts.started_at,
            ready_at=facts.ready_at,
            stopped_at=facts.stopped_at,
            restarts=facts.restarts,
            reason=self._obstacle or self._reason,
            log_lost_bytes=facts.log_lost_bytes,
            health_checks=facts.health_checks,
            health_checks_failed=facts.health_checks_failed,
            source=self.settings.model_path,
            backend="mlx_lm" if self.settings.command is None else "command",
            first_failure=self._series.first,
            last_failure=self._series.last,
            restart_at=self._restart_at,
            log_begin=facts.log_begin,
            previous_started_at=facts.previous_started_at,
            previous_log_begin=facts.previous_log_begin,
        )

    # What may be asked of it.

    def update(self, settings: ModelSettings, log_path: str) -> None:
        """Heed these settings: what concerns only the hub at once, the rest from the next start on."""
        before, self.settings = self.settings, settings
        if log_path != self.log_path:
            self.log_path = log_path
            self._facts.log_is_elsewhere()
        self.retired = False
        if self._run and self._state in RUNNING and settings.health != before.health:
            self._run.watch_anew(settings.health)
        if self._state is ModelState.BACKOFF and settings.restart.policy == "never":
            self._cancel_restart()
            self._move(ModelState.FAILED, self._reason)
            self._give_up(self.ctx, None, Reason.RELOAD)

    def adopt(self, survivor: Survivor, started: Started, restarts: int) -> None:
        """Go on with a process of a former hub, from where it is now. It must have none."""
        self._cancel_restart()  # What is here now is the restart of the one before.
        self._move(ModelState.STARTING, None)
        self._run = run = Run(survivor.run_id, self.ctx, started, self._world, self._then(survivor.started_at))
        self._facts.began(survivor.started_at, started.log_begin)
        self._facts.restarts = restarts
        if survivor.asked is not None:
            run.stop_reason = reason_of(survivor.asked)
            run.trouble = Trouble(run.stop_reason, "the former hub ended it for that")
            self._move(ModelState.STOPPING, run.stop_reason)
        if survivor.exit is not None:
            self.on_exit(run.id, survivor.exit)
            return
        if (ready_at := survivor.note.get("ready_at")) is not None:
            self._facts.ready_at = ready_at
            run.watch.go_on(self._then(ready_at), self._world.clock())
        self._announcements.of_run(run, "model_adopted", None, pid=started.process.pid)
        if survivor.asked is None:
            self._begin(run, adopted=True)

    def release(self) -> None:
        """Leave its process, if it has one, to the next hub, and start none any more."""
        self._cancel_restart()
        self._released = True
        if self._run:
            self._run.started.process.release()
        self._world.answer(self._awaiting_stop, HubStateError(f"{self.name}: the hub leaves it to the next one"))

    def rotate_log(self, rotation: RotationSettings | None, done: Callable[[str | None], None]) -> None:
        """Rotate its log now; `done` is called with what was in the way, or None, on any thread."""
        if self._run:
            self._run.started.process.rotate(done)
        else:
            done(logs.rotate(Path(self.log_path), (rotation or RotationSettings()).backups))

    def set_rotation(self, rotation: RotationSettings | None) -> None:
        """Have its log rotated by these rules."""
        if self._run:
            self._run.started.process.set_rotation(rotation)

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
            # The hub was about to restart it; now somebody does not want it, which the next hub must know, too.
            self._run.stop_reason = reason
            self._reason = reason
            self._ask_to_end(self._run, reason)

    def reset(self) -> None:
        """Forget that it has failed, and be stopped. Raises HubStateError if it is neither failed nor stopped."""
        if self._state not in (ModelState.FAILED, ModelState.STOPPED):
            raise HubStateError(f"{self.name}: is {self._state}, and only a failed one can be reset; stop it first")
        self._series = Series()
        self._facts.restarts = 0
        self._rest(Reason.OPERATOR)

    def kill(self) -> None:
        """If it is stopping, have that done at once."""
        if self._run and self._state is ModelState.STOPPING:
            self._run.started.process.kill()

    def restart(self) -> None:
        """Start it again after its back-off."""
        self.due = False
        self._facts.restarts += 1
        self._launch(Reason.RESTART, [])

    def postpone(self, obstacle: str) -> None:
        """It is to be started, and has to wait for something."""
        self._obstacle = obstacle

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
        self.last_memory = run.watch.vitals.memory_bytes if run.watch.vitals else 0
        self._facts.ended(outcome, self._world.wall())
        memory = self._world.ended(run)
        if run.stop_reason in TROUBLES or (run.stop_reason is None and outcome.code != 0):
            self._on_failure(run, outcome, memory)
        elif run.stop_reason is None:
            self._on_clean_exit(run, outcome)
        else:
            self._on_wanted_exit(run, outcome)

    def on_log_failing(self, run_id: str, reason: str) -> None:
        """What its process writes is lost."""
        if run := self._live(run_id):
            self._announcements.of_run(run, "model_log_failing", None, reason, reason=reason)

    def on_log_recovered(self, run_id: str, lost_bytes: int) -> None:
        """What its process writes is in the log again."""
        if run := self._live(run_id):
            self._facts.log_lost_bytes = lost_bytes
            self._announcements.of_run(run, "model_log_recovered", None, lost_bytes=lost_bytes)

    def on_startup_due(self, run_id: str) -> None:
        """Its `startup_timeout` is over."""
        run = self._live(run_id)
        if run is None or self._state is not ModelState.STARTING or self.settings.health is None:
            return
        run.watch.late(self._world.clock())
        self._on_unhealthy(run, _late(run, self.settings.health))

    def on_probe_due(self, run_id: str) -> None:
        """It is time to ask whether it can answer."""
        run = self._live(run_id)
        if run is None or self._state not in RUNNING:
            return
        health = self.settings.health
        if health is None:  # Turned off meanwhile.
            self._on_ok(run)
        else:
            run.ask(self.settings, health)

    def on_probed(self, run_id: str, result: ProbeResult) -> None:
        """It has answered, or not."""
        run, health = self._live(run_id), self.settings.health
        if run is None or not run.asking or self._state not in RUNNING:
            return
        run.asking = False
        self._count_check(run, result)
        if result.ok or health is None:
            run.watch.see(result.vitals, self._world.clock())
            self._on_ok(run)
        elif run.watch.missed(result, health, self._world.clock()):
            self._on_lost(run, result)
        else:
            self._on_miss(run, health)
        if health is not None:
            run.ask_later(run.watch.pause(health))

    def on_restart_due(self) -> None:
        """The wait before a restart is over."""
        self.due = self._state is ModelState.BACKOFF

    # How it does that.

    def _count_check(self, run: Run, result: ProbeResult) -> None:
        # Until it is ready it is asked often and in vain, which tells nothing of its health.
        if run.watch.ready_since is not None and result.asked:
            self._facts.checked(ok=result.ok)

    def _move(self, state: ModelState, reason: str | None, wait: float | None = None) -> None:
        """Be in another state; `wait`: seconds until it is started again."""
        if state not in MOVES[self._state]:
            raise IllegalMoveError(f"{self.name}: {self._state} -> {state} ({reason})")
        self._state = state
        self._reason = reason
        self._obstacle = None
        self._restart_at = None if wait is None else self._world.wall() + wait

    def _live(self, run_id: str) -> Run | None:
        return self._run if self._run and self._run.id == run_id else None

    def _begin_anew(self) -> None:
        self._cancel_restart()
        self._series.begin_anew()
        self._facts.restarts = 0

    def _launch(self, reason: Reason, replies: list[Reply]) -> None:
        run_id = uuid.uuid4().hex
        self._move(ModelState.STARTING, reason)
        began = self._world.wall()  # Not later: it may have written something before we hear that it is there.
        try:
            started = self._world.launch(self.settings, run_id, self._facts.restarts)
        except Exception as error:  # noqa: BLE001  # whatever it was, the model has no process now and must not seem to
            self._world.answer(replies, self._on_launch_failure(run_id, reason, error))
            return
        self._run = run = Run(run_id, self.ctx, started, self._world, self._world.clock())
        self._facts.began(began, started.log_begin)
        self._announcements.of_run(run, "model_started", reason, started.note, pid=started.process.pid)
        self._world.answer(replies)
        self._begin(run, adopted=False)

    def _begin(self, run: Run, *, adopted: bool) -> None:
        """Begin to ask it how it is; who cannot be asked is well."""
        if run.started.probe is None or self.settings.health is None:
            self._on_ok(run)
        else:
            run.begin(self.settings.health, adopted=adopted)

    def _then(self, wall: float) -> float:
        """A moment in seconds since the epoch, on the hub's clock; now, if the time of day was set back behind it."""
        return self._world.clock() - max(0.0, self._world.wall() - wall)

    def _on_launch_failure(self, run_id: str, reason: Reason, error: Exception) -> HubError:
        if not isinstance(error, ModelError):
            error = LaunchError(self.name, f"cannot be started: {_said(error)}")
        failure = Failure(self._world.wall(), Reason.SPAWN_ERROR, detail=error.message)
        # A first start was somebody's wish, and that somebody is told: trying again by ourselves would surprise them.
        self._fail(self.ctx, run_id, failure, again=reason is Reason.RESTART)
        return error

    def _on_miss(self, run: Run, health: HealthSettings) -> None:
        """Have the status say what it said last."""
        if self._state is ModelState.STARTING:
            self._reason = f"not ready yet: {run.watch.said}"
        elif run.trouble is not None and run.trouble.reason is Reason.STARTUP_TIMEOUT:
            run.trouble = _late(run, health)
            self._reason = run.trouble.detail

    def _on_ok(self, run: Run) -> None:
        now, sick_since = self._world.clock(), run.watch.unhealthy_since
        verdict = run.watch.well(now)
        if verdict is Verdict.NOTHING and self._state is not ModelState.STARTING:
            return
        run.trouble = None
        self._move(ModelState.READY, None)
        if verdict is Verdict.NOTHING:
            return  # It was ready before this hub adopted it.
        if verdict is Verdict.READY:
            self._facts.ready_at = self._world.wall()
            run.started.process.note({"ready_at": self._facts.ready_at})
            self._announcements.of_run(run, "model_ready", None, startup_seconds=run.uptime)
        else:
            off = None if self.settings.health else "health is off now: nobody asks it any more"
            self._announcements.of_run(run, "model_recovered", None, off, unhealthy_seconds=now - (sick_since or now))

    def _on_lost(self, run: Run, result: ProbeResult) -> None:
        if result.final or run.trouble is None:
            times = f", {run.watch.misses} times in a row" if run.watch.misses > 1 and not result.final else ""
            trouble = Trouble(Reason.UNHEALTHY, f"{result.detail}{times}")
            if run.trouble is None:
                self._on_unhealthy(run, trouble)
            # The cause may show only after it was late.
            run.trouble, self._reason = trouble, trouble.detail
        elif self.settings.health is not None:
            self._on_miss(run, self.settings.health)
        assert run.trouble is not None
        if self.settings.restart.policy != "never":
            self._end_run(run.trouble.reason)

    def _on_unhealthy(self, run: Run, trouble: Trouble) -> None:
        run.trouble = trouble
        self._move(ModelState.UNHEALTHY, trouble.detail)
        self._announcements.of_run(run, "model_unhealthy", trouble.reason, trouble.detail, reason=trouble.detail)

    def _end_run(self, reason: Reason) -> None:
        assert self._run is not None
        self._move(ModelState.STOPPING, reason)
        self._run.stop_reason = reason
        self._ask_to_end(self._run, reason)

    def _ask_to_end(self, run: Run, reason: Reason) -> None:
        run.started.process.stop(self.settings.stop_timeout if self._world.patient else 0.0, reason)

    def _rest(self, reason: Reason) -> None:
        """Be stopped, having no process."""
        self._cancel_restart()
        self._obstacle = None
        if self._state is not ModelState.STOPPED:
            self._move(ModelState.STOPPED, reason)
        self._world.answer(self._awaiting_stop)

    def _on_wanted_exit(self, run: Run, outcome: Exit) -> None:
        self._move(ModelState.STOPPED, run.stop_reason)
        self._announcements.stopped(run, run.stop_reason, outcome, at=self._facts.stopped_at, uptime=self._uptime(run))
        self._world.answer(self._awaiting_stop)

    def _on_clean_exit(self, run: Run, outcome: Exit) -> None:
        again = self.settings.restart.policy == "always" and not self._released
        delay = self._next_delay(run) if again else None
        after = ModelState.STOPPED if not again else ModelState.FAILED if delay is None else ModelState.BACKOFF
        self._move(after, Reason.EXIT, delay)
        self._announcements.stopped(
            run, Reason.EXIT, outcome, at=self._facts.stopped_at, uptime=self._uptime(run), restart_in=delay
        )
        self._restart_or_give_up(run.ctx, run.id, again, delay)

    def _on_failure(self, run: Run, outcome: Exit, memory: Shortage) -> None:
        trouble = run.trouble if run.stop_reason in TROUBLES else None
        time, uptime = self._facts.stopped_at or self._world.wall(), self._uptime(run)
        failure = endings.failure(outcome, time=time, uptime=uptime, trouble=trouble, memory=memory)
        self._fail(run.ctx, run.id, failure, again=True, run=run, forced=outcome.forced)

    def _fail(
        self,
        ctx: HubModelContext,
        run_id: str,
        failure: Failure,
        *,
        again: bool,
        run: Run | None = None,
        forced: bool = False,
    ) -> None:
        again = again and self.settings.restart.policy != "never" and not self._released
        delay = self._next_delay(run) if again else None
        first = self._series.add(failure)
        self._move(ModelState.FAILED if delay is None else ModelState.BACKOFF, failure.detail or failure.reason, delay)
        self._announcements.failed(ctx, run_id, failure, forced=forced, restart_in=delay, first=first)
        self._restart_or_give_up(ctx, run_id, again, delay)

    def _next_delay(self, run: Run | None) -> float | None:
        """Seconds until it is started again; None: give up. Only time in which it could answer counts as stable."""
        return self._series.next_delay(
            self.settings.restart.rule,
            now=self._world.clock(),
            ready_for=run.seconds_well if run else 0.0,
            jitter=self._world.jitter(),
        )

    def _restart_or_give_up(self, ctx: HubModelContext, run_id: str, again: bool, delay: float | None) -> None:
        if delay is not None:
            self._timer = self._world.after(delay, RestartDue(self.name))
            self._announcements.restarting(ctx, run_id, attempt=self._series.in_a_row, delay=delay)
        elif again:
            self._give_up(ctx, run_id, Reason.RESTART)

    def _give_up(self, ctx: HubModelContext, run_id: str | None, reason: Reason) -> None:
        self._announcements.gave_up(ctx, run_id, reason, failures=self._series.in_window, first=self._series.first)

    def _uptime(self, run: Run) -> float:
        """Seconds that a process ran which has ended."""
        return self._facts.uptime(run.uptime, self._world.wall())

    def _cancel_restart(self) -> None:
        self.due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _late(run: Run, health: HealthSettings) -> Trouble:
    return Trouble(Reason.STARTUP_TIMEOUT, f"not ready after {health.startup_timeout:g} s: {run.watch.said}")


def _said(error: Exception) -> str:
    """What an exception says, with the file that an OSError is about."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError) and error.filename and Path(error.filename).is_file():
        # What the system did not find is the interpreter: of a virtual environment that was moved, say.
        return f"the program that {error.filename} names in its first line is not there"
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
