"""Sinks that collect what they are told and send it in `flush`: when that is called, and what then counts as delivered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlxhub_core import (
    DeliveryDelayedError,
    DeliveryRefusedError,
    HubEvent,
    HubModelContext,
    Sink,
    SinkError,
    runner,
)
from mlxhub_core.runner import SinkRunner
from mlxhub_core.settings import DeliverySettings
from mlxhub_core.testing import wait_until

CTX = HubModelContext("qwen3-4b", None, "/logs/qwen3-4b.log")


class Batches(Sink):
    """Sends its events in batches, unless it is told to fail."""

    def __init__(self) -> None:
        self.batch: list[int | None] = []
        self.sent: list[list[int | None]] = []
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.failures = 0

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None, **_: object) -> None:
        self.batch.append(exit_code)
        if exit_code == 0:
            self.entered.set()
            self.gate.wait(10)

    def flush(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("away")
        self.sent.append(self.batch)
        self.batch = []


Run = Callable[..., SinkRunner]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setattr(runner, "BACKOFF", (0.001, 0.001))
    runners: list[SinkRunner] = []

    def start(sink: object) -> SinkRunner:
        runners.append(SinkRunner("acme", sink, lambda _line: None))
        return runners[-1]

    yield start
    for each in runners:
        each.begin_close()
    for each in runners:
        each.wait(10)


def tell(sink_runner: SinkRunner, *codes: int) -> None:
    for seq, code in enumerate(codes, 1):
        event: dict[str, Any] = {"ctx": CTX, "exit_code": code, "event": HubEvent(seq=seq, id="1", time=0.0)}
        sink_runner.offer("model_failed", event)


def close(sink_runner: SinkRunner) -> int:
    sink_runner.begin_close()
    return sink_runner.end_close(10)


def test_the_events_of_one_burst_are_flushed_together(run: Run) -> None:
    sink = Batches()
    acme = run(sink)
    tell(acme, 0)
    sink.entered.wait(10)
    tell(acme, 1, 2, 3)
    sink.gate.set()
    wait_until(lambda: acme.stats().delivered == 4)
    assert sink.sent == [[0, 1, 2, 3]]


def test_a_burst_that_does_not_end_is_flushed_now_and_then(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MOST_IN_HAND", 3)
    sink = Batches()
    acme = run(sink)
    tell(acme, 0)
    sink.entered.wait(10)
    tell(acme, *range(1, 8))
    sink.gate.set()
    wait_until(lambda: acme.stats().delivered == 8)
    assert sink.sent == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_events_are_delivered_when_they_are_flushed_and_a_flush_that_raises_is_tried_again(run: Run) -> None:
    sink = Batches()
    sink.failures = 2
    acme = run(sink)
    tell(acme, 1)
    wait_until(lambda: acme.stats().delivered == 1)
    assert (acme.stats().failed, acme.stats().last_error) == (0, "flush: OSError: away")
    assert sink.sent == [[1]]


def test_while_a_flush_fails_nothing_counts_as_delivered_and_at_the_end_it_is_told(run: Run) -> None:
    sink = Batches()
    sink.failures = 10**9
    acme = run(sink)
    tell(acme, 1)
    wait_until(lambda: acme.stats().last_error is not None)
    tell(acme, 2)
    assert (acme.stats().delivered, acme.stats().queue_length) == (0, 1)
    assert close(acme) == 2


class Judged(Batches):
    """A sink whose server refuses, or asks for time, as often as told."""

    def __init__(self, *answers: Exception) -> None:
        super().__init__()
        self.answers = list(answers)
        self.tried: list[float] = []

    def flush(self) -> None:
        self.tried.append(time.monotonic())
        if self.answers:
            raise self.answers.pop(0)
        super().flush()


def test_what_is_refused_counts_as_failed_and_is_not_tried_again(run: Run) -> None:
    sink = Judged(DeliveryRefusedError("no such page"))
    acme = run(sink)
    tell(acme, 1)
    wait_until(lambda: acme.stats().failed == 1)
    sink.batch = []
    tell(acme, 2)
    wait_until(lambda: acme.stats().delivered == 1)
    assert (acme.stats().failed, acme.stats().retried, len(sink.tried)) == (1, 0, 2)
    assert acme.stats().last_error == "flush: DeliveryRefusedError: no such page"


def test_each_further_call_is_counted(run: Run) -> None:
    sink = Judged(OSError("away"), OSError("away"))
    acme = run(sink)
    tell(acme, 1)
    wait_until(lambda: acme.stats().delivered == 1)
    assert (acme.stats().failed, acme.stats().retried) == (0, 2)


def test_a_server_that_asks_for_time_gets_it_but_not_more_than_the_longest_pause(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BACKOFF", (0.001, 0.1))
    sink = Judged(DeliveryDelayedError("not now", 0.05), DeliveryDelayedError("not today", 86400))
    acme = run(sink)
    tell(acme, 1)
    wait_until(lambda: acme.stats().delivered == 1)
    first, second, third = sink.tried
    assert second - first >= 0.05
    assert third - second >= 0.1


def test_an_open_that_is_refused_is_tried_again_all_the_same(run: Run) -> None:
    class Shy(Batches):
        left = 2

        def open(self) -> None:
            self.left -= 1
            if self.left:
                raise DeliveryRefusedError("who are you?")

    acme = run(Shy())
    wait_until(lambda: acme.stats().open)
    assert acme.stats().retried == 1


def test_what_is_in_hand_when_it_is_closed_is_flushed(run: Run) -> None:
    sink = Batches()
    acme = run(sink)
    tell(acme, 0)
    sink.entered.wait(10)
    acme.begin_close()
    sink.gate.set()
    assert acme.end_close(10) == 0
    assert sink.sent == [[0]]


def test_at_the_end_a_flush_that_failed_has_one_more_chance(run: Run) -> None:
    sink = Batches()
    sink.failures = 1
    acme = run(sink)
    tell(acme, 0)
    sink.entered.wait(10)
    acme.begin_close()
    sink.gate.set()
    assert acme.end_close(10) == 0


def test_a_sink_with_an_interval_is_flushed_without_events_too(run: Run) -> None:
    sink = Batches()
    sink.flush_interval = 0.001
    acme = run(sink)
    wait_until(lambda: len(sink.sent) >= 3)
    assert acme.stats().last_success is None, "no event was delivered"


def test_a_sink_may_set_its_interval_anew_each_time(run: Run) -> None:
    class Once(Batches):
        flush_interval: float | None = 0.001

        def flush(self) -> None:
            super().flush()
            self.flush_interval = None if len(self.sent) >= 2 else 0.001

    sink = Once()
    acme = run(sink)
    wait_until(lambda: len(sink.sent) == 2)
    tell(acme, 1)
    wait_until(lambda: acme.stats().delivered == 1)
    assert sink.sent[2:] == [[1]]


@pytest.mark.parametrize(
    "interval",
    ["soon", property(lambda _self: 1 / 0), float("inf"), 1e300, 10**400, float("nan"), 0, -1.5],
    ids=["text", "raises", "endless", "huge", "too big for a float", "no number", "at once", "before"],
)
def test_an_interval_that_is_none_harms_nothing(run: Run, interval: object) -> None:
    closed = threading.Event()
    sink = type("Odd", (Batches,), {"flush_interval": interval, "close": lambda _self: closed.set()})()
    begin = time.monotonic()
    acme = run(sink)
    tell(acme, 1)
    wait_until(lambda: acme.stats().delivered == 1)
    assert len(sink.sent) <= 2 + (time.monotonic() - begin) / 0.001, "it does not spin"
    acme.begin_close()
    assert closed.wait(10), "its thread lives until it is closed"


@pytest.mark.parametrize("seconds", [None, "soon", float("inf"), 10**400, float("nan"), -1.0])
def test_a_pause_that_is_none_harms_nothing(run: Run, seconds: Any) -> None:
    class Delayed(Batches):
        def flush(self) -> None:
            if self.failures:
                self.failures -= 1
                raise DeliveryDelayedError("later", seconds)
            super().flush()

    sink = Delayed()
    sink.failures = 2
    acme = run(sink)
    tell(acme, 1)
    wait_until(lambda: acme.stats().delivered == 1)


def test_what_a_gap_made_a_sink_collect_is_flushed_though_no_event_follows(run: Run) -> None:
    class Losses(Batches):
        def events_lost(self, *, count: int, event: HubEvent) -> None:
            self.batch.append(-count)

    sink = Losses()
    delivery = DeliverySettings(queue=1, when_full="drop_newest")
    acme = SinkRunner("acme", sink, lambda _line: None, delivery)
    tell(acme, 0)
    sink.entered.wait(10)
    tell(acme, 1, 2, 3)
    acme.begin_close()
    sink.gate.set()
    acme.end_close(10)
    assert sink.sent[-1][-1] == -2


def test_a_flush_that_nobody_would_await_is_refused(run: Run) -> None:
    class Async(Sink):
        def model_failed(self, ctx: HubModelContext, **_: object) -> None: ...

        async def flush(self) -> None: ...  # type: ignore[override]

    with pytest.raises(SinkError, match=r"Async\.flush is async"):
        run(Async())
