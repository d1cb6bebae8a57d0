"""What tests need, ours and those of people who write sinks. Not imported by anything that runs a hub.

* `RecordingSink` keeps every event and lets a test wait for one.
* `wait_until` waits for what no event announces.
* `FakeClock` is a clock that stands still until it is told otherwise.
* `SinkConformance` is a class of tests to subclass, which every sink should pass. It alone needs pytest.
* `wheels` installs packages as users do, into an environment of their own, and runs a hub there.
* `fake_hub` tells a sink a day in the life of a model, as a hub does; `FakeHub` is the hub of that day.
* `tmp_dist` is a package that is installed for as long as a test lasts.
* `strategies`, a module of its own, has events and models for tests with Hypothesis, and needs that.
* `fake_server` is a model server that misbehaves on demand; `tiny_model` writes a real MLX model of 26 KB.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxhub_core.events import HubEvent
from mlxhub_core.hookspecs import HOOKS

if TYPE_CHECKING:
    from mlxhub_core.testing.conformance import SinkConformance
    from mlxhub_core.testing.day import FakeHub
    from mlxhub_core.testing.dist import tmp_dist

__all__ = [
    "FAKE_SERVER",
    "FakeClock",
    "FakeHub",
    "Recorded",
    "RecordingSink",
    "SinkConformance",
    "fake_hub",
    "tmp_dist",
    "wait_until",
]

_HOMES = {"SinkConformance": "conformance", "FakeHub": "day", "tmp_dist": "dist"}
"""What is loaded when it is asked for: the conformance tests import pytest, which users of a hub do not have."""

FAKE_SERVER = __file__.replace("__init__.py", "fake_server.py")
"""The path of the fake server, to run as ``python -I -S FAKE_SERVER --port N``."""


def __getattr__(name: str) -> object:
    if home := _HOMES.get(name):
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event: the hook that was called, and its arguments by name."""

    hook: str
    arguments: Mapping[str, Any]

    @property
    def model(self) -> str | None:
        """The name of the model it is about, if it is about one."""
        ctx = self.arguments.get("ctx")
        return None if ctx is None else str(ctx.name)

    @property
    def event(self) -> HubEvent:
        """Its envelope."""
        envelope = self.arguments["event"]
        assert isinstance(envelope, HubEvent)
        return envelope


class RecordingSink:
    """A sink that keeps every event, with all its arguments, in the order in which they came."""

    # All hooks are made below; these are the ones that type checkers ask of a `HubObservabilitySink`.
    model_started: Any
    model_stopped: Any
    model_failed: Any

    def __init__(self) -> None:
        self._events: list[Recorded] = []
        self._arrived = threading.Condition()

    @property
    def events(self) -> list[Recorded]:
        """All events so far."""
        with self._arrived:
            return list(self._events)

    def of(self, model: str, *hooks: str) -> list[Recorded]:
        """The events of one model so far; with `hooks`, only those."""
        return [e for e in self.events if e.model == model and (not hooks or e.hook in hooks)]

    def hooks_of(self, model: str) -> list[str]:
        """The names of the hooks called for one model so far."""
        return [event.hook for event in self.of(model)]

    def wait_for(self, hook: str, model: str | None = None, *, count: int = 1, timeout: float = 20.0) -> Recorded:
        """Wait until `hook` has come `count` times (for `model`); returns the last of these events.

        Raises:
            AssertionError: it has not within `timeout` seconds; the message lists what has.
        """
        deadline = time.monotonic() + timeout
        with self._arrived:
            while len(found := self._matching(hook, model)) < count:
                left = deadline - time.monotonic()
                if left <= 0:
                    seen = [f"{event.hook}({event.model or ''})" for event in self._events]
                    raise AssertionError(f"no {hook} number {count} for {model} within {timeout} s; seen: {seen}")
                self._arrived.wait(left)
            return found[count - 1]

    def _matching(self, hook: str, model: str | None) -> list[Recorded]:
        return [event for event in self._events if event.hook == hook and model in (None, event.model)]

    def _record(self, hook: str, arguments: Mapping[str, Any]) -> None:
        with self._arrived:
            self._events.append(Recorded(hook, arguments))
            self._arrived.notify_all()


def _recorder(hook: str) -> Any:
    # `**arguments` asks for all that the hub has to give, also what later versions add.
    def record(self: RecordingSink, **arguments: Any) -> None:
        self._record(hook, arguments)

    return record


for _name in HOOKS:
    setattr(RecordingSink, _name, _recorder(_name))


def fake_hub(
    sink: object, events: Iterable[tuple[str, Mapping[str, Any]]] | None = None, *, timeout: float = 10.0
) -> list[Recorded]:
    """Open a sink, tell it a day in the life of a model, and close it: on one thread and by keyword, as a hub does.

    After each event it is flushed. What it raises, a hub would bear; here it is a failure.

    Args:
        sink: the sink.
        events: hooks and their arguments, as of `strategies.days`; default: `FakeHub.day`, which has every event there
            is, in an order that can happen.
        timeout: seconds that each call may take.

    Returns:
        what was told, also what the sink has no hook for.

    Raises:
        AssertionError: it raised, did not come back, or changed what it was given.
    """
    # Neither is needed by who only records.
    from mlxhub_core.testing.day import FakeHub
    from mlxhub_core.testing.driver import Driver

    told: list[Recorded] = []
    with Driver(lambda: sink, timeout) as driver:
        driver.open()
        for hook, arguments in FakeHub().day() if events is None else events:
            told.append(Recorded(hook, arguments))
            driver.tell(hook, arguments)
        driver.flush()
        driver.close()
    return told


def wait_until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Wait until a condition of the world outside holds, which no event announces.

    Raises:
        AssertionError: it does not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"it did not come true within {timeout} s"
        time.sleep(0.005)


class FakeClock:
    """Seconds that pass only when a test says so. Call it to read it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
