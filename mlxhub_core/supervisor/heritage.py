"""The processes that a former hub has left, until this one has made them its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mlxhub_core.process import ProcessFactory, Survivor
from mlxhub_core.settings import HubSettings
from mlxhub_core.states import RUNNING, ModelState
from mlxhub_core.supervisor.legacy import Record, essence

_GOING = RUNNING | {ModelState.BACKOFF}
"""The states of a model that runs, or is about to, and is not being stopped."""


class Heritage:
    """What a former hub has left.

    Args:
        processes: finds it.
    """

    def __init__(self, processes: ProcessFactory) -> None:
        self._processes = processes
        self._left: list[Survivor] | None = None
        self._records: dict[str, Record] = {}

    @property
    def is_known(self) -> bool:
        """Whether `find` was called."""
        return self._left is not None

    def find(self) -> Mapping[str, int]:
        """Look for it. Returns the port of each model that has one."""
        # Of two processes of one model, a former hub had replaced the one that has ended by the other.
        self._left = sorted(self._processes.survivors(), key=lambda left: (left.exit is None, left.started_at))
        self._records = {left.model: Record.read(left.record) for left in self._left}
        return {name: record.port for name, record in self._records.items() if record.port is not None}

    def taken(self) -> Iterator[tuple[Survivor, Record, bool]]:
        """Each of them, to be made this hub's; and whether the same model has a younger one that runs."""
        left, self._left = self._left or [], []
        living = {survivor.model: survivor for survivor in left if survivor.exit is None}
        for survivor in left:
            is_surplus = survivor.exit is None and survivor is not living[survivor.model]
            yield survivor, Record.read(survivor.record), is_surplus

    def states(self) -> dict[str, ModelState]:
        """Of the models whose processes run and are yet to be taken."""
        return {
            left.model: ModelState.STARTING if left.asked is None else ModelState.STOPPING
            for left in self._left or ()
            if left.exit is None
        }

    def unchanged(self, settings: HubSettings, states: Mapping[str, ModelState]) -> dict[str, bool]:
        """Of the models that go on: whether these settings have them as a former hub had started them.

        Args:
            settings: hub.yaml.
            states: of all models, those of `states` among them.
        """
        entries = {model.name: model for model in settings.models}
        return {
            name: record.essence == essence(settings, entries[name])
            for name, record in self._records.items()
            if name in entries and states.get(name) in _GOING
        }
