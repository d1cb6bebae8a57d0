"""From one event to every sink. The only caller of pluggy's hooks.

pluggy calls its plug-ins one after the other on the caller's thread, and stops at the first that raises. So what is
registered with it are not the sinks but forwarders of ours, which only put the event into a `SinkRunner`'s queue.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import pluggy

from mlxhub_core import hookspecs
from mlxhub_core.observability import SinkStats
from mlxhub_core.runner import HOOKS, Arguments, SinkRunner

CLOSE_DEADLINE = 5.0
"""Seconds that all sinks together get to deliver what waits when the hub ends."""


class Fanout:
    """The sinks that are on.

    Args:
        report: gets one line when something is wrong with a sink.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._plugins = pluggy.PluginManager(hookspecs.PROJECT)
        self._plugins.add_hookspecs(hookspecs)
        self._runners: dict[str, SinkRunner] = {}

    def add(self, name: str, sink: object, greeting: Arguments | None = None) -> None:
        """Turn a sink on. `greeting`: the arguments of the `hub_started` that it gets before anything else.

        Raises:
            HubError: a hook of the sink demands an argument that the hub does not have.
        """
        runner = SinkRunner(name, sink, self._report)
        if greeting is not None:
            runner.offer("hub_started", greeting)
        self._runners[name] = runner
        self._plugins.register(_forwarders(runner), name)
        self._plugins.check_pending()

    def remove(self, names: list[str], deadline: float | None = None) -> dict[str, int]:
        """Turn sinks off; they deliver what waits first, within `deadline` seconds for all of them together
        (default: `CLOSE_DEADLINE`).

        Returns:
            how many events each could not deliver; sinks that delivered all are left out.
        """
        runners = [self._runners.pop(name) for name in names]
        for runner in runners:
            self._plugins.unregister(name=runner.name)
            runner.begin_close()
        end = time.monotonic() + (CLOSE_DEADLINE if deadline is None else deadline)
        undelivered = {runner.name: runner.end_close(max(0.0, end - time.monotonic())) for runner in runners}
        return {name: count for name, count in undelivered.items() if count}

    def publish(self, hook: str, arguments: dict[str, Any]) -> None:
        """Send an event to every sink. Returns at once and never raises."""
        getattr(self._plugins.hook, hook)(**arguments)

    def names(self) -> list[str]:
        """The sinks that are on."""
        return list(self._runners)

    def stats(self) -> tuple[SinkStats, ...]:
        """What became of the events of each sink."""
        return tuple(runner.stats() for runner in list(self._runners.values()))


def _forwarders(runner: SinkRunner) -> object:
    """A plug-in for pluggy with one forwarder for each hook that the sink implements."""
    plugin = _Forwarders()
    for hook in runner.hooks:
        setattr(plugin, hook, _forwarder(runner, hook))
    return plugin


class _Forwarders:
    """Compared by identity: pluggy refuses a plug-in that equals another one."""


def _forwarder(runner: SinkRunner, hook: str) -> Callable[..., None]:
    names = HOOKS[hook]

    # pluggy looks through `wraps` for the names of the arguments, and passes them by position in that order.
    @hookspecs.hookimpl
    @functools.wraps(getattr(hookspecs, hook))
    def forward(*values: Any) -> None:
        runner.offer(hook, dict(zip(names, values, strict=True)))

    return forward
