"""Message histories played into the supervisor: fake clock, fake processes, no waiting."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from mlxhub_core.errors import GroupFullError, HubError, HubStateError, LaunchError, UnknownModelError
from mlxhub_core.launch import Launch
from mlxhub_core.probes import ProbeResult, Question, Target
from mlxhub_core.process import Exit
from mlxhub_core.settings import HealthSettings, load_settings
from mlxhub_core.states import ALIVE, MOVES, ModelState, ModelStatus
from mlxhub_core.supervisor import Supervisor
from mlxhub_core.supervisor import messages as say
from mlxhub_core.testing import FakeClock

PROGRAM = f'["{sys.executable}"]'
SERVER = f'["{sys.executable}", "{{port}}"]'


class FakeProcess:
    """A process that ends when the test says so."""

    def __init__(self, pid: int, on_exit: Callable[[Exit], None]) -> None:
        self.pid = pid
        self.graces: list[float] = []
        self.killed = False
        self._on_exit = on_exit

    def stop(self, grace: float) -> None:
        self.graces.append(grace)

    def kill(self) -> None:
        self.killed = True

    def end(self, code: int, *, forced: bool = False, tail: tuple[str, ...] = ("its last words",)) -> None:
        self._on_exit(Exit(code, forced, tail))


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
        self.kills: int | None = 0

    def available_memory(self) -> int:
        return self.available

    def total_memory(self) -> int:
        return 32_000_000_000

    def oom_kills(self) -> int | None:
        return self.kills


class Play:
    """A supervisor on a stage: what is around it is fake, and every event is written down."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path / "hub.yaml"
        self.clock = FakeClock()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.processes: dict[str, list[FakeProcess]] = {}
        self.probes: list[Asked] = []
        self.machine = FakeMachine()
        self.bugs: list[BaseException] = []
        self.broken: set[str] = set()
        self.on_event: Callable[[str], object] = lambda hook: None
        self.supervisor = Supervisor(
            self._publish,
            self.bugs.append,
            process_factory=self._spawn,
            probe_factory=lambda target: FakeProbe(target, self.probes),
            machine=self.machine,
            clock=self.clock,
            wall=self.clock,
            jitter=lambda: 0.0,
        )
        self.result = self.reload(text)

    def _publish(self, hook: str, arguments: dict[str, Any]) -> None:
        self.events.append((hook, arguments))
        self.on_event(hook)

    def _spawn(self, launch: Launch, log: Path, on_exit: Callable[[Exit], None]) -> FakeProcess:
        if log.stem in self.broken:
            raise PermissionError(13, "Permission denied")
        process = FakeProcess(1000 + sum(map(len, self.processes.values())), on_exit)
        self.processes.setdefault(log.stem, []).append(process)
        return process

    def reload(self, text: str) -> Future[Any]:
        self.path.write_text(text)
        return self.tell(lambda reply: say.Apply(load_settings(self.path), reply))

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

    def shutdown(self) -> Future[Any]:
        return self.tell(say.Shutdown)

    def end(self, name: str, code: int, **how: Any) -> None:
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

    def settle(self) -> None:
        self.supervisor.actor.drain()
        assert not self.bugs, self.bugs

    def process(self, name: str) -> FakeProcess:
        return self.processes[name][-1]

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
    return f"{word} {event.reason}" if hook == "model_started" else word


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


def test_nobody_asks_again_once_a_model_has_answered(tmp_path: Path) -> None:
    play = Play(tmp_path, hub(model("a", default="true", command=SERVER)))
    play.wait(1.0)
    play.answer(ready=True)
    play.wait(1000.0)
    assert play.probes == []


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
    supervisor = Supervisor(lambda hook, arguments: None, lambda error: None)
    reply: Future[None] = Future()
    supervisor.actor.tell(say.Start("a", reply))
    supervisor.actor.drain()
    with pytest.raises(HubStateError, match=r"call reload\(\) first"):
        reply.result()


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
    assert play.story("b") == []


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
    assert play.status("a").reason == "waits for a place in its group, or for its port"
    play.stop("b")
    play.end("b", -15)
    play.wait(1.0)
    assert play.status("a").state is ModelState.READY


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


# Any history at all.


@pytest.mark.parametrize("seed", range(150))
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


def test_every_state_can_be_left() -> None:
    assert set(MOVES) == set(ModelState)
    assert all(MOVES.values())
