"""From one event to every sink, through pluggy: what one sink does is no business of the others, nor of the hub."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from mlxhub_core import HubError, HubEvent, HubModelContext, Sink, runner
from mlxhub_core.fanout import Fanout
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.testing import RecordingSink

PATIENCE = 10.0
"""Seconds to wait for what must happen."""

CTX = HubModelContext("qwen3-4b", None, "/logs/qwen3-4b.log")


def failure(exit_code: int) -> dict[str, Any]:
    return {"ctx": CTX, "exit_code": exit_code, "event": HubEvent(seq=exit_code, id="id", time=0.0)}


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def fanout(gate: threading.Event, lines: list[str]) -> Iterator[Fanout]:
    fan = Fanout(lines.append)
    yield fan
    gate.set()
    fan.remove(fan.names(), PATIENCE)


class Hung:
    """Hangs in every hook until the gate opens."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate
        self.entered = threading.Event()

    def model_failed(self) -> None:
        self.entered.set()
        self.gate.wait(PATIENCE)


class Raising:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def model_failed(self) -> None:
        raise self.error


def codes(sink: RecordingSink) -> list[Any]:
    return [event.arguments["exit_code"] for event in sink.events]


def sink_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("sink-")]


# Delivery.


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_reaches_each_sink_with_all_its_arguments(fanout: Fanout, hook: str) -> None:
    # Distinct objects: pluggy passes them by position, and two in each other's place would show.
    arguments: dict[str, Any] = {name: object() for name in HOOKS[hook]}
    sinks = [RecordingSink(), RecordingSink()]
    for number, sink in enumerate(sinks):
        fanout.add(f"acme/{number}", sink)
    fanout.publish(hook, arguments)
    fanout.remove(fanout.names())
    for sink in sinks:
        assert [(event.hook, event.arguments) for event in sink.events] == [(hook, arguments)]


@pytest.mark.parametrize("hook", HOOKS)
def test_pluggy_sees_in_each_forwarder_the_arguments_of_the_spec(fanout: Fanout, hook: str) -> None:
    fanout.add("acme", RecordingSink())
    (implementation,) = getattr(fanout._plugins.hook, hook).get_hookimpls()
    assert implementation.argnames == HOOKS[hook]


def test_publishing_with_no_sink_does_nothing(fanout: Fanout) -> None:
    fanout.publish("model_failed", failure(1))
    assert (fanout.names(), fanout.stats()) == ([], ())


def test_two_equal_sinks_both_get_the_event(fanout: Fanout) -> None:
    @dataclass
    class Acme:
        got: list[int] = field(default_factory=list)

        def model_failed(self, exit_code: int) -> None:
            self.got.append(exit_code)

    sinks = [Acme(), Acme()]
    assert sinks[0] == sinks[1]
    for number, sink in enumerate(sinks):
        # A dataclass is not hashable either.
        fanout.add(f"acme/{number}", sink)
    fanout.publish("model_failed", failure(5))
    fanout.remove(fanout.names())
    assert [sink.got for sink in sinks] == [[5], [5]]


def test_one_object_may_serve_under_two_names(fanout: Fanout) -> None:
    sink = RecordingSink()
    fanout.add("acme/eu", sink)
    fanout.add("acme/us", sink)
    fanout.publish("model_failed", failure(5))
    fanout.remove(fanout.names())
    assert codes(sink) == [5, 5]


# Isolation.


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_sinks_that_raise_before_and_after_a_good_one_do_not_keep_it_from_any_event(
    fanout: Fanout, lines: list[str], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(runner, "BACKOFF", (0.0, 0.0))
    good = RecordingSink()
    fanout.add("before", Raising(error))
    fanout.add("good", good)
    fanout.add("after", Raising(error))
    for number in range(200):
        fanout.publish("model_failed", failure(number))
    good.wait_for("model_failed", count=200, timeout=PATIENCE)
    assert codes(good) == list(range(200))
    assert len([thread for thread in sink_threads() if thread.is_alive()]) == 3
    assert fanout.remove(fanout.names()) == {}
    assert {line.split(":")[0] for line in lines} == {"sink before", "sink after"}


def test_a_hung_sink_holds_up_neither_the_hub_nor_the_others(fanout: Fanout, gate: threading.Event) -> None:
    good, hung = RecordingSink(), Hung(gate)
    fanout.add("hung", hung)
    fanout.add("good", good)
    begun = time.monotonic()
    for number in range(100):
        fanout.publish("model_failed", failure(number))
    assert time.monotonic() - begun < 0.25
    good.wait_for("model_failed", count=100, timeout=PATIENCE)
    assert codes(good) == list(range(100))
    assert hung.entered.wait(PATIENCE)
    stuck, _ = fanout.stats()
    assert stuck.name == "hung"
    assert stuck.stuck_seconds > 0
    assert stuck.queue_length == 99


def test_a_sink_may_take_a_lock_that_the_publisher_holds(fanout: Fanout) -> None:
    lock = threading.Lock()
    answered = threading.Event()

    class Asking:
        def model_failed(self) -> None:
            with lock:
                answered.set()

    fanout.add("acme", Asking())
    with lock:
        fanout.publish("model_failed", failure(1))
    assert answered.wait(PATIENCE)


def test_only_the_sink_that_lost_events_is_told(fanout: Fanout, gate: threading.Event) -> None:
    class Slow(RecordingSink):
        entered = threading.Event()

        def model_failed(self, **arguments: Any) -> None:
            self.entered.set()
            gate.wait(PATIENCE)

    slow, good = Slow(), RecordingSink()
    fanout.add("slow", slow)
    fanout.add("good", good)
    fanout.publish("model_failed", failure(0))
    assert slow.entered.wait(PATIENCE)
    for number in range(1, runner.QUEUE_CAPACITY + 6):
        fanout.publish("model_failed", failure(number))
        # So that the good one keeps up, however slow the machine is.
        good.wait_for("model_failed", count=number, timeout=PATIENCE)
    gate.set()
    assert slow.wait_for("events_lost", timeout=PATIENCE).arguments["count"] == 5
    fanout.remove(fanout.names())
    assert {event.hook for event in good.events} == {"model_failed"}


# Coming and going.


def test_the_greeting_comes_before_an_event_of_the_very_moment(fanout: Fanout, monkeypatch: pytest.MonkeyPatch) -> None:
    register = fanout._plugins.register

    def register_and_publish(plugin: object, name: str) -> None:
        register(plugin, name)
        # As the supervisor's thread might.
        fanout.publish("model_failed", failure(1))

    monkeypatch.setattr(fanout._plugins, "register", register_and_publish)
    sink = RecordingSink()
    greeting = {"hub": "the view", "event": "the envelope"}
    fanout.add("acme", sink, greeting)
    sink.wait_for("model_failed", timeout=PATIENCE)
    assert [event.hook for event in sink.events] == ["hub_started", "model_failed"]
    assert sink.events[0].arguments == greeting


def test_sinks_that_come_and_go_meanwhile_cost_the_others_nothing(fanout: Fanout) -> None:
    steady = RecordingSink()
    fanout.add("steady", steady)

    def publish() -> None:
        for number in range(500):
            fanout.publish("model_failed", failure(number))

    publisher = threading.Thread(target=publish)
    publisher.start()
    for number in range(20):
        fanout.add(f"passing/{number}", RecordingSink())
        fanout.stats()
        fanout.remove([f"passing/{number}"])
    publisher.join()
    steady.wait_for("model_failed", count=500, timeout=PATIENCE)
    assert codes(steady) == list(range(500))


def test_a_removed_sink_gets_what_waited_and_nothing_after_and_its_name_is_free(fanout: Fanout) -> None:
    first, second = RecordingSink(), RecordingSink()
    fanout.add("acme", first)
    fanout.publish("model_failed", failure(1))
    assert fanout.remove(["acme"]) == {}
    assert fanout._plugins.get_plugins() == set(), "pluggy has forgotten it too"
    fanout.publish("model_failed", failure(2))
    fanout.add("acme", second)
    fanout.publish("model_failed", failure(3))
    fanout.remove(["acme"])
    assert (codes(first), codes(second)) == ([1], [3])


def test_a_sink_that_is_refused_leaves_nothing_behind(fanout: Fanout) -> None:
    class Newer(Sink):
        def model_failed(self, ctx: HubModelContext, *, host: str) -> None:  # type: ignore[override]
            raise NotImplementedError

    before = sink_threads()
    with pytest.raises(HubError, match="asks for 'host'"):
        fanout.add("acme", Newer())
    assert fanout.names() == []
    assert sink_threads() == before
    good = RecordingSink()
    fanout.add("acme", good)
    fanout.publish("model_failed", failure(1))
    good.wait_for("model_failed", timeout=PATIENCE)


def test_names_and_stats_are_those_of_the_sinks_that_are_on(fanout: Fanout) -> None:
    for name in ("loguru", "acme/eu", "acme/us"):
        fanout.add(name, RecordingSink())
    fanout.remove(["acme/eu"])
    assert fanout.names() == ["loguru", "acme/us"]
    assert [stats.name for stats in fanout.stats()] == ["loguru", "acme/us"]


def test_three_hung_sinks_share_one_deadline_and_are_reported(fanout: Fanout, gate: threading.Event) -> None:
    hung = [Hung(gate) for _ in range(3)]
    for number, sink in enumerate(hung):
        fanout.add(f"hung/{number}", sink)
    fanout.add("good", RecordingSink())
    for number in range(4):
        fanout.publish("model_failed", failure(number))
    for sink in hung:
        assert sink.entered.wait(PATIENCE)
    begun = time.monotonic()
    undelivered = fanout.remove(fanout.names(), deadline=0.3)
    assert 0.3 <= time.monotonic() - begun < 0.8
    assert undelivered == {"hung/0": 4, "hung/1": 4, "hung/2": 4}
    assert fanout.names() == []


def test_all_sinks_are_closed_at_the_same_time_and_not_one_after_the_other(fanout: Fanout) -> None:
    all_closing = threading.Barrier(3)

    class Closing(RecordingSink):
        def close(self) -> None:
            all_closing.wait(PATIENCE)

    for number in range(3):
        fanout.add(f"acme/{number}", Closing())
    fanout.remove(fanout.names())
    assert not all_closing.broken


def test_a_sink_may_remove_all_sinks_itself_from_one_of_its_hooks(fanout: Fanout) -> None:
    published = threading.Event()
    removed = threading.Event()

    class Ending(RecordingSink):
        def model_gave_up(self) -> None:
            published.wait(PATIENCE)
            fanout.remove(fanout.names(), PATIENCE)
            removed.set()

    ending, other = Ending(), RecordingSink()
    fanout.add("ending", ending)
    fanout.add("other", other)
    fanout.publish("model_gave_up", {"ctx": CTX, "failures": 5, "event": failure(1)["event"]})
    fanout.publish("model_failed", failure(2))
    published.set()
    assert removed.wait(PATIENCE)
    assert [event.hook for event in other.events] == ["model_gave_up", "model_failed"]
    ending.wait_for("model_failed", timeout=PATIENCE)
