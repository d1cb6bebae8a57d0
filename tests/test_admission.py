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
    FORGOTTEN,
    MEMORY_POLL,
    RETURN_PATIENCE,
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

    def see(self, left: int) -> None:
        self.memory.see(vitals(GB, left))

    def ended(self, used: int, left: int = 10 * GB) -> None:
        self.memory.ended(vitals(used, left))

    def lacks_below(self, level: int) -> bool:
        """Whether memory is missing until just so much is available."""
        self.machine.available = level - 1
        below = self.memory.is_missing()
        self.machine.available = level
        return below and not self.memory.is_missing()


def test_when_nothing_has_ended_nothing_is_missing() -> None:
    at = Return(FakeMachine(0))
    at.see(10 * GB)
    assert not at.memory.is_missing()
    assert not at.memory.is_missing(entirely=True)
    assert at.memory.held == 0


def test_nine_tenths_of_the_memory_of_a_process_should_come_back() -> None:
    at = Return()
    at.ended(8 * GB)
    assert at.lacks_below(10 * GB + 7_200_000_000)


def test_the_last_tenth_may_still_come_for_who_requires_it() -> None:
    at = Return()
    at.ended(8 * GB)
    at.machine.available = 18 * GB - 1
    assert (at.memory.is_missing(), at.memory.is_missing(entirely=True)) == (False, True)
    at.machine.available += 1
    assert not at.memory.is_missing(entirely=True)
    at.machine.available = 0
    at.clock.advance(RETURN_PATIENCE)
    assert not at.memory.is_missing(entirely=True), "nor after its time"


def test_what_others_have_taken_since_the_last_look_at_it_is_not_expected_back() -> None:
    at = Return()
    at.see(2 * GB)
    at.ended(8 * GB)
    assert at.lacks_below(9_200_000_000), "another was seen with 2 left since"


def test_a_look_that_failed_says_nothing_of_the_memory() -> None:
    at = Return()
    at.see(2 * GB)
    at.memory.see(None)
    at.ended(8 * GB)
    assert at.lacks_below(9_200_000_000)


def test_memory_that_others_use_after_it_was_back_seems_to_be_missing_until_its_time_is_over() -> None:
    # The two cannot be told apart. Only a start that lacks memory asks, and it waits for no more than that time.
    at = Return()
    at.ended(8 * GB)
    at.machine.available = 18 * GB
    assert not at.memory.is_missing()
    at.machine.available = 2 * GB
    assert at.memory.is_missing()


def test_patience_has_an_end() -> None:
    at = Return()
    at.ended(8 * GB)
    at.clock.advance(RETURN_PATIENCE - 0.01)
    assert (at.memory.is_missing(), at.memory.held) == (True, 8 * GB)
    at.clock.advance(0.01)
    assert (at.memory.is_missing(), at.memory.held) == (False, 0)


@pytest.mark.parametrize(
    ("seen", "missing"),
    [(None, False), (vitals(WORTH_WAITING - 1, 10 * GB), False), (vitals(WORTH_WAITING, 10 * GB), True)],
    ids=["never looked at", "small", "just big enough"],
)
def test_the_memory_of_small_processes_is_not_waited_for(seen: Vitals | None, missing: bool) -> None:
    at = Return()
    at.memory.ended(seen)
    assert at.memory.is_missing() is missing


@pytest.mark.parametrize("small", [None, vitals(1000, 10 * GB)], ids=["never looked at", "small"])
def test_a_small_process_does_not_renew_the_patience_with_a_big_one(small: Vitals | None) -> None:
    at = Return()
    at.ended(8 * GB)
    at.clock.advance(20)
    at.memory.ended(small)
    assert at.memory.held == 8 * GB
    at.clock.advance(10)
    assert not at.memory.is_missing()


def test_the_memory_of_two_processes_that_end_together_is_expected_together() -> None:
    at = Return()
    at.ended(8 * GB)
    at.ended(6 * GB)
    assert at.lacks_below(10 * GB + 14 * GB * 9 // 10)


def test_a_look_at_another_while_the_first_is_not_back_does_not_make_us_forget_it() -> None:
    at = Return()
    at.ended(8 * GB)
    at.see(10 * GB)
    at.ended(6 * GB)
    assert at.lacks_below(10 * GB + 14 * GB * 9 // 10)


def test_a_further_end_renews_the_patience_with_all_of_it() -> None:
    at = Return()
    at.ended(8 * GB)
    at.clock.advance(20)
    at.ended(2 * GB)
    at.clock.advance(20)
    assert at.memory.is_missing()
    at.clock.advance(10)
    assert not at.memory.is_missing()


@pytest.mark.parametrize("sizes", [(8, 6), (6, 8)], ids=["the biggest first", "the biggest last"])
def test_the_biggest_of_them_counts_as_what_a_process_had(sizes: tuple[int, int]) -> None:
    at = Return()
    for size in sizes:
        at.ended(size * GB)
    assert at.memory.held == 8 * GB


def test_a_bigger_one_that_is_back_counts_no_more() -> None:
    at = Return()
    at.ended(8 * GB)
    at.machine.available = 18 * GB
    assert at.memory.held == 0
    at.see(18 * GB)
    at.ended(4 * GB)
    assert at.memory.held == 4 * GB


def test_the_second_is_not_added_to_a_first_that_is_back_and_was_seen_in_use_again() -> None:
    at = Return()
    at.ended(8 * GB)
    at.machine.available = 18 * GB
    at.see(12 * GB)
    at.ended(4 * GB)
    assert at.lacks_below(15_600_000_000)


def test_the_second_is_added_to_a_first_that_came_back_between_two_looks() -> None:
    # Two models that stop one after the other: neither is looked at any more.
    at = Return()
    at.see(10 * GB)
    at.ended(10 * GB)
    at.machine.available = 20 * GB
    assert not at.memory.is_missing()
    at.clock.advance(5)
    at.ended(10 * GB)
    assert at.lacks_below(29 * GB)


def test_the_second_is_not_added_to_a_first_whose_time_is_over() -> None:
    at = Return()
    at.ended(20 * GB)
    at.clock.advance(RETURN_PATIENCE)
    at.see(8 * GB)
    at.ended(4 * GB)
    assert at.lacks_below(11_600_000_000)


def test_no_more_is_expected_than_there_is() -> None:
    # Memory that processes share is counted for each of them where the system does not tell it apart.
    at = Return()
    at.ended(100 * GB)
    at.machine.available = 32 * GB - 1
    assert at.memory.is_missing(entirely=True)
    at.machine.available += 1
    assert not at.memory.is_missing(entirely=True)


# Who may start.


@dataclass
class Stand:
    """A model as far as admission looks at it."""

    settings: ModelSettings
    state: ModelState = _S.STOPPED
    port: int | None = None
    memory_promised_to: tuple[int, int] | None = None
    last_memory: int = 0

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

    def end(self, used: int, left: int) -> None:
        """A process has ended that had `used`, when `left` were available."""
        self.admission.memory.ended(vitals(used, left))

    def wait(self, name: str, seconds: float) -> str | None:
        """Look at it now and as often as the loop does; what it hears last."""
        said, until = self.obstacle(name), self.clock() + seconds
        while self.clock() < until:
            self.clock.advance(min(MEMORY_POLL, until - self.clock()))
            said = self.obstacle(name)
        return said


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


# Memory that is about to come back. "new" requires 8 GB, "other" requires nothing.


def waits(there: float, needed: float) -> str:
    return f"waits for memory: {there:.1f} GB are available, and it needs {needed:.1f} GB"


def after_an_end(directory: Path, *others: str, used: int = 10 * GB, left: int = 2 * GB) -> Scene:
    """A process has just ended that had `used`, and nothing of that is back yet."""
    scene = in_need(directory, "name: other", *others)
    scene.machine.available = left
    scene.end(used, left)
    return scene


def test_what_is_required_is_waited_for_until_it_is_there_and_never_refused_meanwhile(tmp_path: Path) -> None:
    scene = after_an_end(tmp_path, used=8 * GB, left=2 * GB)
    for there in range(2, 8):
        scene.machine.available = there * GB
        assert scene.obstacle("new") == waits(there, 8)
        scene.clock.advance(1)
    scene.machine.available = 8 * GB
    assert scene.obstacle("new") is None, "and not for the rest: 10 GB were there once"


def test_nor_is_it_refused_when_it_takes_the_very_last_of_what_comes_back(tmp_path: Path) -> None:
    scene = after_an_end(tmp_path, used=8 * GB, left=100_000_000)
    for there in range(1, 80):
        scene.machine.available = there * 100_000_000
        assert scene.obstacle("new") == waits(there / 10, 8)
        scene.clock.advance(MEMORY_POLL)
    scene.machine.available = 8 * GB
    assert scene.obstacle("new") is None


@pytest.mark.parametrize("required", ["", ", memory: {required: 900MB}"], ids=["by its last process", "required"])
def test_where_there_is_plenty_of_memory_nobody_waits(tmp_path: Path, required: str) -> None:
    # Another program took some of it meanwhile: what was expected is never met.
    scene = Scene(tmp_path, f"name: small{required}")
    scene.models["small"].last_memory = 900_000_000
    scene.end(9 * GB, left=22 * GB)
    scene.machine.available = 22 * GB
    assert scene.admission.memory.is_missing()
    assert scene.obstacle("small") is None
    assert not scene.admission.is_waiting()


@pytest.mark.parametrize(
    ("name", "last", "needs"),
    [("other", 6 * GB, 6), ("other", 0, 10), ("new", 6 * GB, 8), ("new", 9 * GB, 8)],
    ids=["what its last process had", "unknown: what the ended one had", "required, and more", "required, and less"],
)
def test_what_a_start_needs(tmp_path: Path, name: str, last: int, needs: int) -> None:
    scene = after_an_end(tmp_path)
    scene.models[name].last_memory = last
    scene.machine.available = needs * GB - 1
    assert scene.obstacle(name) == waits(needs, needs)
    scene.machine.available += 1
    assert scene.obstacle(name) is None


def test_a_model_without_a_requirement_starts_with_less_when_no_memory_is_about_to_come(tmp_path: Path) -> None:
    scene = in_need(tmp_path, "name: other", "name: old")
    scene.models["other"].last_memory = 6 * GB
    scene.models["old"].state = _S.STOPPING
    scene.machine.available = 2 * GB
    assert scene.obstacle("other") is None


def test_a_model_without_a_requirement_does_not_wait_for_the_last_tenth(tmp_path: Path) -> None:
    scene = after_an_end(tmp_path)
    scene.models["other"].last_memory = 12 * GB
    scene.machine.available = 11 * GB - 1
    assert scene.obstacle("other") == waits(11, 12)
    scene.machine.available += 1
    assert scene.obstacle("other") is None


def test_when_patience_is_over_what_is_required_is_missed_and_the_others_start(tmp_path: Path) -> None:
    scene = after_an_end(tmp_path)
    waiting = (scene.obstacle("new"), scene.obstacle("other"))
    assert waiting == (waits(2, 8), waits(2, 10))
    assert scene.wait("new", RETURN_PATIENCE - 0.5) == waits(2, 8)
    assert scene.obstacle("other") is not None
    scene.clock.advance(0.5)
    assert scene.obstacle("other") is None
    with pytest.raises(MemoryShortError, match=r"only 2\.0 GB") as caught:
        scene.obstacle("new")
    assert (caught.value.required, caught.value.available) == (8 * GB, 2 * GB)


def test_what_came_back_and_is_not_enough_is_refused_at_once(tmp_path: Path) -> None:
    scene = after_an_end(tmp_path, used=4 * GB)
    assert scene.obstacle("new") == waits(2, 8)
    scene.machine.available = 6 * GB
    with pytest.raises(MemoryShortError, match=r"only 6\.0 GB"):
        scene.obstacle("new")


@pytest.mark.parametrize("name", ["new", "other"])
def test_further_ends_do_not_make_anybody_wait_longer(tmp_path: Path, name: str) -> None:
    scene = after_an_end(tmp_path)
    scene.models[name].last_memory = 8 * GB
    for _ in range(3):
        assert scene.wait(name, RETURN_PATIENCE / 3 - 0.1) == waits(2, 8)
        scene.end(GB, 2 * GB)
    scene.clock.advance(0.3)
    assert scene.admission.memory.is_missing()
    if name == "other":
        assert scene.obstacle("other") is None
    else:
        with pytest.raises(MemoryShortError):
            scene.obstacle("new")


def test_each_has_a_patience_of_its_own(tmp_path: Path) -> None:
    scene = after_an_end(tmp_path)
    scene.wait("new", 20)
    scene.end(GB, 2 * GB)
    assert scene.obstacle("other") is not None
    assert scene.wait("other", 15) is not None, "35 s after the first end, 15 s after it came"
    scene.clock.advance(15)
    assert scene.obstacle("other") is None


@pytest.mark.parametrize("away", [FORGOTTEN, FORGOTTEN + 0.01], ids=["still known", "forgotten"])
def test_one_who_was_not_looked_at_for_a_while_has_stopped_waiting(tmp_path: Path, away: float) -> None:
    # As when its start is withdrawn: what it waited then does not count against its next start.
    scene = after_an_end(tmp_path)
    scene.wait("other", RETURN_PATIENCE - FORGOTTEN)
    scene.end(10 * GB, 2 * GB)
    scene.clock.advance(away)
    assert scene.admission.is_waiting() is (away == FORGOTTEN)
    assert scene.obstacle("other") == (None if away == FORGOTTEN else waits(2, 10))


@pytest.mark.parametrize("name", ["new", "other"])
def test_who_has_waited_in_vain_once_waits_anew_for_its_next_start(tmp_path: Path, name: str) -> None:
    # It started, crashed at once, and now its own memory is to come back.
    scene = after_an_end(tmp_path)
    scene.models[name].last_memory = 8 * GB
    scene.wait(name, RETURN_PATIENCE - 0.5)
    scene.clock.advance(0.5)
    if name == "other":
        assert scene.obstacle("other") is None
    else:
        with pytest.raises(MemoryShortError):
            scene.obstacle("new")
    assert not scene.admission.is_waiting()
    scene.clock.advance(1)
    scene.end(8 * GB, 2 * GB)
    assert scene.obstacle(name) == waits(2, 8)


def test_who_has_got_its_memory_waits_anew_for_its_next_start(tmp_path: Path) -> None:
    scene = after_an_end(tmp_path)
    scene.wait("new", RETURN_PATIENCE - 1)
    scene.machine.available = 8 * GB
    assert scene.obstacle("new") is None
    assert not scene.admission.is_waiting()
    scene.machine.available = 2 * GB
    scene.end(8 * GB, 2 * GB)
    scene.clock.advance(2)
    assert scene.obstacle("new") == waits(2, 8)


def test_somebody_is_waiting_only_after_being_told_to(tmp_path: Path) -> None:
    scene = after_an_end(tmp_path)
    assert not scene.admission.is_waiting(), "nobody has asked yet"
    scene.obstacle("other")
    assert scene.admission.is_waiting()


def test_what_is_promised_to_others_does_not_count_as_back(tmp_path: Path) -> None:
    scene = after_an_end(tmp_path, "name: loading")
    scene.machine.available = 9 * GB
    scene.models["loading"].memory_promised_to = (1, 3 * GB)
    assert (scene.obstacle("new"), scene.obstacle("other")) == (waits(6, 8), waits(6, 10))
    scene.models["loading"].memory_promised_to = (1, 20 * GB)
    assert scene.obstacle("new") == waits(0, 8), "no less than nothing"


def test_the_patience_with_what_has_ended_begins_when_nothing_stops_any_more(tmp_path: Path) -> None:
    # A server may take all of its `stop_timeout`, and its memory comes back after that.
    scene = in_need(tmp_path, "name: old")
    scene.machine.available = 2 * GB
    scene.models["old"].state = _S.STOPPING
    assert scene.wait("new", RETURN_PATIENCE + 10) == "waits for the memory of old"
    scene.models["old"].state = _S.STOPPED
    scene.end(10 * GB, 2 * GB)
    assert scene.obstacle("new") == waits(2, 8)
    assert scene.wait("new", RETURN_PATIENCE - 1) == waits(2, 8)


def test_who_waits_for_one_that_stops_is_looked_at_again_because_others_memory_may_be_back_first(
    tmp_path: Path,
) -> None:
    scene = after_an_end(tmp_path, "name: old")
    scene.models["old"].state = _S.STOPPING
    assert scene.obstacle("new") == "waits for the memory of old"
    assert scene.admission.is_waiting()
    scene.machine.available = 8 * GB
    assert scene.obstacle("new") is None


def test_two_that_stop_one_after_the_other_are_both_waited_for(tmp_path: Path) -> None:
    # As when a reload puts one very big model in the place of two.
    scene = Scene(tmp_path, "name: new, memory: {required: 25GB}", "name: one", "name: two")
    scene.machine.available = 10 * GB
    scene.admission.memory.see(vitals(10 * GB, 10 * GB))
    scene.models["two"].state = _S.STOPPING
    scene.end(10 * GB, 10 * GB)
    assert scene.obstacle("new") == "waits for the memory of two"
    scene.machine.available = 20 * GB
    scene.clock.advance(3)
    scene.models["two"].state = _S.STOPPED
    scene.end(10 * GB, 10 * GB)
    assert scene.obstacle("new") == waits(20, 25)
    scene.machine.available = 25 * GB
    assert scene.obstacle("new") is None


# What people should know of a start that was allowed.


def test_a_start_that_waited_in_vain_is_noted_once(tmp_path: Path) -> None:
    scene = after_an_end(tmp_path)
    scene.models["other"].last_memory = 6 * GB
    scene.wait("other", RETURN_PATIENCE - 0.5)
    scene.clock.advance(0.5)
    assert scene.obstacle("other") is None
    assert scene.admission.note("new") is None
    assert scene.admission.note("other") == "2.0 GB of memory are available, and it may need 6.0 GB"
    assert scene.admission.note("other") is None


def test_a_start_that_had_what_it_waited_for_is_not_noted(tmp_path: Path) -> None:
    scene = after_an_end(tmp_path)
    scene.obstacle("other")
    scene.machine.available = 12 * GB
    assert scene.obstacle("other") is None
    assert scene.admission.note("other") is None


def test_nor_is_one_that_did_not_wait(tmp_path: Path) -> None:
    scene = in_need(tmp_path, "name: other")
    scene.models["other"].last_memory = 6 * GB
    scene.machine.available = 2 * GB
    assert scene.obstacle("other") is None
    assert scene.admission.note("other") is None


def test_a_note_on_a_start_that_did_not_happen_is_not_kept_for_the_next(tmp_path: Path) -> None:
    # Its port was taken by a stranger, say.
    scene = after_an_end(tmp_path)
    scene.models["other"].last_memory = 6 * GB
    scene.wait("other", RETURN_PATIENCE - 0.5)
    scene.clock.advance(0.5)
    assert scene.obstacle("other") is None
    scene.machine.available = 12 * GB
    assert scene.obstacle("other") is None
    assert scene.admission.note("other") is None


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

    def stop(self, grace: float, reason: str) -> None: ...

    def kill(self) -> None: ...

    def note(self, facts: Mapping[str, Any]) -> None: ...

    def rotate(self, done: Any) -> None: ...

    def set_rotation(self, rotation: Any) -> None: ...

    def release(self) -> None: ...


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

    def launch(self, model: ModelSettings, run_id: str, restarts: int) -> Started:
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
