"""The processes of the models: how they are started, or taken over from a former hub, and how the loop hears of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlxhub_core import logs
from mlxhub_core.launch import prepare
from mlxhub_core.probes import ProbeFactory, Target
from mlxhub_core.process import Exit, Order, Process, ProcessFactory, Survivor
from mlxhub_core.settings import HubSettings, ModelSettings
from mlxhub_core.supervisor import messages as say
from mlxhub_core.supervisor.legacy import Record, essence
from mlxhub_core.supervisor.world import Started
from mlxhub_core.vitals import Machine


class Launcher:
    """Starts processes.

    Args:
        processes: makes them.
        make_probe: makes what asks models whether they can answer.
        machine: counts what it has killed for want of memory.
        tell: gets what processes tell, as messages, from any thread. Returns whether anybody will heed it.
    """

    def __init__(
        self,
        processes: ProcessFactory,
        make_probe: ProbeFactory,
        machine: Machine,
        tell: Callable[[say.Message], bool],
    ) -> None:
        self._processes = processes
        self._make_probe = make_probe
        self._machine = machine
        self._tell = tell

    def launch(
        self, settings: HubSettings, model: ModelSettings, run_id: str, *, port: int | None, restarts: int
    ) -> Started:
        """Start a model's process.

        Args:
            settings: hub.yaml.
            model: its entry.
            run_id: of the process.
            port: where it is to listen.
            restarts: for the next hub to know.

        Raises:
            HubError: it cannot be started.
            OSError: as before.
        """
        directory, withheld = settings.directory, settings.secret_variables
        launch = prepare(model, host=settings.host, port=port, directory=directory, withheld=withheld)
        log = logs.log_file(settings.log_path, model.name)
        begin = logs.size(log)
        known = essence(settings, model)
        record = Record(model.group, settings.host, port, launch.mlx_model, restarts, known, model.stop_timeout)
        order = Order(model.name, run_id, launch, log, settings.log_rotation, model.stop_timeout, record.written())
        process = self._processes.start(order, _Listener(self._tell, model.name, run_id))
        return self._started(process, record, log, begin)

    def take_over(self, survivor: Survivor, record: Record) -> Started:
        """Go on with a process of a former hub."""
        return self._started(self.attach(survivor), record, survivor.log, survivor.log_begin)

    def attach(self, survivor: Survivor) -> Process:
        """Hear of a process of a former hub from now on."""
        return survivor.attach(_Listener(self._tell, survivor.model, survivor.run_id))

    def _started(self, process: Process, record: Record, log: Path, begin: int) -> Started:
        host, port = record.host, record.port
        target = None if port is None else Target(host, port, record.mlx_model, process.pid, log, begin)
        probe = self._make_probe(target) if target else None
        return Started(process, host, port, probe, self._machine.oom_kills(), log_begin=begin)


class _Listener:
    """Turns what a process tells into messages."""

    def __init__(self, tell: Callable[[say.Message], bool], name: str, run_id: str) -> None:
        self._tell = tell
        self._name = name
        self._run_id = run_id

    def exited(self, outcome: Exit) -> bool:
        return self._tell(say.Exited(self._name, self._run_id, outcome))

    def log_failing(self, reason: str) -> None:
        self._tell(say.LogFailing(self._name, self._run_id, reason))

    def log_recovered(self, lost_bytes: int) -> None:
        self._tell(say.LogRecovered(self._name, self._run_id, lost_bytes))
