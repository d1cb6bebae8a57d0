"""From one event to every sink, through pluggy: what one sink does is no business of the others, nor of the hub."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from mlxhub_core import HubEvent, HubModelContext, Sink, SinkError, hookimpl, runner
from mlxhub_core import fanout as fanout_module
from mlxhub_core.fanout import Fanout
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.settings import DeliverySettings
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
    close(fan)


def close(fan: Fanout, *names: str) -> dict[str, int]:
    """Turn these sinks off, or all, and wait for them: what they could not deliver."""
    return fan.finish([fan.remove(name) for name in names or fan.names()], PATIENCE)


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
    close(fanout)
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
    close(fanout)
    assert [sink.got for sink in sinks] == [[5], [5]]


def test_one_object_may_serve_under_two_names(fanout: Fanout) -> None:
    sink = RecordingSink()
    fanout.add("acme/eu", sink)
    fanout.add("acme/us", sink)
    fanout.publish("model_failed", failure(5))
    close(fanout)
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
    assert close(fanout) == {}
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
    fanout.add("slow", slow, delivery=DeliverySettings(queue=8))
    fanout.add("good", good)
    fanout.publish("model_failed", failure(0))
    assert slow.entered.wait(PATIENCE)
    for number in range(1, 8 + 6):
        fanout.publish("model_failed", failure(number))
        # So that the good one keeps up, however slow the machine is.
        good.wait_for("model_failed", count=number, timeout=PATIENCE)
    gate.set()
    assert slow.wait_for("events_lost", timeout=PATIENCE).arguments["count"] == 5
    close(fanout)
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
        close(fanout, f"passing/{number}")
    publisher.join()
    steady.wait_for("model_failed", count=500, timeout=PATIENCE)
    assert codes(steady) == list(range(500))


def test_a_removed_sink_gets_what_waited_and_nothing_after_and_its_name_is_free(fanout: Fanout) -> None:
    first, second = RecordingSink(), RecordingSink()
    fanout.add("acme", first)
    fanout.publish("model_failed", failure(1))
    assert close(fanout, "acme") == {}
    assert fanout._plugins.get_plugins() == set(), "pluggy has forgotten it too"
    fanout.publish("model_failed", failure(2))
    fanout.add("acme", second)
    fanout.publish("model_failed", failure(3))
    close(fanout)
    assert (codes(first), codes(second)) == ([1], [3])


def test_a_sink_that_is_refused_leaves_nothing_behind(fanout: Fanout) -> None:
    class Newer(Sink):
        def model_failed(self, ctx: HubModelContext, *, host: str) -> None:  # type: ignore[override]
            raise NotImplementedError

    before = sink_threads()
    with pytest.raises(SinkError, match="asks for 'host'"):
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
    close(fanout, "acme/eu")
    assert fanout.names() == ["loguru", "acme/us"]
    assert [stats.name for stats in fanout.stats()] == ["loguru", "acme/us"]


@pytest.mark.parametrize(("deadline", "default"), [(0.3, 600.0), (None, 0.3)], ids=["given", "default"])
def test_three_hung_sinks_share_one_deadline_and_what_each_did_not_deliver_is_told(
    fanout: Fanout, gate: threading.Event, monkeypatch: pytest.MonkeyPatch, deadline: float | None, default: float
) -> None:
    monkeypatch.setattr(fanout_module, "CLOSE_DEADLINE", default)
    hung = [Hung(gate) for _ in range(3)]
    for number, sink in enumerate(hung):
        fanout.add(f"hung/{number}", sink)
    fanout.add("good", RecordingSink())
    for number in range(4):
        fanout.publish("model_failed", failure(number))
    for sink in hung:
        assert sink.entered.wait(PATIENCE)
    begun = time.monotonic()
    undelivered = fanout.finish([fanout.remove(name) for name in fanout.names()], deadline)
    assert 0.3 <= time.monotonic() - begun < 0.8
    assert undelivered == {"hung/0": 4, "hung/1": 4, "hung/2": 4}
    assert fanout.names() == []


def test_all_sinks_are_closed_at_the_same_time_and_not_one_after_the_other(fanout: Fanout) -> None:
    all_closing = threading.Barrier(3)
    closed = []

    class Closing(RecordingSink):
        def close(self) -> None:
            closed.append(all_closing.wait(PATIENCE))

    for number in range(3):
        fanout.add(f"acme/{number}", Closing())
    close(fanout)
    assert len(closed) == 3


def test_a_sink_may_remove_all_sinks_itself_from_one_of_its_hooks(fanout: Fanout) -> None:
    published = threading.Event()
    removed = threading.Event()

    class Ending(RecordingSink):
        def model_gave_up(self) -> None:
            published.wait(PATIENCE)
            close(fanout)
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


# One in the place of another.


def test_a_sink_of_the_same_name_takes_the_place_of_the_old_one_which_gets_what_waits_and_is_given_back(
    fanout: Fanout, gate: threading.Event
) -> None:
    steps = []

    class Slow(RecordingSink):
        def open(self) -> None:
            gate.wait(PATIENCE)

        def close(self) -> None:
            steps.append("the old one closes")

    class Following(RecordingSink):
        def open(self) -> None:
            steps.append("the new one opens")

    old, new = Slow(), Following()
    assert fanout.add("acme", old) is None
    fanout.add("other", RecordingSink())
    fanout.publish("model_failed", failure(1))
    leaving = fanout.add("acme", new, {"hub": "the view", "event": "the envelope"}, DeliverySettings(queue=7))
    assert leaving is not None
    assert leaving.sink is old
    fanout.publish("model_failed", failure(2))
    assert fanout.names() == ["acme", "other"]
    assert [(stats.queue_capacity, stats.offered) for stats in fanout.stats()] == [(7, 2), (1024, 2)]
    gate.set()
    assert fanout.finish([leaving], PATIENCE) == {}
    close(fanout)
    assert steps == ["the old one closes", "the new one opens"]
    assert codes(old) == [1]
    assert [event.hook for event in new.events] == ["hub_started", "model_failed"]
    assert new.events[-1].arguments == failure(2)


def test_a_sink_that_is_refused_leaves_the_one_of_that_name_in_its_place(fanout: Fanout) -> None:
    sink = RecordingSink()
    fanout.add("acme", sink)
    with pytest.raises(SinkError, match="has no hook"):
        fanout.add("acme", object())
    fanout.publish("model_failed", failure(1))
    sink.wait_for("model_failed", timeout=PATIENCE)


def test_an_event_that_is_on_its_way_to_a_sink_when_that_is_replaced_goes_to_the_new_one(
    fanout: Fanout, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = RecordingSink(), RecordingSink()
    fanout.add("acme", old)
    on_its_way = runner.SinkRunner.offer
    leaving = []

    def replace_and_offer(self: runner.SinkRunner, hook: str, arguments: dict[str, Any]) -> None:
        # As a reload might, on another thread, at the worst moment: the runner is chosen, the event not yet in its queue.
        monkeypatch.setattr(runner.SinkRunner, "offer", on_its_way)
        leaving.append(fanout.add("acme", new))
        self.offer(hook, arguments)

    monkeypatch.setattr(runner.SinkRunner, "offer", replace_and_offer)
    fanout.publish("model_failed", failure(1))
    close(fanout)
    assert [each.name for each in leaving if each] == ["acme"]
    assert (codes(old), codes(new)) == ([], [1])


def test_under_a_flood_each_event_goes_to_exactly_one_of_two_sinks_that_follow_each_other(fanout: Fanout) -> None:
    exchanges, events = 30, 100
    burst = threading.Semaphore(0)
    roomy = DeliverySettings(queue=exchanges * events)
    sinks, steady = [RecordingSink()], RecordingSink()
    fanout.add("acme", sinks[0], delivery=roomy)
    fanout.add("steady", steady, delivery=roomy)

    def publish() -> None:
        for number in range(exchanges * events):
            if number % events == 0:
                burst.acquire(timeout=PATIENCE)
            fanout.publish("model_failed", failure(number))

    publisher = threading.Thread(target=publish)
    publisher.start()
    for _ in range(exchanges):
        burst.release()
        sinks.append(RecordingSink())
        old = fanout.add("acme", sinks[-1], delivery=roomy)
        assert old is not None
        assert fanout.finish([old], PATIENCE) == {}
    publisher.join(PATIENCE)
    assert close(fanout) == {}
    assert [code for sink in sinks for code in codes(sink)] == list(range(exchanges * events)), "in order, too"
    assert codes(steady) == list(range(exchanges * events)), "the exchange of others costs it nothing"
    assert len([sink for sink in sinks if sink.events]) > 1


# Objects with pluggy's own markers, which are called as they are.


class Base:
    """Takes down what it is called with. Equal to all of its kind, as two dataclasses with the same values are."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    __hash__ = None  # type: ignore[assignment]


class Plain(Base):
    @hookimpl
    def model_failed(self, exit_code: int) -> None:
        self.got.append(exit_code)


class OtherOrder(Base):
    @hookimpl
    def model_failed(self, event: HubEvent, exit_code: int, ctx: HubModelContext) -> None:
        assert (ctx, event.seq) == (CTX, exit_code)
        self.got.append(exit_code)


class OtherName(Base):
    @hookimpl(specname="model_failed")
    def on_failure(self, exit_code: int) -> None:
        self.got.append(exit_code)


class Wrapper(Base):
    @hookimpl(wrapper=True)
    def model_failed(self, exit_code: int) -> Iterator[None]:
        yield
        self.got.append(exit_code)


class OfALaterHub(Plain):
    @hookimpl(optionalhook=True)
    def model_vanished(self, where: str) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("kind", [Plain, OtherOrder, OtherName, Wrapper, OfALaterHub])
def test_a_registered_object_is_called_as_its_marks_say_until_it_is_unregistered(
    fanout: Fanout, kind: type[Base]
) -> None:
    plugin, equal = kind(), kind()
    fanout.register(plugin)
    fanout.register(equal)
    fanout.publish("model_failed", failure(1))
    fanout.publish("model_log_failing", {"ctx": CTX, "reason": "none of its hooks", "event": failure(1)["event"]})
    fanout.unregister(plugin)
    fanout.publish("model_failed", failure(2))
    assert (plugin.got, equal.got) == ([1], [1, 2])


def test_a_registered_object_is_called_on_the_thread_of_the_hub_when_the_sinks_have_the_event(fanout: Fanout) -> None:
    seen = []

    class First:
        @hookimpl(tryfirst=True)
        def model_failed(self) -> None:
            seen.append((threading.current_thread(), [stats.offered for stats in fanout.stats()]))

    fanout.add("before", RecordingSink())
    fanout.register(First())
    fanout.add("after", RecordingSink())
    fanout.publish("model_failed", failure(1))
    assert seen == [(threading.current_thread(), [1, 1])]


def test_a_registered_object_may_have_the_name_of_a_sink(fanout: Fanout) -> None:
    plugin, sink = Plain(), RecordingSink()
    plugin.__name__ = "acme"  # type: ignore[attr-defined]  # what pluggy would go by, as for a module
    fanout.register(plugin)
    fanout.add("acme", sink)
    fanout.publish("model_failed", failure(1))
    close(fanout)
    assert (plugin.got, codes(sink)) == ([1], [1])


class Refuses:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class RefusesPlainly(Refuses):
    @hookimpl
    def model_failed(self) -> None:
        raise self.error


class RefusesFirst(Refuses):
    @hookimpl(tryfirst=True)
    def model_failed(self) -> None:
        raise self.error


class RefusesBeforeAll(Refuses):
    @hookimpl(wrapper=True)
    def model_failed(self) -> Iterator[None]:
        raise self.error
        yield


class RefusesAfterAll(Refuses):
    @hookimpl(wrapper=True, tryfirst=True)
    def model_failed(self) -> Iterator[None]:
        yield
        raise self.error


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(1), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("kind", [RefusesPlainly, RefusesFirst, RefusesBeforeAll, RefusesAfterAll])
def test_a_registered_object_that_raises_harms_neither_sinks_nor_other_objects_nor_the_hub(
    fanout: Fanout, lines: list[str], kind: type[Refuses], error: BaseException
) -> None:
    sinks, plugins = [RecordingSink(), RecordingSink()], [Plain(), Plain()]
    fanout.add("before", sinks[0])
    fanout.register(plugins[0])
    fanout.register(kind(error))
    fanout.register(plugins[1])
    fanout.add("after", sinks[1])
    for number in range(3):
        fanout.publish("model_failed", failure(number))
    close(fanout)
    assert [codes(sink) for sink in sinks] == [plugin.got for plugin in plugins] == [[0, 1, 2]] * 2
    assert lines == [f"{kind.__name__}, a registered plug-in, raised in model_failed: {runner.described(error)}"] * 3


def test_a_report_that_cannot_be_made_of_it_harms_nobody_either() -> None:
    def refuse(line: str) -> None:
        raise SystemExit(line)

    fan = Fanout(refuse)
    plugin = Plain()
    fan.register(RefusesPlainly(ValueError()))
    fan.register(plugin)
    fan.publish("model_failed", failure(1))
    assert plugin.got == [1]


class Nothing:
    def model_failed(self) -> None: ...


class Misspelt:
    @hookimpl
    def model_failled(self) -> None: ...


class MisspeltElsewhere:
    @hookimpl(specname="model_faild")
    def at_the_end(self) -> None: ...


class AsksTooMuch:
    @hookimpl
    def model_failed(self, ctx: HubModelContext, host: str) -> None: ...


class ByKeyword:
    @hookimpl
    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None = None) -> None: ...


class Async:
    @hookimpl
    async def model_failed(self) -> None: ...


class AsyncToo:
    @hookimpl
    async def model_failed(self) -> Any:
        yield


class Yields:
    @hookimpl
    def model_failed(self) -> Iterator[None]:
        yield


class WrapsWithoutYield:
    @hookimpl(wrapper=True)
    def model_failed(self) -> None: ...


@pytest.mark.parametrize(
    ("plugin", "sentence"),
    [
        (Plain, "Plain is a class; register an object: Plain()"),
        (None, "NoneType has no method that is marked"),
        (Nothing(), "Nothing has no method that is marked with `mlxhub_core.hookimpl`"),
        (Misspelt(), "Misspelt.model_failled is not a hook; did you mean 'model_failed'?; this hub has sink API 1"),
        (MisspeltElsewhere(), "MisspeltElsewhere.at_the_end is not a hook; did you mean 'model_failed'?"),
        (AsksTooMuch(), "'AsksTooMuch' for hook 'model_failed'"),
        (
            AsksTooMuch(),
            "{'host'} are declared in the hookimpl but can not be found in the hookspec; this hub has sink",
        ),
        (ByKeyword(), "ByKeyword.model_failed takes arguments by keyword only, and pluggy passes none so"),
        (Async(), "Async.model_failed is async"),
        (AsyncToo(), "AsyncToo.model_failed is async"),
        (Yields(), "Yields.model_failed has a `yield`, so that nothing of it would run"),
        (WrapsWithoutYield(), "but function is not a generator function; this hub has sink API 1"),
    ],
    ids=lambda value: "" if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
def test_an_object_that_pluggy_would_call_never_or_in_vain_is_refused_with_a_sentence(
    fanout: Fanout, plugin: object, sentence: str
) -> None:
    with pytest.raises(SinkError) as caught:
        fanout.register(plugin)
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(SinkError, match="is not registered"):
        fanout.unregister(plugin)


def test_an_object_is_registered_once_and_unregistered_once(fanout: Fanout) -> None:
    plugin = Plain()
    fanout.register(plugin)
    with pytest.raises(SinkError, match="Plain: this object is registered already"):
        fanout.register(plugin)
    fanout.publish("model_failed", failure(1))
    assert plugin.got == [1]
    fanout.unregister(plugin)
    with pytest.raises(SinkError, match="Plain: this object is not registered"):
        fanout.unregister(plugin)
