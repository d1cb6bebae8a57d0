"""Who may start: a place, a port and memory. Fake clock, fake machine, and models that are what the test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from mlxhub_core.actor import Timer
from mlxhub_core.errors import GroupFullError, HubError, LaunchError, MemoryShortError
from mlxhub_core.events import Reason
from mlxhub_core.probes import ProbeResult, Question
from mlxhub_core.process import Exit
from mlxhub_core.settings import HealthSettings, HubSettings, ModelSettings, load_settings
from mlxhub_core.states import ALIVE, ModelState
from mlxhub_core.supervisor.admission import (
    RETURN_PATIENCE,
    STALE,
    WORTH_WAITING,
    Admission,
    MemoryReturn,
)
from mlxhub_core.supervisor.endings import Shortage
from mlxhub_core.supervisor.lifecycle import Lifecycle
from mlxhub_core.supervisor.messages import Message, Reply
from mlxhub_core.supervisor.run import Run
from mlxhub_core.supervisor.world import Started
from mlxhub_core.testing import FakeClock
from mlxhub_core.vitals import Vitals

GB = 1_000_000_000
_S = ModelState


@dataclass
class FakeMachine:
    """A machine of 32 GB with as much memory left as the test says."""

    available: int = 16 * GB
    used: int = 0

    def available_memory(self) -> int:
        return self.available

    def memory_of(self, pid: int) -> int:
        return self.used

    def total_memory(self) -> int:
        return 32 * GB

    def oom_kills(self) -> int | None:
        return 0


def vitals(memory: int, available: int) -> Vitals:
    return Vitals(cpu_seconds=1.0, memory_bytes=memory, log_bytes=1, available_bytes=available)


# Memory that comes back.


@dataclass
class Return:
    """Memory that comes back, on a clock and a machine of the test's own. 10 GB are left while the processes run."""

    machine: FakeMachine = field(default_factory=lambda: FakeMachine(10 * GB))
    clock: FakeClock = field(default_factory=FakeClock)
    memory: MemoryReturn = field(init=False)

    def __post_init__(self) -> None:
        self.memory = MemoryReturn(self.machine, self.clock)

    def ended(self, used: int, left: int = 10 * GB) -> None:
        self.memory.ended(vitals(used, left))


def test_when_nothing_has_ended_nothing_is_awaited() -> None:
    at = Return()
    assert (at.memory.is_awaited(), at.memory.missing(), at.memory.write_off()) == (False, 0, None)


def test_half_of_the_memory_of_a_process_must_be_back() -> None:
    at = Return()
    at.ended(8 * GB)
    assert at.memory.missing() == 4 * GB
    at.machine.available += 4 * GB - 1
    assert at.memory.is_awaited()
    assert at.memory.missing() == 1
    at.machine.available += 1
    assert not at.memory.is_awaited()
    assert at.memory.missing() == 0


def test_what_others_have_taken_since_the_last_look_at_it_is_not_expected_back() -> None:
    at = Return()
    at.memory.see(vitals(GB, 2 * GB))
    at.machine.available = 6 * GB
    at.ended(8 * GB)
    assert not at.memory.is_awaited(), "2 were left by another, 4 of its 8 are back"
    at.machine.available = 6 * GB - 1
    at.ended(8 * GB)
    assert at.memory.is_awaited()


def test_a_look_that_failed_says_nothing_of_the_memory() -> None:
    at = Return()
    at.memory.see(vitals(GB, 2 * GB))
    at.memory.see(None)
    at.machine.available = 6 * GB
    at.ended(8 * GB)
    assert not at.memory.is_awaited()


def test_memory_that_is_back_at_once_is_not_waited_for() -> None:
    at = Return()
    at.machine.available = 18 * GB
    at.ended(8 * GB)
    assert not at.memory.is_awaited()


def test_memory_that_was_back_is_no_longer_missing_when_others_use_it() -> None:
    at = Return()
    at.ended(8 * GB)
    at.machine.available = 18 * GB
    assert not at.memory.is_awaited()
    at.machine.available = 2 * GB
    assert not at.memory.is_awaited()
    assert at.memory.write_off() is None


def test_patience_has_an_end() -> None:
    at = Return()
    at.ended(8 * GB)
    at.clock.advance(RETURN_PATIENCE - 0.01)
    assert at.memory.is_awaited()
    at.clock.advance(0.01)
    assert not at.memory.is_awaited()
    assert at.memory.missing() == 4 * GB, "and is still missing"


@pytest.mark.parametrize(
    ("seen", "awaited"),
    [(None, False), (vitals(WORTH_WAITING - 1, 10 * GB), False), (vitals(WORTH_WAITING, 10 * GB), True)],
    ids=["never looked at", "small", "just big enough"],
)
def test_the_memory_of_small_processes_is_not_waited_for(seen: Vitals | None, awaited: bool) -> None:
    at = Return()
    at.memory.ended(seen)
    assert at.memory.is_awaited() is awaited


def test_a_small_process_does_not_make_us_wait_longer_or_less_for_a_big_one() -> None:
    at = Return()
    at.ended(8 * GB)
    at.clock.advance(20)
    at.ended(1000)
    assert at.memory.missing() == 4 * GB
    at.clock.advance(10)
    assert not at.memory.is_awaited()


def test_the_memory_of_two_processes_that_end_together_is_awaited_together() -> None:
    at = Return()
    at.ended(8 * GB)
    at.ended(6 * GB)
    assert at.memory.missing() == 7 * GB
    at.clock.advance(20)
    at.ended(2 * GB)
    assert at.memory.missing() == 8 * GB
    at.clock.advance(20)
    assert at.memory.is_awaited(), "with new patience for all of it"


def test_the_second_is_not_added_to_a_first_that_is_back() -> None:
    at = Return()
    at.ended(8 * GB)
    at.machine.available = 18 * GB
    at.ended(4 * GB, left=18 * GB)
    assert at.memory.missing() == 2 * GB


def test_the_second_is_not_added_to_a_first_whose_time_is_over() -> None:
    at = Return()
    at.ended(20 * GB)
    at.clock.advance(RETURN_PATIENCE)
    at.machine.available = 8 * GB
    at.ended(4 * GB, left=8 * GB)
    assert at.memory.missing() == 2 * GB


def test_no_more_is_awaited_than_there_is() -> None:
    # Memory that processes share is counted for each of them where the system does not tell it apart.
    at = Return()
    at.ended(100 * GB)
    assert at.memory.missing() == 22 * GB


def test_what_did_not_come_back_is_said_once() -> None:
    at = Return()
    at.ended(8 * GB)
    assert at.memory.is_awaited()
    at.clock.advance(RETURN_PATIENCE)
    assert at.memory.write_off() == "4.0 GB of memory did not come back from a process that has ended"
    assert at.memory.write_off() is None
    assert at.memory.missing() == 0


def test_what_came_back_is_not_said_to_be_missing() -> None:
    at = Return()
    at.ended(8 * GB)
    assert at.memory.is_awaited()
    at.machine.available = 14 * GB
    assert at.memory.write_off() is None


def test_what_nobody_waited_for_is_not_said_to_be_missing() -> None:
    # It may have come back long ago, and others have it now.
    at = Return()
    at.ended(8 * GB)
    at.clock.advance(3600)
    assert at.memory.write_off() is None


def test_nor_is_what_somebody_waited_for_long_ago() -> None:
    at = Return()
    at.ended(8 * GB)
    assert at.memory.is_awaited()
    at.clock.advance(STALE + 0.01)
    assert at.memory.write_off() is None


# Who may start.


@dataclass
class Stand:
    """A model as far as admission looks at it."""

    settings: ModelSettings
    state: ModelState = _S.STOPPED
    port: int | None = None
    memory_promised_to: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return self.settings.name


class Scene:
    """Models of a hub.yaml, which are in whatever state the test says."""

    def __init__(self, directory: Path, *models: str, top: str = "", command: str = "[sh, '{port}']") -> None:
        self.directory = directory
        self.command = command
        self.clock = FakeClock()
        self.machine = FakeMachine()
        self.admission = Admission(self.machine, self.clock)
        self.settings = self.read(*models, top=top)
        self.admission.adopt(self.admission.book_for(self.settings))
        self.admission.limit(self.settings)
        self.models = {model.name: Stand(model) for model in self.settings.models}

    def read(self, *models: str, top: str = "") -> HubSettings:
        path = self.directory / "hub.yaml"
        entries = "".join(f"  - {{command: {self.command}, {model}}}\n" for model in models)
        path.write_text(f"{top}\nmodels:\n{entries}")
        return load_settings(path)

    def obstacle(self, name: str, *queued: str) -> str | None:
        models = cast("list[Lifecycle]", list(self.models.values()))
        return self.admission.obstacle(cast("Lifecycle", self.models[name]), models, queued)


GROUPS = "groups: [{name: g, max_loaded: 1}, {name: two, max_loaded: 2}, {name: free}]"


def test_a_model_that_needs_nothing_may_start(tmp_path: Path) -> None:
    assert Scene(tmp_path, "name: a").obstacle("a") is None


# The name of one that wants in, what its mates are doing, and who is queued; then what it hears.
PLACES: dict[str, tuple[str, dict[str, ModelState], list[str], str | None]] = {
    "empty": ("g", {}, [], None),
    "all at rest": ("g", {"m1": _S.STOPPED, "m2": _S.BACKOFF, "m3": _S.FAILED}, [], None),
    "one starts": ("g", {"m1": _S.STARTING}, [], "full: m1"),
    "one is ready": ("g", {"m1": _S.READY}, [], "full: m1"),
    "one is unhealthy": ("g", {"m1": _S.UNHEALTHY}, [], "full: m1"),
    "one stops": ("g", {"m1": _S.STOPPING}, [], "wait"),
    "one stops and starts again": ("g", {"m1": _S.STOPPING}, ["m1"], "full: m1"),
    "it is itself queued": ("g", {"m1": _S.STOPPING}, ["new"], "wait"),
    "another is queued that has no process": ("g", {"m1": _S.STOPPING, "m2": _S.STOPPED}, ["m2"], "wait"),
    "one stops and one stays": ("g", {"m1": _S.STOPPING, "m2": _S.READY}, [], "full: m2"),
    "two places, one taken": ("two", {"m1": _S.READY}, [], None),
    "two places, both taken": ("two", {"m1": _S.READY, "m2": _S.UNHEALTHY}, [], "full: m1, m2"),
    "two places, one stops": ("two", {"m1": _S.STOPPING, "m2": _S.READY}, [], "wait"),
    "two places, more than both": ("two", {"m1": _S.READY, "m2": _S.READY, "m3": _S.STOPPING}, [], "full: m1, m2"),
    "two places, both stop": ("two", {"m1": _S.STOPPING, "m2": _S.STOPPING}, [], "wait"),
    "a group without a limit": ("free", {"m1": _S.READY, "m2": _S.READY, "m3": _S.READY}, [], None),
}


@pytest.mark.parametrize(("group", "states", "queued", "heard"), PLACES.values(), ids=PLACES)
def test_a_place_in_the_group(
    tmp_path: Path, group: str, states: dict[str, ModelState], queued: list[str], heard: str | None
) -> None:
    names = ("new", "m1", "m2", "m3")
    scene = Scene(tmp_path, *(f"name: {name}, group: {group}" for name in names), top=GROUPS)
    for name, state in states.items():
        scene.models[name].state = state
    if heard is None or heard == "wait":
        assert scene.obstacle("new", *queued) == (heard and f"waits for a place in group '{group}'")
        return
    with pytest.raises(GroupFullError, match="stop one of them first") as caught:
        scene.obstacle("new", *queued)
    assert (caught.value.name, caught.value.group) == ("new", group)
    assert ", ".join(caught.value.running) == heard.removeprefix("full: ")


def test_only_the_groups_own_models_take_its_places(tmp_path: Path) -> None:
    models = ("name: new, group: g", "name: other, group: two", "name: loner")
    scene = Scene(tmp_path, *models, top=GROUPS)
    scene.models["other"].state = scene.models["loner"].state = _S.READY
    assert scene.obstacle("new") is None


def test_models_without_a_group_are_no_group(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "name: new", "name: loner", top=GROUPS)
    scene.models["loner"].state = _S.READY
    assert scene.obstacle("new") is None


def test_a_group_that_hub_yaml_does_not_list_is_a_mere_label(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "name: new, group: label", "name: mate, group: label")
    scene.models["mate"].state = _S.READY
    assert scene.obstacle("new") is None


def test_the_places_are_those_of_the_last_reload(tmp_path: Path) -> None:
    models = ("name: new, group: g", "name: mate, group: g")
    scene = Scene(tmp_path, *models, top=GROUPS)
    scene.models["mate"].state = _S.READY
    scene.admission.limit(scene.read(*models, top="groups: [{name: g, max_loaded: 2}]"))
    assert scene.obstacle("new") is None
    scene.admission.limit(scene.read(*models, top=GROUPS))
    with pytest.raises(GroupFullError, match="max_loaded: 1"):
        scene.obstacle("new")
    scene.admission.limit(scene.read(*models))
    assert scene.obstacle("new") is None


# Ports.


@pytest.mark.parametrize("state", sorted(ALIVE), ids=str)
def test_a_port_that_another_model_still_has(tmp_path: Path, state: ModelState) -> None:
    # As when a reload exchanges the ports of two models.
    scene = Scene(tmp_path, "name: new, port: 27911", "name: old")
    scene.models["old"].state, scene.models["old"].port = state, 27911
    if state is _S.STOPPING:
        assert scene.obstacle("new") == "waits for port 27911"
        assert scene.obstacle("new", "old") == "waits for port 27911", "it starts again on another port"
        return
    with pytest.raises(LaunchError, match="port 27911 is in use by old; stop or restart that one first") as caught:
        scene.obstacle("new")
    assert caught.value.name == "new"


def test_its_own_old_port_is_no_obstacle(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "name: new, port: 27911")
    scene.models["new"].port = 27911
    assert scene.obstacle("new") is None


def test_models_without_ports_are_not_in_each_others_way(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "name: old", "name: new", command="[sh]")
    scene.models["old"].state = _S.READY
    assert scene.obstacle("new") is None


# Memory.


def in_need(directory: Path, *others: str) -> Scene:
    return Scene(directory, "name: new, memory: {required: 8GB}", *others)


def test_as_much_memory_as_is_required_is_enough(tmp_path: Path) -> None:
    scene = in_need(tmp_path)
    scene.machine.available = 8 * GB
    assert scene.obstacle("new") is None


def test_less_is_not_and_both_are_said(tmp_path: Path) -> None:
    scene = in_need(tmp_path)
    scene.machine.available = 8 * GB - 100_000_000
    with pytest.raises(MemoryShortError, match=r"needs 8\.0 GB of memory .*only 7\.9 GB are available") as caught:
        scene.obstacle("new")
    assert (caught.value.name, caught.value.required) == ("new", 8 * GB)
    assert caught.value.available == scene.machine.available


def test_a_model_that_requires_none_is_not_asked(tmp_path: Path) -> None:
    scene = in_need(tmp_path, "name: other")
    scene.machine.available = 0
    assert scene.obstacle("other") is None


def test_memory_that_is_promised_to_others_is_not_available(tmp_path: Path) -> None:
    scene = in_need(tmp_path, "name: one", "name: two")
    scene.models["one"].memory_promised_to = (1, 7 * GB)
    scene.models["two"].memory_promised_to = (2, 7 * GB)
    scene.machine.used = 3 * GB
    assert scene.obstacle("new") is None, "16 GB less twice 4"
    scene.models["two"].memory_promised_to = (2, 7 * GB + 1)
    with pytest.raises(MemoryShortError) as caught:
        scene.obstacle("new")
    assert caught.value.available == 8 * GB - 1


def test_no_less_than_nothing_is_available(tmp_path: Path) -> None:
    scene = in_need(tmp_path, "name: one")
    scene.models["one"].memory_promised_to = (1, 20 * GB)
    with pytest.raises(MemoryShortError, match=r"only 0\.0 GB are available"):
        scene.obstacle("new")


@pytest.mark.parametrize("state", sorted(_S), ids=str)
def test_the_memory_of_a_model_that_is_stopping_is_waited_for_and_of_no_other(
    tmp_path: Path, state: ModelState
) -> None:
    # As when a reload puts one big model in the place of another.
    scene = in_need(tmp_path, "name: old")
    scene.machine.available = 2 * GB
    scene.models["old"].state = state
    if state is _S.STOPPING:
        assert scene.obstacle("new") == "waits for the memory of old"
    else:
        with pytest.raises(MemoryShortError):
            scene.obstacle("new")


def test_all_that_are_stopping_are_named(tmp_path: Path) -> None:
    scene = in_need(tmp_path, "name: old", "name: older")
    scene.machine.available = 0
    scene.models["old"].state = scene.models["older"].state = _S.STOPPING
    assert scene.obstacle("new") == "waits for the memory of old, older"


def test_who_has_memory_enough_waits_for_nobody(tmp_path: Path) -> None:
    scene = in_need(tmp_path, "name: old")
    scene.models["old"].state = _S.STOPPING
    assert scene.obstacle("new") is None


def test_the_memory_of_a_process_that_has_just_ended_is_waited_for_before_any_is_missed(tmp_path: Path) -> None:
    scene = in_need(tmp_path, "name: other")
    scene.machine.available = 2 * GB
    scene.admission.memory.ended(vitals(10 * GB, 2 * GB))
    waits = "waits for the memory of a process that has ended"
    assert (scene.obstacle("new"), scene.obstacle("other")) == (waits, waits)
    scene.machine.available = 12 * GB
    assert (scene.obstacle("new"), scene.obstacle("other")) == (None, None)


def test_when_patience_is_over_what_is_missing_is_missed(tmp_path: Path) -> None:
    scene = in_need(tmp_path, "name: other")
    scene.machine.available = 2 * GB
    scene.admission.memory.ended(vitals(10 * GB, 2 * GB))
    scene.clock.advance(RETURN_PATIENCE)
    assert scene.obstacle("other") is None
    with pytest.raises(MemoryShortError, match=r"only 2\.0 GB"):
        scene.obstacle("new")


# Several obstacles.


def test_what_others_keep_is_refused_even_while_memory_comes_back(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "name: new, group: g", "name: mate, group: g", top=GROUPS)
    scene.models["mate"].state = _S.READY
    scene.machine.available = 0
    scene.admission.memory.ended(vitals(10 * GB, 0))
    with pytest.raises(GroupFullError):
        scene.obstacle("new")


def test_memory_is_not_missed_as_long_as_a_place_is_waited_for(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "name: new, group: g, memory: {required: 30GB}", "name: mate, group: g", top=GROUPS)
    scene.models["mate"].state = _S.STOPPING
    assert scene.obstacle("new") == "waits for a place in group 'g'"


def test_of_two_things_that_are_waited_for_the_place_is_named(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "name: new, group: g", "name: mate, group: g", top=GROUPS)
    scene.models["mate"].state = _S.STOPPING
    scene.machine.available = 0
    scene.admission.memory.ended(vitals(10 * GB, 0))
    assert scene.obstacle("new") == "waits for a place in group 'g'"


# The book of ports.


def test_the_ports_of_a_reload_count_once_they_are_adopted(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "name: new, port: 27911", "name: old")
    scene.models["old"].state, scene.models["old"].port = _S.STOPPING, 27912
    book = scene.admission.book_for(scene.read("name: new, port: 27912"))
    assert scene.obstacle("new") is None, "a plan changes nothing"
    scene.admission.adopt(book)
    assert scene.obstacle("new") == "waits for port 27912"


def test_a_plan_that_cannot_be_changes_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "name: new, port: 27911", "name: old")
    scene.models["old"].state, scene.models["old"].port = _S.STOPPING, 27911
    with pytest.raises(HubError, match="host"):
        scene.admission.book_for(scene.read("name: third", top="host: 192.0.2.1"))
    assert scene.obstacle("new") == "waits for port 27911"


def test_a_model_claims_the_port_that_it_has_in_the_book(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "name: new", "name: other")
    ports = [scene.admission.claim(stand.settings) for stand in scene.models.values()]
    assert len(set(ports)) == 2
    assert all(port is not None and port >= 27850 for port in ports)
    assert [scene.admission.claim(stand.settings) for stand in scene.models.values()] == ports


def test_a_model_keeps_its_port_whatever_comes_before_it_in_the_file(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "name: old")
    port = scene.admission.claim(scene.models["old"].settings)
    scene.admission.adopt(scene.admission.book_for(scene.read("name: newer", "name: old")))
    assert scene.admission.claim(scene.models["old"].settings) == port


# What a model that starts has been promised: of real models, whose processes are not.


class FakeProcess:
    pid = 4242

    def stop(self, grace: float) -> None: ...

    def kill(self) -> None: ...


class FakeProbe:
    def ask(self, question: Question, health: HealthSettings, answer: Any) -> None: ...


class World:
    """What is around a model: everything it starts runs, and answers only when the test says so."""

    patient = True

    def __init__(self) -> None:
        self.run_id = ""

    def clock(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0

    def jitter(self) -> float:
        return 0.0

    def after(self, seconds: float, message: Message) -> Timer:
        return Timer()

    def launch(self, model: ModelSettings, run_id: str) -> Started:
        self.run_id = run_id
        return Started(FakeProcess(), "127.0.0.1", 27911, FakeProbe())

    def ask(self, run: Run, model: ModelSettings) -> None: ...

    def ended(self, run: Run) -> Shortage:
        return Shortage(0, low=False)

    def announce(self, hook: str, about: Mapping[str, Any], **arguments: Any) -> None: ...

    def answer(self, replies: list[Reply], error: Exception | None = None) -> None: ...


class Real:
    """A real model, which requires 8 GB, in a world of the test's own."""

    def __init__(self, directory: Path, memory: str = "{required: 8GB}") -> None:
        path = directory / "hub.yaml"
        path.write_text(f"models:\n  - {{name: a, command: [sh, '{{port}}'], memory: {memory}}}\n")
        self.world = World()
        self.machine = FakeMachine()
        self.admission = Admission(self.machine, FakeClock())
        self.model = Lifecycle(load_settings(path).models[0], str(directory / "a.log"), self.world)

    def start(self) -> None:
        self.model.start(Reason.OPERATOR, [])

    def stop(self) -> None:
        self.model.stop(Reason.OPERATOR, Reply())

    def answer(self, used: int | None, *, ready: bool = False) -> None:
        seen = None if used is None else vitals(used, 0)
        self.machine.used = used or 0
        self.model.on_probe_due(self.world.run_id)
        self.model.on_probed(self.world.run_id, ProbeResult(ready, "" if ready else "loading", vitals=seen))

    def be_late(self) -> None:
        self.model.on_startup_due(self.world.run_id)

    def end(self, code: int) -> None:
        self.machine.used = 0
        self.model.on_exit(self.world.run_id, Exit(code))

    def promised(self) -> tuple[ModelState, float]:
        return self.model.state, self.admission._promised([self.model]) / GB


PROMISES: dict[str, tuple[list[Callable[[Real], object]], ModelState, float]] = {
    "at rest": ([], _S.STOPPED, 0),
    "just started": ([Real.start], _S.STARTING, 8),
    "not looked at": ([Real.start, lambda r: r.answer(None)], _S.STARTING, 8),
    "half loaded": ([Real.start, lambda r: r.answer(3 * GB)], _S.STARTING, 5),
    "loaded": ([Real.start, lambda r: r.answer(8 * GB)], _S.STARTING, 0),
    "more than it said": ([Real.start, lambda r: r.answer(9 * GB)], _S.STARTING, 0),
    "ready with less than it said": ([Real.start, lambda r: r.answer(3 * GB, ready=True)], _S.READY, 0),
    "late": ([Real.start, lambda r: r.answer(3 * GB), Real.be_late], _S.UNHEALTHY, 5),
    "late and ready": (
        [Real.start, Real.be_late, lambda r: r.answer(3 * GB, ready=True)], _S.READY, 0,
    ),
    "stopping while it starts": ([Real.start, Real.stop], _S.STOPPING, 0),
    "stopped while it starts": ([Real.start, Real.stop, lambda r: r.end(-15)], _S.STOPPED, 0),
    "crashed while it starts": ([Real.start, lambda r: r.end(1)], _S.BACKOFF, 0),
    "started again": (
        [Real.start, lambda r: r.answer(7 * GB), lambda r: r.end(1), Real.start], _S.STARTING, 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("steps", "state", "promised"), PROMISES.values(), ids=PROMISES)
def test_a_model_is_promised_what_it_has_not_taken_yet_until_it_is_ready(
    tmp_path: Path, steps: list[Callable[[Real], object]], state: ModelState, promised: float
) -> None:
    real = Real(tmp_path)
    for step in steps:
        step(real)
    assert real.promised() == (state, promised)


def test_a_model_that_requires_none_is_promised_none(tmp_path: Path) -> None:
    real = Real(tmp_path, memory="{}")
    real.start()
    assert real.promised() == (_S.STARTING, 0)


def test_two_models_that_start_together_do_not_count_on_the_same_memory(tmp_path: Path) -> None:
    scene = in_need(tmp_path)
    scene.machine.available = 15 * GB
    real = Real(tmp_path)
    everybody = [real.model, cast("Lifecycle", scene.models["new"])]
    real.start()
    with pytest.raises(MemoryShortError, match=r"only 7\.0 GB"):
        scene.admission.obstacle(everybody[1], everybody, ())
    real.answer(8 * GB, ready=True)
    scene.machine.available = 8 * GB
    assert scene.admission.obstacle(everybody[1], everybody, ()) is None
