"""The supervisor: an actor that owns every model's state. Everything reaches it as a message in its one inbox."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from mlxhub_core import logs
from mlxhub_core.actor import Actor, Timer
from mlxhub_core.errors import GroupFullError, HubError, HubStateError, LaunchError, ModelError, UnknownModelError
from mlxhub_core.events import HubEvent, Reason
from mlxhub_core.launch import Launch, prepare
from mlxhub_core.ports import PortBook
from mlxhub_core.probes import Prober, Target, probe_in_thread
from mlxhub_core.process import ProcessFactory, spawn
from mlxhub_core.restart import RestartRule
from mlxhub_core.settings import HubSettings, ModelSettings
from mlxhub_core.states import ALIVE, ModelState, ModelStatus
from mlxhub_core.supervisor import messages as say
from mlxhub_core.supervisor.lifecycle import RUNNING, Lifecycle, Started
from mlxhub_core.supervisor.plan import Plan, ReloadResult, make_plan

T = TypeVar("T")


class Supervisor:
    """Runs the models of hub.yaml.

    Its public methods may be called from any thread, also from inside a sink; they wait for the answer and never hold
    a lock. `status` does not even wait.

    Args:
        publish: gets each event: the name of its hook and the hook's arguments. Must return at once and not raise.
        failed: gets exceptions that are bugs of ours; the loop goes on.
        process_factory: starts processes.
        prober: asks models whether they can answer.
        clock: seconds that only grow.
        wall: seconds since the epoch.
        jitter: a random number from -1 to 1.
        rule: how failed models are restarted.
    """

    def __init__(
        self,
        publish: Callable[[str, dict[str, Any]], None],
        failed: Callable[[BaseException], None],
        *,
        process_factory: ProcessFactory = spawn,
        prober: Prober = probe_in_thread,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311  # nothing secret about it
        rule: RestartRule | None = None,
    ) -> None:
        self.actor: Actor[say.Message] = Actor(self._handle, failed, clock, name="mlxhub-supervisor")
        self.rule = rule or RestartRule()
        self.patient = True
        self.clock = clock
        self.wall = wall
        self.jitter = jitter
        self.after: Callable[[float, say.Message], Timer] = self.actor.after
        self._publish = publish
        self._spawn = process_factory
        self._prober = prober
        self._settings: HubSettings | None = None
        self._ports: PortBook | None = None
        self._models: dict[str, Lifecycle] = {}
        self._waiting: dict[str, tuple[Reason, list[say.Reply]]] = {}
        self._closing = False
        self._seq = 0
        self._snapshot: tuple[ModelStatus, ...] = ()

    # For any thread.

    def start(self) -> None:
        """Start the loop."""
        self.actor.start()

    def status(self) -> tuple[ModelStatus, ...]:
        """Every model as it was after the last message. Returns at once."""
        return self._snapshot

    def start_model(self, name: str) -> None:
        """Start a model; returns when its process runs. Raises HubError."""
        self._ask(lambda reply: say.Start(name, reply))

    def stop_model(self, name: str) -> None:
        """Stop a model; returns when its process has ended. Raises HubError."""
        self._ask(lambda reply: say.Stop(name, reply))

    def restart_model(self, name: str) -> None:
        """Stop a model if it runs and start it; returns when the new process runs. Raises HubError."""
        self._ask(lambda reply: say.Restart(name, reply))

    def reserve_ports(self, settings: HubSettings) -> None:
        """Find a port for each model of `settings`, and start or stop none. Raises HubError and changes nothing."""
        self._ask(lambda reply: say.Reserve(settings, reply))

    def apply(self, settings: HubSettings) -> ReloadResult:
        """Make the models be as `settings` say; returns when that is done. Raises HubError and changes nothing."""
        return self._ask(lambda reply: say.Apply(settings, reply))

    def shutdown(self) -> None:
        """Stop every model and refuse everything from now on; returns when all have ended."""
        self._ask(lambda reply: say.Shutdown(reply))

    def kill(self) -> None:
        """End those that are stopping at once, and give no model a grace any more. Returns at once."""
        self.actor.tell(say.Kill())

    def _ask(self, message: Callable[[Future[T]], say.Message]) -> T:
        reply: Future[T] = Future()
        if not self.actor.tell(message(reply)):
            raise HubStateError("the hub was shut down; start it again first")
        return reply.result()

    def _tell(self, message: say.Message) -> None:
        # False would mean that the loop has ended: then nobody is left whom the message could concern.
        self.actor.tell(message)

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
            case say.Apply(settings, apply_reply):
                self._apply(settings, apply_reply)
            case say.Reserve(settings, reply):
                self._refuse_if_closing()
                self._assign_ports(settings)
                self.answer([reply])
            case say.Shutdown(reply):
                self._shut_down(reply)
            case say.Kill():
                # From now on, too: the wish may come before the stop that it is about.
                self.patient = False
                for model in self._models.values():
                    model.kill()
            case _:
                self._inform(message)

    def _inform(self, message: say.Message) -> None:
        """Tell a model what happened to it; a model that is gone misses nothing."""
        model = self._models.get(getattr(message, "name", ""))
        match message:
            case _ if model is None:
                return
            case say.Exited(_, run_id, outcome):
                model.on_exit(run_id, outcome)
            case say.ProbeDue(_, run_id):
                model.on_probe_due(run_id)
            case say.Probed(_, run_id, result):
                model.on_probed(run_id, result)
            case say.RestartDue():
                model.on_restart_due(place=self._has_place(model))

    def _settle(self) -> None:
        """After each message: forget who is gone, let in who waits, and take the picture that `status` shows."""
        for name, model in list(self._models.items()):
            if model.retired and model.state not in ALIVE:
                del self._models[name]
        for name, (reason, replies) in list(self._waiting.items()):
            self._let_in(self._models[name], reason, replies)
        self._take_snapshot()

    def _let_in(self, model: Lifecycle, reason: Reason, replies: list[say.Reply]) -> None:
        try:
            if model.state is ModelState.STOPPING or self._must_wait(model):
                return
            model.start(reason, replies)
        except ModelError as error:
            self.answer(replies, error)
        del self._waiting[model.name]

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
        if model.state is ModelState.STOPPING or (model.state not in RUNNING and self._must_wait(model)):
            self._queue(model, reason, reply)
        else:
            model.start(reason, [reply])

    def _stop(self, model: Lifecycle, reason: Reason, reply: say.Reply) -> None:
        _, replies = self._waiting.pop(model.name, (reason, []))
        self.answer(replies, HubStateError(f"{model.name}: was stopped before it started"))
        model.stop(reason, reply)

    def _restart(self, model: Lifecycle, reason: Reason, reply: say.Reply) -> None:
        self._refuse_if_closing()
        if model.state in RUNNING:
            model.stop(reason, say.Reply())
        self._start(model, reason, reply)

    def _queue(self, model: Lifecycle, reason: Reason, reply: say.Reply) -> None:
        """Have it started as soon as it has ended, and has a place and its port."""
        _, replies = self._waiting.setdefault(model.name, (reason, []))
        replies.append(reply)

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise HubStateError("the hub is shutting down; start it again first")

    def _shut_down(self, reply: say.Reply) -> None:
        if not self._closing:
            self._closing = True
            self.announce("hub_stopping", {"reason": Reason.HUB_SHUTDOWN})
        stops = {name: say.Reply() for name in self._models}
        for name, stopped in stops.items():
            self._stop(self._models[name], Reason.HUB_SHUTDOWN, stopped)
        _when_all(stops.values(), lambda: self.answer([reply]))

    # Groups.

    def _group_mates(self, model: Lifecycle) -> list[Lifecycle]:
        """The models that hold a place in its group."""
        group = model.settings.group
        return [
            m
            for m in self._models.values()
            if group and m is not model and m.settings.group == group and m.state in ALIVE
        ]

    def _places(self, model: Lifecycle) -> float:
        group = self._settings.groups.get(model.settings.group or "") if self._settings else None
        return group.max_loaded if group and group.max_loaded is not None else float("inf")

    def _must_wait(self, model: Lifecycle) -> bool:
        """Whether what it needs is about to become free: a place in its group, its port.

        Raises:
            GroupFullError, LaunchError: another model has it and keeps it.
        """
        mates, places = self._group_mates(model), self._places(model)
        staying = [mate.name for mate in mates if mate.state is not ModelState.STOPPING or mate.name in self._waiting]
        if len(staying) >= places:
            raise GroupFullError(model.name, str(model.settings.group), int(places), staying)
        owner = self._owner_of_its_port(model)
        if owner is not None and owner.state is not ModelState.STOPPING:
            raise LaunchError(
                model.name, f"port {owner.port} is in use by {owner.name}; stop or restart that one first"
            )
        return len(mates) >= places or owner is not None

    def _has_place(self, model: Lifecycle) -> bool:
        try:
            return not self._must_wait(model)
        except ModelError:
            return False

    def _owner_of_its_port(self, model: Lifecycle) -> Lifecycle | None:
        """The other model whose process has the port that this one is to have."""
        port = self._ports.port_of(model.name) if self._ports else None
        return next((m for m in self._models.values() if m is not model and port is not None and m.port == port), None)

    # Reload.

    def _apply(self, settings: HubSettings, reply: Future[ReloadResult]) -> None:
        self._refuse_if_closing()
        first = self._settings is None
        self._assign_ports(settings)
        plan = make_plan(self._states(), self._settings, settings, self._rehoused())
        self._settings = settings
        self._take_over(settings)
        reason = Reason.HUB_START if first else Reason.RELOAD
        stops = {step.name: say.Reply() for step in plan.stop}
        starts = {step.name: say.Reply() for step in (*plan.restart, *plan.start)}
        for name, stopped in stops.items():
            self._models[name].retired = True
            self._stop(self._models[name], reason, stopped)
        for step in plan.restart:
            self._try(self._restart, step.name, reason, starts)
        for step in plan.start:
            self._try(self._start, step.name, reason, starts)
        everything = (*stops.values(), *starts.values())
        _when_all(everything, lambda: self._applied(plan, starts, reply, quiet=first))

    def _states(self) -> dict[str, ModelState]:
        return {name: model.state for name, model in self._models.items() if not model.retired}

    def _rehoused(self) -> set[str]:
        """The models that run on a port which hub.yaml now gives to another."""
        ports = self._ports
        return {m.name for m in self._models.values() if ports and m.port not in (None, ports.port_of(m.name))}

    def _assign_ports(self, settings: HubSettings) -> None:
        # A new book, so that one which cannot be filled leaves the old one as it was.
        book = PortBook(settings.host, settings.model_starting_port, self._ports)
        book.assign(settings.models)
        self._ports = book

    def _take_over(self, settings: HubSettings) -> None:
        """Have a lifecycle with the new settings for each model, in the order of the file."""
        old, self._models = self._models, {}
        for model in settings.models:
            log = str(logs.log_file(settings.log_path, model.name))
            lifecycle = old.pop(model.name) if model.name in old else Lifecycle(model, log, self)
            self._models[model.name] = lifecycle
            lifecycle.settings, lifecycle.log_path, lifecycle.retired = model, log, False
        self._models |= old

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

    def _applied(self, plan: Plan, starts: Mapping[str, say.Reply], reply: Future[ReloadResult], quiet: bool) -> None:
        failed = {name: error for name, future in starts.items() if isinstance(error := future.exception(), HubError)}
        result = ReloadResult(
            started=tuple(name for name in starts if name not in failed),
            stopped=tuple(step.name for step in (*plan.stop, *plan.restart)),
            unchanged=tuple(step.name for step in plan.unchanged),
            failed=failed,
        )
        if not quiet:
            names = {"started": result.started, "stopped": result.stopped, "unchanged": result.unchanged}
            self.announce("config_reloaded", {"reason": Reason.RELOAD}, **names)
        self.answer([reply], result=result)

    # What a lifecycle needs of the loop: see `lifecycle.Surroundings`.

    def launch(self, model: ModelSettings, run_id: str) -> Started:
        """Start a model's process. Raises HubError or OSError."""
        assert self._settings is not None
        assert self._ports is not None
        port = self._ports.claim(model)
        launch = prepare(model, host=self._settings.host, port=port, directory=self._settings.directory)
        log = logs.log_file(self._settings.log_path, model.name)
        name = model.name
        process = self._spawn(launch, log, lambda outcome: self._tell(say.Exited(name, run_id, outcome)))
        return Started(
            process, self._settings.host, port, _target(model, launch, self._settings.host, port, process.pid)
        )

    def probe(self, name: str, run_id: str, target: Target) -> None:
        """Ask a model whether it can answer."""
        self._prober(target, lambda result: self._tell(say.Probed(name, run_id, result)))

    def announce(self, hook: str, about: Mapping[str, Any], **arguments: Any) -> None:
        """Number an event, wrap it up and publish it."""
        self._seq += 1
        event = HubEvent(seq=self._seq, id=str(uuid.uuid4()), time=self.wall(), **about)
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


def _target(model: ModelSettings, launch: Launch, host: str, port: int | None, pid: int) -> Target | None:
    if port is None or (model.command is not None and model.health is None):
        return None
    return Target(host, port, launch.mlx_model, model.health.path if model.health else "/health", pid)


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
