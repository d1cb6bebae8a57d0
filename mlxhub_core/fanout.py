"""From one event to every sink. The only caller of pluggy's hooks.

pluggy calls its plug-ins one after the other on the caller's thread, and stops at the first that raises. So what is
registered with it are not the sinks but relays of ours, which only put the event into a `SinkRunner`'s queue.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterable
from typing import Any

import pluggy

from mlxhub_core import hookspecs
from mlxhub_core.errors import SinkError, did_you_mean
from mlxhub_core.hooks import Arguments
from mlxhub_core.hookspecs import HOOKS, forwarder
from mlxhub_core.observability import SINK_API, SinkStats
from mlxhub_core.runner import CLOSE_DEADLINE, SinkRunner, described
from mlxhub_core.settings import DeliverySettings


class Fanout:
    """The sinks that are on.

    Args:
        report: gets one line when something is wrong with a sink.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._plugins = _plugin_manager()
        self._relays: dict[str, _Relay] = {}
        # Each with a manager of its own: so that none stands between an event and the sinks, whatever it asks of pluggy
        # (`tryfirst`, `wrapper`), what it raises is its own affair, and it may be equal to another or have its name.
        self._registered: list[tuple[object, pluggy.PluginManager]] = []

    def add(
        self,
        name: str,
        sink: object,
        greeting: Arguments | None = None,
        delivery: DeliverySettings | None = None,
        origin: tuple[str, str] = ("", ""),
    ) -> SinkRunner | None:
        """Turn a sink on, in the place of the one of that name if there is one: each event goes to either of them.

        Args:
            name: its key in hub.yaml.
            sink: the object.
            greeting: the arguments of the `hub_started` that it gets before anything else.
            delivery: how it gets its events.
            origin: the name and the version of the package that it comes from.

        Returns:
            the one it takes the place of, which now delivers what waits and closes; for `finish`.

        Raises:
            SinkError: a hook of the sink demands an argument that the hub does not have.
        """
        relay = self._relays.get(name)
        old = relay.runner if relay else None
        runner = SinkRunner(name, sink, self._report, delivery, predecessor=old, origin=origin)
        if greeting is not None:
            runner.offer("hub_started", greeting)
        if relay:
            relay.runner = runner
        else:
            self._relays[name] = relay = _Relay(runner)
            self._plugins.register(relay, name)
            self._plugins.check_pending()
        if old:
            old.begin_close(runner)
        return old

    def remove(self, name: str) -> SinkRunner:
        """Turn a sink off. Returns it; it delivers what waits and closes."""
        runner = self._relays.pop(name).runner
        self._plugins.unregister(name=name)
        runner.begin_close()
        return runner

    def finish(self, runners: Iterable[SinkRunner], deadline: float | None = None) -> dict[str, int]:
        """Wait for sinks that are closing, at most `deadline` seconds for all of them together (default:
        `CLOSE_DEADLINE`).

        Returns:
            how many events each could not deliver; sinks that delivered all are left out.
        """
        end = time.monotonic() + (CLOSE_DEADLINE if deadline is None else deadline)
        undelivered = {runner.name: runner.end_close(max(0.0, end - time.monotonic())) for runner in runners}
        return {name: count for name, count in undelivered.items() if count}

    def register(self, plugin: object) -> None:
        """Have pluggy call an object's methods that are marked with `hookimpl`, on the thread of the hub.

        Each event reaches the sinks first, then these objects in the order in which they were registered.

        Raises:
            SinkError: one of them is no hook, or cannot be called with what there is.
        """
        if any(plugin is known for known, _ in self._registered):
            raise SinkError(f"{type(plugin).__name__}: this object is registered already")
        self._registered.append((plugin, _alone(plugin)))

    def unregister(self, plugin: object) -> None:
        """Have pluggy call a registered object no more.

        Raises:
            SinkError: it is not registered.
        """
        left = [(known, plugins) for known, plugins in self._registered if known is not plugin]
        if len(left) == len(self._registered):
            raise SinkError(f"{type(plugin).__name__}: this object is not registered")
        self._registered = left

    def publish(self, hook: str, arguments: dict[str, Any]) -> None:
        """Send an event to every sink. Returns at once and never raises, but for what registered objects take."""
        getattr(self._plugins.hook, hook)(**arguments)
        for plugin, plugins in tuple(self._registered):
            try:
                getattr(plugins.hook, hook)(**arguments)
            except BaseException as error:  # noqa: BLE001  # SystemExit too: it would end what the hub is about to do
                with contextlib.suppress(BaseException):
                    kind = type(plugin).__name__
                    self._report(f"{kind}, a registered plug-in, raised in {hook}: {described(error)}")

    def names(self) -> list[str]:
        """The sinks that are on."""
        return list(self._relays)

    def stats(self) -> tuple[SinkStats, ...]:
        """What became of the events of each sink."""
        return tuple(relay.runner.stats() for relay in list(self._relays.values()))


class _Relay:
    """A plug-in for pluggy that hands every hook on to one runner, which may be exchanged at any moment."""

    def __init__(self, runner: SinkRunner) -> None:
        self.runner = runner
        for hook in HOOKS:
            setattr(self, hook, forwarder(hook, self._hand_on))

    def _hand_on(self, hook: str, arguments: dict[str, Any]) -> None:
        self.runner.offer(hook, arguments)


def _plugin_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _alone(plugin: object) -> pluggy.PluginManager:
    """A manager with this object alone. Refuses what pluggy would take and then never call, or call in vain."""
    kind = type(plugin).__name__
    if isinstance(plugin, type):
        raise SinkError(f"{plugin.__name__} is a class; register an object: {plugin.__name__}()")
    manager = _plugin_manager()
    marked = {name: marks for name in dir(plugin) if (marks := manager.parse_hookimpl_opts(plugin, name))}
    if not marked:
        raise SinkError(f"{kind} has no method that is marked with `mlxhub_core.hookimpl`")
    for name, marks in marked.items():
        hook = marks.get("specname") or name
        if hook not in HOOKS and not marks.get("optionalhook"):
            raise SinkError(f"{kind}.{name} is not a hook{did_you_mean(hook, HOOKS)}; {_VERSION}")
        if fault := _fault(getattr(plugin, name), wraps=bool(marks.get("wrapper") or marks.get("hookwrapper"))):
            raise SinkError(f"{kind}.{name} {fault}")
    try:
        manager.register(plugin, kind)
    except pluggy.PluginValidationError as error:
        raise SinkError(f"{described(error)}; {_VERSION}") from None
    return manager


_VERSION = f"this hub has sink API {SINK_API}; mend it, or upgrade mlxhub-core"


def _fault(method: Callable[..., Any], *, wraps: bool) -> str | None:
    """Why pluggy would call a method in vain, or None."""
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        return "is async, and nobody would await it; make it a plain function"
    if inspect.isgeneratorfunction(method) and not wraps:
        return "has a `yield`, so that nothing of it would run; drop that, or mark it with `wrapper=True`"
    if any(parameter.kind is parameter.KEYWORD_ONLY for parameter in inspect.signature(method).parameters.values()):
        return "takes arguments by keyword only, and pluggy passes none so; drop its `*`"
    return None
