"""One sink and its thread: what a sink may write, what becomes of its events, and what it cannot do to others."""

from __future__ import annotations

import functools
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
from unittest.mock import Mock

import pytest

from mlxhub_core import HubError, HubEvent, HubModelContext, HubObservabilitySink, Sink, SinkStats, runner
from mlxhub_core.hooks import hooks_of
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.runner import SinkRunner

PATIENCE = 10.0
"""Seconds to wait for what must happen."""

IMPATIENCE = 0.05
"""Seconds to wait for what must not happen."""

NEVER = 600.0
"""Seconds of a pause that no test lives to see the end of."""

CTX = HubModelContext("qwen3-4b", "chat", "/logs/qwen3-4b.log")


def envelope(seq: int = 1) -> HubEvent:
    return HubEvent(seq=seq, id=f"id-{seq}", time=1000.0 + seq)


def failure(exit_code: int | None = 3, seq: int = 1) -> dict[str, Any]:
    return {"ctx": CTX, "exit_code": exit_code, "event": envelope(seq)}


@dataclass
class Report:
    """What the runner complained of, line by line, as the hub would log it."""

    lines: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, line: str) -> None:
        with self.changed:
            self.lines.append(line)
            self.changed.notify_all()

    def wait_for(self, part: str) -> str:
        def found() -> str | None:
            return next((line for line in self.lines if part in line), None)

        with self.changed:
            line = self.changed.wait_for(found, PATIENCE)
        assert line, f"nothing with {part!r} was reported, only {self.lines}"
        return line


class Collector:
    """Keeps the exit codes it was told, and how many events it lost before each."""

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


class GatedAndCounting(Gated):
    def events_lost(self, count: int, event: HubEvent) -> None:
        self.take(f"lost {count} before number {event.seq}")


Run = Callable[..., SinkRunner]


@pytest.fixture
def report() -> Report:
    return Report()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def run(report: Report, gate: threading.Event) -> Iterator[Run]:
    runners: list[SinkRunner] = []

    def start(sink: object, capacity: int = runner.QUEUE_CAPACITY) -> SinkRunner:
        runners.append(SinkRunner("acme/eu", sink, report, capacity))
        return runners[-1]

    yield start
    gate.set()
    for each in runners:
        each.begin_close()
    for each in runners:
        each._thread.join(PATIENCE)
        assert not each._thread.is_alive()


def close(sink_runner: SinkRunner, timeout: float = PATIENCE) -> int:
    sink_runner.begin_close()
    return sink_runner.end_close(timeout)


def retry_after(monkeypatch: pytest.MonkeyPatch, first: float, most: float) -> None:
    monkeypatch.setattr(runner, "BACKOFF", (first, most))


def unaccounted(stats: SinkStats) -> int:
    return stats.offered - stats.delivered - stats.failed - stats.dropped - stats.queue_length


# What a sink may write.


def noted(self: Any, **arguments: Any) -> None:
    self.seen.append(arguments)


def keyword_only(self: Any, ctx: HubModelContext, *, exit_code: int | None) -> None:
    noted(self, ctx=ctx, exit_code=exit_code)


def positional(self: Any, ctx: HubModelContext, exit_code: int | None, event: HubEvent) -> None:
    noted(self, ctx=ctx, exit_code=exit_code, event=event)


def in_another_order(self: Any, event: HubEvent, exit_code: int | None, ctx: HubModelContext) -> None:
    noted(self, ctx=ctx, exit_code=exit_code, event=event)


def only_one(self: Any, exit_code: int | None) -> None:
    noted(self, exit_code=exit_code)


def none_at_all(self: Any) -> None:
    noted(self)


def all_of_them(self: Any, **more: Any) -> None:
    noted(self, **more)


def one_and_the_rest(self: Any, ctx: HubModelContext, **more: Any) -> None:
    noted(self, ctx=ctx, rest=more)


def extra_with_default(self: Any, ctx: HubModelContext, *, of_a_later_hub: str = "mine") -> None:
    noted(self, ctx=ctx, of_a_later_hub=of_a_later_hub)


def known_with_default(self: Any, ctx: HubModelContext | None = None, *, exit_code: int | None = None) -> None:
    noted(self, ctx=ctx, exit_code=exit_code)


def bare_decorator(function: Callable[..., None]) -> Callable[..., None]:
    def inner(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)

    return inner


@functools.wraps(keyword_only)
def well_decorated(*args: Any, **kwargs: Any) -> None:
    keyword_only(*args, **kwargs)


EVERYTHING = failure()
FORMS = [
    pytest.param(keyword_only, {"ctx": CTX, "exit_code": 3}, id="keyword-only-as-the-seed-has-it"),
    pytest.param(positional, EVERYTHING, id="positional"),
    pytest.param(in_another_order, EVERYTHING, id="another-order"),
    pytest.param(only_one, {"exit_code": 3}, id="fewer"),
    pytest.param(none_at_all, {}, id="none"),
    pytest.param(all_of_them, EVERYTHING, id="double-star-more"),
    pytest.param(
        one_and_the_rest, {"ctx": CTX, "rest": {"exit_code": 3, "event": envelope()}}, id="one-and-double-star-more"
    ),
    pytest.param(extra_with_default, {"ctx": CTX, "of_a_later_hub": "mine"}, id="an-extra-one-with-a-default"),
    pytest.param(known_with_default, {"ctx": CTX, "exit_code": 3}, id="a-default-gives-way-to-the-true-value"),
    pytest.param(bare_decorator(all_of_them), EVERYTHING, id="behind-a-decorator-without-wraps"),
    pytest.param(well_decorated, {"ctx": CTX, "exit_code": 3}, id="behind-a-decorator-with-wraps"),
]


@pytest.mark.parametrize(("form", "expected"), FORMS)
def test_a_hook_gets_the_arguments_it_names_in_whatever_form(
    run: Run, report: Report, form: Callable[..., None], expected: dict[str, Any]
) -> None:
    seen: list[dict[str, Any]] = []
    sink = type("Acme", (), {"model_failed": form, "seen": seen})()
    acme = run(sink)
    acme.offer("model_failed", failure())
    assert close(acme) == 0
    assert (seen, report.lines) == ([expected], [])


def test_a_hook_may_be_a_static_method_a_class_method_or_a_function_kept_by_the_object(run: Run) -> None:
    seen: list[object] = []

    class Acme(Sink):
        def __init__(self) -> None:
            # Over an inherited hook that does nothing: this one does something.
            self.model_ready = lambda ctx: seen.append(("ready", ctx))  # type: ignore[assignment,misc]

        @staticmethod
        def model_failed(exit_code: int | None) -> None:  # type: ignore[override]
            seen.append(("failed", exit_code))

        @classmethod
        def model_stopped(cls, ctx: HubModelContext) -> None:  # type: ignore[override]
            seen.append(("stopped", ctx))

    acme = run(Acme())
    acme.offer("model_ready", {"ctx": CTX, "startup_seconds": 1.0, "event": envelope()})
    acme.offer("model_failed", failure())
    acme.offer("model_stopped", failure())
    close(acme)
    assert seen == [("ready", CTX), ("failed", 3), ("stopped", CTX)]


def test_a_mock_serves_as_a_sink_in_the_tests_of_others(run: Run) -> None:
    mock = Mock()
    acme = run(mock)
    acme.offer("model_failed", failure())
    close(acme)
    mock.model_failed.assert_called_once_with(**failure())
    mock.open.assert_called_once_with()
    mock.close.assert_called_once_with()


def test_a_sink_that_hands_on_what_it_does_not_know_has_the_hooks_of_the_other() -> None:
    class Wrapper:
        def __init__(self, other: object) -> None:
            self.other = other

        def __getattr__(self, name: str) -> Any:
            return getattr(self.other, name)

    assert set(hooks_of(Wrapper(Collector()))) == {"model_failed"}


# The seed's own sink, word for word but for its import line, which is the one at the top of this file.


class metrics:  # noqa: N801
    counted: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012

    def __init__(self, name: str, labels: dict[str, Any]) -> None:
        self.what = (name, labels)

    @classmethod
    def counter(cls, name: str, labels: dict[str, Any]) -> metrics:
        return cls(name, labels)

    def inc(self) -> None:
        self.counted.append(self.what)


# fmt: off
class MetricsSink(HubObservabilitySink):
    def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None:
        metrics.counter("hub_model_started", {"model": ctx.name, "group": ctx.group}).inc()

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        metrics.counter("hub_model_stopped", {"model": ctx.name}).inc()

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        metrics.counter("hub_model_failed", {"model": ctx.name, "exit_code": exit_code}).inc()
# fmt: on


def test_the_sink_of_the_seed_works_as_it_is_written(run: Run, report: Report) -> None:
    metrics.counted.clear()
    acme = run(MetricsSink())
    acme.offer("model_started", {"ctx": CTX, "pid": 42, "event": envelope(1)})
    acme.offer("model_stopped", {"ctx": CTX, "exit_code": 0, "event": envelope(2)})
    acme.offer("model_failed", {"ctx": CTX, "exit_code": -9, "event": envelope(3)})
    assert close(acme) == 0
    assert metrics.counted == [
        ("hub_model_started", {"model": "qwen3-4b", "group": "chat"}),
        ("hub_model_stopped", {"model": "qwen3-4b"}),
        ("hub_model_failed", {"model": "qwen3-4b", "exit_code": -9}),
    ]
    assert report.lines == []


# What is never called.


def test_hooks_that_are_inherited_and_do_nothing_are_not_called() -> None:
    class OfBase(Sink):
        def model_failed(self, ctx: HubModelContext, **_: object) -> None: ...

    class OfProtocol(HubObservabilitySink):
        def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None: ...

    class Grandchild(OfBase):
        def model_ready(self, ctx: HubModelContext, **_: object) -> None: ...

    assert set(hooks_of(OfBase())) == {"model_failed"}
    assert set(hooks_of(OfProtocol())) == {"model_started"}  # type: ignore[abstract]
    assert set(hooks_of(Grandchild())) == {"model_failed", "model_ready"}


def test_what_a_sink_has_no_hook_for_is_not_offered_to_it(run: Run) -> None:
    acme = run(Collector())
    acme.offer("model_stopped", failure())
    acme.offer("no_such_hook", {})
    assert acme.stats().offered == 0


# What is refused, before the hub starts anything.


def hook(name: str, function: Callable[..., object]) -> object:
    return type("Acme", (), {name: function})()


async def asynchronous(self: Any, ctx: HubModelContext) -> None: ...


REFUSED = [
    pytest.param(
        hook("model_failed", lambda self, ctx, host: None),
        "Acme.model_failed asks for 'host', which sink API 1 does not pass (it has ctx, exit_code, event); "
        "upgrade mlxhub-core, or tell the sink's author",
        id="an-argument-the-hub-does-not-have",
    ),
    pytest.param(
        hook("model_failed", lambda self, ctx, *, exitcode: None),
        "asks for 'exitcode', which sink API 1 does not pass; did you mean 'exit_code'?",
        id="a-misspelt-argument",
    ),
    pytest.param(
        hook("model_started", lambda self, ctx, exit_code: None),
        "Acme.model_started asks for 'exit_code'",
        id="an-argument-of-another-hook",
    ),
    pytest.param(
        hook("model_failed", lambda self, ctx, /: None),
        "Acme.model_failed takes arguments by position, and the hub passes them by name; drop `/` and `*args`",
        id="positional-only",
    ),
    pytest.param(
        hook("model_failed", lambda self, ctx=None, /, **more: None), "by position", id="positional-only-with-a-default"
    ),
    pytest.param(hook("model_failed", lambda self, *args: None), "by position", id="star-args"),
    pytest.param(
        hook("model_failed", asynchronous),
        "Acme.model_failed is async, and nobody would await it; make it a plain function",
        id="async",
    ),
    pytest.param(hook("open", lambda self, config: None), "Acme.open asks for 'config'", id="open-with-an-argument"),
    pytest.param(hook("close", asynchronous), "Acme.close is async", id="async-close"),
    pytest.param(Collector, "Collector is a class, not a sink; call it: Collector()", id="the-class-itself"),
    pytest.param(None, "NoneType has no hook", id="none"),
    pytest.param("statsd", "str has no hook", id="text"),
    pytest.param(Sink(), "Sink has no hook", id="the-base-class-as-it-is"),
    pytest.param(hook("model_start", noted), "give it one of hub_started, ", id="only-a-misspelt-hook"),
]


@pytest.mark.parametrize(("sink", "sentence"), REFUSED)
def test_a_sink_that_could_not_be_told_is_refused_with_a_sentence(report: Report, sink: object, sentence: str) -> None:
    before = threading.active_count()
    with pytest.raises(HubError) as caught:
        SinkRunner("acme", sink, report)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert threading.active_count() == before


def test_an_attribute_that_is_no_method_is_not_taken_for_one(run: Run, report: Report) -> None:
    class Acme(Collector):
        model_ready = "since noon"
        open = True
        close = False

    sink = Acme()
    assert set(hooks_of(sink)) == {"model_failed"}
    acme = run(sink)
    acme.offer("model_failed", failure(1))
    assert close(acme) == 0
    assert (sink.got, report.lines) == ([1], [])


# Delivery.


def test_events_come_in_the_order_in_which_they_were_offered(run: Run) -> None:
    sink = Collector()
    acme = run(sink)
    for number in range(500):
        acme.offer("model_failed", failure(number))
    assert close(acme) == 0
    assert sink.got == list(range(500))


def test_hooks_open_and_close_run_on_one_thread_that_is_not_the_hubs(run: Run) -> None:
    threads: list[threading.Thread] = []

    def note(self: object) -> None:
        threads.append(threading.current_thread())

    acme = run(type("Acme", (), {"open": note, "model_failed": note, "close": note})())
    acme.offer("model_failed", failure())
    close(acme)
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()
    assert threads[0].name == "sink-acme/eu"


def test_offering_to_a_hung_sink_takes_no_time_and_its_queue_no_memory(
    run: Run, report: Report, gate: threading.Event
) -> None:
    sink = Gated(gate)
    acme = run(sink, capacity=64)
    acme.offer("model_failed", failure())
    assert sink.entered.wait(PATIENCE)
    begun = time.monotonic()
    for number in range(5000):
        acme.offer("model_failed", failure(number))
    assert time.monotonic() - begun < 1.0
    stats = acme.stats()
    assert (stats.offered, stats.dropped, stats.queue_length, stats.queue_capacity) == (5001, 4936, 64, 64)
    gate.set()
    assert close(acme) == 0
    assert sink.got == [3, *range(4936, 5000)]
    assert report.lines == [], "it has no hook for lost events, and that is no failure"


def test_of_too_many_events_the_oldest_are_dropped_and_the_sink_is_told_how_many(
    run: Run, gate: threading.Event
) -> None:
    sink = GatedAndCounting(gate)
    acme = run(sink, capacity=8)
    acme.offer("model_failed", failure(1, seq=1))
    assert sink.entered.wait(PATIENCE)
    for number in range(2, 101):
        acme.offer("model_failed", failure(number, seq=number))
    gate.set()
    assert close(acme) == 0
    assert sink.got == [1, "lost 91 before number 93", *range(93, 101)]
    stats = acme.stats()
    assert (stats.offered, stats.delivered, stats.dropped) == (100, 9, 91)
    assert unaccounted(stats) == 0


def test_events_lost_while_the_sink_is_told_of_lost_ones_are_told_too(run: Run, gate: threading.Event) -> None:
    class Acme(Gated):
        told = threading.Event()
        go_on = threading.Event()

        def events_lost(self, count: int) -> None:
            self.take(f"lost {count}")
            self.told.set()
            self.go_on.wait(PATIENCE)

    sink = Acme(gate)
    acme = run(sink, capacity=2)
    acme.offer("model_failed", failure(1))
    assert sink.entered.wait(PATIENCE)
    for number in (2, 3, 4):
        acme.offer("model_failed", failure(number))
    gate.set()
    assert sink.told.wait(PATIENCE)
    for number in (5, 6):
        acme.offer("model_failed", failure(number))
    sink.go_on.set()
    assert close(acme) == 0
    assert sink.got == [1, "lost 1", "lost 2", 5, 6]


def test_a_sink_that_raises_when_told_of_lost_events_still_gets_the_next(run: Run, gate: threading.Event) -> None:
    class Acme(Gated):
        def events_lost(self, count: int) -> None:
            raise ValueError(count)

    sink = Acme(gate)
    acme = run(sink, capacity=1)
    acme.offer("model_failed", failure(1))
    assert sink.entered.wait(PATIENCE)
    acme.offer("model_failed", failure(2))
    acme.offer("model_failed", failure(3))
    gate.set()
    assert close(acme) == 0
    assert sink.got == [1, 3]
    stats = acme.stats()
    assert (stats.offered, stats.delivered, stats.failed, stats.dropped) == (3, 2, 0, 1)


def test_every_event_offered_is_accounted_for(run: Run, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    class Acme(Gated):
        def model_failed(self, ctx: HubModelContext, exit_code: int) -> None:
            super().model_failed(ctx, exit_code)
            if exit_code % 2:
                raise ValueError(exit_code)

    retry_after(monkeypatch, 0.0, 0.0)
    sink = Acme(gate)
    acme = run(sink, capacity=10)
    acme.offer("model_failed", failure(0))
    assert sink.entered.wait(PATIENCE)
    for number in range(1, 31):
        acme.offer("model_failed", failure(number))
    held = acme.stats()
    assert (held.offered, held.delivered, held.failed, held.dropped, held.queue_length) == (31, 0, 0, 20, 10)
    assert unaccounted(held) == 1, "the one that the sink has in hand"
    gate.set()
    assert close(acme) == 0
    acme.offer("model_failed", failure(31))
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
    assert (fresh.name, fresh.last_error, fresh.last_success) == ("acme/eu", None, None)
    acme.offer("model_stopped", failure())
    acme.offer("model_failed", failure())
    assert sink.entered.wait(PATIENCE)
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


# Sinks that misbehave.


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
    acme.offer("model_failed", failure(7))
    sink.wait_for(7)
    assert acme._thread.is_alive()
    assert close(acme) == 0
    assert (acme.stats().failed, acme.stats().delivered) == (1, 1)
    (line,) = report.lines
    assert line.startswith(f"sink acme/eu: model_stopped: {type(error).__name__}")
    assert line.endswith("(failure 1)")


def test_an_error_without_text_is_reported_without_a_dangling_colon(run: Run, report: Report) -> None:
    class Acme:
        def model_failed(self) -> None:
            raise TimeoutError

    acme = run(Acme())
    acme.offer("model_failed", failure())
    close(acme)
    assert report.lines == ["sink acme/eu: model_failed: TimeoutError (failure 1)"]


def test_a_report_that_cannot_be_made_does_not_end_the_thread() -> None:
    class Acme(Collector):
        def model_stopped(self) -> None:
            raise ValueError

    def unable(line: str) -> None:
        raise OSError(line)

    sink = Acme()
    acme = SinkRunner("acme", sink, unable)
    acme.offer("model_stopped", failure())
    acme.offer("model_failed", failure(7))
    assert close(acme) == 0
    assert sink.got == [7]


def test_500_failures_are_a_handful_of_lines(run: Run, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    class Acme:
        def model_failed(self, exit_code: int) -> None:
            raise ValueError(exit_code)

    retry_after(monkeypatch, 0.0, 0.0)
    acme = run(Acme())
    for number in range(500):
        acme.offer("model_failed", failure(number))
    assert close(acme) == 0
    assert acme.stats().failed == 500
    assert [line.rpartition(" (")[2] for line in report.lines] == [
        f"failure {number})" for number in (1, 3, 100, 200, 300, 400, 500)
    ]


def test_500_failures_to_open_are_a_handful_of_lines_and_the_first_failed_event_is_still_news(
    run: Run, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Acme:
        attempts = itertools.count(1)

        def open(self) -> None:
            if next(self.attempts) <= 500:
                raise ConnectionRefusedError

        def model_failed(self) -> None:
            raise ValueError

    retry_after(monkeypatch, 0.0, 0.0)
    acme = run(Acme())
    acme.offer("model_failed", failure())
    report.wait_for("model_failed: ValueError (failure 1)")
    assert [line for line in report.lines if "open: ConnectionRefusedError" in line] == [
        f"sink acme/eu: open: ConnectionRefusedError (failure {number})" for number in (1, 3, 100, 200, 300, 400, 500)
    ]


def test_after_three_failures_in_a_row_a_sink_gets_a_pause_which_the_end_of_the_hub_cuts_short(
    run: Run, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Acme:
        fourth = threading.Event()

        def model_failed(self, exit_code: int) -> None:
            if exit_code == 4:
                self.fourth.set()
            raise ValueError(exit_code)

    retry_after(monkeypatch, NEVER, NEVER)
    sink = Acme()
    acme = run(sink)
    for number in (1, 2, 3, 4):
        acme.offer("model_failed", failure(number))
    report.wait_for("(failure 3)")
    assert not sink.fourth.wait(IMPATIENCE)
    assert close(acme) == 0
    assert sink.fourth.is_set()


def test_failures_with_successes_between_them_bring_no_pause(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Acme(Collector):
        def model_failed(self, ctx: HubModelContext, exit_code: int) -> None:
            if exit_code % 3:
                raise ValueError(exit_code)
            self.take(exit_code)

    retry_after(monkeypatch, NEVER, NEVER)
    sink = Acme()
    acme = run(sink)
    for number in range(1, 10):
        acme.offer("model_failed", failure(number))
    sink.wait_for(9)


# Opening.


class Backend(Collector):
    """A sink whose `open` fails until the backend is up; its hook fails if it was not opened."""

    def __init__(self) -> None:
        super().__init__()
        self.up = threading.Event()
        self.attempts: list[float] = []
        self.opened = False
        self.closed = 0

    def open(self) -> None:
        self.attempts.append(time.monotonic())
        self.take(f"attempt {len(self.attempts)}")
        if not self.up.is_set():
            raise ConnectionRefusedError
        self.opened = True

    def model_failed(self, ctx: HubModelContext, exit_code: int) -> None:
        assert self.opened
        self.take(exit_code)

    def close(self) -> None:
        self.closed += 1


def test_open_is_tried_until_it_works_and_the_events_wait_meanwhile(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    retry_after(monkeypatch, 0.001, 0.001)
    sink = Backend()
    acme = run(sink)
    for number in (1, 2, 3):
        acme.offer("model_failed", failure(number))
    sink.wait_for("attempt 3")
    waiting = acme.stats()
    assert (waiting.open, waiting.queue_length, waiting.delivered) == (False, 3, 0)
    assert waiting.last_error == "open: ConnectionRefusedError"
    sink.up.set()
    sink.wait_for(3)
    assert [item for item in sink.got if isinstance(item, int)] == [1, 2, 3]
    assert acme.stats().open
    close(acme)
    assert (acme.stats().failed, acme.stats().delivered, sink.closed) == (0, 3, 1)


def test_a_sink_that_could_not_be_opened_for_long_still_gets_its_greeting_first(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Acme(Backend):
        def hub_started(self, hub: object) -> None:
            self.take(f"greeted with {hub}")

        def events_lost(self, count: int) -> None:
            self.take(f"lost {count}")

    retry_after(monkeypatch, 0.001, 0.001)
    sink = Acme()
    acme = run(sink, capacity=3)
    acme.offer("hub_started", {"hub": "the view", "event": envelope(0)})
    for number in range(10):
        acme.offer("model_failed", failure(number))
    assert acme.stats().queue_length == 3
    sink.up.set()
    sink.wait_for(9)
    assert [item for item in sink.got if not str(item).startswith("attempt")] == [
        "greeted with the view",
        "lost 8",
        8,
        9,
    ]
    close(acme)
    assert unaccounted(acme.stats()) == 0


def test_a_queue_for_one_event_drops_even_the_greeting_rather_than_fail(run: Run, gate: threading.Event) -> None:
    class Acme(Gated):
        def hub_started(self) -> None:
            self.take("greeted")

    sink = Acme(gate)
    acme = run(sink, capacity=1)
    acme.offer("model_failed", failure(1))
    assert sink.entered.wait(PATIENCE)
    acme.offer("hub_started", {"hub": None, "event": envelope(0)})
    acme.offer("model_failed", failure(2))
    gate.set()
    assert close(acme) == 0
    assert sink.got == [1, 2]


def test_the_pause_between_two_attempts_to_open_doubles(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    retry_after(monkeypatch, 0.01, NEVER)
    sink = Backend()
    run(sink)
    sink.wait_for("attempt 4")
    pauses = [later - earlier for earlier, later in itertools.pairwise(sink.attempts)]
    for pause, least in zip(pauses, (0.01, 0.02, 0.04), strict=True):
        assert pause >= least


def test_the_pause_between_two_attempts_to_open_has_a_limit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without one, the last pause alone would take a minute.
    retry_after(monkeypatch, 0.001, 0.002)
    sink = Backend()
    run(sink)
    sink.wait_for("attempt 17")


def test_a_sink_without_open_and_close_is_open_at_once(run: Run) -> None:
    sink = Collector()
    acme = run(sink)
    acme.offer("model_failed", failure(1))
    sink.wait_for(1)
    assert acme.stats().open
    assert close(acme) == 0


# Closing.


def test_close_is_called_once_after_the_last_event(run: Run) -> None:
    class Acme(Collector):
        def close(self) -> None:
            self.take("closed")

    sink = Acme()
    acme = run(sink)
    acme.offer("model_failed", failure(1))
    acme.offer("model_failed", failure(2))
    assert close(acme) == 0
    assert close(acme) == 0
    assert sink.got == [1, 2, "closed"]


def test_a_sink_that_is_closed_at_once_still_gets_what_was_offered(run: Run) -> None:
    for _ in range(20):
        sink = Backend()
        sink.up.set()
        acme = run(sink)
        acme.offer("model_failed", failure(1))
        assert close(acme) == 0
        assert sink.got == ["attempt 1", 1]


def test_close_is_called_once_also_when_open_never_worked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    retry_after(monkeypatch, NEVER, NEVER)
    sink = Backend()
    acme = run(sink)
    acme.offer("model_failed", failure(1))
    acme.offer("model_failed", failure(2))
    sink.wait_for("attempt 1")
    assert close(acme) == 2, "both are reported as undelivered"
    assert (sink.closed, len(sink.attempts)) == (1, 1)
    stats = acme.stats()
    assert (stats.dropped, stats.queue_length, unaccounted(stats)) == (2, 0, 0)


def test_a_close_that_raises_is_reported_and_ends_the_thread(run: Run, report: Report) -> None:
    class Acme(Collector):
        def close(self) -> None:
            raise SystemExit("no")

    acme = run(Acme())
    assert close(acme) == 0
    assert not acme._thread.is_alive()
    assert report.lines == ["sink acme/eu: close: SystemExit: no (failure 1)"]


def test_events_after_the_closing_are_counted_as_dropped(run: Run) -> None:
    sink = Collector()
    acme = run(sink)
    acme.begin_close()
    acme.offer("model_failed", failure())
    assert acme.end_close(PATIENCE) == 0
    assert sink.got == []
    assert (acme.stats().offered, acme.stats().dropped) == (1, 1)


def test_a_hung_sink_is_left_behind_and_what_it_did_not_take_is_counted(run: Run, gate: threading.Event) -> None:
    sink = Gated(gate)
    acme = run(sink)
    acme.offer("model_failed", failure(0))
    assert sink.entered.wait(PATIENCE)
    for number in (1, 2, 3):
        acme.offer("model_failed", failure(number))
    assert close(acme, 0.01) == 4, "three that wait and the one in hand"
    assert (acme.stats().dropped, unaccounted(acme.stats())) == (3, 1)
    gate.set()
    acme._thread.join(PATIENCE)
    assert sink.got == [0]
    assert (acme.stats().delivered, unaccounted(acme.stats())) == (1, 0)


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


def test_a_sink_may_close_itself_from_a_hook_and_still_gets_what_waits(run: Run) -> None:
    started = threading.Event()

    class Acme(Backend):
        def model_stopped(self) -> None:
            started.wait(PATIENCE)
            acme.begin_close()
            self.take(f"undelivered: {acme.end_close(PATIENCE)}")

    sink = Acme()
    sink.up.set()
    acme = run(sink)
    acme.offer("model_stopped", failure())
    acme.offer("model_failed", failure(1))
    acme.offer("model_failed", failure(2))
    started.set()
    acme._thread.join(PATIENCE)
    assert not acme._thread.is_alive()
    assert sink.got == ["attempt 1", "undelivered: 0", 1, 2]
    assert sink.closed == 1


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
    acme.offer("model_failed", failure(1))
    assert sink.entered.wait(PATIENCE)

    def work() -> int:
        acme.offer("model_failed", failure(2))
        return acme.stats().queue_length

    assert in_a_forked_child(work) == 0
    acme.offer("model_failed", failure(3))
    gate.set()
    assert close(acme) == 0
    assert sink.got == [1, 3]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_lock_that_a_thread_of_the_parent_held(
    run: Run, gate: threading.Event
) -> None:
    acme = run(Collector())
    held = threading.Event()

    def hold() -> None:
        with acme._changed:
            held.set()
            gate.wait(PATIENCE)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(PATIENCE)

    def work() -> int:
        acme.offer("model_failed", failure())
        return 0

    try:
        assert in_a_forked_child(work) == 0
    finally:
        gate.set()
        holder.join()


def test_the_table_of_hooks_holds_those_of_the_specs_and_nothing_else() -> None:
    assert HOOKS["model_failed"] == ("ctx", "exit_code", "event")
    assert "hookspec" not in HOOKS
    assert all(arguments[-1] == "event" for arguments in HOOKS.values())
