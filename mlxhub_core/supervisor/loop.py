"""The actor that owns every model's state. Everything reaches it as a message in its one inbox."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from typing import Any, TypeVar, cast

from mlxhub_core import logs
from mlxhub_core.actor import Actor, Timer
from mlxhub_core.errors import HubError, HubStateError, MemoryShortError, ModelError, UnknownModelError
from mlxhub_core.events import HubEvent, Reason
from mlxhub_core.ports import PortBook
from mlxhub_core.probes import ProbeFactory, ProbeResult, ServerProbe
from mlxhub_core.process import ProcessFactory
from mlxhub_core.settings import HubSettings, ModelSettings
from mlxhub_core.states import ALIVE, RUNNING, ModelState, ModelStatus
from mlxhub_core.supervisor import endings
from mlxhub_core.supervisor import messages as say
from mlxhub_core.supervisor.admission import MEMORY_POLL, Admission
from mlxhub_core.supervisor.heritage import Heritage
from mlxhub_core.supervisor.launcher import Launcher
from mlxhub_core.supervisor.legacy import stand_in
from mlxhub_core.supervisor.lifecycle import Lifecycle
from mlxhub_core.supervisor.plan import Plan, ReloadResult, make_plan
from mlxhub_core.supervisor.run import Run
from mlxhub_core.supervisor.world import Started
from mlxhub_core.vitals import Machine, ThisMachine

T = TypeVar("T")

ROTATION = 10.0
"""Seconds after which a rotation is given up; it is a matter of milliseconds, unless disk or keeper hang."""
TOLD = 1.0
"""Seconds after which every sink that can hear of the end of a process has; until then the next hub would tell it."""


class Loop:
    """Owns all models' state, and decides. Others tell its `actor` what has happened and what they want.

    Args:
        publish: gets each event: the name of its hook and the hook's arguments. Must return at once and not raise.
        failed: gets exceptions that are bugs of ours; the loop goes on.
        process_factory: starts processes, and finds those of a former hub.
        probe_factory: makes what asks models whether they can answer.
        machine: tells how much memory is available.
        clock: seconds that only grow.
        wall: seconds since the epoch.
        jitter: a random number from -1 to 1.
    """

    def __init__(
        self,
        publish: Callable[[str, dict[str, Any]], None],
        failed: Callable[[BaseException], None],
        *,
        process_factory: ProcessFactory,
        probe_factory: ProbeFactory = ServerProbe,
        machine: Machine | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311  # nothing secret about it
    ) -> None:
        self.actor: Actor[say.Message] = Actor(self._handle, failed, clock, name="mlxhub-supervisor")
        self.patient = True
        self.clock = clock
        self.wall = wall
        self.jitter = jitter
        self.after: Callable[[float, say.Message], Timer] = self.actor.after
        self._publish = publish
        self._processes = process_factory
        self._machine = machine or ThisMachine()
        self._launcher = Launcher(process_factory, probe_factory, self._machine, self.actor.tell)
        self._admission = Admission(self._machine, clock)
        self._settings: HubSettings | None = None
        self._models: dict[str, Lifecycle] = {}
        self._waiting: dict[str, tuple[Reason, list[say.Reply]]] = {}
        self._heritage = Heritage(process_factory)
        self._closing = False
        self._left = False
        self._looking_again = False
        self._seq = 0
        self._snapshot: tuple[ModelStatus, ...] = ()

    def status(self) -> tuple[ModelStatus, ...]:
        """Every model as it was after the last message. From any thread; returns at once."""
        return self._snapshot

    # Messages, on the actor's thread.

    def _handle(self, message: say.Message) -> None:
        try:
            self._dispatch(message)
        except Exception as error:
            reply = getattr(message, "reply", None)
            if reply is None or reply.done():
                raise
            self.answer([reply], error)
        finally:
            self._settle()

    def _dispatch(self, message: say.Message) -> None:
        match message:
            case say.Start(name, reply):
                self._start(self._model(name), Reason.OPERATOR, reply)
            case say.Stop(name, reply):
                self._stop(self._model(name), Reason.OPERATOR, reply)
            case say.Restart(name, reply):
                self._restart(self._model(name), Reason.OPERATOR, reply)
            case say.Reset(name, reply):
                self._reset(self._model(name), reply)
            case say.Apply(settings, apply_reply):
                self._apply(settings, apply_reply)
            case say.Preview(settings, plan_reply):
                self._refuse_if_closing()
                self._find_heritage()
                self.answer([plan_reply], result=self._plan(settings, self._admission.book_for(settings)))
            case say.RotateLog(name, reply):
                self._rotate_log(self._model(name), reply)
            case say.Reserve(settings, reply):
                self._refuse_if_closing()
                self._find_heritage()
                self._admission.adopt(self._admission.book_for(settings))
                self.answer([reply])
            case say.Shutdown(reply, keep_models):
                self._shut_down(reply, keep_models)
            case say.Told(run_id):
                self._processes.forget(run_id)
            case say.Kill():
                # From now on, too: the wish may come before the stop that it is about.
                self.patient = False
                for model in self._models.values():
                    model.kill()
            case say.Overdue(reply, error):
                with contextlib.suppress(InvalidStateError):
                    reply.set_exception(error)
            case say.LookAgain():
                self._looking_again = False
            case _:
                self._inform(message)

    def _inform(self, message: say.Message) -> None:
        """Tell a model what happened to it; a model that is gone misses nothing."""
        model = self._models.get(getattr(message, "name", ""))
        if model is None or (self._left and not isinstance(message, say.Exited)):
            return
        match message:
            case say.Exited(_, run_id, outcome):
                model.on_exit(run_id, outcome)
                self.after(TOLD, say.Told(run_id))
            case say.LogFailing(_, run_id, reason):
                model.on_log_failing(run_id, reason)
            case say.LogRecovered(_, run_id, lost_bytes):
                model.on_log_recovered(run_id, lost_bytes)
            case say.ProbeDue(_, run_id):
                model.on_probe_due(run_id)
            case say.Probed(_, run_id, result):
                self._admission.memory.see(result.vitals)
                model.on_probed(run_id, result)
            case say.StartupDue(_, run_id):
                model.on_startup_due(run_id)
            case say.RestartDue():
                model.on_restart_due()

    def _settle(self) -> None:
        """After each message: forget who is gone, let in who waits, and take the picture that `status` shows."""
        for name, model in list(self._models.items()):
            if model.retired and model.state not in ALIVE:
                del self._models[name]
        told = -1
        while told != self._seq:  # Who gets in may have taken what another was waiting for.
            told = self._seq
            self._let_all_in()
        self._take_snapshot()

    def _let_all_in(self) -> None:
        for name, (reason, replies) in list(self._waiting.items()):
            self._let_in(self._models[name], reason, replies)
        for model in list(self._models.values()):
            if model.due:
                self._relaunch(model)

    def _let_in(self, model: Lifecycle, reason: Reason, replies: list[say.Reply]) -> None:
        try:
            if model.state is ModelState.STOPPING or self._obstacle(model):
                return
            model.start(reason, replies)
        except ModelError as error:
            model.refuse(reason, error)
            self.answer(replies, error)
        del self._waiting[model.name]

    def _relaunch(self, model: Lifecycle) -> None:
        try:
            obstacle = self._obstacle(model)
        except MemoryShortError as error:
            model.give_back(error)
        except ModelError as error:  # Another model has its place or its port: that is for people to settle.
            model.postpone(error.message)
        else:
            if obstacle is None:
                model.restart()

    def _obstacle(self, model: Lifecycle) -> str | None:
        """What a start has to wait for; None: nothing. Raises ModelError if that would be in vain."""
        obstacle = self._admission.obstacle(model, self._models.values(), self._waiting)
        if obstacle is not None:
            model.postpone(obstacle)
        if obstacle is not None and self._admission.is_waiting() and not self._looking_again:
            self._looking_again = True
            self.after(MEMORY_POLL, say.LookAgain())
        return obstacle

    def _take_snapshot(self) -> None:
        self._snapshot = tuple(model.status() for model in self._models.values())

    # Commands.

    def _model(self, name: str) -> Lifecycle:
        if self._settings is None:
            raise HubStateError("hub.yaml is not loaded yet; call reload() first")
        model = self._models.get(name)
        if model is None or model.retired:
            raise UnknownModelError(name, (m.name for m in self._models.values() if not m.retired))
        return model

    def _start(self, model: Lifecycle, reason: Reason, reply: say.Reply) -> None:
        self._refuse_if_closing()
        try:
            wait = model.state is ModelState.STOPPING or (model.state not in RUNNING and self._obstacle(model))
        except ModelError as error:
            model.refuse(reason, error)
            raise
        if wait:
            self._queue(model, reason, reply)
        else:
            model.start(reason, [reply])

    def _stop(self, model: Lifecycle, reason: Reason, reply: say.Reply) -> None:
        if self._left:
            raise HubStateError(f"{model.name}: this hub leaves it to the next one; start that, and stop it there")
        _, replies = self._waiting.pop(model.name, (reason, []))
        self.answer(replies, HubStateError(f"{model.name}: was stopped before it started"))
        model.stop(reason, reply)

    def _restart(self, model: Lifecycle, reason: Reason, reply: say.Reply) -> None:
        self._refuse_if_closing()
        if model.state in RUNNING and reason is Reason.OPERATOR:
            # Raises what would keep it from its start: better that it runs on than that it is stopped for nothing.
            self._admission.kept_from(model, self._models.values(), self._waiting)
        if model.state in ALIVE:
            # It does not end because the hub starts, but because hub.yaml has changed meanwhile.
            model.stop(Reason.RELOAD if reason is Reason.HUB_START else reason, say.Reply())
        self._start(model, reason, reply)

    def _reset(self, model: Lifecycle, reply: say.Reply) -> None:
        self._refuse_if_closing()
        if model.name in self._waiting:
            raise HubStateError(f"{model.name}: is about to be started; stop it first")
        model.reset()
        self.answer([reply])

    def _queue(self, model: Lifecycle, reason: Reason, reply: say.Reply) -> None:
        """Have it started as soon as it has ended, and has a place and its port."""
        _, replies = self._waiting.setdefault(model.name, (reason, []))
        replies.append(reply)

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise HubStateError("the hub is shutting down; start it again first")

    def _rotate_log(self, model: Lifecycle, reply: say.Reply) -> None:
        def refusal(why: str) -> ModelError:
            return ModelError(model.name, f"its log cannot be rotated: {why}; look at {model.log_path}")

        def done(why: str | None) -> None:
            with contextlib.suppress(InvalidStateError):  # it was answered already that this takes too long
                reply.set_result(None) if why is None else reply.set_exception(refusal(why))

        assert self._settings is not None
        model.rotate_log(self._settings.log_rotation, done)
        if not reply.done():
            self.after(ROTATION, say.Overdue(reply, refusal(f"its keeper has not done it within {ROTATION:g} s")))

    def _shut_down(self, reply: say.Reply, keep_models: bool) -> None:
        if not self._closing:
            self._closing = True
            self.announce("hub_stopping", {"reason": Reason.HUB_SHUTDOWN})
        if keep_models or self._left:
            self._left = True
            for _, replies in self._waiting.values():
                self.answer(replies, HubStateError("the hub is shutting down"))
            self._waiting.clear()
            for model in self._models.values():
                model.release()
            self.answer([reply])
            return
        stops = {name: say.Reply() for name in self._models}
        for name, stopped in stops.items():
            self._stop(self._models[name], Reason.HUB_SHUTDOWN, stopped)
        _when_all(stops.values(), lambda: self.answer([reply]))

    # Reload.

    def _apply(self, settings: HubSettings, reply: Future[ReloadResult]) -> None:
        self._refuse_if_closing()
        first = self._settings is None
        if first:
            self._adopt(settings)
        book = self._admission.book_for(settings)
        plan = self._plan(settings, book)
        self._admission.adopt(book)
        self._admission.limit(settings)
        if self._settings is None or settings.log_rotation != self._settings.log_rotation:
            for model in self._models.values():
                model.set_rotation(settings.log_rotation)
        self._settings = settings
        self._take_over(settings)
        reason = Reason.HUB_START if first else Reason.RELOAD
        ended = tuple(s.name for s in (*plan.stop, *plan.restart) if self._models[s.name].state in ALIVE)
        stops = {step.name: say.Reply() for step in plan.stop}
        starts = {step.name: say.Reply() for step in (*plan.restart, *plan.start)}
        for name, stopped in stops.items():
            self._models[name].retired = True
            self._stop(self._models[name], Reason.RELOAD, stopped)
        for step in plan.restart:
            self._try(self._restart, step.name, reason, starts)
        for step in plan.start:
            self._try(self._start, step.name, reason, starts)
        everything = (*stops.values(), *starts.values())
        _when_all(everything, lambda: self._applied(plan, ended, starts, reply, quiet=first))

    def _plan(self, settings: HubSettings, book: PortBook) -> Plan:
        states = {name: model.state for name, model in self._models.items() if not model.retired}
        # Before the first reload: those that it will adopt. What has ended it starts, or not, like any other.
        states |= self._heritage.states()
        rehoused = {m.name for m in self._models.values() if m.port not in (None, book.port_of(m.name))}
        adopted = self._heritage.unchanged(settings, states) if self._settings is None else {}
        return make_plan(states, self._settings, settings, rehoused, adopted)

    # What a former hub has left running.

    def _find_heritage(self) -> None:
        """Look for them, once; they keep their ports."""
        if not self._heritage.is_known:
            self._admission.expect(self._heritage.find())

    def _adopt(self, settings: HubSettings) -> None:
        """Make them this hub's. Those that hub.yaml no longer has are stopped like any that it loses."""
        entries = {model.name: model for model in settings.models}
        for survivor, record, is_surplus in self._heritage.taken():
            if is_surplus:
                # No hub does that; but if it is so, it must not stay so.
                self._launcher.attach(survivor).stop(0.0, Reason.HUB_START)
                continue
            entry = entries.get(survivor.model) or stand_in(survivor.model, record)
            model = self._models.get(survivor.model) or Lifecycle(entry, str(survivor.log), self)
            self._models[survivor.model] = model
            model.adopt(survivor, self._launcher.take_over(survivor, record), record.restarts)
            if survivor.exit is not None:
                self.after(TOLD, say.Told(survivor.run_id))

    def _take_over(self, settings: HubSettings) -> None:
        """Have a lifecycle with the new settings for each model, in the order of the file."""
        new = {}
        for model in settings.models:
            log = str(logs.log_file(settings.log_path, model.name))
            new[model.name] = self._models.get(model.name) or Lifecycle(model, log, self)
        # All of them before any update: what that tells must find the whole picture in the status.
        self._models = new | {name: model for name, model in self._models.items() if name not in new}
        for model in settings.models:
            new[model.name].update(model, str(logs.log_file(settings.log_path, model.name)))

    def _try(
        self,
        command: Callable[[Lifecycle, Reason, say.Reply], None],
        name: str,
        reason: Reason,
        replies: Mapping[str, say.Reply],
    ) -> None:
        """A start that cannot happen does not keep the others from theirs."""
        try:
            command(self._models[name], reason, replies[name])
        except HubError as error:
            self.answer([replies[name]], error)

    def _applied(
        self,
        plan: Plan,
        ended: tuple[str, ...],
        starts: Mapping[str, say.Reply],
        reply: Future[ReloadResult],
        quiet: bool,
    ) -> None:
        failed = {name: error for name, future in starts.items() if isinstance(error := future.exception(), HubError)}
        result = ReloadResult(
            started=tuple(name for name in starts if name not in failed),
            stopped=ended,
            unchanged=tuple(step.name for step in plan.unchanged),
            failed=failed,
        )
        if not quiet:
            names = {"started": result.started, "stopped": result.stopped, "unchanged": result.unchanged}
            self.announce("config_reloaded", {"reason": Reason.RELOAD}, **names)
        self.answer([reply], result=result)

    # What a lifecycle needs of the loop: see `world.Surroundings`.

    def launch(self, model: ModelSettings, run_id: str, restarts: int) -> Started:
        """Start a model's process. Raises HubError or OSError."""
        assert self._settings is not None
        port = self._admission.claim(model)
        started = self._launcher.launch(self._settings, model, run_id, port=port, restarts=restarts)
        return replace(started, note=self._admission.note(model.name))

    def ask(self, run: Run, model: ModelSettings) -> None:
        """Ask a process whether it can answer."""
        assert run.started.probe is not None
        assert model.health is not None
        name, run_id = model.name, run.id

        def answer(result: ProbeResult) -> None:
            self.actor.tell(say.Probed(name, run_id, result))

        run.started.probe.ask(run.watch.question, model.health, answer)

    def ended(self, run: Run) -> endings.Shortage:
        """Take note of the end of a process."""
        vitals = run.watch.vitals
        self._admission.memory.ended(vitals)
        return endings.shortage(run.started.oom_kills, vitals, self._machine)

    def announce(self, hook: str, about: Mapping[str, Any], **arguments: Any) -> None:
        """Number an event, wrap it up and publish it."""
        self._seq += 1
        event = HubEvent(**{"seq": self._seq, "id": str(uuid.uuid4()), "time": self.wall(), **about})
        # First the picture: a sink that asks for the status finds there what it was just told.
        self._take_snapshot()
        self._publish(hook, {**arguments, "event": event})

    def answer(self, replies: list[Future[T]], error: Exception | None = None, result: T | None = None) -> None:
        """Answer those who wait, and forget them. They too find in the status what they are told."""
        self._take_snapshot()
        waiting, replies[:] = list(replies), []
        for reply in waiting:
            if error is not None:
                reply.set_exception(error)
            else:
                reply.set_result(cast(T, result))


def _when_all(futures: Iterable[Future[Any]], done: Callable[[], None]) -> None:
    """Call `done` once, on the thread that resolves the last of the futures; at once if there is none."""
    left = list(futures)
    if not left:
        done()
        return

    def one_less(future: Future[Any]) -> None:
        left.remove(future)
        if not left:
            done()

    for future in list(left):
        future.add_done_callback(one_less)
