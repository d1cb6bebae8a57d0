"""One sink and its thread: what becomes of its events, and what it cannot do to others."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from mlxhub_core import HubError, HubEvent, HubModelContext, SinkStats, runner
from mlxhub_core.runner import SinkRunner
from mlxhub_core.settings import DeliverySettings
from mlxhub_core.testing import RecordingSink, wait_until

PATIENCE = 10.0
"""Seconds to wait for what must happen."""

NEVER = 600.0
"""Seconds of a pause that no test lives to see the end of."""

CTX = HubModelContext("qwen3-4b", "chat", "/logs/qwen3-4b.log")


def failure(number: int = 1, ctx: HubModelContext = CTX) -> dict[str, Any]:
    """The arguments of an event of that number, which is its exit code too, so that any sink can tell it."""
    return {"ctx": ctx, "exit_code": number, "event": HubEvent(seq=number, id=f"id-{number}", time=1000.0 + number)}


GREETING = {"hub": "the view", "event": failure(0)["event"]}


@dataclass
class Report:
    """What the runner complained of, line by line, as the hub would log it."""

    lines: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    def wait_for(self, part: str) -> None:
        wait_until(lambda: any(part in line for line in self.lines), timeout=PATIENCE)


class Collector:
    """Keeps the numbers of the events that it got, and what else is taken down."""

    def __init__(self) -> None:
        self.got: list[object] = []
        self.changed = threading.Condition()

    def model_failed(self, ctx: HubModelContext, exit_code: int) -> None:
        self.take(exit_code)

    def take(self, item: object) -> None:
        with self.changed:
            self.got.append(item)
            self.changed.notify_all()

    def wait_for(self, item: object) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: item in self.got, PATIENCE), f"{item} did not come, only {self.got}"


class Gated(Collector):
    """Holds its first event until the gate opens."""

    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self.gate = gate
        self.entered = threading.Event()

    def model_failed(self, ctx: HubModelContext, exit_code: int) -> None:
        self.entered.set()
        self.gate.wait(PATIENCE)
        self.take(exit_code)


class Told(Gated):
    """Takes down how many events it lost, and the number of the last of them."""

    def hub_started(self, hub: object) -> None:
        self.take(f"greeted with {hub}")

    def events_lost(self, count: int, event: HubEvent) -> None:
        self.take((count, event.seq))


class Backend(Collector):
    """A sink whose `open` fails until the backend is up; its hook fails if it was not opened."""

    def __init__(self, *, up: bool = False) -> None:
        super().__init__()
        self.up = threading.Event()
        if up:
            self.up.set()
        self.opened = False

    def open(self) -> None:
        self.take("attempt")
        if not self.up.is_set():
            raise ConnectionRefusedError
        self.opened = True

    def model_failed(self, ctx: HubModelContext, exit_code: int) -> None:
        assert self.opened
        self.take(exit_code)

    def close(self) -> None:
        self.take("closed")


Run = Callable[..., SinkRunner]


@pytest.fixture
def report() -> Report:
    return Report()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def sink_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.endswith("-acme/eu")}


@pytest.fixture
def run(report: Report, gate: threading.Event) -> Iterator[Run]:
    before = set(threading.enumerate())
    runners: list[SinkRunner] = []

    def start(sink: object, predecessor: SinkRunner | None = None, **delivery: Any) -> SinkRunner:
        runners.append(SinkRunner("acme/eu", sink, report, DeliverySettings(**delivery), predecessor))
        return runners[-1]

    yield start
    gate.set()
    for each in runners:
        each.begin_close()
    for each in runners:
        each.wait(PATIENCE)
    # Neither the sink's thread nor the one that watches it is left.
    wait_until(lambda: not sink_threads() - before, timeout=PATIENCE)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "BACKOFF", (0.0, 0.0))


@pytest.fixture
def endless_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "BACKOFF", (NEVER, NEVER))


def offer(sink_runner: SinkRunner, *numbers: int) -> None:
    for number in numbers:
        sink_runner.offer("model_failed", failure(number))


def hold(sink_runner: SinkRunner, sink: Gated, number: int = 1) -> None:
    """Let the sink have an event in hand, until its gate opens."""
    offer(sink_runner, number)
    assert sink.entered.wait(PATIENCE)


def close(sink_runner: SinkRunner, timeout: float = PATIENCE) -> int:
    sink_runner.begin_close()
    return sink_runner.end_close(timeout)


def in_hand(stats: SinkStats) -> int:
    return stats.offered - stats.delivered - stats.failed - stats.dropped - stats.queue_length


# Delivery.


def test_events_come_in_the_order_in_which_they_were_offered(run: Run) -> None:
    sink = Collector()
    acme = run(sink)
    offer(acme, *range(500))
    assert close(acme) == 0
    assert sink.got == list(range(500))


def test_hooks_open_and_close_run_on_one_thread_that_is_not_the_hubs(run: Run) -> None:
    threads: list[threading.Thread] = []

    def note(self: object) -> None:
        threads.append(threading.current_thread())

    acme = run(type("Acme", (), {"open": note, "model_failed": note, "close": note})())
    offer(acme, 1)
    close(acme)
    assert threads == [acme._thread] * 3
    assert threads[0] is not threading.current_thread()
    assert threads[0].name == "sink-acme/eu"


def test_what_a_sink_has_no_hook_for_is_not_offered_to_it(run: Run) -> None:
    acme = run(Collector())
    acme.offer("model_stopped", failure())
    acme.offer("no_such_hook", {})
    assert acme.stats().offered == 0


def test_a_sink_that_is_refused_starts_no_thread(report: Report) -> None:
    before = sink_threads()
    with pytest.raises(HubError, match="object has no hook"):
        SinkRunner("acme/eu", object(), report)
    assert sink_threads() == before


PHI = HubModelContext("phi", None, "/logs/phi.log")
OFFERED: dict[str, tuple[str, dict[str, Any]]] = {
    "greeting": ("hub_started", GREETING),
    "reload": ("config_reloaded", {"started": (), "stopped": (), "unchanged": (), "event": failure()["event"]}),
    "qwen ready": ("model_ready", {"ctx": CTX, "startup_seconds": 1.0, "event": failure()["event"]}),
    "qwen failed": ("model_failed", failure()),
    "phi failed": ("model_failed", failure(ctx=PHI)),
}


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ({}, ["greeting", "reload", "qwen ready", "qwen failed", "phi failed"]),
        ({"events": ["model_failed"]}, ["greeting", "qwen failed", "phi failed"]),
        ({"models": ["phi"]}, ["greeting", "reload", "phi failed"]),
        ({"groups": ["chat"]}, ["greeting", "reload", "qwen ready", "qwen failed"]),
        ({"models": ["phi"], "groups": ["chat"]}, ["greeting", "reload", "qwen ready", "qwen failed", "phi failed"]),
        ({"events": ["model_failed"], "models": ["qwen3-4b"]}, ["greeting", "qwen failed"]),
    ],
    ids=str,
)
def test_only_the_events_that_are_meant_for_a_sink_are_offered_to_it_but_always_the_greeting(
    run: Run, only: dict[str, list[str]], expected: list[str]
) -> None:
    sink = RecordingSink()
    acme = run(sink, only=only)
    for hook, arguments in OFFERED.values():
        acme.offer(hook, arguments)
    close(acme)
    assert [(each.hook, each.arguments) for each in sink.events] == [OFFERED[name] for name in expected]
    assert acme.stats().offered == len(expected)


# More events than it can take.


def test_offering_to_a_hung_sink_takes_no_time_and_its_queue_no_memory(
    run: Run, report: Report, gate: threading.Event
) -> None:
    sink = Gated(gate)
    acme = run(sink, queue=64)
    hold(acme, sink, 0)
    begun = time.monotonic()
    offer(acme, *range(5000))
    assert time.monotonic() - begun < 1.0
    stats = acme.stats()
    assert (stats.offered, stats.dropped, stats.queue_length, stats.queue_capacity) == (5001, 4936, 64, 64)
    gate.set()
    assert close(acme) == 0
    assert sink.got == [0, *range(4936, 5000)]
    assert report.lines == [], "it has no hook for lost events, and that is no failure"


@pytest.mark.parametrize(
    ("delivery", "expected"),
    [
        ({"when_full": "drop_oldest"}, [1, (91, 92), *range(93, 102)]),
        ({"when_full": "drop_newest"}, [1, *range(2, 10), (91, 100), 101]),
        ({"when_full": "drop_newest", "only": {"events": ["model_failed"]}}, [1, *range(2, 10), (91, 100), 101]),
    ],
    ids=["drop_oldest", "drop_newest", "even-if-other-events-are-wanted"],
)
def test_of_too_many_events_those_at_one_end_are_dropped_and_the_sink_is_told_at_the_gap(
    run: Run, gate: threading.Event, delivery: dict[str, Any], expected: list[object]
) -> None:
    sink = Told(gate)
    acme = run(sink, queue=8, **delivery)
    hold(acme, sink)
    offer(acme, *range(2, 101))
    gate.set()
    # It has caught up, and neither another event nor the end is needed for it to be told.
    sink.wait_for(expected[-2])
    offer(acme, 101)
    assert close(acme) == 0
    assert sink.got == expected
    stats = acme.stats()
    assert (stats.offered, stats.delivered, stats.dropped, in_hand(stats)) == (101, 10, 91, 0)


@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest"])
@pytest.mark.parametrize("queue", [1, 2, 7])
def test_a_sink_that_is_always_too_slow_gets_each_event_in_its_turn_or_is_told_of_it_at_its_place(
    run: Run, gate: threading.Event, when_full: str, queue: int
) -> None:
    class Slow(Told):
        may_go_on = threading.Semaphore(0)

        def model_failed(self, ctx: HubModelContext, exit_code: int) -> None:
            self.entered.set()
            self.may_go_on.acquire(timeout=PATIENCE)
            self.take(exit_code)

    sink = Slow(gate)
    acme = run(sink, queue=queue, when_full=when_full)
    hold(acme, sink)
    for first in range(2, 202, 10):
        offer(acme, *range(first, first + 10))
        # One comes out of the full queue, so that there is a gap behind events that still wait.
        sink.may_go_on.release()
        wait_until(lambda: acme.stats().queue_length < queue, timeout=PATIENCE)
    sink.may_go_on.release(1000)
    assert close(acme) == 0
    accounted, lost = 0, 0
    for item in sink.got:
        count, last = item if isinstance(item, tuple) else (1, item)
        assert last == accounted + count, f"after number {accounted}: {item}"
        accounted = last
        lost += count if isinstance(item, tuple) else 0
    assert accounted == 201
    assert lost == acme.stats().dropped > 100


@pytest.mark.parametrize(
    ("when_full", "queue", "expected"),
    [
        ("drop_oldest", 3, [(8, 8), 9, 10]),
        ("drop_oldest", 2, [(9, 9), 10]),
        ("drop_oldest", 1, [(10, 10)]),
        ("drop_newest", 3, [1, 2, (8, 10)]),
        ("drop_newest", 1, [(10, 10)]),
    ],
)
def test_a_sink_that_cannot_open_for_long_still_gets_its_greeting_and_that_first(
    run: Run, no_pauses: None, gate: threading.Event, when_full: str, queue: int, expected: list[object]
) -> None:
    class Acme(Told):
        def open(self) -> None:
            self.gate.wait(PATIENCE)

    sink = Acme(gate)
    acme = run(sink, queue=queue, when_full=when_full)
    acme.offer("hub_started", GREETING)
    offer(acme, *range(1, 11))
    assert acme.stats().queue_length == queue
    gate.set()
    assert close(acme) == 0
    assert sink.got == ["greeted with the view", *expected]
    assert in_hand(acme.stats()) == 0


def test_events_lost_while_the_sink_is_told_of_lost_ones_are_told_too(run: Run, gate: threading.Event) -> None:
    class Acme(Told):
        go_on = threading.Event()

        def events_lost(self, count: int, event: HubEvent) -> None:
            super().events_lost(count, event)
            self.go_on.wait(PATIENCE)

    sink = Acme(gate)
    acme = run(sink, queue=2)
    hold(acme, sink)
    offer(acme, 2, 3, 4)
    gate.set()
    sink.wait_for((1, 2))
    offer(acme, 5, 6)
    sink.go_on.set()
    assert close(acme) == 0
    assert sink.got == [1, (1, 2), (2, 4), 5, 6]


def test_a_sink_that_raises_when_told_of_lost_events_still_gets_the_next(run: Run, gate: threading.Event) -> None:
    class Acme(Gated):
        def events_lost(self, count: int) -> None:
            raise ValueError(count)

    sink = Acme(gate)
    acme = run(sink, queue=1)
    hold(acme, sink)
    offer(acme, 2, 3)
    gate.set()
    assert close(acme) == 0
    assert sink.got == [1, 3]
    stats = acme.stats()
    assert (stats.offered, stats.delivered, stats.failed, stats.dropped) == (3, 2, 0, 1)


# Statistics.


def test_every_event_offered_is_accounted_for(run: Run, no_pauses: None, gate: threading.Event) -> None:
    class Acme(Gated):
        def model_failed(self, ctx: HubModelContext, exit_code: int) -> None:
            super().model_failed(ctx, exit_code)
            if exit_code % 2:
                raise ValueError(exit_code)

    sink = Acme(gate)
    acme = run(sink, queue=10)
    hold(acme, sink, 0)
    offer(acme, *range(1, 31))
    held = acme.stats()
    assert (held.offered, held.delivered, held.failed, held.dropped, held.queue_length) == (31, 0, 0, 20, 10)
    assert in_hand(held) == 1
    gate.set()
    assert close(acme) == 0
    offer(acme, 31)
    done = acme.stats()
    assert (done.offered, done.delivered, done.failed, done.dropped, done.queue_length) == (32, 6, 5, 21, 0)


def test_the_stats_tell_of_the_last_success_the_last_error_and_the_call_that_is_stuck(
    run: Run, gate: threading.Event
) -> None:
    class Acme(Gated):
        def model_stopped(self) -> None:
            raise ConnectionRefusedError(111, "Connection\n   refused")

    sink = Acme(gate)
    acme = run(sink)
    fresh = acme.stats()
    assert (fresh.name, fresh.last_error, fresh.last_success, fresh.queue_capacity) == ("acme/eu", None, None, 1024)
    acme.offer("model_stopped", failure())
    hold(acme, sink)
    stuck = acme.stats()
    assert stuck.last_error == "model_stopped: ConnectionRefusedError: [Errno 111] Connection refused"
    assert (stuck.failed, stuck.last_success) == (1, None)
    assert 0 < stuck.stuck_seconds < PATIENCE
    before = time.time()
    gate.set()
    close(acme)
    done = acme.stats()
    assert done.stuck_seconds == 0
    assert done.last_success is not None
    assert before <= done.last_success <= time.time()


# Sinks that raise.


class BadStr(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError("not even that")


RAISED = [RuntimeError("boom"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BadStr(), RecursionError("deep")]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_a_sink_that_raises_keeps_its_thread_and_gets_the_next_event(
    run: Run, report: Report, error: BaseException
) -> None:
    class Acme(Collector):
        def model_stopped(self) -> None:
            raise error

    sink = Acme()
    acme = run(sink)
    acme.offer("model_stopped", failure())
    offer(acme, 7)
    sink.wait_for(7)
    assert acme._thread.is_alive()
    assert close(acme) == 0
    assert (acme.stats().failed, acme.stats().delivered) == (1, 1)
    (line,) = report.lines
    assert line.startswith(f"sink acme/eu: model_stopped: {type(error).__name__}")
    assert line.endswith("(failure 1)")


def raising(error: type[BaseException]) -> Callable[..., None]:
    def function(self: object) -> None:
        raise error

    return function


def test_an_error_without_text_is_reported_without_a_dangling_colon(run: Run, report: Report) -> None:
    acme = run(type("Acme", (), {"model_failed": raising(TimeoutError)})())
    offer(acme, 1)
    close(acme)
    assert report.lines == ["sink acme/eu: model_failed: TimeoutError (failure 1)"]


@pytest.mark.parametrize("error", [OSError, SystemExit])
def test_a_report_that_cannot_be_made_does_not_end_the_thread(error: type[BaseException]) -> None:
    def unable(line: str) -> None:
        raise error(line)

    sink = type("Acme", (Collector,), {"model_stopped": raising(ValueError)})()
    acme = SinkRunner("acme", sink, unable)
    acme.offer("model_stopped", failure())
    offer(acme, 7)
    assert close(acme) == 0
    assert sink.got == [7]


def test_500_failures_are_a_handful_of_lines_and_the_sink_is_never_turned_off(
    run: Run, no_pauses: None, report: Report
) -> None:
    acme = run(type("Acme", (), {"model_failed": raising(ValueError)})())
    offer(acme, *range(500))
    assert close(acme) == 0
    assert acme.stats().failed == 500
    assert report.lines == [
        f"sink acme/eu: model_failed: ValueError (failure {number})" for number in (1, 3, 100, 200, 300, 400, 500)
    ]


def test_each_method_of_a_sink_has_its_own_first_failure_however_often_another_failed(
    run: Run, no_pauses: None, report: Report
) -> None:
    attempts = itertools.count(1)

    class Acme:
        def open(self) -> None:
            if next(attempts) <= 4:
                raise ConnectionRefusedError

        model_failed = raising(ValueError)

    acme = run(Acme())
    offer(acme, 1)
    report.wait_for("model_failed: ")
    assert report.lines == [
        "sink acme/eu: open: ConnectionRefusedError (failure 1)",
        "sink acme/eu: open: ConnectionRefusedError (failure 3)",
        "sink acme/eu: model_failed: ValueError (failure 1)",
    ]


@pytest.mark.parametrize(("method", "patience"), [("open", 1), ("model_failed", 3)])
def test_the_pauses_after_failures_double_up_to_a_limit(
    run: Run, monkeypatch: pytest.MonkeyPatch, method: str, patience: int
) -> None:
    calls: list[float] = []

    def fail(self: object) -> None:
        calls.append(time.monotonic())
        raise ConnectionRefusedError

    monkeypatch.setattr(runner, "BACKOFF", (0.01, 0.02))
    acme = run(type("Acme", (Collector,), {method: fail})())
    offer(acme, *range(15))
    # Without the limit, the last pause alone would take longer than anybody waits.
    wait_until(lambda: len(calls) >= 15, timeout=PATIENCE)
    pauses = [later - earlier for earlier, later in itertools.pairwise(calls)][patience - 1 :]
    assert pauses[0] >= 0.01
    assert min(pauses[1:]) >= 0.02


def test_two_failures_in_a_row_bring_no_pause(run: Run, endless_pauses: None) -> None:
    class Acme(Collector):
        def model_failed(self, ctx: HubModelContext, exit_code: int) -> None:
            if exit_code % 3:
                raise ValueError(exit_code)
            self.take(exit_code)

    sink = Acme()
    acme = run(sink)
    offer(acme, *range(1, 10))
    sink.wait_for(9)


def test_the_end_of_the_hub_cuts_a_pause_short(run: Run, endless_pauses: None, report: Report) -> None:
    acme = run(type("Acme", (), {"model_failed": raising(ValueError)})())
    offer(acme, 1, 2, 3, 4, 5)
    report.wait_for("(failure 3)")
    assert close(acme) == 0
    assert acme.stats().failed == 5


# Sinks that hang.


@pytest.mark.parametrize("method", ["open", "model_failed", "close"])
def test_a_call_that_does_not_come_back_is_told_once_though_nothing_else_happens(
    run: Run, report: Report, gate: threading.Event, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def hang(self: object) -> None:
        gate.wait(PATIENCE)

    monkeypatch.setattr(runner, "STUCK", 0.02)
    acme = run(type("Acme", (Collector,), {method: hang})())
    offer(acme, 1)
    if method == "close":
        acme.begin_close()
    report.wait_for(f"sink acme/eu: has not come back from {method} for ")
    # Long enough for it to be told ten times.
    wait_until(lambda: acme.stats().stuck_seconds > 0.2, timeout=PATIENCE)
    assert len(report.lines) == 1


def test_each_call_that_hangs_is_told(run: Run, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    class Acme(Collector):
        def model_failed(self, ctx: HubModelContext, exit_code: int) -> None:
            wait_until(lambda: len(report.lines) == exit_code, timeout=PATIENCE)

    monkeypatch.setattr(runner, "STUCK", 0.02)
    acme = run(Acme())
    offer(acme, 1, 2)
    assert close(acme) == 0
    assert (len(report.lines), acme.stats().delivered) == (2, 2)


def test_a_hung_sink_is_left_behind_and_what_it_did_not_take_is_counted(run: Run, gate: threading.Event) -> None:
    sink = Gated(gate)
    acme = run(sink)
    hold(acme, sink)
    offer(acme, 2, 3, 4)
    assert close(acme, 0.01) == 4, "three that wait and the one in hand"
    assert (acme.stats().dropped, in_hand(acme.stats())) == (3, 1)
    gate.set()
    acme.wait(PATIENCE)
    assert sink.got == [1]
    assert (acme.stats().delivered, in_hand(acme.stats())) == (1, 0)


@pytest.mark.parametrize("method", ["open", "close"])
def test_a_sink_that_hangs_without_an_event_in_hand_has_lost_none(run: Run, gate: threading.Event, method: str) -> None:
    entered = threading.Event()

    def hang(self: object) -> None:
        entered.set()
        gate.wait(PATIENCE)

    acme = run(type("Acme", (Collector,), {method: hang})())
    acme.begin_close()
    assert entered.wait(PATIENCE)
    assert acme.end_close(0.0) == 0


def test_a_hung_sink_does_not_keep_the_program_from_ending() -> None:
    program = """
import threading
from mlxhub_core.runner import SinkRunner
class Hung:
    def model_failed(self): entered.set(); threading.Event().wait()
entered = threading.Event()
acme = SinkRunner("acme", Hung(), print)
acme.offer("model_failed", {"event": None})
entered.wait()
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0


# Opening.


def test_open_is_tried_until_it_works_and_the_events_wait_meanwhile(run: Run, no_pauses: None) -> None:
    sink = Backend()
    acme = run(sink)
    offer(acme, 1, 2, 3)
    wait_until(lambda: sink.got.count("attempt") >= 3, timeout=PATIENCE)
    waiting = acme.stats()
    assert (waiting.open, waiting.queue_length, waiting.delivered) == (False, 3, 0)
    assert waiting.last_error == "open: ConnectionRefusedError"
    sink.up.set()
    sink.wait_for(3)
    assert acme.stats().open
    assert close(acme) == 0
    assert [item for item in sink.got if item != "attempt"] == [1, 2, 3, "closed"]
    assert (acme.stats().failed, acme.stats().delivered) == (0, 3)


def test_a_sink_without_open_and_close_is_open_at_once(run: Run) -> None:
    sink = Collector()
    acme = run(sink)
    offer(acme, 1)
    sink.wait_for(1)
    assert acme.stats().open
    assert close(acme) == 0


def test_open_and_close_that_are_no_methods_are_not_called(run: Run, report: Report) -> None:
    sink = type("Acme", (Collector,), {"open": True, "close": False})()
    acme = run(sink)
    offer(acme, 1)
    assert close(acme) == 0
    assert (sink.got, report.lines) == ([1], [])


# Closing.


def test_close_is_called_once_after_the_last_event(run: Run) -> None:
    sink = Backend(up=True)
    acme = run(sink)
    offer(acme, 1, 2)
    assert close(acme) == 0
    assert close(acme) == 0
    assert sink.got == ["attempt", 1, 2, "closed"]


def test_close_is_called_once_also_when_open_never_worked(run: Run, endless_pauses: None) -> None:
    sink = Backend()
    acme = run(sink)
    offer(acme, 1, 2)
    sink.wait_for("attempt")
    assert close(acme) == 2, "both are reported as undelivered"
    assert sink.got == ["attempt", "closed"]
    stats = acme.stats()
    assert (stats.dropped, stats.queue_length, in_hand(stats)) == (2, 0, 0)


def test_a_sink_that_is_closed_at_once_still_gets_what_was_offered(run: Run) -> None:
    for _ in range(20):
        sink = Backend(up=True)
        acme = run(sink)
        offer(acme, 1)
        assert close(acme) == 0
        assert sink.got == ["attempt", 1, "closed"]


def test_a_close_that_raises_is_reported_and_ends_the_thread(run: Run, report: Report) -> None:
    acme = run(type("Acme", (Collector,), {"close": raising(SystemExit)})())
    assert close(acme) == 0
    assert not acme._thread.is_alive()
    assert report.lines == ["sink acme/eu: close: SystemExit (failure 1)"]


def test_events_after_the_closing_are_counted_as_dropped(run: Run) -> None:
    sink = Collector()
    acme = run(sink)
    acme.begin_close()
    offer(acme, 1)
    assert acme.end_close(PATIENCE) == 0
    assert sink.got == []
    assert (acme.stats().offered, acme.stats().dropped) == (1, 1)


def test_a_sink_may_close_itself_from_a_hook_and_still_gets_what_waits(run: Run) -> None:
    offered = threading.Event()

    class Acme(Backend):
        def model_stopped(self) -> None:
            offered.wait(PATIENCE)
            self.take(f"undelivered: {close(acme)}")

    sink = Acme(up=True)
    acme = run(sink)
    acme.offer("model_stopped", failure())
    offer(acme, 1, 2)
    offered.set()
    acme.wait(PATIENCE)
    assert sink.got == ["attempt", "undelivered: 0", 1, 2, "closed"]


# One takes the place of another.


class Sharing:
    """Sinks that want one port, and write into one log."""

    def __init__(self, name: str, log: Collector) -> None:
        self.name = name
        self.log = log

    def open(self) -> None:
        self.log.take(f"{self.name} opens")

    def model_failed(self, exit_code: int) -> None:
        self.log.take(f"{self.name}: {exit_code}")

    def close(self) -> None:
        self.log.take(f"{self.name} closes")


def test_a_successor_opens_when_its_predecessor_is_closed_and_gets_what_is_still_offered_to_that_one(run: Run) -> None:
    log = Collector()
    old = run(Sharing("old", log))
    offer(old, 1)
    new = run(Sharing("new", log), predecessor=old)
    # As the hub does: first the greeting and what comes by the new way, and only then the old one is told.
    offer(new, 2)
    old.begin_close(new)
    offer(old, 3)
    newer = run(Sharing("newer", log), predecessor=new)
    new.begin_close(newer)
    offer(old, 4)
    assert [each.end_close(PATIENCE) for each in (old, new)] == [0, 0]
    assert close(newer) == 0
    assert log.got == [
        *("old opens", "old: 1", "old closes"),
        *("new opens", "new: 2", "new: 3", "new closes"),
        *("newer opens", "newer: 4", "newer closes"),
    ]
    assert [each.stats().offered for each in (old, new, newer)] == [1, 2, 1]
    assert [each.stats().dropped for each in (old, new, newer)] == [0, 0, 0]


def test_what_is_offered_to_a_predecessor_is_judged_by_the_successor(run: Run) -> None:
    old, sink = run(Collector()), RecordingSink()
    new = run(sink, predecessor=old, only={"events": ["model_stopped"]})
    old.begin_close(new)
    # The old one has no hook for it; and the new one does not want the other.
    old.offer("model_stopped", failure())
    offer(old, 1)
    close(new)
    assert [event.hook for event in sink.events] == ["model_stopped"]


def test_a_successor_does_not_wait_for_a_predecessor_that_hangs(
    run: Run, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "CLOSE_DEADLINE", 0.01)
    hung, sink = Gated(gate), Collector()
    old = run(hung)
    hold(old, hung)
    new = run(sink, predecessor=old)
    old.begin_close(new)
    offer(new, 2)
    sink.wait_for(2)
    assert hung.got == []


def test_exchanges_under_a_flood_from_several_threads_lose_no_event_double_none_and_keep_the_order(run: Run) -> None:
    log = Collector()
    sinks = [run(log, queue=10_000)]
    publishers, events = 4, 500

    def publish(first: int) -> None:
        for number in range(first, first + events):
            offer(sinks[-1], number)

    threads = [threading.Thread(target=publish, args=(each * events,)) for each in range(publishers)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        old = sinks[-1]
        sinks.append(run(log, predecessor=old, queue=10_000))
        old.begin_close(sinks[-1])
        old.wait(PATIENCE)
    assert close(sinks[-1]) == 0
    for each in range(publishers):
        numbers = list(range(each * events, (each + 1) * events))
        assert [number for number in log.got if number in numbers] == numbers
    assert sum(each.stats().delivered for each in sinks) == publishers * events


# Forks, of a program that has the hub inside it.


def in_a_forked_child(work: Callable[[], int]) -> int:
    """What `work` returns in a forked child, as an exit code from 0 to 255; negative: the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            # Should it hang, it is not to outlive the test.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_is_silent_and_the_parent_goes_on(run: Run, gate: threading.Event) -> None:
    sink = Gated(gate)
    acme = run(sink)
    hold(acme, sink)

    def work() -> int:
        offer(acme, 2)
        return acme.stats().queue_length

    assert in_a_forked_child(work) == 0
    offer(acme, 3)
    gate.set()
    assert close(acme) == 0
    assert sink.got == [1, 3]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_lock_that_a_thread_of_the_parent_held(
    run: Run, gate: threading.Event
) -> None:
    acme = run(Collector())
    held = threading.Event()

    def hold_lock() -> None:
        with acme._changed:
            held.set()
            gate.wait(PATIENCE)

    holder = threading.Thread(target=hold_lock)
    holder.start()
    assert held.wait(PATIENCE)

    def work() -> int:
        offer(acme, 1)
        return 0

    try:
        assert in_a_forked_child(work) == 0
    finally:
        gate.set()
        holder.join()
