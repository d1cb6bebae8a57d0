"""Any history at all: Hypothesis plays commands, exits, answers, time and reloads into the supervisor, in any order.

The hub dies in it, too, and another comes, which finds what the former has left.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from mlxhub_core.errors import GroupFullError, HubError, LaunchError, MemoryShortError
from mlxhub_core.events import TROUBLES, Failure, HubEvent, Reason
from mlxhub_core.probes import ProbeResult, Question, Target
from mlxhub_core.process import Exit, Listener, Order, Survivor
from mlxhub_core.settings import HealthSettings, HubSettings, RotationSettings, load_settings
from mlxhub_core.states import ALIVE, MOVES, RUNNING, ModelState, ModelStatus
from mlxhub_core.supervisor import Loop, Supervisor
from mlxhub_core.supervisor import messages as say
from mlxhub_core.testing import FakeClock
from mlxhub_core.vitals import Vitals

GB = 1_000_000_000
NAMES = ("a", "b", "c", "d")
PROGRAM = f'command: ["{sys.executable}"]'
SERVER = f'command: ["{sys.executable}", "{{port}}"]'
TOP = "log_path: logs\nmodel_starting_port: 28710\n"
HUBS = {
    "a group for two": f"""
groups: [{{name: g, max_loaded: 2}}]
models:
  - {{name: a, {SERVER}, default: true, group: g}}
  - {{name: b, {SERVER}, default: true, group: g, restart: always}}
  - {{name: c, {PROGRAM}, group: g, restart: {{delay: 0, max_failures: 3}}}}
  - {{name: d, {SERVER}, default: true, restart: never, health: {{failures: 1}}}}
""",
    "the same, heeded otherwise": f"""
groups: [{{name: g, max_loaded: 2}}]
models:
  - {{name: a, {SERVER}, default: true, health: off}}
  - {{name: b, {SERVER}, default: true, group: g, restart: never, health: {{interval: 1, startup_timeout: 5}}}}
  - {{name: c, {PROGRAM}, group: g, restart: never}}
  - {{name: d, {SERVER}, default: true, group: g, memory: {{required: 4GB}}, restart: {{delay: 0.1, jitter: 1}}}}
""",
    "a place for one": f"""
groups: [{{name: g, max_loaded: 1}}]
models:
  - {{name: a, {SERVER}, default: true, group: g}}
  - {{name: b, {SERVER}, group: g, restart: always}}
  - {{name: c, {PROGRAM}, group: g, restart: on-failure}}
  - {{name: d, {SERVER}, restart: {{policy: always, delay: 0.5, window: 5}}, health: {{failures: 2, interval: 3}}}}
""",
    "much memory": f"""
models:
  - {{name: a, {SERVER}, default: true, memory: {{required: 8GB}}, health: {{startup_timeout: 20, interval: 5}}}}
  - {{name: b, {SERVER}, default: true, memory: {{required: 8GB}}, restart: {{reset_after: 1}}}}
  - {{name: c, {SERVER}, default: true, health: off, memory: {{required: 1GB}}}}
""",
    "others in other places": f"""
groups: [{{name: g, max_loaded: 1}}, {{name: h, max_loaded: 1}}]
models:
  - {{name: c, {SERVER}, default: true, group: h, health: {{timeout: 1, interval: 1, failures: 1}}}}
  - {{name: a, {SERVER}, group: h, restart: never}}
  - {{name: d, {PROGRAM}, default: true, group: g, env: {{A: b}}}}
""",
    "ports of their own": f"""
models:
  - {{name: a, {SERVER}, default: true, port: 28761}}
  - {{name: b, {SERVER}, default: true, port: 28762, health: {{startup_timeout: 3}}}}
""",
    "those ports exchanged, health off": f"""
models:
  - {{name: a, {SERVER}, default: true, port: 28762, health: off}}
  - {{name: b, {SERVER}, default: true, port: 28761, restart: never}}
  - {{name: d, {SERVER}, stop_timeout: 1}}
""",
}
WISHES = (Reason.OPERATOR, Reason.RELOAD, Reason.HUB_START, Reason.HUB_SHUTDOWN)
CODES = (0, 3, -9, -15, None)
NEWS_OF_NOBODY = say.ProbeDue("nobody", "")
SEQUEL = ("model_restarting", "model_gave_up")
ENDS = ("model_stopped", "model_failed")
HEARD = (*SEQUEL, *(f"model_{word}" for word in ("started", "adopted", "ready", "unhealthy", "stopped", "failed")))


class Process:
    """A process that ends when the machine says so, and what its keeper knows of it."""

    def __init__(
        self, order: Order, pid: int, started_at: float, on_stop: Callable[[str], None], listener: Listener
    ) -> None:
        self.name = order.model
        self.order = order
        self.pid = pid
        self.started_at = started_at
        self.asked: str | None = None
        self.noted: Mapping[str, Any] = {}
        self.outcome: Exit | None = None
        self.ended_at = 0.0
        self.forgotten = False
        self.listener = listener
        self._on_stop = on_stop

    @property
    def alive(self) -> bool:
        return self.outcome is None

    @property
    def asked_to_end(self) -> bool:
        return self.asked is not None

    def end(self, outcome: Exit, now: float) -> None:
        assert self.alive
        self.outcome, self.ended_at = replace(outcome, at=now), now

    def survivor(self) -> Survivor:
        order = self.order
        return Survivor(
            model=self.name,
            run_id=order.run_id,
            pid=self.pid,
            started_at=self.started_at,
            log=order.log,
            log_begin=0,
            record=json.loads(json.dumps(dict(order.record))),
            asked=self.asked,
            note=self.noted,
            exit=self.outcome,
            attach=self._attach,
        )

    def _attach(self, listener: Listener) -> Process:
        self.listener = listener
        return self

    def note(self, facts: Mapping[str, Any]) -> None:
        self.noted = facts

    def rotate(self, done: Callable[[str | None], None]) -> None: ...

    def set_rotation(self, rotation: RotationSettings | None) -> None: ...

    def release(self) -> None: ...

    def stop(self, grace: float, reason: str) -> None:
        assert self.alive
        assert self.asked is None or (self.asked in TROUBLES and reason not in TROUBLES), "once is enough"
        self.asked = reason
        self._on_stop(self.name)

    def kill(self) -> None:
        assert self.asked_to_end, "only who was asked to end is killed"


class Processes:
    """Starts processes, and finds those whose end no hub has told, or just so."""

    def __init__(
        self, start: Callable[[Order, Listener], Process], all_of_them: list[Process], forget: Callable[[str], None]
    ) -> None:
        self.start = start
        self.forget = forget
        self._all = all_of_them

    def prepare(self) -> None:
        pass

    def survivors(self) -> list[Survivor]:
        return [process.survivor() for process in self._all if not process.forgotten]

    def close(self) -> None: ...


@dataclass
class Asked:
    """A question, and how to answer it."""

    pid: int | None
    answer: Callable[[ProbeResult], None]


@dataclass
class Probe:
    """Asks nobody: the machine answers."""

    target: Target
    asked: list[Asked]

    def ask(self, question: Question, health: HealthSettings, answer: Callable[[ProbeResult], None]) -> None:
        self.asked.append(Asked(self.target.pid, answer))


@dataclass
class Memory:
    """As much as the machine says."""

    available: int = 9 * GB
    kills: int | None = 0

    def available_memory(self) -> int:
        return self.available

    def total_memory(self) -> int:
        return 32 * GB

    def memory_of(self, pid: int) -> int:
        return 0

    def oom_kills(self) -> int | None:
        return self.kills


@dataclass
class Told:
    """The events of one model, and what may come next."""

    run: str | None = None
    runs: set[str | None] = field(default_factory=set)
    was_ready: bool = False
    ill: bool = False
    sequel_of: HubEvent | None = None
    failures: list[Failure] = field(default_factory=list)


def _result(answer: str, vitals: Vitals | None = None) -> ProbeResult:
    return ProbeResult(answer == "ok", answer, answer == "final", vitals, answer != "not asked")


def _error(reply: Future[Any]) -> BaseException | None:
    return reply.exception(timeout=0) if reply.done() else None


class HubMachine(RuleBasedStateMachine):
    """A supervisor, and what must be true of it after whatever has happened."""

    hubs: ClassVar[Sequence[HubSettings]] = ()
    heard: ClassVar[Counter[str]] = Counter()
    """Over all histories: what was told how often."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.memory = Memory()
        self.processes: list[Process] = []
        self.open: list[Asked] = []
        self.answered: list[Asked] = []
        self.broken: set[str] = set()
        self.bugs: list[BaseException] = []
        self.starts: Counter[str] = Counter()
        self.ends: dict[str, str] = {}
        self._begin_hub(0)

    def _begin_hub(self, which: int) -> None:
        self.open.clear()
        self.answered.clear()
        self.replies: list[Future[Any]] = []
        self.agreements: list[tuple[Future[Any], Callable[[Future[Any]], None]]] = []
        self.told: dict[str, Told] = {}
        self.unwanted: set[str] = set()
        self.found: dict[str, float] = {}
        self.news: list[str] = []
        self.in_force = which
        self.closing = False
        self.seq = 0
        self.ids: set[str] = set()
        self.seen: dict[str, ModelState] = {}
        self.before: dict[str, ModelState] = {}
        self.supervisor = Supervisor(
            Loop(
                self._publish,
                self.bugs.append,
                process_factory=Processes(self._spawn, self.processes, self._forget),
                probe_factory=lambda target: Probe(target, self.open),
                machine=self.memory,
                clock=self.clock,
                wall=self.clock,
                jitter=lambda: 0.0,
            )
        )
        self._tell(lambda reply: say.Reserve(self.hubs[which], reply))
        self._tell(lambda reply: say.Apply(self.hubs[which], reply))

    # What may happen.

    @rule(
        really=st.integers(0, 2),
        gently=st.booleans(),
        away=st.sampled_from([0.0, 0.5, 3.0, 100.0]),
        ending=st.sets(st.integers(0, 3)),
        code=st.sampled_from(CODES),
        changed=st.sampled_from([None, None, *range(len(HUBS))]),
    )
    def the_hub_dies(
        self, really: int, *, gently: bool, away: float, ending: set[int], code: int | None, changed: int | None
    ) -> None:
        """Another comes after a while, in which processes may end. `gently`: it was told to leave them."""
        if really != 2:
            return
        if gently:
            self.leave()
        self.clock.advance(away / 2)
        living = self._living()
        for process in living:
            if living.index(process) in ending:
                process.end(Exit(code, False, ("last words",)), self.clock())
        self.clock.advance(away / 2)
        going = [process for process in self._living() if not process.asked_to_end]
        self._begin_hub(self.in_force if changed is None else changed)
        for process in going:
            assert process.alive
            assert changed is not None or not process.asked_to_end, "nothing has changed, and it goes on"

    def leave(self) -> None:
        """Have the hub end without its models."""
        self.closing = True
        self.news.clear()
        asked = [process.asked for process in self.processes]
        self._tell(lambda reply: say.Shutdown(reply, keep_models=True))
        self.wait(100_000.0)
        assert all(reply.done() for reply in self.replies), "somebody was left without an answer"
        self.answers_are_given_and_none_is_a_bug()
        assert asked == [process.asked for process in self.processes], "they are left alone"
        assert set(self.news) <= {"hub_stopping", "config_reloaded"}
        for process in self.processes:
            process.forgotten = process.forgotten or process.order.run_id in self.ends

    @rule(name=st.sampled_from(NAMES))
    def start(self, name: str) -> None:
        self.unwanted.discard(name)
        before, seq = self._state(name), self.seq
        error = _error(self._tell(lambda reply: say.Start(name, reply), self._refusal_is_told(name)))
        if before in RUNNING or (before is ModelState.BACKOFF and isinstance(error, GroupFullError | MemoryShortError)):
            assert (self._state(name), self.seq) == (before, seq), "it is not disturbed"

    @rule(name=st.sampled_from(NAMES))
    def stop(self, name: str) -> None:
        self.unwanted.add(name)
        reply = self._tell(lambda reply: say.Stop(name, reply))
        assert reply.done() or self._state(name) is ModelState.STOPPING

    @rule(name=st.sampled_from(NAMES))
    def restart(self, name: str) -> None:
        self.unwanted.discard(name)
        self._tell(lambda reply: say.Restart(name, reply), self._refusal_is_told(name, but_for=self._state(name)))

    @rule(which=st.integers(0, len(HUBS) - 1))
    def reload(self, which: int) -> None:
        self.unwanted.clear()
        self._tell(lambda reply: say.Apply(self.hubs[which], reply))
        self._is_in_force(which)

    @rule(which=st.integers(0, len(HUBS) - 1))
    def plan_and_reload(self, which: int) -> None:
        self.unwanted.clear()
        before = self._picture()
        alive = {status.name for status in self.supervisor.status() if status.state in ALIVE}
        plan = self._tell(lambda reply: say.Preview(self.hubs[which], reply))
        assert self._picture() == before
        done = self._tell(lambda reply: say.Apply(self.hubs[which], reply))
        self._is_in_force(which)
        if self.closing:
            assert isinstance(plan.exception(timeout=0), HubError)
            return
        steps = plan.result(timeout=0)

        def agrees(reply: Future[Any]) -> None:
            result = reply.result(timeout=0)
            assert {*result.started, *result.failed} == {step.name for step in (*steps.start, *steps.restart)}
            assert result.stopped == tuple(s.name for s in (*steps.stop, *steps.restart) if s.name in alive)
            assert result.unchanged == tuple(step.name for step in steps.unchanged)

        self.agreements.append((done, agrees))

    @rule(which=st.integers(0, len(HUBS) - 1))
    def reserve(self, which: int) -> None:
        self._tell(lambda reply: say.Reserve(self.hubs[which], reply))

    @precondition(lambda self: self._living())
    @rule(which=st.integers(0, 9), code=st.sampled_from(CODES), forced=st.booleans(), grown=st.booleans())
    def a_process_ends(self, which: int, code: int | None, *, forced: bool, grown: bool) -> None:
        living = self._living()
        process = living[which % len(living)]
        if grown and self.memory.kills is not None:
            self.memory.kills += 1
        self._end(process, Exit(code, forced and process.asked_to_end, ("last words",)))

    @precondition(lambda self: self.processes)
    @rule(which=st.integers(0, 9), code=st.sampled_from(CODES))
    def an_end_is_told_again(self, which: int, code: int | None) -> None:
        process = self.processes[which % len(self.processes)]
        if not process.alive:
            process.listener.exited(Exit(code, False, ()))
            self._settle()

    @precondition(lambda self: self.open)
    @rule(
        which=st.integers(0, 9),
        answer=st.sampled_from(["ok", "ok", "miss", "miss", "miss", "final", "not asked"]),
        memory=st.sampled_from([None, 0, 1, 10]),
        cpu=st.sampled_from([0.0, 1000.0]),
    )
    def an_answer_comes(self, which: int, answer: str, memory: int | None, cpu: float) -> None:
        asked = self.open.pop(which % len(self.open))
        self.answered.append(asked)
        vitals = None if memory is None else Vitals(cpu, memory * GB, 0, 16 * GB - memory * GB)
        asked.answer(_result(answer, vitals))
        self._settle()

    @precondition(lambda self: self.answered)
    @rule(which=st.integers(0, 9), answer=st.sampled_from(["ok", "miss", "final"]))
    def an_answer_comes_again(self, which: int, answer: str) -> None:
        asked = self.answered[-1 - which % len(self.answered)]
        # While the same process is asked anew nobody could tell the two answers apart.
        if all(asked.pid != other.pid for other in self.open):
            before = self._picture()
            asked.answer(_result(answer))
            self._settle()
            assert self._picture() == before

    @rule(
        answer=st.sampled_from(["ok", "ok", "miss", "miss", "final"]),
        times=st.integers(1, 5),
        step=st.sampled_from([0.1, 5.0, 30.0]),
        gigabytes=st.sampled_from([0, 10]),
    )
    def everybody_answers_for_a_while(self, answer: str, times: int, step: float, gigabytes: int) -> None:
        vitals = Vitals(0.0, gigabytes * GB, 0, 16 * GB - gigabytes * GB)
        for _ in range(times):
            self.wait(step)
            asked, self.open[:] = list(self.open), []
            self.answered += asked
            for question in asked:
                question.answer(_result(answer, vitals))
            self._settle()

    @rule(seconds=st.sampled_from([0.06, 0.25, 1.0, 5.0, 31.0, 61.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self._settle()

    @rule(names=st.sets(st.sampled_from(NAMES), max_size=2))
    def programs_break(self, names: set[str]) -> None:
        self.broken = names

    @rule(gigabytes=st.sampled_from([0, 2, 9, 12, 32]), counted=st.booleans())
    def memory_changes(self, gigabytes: int, *, counted: bool) -> None:
        self.memory.available = gigabytes * GB
        self.memory.kills = 0 if counted else None
        # No event tells of it: who waits finds out with the next message, whatever that is about.
        self.supervisor.actor.tell(NEWS_OF_NOBODY)
        self._settle()

    @rule(really=st.integers(0, 9))
    def kill(self, really: int) -> None:
        if really == 9:
            self.supervisor.kill()
            self._settle()

    @rule(really=st.integers(0, 9))
    def shutdown(self, really: int) -> None:
        if really == 9:
            self.closing = True
            self._tell(say.Shutdown)

    # What must be true.

    @invariant()
    def the_status_is_in_step_with_the_processes(self) -> None:
        living = self._living()
        assert len({process.name for process in living}) == len(living), "two processes of one model"
        alive = {status.pid: status for status in self.supervisor.status() if status.state in ALIVE}
        assert set(alive) == {process.pid for process in living}
        assert all(status.pid is None for status in self.supervisor.status() if status.state not in ALIVE)
        for process in living:
            assert alive[process.pid].name == process.name
            assert (alive[process.pid].state is ModelState.STOPPING) == process.asked_to_end

    @invariant()
    def whoever_is_watched_has_one_question_or_one_to_come(self) -> None:
        open_questions = Counter(asked.pid for asked in self.open)
        due = Counter(m.run_id for m in self._timers() if isinstance(m, say.ProbeDue))
        for name, model in self.supervisor.loop._models.items():
            run = model._run
            if run is None or model.state not in RUNNING:
                continue
            pid = run.started.process.pid
            assert open_questions[pid] <= 1, f"{name} is asked twice at once"
            assert due[run.id] <= 1, f"{name} will be asked twice"
            watched = model.settings.health is not None and run.started.probe is not None
            assert not watched or open_questions[pid] or due[run.id], f"nobody will ever ask {name} again"
            if not watched:
                assert model.state is ModelState.READY
            elif model.settings.health is not None and model.state is ModelState.STARTING and not run.watch.ready_since:
                late_at = run.since + model.settings.health.startup_timeout
                if run.id in self.found:  # It may have become ready while nobody asked.
                    late_at = max(late_at, self.found[run.id] + 0.06 + model.settings.health.timeout)
                assert self.clock() < late_at, f"{name} is late"

    @invariant()
    def whoever_waits_waits_for_something(self) -> None:
        timers = self._timers()
        assert timers.count(say.LookAgain()) <= 1
        assert all(timers.count(say.RestartDue(name)) <= 1 for name in NAMES)
        states = {status.name: status.state for status in self.supervisor.status()}
        in_backoff = {name for name, state in states.items() if state is ModelState.BACKOFF}
        for name in {*in_backoff, *self.supervisor.loop._waiting}:
            if name not in self.supervisor.loop._waiting and say.RestartDue(name) in timers:
                continue
            assert ModelState.STOPPING in states.values() or say.LookAgain() in timers or self._is_kept_out(name), (
                f"{name} waits for nothing: {self._status(name).reason}"
            )

    @invariant()
    def what_can_happen_now_has_happened(self) -> None:
        before = self._picture()
        self.supervisor.actor.tell(NEWS_OF_NOBODY)
        self._settle()
        assert self._picture() == before

    @invariant()
    def nothing_runs_that_nobody_wants(self) -> None:
        for status in self.supervisor.status():
            if status.name in self.unwanted or self.closing:
                assert status.state not in RUNNING
                assert status.state is not ModelState.BACKOFF

    @invariant()
    def answers_are_given_and_none_is_a_bug(self) -> None:
        assert not self.bugs, self.bugs
        for reply in self.replies:
            assert not reply.done() or isinstance(reply.exception(timeout=0), HubError | None)
        for done, agrees in [pair for pair in self.agreements if pair[0].done()]:
            self.agreements.remove((done, agrees))
            agrees(done)

    def teardown(self) -> None:
        """Whatever has happened, the hub can be shut down."""
        self.closing = True
        self._tell(say.Shutdown)
        while living := self._living():
            assert all(process.asked_to_end for process in living)
            self._end(living[0], Exit(-15, False, ()))
        assert all(reply.done() for reply in self.replies), "somebody was left without an answer"
        self.answers_are_given_and_none_is_a_bug()
        assert {status.state for status in self.supervisor.status()} <= {ModelState.STOPPED}
        assert self.starts == Counter(self.ends.keys()), "every process has one start and one end"
        assert sum(self.starts.values()) == len(self.processes)
        last = self.seq
        for asked in self.open:
            asked.answer(ProbeResult(True))
        self.wait(100_000)
        assert self.seq == last, "after the end nothing happens"

    # How it is played and watched.

    def _living(self) -> list[Process]:
        return [process for process in self.processes if process.alive]

    def _timers(self) -> list[say.Message]:
        return [message for _, _, timer, message in self.supervisor.actor._timers if not timer.cancelled]

    def _picture(self) -> tuple[object, ...]:
        return self.supervisor.status(), self.seq, self._timers()

    def _status(self, name: str) -> ModelStatus:
        return next(status for status in self.supervisor.status() if status.name == name)

    def _state(self, name: str) -> ModelState | None:
        return next((status.state for status in self.supervisor.status() if status.name == name), None)

    def _is_kept_out(self, name: str) -> bool:
        return self._has_no_place(name) or self._has_no_port(name)

    def _has_no_place(self, name: str) -> bool:
        assert self.supervisor.loop._settings is not None
        group = self.supervisor.loop._settings.groups.get(self._status(name).group or "")
        if group is None or group.max_loaded is None:
            return False
        return sum(s.group == group.name and s.state in ALIVE for s in self.supervisor.status()) >= group.max_loaded

    def _has_no_port(self, name: str) -> bool:
        """Another still has it, as can be when ports were reserved and no reload followed."""
        assert self.supervisor.loop._admission._ports is not None
        port = self.supervisor.loop._admission._ports.port_of(name)
        return port is not None and port in {status.port for status in self.supervisor.status()}

    def _spawn(self, order: Order, listener: Listener) -> Process:
        if order.model in self.broken:
            raise PermissionError(13, "Permission denied")
        assert order.model not in {process.name for process in self._living()}, "two processes of one model"
        pid = 1000 + len(self.processes)
        self.processes.append(Process(order, pid, self.clock(), self._is_rightly_ended, listener))
        return self.processes[-1]

    def _forget(self, run_id: str) -> None:
        process = self._process(run_id)
        assert not process.alive
        assert run_id in self.ends, "nobody was told of its end, and nobody will be"
        process.forgotten = True

    def _process(self, run_id: str | None) -> Process:
        return next(process for process in self.processes if process.order.run_id == run_id)

    def _is_in_force(self, which: int) -> None:
        self.in_force = self.in_force if self.closing else which

    def _is_rightly_ended(self, name: str) -> None:
        model = self.supervisor.loop._models[name]
        assert model._run is not None
        if model._run.stop_reason in TROUBLES:
            assert model.settings.restart.policy != "never", "then it is left alone"
            assert name not in self.unwanted

    def _end(self, process: Process, outcome: Exit) -> None:
        process.end(outcome, self.clock())
        process.listener.exited(outcome)
        self._settle()

    def _refusal_is_told(self, name: str, but_for: ModelState | None = None) -> Callable[[Future[Any]], None]:
        """A refused restart stops nothing: that is told by nothing but the answer, `but_for` that state."""
        seq, running = self.seq, but_for if but_for in RUNNING else None

        def check(reply: Future[Any]) -> None:
            error, state = reply.exception(timeout=0), self._state(name)
            if running is not None and (state, self.seq) == (running, seq):
                return
            if isinstance(error, GroupFullError | LaunchError) and state not in (ModelState.FAILED, ModelState.BACKOFF):
                self.bugs.append(AssertionError(f"{name} is {state}, and was refused: {error}"))

        return check

    def _tell(
        self,
        message: Callable[[Future[Any]], say.Message],
        when_done: Callable[[Future[Any]], None] = lambda reply: None,
    ) -> Future[Any]:
        reply: Future[Any] = Future()
        reply.add_done_callback(when_done)
        self.replies.append(reply)
        self.supervisor.actor.tell(message(reply))
        self._settle()
        return reply

    def _settle(self) -> None:
        while self.supervisor.actor._step(wait=False):
            self._look()

    def _look(self, *, by_way_of_starting: bool = False) -> None:
        """Every move since the last look must be in the table.

        One that could not be started, or was found while it stopped or when it had ended, has made two and more.
        """
        now = {status.name: status.state for status in self.supervisor.status()}
        for name, state in now.items():
            before = self.seen.get(name, ModelState.STOPPED)
            if state is not before:
                assert state in MOVES[before] or (
                    by_way_of_starting and ModelState.STARTING in MOVES[before] and state in MOVES[ModelState.STARTING]
                ), f"{name}: {before} -> {state}"
        assert not {name for name, state in self.seen.items() if name not in now and state in ALIVE}
        self.seen = now

    # What the sinks are told.

    def _publish(self, hook: str, arguments: dict[str, Any]) -> None:
        event: HubEvent = arguments["event"]
        self.seq += 1
        self.heard[hook] += 1
        self.news.append(hook)
        try:
            assert event.seq == self.seq
            assert event.id not in self.ids
            self.ids.add(event.id)
            self.before = dict(self.seen)
            was_here = event.reason is not Reason.SPAWN_ERROR and self._runs_here(arguments, event)
            self._look(by_way_of_starting=hook == "model_adopted" or (hook in ENDS and not was_here))
            if "ctx" in arguments:
                name = arguments["ctx"].name
                self._hear(self.told.setdefault(name, Told()), name, hook, event, arguments)
        except AssertionError as error:
            # The loop would tell `failed`, or the caller; it must reach Hypothesis whoever catches it.
            self.bugs.append(AssertionError(f"{hook} {event}: {error}"))

    def _hear(self, told: Told, name: str, hook: str, event: HubEvent, arguments: dict[str, Any]) -> None:
        if told.sequel_of is not None:
            assert hook in SEQUEL, "an end with restart_in is followed by its restart"
        if hook in SEQUEL:
            self._hear_sequel(told, hook, event, arguments)
        elif event.reason is Reason.SPAWN_ERROR:
            assert told.run is None, "it has a process"
            assert event.restart_in is None or self.before[name] is ModelState.BACKOFF, "only restarts are tried again"
            self._hear_failure(told, name, event)
        elif hook == "model_started":
            self._hear_start(told, name, event)
        elif hook == "model_adopted":
            self._hear_adoption(told, name, event)
        elif hook in ENDS and told.run is None:
            self._hear_of_before(told, name, hook, event)
        else:
            assert event.run_id == told.run, "of another run"
            self._hear_more(told, name, hook, event)

    def _hear_start(self, told: Told, name: str, event: HubEvent) -> None:
        assert told.run is None, "the run before has not ended"
        assert event.run_id not in told.runs
        assert name not in self.unwanted, "an operator has stopped it"
        assert not self.closing
        told.run, told.was_ready, told.ill = event.run_id, False, False
        if event.reason is not Reason.RESTART:
            told.failures.clear()  # Those before are of another series.
        told.runs.add(event.run_id)
        self.starts[str(event.run_id)] += 1
        status = self._status(name)
        assert status.state is ModelState.STARTING
        assert self.supervisor.loop._settings is not None
        group = self.supervisor.loop._settings.groups.get(status.group or "")
        if group is not None and group.max_loaded is not None:
            mates = [s.name for s in self.supervisor.status() if s.group == group.name and s.state in ALIVE]
            assert len(mates) <= group.max_loaded, mates
        required = self.supervisor.loop._models[name].settings.memory.required
        assert required is None or self.memory.available >= required
        ports = [s.port for s in self.supervisor.status() if s.port is not None]
        assert len(set(ports)) == len(ports), "two on one port"

    def _hear_adoption(self, told: Told, name: str, event: HubEvent) -> None:
        assert told.run is None, "it has another"
        assert event.run_id not in told.runs
        process, status = self._process(event.run_id), self._status(name)
        assert process.alive
        assert status.pid == process.pid
        assert status.started_at == process.started_at
        assert status.state is (ModelState.STOPPING if process.asked_to_end else ModelState.STARTING)
        told.run, told.was_ready, told.ill = event.run_id, "ready_at" in process.noted, False
        told.runs.add(event.run_id)
        self.found[process.order.run_id] = self.clock()

    def _hear_of_before(self, told: Told, name: str, hook: str, event: HubEvent) -> None:
        """It ended while no hub was there, or the former one was about to forget it."""
        assert event.run_id not in told.runs, "told twice"
        process = self._process(event.run_id)
        assert not process.forgotten
        assert self.supervisor.loop._settings is None, "that is what a hub begins with"
        told.runs.add(event.run_id)
        asked = Reason(process.asked) if process.asked else None
        assert event.reason is asked or asked is None
        self._hear_end(told, event)
        if hook == "model_failed":
            self._hear_failure(told, name, event)
        else:
            self._expect_sequel(told, name, event)

    def _runs_here(self, arguments: Mapping[str, Any], event: HubEvent) -> bool:
        told = self.told.get(arguments["ctx"].name) if "ctx" in arguments else None
        return told is not None and told.run == event.run_id

    def _hear_more(self, told: Told, name: str, hook: str, event: HubEvent) -> None:
        state = self._state(name)
        match hook:
            case "model_ready":
                assert not told.was_ready
                assert state is ModelState.READY
                told.was_ready, told.ill = True, False
            case "model_recovered":
                assert told.was_ready
                assert told.ill
                assert state is ModelState.READY
                told.ill = False
            case "model_unhealthy":
                assert not told.ill, "told twice"
                assert event.reason in TROUBLES
                assert event.detail
                if event.reason is Reason.STARTUP_TIMEOUT:
                    assert not told.was_ready
                    self._is_late(name)
                assert state is ModelState.UNHEALTHY
                told.ill = True
            case "model_failed":
                assert (event.reason in TROUBLES) == (self.before[name] is ModelState.STOPPING)
                assert event.reason not in TROUBLES or told.ill or event.run_id in self.found
                assert event.reason not in TROUBLES or name not in self.unwanted, "a stop is a stop"
                self._hear_end(told, event)
                self._hear_failure(told, name, event)
            case "model_stopped":
                assert event.reason in (*WISHES, Reason.EXIT)
                assert (event.reason is Reason.EXIT) == (self.before[name] is not ModelState.STOPPING)
                self._hear_end(told, event)
                self._expect_sequel(told, name, event)
            case _:
                raise AssertionError(hook)

    def _is_late(self, name: str) -> None:
        model = self.supervisor.loop._models[name]
        assert model._run is not None
        assert model.settings.health is not None
        assert self.clock() >= model._run.since + model.settings.health.startup_timeout

    def _hear_end(self, told: Told, event: HubEvent) -> None:
        process = self._process(event.run_id)
        assert self.ends.setdefault(process.order.run_id, event.id) == event.id, "another hub has told that otherwise"
        assert event.time == process.ended_at
        assert event.uptime_seconds == pytest.approx(process.ended_at - process.started_at, abs=1e-3)
        told.run = None

    def _hear_failure(self, told: Told, name: str, event: HubEvent) -> None:
        status = self._status(name)
        assert status.last_failure is not None
        assert status.last_failure.reason is event.reason
        told.failures.append(status.last_failure)
        assert status.first_failure in told.failures
        assert event.first_failure in (None, status.first_failure)
        assert (event.first_failure is None) == (status.first_failure is status.last_failure)
        self._expect_sequel(told, name, event)

    def _expect_sequel(self, told: Told, name: str, event: HubEvent) -> None:
        policy = self.supervisor.loop._models[name].settings.restart.policy
        if event.restart_in is not None:
            assert policy != "never"
            assert name not in self.unwanted
            told.sequel_of = event
        assert (self._state(name) is ModelState.BACKOFF) == (event.restart_in is not None)

    def _hear_sequel(self, told: Told, hook: str, event: HubEvent, arguments: dict[str, Any]) -> None:
        end, told.sequel_of = told.sequel_of, None
        assert (hook == "model_restarting") == (end is not None)
        if end is not None:
            assert end.run_id == event.run_id
            assert arguments["delay_seconds"] == end.restart_in


@pytest.mark.timeout(600)  # Only to find the shortest history that fails takes longer than some seconds.
def test_whatever_happens_the_hub_tells_the_truth(tmp_path: Path) -> None:
    loaded = []
    for text in HUBS.values():
        (tmp_path / "hub.yaml").write_text(TOP + text.lstrip())
        loaded.append(load_settings(tmp_path / "hub.yaml"))

    class Machine(HubMachine):
        hubs = loaded

    # MLXHUB_EXAMPLES=20000 looks further, and elsewhere each time.
    more = os.environ.get("MLXHUB_EXAMPLES")
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=int(more or 250),
            stateful_step_count=50,
            derandomize=more is None,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    # A hub in whose histories nothing ever runs would tell the truth too.
    assert not set(HEARD) - set(Machine.heard), "the histories were not worth looking at"
