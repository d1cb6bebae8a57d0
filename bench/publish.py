"""What it costs the hub to tell its sinks of one event, beside a bare loop and a bare pluggy call in the same run.

Each figure is the time until `publish` returns, on the thread of the caller, one event a millisecond as in a bad crash
loop; the three ways alternate, so that a busy moment hits all of them. The bare ways call the sinks then and there: what
the hub pays more is for the queue and the thread of each sink, which is what a sink that hangs cannot get past.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pluggy

from bench.figure import OURS, Figure
from bench.pace import Pace
from mlxhub_core import HubEvent, HubModelContext, hookimpl, hookspecs
from mlxhub_core.fanout import Fanout

FLOOR = "bare pluggy"
EVENTS = 50
"""Events in a round."""
PACE = 0.001
"""Seconds between two events."""

CTX = HubModelContext("model", "group", "model.log")
EVENT: dict[str, Any] = {"ctx": CTX, "exit_code": 1, "event": HubEvent(seq=1, id="1", time=0.0)}

Publish = Callable[[dict[str, Any]], object]


class Healthy:
    """A sink that does nothing."""

    def model_failed(self, ctx: HubModelContext, exit_code: int | None, event: HubEvent) -> None:
        """Nothing."""


class Marked:
    """The same for pluggy."""

    @hookimpl
    def model_failed(self, ctx: HubModelContext, exit_code: int | None, event: HubEvent) -> None:
        """Nothing."""


class Hung(Healthy):
    """A sink that does not come back until it is over."""

    def __init__(self, over: threading.Event) -> None:
        self._over = over

    def model_failed(self, ctx: HubModelContext, exit_code: int | None, event: HubEvent) -> None:  # noqa: ARG002
        """Wait."""
        self._over.wait()


def figures(pace: Pace) -> list[Figure]:
    """Measure."""
    healthy = _figure("event told to 3 sinks", pace, [Healthy() for _ in range(3)])
    over = threading.Event()
    return [healthy, _figure("event told to 10 sinks that hang", pace, [Hung(over) for _ in range(10)], over)]


def _figure(name: str, pace: Pace, sinks: list[Any], over: threading.Event | None = None) -> Figure:
    figure = Figure(
        name,
        "µs",
        "until `publish` returns on the hub's thread, one event a millisecond; the floor is pluggy alone, whose sinks"
        " run then and there, and do nothing",
        FLOOR,
    )
    with ExitStack() as stack:
        fanout = Fanout(lambda _line: None)
        stack.callback(lambda: fanout.finish([fanout.remove(name) for name in fanout.names()]))
        stack.callback(over.set if over else lambda: None)
        for index, sink in enumerate(sinks):
            fanout.add(f"sink{index}", sink)
        for _ in range(2000 if over else 0):  # so that the queues are full, which is the dearer case
            fanout.publish("model_failed", EVENT)
        ways: dict[str, Publish] = {
            FLOOR: _pluggy(len(sinks)),
            "a bare loop": _loop(len(sinks)),
            OURS: lambda event: fanout.publish("model_failed", event),
        }
        for _ in pace.rounds(20, 4, seconds=15):
            for way, publish in ways.items():
                figure.add(way, *_times(publish))
    return figure


def _times(publish: Publish) -> Iterator[float]:
    for _ in range(EVENTS):
        begin = time.perf_counter_ns()
        publish(EVENT)
        yield (time.perf_counter_ns() - begin) / 1000
        time.sleep(PACE)


def _loop(number: int) -> Publish:
    sinks = [Healthy() for _ in range(number)]

    def publish(event: dict[str, Any]) -> None:
        for sink in sinks:
            sink.model_failed(**event)

    return publish


def _pluggy(number: int) -> Publish:
    plugins = pluggy.PluginManager(hookspecs.PROJECT)
    plugins.add_hookspecs(hookspecs)
    for _ in range(number):
        plugins.register(Marked())
    return lambda event: plugins.hook.model_failed(**event)
