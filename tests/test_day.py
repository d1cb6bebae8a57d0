"""A day in the life of a model that does not exist could be a day of one that does."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from mlxhub_core.events import Failure, HubEvent, Reason
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.states import ALIVE, MOVES, ModelState, ModelStatus
from mlxhub_core.testing import Recorded
from mlxhub_core.testing.day import MODEL, FakeHub
from mlxhub_core.testing.history import check_history

AFTER = {
    "model_started": ModelState.STARTING,
    "model_ready": ModelState.READY,
    "model_unhealthy": ModelState.UNHEALTHY,
    "model_recovered": ModelState.READY,
    "model_stopped": ModelState.STOPPED,
    "model_restarting": ModelState.BACKOFF,
    "model_gave_up": ModelState.FAILED,
}
"""The state that an event leaves a model in; a failure leaves it in one of two."""


def a_day() -> list[Recorded]:
    return [Recorded(hook, arguments) for hook, arguments in FakeHub().day()]


def step_by_step() -> Iterator[tuple[str, Mapping[str, Any], HubEvent, ModelStatus]]:
    """Each event, and the status as it is when that event is told."""
    hub = FakeHub()
    for hook, arguments in hub.day():
        (status,) = hub.status()
        yield hook, arguments, arguments["event"], status


def test_the_day_is_a_history_that_can_be() -> None:
    check_history(a_day())


def test_it_has_every_hook_with_exactly_the_arguments_of_its_specification() -> None:
    day = a_day()
    assert {event.hook for event in day} == set(HOOKS)
    for event in day:
        assert sorted(event.arguments) == sorted(HOOKS[event.hook]), event.hook


def test_it_begins_with_the_greeting_and_ends_with_the_model_stopped() -> None:
    day = a_day()
    assert day[0].hook == "hub_started"
    assert [event.event.seq for event in day] == list(range(len(day)))
    assert [event.hook for event in day[-2:]] == ["hub_stopping", "model_stopped"]


def test_the_hub_of_the_greeting_is_the_one_whose_status_follows_the_events() -> None:
    hub = FakeHub()
    day = hub.day()
    _, greeting = next(day)
    assert greeting["hub"] is hub
    assert [status.state for status in greeting["hub"].status()] == [ModelState.STOPPED]
    assert list(hub.sink_stats()) == []
    next(day)
    assert [status.state for status in greeting["hub"].status()] == [ModelState.STARTING]


def test_all_of_it_is_about_one_model() -> None:
    hub = FakeHub()
    for hook, arguments in hub.day():
        if "ctx" in HOOKS[hook]:
            assert arguments["ctx"] == hub.ctx
        assert [(s.name, s.group, s.log_path) for s in hub.status()] == [(MODEL, hub.ctx.group, hub.ctx.log_path)]


def test_the_status_agrees_with_the_events_at_each_step() -> None:
    pid = exit_code = None
    for hook, arguments, event, status in step_by_step():
        if hook == "model_failed":
            assert status.state is (ModelState.FAILED if event.restart_in is None else ModelState.BACKOFF)
        elif hook in AFTER:
            assert status.state is AFTER[hook], hook
        begins = hook in ("model_started", "model_adopted")
        pid = arguments["pid"] if begins else pid if status.state in ALIVE else None
        exit_code = arguments.get("exit_code", exit_code)
        assert (status.pid, status.exit_code) == (pid, exit_code), hook
        if hook not in ("model_restarting", "model_gave_up") and "log" not in hook and "ctx" in arguments:
            assert status.reason == (event.detail or event.reason), hook


def test_the_times_in_the_status_are_those_of_the_process_that_runs_or_ran_last() -> None:
    for hook, _, _, status in step_by_step():
        assert (status.started_at is None) is (hook == "hub_started")
        assert (status.stopped_at is not None) is (status.started_at is not None and status.state not in ALIVE), hook
        assert (status.ready_at is not None) is (status.state in (ModelState.READY, ModelState.UNHEALTHY)), hook


def test_the_status_makes_only_moves_that_a_model_can_make() -> None:
    before = ModelState.STOPPED
    for hook, _, _, status in step_by_step():
        assert status.state is before or status.state in MOVES[before], f"{hook}: {before} to {status.state}"
        before = status.state


def test_the_status_counts_restarts_and_keeps_the_first_and_the_last_failure() -> None:
    failures = []
    restarts = 0
    for hook, arguments, event, status in step_by_step():
        if hook == "model_started":
            restarts = restarts + 1 if event.reason is Reason.RESTART else 0
        if hook == "model_failed":
            failures.append((event.reason, arguments["exit_code"], event.signal, event.uptime_seconds, event.log_tail))
        seen = [
            (failure.reason, failure.exit_code, failure.signal, failure.uptime_seconds, failure.log_tail)
            for failure in (status.first_failure, status.last_failure)
            if failure
        ]
        assert seen == ([failures[0], failures[-1]] if failures else []), hook
        assert status.restarts == restarts
    assert len(failures) == 2
    assert failures[0] != failures[1]


def test_a_failure_after_the_first_tells_how_it_began() -> None:
    told: dict[str, list[Failure | None]] = {hook: [] for hook in HOOKS}
    for hook, _, event, status in step_by_step():
        told[hook].append(event.first_failure)
        first = status.first_failure
    assert told["model_failed"] == [None, first]
    assert told["model_gave_up"] == [first]
    assert first is not None
    assert first.time > 0


def test_a_model_that_a_reload_says_was_started_has_been() -> None:
    for hook, arguments, _, status in step_by_step():
        if hook == "config_reloaded":
            assert arguments["started"] == (MODEL,)
            assert status.state in ALIVE


def test_events_that_are_about_no_process_belong_to_no_run() -> None:
    for event in a_day():
        assert (event.event.run_id is None) is (event.model is None), event.hook


def test_each_process_has_a_number_of_its_own_and_so_has_each_event() -> None:
    day = a_day()
    pids = [event.arguments["pid"] for event in day if event.hook == "model_started"]
    assert len(set(pids)) == len(pids) == 3
    ids = [event.event.id for event in day]
    assert len({uuid.UUID(one) for one in ids}) == len(ids)


def test_two_days_share_nothing() -> None:
    first, second = a_day(), a_day()
    assert [event.hook for event in first] == [event.hook for event in second]
    assert not {event.event.id for event in first} & {event.event.id for event in second}


# `forced` stays false: in this day no process has to be killed.
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(HubEvent) if field.name != "forced"])
def test_a_sink_sees_each_field_of_the_envelope_filled_in_at_least_once(field: str) -> None:
    assert any(getattr(event.event, field) not in (None, ()) for event in a_day())
