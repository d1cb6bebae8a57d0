"""What is said of exit codes, states, events and failures; and that none is forgotten."""

from __future__ import annotations

import dataclasses
import signal
from typing import Any

import pytest

from mlxhub_core.cli.rows import COLOURS, COLUMNS, lines_of
from mlxhub_core.cli.since import Since
from mlxhub_core.cli.story import WORTH_STOPPING, Story, story_of
from mlxhub_core.cli.words import REASONS, event_in_words, state_in_words, what_next
from mlxhub_core.events import Failure, Reason
from mlxhub_core.exits import exit_in_words, signal_name
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.states import ModelState, ModelStatus

NOW = 1_000_000.0


def model(state: ModelState, **more: Any) -> dict[str, Any]:
    """A status, as a hub gives it."""
    status = ModelStatus(name="a", state=state, group=None, log_path="/logs/a.log", **more)
    return {**dataclasses.asdict(status), "memory_bytes": None}


def failed(reason: Reason = Reason.CRASH, code: int | None = 3, detail: str | None = None) -> Failure:
    return Failure(NOW - 10, reason, code, signal_name(code), detail, 2.0, ("boo",))


def story(state: ModelState, **more: Any) -> Story:
    return story_of(model(state, **more), [], "", NOW)


def test_every_reason_has_words_and_every_word_a_reason() -> None:
    assert set(REASONS) == set(Reason)


def test_every_state_has_a_colour_but_the_one_that_is_none_to_look_at() -> None:
    assert set(COLOURS) == set(ModelState) - {ModelState.STOPPED}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "none: there was no process, or nobody saw it end"),
        (0, "0: it ended by itself, and says that all went well"),
        (3, "3: it ended by itself, and says that something went wrong"),
        (127, "127: a program was not found, a shell would say"),
        (-9, "-9 SIGKILL: killed; the system does that when memory runs out"),
        (137, "137: what a shell says of a child that SIGKILL ended (killed; the system does that when memory runs out)"),
        (-int(signal.SIGWINCH), f"-{int(signal.SIGWINCH)} SIGWINCH"),
        (255, "255: it ended by itself, and says that something went wrong"),
        (-99, "-99 signal 99"),
    ],
)  # fmt: skip
def test_an_exit_code_in_words(code: int | None, words: str) -> None:
    assert exit_in_words(code) == words


ARGUMENTS: dict[str, dict[str, Any]] = {
    "hub_started": {"hub": {"pid": 1, "version": "2"}},
    "hub_stopping": {},
    "config_reloaded": {"started": ["a"], "stopped": [], "unchanged": ["b", "c"]},
    "model_started": {"pid": 5},
    "model_adopted": {"pid": 5},
    "model_ready": {"startup_seconds": 3.21},
    "model_unhealthy": {"reason": "no answer"},
    "model_recovered": {"unhealthy_seconds": 61.0},
    "model_stopped": {"exit_code": -15},
    "model_failed": {"exit_code": 3},
    "model_restarting": {"attempt": 2, "delay_seconds": 2.0},
    "model_gave_up": {"failures": 5},
    "model_log_failing": {"reason": "cannot be written: disk full"},
    "model_log_recovered": {"lost_bytes": 7},
    "events_lost": {"count": 4},
}
SAID = {
    "hub_started": "the hub started (pid 1, mlxhub 2)",
    "hub_stopping": "the hub begins to shut down",
    "config_reloaded": "hub.yaml applied: started a, stopped none, unchanged b, c",
    "model_started": "started (pid 5): somebody asked for it",
    "model_adopted": "found running (pid 5), and goes on",
    "model_ready": "ready after 3.2 s",
    "model_unhealthy": "unhealthy: no answer",
    "model_recovered": "answers again after 61.0 s",
    "model_stopped": "stopped (SIGTERM; the hub had to kill it) after 1m01s: somebody asked for it",
    "model_failed": "failed (exit code 3; the hub had to kill it) after 1m01s",
    "model_restarting": "restarts in 2.0 s (attempt 2)",
    "model_gave_up": "ended 5 times; stays down until somebody starts it",
    "model_log_failing": "its log cannot be written: disk full; what it writes meanwhile is lost",
    "model_log_recovered": "its log is written again; 7 bytes of this run are missing",
    "events_lost": "4 events before this line are no longer known",
}


@pytest.mark.parametrize("hook", HOOKS)
def test_each_event_in_words(hook: str) -> None:
    about = {"reason": "operator", "uptime_seconds": 61.4, "forced": True}
    assert event_in_words({"hook": hook, **ARGUMENTS[hook], "event": about}) == SAID[hook]


def test_an_event_of_a_newer_hub_is_told_by_its_name() -> None:
    assert event_in_words({"hook": "model_evicted", "event": {}}) == "model evicted"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (model(ModelState.READY, reason="x"), None),
        (model(ModelState.STOPPED), None),
        (model(ModelState.STOPPED, reason=Reason.OPERATOR), "stopped; `mlxhub start-model a` starts it"),
        (model(ModelState.STOPPED, reason=Reason.EXIT), "it ended by itself with exit code 0"),
        (model(ModelState.STARTING, reason=Reason.HUB_START), None),
        (model(ModelState.STARTING, reason="not ready yet: 503"), "not ready yet: 503"),
        (model(ModelState.UNHEALTHY, reason="no answer"), "no answer; `mlxhub explain a` says more"),
        (
            model(ModelState.FAILED, reason="crash", last_failure=failed()),
            "exit code 3 after 2.0 s; `mlxhub explain a` says more",
        ),
        (
            model(ModelState.BACKOFF, reason=Reason.EXIT, last_failure=failed()),
            "it ended by itself with exit code 0; `mlxhub explain a` says more",
        ),
    ],
)
def test_what_there_is_to_say_of_a_state(found: dict[str, Any], said: str | None) -> None:
    assert state_in_words(found) == said


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (model(ModelState.FAILED), "; the hub does not try again"),
        (model(ModelState.BACKOFF, restart_at=1.0), "; the hub tries again"),
        (model(ModelState.STARTING, pid=5), "; the hub has started it again"),
        (model(ModelState.STOPPED), ""),
    ],
)
def test_what_comes_after_a_failure(found: dict[str, Any], said: str) -> None:
    assert what_next(found) == said


@pytest.mark.parametrize(
    ("told", "headline", "next_"),
    [
        (story(ModelState.READY, pid=5), "a is ready, and nothing is wrong.", "The hub watches it."),
        (story(ModelState.STARTING, reason=Reason.OPERATOR), "a is starting.", "The hub calls it ready once it answers."),
        (story(ModelState.STARTING, reason="not ready yet: 503"), "a is starting: not ready yet: 503.", "The hub calls it"),
        (story(ModelState.UNHEALTHY, reason="deaf"), "a runs, but does not answer: deaf.", "The hub asks it again."),
        (story(ModelState.STOPPING, reason=Reason.RELOAD), "a was asked to end, and has not yet: hub.yaml was applied.", "The hub waits"),
        (story(ModelState.STOPPED), "a is stopped: nobody has started it since the hub was started.", "Nothing: it stays stopped"),
        (
            story(ModelState.BACKOFF, reason=Reason.EXIT, restart_at=NOW + 3),
            "a ended, and the hub is about to start it again: it ended by itself with exit code 0.",
            "The hub starts it again at ",
        ),
        (
            story(ModelState.BACKOFF, reason="crash", last_failure=failed(), restart_at=NOW + 3),
            "a has failed (exit code 3 after 2.0 s), and the hub is about to start it again.",
            "The hub starts it again at ",
        ),
        (
            story(ModelState.BACKOFF, reason="waits for memory", last_failure=failed(), restart_at=NOW - 3),
            "a has failed (exit code 3 after 2.0 s), and waits to be started again: waits for memory.",
            "The hub starts it again as soon as it can: waits for memory.",
        ),
        (
            story(ModelState.FAILED, reason="no program 'x'", last_failure=failed(Reason.SPAWN_ERROR, None, "no program 'x'")),
            "a has failed (no program 'x'), and stays down.",
            "Nothing by itself: a process that cannot be started",
        ),
        (
            story(ModelState.FAILED, reason="crash", last_failure=failed()),
            "a has failed (exit code 3 after 2.0 s), and stays down.",
            "Nothing by itself: its `restart:` rule allows no further try",
        ),
        (story(ModelState.FAILED, reason=Reason.EXIT), "a stays down: it ended by itself with exit code 0.", "Nothing"),
    ],
)  # fmt: skip
def test_the_story_of_each_state_says_how_it_is_and_what_comes_next(told: Story, headline: str, next_: str) -> None:
    assert told.headline.startswith(headline)
    assert told.next.startswith(next_)
    assert told.advice, "there is always something that can be done"


def commands(told: Story) -> list[str | None]:
    return [advice.command for advice in told.advice]


def test_who_ran_out_of_memory_is_told_who_has_it() -> None:
    others: list[dict[str, Any]] = [
        {"name": "small", "memory_bytes": WORTH_STOPPING},
        {"name": "big", "memory_bytes": 9 * WORTH_STOPPING},
        {"name": "none", "memory_bytes": None},
    ]
    found = model(ModelState.FAILED, reason="crash", last_failure=failed(Reason.SIGNAL, -9))
    told = story_of(found, others, " -c other.yaml", NOW)
    assert commands(told)[:2] == ["mlxhub stop-model -c other.yaml big", None]
    assert told.advice[0].why == "free the 9.0GB it has"
    assert "memory: {required: …}" in told.advice[1].why
    assert commands(story_of(found, others[2:], "", NOW))[0] is None, "nothing can be had from the others"


@pytest.mark.parametrize(
    ("failure", "first"),
    [
        (failed(Reason.SPAWN_ERROR, None, "no program"), "mlxhub check && mlxhub reload"),
        (failed(Reason.CRASH, 127), "mlxhub check && mlxhub reload"),
        (failed(Reason.STARTUP_TIMEOUT, -15), None),
        (failed(Reason.CRASH, 3), "mlxhub logs a --since-start"),
    ],
)
def test_the_first_advice_is_about_the_cause(failure: Failure, first: str | None) -> None:
    assert commands(story(ModelState.FAILED, reason="x", last_failure=failure, started_at=NOW))[0] == first


def test_a_model_that_is_well_again_is_not_told_how_to_mend_what_was() -> None:
    assert "mlxhub check && mlxhub reload" not in commands(story(ModelState.READY, last_failure=failed(code=127)))


def test_one_failure_is_told_once_and_a_series_by_its_first_and_last() -> None:
    one, two = failed(), dataclasses.replace(failed(), time=NOW)
    assert [what for what, _ in story(ModelState.READY).failures] == []
    assert [what for what, _ in story(ModelState.READY, first_failure=one, last_failure=one).failures] == [
        "the failure"
    ]
    series = story(ModelState.READY, first_failure=one, last_failure=two).failures
    assert [(what, failure["time"]) for what, failure in series] == [
        ("the first failure in a row", NOW - 10),
        ("the last failure", NOW),
    ]


def test_facts_are_those_that_are_known() -> None:
    ran = story(
        ModelState.FAILED, reason="x", exit_code=0, started_at=NOW - 100, stopped_at=NOW - 40, restarts=4,
        health_checks=9, health_checks_failed=2, log_lost_bytes=5,
    )  # fmt: skip
    facts = dict(ran.facts)
    assert list(facts) == ["started", "ended", "exit", "restarts", "health", "log"]
    assert facts["ended"].endswith("(40s ago), after 1m00s")
    assert facts["health"] == "9 checks; 2 without an answer"
    assert facts["log"] == "/logs/a.log; 5 bytes of this run could not be written"
    runs = story(ModelState.READY, pid=7, port=80, started_at=NOW - 9, ready_at=NOW - 6, exit_code=1)
    assert list(dict(runs.facts)) == ["process", "started", "ready", "last exit", "restarts", "log"]
    assert dict(runs.facts)["process"] == "pid 7, port 80"


def test_columns_for_which_there_is_no_room_are_left_out_the_least_important_first() -> None:
    models = [model(ModelState.READY, pid=7, port=80, exit_code=-9)]
    assert lines_of(models)[0].split() == list(COLUMNS)
    widest = max(map(len, lines_of(models)))
    assert lines_of(models, widest) == lines_of(models)
    assert lines_of(models, widest - 1)[0].split() == list(COLUMNS[:-1])
    assert lines_of(models, 50)[0].split() == ["NAME", "STATE", "PID", "UPTIME", "RESTARTS", "MEMORY"]
    assert lines_of(models, 1)[0].split() == ["NAME", "STATE", "UPTIME"]
    assert lines_of([], 80)[0].split() == list(COLUMNS)


@pytest.mark.parametrize(
    ("text", "epoch"),
    [
        ("10m", NOW - 600),
        ("1h30m", NOW - 5400),
        ("2d", NOW - 172_800),
        ("0s", NOW),
        ("1780000000.5", 1_780_000_000.5),
        ("2026-11-26T18:40:00+00:00", 1_795_718_400.0),
        ("2026-11-26T18:40:00Z", 1_795_718_400.0),
    ],
)
def test_a_moment_as_people_write_it(monkeypatch: pytest.MonkeyPatch, text: str, epoch: float) -> None:
    monkeypatch.setattr("mlxhub_core.cli.since.time.time", lambda: NOW)
    assert Since().convert(text, None, None) == epoch


@pytest.mark.parametrize("text", ["", "yesterday", "10x", "nan", "inf", "25:00", "-5m"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="is no moment; write 10m, 1h30m"):
        Since().convert(text, None, None)


def test_an_end_that_the_hub_has_brought_about_is_not_somebody_elses() -> None:
    assert exit_in_words(-15, by_hub=True) == "-15 SIGTERM: asked to end by the hub"
    assert exit_in_words(-9, by_hub=True) == "-9 SIGKILL: killed by the hub, as it did not end when it was asked to"
    assert exit_in_words(-11, by_hub=True) == exit_in_words(-11)
    assert exit_in_words(3, by_hub=True) == exit_in_words(3)
