"""The table of moves holds together, and the drawing above it tells the truth."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable

import pytest

from mlxhub_core import states
from mlxhub_core.events import TROUBLES, Failure, Reason
from mlxhub_core.states import ALIVE, MOVES, ModelState, ModelStatus

STOPPED, STARTING, STOPPING = ModelState.STOPPED, ModelState.STARTING, ModelState.STOPPING

every_state = pytest.mark.parametrize("state", ModelState, ids=str)


def reachable(start: ModelState) -> set[ModelState]:
    """The states to which moves lead from `start`, one after the other."""
    found: set[ModelState] = set()
    new = {start}
    while new:
        new = {target for state in new for target in MOVES[state]} - found
        found |= new
    return found


def _spans(line: str, name: str, column: int) -> bool:
    """Whether a word of a line stands at a column."""
    return 0 <= column - line.index(name) < len(name)


def named(words: str) -> Iterable[ModelState]:
    return (ModelState(word) for word in re.findall(r"[a-z]+", words))


def test_there_are_the_seven_states_of_the_design() -> None:
    assert set(ModelState) == {"stopped", "starting", "ready", "unhealthy", "stopping", "backoff", "failed"}
    assert f"{ModelState.READY}" == "ready"
    assert json.dumps(ModelState.READY) == '"ready"'


def test_the_table_has_every_state() -> None:
    assert set(MOVES) == set(ModelState)


@every_state
def test_no_state_moves_to_itself_and_none_is_a_trap(state: ModelState) -> None:
    assert state not in MOVES[state]
    assert {STOPPED, STARTING} <= reachable(state), "from anywhere a model can be stopped and started again"


def test_every_state_can_be_reached() -> None:
    assert reachable(STOPPED) == set(ModelState)


@every_state
def test_only_starting_leads_from_no_process_to_one(state: ModelState) -> None:
    if state not in ALIVE:
        assert MOVES[state] & ALIVE == {STARTING}
    else:
        assert STARTING not in MOVES[state], "a process starts once"


@every_state
def test_whoever_runs_may_be_stopped_and_may_die(state: ModelState) -> None:
    if state in ALIVE - {STOPPING}:
        assert {STOPPING, STOPPED, ModelState.BACKOFF, ModelState.FAILED} <= MOVES[state]


def test_one_that_was_asked_to_end_does_not_come_back_but_may_have_been_ended_by_the_hub_to_be_restarted() -> None:
    assert MOVES[STOPPING] == {STOPPED, ModelState.BACKOFF, ModelState.FAILED}


def test_one_that_does_not_answer_may_recover_and_may_be_late_for_its_first_answer() -> None:
    assert {state for state in ModelState if ModelState.UNHEALTHY in MOVES[state]} == {STARTING, ModelState.READY}
    assert ModelState.READY in MOVES[ModelState.UNHEALTHY]


def test_the_hub_ends_a_process_by_itself_only_for_troubles_that_it_tells_apart() -> None:
    assert set(TROUBLES) == {"unhealthy", "startup_timeout"}


def test_the_alive_states_are_those_with_a_process() -> None:
    assert set(ALIVE) == {"starting", "ready", "unhealthy", "stopping"}


def test_the_drawing_shows_only_moves_of_the_table() -> None:
    drawing = str(states.__doc__).split("\n\n")[1]
    arch, *lines = drawing.splitlines()
    chain, *branches = [line for line in lines if "──>" in line]
    stopped, starting, ready, unhealthy = named(chain)
    assert starting in MOVES[stopped]
    assert ready in MOVES[starting]
    assert unhealthy in MOVES[ready]
    assert ready in MOVES[unhealthy]
    # The arch above leads from one of them to another.
    begin, end = (next(name for name in named(chain) if _spans(chain, name, arch.index(foot))) for foot in "┌┐")
    assert (begin, end) == (starting, unhealthy)
    assert end in MOVES[begin]
    drawn = {first: set(then) for first, *then in map(list, map(named, branches))}
    for target, following in drawn.items():
        assert all(target in MOVES[state] for state in (starting, ready, unhealthy))
        assert following in (set(), MOVES[target])
    assert set(drawn) == {STOPPING, STOPPED, ModelState.BACKOFF, ModelState.FAILED}


def test_a_status_says_by_default_that_nothing_has_happened_yet() -> None:
    status = ModelStatus("a", STOPPED, None, "/logs/a.log")
    happened = (
        *("port", "pid", "exit_code", "started_at", "ready_at", "stopped_at", "reason"),
        *("first_failure", "last_failure"),
    )
    assert [getattr(status, name) for name in happened] == [None] * len(happened)
    assert status.restarts == 0


def test_a_status_is_a_snapshot_that_nobody_can_change() -> None:
    status = ModelStatus("a", STOPPED, None, "/logs/a.log")
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.state = STARTING  # type: ignore[misc]
    assert json.loads(json.dumps(dataclasses.asdict(status)))["state"] == "stopped"


def test_a_status_with_its_failures_can_be_written_as_json() -> None:
    failure = Failure(7.5, Reason.SUSPECTED_OOM, -9, "SIGKILL", "out of memory", 3.5, ("last", "words"))
    status = ModelStatus("a", ModelState.FAILED, None, "/logs/a.log", last_failure=failure)
    told = json.loads(json.dumps(dataclasses.asdict(status)))
    assert told["first_failure"] is None
    assert told["last_failure"] == {
        "time": 7.5,
        "reason": "suspected_oom",
        "exit_code": -9,
        "signal": "SIGKILL",
        "detail": "out of memory",
        "uptime_seconds": 3.5,
        "log_tail": ["last", "words"],
    }
