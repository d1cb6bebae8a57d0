"""The checker of histories finds what must not be."""

from __future__ import annotations

import itertools

import pytest

from mlxhub_core.events import HubEvent, HubModelContext, Reason
from mlxhub_core.testing import Recorded
from mlxhub_core.testing.history import check_history


def told(*words: str) -> list[Recorded]:
    """Events in a few letters: ``start1 ready1 fail1+`` are run 1's, and the last of them says it will be restarted."""
    numbers = itertools.count(1)
    return [_event(word, next(numbers)) for word in words]


def _event(word: str, seq: int) -> Recorded:
    again = word.endswith("+")
    name = word.rstrip("+0123456789")
    run = word.rstrip("+").removeprefix(name)
    hooks = {
        "start": "started", "sick": "unhealthy", "well": "recovered", "stop": "stopped", "fail": "failed",
        "none": "failed", "found": "adopted", "lost": "failed", "full": "log_failing", "again": "restarting", "over": "gave_up", "never": "gave_up",
    }  # fmt: skip
    reason = {"never": Reason.RELOAD, "none": Reason.SPAWN_ERROR, "lost": Reason.UNSUPERVISED}.get(name)
    event = HubEvent(seq, f"id{seq}", 0.0, run_id=run, reason=reason, restart_in=1.0 if again else None)
    exit_code = {"stop": 0, "fail": 1, "none": None}.get(name)
    ctx = HubModelContext("a", None, "/a.log")
    return Recorded(f"model_{hooks.get(name, name)}", {"ctx": ctx, "event": event, "exit_code": exit_code})


@pytest.mark.parametrize(
    "words",
    [
        "",
        "start1",
        "start1 ready1 stop1 start2 ready2",
        "start1 fail1+ again1 start2 fail2 over2",
        "start1 fail1",
        "start1 stop1+ again1",
        "start1 ready1 sick1 well1 sick1 fail1+ again1",
        "start1 sick1 ready1 stop1",
        "none1 none2 start3",
        "none1+ again1 none2 over2",
        "start1 fail1+ again1 never",
        "found1 ready1 stop1 start2",
        "found1 sick1 well1 fail1",
        "found1 sick1 ready1",
        "fail1+ again1 start2",
        "stop1 found2 lost2 start3",
        "fail1+ again1 fail2+ again2 found3",
        "start1 full1 ready1 full1 lost1",
    ],
)
def test_what_can_be(words: str) -> None:
    check_history(told(*words.split()))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("ready1", "it was no process"),
        ("start1 start2", "it was starting"),
        ("start1 stop1 stop1", "it was no process"),
        ("start1 fail1 stop1", "it was no process"),
        ("start1 ready1 ready1", "it was ready"),
        ("start1 ready1 well1", "it was ready"),
        ("start1 sick1 well1", "it was late"),
        ("start1 ready1 sick1 sick1", "it was unhealthy"),
        ("start1 ready2", "it belongs to another run"),
        ("start1 stop1 start1", "its run has begun before"),
        ("start1 none2", "it could not be started, but has a process"),
        ("start1 fail1 again1", "the end had said otherwise"),
        ("start1 fail1+ over1", "the end had said otherwise"),
        ("start1 again1", "nothing has ended"),
        ("start1 fail1+ again1 again1", "nothing has ended"),
        ("start1 fail1+ again2", "it belongs to another run"),
        ("start1 found2", "it was starting"),
        ("found1 found1", "its run has begun before"),
        ("found1 well1", "it was adopted"),
        ("stop1 stop1", "it was no process"),
        ("found1 stop1 stop2", "it was no process"),
        ("start1 stop1 fail2", "it was no process"),
        ("start1 full2", "it belongs to another run"),
    ],
)
def test_what_cannot_be_is_named_with_what_was_before_it(words: str, why: str) -> None:
    with pytest.raises(AssertionError, match=f"cannot be: {why}"):
        check_history(told(*words.split()))


def test_a_gap_and_a_doubled_event_are_found() -> None:
    events = told("start1", "ready1", "stop1")
    with pytest.raises(AssertionError, match="event 3 came after 1"):
        check_history([events[0], events[2]])
    with pytest.raises(AssertionError, match="event 1 came after 1"):
        check_history([events[0], events[0]])


def test_the_greeting_of_each_sink_is_not_counted() -> None:
    greeting = Recorded("hub_started", {"event": HubEvent(0, "id0", 0.0)})
    check_history([*told("start1"), greeting])
