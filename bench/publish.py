"""What it costs the hub to tell its sinks of one event, beside a bare loop and a bare pluggy call in the same run.

Each figure is the time until `publish` returns, on the thread of the caller, one event a millisecond as in a bad crash
loop; the three ways alternate, so that a busy moment hits all of them. The bare ways call the sinks then and there: what
the hub pays more is for the queue and the thread of each sink, which is what a sink that hangs cannot get past.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pluggy

from mlxhub_core import HubEvent, HubModelContext, hookimpl, hookspecs
from mlxhub_core.fanout import Fanout

ROUNDS = 20
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


def main() -> None:
    """Measure and print a table."""
    print(f"pluggy {pluggy.__version__}, Python {sys.version.split()[0]} on {sys.platform}; {ROUNDS * EVENTS} events")
    print("microseconds for one event: median (99th percentile); ratio to the bare pluggy call")
    print(f"{'sinks':12} {'bare loop':>16} {'bare pluggy':>16} {'mlxhub':>16} {'ratio':>6}")
    for number in (0, 1, 3, 10):
        _row(f"{number} healthy", number, [Healthy() for _ in range(number)])
    over = threading.Event()
    _row("10 hung", 10, [Hung(over) for _ in range(10)], over)


def _row(name: str, number: int, sinks: list[Any], over: threading.Event | None = None) -> None:
    with ExitStack() as stack:
        fanout = Fanout(lambda _line: None)
        stack.callback(lambda: fanout.finish([fanout.remove(name) for name in fanout.names()]))
        stack.callback(over.set if over else lambda: None)
        for index, sink in enumerate(sinks):
            fanout.add(f"sink{index}", sink)
        for _ in range(2000 if over else 0):  # so that the queues are full, which is the dearer case
            fanout.publish("model_failed", EVENT)
        times = _alternating([_loop(number), _pluggy(number), lambda event: fanout.publish("model_failed", event)])
    cells = [(statistics.median(figures), statistics.quantiles(figures, n=100)[98]) for figures in times]
    shown = "".join(f" {f'{median:.1f} ({worst:.0f})':>16}" for median, worst in cells)
    print(f"{name:12}{shown} {cells[2][0] / cells[1][0]:6.1f}")


def _alternating(ways: list[Publish]) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for publish, figures in zip(ways, times, strict=True):
            for _ in range(EVENTS):
                begin = time.perf_counter_ns()
                publish(EVENT)
                figures.append((time.perf_counter_ns() - begin) / 1000)
                time.sleep(PACE)
    return times


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


if __name__ == "__main__":
    main()
