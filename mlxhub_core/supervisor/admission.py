"""Whether a model may start now: is there a place in its group, a port, and memory for it?

What is about to become free is waited for: a place or a port whose model is stopping, the memory of a process that is
stopping or has just ended. What another model or program has and keeps is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from mlxhub_core.errors import GroupFullError, LaunchError, MemoryShortError, in_gigabytes, listed
from mlxhub_core.ports import PortBook
from mlxhub_core.settings import HubSettings, ModelSettings
from mlxhub_core.states import ALIVE, ModelState
from mlxhub_core.supervisor.lifecycle import Lifecycle
from mlxhub_core.vitals import Machine, Vitals

RETURN_PATIENCE = 30.0
"""Seconds to wait at most for the memory of a process that has ended; on Apple silicon some may never come back."""
RETURN_PART = 0.5
"""Of that memory must be back: others use some of it meanwhile."""
WORTH_WAITING = 256 * 1024 * 1024
"""Bytes: the memory of smaller processes is not waited for."""
STALE = 60.0
"""Seconds after which what was missing tells nothing any more: it may have come back and be in use by others."""
MEMORY_POLL = 0.25
"""Seconds between looks at the memory that is to come back: no event tells when it has."""


class MemoryReturn:
    """The memory of processes that have ended, and whether it is back.

    The end of a process that held many gigabytes is not yet their return: on Apple silicon memory that was wired for
    the GPU comes back late, and after a SIGKILL perhaps never.

    Args:
        machine: tells how much memory is available.
        clock: seconds that only grow.
    """

    def __init__(self, machine: Machine, clock: Callable[[], float]) -> None:
        self._machine = machine
        self._clock = clock
        self._awaited = 0
        self._until = 0.0
        self._waited = float("-inf")
        self._available: int | None = None

    def see(self, vitals: Vitals | None) -> None:
        """Take note of what any process was seen with."""
        if vitals is not None:
            self._available = vitals.available_bytes

    def ended(self, vitals: Vitals | None) -> None:
        """A process has ended that was last seen with these."""
        if vitals is None or vitals.memory_bytes < WORTH_WAITING:
            return
        if self._clock() >= self._until:
            self._awaited = 0
        # On top of what is still to come from others that have just ended.
        # What was available is known best from the last look at any model: others may have grown since.
        before = vitals.available_bytes if self._available is None else self._available
        expected = max(self._awaited, before) + int(vitals.memory_bytes * RETURN_PART)
        self._awaited = min(expected, self._machine.total_memory())
        self._until = self._clock() + RETURN_PATIENCE

    def missing(self) -> int:
        """Bytes that are not back yet."""
        if not self._awaited:
            return 0
        missing = self._awaited - self._machine.available_memory()
        if missing <= 0:
            self._awaited = 0
        return max(0, missing)

    def is_awaited(self) -> bool:
        """Whether to wait for what is missing."""
        now = self._clock()
        if now >= self._until or not self.missing():
            return False
        self._waited = now
        return True

    def write_off(self) -> str | None:
        """A sentence about what is still missing, once; None if nothing is, or nobody has waited for it."""
        missing, self._awaited = self.missing(), 0
        if not missing or self._clock() - self._waited > STALE:
            return None
        return f"{in_gigabytes(missing)} of memory did not come back from a process that has ended"


class Admission:
    """Decides who may start. Owns the book of ports.

    Args:
        machine: tells how much memory is available.
        clock: seconds that only grow.
    """

    def __init__(self, machine: Machine, clock: Callable[[], float]) -> None:
        self.memory = MemoryReturn(machine, clock)
        self._machine = machine
        self._ports: PortBook | None = None
        self._places: dict[str, int] = {}

    def book_for(self, settings: HubSettings) -> PortBook:
        """The ports that the models would have. Raises HubError, and changes nothing."""
        book = PortBook(settings.host, settings.model_starting_port, self._ports)
        book.assign(settings.models)
        return book

    def adopt(self, book: PortBook) -> None:
        """Have the models on these ports from their next start on."""
        self._ports = book

    def limit(self, settings: HubSettings) -> None:
        """Heed the groups of these settings from now on."""
        groups = settings.groups.values()
        self._places = {group.name: group.max_loaded for group in groups if group.max_loaded is not None}

    def claim(self, model: ModelSettings) -> int | None:
        """The port to start a model on now. Raises LaunchError."""
        assert self._ports is not None
        return self._ports.claim(model)

    def obstacle(self, model: Lifecycle, models: Collection[Lifecycle], queued: Collection[str]) -> str | None:
        """What a start has to wait for, in words; None: it can happen now.

        Args:
            model: the one to start; it has no process.
            models: all of them.
            queued: the names of those that are to start again once they have stopped.

        Raises:
            GroupFullError, LaunchError: another model has what it needs and keeps it.
            MemoryShortError: less memory is available than it requires.
        """
        obstacle = self._place(model, models, queued) or self._port(model, models)
        if obstacle is None and self.memory.is_awaited():
            obstacle = "waits for the memory of a process that has ended"
        return obstacle or self._shortage(model, models)

    def _place(self, model: Lifecycle, models: Iterable[Lifecycle], queued: Collection[str]) -> str | None:
        group = model.settings.group or ""
        places = self._places.get(group)
        if places is None:
            return None
        mates = [m for m in models if m is not model and m.settings.group == group and m.state in ALIVE]
        staying = [mate.name for mate in mates if mate.state is not ModelState.STOPPING or mate.name in queued]
        if len(staying) >= places:
            raise GroupFullError(model.name, group, places, staying)
        return f"waits for a place in group {group!r}" if len(mates) >= places else None

    def _port(self, model: Lifecycle, models: Iterable[Lifecycle]) -> str | None:
        port = self._ports.port_of(model.name) if self._ports else None
        owner = next((m for m in models if m is not model and port is not None and m.port == port), None)
        if owner is None:
            return None
        if owner.state is not ModelState.STOPPING:
            raise LaunchError(model.name, f"port {port} is in use by {owner.name}; stop or restart that one first")
        return f"waits for port {port}"

    def _shortage(self, model: Lifecycle, models: Collection[Lifecycle]) -> str | None:
        required = model.settings.memory.required
        if required is None:
            return None
        available = self._machine.available_memory() - self._promised(models)
        if available >= required:
            return None
        stopping = [other.name for other in models if other.state is ModelState.STOPPING]
        if not stopping:
            raise MemoryShortError(model.name, required, max(0, available))
        return f"waits for the memory of {listed(stopping)}"

    def _promised(self, models: Iterable[Lifecycle]) -> int:
        """Bytes that models which still load require and have not taken yet."""
        promises = [promise for model in models if (promise := model.memory_promised_to)]
        return sum(max(0, required - self._machine.memory_of(pid)) for pid, required in promises)
