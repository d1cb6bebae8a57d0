"""`HubManager`: hub.yaml, sinks and supervisor put together; what programs use."""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from mlxhub_core import __version__
from mlxhub_core.errors import HubError, HubStateError
from mlxhub_core.events import HubEvent
from mlxhub_core.fanout import Fanout
from mlxhub_core.keepers import Keepers
from mlxhub_core.launch import mlx_version
from mlxhub_core.observability import HubInfo, HubObservabilitySink, LoggingHubObservabilitySink, SinkStats
from mlxhub_core.place import held, held_logs, place_of
from mlxhub_core.process import ProcessFactory
from mlxhub_core.runner import CLOSE_DEADLINE, SinkRunner
from mlxhub_core.selection import Selected, Selection, problems_of, select
from mlxhub_core.settings import HubSettings, SettingsChange, load_settings
from mlxhub_core.states import ModelStatus
from mlxhub_core.supervisor import Loop, Plan, ReloadResult, Supervisor

PASSED_SINK = "observability_sink"
"""The name of the sink that was passed to the constructor."""


class HubManager:
    """Runs the models of a hub.yaml and tells their sinks.

    All methods may be called from any thread, also from inside a sink. Use it as a context manager, or call
    `shutdown`, so that no model outlives the program::

        with HubManager("hub.yaml") as hub:
            hub.reload()
            hub.start_model("qwen3-4b")

    Args:
        config_path: hub.yaml. Read by `reload`, not before.
        observability_sink: gets every event, beside the sinks of hub.yaml. If it is a `LoggingHubObservabilitySink`
            it takes the place of the `loguru` sink, so that nothing is logged twice.
        process_factory: starts the models' processes; default: real ones, under keepers that outlive the hub.

    Raises:
        HubStateError: another hub runs for this hub.yaml.
        SinkError: `observability_sink` cannot be one.
        HubError: the directory for locks and sockets, below the user's home, cannot be used.
    """

    def __init__(
        self,
        config_path: Path | str,
        *,
        observability_sink: HubObservabilitySink | object | None = None,
        process_factory: ProcessFactory | None = None,
    ) -> None:
        self.config_path = Path(config_path)
        self._info = _about(self.config_path)
        self._place = place_of(self.config_path)
        self._log_path: Path | None = None
        self._log_locks: dict[Path, ExitStack] = {}
        self._passed = observability_sink
        self._change: SettingsChange | None = None
        self._selected: dict[str, Selected] = {}
        self._reloading = threading.RLock()
        self._closed = False
        self._fanout = Fanout(_log_warning)
        self._processes = process_factory or Keepers(self._place.runs, str(self._place.config), _log_warning)
        self._supervisor = Supervisor(Loop(self._fanout.publish, _log_bug, process_factory=self._processes))
        self._view = _View(self._supervisor, self._fanout, self.info)
        with ExitStack() as locks:
            locks.enter_context(held(self._place))
            if observability_sink is not None:
                self._fanout.add(PASSED_SINK, observability_sink, self._greeting())
            self._supervisor.start()
            self._locks = locks.pop_all()
        self._processes.prepare()  # while hub.yaml is read, and sinks are imported

    def reload(self) -> ReloadResult:
        """Read hub.yaml and make the hub match it. The first call starts the models with ``default: true``.

        Returns when that is done: removed and changed models have ended, new and changed ones run.

        Raises:
            ConfigError: hub.yaml cannot be used; the running hub is as it was.
            HubStateError: the hub was shut down, or another one uses this ``log_path``.
        """
        with self._reloading:
            if self._closed:
                raise HubStateError("the hub was shut down; make another HubManager")
            try:
                return self._read_and_apply()
            except HubError:
                self._info = replace(self._info, last_reload_successful=False)
                raise

    def plan(self) -> Plan:
        """Read hub.yaml and say what `reload` would do now, each with its reason. Nothing is changed.

        Raises:
            ConfigError: hub.yaml cannot be used.
            HubStateError: the hub was shut down.
        """
        settings = load_settings(self.config_path, problems_of)
        selection = self._select(settings)
        warnings = (*settings.warnings, *selection.warnings, *selection.deprecations)
        return replace(self._supervisor.plan(settings), warnings=tuple(map(str, warnings)))

    def start_model(self, name: str) -> None:
        """Start a model, unless it runs. Returns once its process is there; it may not answer yet.

        Raises:
            UnknownModelError, GroupFullError, LaunchError, HubStateError: it cannot.
        """
        self._supervisor.start_model(name)

    def stop_model(self, name: str) -> None:
        """Stop a model, if it runs. Returns when its process has ended. It stays stopped until somebody starts it.

        Raises:
            UnknownModelError, HubStateError: it cannot.
        """
        self._supervisor.stop_model(name)

    def restart_model(self, name: str) -> None:
        """Stop a model if it runs, and start it. Returns once the new process is there.

        Raises:
            UnknownModelError, GroupFullError, LaunchError, HubStateError: it cannot.
        """
        self._supervisor.restart_model(name)

    def reset_model(self, name: str) -> None:
        """Have a model that was given up (``failed``) be ``stopped``, with its failures and its back-off forgotten.

        Raises:
            UnknownModelError: there is none of that name.
            HubStateError: it runs, or is about to; or the hub is shutting down.
        """
        self._supervisor.reset_model(name)

    def get_status(self) -> list[ModelStatus]:
        """Every model of hub.yaml, in its order. Returns at once: it asks neither models nor sinks."""
        return list(self._supervisor.status())

    def sink_stats(self) -> list[SinkStats]:
        """What became of the events of each sink. Returns at once."""
        return list(self._fanout.stats())

    def info(self) -> HubInfo:
        """The hub itself. Returns at once."""
        return self._info

    def rotate_log(self, name: str) -> None:
        """Rotate the log of a model now. Returns when that is done.

        Raises:
            UnknownModelError, ModelError, HubStateError: it cannot be.
        """
        self._supervisor.rotate_log(name)

    def shutdown(self, *, keep_models: bool = False) -> dict[str, int]:
        """Stop every model, deliver what waits for the sinks, and close them. Calling it again does nothing.

        Args:
            keep_models: leave the models running. The next hub for this hub.yaml finds them and goes on with them.

        Returns:
            how many events each sink could not deliver within the deadline; empty if all went well.
        """
        if self._closed:
            return {}
        self._info = replace(self._info, stopping=True)
        self._supervisor.shutdown(keep_models=keep_models)
        # A reload that hangs in the import of a sink must not keep the hub from ending: no model runs any more.
        calm = self._reloading.acquire(timeout=CLOSE_DEADLINE)
        try:
            if self._closed:
                return {}
            self._closed = True
            self._supervisor.actor.finish()
            undelivered = self._fanout.finish([self._fanout.remove(name) for name in self._fanout.names()])
            self._processes.close()
            self._let_go_of_logs(besides=None)
            self._locks.close()
        finally:
            if calm:
                self._reloading.release()
        _log_undelivered(undelivered)
        return undelivered

    def register(self, plugin: object) -> None:
        """Have an object's methods that are marked with `hookimpl` called for each event, straight from pluggy.

        It is trusted: unlike a sink it runs on the hub's own thread, which it can hold up, and it must not ask the hub
        to start or stop anything. A sink passed as `observability_sink` or named in hub.yaml is the safe way.

        Raises:
            SinkError: a method is no hook, or cannot be called with what there is.
        """
        self._fanout.register(plugin)

    def unregister(self, plugin: object) -> None:
        """End what `register` began."""
        self._fanout.unregister(plugin)

    def heed_settings(self, change: SettingsChange | None) -> None:
        """Have something else that hub.yaml is about heed it from the next reload on; None: no more."""
        self._change = change

    def kill(self) -> None:
        """Give models that stop, now or later, no grace: SIGKILL at once. For people who lose patience in `shutdown`."""
        self._supervisor.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def _read_and_apply(self) -> ReloadResult:
        settings = load_settings(self.config_path, problems_of)
        selection = self._select(settings)
        change = nullcontext(_nothing) if self._change is None else self._change(settings)
        with self._logs_held(settings.log_path), change as put_in_force:
            # The last thing that can fail; only then is anything changed.
            self._supervisor.reserve_ports(settings)
            if self._closed:
                raise HubStateError("the hub was shut down meanwhile")
            _log_warnings(selection)
            put_in_force()
            leaving = self._exchange_sinks(selection.sinks)
            self._log_path = settings.log_path
            self._info = replace(self._info, last_reload_successful=True, last_reload_at=time.time())
            try:
                return self._supervisor.apply(settings)
            finally:
                _log_undelivered(self._fanout.finish(leaving))

    def _select(self, settings: HubSettings) -> Selection:
        wanted = [entry for entry in settings.sinks if not (self._logs_itself and entry.type == "loguru")]
        return select(settings, wanted, self._selected)

    @property
    def _logs_itself(self) -> bool:
        return isinstance(self._passed, LoggingHubObservabilitySink)

    def _exchange_sinks(self, sinks: Sequence[Selected]) -> list[SinkRunner]:
        """Have these on and no others. Returns those that are leaving; each event goes to either the old or the new."""
        wanted = {selected.key: selected for selected in sinks}
        leaving = []
        # One by one: should the machine have no thread left for one, the next reload goes on from there.
        for key in [key for key in self._selected if key not in wanted]:
            leaving.append(self._fanout.remove(key))
            del self._selected[key]
        for key, selected in wanted.items():
            if self._selected.get(key) is not selected:
                if (old := self._turned_on(selected)) is not None:
                    leaving.append(old)
                self._selected[key] = selected
        self._selected = wanted
        return leaving

    def _turned_on(self, selected: Selected) -> SinkRunner | None:
        """Have a sink on. Returns the one it takes the place of. Raises HubError if there can be no thread for it."""
        origin = selected.offer.distribution, selected.offer.version
        delivery = selected.settings.delivery
        try:
            return self._fanout.add(selected.key, selected.sink, self._greeting(), delivery, origin)
        except RuntimeError as error:
            raise HubError(
                f"sink {selected.key}: cannot be turned on ({error}); end other programs, and reload"
            ) from None

    @contextmanager
    def _logs_held(self, directory: Path) -> Iterator[None]:
        """Hold a log path, and from then on only the one whose settings are in force."""
        if directory not in self._log_locks:
            stack = ExitStack()
            stack.enter_context(held_logs(directory, self._place))
            self._log_locks[directory] = stack
        try:
            yield
        finally:
            self._let_go_of_logs(besides=self._log_path)

    def _let_go_of_logs(self, *, besides: Path | None) -> None:
        for directory in [each for each in self._log_locks if each != besides]:
            self._log_locks.pop(directory).close()

    def _greeting(self) -> dict[str, object]:
        # Not one of the hub's events, which are the same for every sink: so it has no number of its own.
        return {"hub": self._view, "event": HubEvent(seq=0, id=str(uuid.uuid4()), time=time.time())}


class _View:
    """All of the hub that a sink gets to see: see `observability.HubView`."""

    __slots__ = ("info", "sink_stats", "status")

    def __init__(self, supervisor: Supervisor, fanout: Fanout, info: Callable[[], HubInfo]) -> None:
        self.info = info
        self.status = supervisor.status
        self.sink_stats = fanout.stats


def _nothing() -> None:
    pass


def _about(config_path: Path) -> HubInfo:
    return HubInfo(
        version=__version__,
        python=platform.python_version(),
        mlx_lm=mlx_version(),
        pid=os.getpid(),
        config_path=str(config_path.absolute()),
        started_at=time.time(),
    )


def _log_warning(message: str) -> None:
    # Imported when first needed: it takes longer to import than the rest of this file.
    from loguru import logger

    logger.warning("{}", message)


def _log_warnings(selection: Selection) -> None:
    for problem in selection.warnings:
        _log_warning(f"{problem}; the hub goes on without it")
    for problem in selection.deprecations:
        _log_warning(str(problem))


def _log_undelivered(undelivered: Mapping[str, int]) -> None:
    for name, count in undelivered.items():
        _log_warning(f"sink {name}: {count} events were not delivered")


def _log_bug(error: BaseException) -> None:
    from loguru import logger

    logger.opt(exception=error).error("a bug in mlxhub; please report it with these lines")
