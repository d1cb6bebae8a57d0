"""The table of moves holds together, and the drawing above it tells the truth."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable

import pytest

from mlxhub_core import states
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


def test_one_that_was_asked_to_end_is_neither_ready_again_nor_counted_as_failed() -> None:
    assert MOVES[STOPPING] == {STOPPED}


def test_the_alive_states_are_those_with_a_process() -> None:
    assert set(ALIVE) == {"starting", "ready", "unhealthy", "stopping"}


def test_the_drawing_shows_only_moves_of_the_table() -> None:
    drawing = str(states.__doc__).split("\n\n")[1]
    chain, *branches = [line for line in drawing.splitlines() if "──>" in line]
    stopped, starting, ready, unhealthy = named(chain)
    assert starting in MOVES[stopped]
    assert ready in MOVES[starting]
    assert unhealthy in MOVES[ready]
    assert ready in MOVES[unhealthy]
    drawn = {first: set(then) for first, *then in map(list, map(named, branches))}
    for target, following in drawn.items():
        assert all(target in MOVES[state] for state in (starting, ready, unhealthy))
        assert following in (set(), MOVES[target])
    assert set(drawn) == {STOPPING, STOPPED, ModelState.BACKOFF, ModelState.FAILED}


def test_a_status_says_by_default_that_nothing_has_happened_yet() -> None:
    status = ModelStatus("a", STOPPED, None, "/logs/a.log")
    happened = ("port", "pid", "exit_code", "started_at", "ready_at", "stopped_at", "reason")
    assert [getattr(status, name) for name in happened] == [None] * len(happened)
    assert status.restarts == 0


def test_a_status_is_a_snapshot_that_nobody_can_change() -> None:
    status = ModelStatus("a", STOPPED, None, "/logs/a.log")
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.state = STARTING  # type: ignore[misc]
    assert json.loads(json.dumps(dataclasses.asdict(status)))["state"] == "stopped"
