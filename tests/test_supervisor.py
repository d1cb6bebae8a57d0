"""Message histories played into the supervisor: fake clock, fake processes, no waiting."""

from __future__ import annotations

import random
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlxhub_core.errors import (
    GroupFullError,
    HubError,
    HubStateError,
    IllegalMoveError,
    LaunchError,
    MemoryShortError,
    UnknownModelError,
)
from mlxhub_core.events import Failure, Reason
from mlxhub_core.probes import ProbeResult, Question, Target
from mlxhub_core.process import Exit, Listener, Order, Survivor
from mlxhub_core.settings import HealthSettings, HubSettings, RotationSettings, load_settings
from mlxhub_core.states import ALIVE, MOVES, ModelState, ModelStatus
from mlxhub_core.supervisor import Loop, Supervisor
from mlxhub_core.supervisor import messages as say
from mlxhub_core.supervisor.legacy import Record, essence
from mlxhub_core.testing import FakeClock
from mlxhub_core.vitals import Vitals

PROGRAM = f'["{sys.executable}"]'
SERVER = f'["{sys.executable}", "{{port}}"]'


class FakeProcess:
    """A process that ends when the test says so."""

    def __init__(self, pid: int, listener: Listener, order: Order | None = None) -> None:
        self.pid = pid
        self.listener = listener
        self.order = order
        self.graces: list[float] = []
        self.asked: str | None = None
        self.killed = False
        self.released = False
        self.facts: Mapping[str, Any] = {}
        self.rotations: list[Callable[[str | None], None]] = []
        self.rules: list[RotationSettings | None] = []

    def stop(self, grace: float, reason: str) -> None:
        self.graces.append(grace)
        self.asked = reason

    def kill(self) -> None:
        self.killed = True

    def note(self, facts: Mapping[str, Any]) -> None:
        self.facts = facts

    def rotate(self, done: Callable[[str | None], None]) -> None:
        self.rotations.append(done)

    def set_rotation(self, rotation: RotationSettings | None) -> None:
        self.rules.append(rotation)

    def release(self) -> None:
        self.released = True

    def end(
        self,
        code: int | None,
        *,
        forced: bool = False,
        tail: tuple[str, ...] = ("its last words",),
        lost_bytes: int = 0,
        at: float | None = None,
    ) -> None:
        self.listener.exited(Exit(code, forced, tail, lost_bytes, at))


class FakeProcesses:
    """Starts fake processes, and finds those that the test has left there."""

    def __init__(self) -> None:
        self.by_model: dict[str, list[FakeProcess]] = {}
        self.broken: set[str] = set()
        self.left: list[Survivor] = []
        self.forgotten: list[str] = []

    def start(self, order: Order, listener: Listener) -> FakeProcess:
        if order.model in self.broken:
            raise PermissionError(13, "Permission denied")
        return self.add(FakeProcess(1000 + sum(map(len, self.by_model.values())), listener, order), order.model)

    def add(self, process: FakeProcess, model: str) -> FakeProcess:
        self.by_model.setdefault(model, []).append(process)
        return process

    def prepare(self) -> None:
        pass

    def survivors(self) -> list[Survivor]:
        return self.left

    def forget(self, run_id: str) -> None:
        self.forgotten.append(run_id)

    def close(self) -> None:
        raise AssertionError("that is for the manager to do")


class FakeProbe:
    """Asks nobody: the test answers."""

    def __init__(self, target: Target, asked: list[Asked]) -> None:
        self.target = target
        self._asked = asked

    def ask(self, question: Question, health: HealthSettings, answer: Callable[[ProbeResult], None]) -> None:
        self._asked.append(Asked(self.target, question, answer))


@dataclass
class Asked:
    """A question that waits for its answer."""

    target: Target
    question: Question
    answer: Callable[[ProbeResult], None]


class FakeMachine:
    """A machine with as much memory as the test says."""

    def __init__(self) -> None:
        self.available = 16_000_000_000
        self.returning: list[int] = []
        self.used: dict[int, int] = {}
        self.kills: int | None = 0

    def available_memory(self) -> int:
        return self.returning.pop(0) if self.returning else self.available

    def total_memory(self) -> int:
        return 32_000_000_000

    def memory_of(self, pid: int) -> int:
        return self.used.get(pid, 0)

    def oom_kills(self) -> int | None:
        return self.kills


class Play:
    """A supervisor on a stage: what is around it is fake, and every event is written down."""

    def __init__(
        self,
        path: Path,
        text: str,
        left: Callable[[Play], Iterable[Survivor]] = lambda play: (),
        *,
        reload: bool = True,
    ) -> None:
        self.path = path / "hub.yaml"
        self.clock = FakeClock()
        self.set_by = 0.0
        """By how much somebody has set the time of day."""
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.factory = FakeProcesses()
        self.processes = self.factory.by_model
        self.probes: list[Asked] = []
        self.machine = FakeMachine()
        self.bugs: list[BaseException] = []
        self.broken = self.factory.broken
        self.luck = 0.0
        self.on_event: Callable[[str], object] = lambda hook: None
        self.supervisor = Supervisor(
            Loop(
                self._publish,
                self.bugs.append,
                process_factory=self.factory,
                probe_factory=lambda target: FakeProbe(target, self.probes),
                machine=self.machine,
                clock=self.clock,
                wall=lambda: self.clock() + self.set_by,
                jitter=lambda: self.luck,
            )
        )
        self._settings: dict[str, HubSettings] = {}
        self.factory.left = list(left(self))
        if self.factory.left and reload:
            self.tell(lambda reply: say.Reserve(self.settings(text), reply))
        self.result = self.reload(text) if reload else Future()

    def _publish(self, hook: str, arguments: dict[str, Any]) -> None:
        self.events.append((hook, arguments))
        self.on_event(hook)

    def settings(self, text: str) -> HubSettings:
        if text not in self._settings:
            self.path.write_text(text)
            self._settings[text] = load_settings(self.path)
        return self._settings[text]

    def reload(self, text: str) -> Future[Any]:
        return self.tell(lambda reply: say.Apply(self.settings(text), reply))

    def plan(self, text: str) -> Future[Any]:
        return self.tell(lambda reply: say.Preview(self.settings(text), reply))

    def tell(self, message: Callable[[Future[Any]], say.Message]) -> Future[Any]:
        reply: Future[Any] = Future()
        self.supervisor.actor.tell(message(reply))
        self.settle()
        return reply

    def start(self, name: str) -> Future[Any]:
        return self.tell(lambda reply: say.Start(name, reply))

    def stop(self, name: str) -> Future[Any]:
        return self.tell(lambda reply: say.Stop(name, reply))

    def restart(self, name: str) -> Future[Any]:
        return self.tell(lambda reply: say.Restart(name, reply))

    def shutdown(self, *, keep_models: bool = False) -> Future[Any]:
        return self.tell(lambda reply: say.Shutdown(reply, keep_models))

    def end(self, name: str, code: int | None, **how: Any) -> None:
        self.process(name).end(code, **how)
        self.settle()

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()

    def answer(self, *, ready: bool, **more: Any) -> None:
        """All who were asked answer the same."""
        asked, self.probes[:] = list(self.probes), []
        for question in asked:
            question.answer(ProbeResult(ready, **{"detail": "" if ready else "HTTP 503", **more}))
        self.settle()

    def asked(self, *, after: float) -> Asked:
        """The only question, which must have come just then and not before."""
        self.wait(after * 0.99)
        assert self.probes == []
        self.wait(after * 0.01 + 1e-6)
        assert len(self.probes) == 1
        return self.probes[0]

    def miss(self, *, after: float, **more: Any) -> None:
        self.asked(after=after)
        self.answer(ready=False, **more)

    def settle(self) -> None:
        self.supervisor.actor.drain()
        assert not self.bugs, self.bugs

    def process(self, name: str) -> FakeProcess:
        return self.processes[name][-1]

    def timers(self) -> list[say.Message]:
        """What the loop would wake up for by itself, but for the health of processes and to forget those that ended."""
        timers = (message for _, _, timer, message in self.supervisor.actor._timers if not timer.cancelled)
        return [message for message in timers if not isinstance(message, say.ProbeDue | say.StartupDue | say.Told)]

    def status(self, name: str) -> ModelStatus:
        return next(status for status in self.supervisor.status() if status.name == name)

    def story(self, name: str) -> list[str]:
        """The events of one model as short words: ``failed -9 in 1.0``."""
        return [_words(hook, args) for hook, args in self.events if "ctx" in args and args["ctx"].name == name]


def _words(hook: str, args: dict[str, Any]) -> str:
    word = hook.removeprefix("model_")
    event = args["event"]
    if hook in ("model_stopped", "model_failed"):
        again = "" if event.restart_in is None else f" in {event.restart_in}"
        return f"{word} {args['exit_code']} {event.reason}{again}"
    return f"{word} {event.reason}" if hook in ("model_started", "model_unhealthy") else word


def model(name: str, *, command: str = PROGRAM, **keys: str) -> str:
    rest = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"  - {{name: {name}, command: {command}{rest}}}\n"


def hub(*models: str, top: str = "") -> str:
    return f"log_path: logs\n{top}models:\n" + "".join(models)


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path, hub(model("a", default="true"), model("b")))


def test_only_default_models_start_with_the_hub(play: Play) -> None:
    assert play.result.result().started == ("a",)
    assert play.result.result().unchanged == ("b",)
    assert [s.state for s in play.supervisor.status()] == [ModelState.READY, ModelState.STOPPED]
    assert play.story("a") == ["started hub_start", "ready"]


Step = Callable[[Play], object]

HISTORIES: dict[str, tuple[list[Step], list[str], ModelState]] = {
    "an operator's stop": (
        [lambda p: p.stop("a"), lambda p: p.end("a", -15)],
        ["stopped -15 operator"],
        ModelState.STOPPED,
    ),
    "a stop is a stop whatever the exit code": (
        [lambda p: p.stop("a"), lambda p: p.end("a", 7)],
        ["stopped 7 operator"],
        ModelState.STOPPED,
    ),
    "two stops are one": (
        [lambda p: p.stop("a"), lambda p: p.stop("a"), lambda p: p.end("a", 0), lambda p: p.stop("a")],
        ["stopped 0 operator"],
        ModelState.STOPPED,
    ),
    "exit 0 unasked is a stop, not a failure": (
        [lambda p: p.end("a", 0), lambda p: p.wait(1000)],
        ["stopped 0 exit"],
        ModelState.STOPPED,
    ),
    "a crash is restarted after the delay": (
        [lambda p: p.end("a", 3), lambda p: p.wait(1.0)],
        ["failed 3 crash in 1.0", "restarting", "started restart", "ready"],
        ModelState.READY,
    ),
    "a signal is told from a crash": (
        [lambda p: p.end("a", -9)],
        ["failed -9 signal in 1.0", "restarting"],
        ModelState.BACKOFF,
    ),
    "before the delay nothing starts": (
        [lambda p: p.end("a", 3), lambda p: p.wait(0.99)],
        ["failed 3 crash in 1.0", "restarting"],
        ModelState.BACKOFF,
    ),
    "a stop during the back-off cancels the restart": (
        [lambda p: p.end("a", 3), lambda p: p.stop("a"), lambda p: p.wait(1000)],
        ["failed 3 crash in 1.0", "restarting"],
        ModelState.STOPPED,
    ),
    "a start during the back-off does not wait for it": (
        [lambda p: p.end("a", 3), lambda p: p.start("a"), lambda p: p.wait(1000)],
        ["failed 3 crash in 1.0", "restarting", "started operator", "ready"],
        ModelState.READY,
    ),
    "the delays double": (
        [lambda p: p.end("a", 3), lambda p: p.wait(1), lambda p: p.end("a", 3), lambda p: p.wait(2), lambda p: p.end("a", 3)],
        [
            "failed 3 crash in 1.0", "restarting", "started restart", "ready",
            "failed 3 crash in 2.0", "restarting", "started restart", "ready",
            "failed 3 crash in 4.0", "restarting",
        ],
        ModelState.BACKOFF,
    ),
    "a start by hand forgets the restart that was due": (
        [
            lambda p: p.end("a", 3), lambda p: p.wait(0.5), lambda p: p.start("a"), lambda p: p.end("a", 3),
            lambda p: p.wait(0.6),
        ],
        ["failed 3 crash in 1.0", "restarting", "started operator", "ready", "failed 3 crash in 1.0", "restarting"],
        ModelState.BACKOFF,
    ),
    "a restart stops and starts": (
        [lambda p: p.restart("a"), lambda p: p.end("a", -15)],
        ["stopped -15 operator", "started operator", "ready"],
        ModelState.READY,
    ),
    "a stop during a restart wins": (
        [lambda p: p.restart("a"), lambda p: p.stop("a"), lambda p: p.end("a", -15), lambda p: p.wait(1000)],
        ["stopped -15 operator"],
        ModelState.STOPPED,
    ),
    "a start during a stop follows it": (
        [lambda p: p.stop("a"), lambda p: p.start("a"), lambda p: p.end("a", -15)],
        ["stopped -15 operator", "started operator", "ready"],
        ModelState.READY,
    ),
    "starting what runs does nothing": (
        [lambda p: p.start("a"), lambda p: p.start("a")],
        [],
        ModelState.READY,
    ),
    "restarting what is stopped starts it": (
        [lambda p: p.stop("a"), lambda p: p.end("a", 0), lambda p: p.restart("a")],
        ["stopped 0 operator", "started operator", "ready"],
        ModelState.READY,
    ),
    "the end of an old process does not concern the new one": (
        [lambda p: p.end("a", 3), lambda p: p.wait(1), lambda p: p.processes["a"][0].end(5), lambda p: p.settle()],
        ["failed 3 crash in 1.0", "restarting", "started restart", "ready"],
        ModelState.READY,
    ),
    "shutdown stops what runs": (
        [lambda p: p.shutdown(), lambda p: p.end("a", -15)],
        ["stopped -15 hub_shutdown"],
        ModelState.STOPPED,
    ),
    "shutdown during the back-off": (
        [lambda p: p.end("a", 3), lambda p: p.shutdown(), lambda p: p.wait(1000)],
        ["failed 3 crash in 1.0", "restarting"],
        ModelState.STOPPED,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("steps", "expected", "state"), HISTORIES.values(), ids=HISTORIES.keys())
def test_history(play: Play, steps: list[Step], expected: list[str], state: ModelState) -> None:
    for step in steps:
        step(play)
    assert play.story("a")[2:] == expected
    assert play.status("a").state is state


def test_five_failures_within_the_window_are_given_up_until_somebody_starts_it(play: Play) -> None:
    for _ in range(5):
        play.end("a", 1)
        play.wait(60)
    assert play.story("a")[-2:] == ["failed 1 crash", "gave_up"]
    assert play.status("a").state is ModelState.FAILED
    play.wait(10_000)
    assert play.status("a").state is ModelState.FAILED
    play.start("a")
    assert play.status("a").state is ModelState.READY
    play.end("a", 1)
    assert play.story("a")[-2:] == ["failed 1 crash in 1.0", "restarting"], "a start by hand begins a new count"


def test_the_count_of_restarts_is_shown_and_starts_over_by_hand(play: Play) -> None:
    for _ in range(2):
        play.end("a", 1)
        play.wait(5)
    assert play.status("a").restarts == 2
    play.restart("a")
    play.end("a", 0)
    assert play.status("a").restarts == 0


@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [
        ("never", 3, ["failed 3 crash"]),
        ("never", 0, ["stopped 0 exit"]),
        ("on-failure", 0, ["stopped 0 exit"]),
        ("always", 0, ["stopped 0 exit in 1.0", "restarting", "started restart", "ready"]),
        ("always", 3, ["failed 3 crash in 1.0", "restarting", "started restart", "ready"]),
    ],
)
def test_the_restart_policy_decides(tmp_path: Path, policy: str, code: int, expected: list[str]) -> None:
    play = Play(tmp_path, hub(model("a", default="true", restart=policy)))
    play.end("a", code)
    play.wait(1.5)
    assert play.story("a")[2:] == expected


def test_a_model_that_ends_well_again_and_again_is_given_up_too(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true", restart="always")))
    for _ in range(5):
        play.end("a", 0)
        play.wait(60)
    assert play.story("a")[-2:] == ["stopped 0 exit", "gave_up"]
    assert play.status("a").state is ModelState.FAILED


def test_a_start_that_cannot_happen_is_told_to_the_caller_and_to_the_sinks(play: Play) -> None:
    play.broken.add("b")
    error = play.start("b").exception()
    assert isinstance(error, LaunchError)
    assert "b: cannot be started: Permission denied" in str(error)
    assert play.story("b") == ["failed None spawn_error"]
    assert play.status("b").state is ModelState.FAILED
    assert "Permission denied" in (play.status("b").reason or "")
    assert play.status("a").state is ModelState.READY


def test_a_relaunch_that_cannot_happen_is_tried_again(play: Play) -> None:
    play.end("a", 3)
    play.broken.add("a")
    play.wait(1)
    assert play.story("a")[-2:] == ["failed None spawn_error in 2.0", "restarting"]
    play.broken.clear()
    play.wait(2)
    assert play.status("a").state is ModelState.READY


def test_a_model_that_cannot_start_with_the_hub_keeps_no_other_from_it(tmp_path: Path) -> None:
    text = hub(model("a", default="true", command="[no-such-program]"), model("b", default="true"))
    result = Play(tmp_path, text).result.result()
    assert result.started == ("b",)
    assert "no program 'no-such-program' on the PATH" in str(result.failed["a"])


def test_a_server_is_starting_until_it_answers(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true", command=SERVER)))
    assert play.status("a").state is ModelState.STARTING
    for _ in range(3):
        play.wait(1.0)
        play.answer(ready=False)
    assert play.status("a").state is ModelState.STARTING
    assert play.status("a").reason == "not ready yet: HTTP 503"
    play.wait(1.0)
    play.answer(ready=True)
    assert play.status("a").state is ModelState.READY
    assert play.events[-1][0] == "model_ready"
    assert play.events[-1][1]["startup_seconds"] == pytest.approx(4.0)


def test_an_answer_that_comes_after_the_stop_changes_nothing(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true", command=SERVER)))
    play.wait(1.0)
    play.stop("a")
    play.answer(ready=True)
    assert play.status("a").state is ModelState.STOPPING
    play.end("a", -15)
    assert play.story("a") == ["started hub_start", "stopped -15 operator"]


def test_an_answer_to_the_question_about_an_earlier_process_is_not_believed(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true", command=SERVER)))
    play.wait(1.0)
    play.end("a", 1)
    play.wait(1.0)
    assert play.status("a").state is ModelState.STARTING
    del play.probes[1:]
    play.answer(ready=True)
    assert play.status("a").state is ModelState.STARTING


def test_the_envelope_tells_the_run_its_end_and_its_last_words(play: Play) -> None:
    play.wait(12.5)
    play.end("a", -9)
    started, failed = (
        next(args for hook, args in play.events if hook == f"model_{word}") for word in ("started", "failed")
    )
    event = failed["event"]
    assert event.run_id == started["event"].run_id
    assert (event.signal, event.uptime_seconds, event.log_tail) == ("SIGKILL", 12.5, ("its last words",))
    assert (event.restart_in, event.forced) == (1.0, False)


@pytest.mark.parametrize("set_by", [86400.0, -86400.0])
def test_a_time_of_day_that_is_set_meanwhile_makes_no_process_older_or_younger(play: Play, set_by: float) -> None:
    play.wait(12.5)
    play.set_by = set_by
    play.end("a", -9, at=play.clock())
    (failed,) = [args["event"] for hook, args in play.events if hook == "model_failed"]
    assert failed.uptime_seconds == 12.5


def test_events_are_numbered_without_a_gap(play: Play) -> None:
    play.end("a", 3)
    play.wait(1)
    play.shutdown()
    assert [args["event"].seq for _, args in play.events] == list(range(1, len(play.events) + 1))
    assert len({args["event"].id for _, args in play.events}) == len(play.events)


def test_a_forced_stop_says_so(play: Play) -> None:
    play.stop("a")
    play.end("a", -9, forced=True)
    assert play.events[-1][1]["event"].forced


def test_a_stop_waits_for_the_process_and_uses_the_models_own_patience(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true", stop_timeout="7")))
    reply = play.stop("a")
    assert not reply.done()
    assert play.process("a").graces == [7.0]
    play.end("a", -15)
    assert reply.result() is None


def test_whoever_is_answered_finds_the_same_in_the_status(play: Play) -> None:
    reply: Future[Any] = Future()
    seen: list[ModelState] = []
    reply.add_done_callback(lambda _: seen.append(play.status("b").state))
    play.supervisor.actor.tell(say.Start("b", reply))
    play.settle()
    assert seen == [ModelState.STARTING]


def test_whoever_is_told_of_an_event_finds_the_same_in_the_status(play: Play) -> None:
    seen: list[tuple[str, ModelState]] = []
    play.on_event = lambda hook: seen.append((hook, play.status("a").state))
    play.end("a", 3)
    play.wait(1)
    play.stop("a")
    play.end("a", -15)
    assert seen == [
        ("model_failed", ModelState.BACKOFF),
        ("model_restarting", ModelState.BACKOFF),
        ("model_started", ModelState.STARTING),
        ("model_ready", ModelState.READY),
        ("model_stopped", ModelState.STOPPED),
    ]


def test_a_stop_that_makes_no_event_is_in_the_status_too_when_it_is_answered(play: Play) -> None:
    play.end("a", 3)
    reply: Future[Any] = Future()
    seen: list[ModelState] = []
    reply.add_done_callback(lambda _: seen.append(play.status("a").state))
    play.supervisor.actor.tell(say.Stop("a", reply))
    play.settle()
    assert seen == [ModelState.STOPPED]


def test_all_who_ask_for_the_same_start_are_answered(play: Play) -> None:
    play.stop("a")
    replies = [play.start("a"), play.start("a"), play.restart("a")]
    assert not any(reply.done() for reply in replies)
    play.end("a", -15)
    assert [reply.result() for reply in replies] == [None, None, None]
    assert play.story("a")[2:] == ["stopped -15 operator", "started operator", "ready"]


def test_unknown_models_are_refused_with_the_nearest_name(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("qwen3-4b"), model("other")))
    error = play.start("qwen-4b").exception()
    assert isinstance(error, UnknownModelError)
    assert "did you mean 'qwen3-4b'?" in str(error)


def test_before_the_first_reload_nothing_can_be_started(tmp_path: Path) -> None:
    supervisor = Supervisor(Loop(lambda hook, arguments: None, lambda error: None, process_factory=FakeProcesses()))
    reply: Future[None] = Future()
    supervisor.actor.tell(say.Start("a", reply))
    supervisor.actor.drain()
    with pytest.raises(HubStateError, match=r"call reload\(\) first"):
        reply.result()


def test_a_model_in_back_off_is_given_up_when_hub_yaml_now_says_never(play: Play) -> None:
    play.end("a", 3)
    plan = play.plan(hub(model("a", default="true", restart="never"), model("b"))).result()
    assert ("a", "is no longer restarted") in [(step.name, step.reason) for step in plan.unchanged]
    play.reload(hub(model("a", default="true", restart="never"), model("b")))
    assert play.status("a").state is ModelState.FAILED
    assert play.story("a")[-3:] == ["failed 3 crash in 1.0", "restarting", "gave_up"]
    assert next(args["event"].reason for hook, args in play.events if hook == "model_gave_up") == "reload"
    play.wait(1000)
    assert len(play.processes["a"]) == 1


# Groups.

GROUPED = hub(
    model("a", group="big", default="true"),
    model("b", group="big"),
    model("c"),
    top="groups: [{name: big, max_loaded: 1}]\n",
).replace("name: c,", "name: c, group: big,")


def test_a_full_group_refuses_and_names_what_runs(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    error = play.start("b").exception()
    assert isinstance(error, GroupFullError)
    assert "group 'big' is full (max_loaded: 1); running: a" in str(error)
    assert play.story("b") == ["failed None spawn_error"]
    assert play.status("b").state is ModelState.FAILED
    assert play.status("b").reason == error.message


def test_a_start_waits_for_a_place_that_is_being_freed(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    play.stop("a")
    reply = play.start("b")
    assert not reply.done()
    play.end("a", -15)
    assert reply.result() is None
    assert play.status("b").state is ModelState.READY


def test_of_two_that_wait_for_one_place_one_gets_it_and_the_other_is_told(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    play.stop("a")
    first, second = play.start("b"), play.start("c")
    play.end("a", -15)
    assert first.result() is None
    assert isinstance(second.exception(), GroupFullError)


def test_a_crash_frees_the_place_and_the_restart_waits_for_one(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    play.end("a", 3)
    assert play.start("b").result() is None
    play.wait(1.0)
    assert play.status("a").state is ModelState.BACKOFF
    assert play.status("a").reason == "group 'big' is full (max_loaded: 1); running: b; stop one of them first"
    assert play.timers() == [], "nobody needs to look again and again"
    play.stop("b")
    assert play.status("a").reason == "waits for a place in group 'big'"
    play.end("b", -15)
    assert play.status("a").state is ModelState.READY, "at once, and not at some later look"
    assert play.status("a").restarts == 1


def test_a_stop_takes_a_waiting_model_out_of_the_queue(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    play.stop("a")
    waiting = play.start("b")
    play.stop("b")
    assert isinstance(waiting.exception(), HubStateError)
    play.end("a", -15)
    assert play.status("b").state is ModelState.STOPPED


# Reload.


def test_unchanged_models_keep_their_process(play: Play) -> None:
    pid = play.status("a").pid
    result = play.reload(hub(model("a", default="true"), model("b"), model("c", default="true"))).result()
    assert (result.started, result.stopped, result.unchanged) == (("c",), (), ("a", "b"))
    assert play.status("a").pid == pid
    assert play.events[-1][0] == "config_reloaded"


def test_a_changed_model_is_restarted_with_its_new_settings(play: Play) -> None:
    reply = play.reload(hub(model("a", default="true", env="{A: b}"), model("b")))
    assert not reply.done()
    play.end("a", -15)
    assert (reply.result().started, reply.result().stopped) == (("a",), ("a",))
    assert play.story("a")[2:] == ["stopped -15 reload", "started reload", "ready"]


def test_a_removed_model_is_stopped_and_forgotten(play: Play) -> None:
    reply = play.reload(hub(model("b")))
    assert isinstance(play.start("a").exception(), UnknownModelError)
    play.end("a", -15)
    assert reply.result().stopped == ("a",)
    assert [status.name for status in play.supervisor.status()] == ["b"]


def test_a_model_that_comes_back_while_it_still_stops_is_started_again(play: Play) -> None:
    play.reload(hub(model("b")))
    reply = play.reload(hub(model("a", default="true"), model("b")))
    play.end("a", -15)
    assert reply.result().started == ("a",)
    assert play.status("a").state is ModelState.READY


def test_a_model_stopped_by_hand_stays_stopped(play: Play) -> None:
    play.stop("a")
    play.end("a", -15)
    assert play.reload(hub(model("a", default="true"), model("b"))).result().unchanged == ("a", "b")
    assert play.status("a").state is ModelState.STOPPED


def test_a_model_that_failed_for_good_is_started_again(tmp_path: Path) -> None:
    text = hub(model("a", default="true", restart="never"))
    play = Play(tmp_path, text)
    play.end("a", 3)
    assert play.reload(text).result().started == ("a",)


def test_in_a_reload_a_place_goes_from_the_old_model_to_the_new(tmp_path: Path) -> None:
    top = "groups: [{name: big, max_loaded: 1}]\n"
    play = Play(tmp_path, hub(model("a", group="big", default="true"), top=top))
    reply = play.reload(hub(model("b", group="big", default="true"), top=top))
    assert play.status("b").state is ModelState.STOPPED
    play.end("a", -15)
    assert reply.result().started == ("b",)
    assert not reply.result().failed


def test_ports_stay_over_a_reload(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true", command=SERVER), model("b", default="true", command=SERVER)))
    ports = {status.name: status.port for status in play.supervisor.status()}
    assert len(set(ports.values())) == 2
    play.reload(hub(model("b", default="true", command=SERVER), model("a", default="true", command=SERVER)))
    assert {status.name: status.port for status in play.supervisor.status()} == ports


def test_a_renamed_model_gets_its_port_when_the_old_one_has_ended(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true", command=SERVER, port="29871")))
    reply = play.reload(hub(model("b", default="true", command=SERVER, port="29871")))
    assert play.status("b").state is ModelState.STOPPED
    play.end("a", -15)
    assert reply.result().started == ("b",)
    assert play.status("b").port == 29871


def test_two_models_can_exchange_their_ports(tmp_path: Path) -> None:
    def text(a: str, b: str) -> str:
        return hub(*(model(n, default="true", command=SERVER, port=p) for n, p in (("a", a), ("b", b))))

    play = Play(tmp_path, text("29871", "29872"))
    reply = play.reload(text("29872", "29871"))
    play.end("a", -15)
    assert play.status("a").state is ModelState.STOPPED, "its new port is still in use by b"
    play.end("b", -15)
    assert reply.result().started == ("a", "b")
    assert [status.port for status in play.supervisor.status()] == [29872, 29871]


def test_a_model_moves_out_of_a_port_that_hub_yaml_now_gives_to_another(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true", command=SERVER)))
    port = play.status("a").port
    reply = play.reload(
        hub(model("a", default="true", command=SERVER), model("b", default="true", command=SERVER, port=str(port)))
    )
    play.end("a", -15)
    assert (reply.result().started, reply.result().stopped) == (("a", "b"), ("a",))
    assert play.status("b").port == port
    assert play.status("a").port != port


def test_after_shutdown_nothing_starts(play: Play) -> None:
    reply = play.shutdown()
    assert not reply.done()
    assert isinstance(play.start("b").exception(), HubStateError)
    assert isinstance(play.reload(hub(model("z", default="true"))).exception(), HubStateError)
    play.end("a", -15)
    assert reply.result() is None
    assert [hook for hook, _ in play.events][-2:] == ["hub_stopping", "model_stopped"]


def test_kill_reaches_only_those_that_are_stopping(play: Play) -> None:
    play.start("b")
    play.stop("a")
    play.supervisor.kill()
    play.settle()
    assert play.process("a").killed
    assert not play.process("b").killed


def test_who_is_stopped_after_a_kill_gets_no_grace(play: Play) -> None:
    play.supervisor.kill()
    play.shutdown()
    assert play.process("a").graces == [0.0]


# Health of a model that was ready.

SILENCE: list[Step] = [lambda p: p.miss(after=30), lambda p: p.miss(after=5), lambda p: p.miss(after=5)]
"""Three questions in a row without an answer: one more than is forgiven."""


def server(name: str = "a", **keys: str) -> str:
    return model(name, **{"default": "true", "command": SERVER, **keys})


def ready(tmp_path: Path, **keys: str) -> Play:
    """A server that has just become ready."""
    play = Play(tmp_path, hub(server(**keys)))
    play.asked(after=0.05)
    play.answer(ready=True)
    assert play.status("a").state is ModelState.READY
    return play


def well(p: Play) -> None:
    p.asked(after=30)
    p.answer(ready=True)


def dead(p: Play) -> None:
    p.miss(after=30, final=True, detail="generation thread died: out of luck")


SICK: dict[str, tuple[str, list[Step], list[str], ModelState]] = {
    "two misses are forgiven, and an answer forgets them": (
        "on-failure",
        [*SILENCE[:2], lambda p: p.asked(after=5), lambda p: p.answer(ready=True), *SILENCE[:2]],
        [],
        ModelState.READY,
    ),
    "three misses in a row are one too many": (
        "on-failure",
        [*SILENCE],
        ["unhealthy unhealthy"],
        ModelState.STOPPING,
    ),
    "an unhealthy process is ended and started again": (
        "on-failure",
        [*SILENCE, lambda p: p.end("a", -15), lambda p: p.wait(1)],
        ["unhealthy unhealthy", "failed -15 unhealthy in 1.0", "restarting", "started restart"],
        ModelState.STARTING,
    ),
    "also with always": (
        "always",
        [*SILENCE, lambda p: p.end("a", -15), lambda p: p.wait(1)],
        ["unhealthy unhealthy", "failed -15 unhealthy in 1.0", "restarting", "started restart"],
        ModelState.STARTING,
    ),
    "it has failed even if it then ends with 0": (
        "on-failure",
        [*SILENCE, lambda p: p.end("a", 0)],
        ["unhealthy unhealthy", "failed 0 unhealthy in 1.0", "restarting"],
        ModelState.BACKOFF,
    ),
    "with never it is left alone, and told once": (
        "never",
        [*SILENCE, *[lambda p: p.miss(after=30)] * 5],
        ["unhealthy unhealthy"],
        ModelState.UNHEALTHY,
    ),
    "with never it may recover": (
        "never",
        [*SILENCE, well],
        ["unhealthy unhealthy", "recovered"],
        ModelState.READY,
    ),
    "who has recovered is forgiven as much as before": (
        "never",
        [*SILENCE, well, *SILENCE[:2]],
        ["unhealthy unhealthy", "recovered"],
        ModelState.READY,
    ),
    "who has recovered may fall ill again": (
        "never",
        [*SILENCE, well, *SILENCE],
        ["unhealthy unhealthy", "recovered", "unhealthy unhealthy"],
        ModelState.UNHEALTHY,
    ),
    "a final answer needs no second": (
        "on-failure",
        [dead, lambda p: p.end("a", -15)],
        ["unhealthy unhealthy", "failed -15 unhealthy in 1.0", "restarting"],
        ModelState.BACKOFF,
    ),
    "with never even a final answer ends nothing": (
        "never",
        [dead, dead],
        ["unhealthy unhealthy"],
        ModelState.UNHEALTHY,
    ),
    "a final answer that was wrong": (
        "never",
        [dead, well],
        ["unhealthy unhealthy", "recovered"],
        ModelState.READY,
    ),
    "a crash between two misses is a crash": (
        "on-failure",
        [*SILENCE[:2], lambda p: p.end("a", 3)],
        ["failed 3 crash in 1.0", "restarting"],
        ModelState.BACKOFF,
    ),
    "who is unhealthy may end by itself": (
        "never",
        [*SILENCE, lambda p: p.end("a", 0)],
        ["unhealthy unhealthy", "stopped 0 exit"],
        ModelState.STOPPED,
    ),
    "who is unhealthy may crash": (
        "never",
        [*SILENCE, lambda p: p.end("a", 3)],
        ["unhealthy unhealthy", "failed 3 crash"],
        ModelState.FAILED,
    ),
    "who is unhealthy may be killed": (
        "never",
        [*SILENCE, lambda p: p.end("a", -9)],
        ["unhealthy unhealthy", "failed -9 signal"],
        ModelState.FAILED,
    ),
    "an operator stops an unhealthy one": (
        "never",
        [*SILENCE, lambda p: p.stop("a"), lambda p: p.end("a", -15), lambda p: p.wait(1000)],
        ["unhealthy unhealthy", "stopped -15 operator"],
        ModelState.STOPPED,
    ),
    "starting an unhealthy one does nothing, as it runs": (
        "never",
        [*SILENCE, lambda p: p.start("a").result(timeout=0)],
        ["unhealthy unhealthy"],
        ModelState.UNHEALTHY,
    ),
    "an operator restarts an unhealthy one": (
        "never",
        [*SILENCE, lambda p: p.restart("a"), lambda p: p.end("a", -15)],
        ["unhealthy unhealthy", "stopped -15 operator", "started operator"],
        ModelState.STARTING,
    ),
    "an operator's stop while the hub ends it makes it a stop": (
        "on-failure",
        [*SILENCE, lambda p: p.stop("a"), lambda p: p.end("a", -15), lambda p: p.wait(1000)],
        ["unhealthy unhealthy", "stopped -15 operator"],
        ModelState.STOPPED,
    ),
    "an operator's start while the hub ends it does not wait for the back-off": (
        "on-failure",
        [*SILENCE, lambda p: p.start("a"), lambda p: p.end("a", -15), lambda p: p.wait(5)],
        ["unhealthy unhealthy", "failed -15 unhealthy in 1.0", "restarting", "started operator"],
        ModelState.STARTING,
    ),
    "an operator's restart while the hub ends it": (
        "on-failure",
        [*SILENCE, lambda p: p.restart("a"), lambda p: p.end("a", -15), lambda p: p.wait(5)],
        ["unhealthy unhealthy", "stopped -15 operator", "started operator"],
        ModelState.STARTING,
    ),
    "shutdown while the hub ends it": (
        "on-failure",
        [*SILENCE, lambda p: p.shutdown(), lambda p: p.end("a", -15), lambda p: p.wait(1000)],
        ["unhealthy unhealthy", "stopped -15 hub_shutdown"],
        ModelState.STOPPED,
    ),
    "a reload while the hub ends it changes nothing": (
        "on-failure",
        [*SILENCE, lambda p: p.reload(hub(server(env="{A: b}"))), lambda p: p.end("a", -15), lambda p: p.wait(1)],
        ["unhealthy unhealthy", "failed -15 unhealthy in 1.0", "restarting", "started restart"],
        ModelState.STARTING,
    ),
    "never, said while the hub ends it, keeps it from starting again": (
        "on-failure",
        [*SILENCE, lambda p: p.reload(hub(server(restart="never"))), lambda p: p.end("a", -15), lambda p: p.wait(1000)],
        ["unhealthy unhealthy", "failed -15 unhealthy"],
        ModelState.FAILED,
    ),
    "on-failure, said when it is unhealthy, ends it after the next miss": (
        "never",
        [*SILENCE, lambda p: p.reload(hub(server(restart="on-failure"))), lambda p: p.miss(after=30)],
        ["unhealthy unhealthy"],
        ModelState.STOPPING,
    ),
    "a changed model that is unhealthy is restarted by the reload": (
        "never",
        [*SILENCE, lambda p: p.reload(hub(server(env="{A: b}"))), lambda p: p.end("a", -15)],
        ["unhealthy unhealthy", "stopped -15 reload", "started reload"],
        ModelState.STARTING,
    ),
    "whatever it answers while it is ended does not matter": (
        "on-failure",
        [
            lambda p: p.asked(after=30), lambda p: p.stop("a"), lambda p: p.answer(ready=False, final=True),
            lambda p: p.wait(1000), lambda p: p.end("a", 0),
        ],
        ["stopped 0 operator"],
        ModelState.STOPPED,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("policy", "steps", "expected", "state"), SICK.values(), ids=SICK.keys())
def test_history_of_a_model_that_was_ready(
    tmp_path: Path, policy: str, steps: list[Step], expected: list[str], state: ModelState
) -> None:
    play = ready(tmp_path, restart=policy)
    for step in steps:
        step(play)
    assert play.story("a")[2:] == expected
    assert play.status("a").state is state


def test_an_unhealthy_process_gets_the_models_own_patience_before_it_is_killed(tmp_path: Path) -> None:
    play = ready(tmp_path, stop_timeout="7")
    for step in SILENCE:
        step(play)
    assert play.process("a").graces == [7.0]
    assert not play.process("a").killed
    play.end("a", -9, forced=True)
    event = next(args["event"] for hook, args in play.events if hook == "model_failed")
    assert (event.reason, event.forced, event.signal) == (Reason.UNHEALTHY, True, "SIGKILL")


def test_a_forced_end_of_an_unhealthy_process_that_an_operator_stopped_is_a_forced_stop(tmp_path: Path) -> None:
    play = ready(tmp_path)
    for step in SILENCE:
        step(play)
    reply = play.stop("a")
    play.supervisor.kill()
    play.settle()
    assert play.process("a").killed
    assert not reply.done()
    play.end("a", -9, forced=True)
    assert reply.done()
    hook, args = play.events[-1]
    assert (hook, args["event"].reason, args["event"].forced) == ("model_stopped", Reason.OPERATOR, True)


def test_who_stops_a_process_that_the_hub_ends_has_the_next_hub_know_that_too(tmp_path: Path) -> None:
    play = ready(tmp_path)
    for step in SILENCE:
        step(play)
    assert play.process("a").asked == "unhealthy"
    play.stop("a")
    assert play.process("a").asked == "operator", "else that hub would start it again"


def test_a_model_that_is_removed_while_the_hub_ends_it_is_stopped_and_forgotten(tmp_path: Path) -> None:
    play = ready(tmp_path)
    for step in SILENCE:
        step(play)
    reply = play.reload(hub(model("b")))
    play.end("a", -15)
    assert reply.result(timeout=0).stopped == ("a",)
    assert play.story("a")[-1] == "stopped -15 reload"
    play.wait(1000)
    assert [status.name for status in play.supervisor.status()] == ["b"]


def test_the_reason_of_unhealthy_is_a_sentence_and_is_told_everywhere_the_same(tmp_path: Path) -> None:
    play = ready(tmp_path, restart="never")
    for after in (30, 5, 5):
        play.miss(after=after, detail="no answer within 5 s")
    hook, args = play.events[-1]
    assert hook == "model_unhealthy"
    assert args["reason"] == "no answer within 5 s, 3 times in a row"
    assert args["event"].detail == args["reason"] == play.status("a").reason
    assert args["event"].reason is Reason.UNHEALTHY
    assert args["event"].run_id == play.events[0][1]["event"].run_id


def test_a_final_answer_carries_the_servers_own_cause_to_the_failure(tmp_path: Path) -> None:
    play = ready(tmp_path)
    dead(play)
    assert play.events[-1][1]["reason"] == "generation thread died: out of luck"
    play.end("a", -15)
    failure = play.status("a").last_failure
    assert failure is not None
    assert (failure.reason, failure.exit_code) == (Reason.UNHEALTHY, -15)
    assert failure.detail == "generation thread died: out of luck"
    assert play.status("a").reason == failure.detail


def test_a_cause_that_shows_later_takes_the_place_of_the_first_guess(tmp_path: Path) -> None:
    play = ready(tmp_path, restart="never")
    for step in SILENCE:
        step(play)
    dead(play)
    assert play.status("a").reason == "generation thread died: out of luck"
    assert play.story("a")[2:] == ["unhealthy unhealthy"]


def test_a_recovery_tells_how_long_it_took_and_clears_the_reason(tmp_path: Path) -> None:
    play = ready(tmp_path, restart="never")
    for step in SILENCE:
        step(play)
    ready_at = play.status("a").ready_at
    play.miss(after=30)
    well(play)
    assert play.events[-1][0] == "model_recovered"
    assert play.events[-1][1]["unhealthy_seconds"] == pytest.approx(60.0, abs=0.01)
    assert play.status("a").reason is None
    assert play.status("a").ready_at == ready_at, "it is the same process, and first answered then"


def test_a_ready_model_is_asked_whether_it_lives_and_not_again_whether_it_has_loaded(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(server(health="{interval: 12, timeout: 2, failures: 2}")))
    assert play.asked(after=0.05).question is Question.READY
    play.answer(ready=True)
    assert play.asked(after=12).question is Question.ALIVE
    play.answer(ready=False)
    assert play.asked(after=2).question is Question.ALIVE, "after a miss sooner: min(interval, timeout)"
    play.answer(ready=False)
    assert play.status("a").state is ModelState.STOPPING, "failures: 2"


def test_a_miss_is_not_followed_later_than_the_interval(tmp_path: Path) -> None:
    play = ready(tmp_path, health="{interval: 3, timeout: 50}")
    play.miss(after=3)
    play.miss(after=3)


def test_a_question_is_not_repeated_while_it_is_open(tmp_path: Path) -> None:
    play = ready(tmp_path, health="{interval: 3, timeout: 50}")
    play.asked(after=3)
    play.wait(1000)
    assert len(play.probes) == 1


def test_an_answer_that_comes_twice_counts_once(tmp_path: Path) -> None:
    play = ready(tmp_path)
    asked = play.asked(after=30)
    for _ in range(5):
        asked.answer(ProbeResult(ok=False, detail="no answer"))
        play.settle()
    assert play.status("a").state is ModelState.READY
    play.probes.clear()
    play.asked(after=5)


def test_an_answer_about_an_earlier_process_neither_harms_nor_helps_the_new_one(tmp_path: Path) -> None:
    play = ready(tmp_path)
    asked = play.asked(after=30)
    play.probes.clear()
    play.end("a", 3)
    play.wait(1.0)
    play.asked(after=0.05)
    for result in (ProbeResult(ok=True), ProbeResult(ok=False, detail="dead", final=True)):
        asked.answer(result)
        play.settle()
        assert play.status("a").state is ModelState.STARTING
    assert play.story("a")[-1] == "started restart"


def test_a_model_that_could_not_be_asked_once_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    play = ready(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(FakeProbe, "ask", no_thread)
        play.clock.advance(30)
        play.supervisor.actor.drain()
    assert [str(bug) for bug in play.bugs] == ["can't start new thread"]
    play.bugs.clear()
    assert play.status("a").state is ModelState.READY, "that the hub could not ask says nothing about the model"
    well(play)


def test_a_question_that_the_hub_could_not_ask_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptor(_: FakeProbe, question: Question, health: HealthSettings, answer: Callable[..., None]) -> None:
        answer(ProbeResult(ok=False, detail="Too many open files", asked=False))

    play = ready(tmp_path, health="{failures: 2}")
    play.miss(after=30)
    with monkeypatch.context() as patch:
        patch.setattr(FakeProbe, "ask", no_descriptor)
        for _ in range(20):
            play.wait(5)
    assert play.status("a").state is ModelState.READY
    play.miss(after=5)
    assert play.status("a").state is ModelState.STOPPING, "the miss before it still counts"


# Time to start.


def starting(tmp_path: Path, **keys: str) -> Play:
    """A server that has been asked once, and should be ready within a minute."""
    play = Play(tmp_path, hub(server(**{"health": "{startup_timeout: 60}", **keys})))
    play.asked(after=0.05)
    return play


def used(*, cpu: float = 0.0, memory: int = 0, log: int = 0, available: int = 16_000_000_000) -> Vitals:
    return Vitals(cpu, memory, log, available)


def stuck(p: Play) -> None:
    """Asked each five seconds, and nothing has happened for thirty."""
    for _ in range(6):
        p.miss(after=5, vitals=used())


LATE: list[Step] = [lambda p: p.wait(60), lambda p: p.answer(ready=False, vitals=used())]
STARTUPS: dict[str, tuple[str, list[Step], list[str], ModelState]] = {
    "before its time is over nothing is said": (
        "on-failure",
        [lambda p: p.wait(59.9), lambda p: p.answer(ready=False)],
        [],
        ModelState.STARTING,
    ),
    "when its time is over it is unhealthy, and lives": (
        "on-failure",
        [*LATE],
        ["unhealthy startup_timeout"],
        ModelState.UNHEALTHY,
    ),
    "stuck for two questions": (
        "on-failure",
        [*LATE, stuck, stuck],
        ["unhealthy startup_timeout"],
        ModelState.UNHEALTHY,
    ),
    "stuck for three questions": (
        "on-failure",
        [*LATE, stuck, stuck, stuck, lambda p: p.end("a", -15)],
        ["unhealthy startup_timeout", "failed -15 startup_timeout in 1.0", "restarting"],
        ModelState.BACKOFF,
    ),
    "with never it stays for ever": (
        "never",
        [*LATE, *[stuck] * 9],
        ["unhealthy startup_timeout"],
        ModelState.UNHEALTHY,
    ),
    "it answers after all": (
        "on-failure",
        [*LATE, stuck, stuck, lambda p: p.asked(after=5), lambda p: p.answer(ready=True)],
        ["unhealthy startup_timeout", "ready"],
        ModelState.READY,
    ),
    "nobody is too late who is ready": (
        "on-failure",
        [lambda p: p.answer(ready=True), well, well, well],
        ["ready"],
        ModelState.READY,
    ),
    "it dies of something else while it is late": (
        "on-failure",
        [*LATE, lambda p: p.miss(after=5, final=True, detail="dead"), lambda p: p.end("a", -15)],
        ["unhealthy startup_timeout", "failed -15 unhealthy in 1.0", "restarting"],
        ModelState.BACKOFF,
    ),
    "it is dead before it ever lived": (
        "on-failure",
        [lambda p: p.answer(ready=False, final=True, detail="dead"), lambda p: p.end("a", 1)],
        ["unhealthy unhealthy", "failed 1 unhealthy in 1.0", "restarting"],
        ModelState.BACKOFF,
    ),
    "it crashes while it is late": (
        "on-failure",
        [*LATE, lambda p: p.end("a", 3)],
        ["unhealthy startup_timeout", "failed 3 crash in 1.0", "restarting"],
        ModelState.BACKOFF,
    ),
    "it is stopped while it starts": (
        "on-failure",
        [lambda p: p.stop("a"), lambda p: p.wait(60), lambda p: p.end("a", -15)],
        ["stopped -15 operator"],
        ModelState.STOPPED,
    ),
    "it is stopped while it is late": (
        "on-failure",
        [*LATE, lambda p: p.stop("a"), lambda p: p.end("a", -15)],
        ["unhealthy startup_timeout", "stopped -15 operator"],
        ModelState.STOPPED,
    ),
    "it is stopped while the hub ends it for being late": (
        "on-failure",
        [*LATE, stuck, stuck, stuck, lambda p: p.stop("a"), lambda p: p.end("a", -15), lambda p: p.wait(1000)],
        ["unhealthy startup_timeout", "stopped -15 operator"],
        ModelState.STOPPED,
    ),
    "it is restarted while it starts, and the time begins anew": (
        "on-failure",
        [lambda p: p.wait(50), lambda p: p.restart("a"), lambda p: p.end("a", -15), lambda p: p.wait(59)],
        ["stopped -15 operator", "started operator"],
        ModelState.STARTING,
    ),
    "the hub shuts down while it starts": (
        "on-failure",
        [lambda p: p.shutdown(), lambda p: p.end("a", -15)],
        ["stopped -15 hub_shutdown"],
        ModelState.STOPPED,
    ),
    "it ends by itself while it starts": (
        "on-failure",
        [lambda p: p.end("a", 0)],
        ["stopped 0 exit"],
        ModelState.STOPPED,
    ),
    "it ends by itself while it starts, and shall always run": (
        "always",
        [lambda p: p.end("a", 0), lambda p: p.wait(1)],
        ["stopped 0 exit in 1.0", "restarting", "started restart"],
        ModelState.STARTING,
    ),
}


@pytest.mark.parametrize(("policy", "steps", "expected", "state"), STARTUPS.values(), ids=STARTUPS.keys())
def test_history_of_a_model_that_starts(
    tmp_path: Path, policy: str, steps: list[Step], expected: list[str], state: ModelState
) -> None:
    play = starting(tmp_path, restart=policy)
    for step in steps:
        step(play)
    assert play.story("a")[1:] == expected
    assert play.status("a").state is state


@pytest.mark.parametrize(
    ("each", "goes_on"),
    [
        (used(cpu=3.0), True),
        (used(memory=10_000_000), True),
        (used(memory=-10_000_000), True),
        (used(log=10_000), True),
        (used(cpu=0.2, memory=100_000, log=200), False),
    ],
    ids=["it computes", "it takes memory", "it gives memory back", "it writes its log", "it does next to nothing"],
)
def test_who_is_late_may_go_on_for_as_long_as_it_makes_progress(tmp_path: Path, each: Vitals, goes_on: bool) -> None:
    play = starting(tmp_path)
    play.wait(60)
    play.answer(ready=False, vitals=used(memory=1_000_000_000))
    for n in range(1, 60):
        if play.status("a").state is ModelState.STOPPING:
            break
        grown = used(cpu=each.cpu_seconds * n, memory=1_000_000_000 + each.memory_bytes * n, log=each.log_bytes * n)
        play.miss(after=5, vitals=grown)
    assert play.status("a").state is (ModelState.UNHEALTHY if goes_on else ModelState.STOPPING)
    assert play.story("a")[1:] == ["unhealthy startup_timeout"]


def test_progress_forgives_the_misses_before_it(tmp_path: Path) -> None:
    play = starting(tmp_path)
    for step in (*LATE, stuck, stuck):
        step(play)
    play.miss(after=5, vitals=used(cpu=20))
    for _ in range(17):
        play.miss(after=5, vitals=used(cpu=20))
    assert play.status("a").state is ModelState.UNHEALTHY
    play.miss(after=5, vitals=used(cpu=20))
    assert play.status("a").state is ModelState.STOPPING


def test_who_is_late_says_in_its_status_and_at_its_end_what_it_said_last(tmp_path: Path) -> None:
    play = starting(tmp_path)
    for step in LATE:
        step(play)
    assert play.status("a").reason == "not ready after 60 s: HTTP 503"
    for _ in range(18):
        play.miss(after=5, vitals=used(), detail="HTTP 500 no such library")
    assert play.status("a").state is ModelState.STOPPING
    play.end("a", -15)
    failed = next(args["event"] for hook, args in play.events if hook == "model_failed")
    assert (failed.reason, failed.detail) == ("startup_timeout", "not ready after 60 s: HTTP 500 no such library")


def test_who_works_in_silence_is_left_alone_for_ten_minutes(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(server()))
    play.asked(after=0.05)
    play.answer(ready=True, vitals=used())
    begin, busy = play.clock(), 0.0
    while play.status("a").state is ModelState.READY:
        busy += 20
        play.asked(after=30 if play.clock() - begin < 600 else 5)
        play.answer(ready=False, silent=True, detail="no answer within 5 s", vitals=used(cpu=busy))
    assert play.clock() - begin == pytest.approx(610, abs=1)


def test_a_restart_by_hand_that_would_be_refused_stops_nothing(tmp_path: Path) -> None:
    def text(places: int) -> str:
        return hub(*(model(n, group="big", default="true" if n == "a" else "false") for n in "ab"),
                   top=f"groups: [{{name: big, max_loaded: {places}}}]\n")  # fmt: skip

    play = Play(tmp_path, text(2))
    play.start("b")
    play.reload(text(1))
    assert isinstance(play.restart("a").exception(timeout=0), GroupFullError)
    assert play.status("a").state is ModelState.READY
    assert play.process("a").graces == []


def test_being_late_is_told_with_the_time_and_the_last_answer(tmp_path: Path) -> None:
    play = starting(tmp_path)
    play.answer(ready=False, detail="HTTP 503 loading")
    play.wait(60)
    assert play.events[-1][1]["reason"] == "not ready after 60 s: HTTP 503 loading"
    assert play.status("a").reason == "not ready after 60 s: HTTP 503 loading"
    assert play.status("a").ready_at is None


def test_a_late_start_counts_its_seconds_from_the_start(tmp_path: Path) -> None:
    play = starting(tmp_path)
    play.wait(300)
    play.answer(ready=True)
    assert play.events[-1][0] == "model_ready"
    assert play.events[-1][1]["startup_seconds"] == pytest.approx(300.05, abs=0.01)


# Health that changes while the model runs.


def test_health_turned_off_makes_a_starting_model_ready_at_once_and_asks_no_more(tmp_path: Path) -> None:
    play = starting(tmp_path)
    assert play.reload(hub(server(health="off"))).result(timeout=0).unchanged == ("a",)
    assert play.status("a").state is ModelState.READY
    play.answer(ready=False, final=True)
    play.wait(10_000)
    assert play.probes == []
    assert play.story("a") == ["started hub_start", "ready"]


def test_health_turned_off_makes_an_unhealthy_model_well_at_once(tmp_path: Path) -> None:
    play = ready(tmp_path, restart="never")
    for step in SILENCE:
        step(play)
    play.reload(hub(server(restart="never", health="off")))
    assert play.status("a").state is ModelState.READY
    assert play.story("a")[-1] == "recovered"
    play.wait(10_000)
    assert play.probes == []


def test_health_turned_off_leaves_alone_what_is_being_ended(tmp_path: Path) -> None:
    play = ready(tmp_path)
    dead(play)
    play.reload(hub(server(health="off")))
    assert play.status("a").state is ModelState.STOPPING
    play.end("a", -15)
    assert play.story("a")[2:] == ["unhealthy unhealthy", "failed -15 unhealthy in 1.0", "restarting"]


def test_health_turned_on_has_a_running_model_asked_once_per_interval(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(server(health="off")))
    play.wait(1000)
    assert play.probes == []
    text = hub(server(health="{interval: 20}"))
    play.reload(text)
    play.reload(text)
    for _ in range(3):
        assert play.asked(after=20).question is Question.ALIVE
        play.answer(ready=True)
    assert play.story("a") == ["started hub_start", "ready"]


def test_turning_health_off_and_on_does_not_double_the_questions(tmp_path: Path) -> None:
    play = ready(tmp_path)
    on, off = hub(server()), hub(server(health="off"))
    asked = play.asked(after=30)
    for _ in range(3):
        play.reload(off)
        play.reload(on)
    play.wait(1000)
    assert play.probes == [asked], "the one that is still open"
    play.answer(ready=True)
    for _ in range(3):
        well(play)


def test_a_shorter_interval_does_not_wait_for_the_end_of_the_longer_one(tmp_path: Path) -> None:
    play = ready(tmp_path, health="{interval: 3600}")
    play.reload(hub(server(health="{interval: 5}")))
    for _ in range(2):
        play.asked(after=5)
        play.answer(ready=True)


def test_a_reload_that_leaves_health_as_it_was_does_not_put_off_the_question(tmp_path: Path) -> None:
    play = ready(tmp_path)
    for stop_timeout in ("1", "2"):
        play.wait(10)
        play.reload(hub(server(stop_timeout=stop_timeout)))
    play.asked(after=10)


def test_fewer_failures_are_heeded_with_the_next_miss(tmp_path: Path) -> None:
    play = ready(tmp_path)
    play.miss(after=30)
    play.reload(hub(server(health="{failures: 2}")))
    play.miss(after=5)
    assert play.status("a").state is ModelState.STOPPING


@pytest.mark.parametrize(("seconds", "late_after"), [(100, 50), (70, 20), (55, 5), (10, 0)])
def test_a_changed_startup_timeout_counts_from_the_start_of_the_process(
    tmp_path: Path, seconds: int, late_after: float
) -> None:
    play = starting(tmp_path)
    play.wait(49.95)
    play.reload(hub(server(health=f"{{startup_timeout: {seconds}}}")))
    if late_after:
        play.wait(late_after - 0.01)
        assert play.status("a").state is ModelState.STARTING
        play.wait(0.02)
    assert play.status("a").state is ModelState.UNHEALTHY
    assert play.status("a").reason == f"not ready after {seconds} s: no answer yet"


@pytest.mark.parametrize("text", [hub(model("a", default="true")), hub(server(health="off"))], ids=["no port", "off"])
def test_what_cannot_or_must_not_be_asked_is_ready_at_once_and_never_asked(tmp_path: Path, text: str) -> None:
    play = Play(tmp_path, text)
    assert play.story("a") == ["started hub_start", "ready"]
    play.wait(10_000)
    assert play.probes == []
    assert play.timers() == []


def test_health_that_changes_for_a_command_without_a_port_asks_nobody(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true")))
    for text in (hub(model("a", default="true", health="off")), hub(model("a", default="true"))) * 2:
        play.reload(text)
    play.wait(10_000)
    assert play.probes == []
    assert play.story("a") == ["started hub_start", "ready"]


# Failures: their reasons, and the first and the last of a series.


@pytest.mark.parametrize(
    ("code", "tail", "kills", "available", "expected"),
    [
        (-6, "[METAL] Command buffer execution failed: Insufficient Memory (00000008:...)", 0, 9, "suspected_oom"),
        (1, "MemoryError", 0, 9, "suspected_oom"),
        (1, "RuntimeError: [metal::malloc] Attempting to allocate 1 bytes", None, 9, "suspected_oom"),
        (-9, "loading", 1, 9, "suspected_oom"),
        (-9, "loading", 0, 9, "signal"),
        (-9, "loading", 0, 0, "signal"),
        (-9, "loading", None, 0, "suspected_oom"),
        (-9, "loading", None, 9, "signal"),
        (-15, "loading", 1, 0, "signal"),
        (1, "loading", 1, 0, "crash"),
    ],
    ids=[
        "Metal says so",
        "Python says so",
        "MLX says so",
        "the kernel counted a kill",
        "the kernel counted none",
        "the kernel counted none, though memory was low",
        "no counter, and memory was low",
        "no counter, and memory was not low",
        "another signal",
        "an exit code",
    ],
)
def test_want_of_memory_is_suspected_on_evidence_only(
    tmp_path: Path, code: int, tail: str, kills: int | None, available: int, expected: str
) -> None:
    play = ready(tmp_path)
    play.machine.kills = None if kills is None else 7
    play.restart("a")
    play.end("a", -15)
    play.asked(after=0.05)
    play.answer(ready=True, vitals=used(available=available * 1_000_000_000))
    play.machine.kills = None if kills is None else 7 + kills
    play.end("a", code, tail=("first", tail, "last"))
    assert play.story("a")[-2:] == [f"failed {code} {expected} in 1.0", "restarting"]
    failure = play.status("a").last_failure
    assert failure is not None
    assert (failure.reason == Reason.SUSPECTED_OOM) == (failure.detail is not None), "the evidence goes with it"


@pytest.mark.parametrize("by", ["operator", "hub"])
def test_a_process_that_was_asked_to_end_was_not_killed_for_want_of_memory(tmp_path: Path, by: str) -> None:
    play = ready(tmp_path)
    if by == "operator":
        play.stop("a")
    else:
        dead(play)
    play.machine.kills = 3
    play.end("a", -9, forced=True, tail=("MemoryError",))
    assert play.story("a")[2:] in (
        ["stopped -9 operator"],
        ["unhealthy unhealthy", "failed -9 unhealthy in 1.0", "restarting"],
    )


def _codes(play: Play) -> tuple[int | None, int | None]:
    first, last = play.status("a").first_failure, play.status("a").last_failure
    return (first.exit_code if first else None, last.exit_code if last else None)


def _first_of(play: Play, hook: str) -> Failure | None:
    event = next(args["event"] for name, args in reversed(play.events) if name == hook)
    assert isinstance(event.first_failure, Failure | None)
    return event.first_failure


def test_how_a_series_of_failures_began_is_kept_and_told(play: Play) -> None:
    assert _codes(play) == (None, None)
    play.end("a", 3, tail=("the cause",))
    assert _codes(play) == (3, 3)
    assert _first_of(play, "model_failed") is None, "this one is the first"
    for code in (4, 5, 6, 7):
        play.wait(60)
        play.end("a", code)
        assert _codes(play) == (3, code)
        first = _first_of(play, "model_failed")
        assert first is not None
        assert (first.exit_code, first.log_tail) == (3, ("the cause",))
    assert play.story("a")[-1] == "gave_up"
    assert _first_of(play, "model_gave_up") == play.status("a").first_failure


@pytest.mark.parametrize("what", ["a stable run", "a start by hand", "a restart by hand", "a reload"])
def test_what_begins_a_new_series(play: Play, what: str) -> None:
    play.end("a", 3)
    play.wait(1)
    play.end("a", 4)
    assert _codes(play) == (3, 4)
    if what == "a start by hand":
        play.start("a")
    else:
        play.wait(2)
    if what == "a restart by hand":
        play.restart("a")
        play.end("a", -15)
    elif what == "a reload":
        play.reload(hub(model("a", default="true", env="{A: b}"), model("b")))
        play.end("a", -15)
    elif what == "a stable run":
        play.wait(60)
    assert _codes(play) == (3, 4), "what went wrong last can still be seen"
    play.end("a", 5)
    assert _codes(play) == (5, 5)
    assert _first_of(play, "model_failed") is None
    assert play.story("a")[-2:] == ["failed 5 crash in 1.0", "restarting"]


def test_with_never_each_failure_is_the_first(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true", restart="never")))
    for code in (3, 4):
        play.end("a", code)
        assert _codes(play) == (code, code)
        assert _first_of(play, "model_failed") is None
        play.start("a")


def test_a_series_that_begins_with_an_exit_code_0_does_not_show_a_failure_of_long_ago(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true", restart="always")))
    play.end("a", 3)
    play.wait(1)
    play.wait(60)
    play.end("a", 0)
    assert play.story("a")[-2:] == ["stopped 0 exit in 1.0", "restarting"], "that run was stable"
    play.wait(1)
    play.end("a", 4)
    assert play.story("a")[-2:] == ["failed 4 crash in 2.0", "restarting"]
    assert _codes(play) == (4, 4)
    assert _first_of(play, "model_failed") is None


def test_a_process_that_could_not_be_started_is_part_of_the_series(play: Play) -> None:
    play.end("a", 3)
    play.broken.add("a")
    play.wait(1)
    assert _codes(play) == (3, None)
    last = play.status("a").last_failure
    assert last is not None
    assert last.reason is Reason.SPAWN_ERROR
    assert "Permission denied" in (last.detail or "")
    assert _first_of(play, "model_failed") == play.status("a").first_failure


# When the delays start over, and each model's own rules.


def test_only_time_since_it_was_ready_counts_as_stable(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(server()))
    for expected, run in (("in 1.0", 59.0), ("in 2.0", 59.0), ("in 1.0", 60.0)):
        play.wait(500)
        play.answer(ready=True)
        play.wait(run)
        play.probes.clear()
        play.end("a", 3)
        assert play.story("a")[-2:] == [f"failed 3 crash {expected}", "restarting"]
        play.wait(2)


def test_time_in_which_it_was_unhealthy_does_not_count_as_stable(tmp_path: Path) -> None:
    play = ready(tmp_path)
    play.end("a", 3)
    play.wait(1)
    play.asked(after=0.05)
    play.answer(ready=True)
    for step in SILENCE:
        step(play)
    play.wait(29)  # All of the patience that it gets, and more than a minute since it was ready.
    play.end("a", -9, forced=True)
    assert play.story("a")[-2:] == ["failed -9 unhealthy in 2.0", "restarting"]


RULES = {
    "delay and factor": ("{delay: 2, factor: 3}", 0.0, [2.0, 6.0, 18.0, 54.0]),
    "max_delay": ("{delay: 10, max_delay: 15}", 0.0, [10.0, 15.0, 15.0, 15.0]),
    "max_failures": ("{max_failures: 2}", 0.0, [1.0, None]),
    "one failure is enough": ("{max_failures: 1}", 0.0, [None]),
    "no delay": ("{delay: 0}", 0.0, [0.0, 0.0, 0.0, 0.0, None]),
    "the window": ("{delay: 30, factor: 1, window: 50, max_failures: 3}", 0.0, [30.0] * 9),
    "longer for bad luck": ("{delay: 10, jitter: 0.5}", 1.0, [15.0, 30.0]),
    "shorter for good luck": ("{delay: 10, jitter: 0.5}", -1.0, [5.0, 10.0]),
}


@pytest.mark.parametrize(("rule", "luck", "expected"), RULES.values(), ids=RULES.keys())
def test_each_model_has_its_own_rules(tmp_path: Path, rule: str, luck: float, expected: list[float | None]) -> None:
    play = Play(tmp_path, hub(model("a", default="true", restart=rule), model("b", default="true")))
    play.luck = luck
    for delay in expected:
        play.end("a", 3)
        failed = next(args["event"] for hook, args in reversed(play.events) if hook == "model_failed")
        assert failed.restart_in == delay
        play.wait(delay or 0)
    gave_up = expected[-1] is None
    assert play.status("a").state is (ModelState.FAILED if gave_up else ModelState.READY)
    play.luck = 0.0
    play.end("b", 3)
    assert play.story("b")[-2:] == ["failed 3 crash in 1.0", "restarting"], "the other model keeps the defaults"


def test_reset_after_is_the_models_own(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true", restart="{reset_after: 5}")))
    for _ in range(3):
        play.wait(5)
        play.end("a", 3)
        assert play.story("a")[-2] == "failed 3 crash in 1.0"
        play.wait(1)


def test_a_rule_that_a_reload_brings_is_heeded_at_the_next_failure(play: Play) -> None:
    play.reload(hub(model("a", default="true", restart="{policy: always, delay: 9}"), model("b")))
    play.end("a", 0)
    assert play.story("a")[-2:] == ["stopped 0 exit in 9.0", "restarting"]


# Starts that are refused, and restarts that have to wait.


def test_a_refused_start_leaves_a_model_in_backoff_as_it_is(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    play.end("a", 3)
    play.start("b")
    before = play.story("a")
    assert isinstance(play.start("a").exception(timeout=0), GroupFullError)
    assert (play.story("a"), play.status("a").state) == (before, ModelState.BACKOFF)
    play.stop("b")
    play.end("b", -15)
    play.wait(1)
    assert play.status("a").state is ModelState.READY, "its restart was not forgotten"


def test_a_refused_start_is_told_each_time_and_the_next_may_succeed(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    for _ in range(2):
        assert isinstance(play.start("b").exception(timeout=0), GroupFullError)
    play.stop("a")
    play.end("a", -15)
    assert play.start("b").exception(timeout=0) is None
    assert play.story("b") == ["failed None spawn_error"] * 2 + ["started operator", "ready"]


def test_a_refused_start_of_a_model_that_waited_is_told_too(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    play.stop("a")
    waiting = play.start("b")
    play.start("a")
    assert isinstance(waiting.exception(timeout=0), GroupFullError), "the place goes back to who had it"
    assert play.story("b") == ["failed None spawn_error"]
    play.end("a", -15)
    assert play.status("a").state is ModelState.READY


def test_a_refused_start_of_a_reload_is_told_and_keeps_no_other_from_it(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    text = hub(
        model("a", group="big"),
        model("b", group="big", default="true"),
        model("d", default="true"),
        top="groups: [{name: big, max_loaded: 1}]\n",
    )
    result = play.reload(text).result(timeout=0)
    assert result.started == ("d",)
    assert isinstance(result.failed["b"], GroupFullError)
    assert play.story("b") == ["failed None spawn_error"]


def test_a_refused_start_does_not_start_by_itself_later(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    play.start("b")
    play.stop("a")
    play.end("a", -15)
    play.wait(10_000)
    assert play.status("b").state is ModelState.FAILED


def test_of_two_restarts_that_wait_for_one_place_each_gets_its_turn(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    for name, rival in (("a", "b"), ("b", "c")):
        play.end(name, 3)
        play.start(rival)
    play.wait(1)
    assert [status.state for status in play.supervisor.status()] == ["backoff", "backoff", "ready"]
    play.stop("c")
    play.end("c", -15)
    assert [status.state for status in play.supervisor.status()] == ["ready", "backoff", "stopped"]
    play.stop("a")
    play.end("a", -15)
    assert [status.state for status in play.supervisor.status()] == ["stopped", "ready", "stopped"]


def test_a_restart_waits_for_the_place_of_a_process_that_the_hub_ends(tmp_path: Path) -> None:
    top = "groups: [{name: big, max_loaded: 1}]\n"
    play = Play(
        tmp_path, hub(model("a", group="big", default="true"), server("b", default="false", group="big"), top=top)
    )
    play.end("a", 3)
    play.start("b")
    play.asked(after=0.05)
    play.answer(ready=False, final=True)
    play.wait(1)
    assert play.status("a").reason == "waits for a place in group 'big'"
    play.end("b", -15)
    assert play.status("a").state is ModelState.READY
    play.wait(1)
    assert play.status("b").reason == "group 'big' is full (max_loaded: 1); running: a; stop one of them first"


def test_more_places_let_a_waiting_restart_in_at_once(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    play.end("a", 3)
    play.start("b")
    play.wait(1)
    play.reload(GROUPED.replace("max_loaded: 1", "max_loaded: 2"))
    assert play.status("a").state is ModelState.READY


def test_a_stop_ends_the_wait_of_a_restart(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    play.end("a", 3)
    play.start("b")
    play.wait(1)
    assert play.stop("a").result(timeout=0) is None
    play.end("b", 0)
    assert play.status("a").state is ModelState.STOPPED


# Ports that others have.


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


def test_a_port_of_hub_yaml_that_a_stranger_holds_is_refused_by_its_number(tmp_path: Path) -> None:
    with _listen(0) as stranger:
        port = stranger.getsockname()[1]
        play = Play(tmp_path, hub(server(port=str(port))))
        error = play.result.result(timeout=0).failed["a"]
    assert isinstance(error, LaunchError)
    assert f"a: port {port} is taken by another program; stop that one, or leave out `port:`" in str(error)
    assert play.story("a") == ["failed None spawn_error"]
    assert play.status("a").state is ModelState.FAILED
    assert "a" not in play.processes


def test_a_port_that_the_hub_chose_and_a_stranger_took_is_changed(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(server(), top="model_starting_port: 29410\n"))
    port = play.status("a").port
    assert port is not None
    with _listen(port):
        play.end("a", 3)
        play.wait(1)
        assert play.status("a").state is ModelState.STARTING
        assert play.status("a").port not in (None, port)
        assert play.asked(after=0.05).target.port == play.status("a").port


def test_a_restart_whose_port_a_stranger_took_is_a_failure_by_policy(tmp_path: Path) -> None:
    with _listen(0) as first:
        port = first.getsockname()[1]
        play = Play(tmp_path, hub(server(port=str(port), health="off")))
        first.close()
        play.start("a")
        with _listen(port):
            play.end("a", 3)
            play.wait(1)
            assert play.story("a")[-2:] == ["failed None spawn_error in 2.0", "restarting"]
            assert f"port {port} is taken by another program" in (play.status("a").reason or "")
        play.wait(2)
    assert play.status("a").state is ModelState.READY


def test_a_port_that_another_model_still_has_is_refused_with_its_name(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(server("a"), server("b", default="false")))
    port = play.status("a").port
    text = hub(server("a"), server("b", default="false", port=str(port)))
    play.tell(lambda reply: say.Reserve(play.settings(text), reply)).result(timeout=0)
    error = play.start("b").exception(timeout=0)
    assert isinstance(error, LaunchError)
    assert f"b: port {port} is in use by a; stop or restart that one first" in str(error)
    assert play.story("b") == ["failed None spawn_error"]


# Memory.

GB = 1_000_000_000


def greedy(*names: str, gigabytes: int = 10, **keys: str) -> str:
    return hub(*(server(name, **{"memory": f"{{required: {gigabytes}GB}}", **keys}) for name in names))


def test_a_start_without_the_memory_that_it_requires_is_refused_with_both_figures(tmp_path: Path) -> None:
    play = Play(tmp_path, greedy("a", default="false"))
    play.machine.available = 7 * GB + GB // 2
    error = play.start("a").exception(timeout=0)
    assert isinstance(error, MemoryShortError)
    assert "a: needs 10.0 GB of memory (memory.required) and only 7.5 GB are available" in str(error)
    assert (play.story("a"), play.status("a").state) == (["failed None spawn_error"], ModelState.FAILED)
    play.machine.available = 10 * GB
    assert play.start("a").exception(timeout=0) is None


def test_of_two_models_that_start_at_once_the_second_may_not_have_what_the_first_was_promised(tmp_path: Path) -> None:
    play = Play(tmp_path, greedy("a", "b"))
    result = play.result.result(timeout=0)
    assert result.started == ("a",)
    assert "only 6.0 GB are available" in str(result.failed["b"])


LOADING = {
    "it has taken nothing yet": (False, 0, 16, True),
    "it has taken a part": (False, 4, 12, True),
    "it has taken all": (False, 10, 16, False),
    "it is late and still loads": (True, 4, 12, True),
}


@pytest.mark.parametrize(("late", "taken", "available", "refused"), LOADING.values(), ids=LOADING.keys())
def test_a_promise_lasts_until_it_is_kept(
    tmp_path: Path, late: bool, taken: int, available: int, refused: bool
) -> None:
    play = Play(tmp_path, greedy("a", "b", gigabytes=10).replace("name: b, default: true", "name: b, default: false"))
    play.asked(after=0.05)
    if late:
        play.wait(600)
        assert play.status("a").state is ModelState.UNHEALTHY
    play.answer(ready=False, vitals=used(memory=taken * GB))
    play.machine.available = available * GB
    play.machine.used[play.process("a").pid] = taken * GB
    assert isinstance(play.start("b").exception(timeout=0), MemoryShortError | None)
    assert (play.status("b").state is ModelState.FAILED) is refused


def test_who_is_ready_was_promised_nothing_more(tmp_path: Path) -> None:
    play = Play(tmp_path, greedy("a", "b").replace("name: b, default: true", "name: b, default: false"))
    play.asked(after=0.05)
    play.answer(ready=True, vitals=used(memory=GB))
    assert play.start("b").exception(timeout=0) is None


def test_a_restart_without_its_memory_is_a_failed_launch_by_policy(tmp_path: Path) -> None:
    play = Play(tmp_path, greedy("a", health="off"))
    play.machine.available = GB
    play.end("a", 3)
    for delay in (2.0, 4.0, 8.0):
        play.wait(delay / 2)
        assert play.story("a")[-2:] == [f"failed None spawn_error in {delay}", "restarting"]
        assert "needs 10.0 GB" in (play.status("a").reason or "")
    play.wait(8)
    assert play.story("a")[-2:] == ["failed None spawn_error", "gave_up"]
    assert play.status("a").state is ModelState.FAILED
    assert _codes(play) == (3, None)


def heavy(tmp_path: Path, **keys: str) -> Play:
    """A model that had 10 of 12 GB and has just crashed; nothing of that is back yet."""
    play = ready(tmp_path, **keys)
    play.asked(after=30)
    play.answer(ready=True, vitals=used(memory=10 * GB, available=2 * GB))
    play.machine.available = 2 * GB
    play.end("a", 3)
    return play


def test_a_restart_waits_for_the_memory_of_the_process_that_has_ended(tmp_path: Path) -> None:
    play = heavy(tmp_path)
    assert play.timers() == [say.RestartDue("a")], "nobody waits for it yet, so nobody looks"
    play.wait(1)
    assert play.status("a").state is ModelState.BACKOFF
    assert play.status("a").reason == "waits for memory: 2.0 GB are available, and it needs 10.0 GB"
    for _ in range(3):
        play.start("b")
    assert play.timers() == [say.LookAgain()], "one look at a time is enough, however much happens meanwhile"
    play.machine.available = 10 * GB
    play.wait(0.25)
    assert play.status("a").state is ModelState.STARTING
    started = next(args["event"] for hook, args in reversed(play.events) if hook == "model_started")
    assert started.detail is None


@pytest.mark.parametrize("looks", range(1, 5))
def test_memory_that_comes_back_between_two_looks_leaves_nobody_waiting(tmp_path: Path, looks: int) -> None:
    play = heavy(tmp_path)
    play.machine.returning = [2 * GB] * looks
    play.machine.available = 16 * GB
    for _ in range(8):
        play.wait(0.25)
    assert play.status("a").state is ModelState.STARTING


def test_memory_that_never_comes_back_is_written_off_and_told(tmp_path: Path) -> None:
    play = heavy(tmp_path)
    play.wait(29.9)
    assert play.status("a").state is ModelState.BACKOFF
    play.wait(0.25)
    assert play.status("a").state is ModelState.STARTING
    started = next(args["event"] for hook, args in reversed(play.events) if hook == "model_started")
    assert started.detail == "2.0 GB of memory are available, and it may need 10.0 GB"
    assert say.LookAgain() not in play.timers()


def test_memory_that_does_not_come_back_may_be_what_the_restart_lacks(tmp_path: Path) -> None:
    play = heavy(tmp_path, memory="{required: 8GB}")
    play.wait(31)
    assert play.story("a")[-2:] == ["failed None spawn_error in 2.0", "restarting"]
    assert "needs 8.0 GB of memory (memory.required) and only 2.0 GB are available" in (play.status("a").reason or "")


def test_a_start_by_hand_waits_for_that_memory_too_and_a_stop_ends_the_wait(tmp_path: Path) -> None:
    play = heavy(tmp_path)
    reply = play.start("a")
    play.wait(5)
    assert not reply.done()
    assert play.stop("a").result(timeout=0) is None
    assert isinstance(reply.exception(timeout=0), HubStateError)
    play.machine.available = 16 * GB
    play.wait(60)
    assert play.status("a").state is ModelState.STOPPED
    assert say.LookAgain() not in play.timers()


def test_a_start_by_hand_that_waited_for_memory_begins_a_new_count(tmp_path: Path) -> None:
    play = heavy(tmp_path)
    reply = play.start("a")
    play.wait(5)
    play.machine.available = 16 * GB
    play.wait(0.25)
    assert reply.result(timeout=0) is None
    assert play.story("a")[-1] == "started operator"
    assert play.status("a").restarts == 0


def test_who_has_come_to_wait_in_vain_is_told_at_once(tmp_path: Path) -> None:
    top = "groups: [{name: big, max_loaded: 1}]\n"
    c = server("c", default="false", group="big")
    play = Play(tmp_path, hub(server("a", restart="never"), server("x", port="29881", health="off"), c, top=top))
    play.asked(after=0.05)
    play.answer(ready=True, vitals=used(memory=10 * GB, available=2 * GB))
    play.machine.available = 2 * GB
    play.end("a", 3)
    play.reload(hub(server("b", port="29881", group="big"), c, top=top))
    play.start("c")
    assert [status.state for status in play.supervisor.status()] == ["stopped", "stopped", "stopping"]
    play.machine.available = 16 * GB
    play.wait(0.25)
    assert play.status("c").state is ModelState.STARTING
    assert play.status("b").state is ModelState.FAILED, "it waited for the port of x, and has lost its place to c"
    assert "group 'big' is full (max_loaded: 1); running: c" in (play.status("b").reason or "")


def test_a_small_process_is_not_waited_for(tmp_path: Path) -> None:
    play = ready(tmp_path)
    play.asked(after=30)
    play.answer(ready=True, vitals=used(memory=GB // 10, available=0))
    play.machine.available = 0
    play.end("a", 3)
    play.wait(1)
    assert play.status("a").state is ModelState.STARTING


# A plan is a promise.

PLANS = {
    "nothing changed": hub(server("a"), model("b"), model("c", default="true")),
    "one changed": hub(server("a", env="{A: b}"), model("b"), model("c", default="true")),
    "only what the hub heeds": hub(server("a", restart="never", health="off"), model("b"), model("c", default="true")),
    "one new, one gone": hub(server("a"), model("b"), model("d", default="true")),
    "all gone but one": hub(model("b")),
    "a port for another": hub(server("a"), model("b"), server("d", port="29510")),
    "all moved": hub(server("a"), model("b"), model("c", default="true"), top="host: localhost\n"),
    "default is new": hub(server("a"), model("b", default="true"), model("c", default="true")),
}


@pytest.mark.parametrize("before", ["running", "backoff", "failed", "stopping", "unhealthy"])
@pytest.mark.parametrize("text", PLANS.values(), ids=PLANS.keys())
def test_a_plan_changes_nothing_and_is_what_the_reload_then_does(tmp_path: Path, text: str, before: str) -> None:
    top = "model_starting_port: 29510\n"
    play = Play(tmp_path, PLANS["nothing changed"].replace("models:", f"{top}models:"))
    if before in ("backoff", "failed"):
        play.broken = {"a"} if before == "failed" else set()
        play.end("a", 3)
        play.end("c", 3)
        play.wait(1000 if before == "failed" else 0)
        play.broken.clear()
    elif before == "stopping":
        play.stop("a")
        play.stop("c")
    elif before == "unhealthy":
        play.wait(1000)
    text = text.replace("models:", f"{top}models:")
    was = (play.supervisor.status(), list(play.events), len(play.timers()), play.supervisor.loop._settings)
    plan = play.plan(text).result(timeout=0)
    assert play.plan(text).result(timeout=0) == plan
    assert (play.supervisor.status(), list(play.events), len(play.timers()), play.supervisor.loop._settings) == was
    reply = play.reload(text)
    for _ in range(2):
        for name, processes in list(play.processes.items()):
            if any(s.name == name and s.state is ModelState.STOPPING for s in play.supervisor.status()):
                processes[-1].end(-15)
                play.settle()
    result = reply.result(timeout=0)
    assert not result.failed
    assert set(result.started) == {step.name for step in (*plan.start, *plan.restart)}
    alive = {status.name for status in was[0] if status.state in ALIVE}
    assert set(result.stopped) == {step.name for step in (*plan.stop, *plan.restart)} & alive
    assert set(result.unchanged) == {step.name for step in plan.unchanged}
    names = [step.name for steps in (plan.start, plan.stop, plan.restart, plan.unchanged) for step in steps]
    assert len(names) == len(set(names)), "each model has one place in the plan"


def test_a_plan_before_the_first_reload_names_what_will_start(tmp_path: Path) -> None:
    supervisor = Supervisor(Loop(lambda hook, arguments: None, lambda error: None, process_factory=FakeProcesses()))
    (tmp_path / "hub.yaml").write_text(hub(model("a", default="true"), model("b")))
    reply: Future[Any] = Future()
    supervisor.actor.tell(say.Preview(load_settings(tmp_path / "hub.yaml"), reply))
    supervisor.actor.drain()
    assert [step.name for step in reply.result(timeout=0).start] == ["a"]
    assert supervisor.status() == ()


def test_no_plan_is_made_once_the_hub_shuts_down(play: Play) -> None:
    play.shutdown()
    assert isinstance(play.plan(hub(model("a"))).exception(timeout=0), HubStateError)


# The status.


def test_status_returns_while_the_loop_is_busy(tmp_path: Path) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def publish(hook: str, arguments: dict[str, Any]) -> None:
        busy.set()
        assert go_on.wait(20)

    (tmp_path / "hub.yaml").write_text(hub(model("a", default="true")))
    supervisor = Supervisor(Loop(publish, lambda error: None, process_factory=FakeProcesses()))
    reply: Future[Any] = Future()
    supervisor.start()
    try:
        supervisor.actor.tell(say.Apply(load_settings(tmp_path / "hub.yaml"), reply))
        assert busy.wait(20)
        assert [status.state for status in supervisor.status()] == [ModelState.STARTING]
        assert not reply.done()
    finally:
        go_on.set()
        reply.result(timeout=20)
        supervisor.actor.finish()


def test_the_status_of_a_model_says_where_it_listens_only_while_it_runs(tmp_path: Path) -> None:
    play = ready(tmp_path)
    status = play.status("a")
    assert (status.pid, status.host) == (1000, "127.0.0.1")
    assert status.port is not None
    assert status.ready_at is not None
    play.end("a", 3)
    status = play.status("a")
    assert (status.pid, status.host, status.port, status.exit_code) == (None, None, None, 3)
    play.wait(1)
    assert play.status("a").ready_at is None, "the new process has not answered yet"


# Any history at all.


@pytest.mark.parametrize("seed", range(100))
def test_whatever_happens_every_process_has_one_start_and_one_end(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    top = "groups: [{name: g, max_loaded: 2}]\n"
    names = ["a", "b", "c"]
    texts = [
        hub(*(model(n, default="true", command=chance.choice([PROGRAM, SERVER]), restart=chance.choice(["always", "on-failure"]),
                    **({"group": "g"} if chance.random() < 0.5 else {})) for n in chance.sample(names, chance.randint(1, 2))), top=top)
        for _ in range(3)
    ]  # fmt: skip
    play = Play(tmp_path, texts[0])
    replies: list[Future[Any]] = []
    for _ in range(40):
        name = chance.choice(names)
        match chance.randrange(8):
            case 0:
                replies.append(play.start(name))
            case 1:
                replies.append(play.stop(name))
            case 2:
                replies.append(play.restart(name))
            case 3 if play.processes.get(name):
                chance.choice(play.processes[name]).end(chance.choice([0, 1, -9]))
            case 4:
                play.wait(chance.choice([0.1, 1, 10, 100]))
            case 5:
                play.answer(ready=chance.random() < 0.7)
            case 6:
                replies.append(play.reload(chance.choice(texts)))
            case 7:
                play.broken = {chance.choice(names)} if chance.random() < 0.3 else set()
        play.settle()
    replies.append(play.shutdown())
    for _ in range(2):
        for processes in play.processes.values():
            for process in processes:
                process.end(-15)
                play.settle()
    assert all(reply.done() for reply in replies), "somebody was left without an answer"
    assert all(isinstance(reply.exception(), HubError | None) for reply in replies)
    _check_runs(play)
    assert all(status.state not in ALIVE for status in play.supervisor.status())


def _check_runs(play: Play) -> None:
    started: dict[str, str] = {}
    ended: list[str] = []
    for hook, args in play.events:
        run = args["event"].run_id
        if hook == "model_started":
            assert run not in started
            started[run] = args["ctx"].name
        elif hook in ("model_stopped", "model_failed") and args["exit_code"] is not None:
            assert run in started
            ended.append(run)
        elif hook == "model_ready":
            assert run in started
            assert run not in ended
    assert sorted(ended) == sorted(started)
    assert len(started) == sum(len(processes) for processes in play.processes.values())


def test_a_process_was_started_before_it_is_known_to_run(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    began, start = play.clock(), play.factory.start

    def slow(*args: Any) -> Any:
        play.clock.advance(3)
        return start(*args)

    monkeypatch.setattr(play.factory, "start", slow)
    play.start("b")
    assert play.status("b").started_at == began, "else what it wrote meanwhile would not be its own"


def test_every_state_can_be_left() -> None:
    assert set(MOVES) == set(ModelState)
    assert all(MOVES.values())


# A hub that comes after another.


def left_by(text: str, name: str = "a", *, pid: int = 77, **how: Any) -> Callable[[Play], list[Survivor]]:
    """What a former hub with this hub.yaml has left: a process that was started 100 seconds ago, unless told otherwise."""

    def survivors(play: Play) -> list[Survivor]:
        def attach(listener: Listener) -> FakeProcess:
            return play.factory.add(FakeProcess(pid, listener), name)

        settings = play.settings(text)
        entry = next(entry for entry in settings.models if entry.name == name)
        port = 28555 if "{port}" in str(entry.command) else None
        restarts, known = how.pop("restarts", 0), essence(settings, entry)
        record = Record(entry.group, settings.host, port, None, restarts, known, entry.stop_timeout)
        about = {"asked": None, "note": {}, "exit": None, "started_at": play.clock() - 100, "run_id": RUN, **how}
        return [
            Survivor(
                model=name, pid=pid, log=Path("a.log"), log_begin=0, record=record.written(), attach=attach, **about
            )
        ]

    return survivors


RUN = "0123456789abcdef0123456789abcdef"
ADOPTED = hub(model("a", command=SERVER, default="true"))


def terminal_id(play: Play) -> str:
    (event,) = [args["event"] for hook, args in play.events if hook in ("model_stopped", "model_failed")]
    assert event.run_id == RUN
    return str(event.id)


def test_a_model_that_was_ready_is_ready_again_as_soon_as_it_answers_and_nobody_is_told_twice(tmp_path: Path) -> None:
    ready_at = 900.0
    play = Play(tmp_path, ADOPTED, lambda play: left_by(ADOPTED, note={"ready_at": play.clock() - ready_at})(play))
    assert play.result.result().unchanged == ("a",)
    status = play.status("a")
    assert (status.state, status.pid, status.port) == (ModelState.STARTING, 77, 28555)
    assert status.started_at == play.clock() - 100
    assert play.asked(after=0.05).question is Question.ALIVE, "a completion could be in the way of others"
    play.answer(ready=True)
    assert play.status("a").state is ModelState.READY
    assert play.story("a") == ["adopted"]
    assert play.timers() == []


def test_a_model_that_was_still_starting_becomes_ready_and_that_is_told(tmp_path: Path) -> None:
    play = Play(tmp_path, ADOPTED, left_by(ADOPTED))
    assert play.asked(after=0.05).question is Question.READY
    play.answer(ready=True)
    assert play.story("a") == ["adopted", "ready"]
    (seconds,) = [args["startup_seconds"] for hook, args in play.events if hook == "model_ready"]
    assert seconds == pytest.approx(100.05, abs=0.01), "since it was started, and not since it was found"
    assert play.process("a").facts == {"ready_at": play.clock()}


def test_one_that_by_the_time_of_day_is_yet_to_be_started_was_started_just_now(tmp_path: Path) -> None:
    text = hub(model("a", command=SERVER, default="true", health="{startup_timeout: 10}"))
    play = Play(tmp_path, text, lambda play: left_by(text, started_at=play.clock() + 86400)(play))
    play.wait(10.1)
    assert play.story("a") == ["adopted", "unhealthy startup_timeout"]


def test_the_time_to_become_ready_began_with_the_process(tmp_path: Path) -> None:
    text = hub(model("a", command=SERVER, default="true", health="{startup_timeout: 110}"))
    play = Play(tmp_path, text, left_by(text))
    play.wait(9.9)
    assert play.story("a") == ["adopted"]
    play.wait(0.2)
    assert play.story("a") == ["adopted", "unhealthy startup_timeout"]


def test_a_model_that_became_ready_while_there_was_no_hub_is_not_called_late_before_it_could_say_so(
    tmp_path: Path,
) -> None:
    text = hub(model("a", command=SERVER, default="true", health="{startup_timeout: 20, timeout: 2}"))
    play = Play(tmp_path, text, left_by(text))
    play.wait(2)
    assert play.story("a") == ["adopted"]
    play.answer(ready=True)
    assert play.story("a") == ["adopted", "ready"]
    silent = Play(tmp_path, text, left_by(text))
    silent.wait(2.1)
    assert silent.story("a") == ["adopted", "unhealthy startup_timeout"]


def test_a_model_that_is_too_busy_to_answer_the_new_hub_is_given_the_time_that_it_has_for_that(tmp_path: Path) -> None:
    text = hub(model("a", command=SERVER, default="true", health="{failures: 1, interval: 10}"))
    play = Play(tmp_path, text, lambda play: left_by(text, note={"ready_at": play.clock() - 50})(play))
    for second in range(0, 590, 10):
        play.wait(10)
        play.answer(ready=False, silent=True, vitals=Vitals(1000.0 + second * 5, 0, 0, 16_000_000_000))
    assert play.story("a") == ["adopted"]
    play.wait(10)
    play.answer(ready=False, silent=True, vitals=Vitals(9999.0, 0, 0, 16_000_000_000))
    assert play.story("a") == ["adopted", "unhealthy unhealthy"]


def test_a_model_that_does_not_answer_the_new_hub_is_cured_like_any_other(tmp_path: Path) -> None:
    text = hub(model("a", command=SERVER, default="true", health="{failures: 1}"))
    play = Play(tmp_path, text, lambda play: left_by(text, note={"ready_at": play.clock() - 50})(play))
    play.miss(after=0.05, final=True)
    assert play.story("a") == ["adopted", "unhealthy unhealthy"]
    assert play.process("a").asked == "unhealthy"
    play.end("a", -15)
    assert play.story("a")[2:] == ["failed -15 unhealthy in 1.0", "restarting"]


def test_a_model_that_nobody_can_ask_goes_on_as_ready(tmp_path: Path) -> None:
    text = hub(model("a", default="true", health="off"))
    play = Play(tmp_path, text, lambda play: left_by(text, note={"ready_at": play.clock() - 50})(play))
    assert (play.status("a").state, play.story("a")) == (ModelState.READY, ["adopted"])


@pytest.mark.parametrize(("code", "reason"), [(0, "operator"), (-15, "reload"), (-9, "hub_shutdown")])
def test_who_was_asked_to_end_by_the_former_hub_stops_for_that_reason(tmp_path: Path, code: int, reason: str) -> None:
    text = hub(model("a"))
    play = Play(tmp_path, text, left_by(text, asked=reason))
    assert play.status("a").state is ModelState.STOPPING
    play.end("a", code)
    assert play.story("a") == ["adopted", f"stopped {code} {reason}"]
    assert play.status("a").state is ModelState.STOPPED
    assert play.result.exception(timeout=0) is None


def test_a_default_model_that_was_being_stopped_is_started_when_it_has_ended(tmp_path: Path) -> None:
    play = Play(tmp_path, ADOPTED, left_by(ADOPTED, asked="hub_shutdown"))
    assert not play.result.done()
    play.end("a", 0)
    assert play.story("a") == ["adopted", "stopped 0 hub_shutdown", "started hub_start"]
    assert play.result.result().started == ("a",)


def test_what_ended_meanwhile_is_told_with_its_own_time_and_started_again_by_its_policy(tmp_path: Path) -> None:
    text = hub(model("a"))

    def left(play: Play) -> list[Survivor]:
        return left_by(text, exit=Exit(-9, False, ("last",), 5, play.clock() - 40), restarts=2)(play)

    play = Play(tmp_path, text, left)
    assert play.story("a") == ["failed -9 signal in 1.0", "restarting"]
    (event,) = [args["event"] for hook, args in play.events if hook == "model_failed"]
    assert (event.time, event.uptime_seconds, event.log_tail) == (play.clock() - 40, pytest.approx(60), ("last",))
    status = play.status("a")
    assert (status.stopped_at, status.exit_code, status.log_lost_bytes) == (play.clock() - 40, -9, 5)
    play.wait(1)
    assert play.story("a")[2:] == ["started restart", "ready"]
    assert play.status("a").restarts == 3


def test_what_was_started_in_the_place_of_one_that_ended_has_no_end_of_its_own_yet(tmp_path: Path) -> None:
    def left(play: Play) -> list[Survivor]:
        ended = Exit(-9, False, (), 5, play.clock() - 40)
        former = left_by(ADOPTED, exit=ended, note={"ready_at": play.clock() - 90}, started_at=play.clock() - 95)(play)
        return former + left_by(ADOPTED, pid=78, run_id="f" * 32, started_at=play.clock() - 30)(play)

    play = Play(tmp_path, ADOPTED, left)
    assert play.story("a") == ["failed -9 signal in 1.0", "restarting", "adopted"]
    status = play.status("a")
    assert (status.pid, status.started_at) == (78, play.clock() - 30)
    assert (status.exit_code, status.stopped_at, status.ready_at, status.log_lost_bytes) == (-9, None, None, 0)


def test_a_stop_that_ended_meanwhile_is_told_with_its_own_time(tmp_path: Path) -> None:
    text = hub(model("a"))
    play = Play(tmp_path, text, lambda play: left_by(text, asked="operator", exit=Exit(0, at=play.clock() - 40))(play))
    assert play.story("a") == ["stopped 0 operator"]
    assert play.events[-1][1]["event"].time == play.clock() - 40


def test_a_default_model_that_failed_meanwhile_waits_for_its_restart_as_it_would_have(tmp_path: Path) -> None:
    play = Play(tmp_path, ADOPTED, left_by(ADOPTED, exit=Exit(3)))
    assert play.story("a") == ["failed 3 crash in 1.0", "restarting"]
    assert play.result.result().unchanged == ("a",)


def test_a_model_that_was_ready_once_has_no_time_to_become_ready(tmp_path: Path) -> None:
    text = hub(model("a", command=SERVER, default="true", health="{startup_timeout: 5}"))
    play = Play(tmp_path, text, lambda play: left_by(text, note={"ready_at": play.clock() - 50})(play))
    play.wait(20)
    assert play.story("a") == ["adopted"]


def test_a_plan_before_the_first_reload_knows_what_a_former_hub_has_left(tmp_path: Path) -> None:
    play = Play(tmp_path, ADOPTED, left_by(ADOPTED), reload=False)
    plan = play.plan(ADOPTED).result(timeout=0)
    assert [step.name for step in plan.unchanged] == ["a"]
    changed = hub(model("a", command=SERVER, default="true", env="{A: b}"))
    plan = play.plan(changed).result(timeout=0)
    assert [step.name for step in plan.restart] == ["a"]
    assert [step.name for step in play.plan(hub(model("b"))).result(timeout=0).stop] == ["a"]
    assert play.events == []
    play.reload(ADOPTED)
    assert play.story("a") == ["adopted"]


def test_the_same_end_told_by_two_hubs_is_the_same_event(tmp_path: Path) -> None:
    text = hub(model("a", restart="never"))
    first = Play(tmp_path, text, left_by(text))
    first.end("a", 3)
    second = Play(tmp_path, text, left_by(text, exit=Exit(3)))
    assert terminal_id(first) == terminal_id(second)


def test_a_default_model_that_ended_meanwhile_and_is_not_restarted_starts_with_the_hub(tmp_path: Path) -> None:
    text = hub(model("a", restart="never", default="true"))
    play = Play(tmp_path, text, left_by(text, exit=Exit(3)))
    assert play.story("a") == ["failed 3 crash", "started hub_start", "ready"]


def test_a_model_whose_entry_has_changed_is_restarted_and_keeps_its_port(tmp_path: Path) -> None:
    old = hub(model("a", command=SERVER, default="true"))
    new = hub(model("a", command=SERVER, default="true", env="{A: b}"))
    play = Play(tmp_path, new, left_by(old))
    assert play.process("a").asked == "reload"
    play.end("a", 0)
    assert play.story("a") == ["adopted", "stopped 0 reload", "started hub_start"]
    assert play.status("a").port == 28555


def test_what_only_the_hub_heeds_may_change_without_a_restart(tmp_path: Path) -> None:
    old = hub(model("a", command=SERVER, default="true"))
    new = hub(model("a", command=SERVER, restart="always", stop_timeout="3"))
    play = Play(tmp_path, new, left_by(old))
    assert play.result.result().unchanged == ("a",)
    play.stop("a")
    assert play.process("a").graces == [3.0]


def test_a_model_that_hub_yaml_no_longer_has_is_stopped_and_forgotten(tmp_path: Path) -> None:
    old = hub(model("a", command=SERVER, group="g"))
    play = Play(tmp_path, hub(model("b")), left_by(old))
    assert play.process("a").asked == "reload"
    play.end("a", 0)
    assert play.story("a") == ["adopted", "stopped 0 reload"]
    assert [status.name for status in play.supervisor.status()] == ["b"]
    assert {args["ctx"].group for _, args in play.events if "ctx" in args} == {"g"}


def test_a_model_that_hub_yaml_no_longer_has_gets_the_patience_that_it_had(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("b")), left_by(hub(model("a", stop_timeout="77"))))
    assert play.process("a").graces == [77.0]


def test_of_two_processes_of_one_model_the_one_that_has_ended_is_told_first(tmp_path: Path) -> None:
    """A former hub had just started the second when it was killed."""
    other = "f" * 32

    def left(play: Play) -> list[Survivor]:
        began = play.clock() - 10
        return [
            *left_by(ADOPTED, run_id=other, started_at=began, pid=78)(play),
            *left_by(ADOPTED, exit=Exit(1, at=play.clock() - 11))(play),
        ]

    play = Play(tmp_path, ADOPTED, left)
    assert play.story("a")[:2] == ["failed 1 crash in 1.0", "restarting"]
    assert play.story("a")[2:] == ["adopted"]
    assert play.status("a").pid == 78
    assert play.timers() == [], "the restart that was due is not needed any more"


@pytest.mark.parametrize("began", [-10, -200], ids=["after it", "before it, for the clock was set back"])
def test_of_two_processes_of_one_model_the_one_that_lives_is_the_model(tmp_path: Path, began: int) -> None:
    def left(play: Play) -> list[Survivor]:
        return [
            *left_by(ADOPTED, run_id="f" * 32, started_at=play.clock() + began, pid=78)(play),
            *left_by(ADOPTED, exit=Exit(1))(play),
        ]

    play = Play(tmp_path, ADOPTED, left)
    assert play.story("a") == ["failed 1 crash in 1.0", "restarting", "adopted"]
    assert play.status("a").pid == 78


def test_of_two_living_processes_of_one_model_the_older_one_is_ended_at_once(tmp_path: Path) -> None:
    other = "f" * 32

    def left(play: Play) -> list[Survivor]:
        return [*left_by(ADOPTED, run_id=other, started_at=1.0, pid=76)(play), *left_by(ADOPTED)(play)]

    play = Play(tmp_path, ADOPTED, left)
    assert (play.status("a").pid, play.story("a")) == (77, ["adopted"])
    spare, kept = play.processes["a"]
    assert (spare.pid, spare.graces, kept.graces) == (76, [0.0], [])
    spare.end(-9)
    play.settle()
    play.wait(1.1)
    assert play.factory.forgotten == [other]
    assert play.status("a").pid == 77


def test_a_hub_that_leaves_its_models_tells_no_end_and_starts_nothing_more(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true"), model("b", default="true", restart="always")))
    play.end("b", 3)
    assert play.shutdown(keep_models=True).done()
    assert play.process("a").released
    assert play.process("a").graces == []
    play.wait(60)
    assert play.story("a") == ["started hub_start", "ready"]
    assert play.story("b")[2:] == ["failed 3 crash in 1.0", "restarting"]
    assert isinstance(play.start("b").exception(), HubStateError)


def test_who_waits_for_a_start_is_told_when_the_models_are_left(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true")))
    waiting = play.restart("a")
    assert not waiting.done()
    play.shutdown(keep_models=True)
    assert isinstance(waiting.exception(timeout=0), HubStateError)


def test_who_waits_for_an_end_is_told_when_the_models_are_left(play: Play) -> None:
    waiting = [play.stop("a"), play.reload(hub(model("b"))), play.shutdown()]
    assert not any(reply.done() for reply in waiting)
    play.shutdown(keep_models=True)
    assert isinstance(waiting[0].exception(timeout=0), HubStateError)
    assert [reply.exception(timeout=0) for reply in waiting[1:]] == [None, None]


@pytest.mark.parametrize("command", ["start", "stop", "restart"])
def test_a_hub_that_has_left_its_models_commands_them_no_more(play: Play, command: str) -> None:
    play.shutdown(keep_models=True)
    assert isinstance(getattr(play, command)("a").exception(timeout=0), HubStateError)
    assert play.shutdown().done(), "there is nothing to wait for"
    assert play.process("a").graces == []


def test_a_hub_that_has_left_its_models_hears_nothing_of_their_health(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", command=SERVER, default="true")))
    play.wait(0.1)
    play.shutdown(keep_models=True)
    play.answer(ready=False, final=True)
    play.process("a").listener.log_failing("too late")
    play.wait(1000)
    assert play.story("a") == ["started hub_start"]


@pytest.mark.parametrize(("code", "end"), [(3, "failed 3 crash"), (0, "stopped 0 exit")])
def test_an_end_that_was_on_its_way_when_the_models_were_left_is_told_and_nothing_started(
    tmp_path: Path, code: int, end: str
) -> None:
    play = Play(tmp_path, hub(model("a", default="true", restart="{policy: always, delay: 0}")))
    play.shutdown(keep_models=True)
    play.end("a", code)
    play.wait(10)
    assert play.story("a")[2:] == [end]
    assert len(play.processes["a"]) == 1


def test_who_waits_for_a_place_when_the_models_are_left_gets_none_that_becomes_free(tmp_path: Path) -> None:
    play = Play(tmp_path, GROUPED)
    play.end("a", 3)
    play.start("b")
    play.wait(1.0)
    play.shutdown(keep_models=True)
    play.end("b", -15)
    assert len(play.processes["a"]) == 1


# What keepers tell.


def test_a_model_whose_keeper_was_lost_has_failed_and_is_started_again(play: Play) -> None:
    play.end("a", None)
    assert play.story("a")[2:] == ["failed None unsupervised in 1.0", "restarting"]
    (event,) = [args["event"] for hook, args in play.events if hook == "model_failed"]
    assert event.uptime_seconds is not None
    assert event.detail == "its keeper was killed, so that nobody saw how it ended"


def test_a_model_that_loses_its_keeper_while_it_stops_has_stopped(play: Play) -> None:
    play.stop("a")
    play.end("a", None)
    assert play.story("a")[2:] == ["stopped None operator"]


def test_the_end_of_a_process_is_forgotten_when_all_have_heard_of_it(play: Play) -> None:
    order = play.process("a").order
    assert order is not None
    play.end("a", 3)
    play.wait(0.99)
    assert play.factory.forgotten == []
    play.wait(0.02)
    assert play.factory.forgotten == [order.run_id]


def test_lost_output_is_told_and_counted(play: Play) -> None:
    listener = play.process("a").listener
    listener.log_failing("cannot be written: No space left on device")
    play.settle()
    listener.log_recovered(1234)
    play.settle()
    assert play.story("a")[2:] == ["log_failing", "log_recovered"]
    assert play.events[-2][1]["reason"] == "cannot be written: No space left on device"
    assert play.events[-1][1]["lost_bytes"] == play.status("a").log_lost_bytes == 1234
    play.end("a", 3, lost_bytes=2000)
    assert play.status("a").log_lost_bytes == 2000
    listener.log_failing("too late")
    play.settle()
    assert play.story("a")[-1] == "restarting"
    play.wait(1)
    assert play.status("a").log_lost_bytes == 0


def test_a_rotation_that_takes_too_long_is_answered_all_the_same(play: Play) -> None:
    replies = [play.tell(lambda reply: say.RotateLog("a", reply)) for _ in range(2)]
    slow = play.process("a").rotations
    slow[0](None)
    play.wait(9.9)
    assert [reply.done() for reply in replies] == [True, False]
    play.wait(0.2)
    with pytest.raises(HubError, match=r"a: its log cannot be rotated: its keeper has not done it within 10 s; look"):
        replies[1].result(timeout=0)
    slow[1](None)


def test_a_log_is_rotated_by_its_keeper_or_if_nobody_writes_it_at_once(play: Play, tmp_path: Path) -> None:
    reply = play.tell(lambda reply: say.RotateLog("a", reply))
    assert not reply.done()
    play.process("a").rotations.pop()(None)
    assert reply.result(timeout=0) is None
    reply = play.tell(lambda reply: say.RotateLog("a", reply))
    play.process("a").rotations.pop()("Read-only file system")
    with pytest.raises(HubError, match=r"a: its log cannot be rotated: Read-only file system; look at .*a\.log"):
        reply.result(timeout=0)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "b.log").write_text("old\n")
    assert play.tell(lambda reply: say.RotateLog("b", reply)).result(timeout=0) is None
    assert (tmp_path / "logs" / "b.log.1").read_text() == "old\n"
    with pytest.raises(UnknownModelError):
        play.tell(lambda reply: say.RotateLog("c", reply)).result(timeout=0)


def test_other_rules_of_rotation_hold_at_once_and_restart_nothing(tmp_path: Path) -> None:
    def text(rotation: str) -> str:
        return hub(model("a", default="true"), top=f"log_rotation: {rotation}\n")

    play = Play(tmp_path, text("{backups: 7}"))
    order = play.process("a").order
    assert order is not None
    assert order.rotation is not None
    assert order.rotation.backups == 7
    play.reload(text("{backups: 8}"))
    play.reload(text("{backups: 8}"))
    play.reload(text("off"))
    assert [rules and rules.backups for rules in play.process("a").rules] == [8, None]
    assert play.story("a") == ["started hub_start", "ready"]


# What the table and the other tests left open.


@pytest.mark.parametrize("before", ModelState)
def test_a_move_that_the_table_does_not_have_is_refused_and_changes_nothing(play: Play, before: ModelState) -> None:
    lifecycle = play.supervisor.loop._models["b"]
    for after in set(ModelState) - MOVES[before]:
        lifecycle._state = before
        with pytest.raises(IllegalMoveError, match=f"b: {before} -> {after}"):
            lifecycle._move(after, "for a test")
        assert lifecycle.state is before


def test_a_restart_is_told_with_its_number_and_giving_up_with_the_failures(play: Play) -> None:
    for _ in range(5):
        play.end("a", 1)
        play.wait(60)
    assert [args["attempt"] for hook, args in play.events if hook == "model_restarting"] == [1, 2, 3, 4]
    assert [args["failures"] for hook, args in play.events if hook == "model_gave_up"] == [5]


def test_an_end_that_was_asked_for_explains_itself_as_well_as_a_crash(play: Play) -> None:
    play.wait(12.5)
    play.stop("a")
    play.end("a", -15)
    event = play.events[-1][1]["event"]
    assert (event.signal, event.uptime_seconds, event.log_tail) == ("SIGTERM", 12.5, ("its last words",))


def test_what_others_took_meanwhile_is_not_expected_back(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(*(model(name, command=SERVER, default="true") for name in "ab")))
    play.wait(1.0)
    first, second = play.probes
    play.probes.clear()
    first.answer(ProbeResult(True, vitals=_seen(8 * GB, available=16 * GB)))
    # Since then the other one has taken all of that, as was seen at the last look at it.
    second.answer(ProbeResult(True, vitals=_seen(16 * GB, available=0)))
    play.settle()
    play.machine.available = 7_500_000_000
    play.end("a", 3)
    play.wait(1.0)
    assert play.story("a")[-1] == "started restart", "as much of its memory is back as should be"


def _seen(memory: int, *, available: int) -> Vitals:
    return Vitals(0.0, memory, 0, available)
