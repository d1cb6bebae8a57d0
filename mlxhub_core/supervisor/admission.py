"""Whether a model may start now: is there a place in its group, a port, and memory for it?

What is about to become free is waited for: a place or a port whose model is stopping, the memory of a process that is
stopping or has just ended. What another model or program has and keeps is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from mlxhub_core.errors import GroupFullError, LaunchError, MemoryShortError, in_gigabytes, listed
from mlxhub_core.ports import PortBook
from mlxhub_core.settings import HubSettings, ModelSettings
from mlxhub_core.states import ALIVE, ModelState
from mlxhub_core.supervisor.lifecycle import Lifecycle
from mlxhub_core.vitals import Machine, Vitals

RETURN_PATIENCE = 30.0
"""Seconds that a start waits at most for the memory of processes that have ended; some may never come back."""
RETURN_PART = 0.9
"""Of that memory should come back: others may use some of it meanwhile. Who requires the rest may wait for that too."""
WORTH_WAITING = 256 * 1024 * 1024
"""Bytes: the memory of smaller processes is not waited for."""
MEMORY_POLL = 0.25
"""Seconds between looks at the memory that is to come back: no event tells when it has."""
FORGOTTEN = 5.0
"""Seconds after which one who was not looked at again has stopped waiting."""


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
        self._expected = 0
        self._slack = 0
        self._until = 0.0
        self._available: int | None = None
        self._held = 0

    def see(self, vitals: Vitals | None) -> None:
        """Take note of what any process was seen with."""
        if vitals is not None:
            self._available = vitals.available_bytes

    def ended(self, vitals: Vitals | None) -> None:
        """A process has ended that was last seen with these."""
        if vitals is None or vitals.memory_bytes < WORTH_WAITING:
            return
        # What was available is known best from the last look at any model: others may have grown since.
        before = vitals.available_bytes if self._available is None else self._available
        # On top of what is still to come from others that have just ended.
        expected, slack, held = (self._expected, self._slack, self._held) if self.is_missing() else (0, 0, 0)
        self._expected = min(max(expected, before) + vitals.memory_bytes, self._machine.total_memory())
        self._slack = slack + vitals.memory_bytes - int(vitals.memory_bytes * RETURN_PART)
        self._held = max(held, vitals.memory_bytes)
        self._until = self._clock() + RETURN_PATIENCE
        # The last look knew nothing of this end: until the next one this is what there should be.
        self._available = self._expected

    @property
    def held(self) -> int:
        """Bytes that the biggest of those processes had whose memory may still come back; 0 if there is none."""
        return self._held if self.is_missing() else 0

    def is_missing(self, *, entirely: bool = False) -> bool:
        """Whether so much of it is not back that it may still come; `entirely`: whether any of it is not."""
        expected = self._expected - (0 if entirely else self._slack)
        return self._clock() < self._until and self._machine.available_memory() < expected


class Admission:
    """Decides who may start. Owns the book of ports.

    Args:
        machine: tells how much memory is available.
        clock: seconds that only grow.
    """

    def __init__(self, machine: Machine, clock: Callable[[], float]) -> None:
        self.memory = MemoryReturn(machine, clock)
        self._machine = machine
        self._clock = clock
        self._ports: PortBook | None = None
        self._expected: dict[str, int] = {}
        self._waiting: dict[str, tuple[float, float]] = {}
        self._notes: dict[str, str] = {}
        self._places: dict[str, int] = {}

    def expect(self, ports: Mapping[str, int]) -> None:
        """Have these models, by name, keep the ports that they have already. Before any other book is made."""
        self._expected = dict(ports)

    def book_for(self, settings: HubSettings) -> PortBook:
        """The ports that the models would have. Raises HubError, and changes nothing."""
        before = self._ports.ports if self._ports else self._expected
        book = PortBook(settings.host, settings.model_starting_port, before)
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
        return self.kept_from(model, models, queued) or self._memory(model, models)

    def kept_from(self, model: Lifecycle, models: Collection[Lifecycle], queued: Collection[str]) -> str | None:
        """The part of `obstacle` that other models are, which is the same whether the model itself runs or not."""
        return self._place(model, models, queued) or self._port(model, models)

    def note(self, name: str) -> str | None:
        """A sentence about the start that was just allowed, which people should know; once."""
        self._waiting.pop(name, None)
        return self._notes.pop(name, None)

    def is_waiting(self) -> bool:
        """Whether anybody was told to wait for memory that may come back."""
        return any(self._clock() - seen <= FORGOTTEN for _, seen in self._waiting.values())

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

    def _memory(self, model: Lifecycle, models: Collection[Lifecycle]) -> str | None:
        """What is required must be there. What it seems to need should be, if that can be had by waiting.

        That is what its last process had, or, if that is unknown, as much as the ended had whose place it may take.
        """
        required = model.settings.memory.required
        needed = (model.last_memory or self.memory.held) if required is None else required
        available = self._machine.available_memory() - self._promised(models) if needed else 0
        self._notes.pop(model.name, None)
        if available >= needed:
            self._waiting.pop(model.name, None)
            return None
        stopping = [other.name for other in models if other is not model and other.state is ModelState.STOPPING]
        if stopping and required is not None:
            # Others' memory may be back before that. Its patience with what has ended begins when nothing stops any more.
            self._waiting[model.name] = self._clock(), self._clock()
            return f"waits for the memory of {listed(stopping)}"
        since = self._waiting_since(model.name)
        if self._may_wait(since, entirely=required is not None):
            self._waiting[model.name] = self._clock() if since is None else since, self._clock()
            there, wanted = in_gigabytes(max(0, available)), in_gigabytes(needed)
            return f"waits for memory: {there} are available, and it needs {wanted}"
        if required is not None:
            raise MemoryShortError(model.name, required, max(0, available))
        if since is not None:
            there, wanted = in_gigabytes(max(0, available)), in_gigabytes(needed)
            self._notes[model.name] = f"{there} of memory are available, and it may need {wanted}"
        return None

    def _waiting_since(self, name: str) -> float | None:
        """When it began to wait for memory; None if it does not, or was forgotten. It has to be noted again."""
        since, seen = self._waiting.pop(name, (0.0, float("-inf")))
        return since if self._clock() - seen <= FORGOTTEN else None

    def _may_wait(self, since: float | None, *, entirely: bool) -> bool:
        """Whether more memory may come, and it has not waited too long for it."""
        patient = since is None or self._clock() - since < RETURN_PATIENCE
        return patient and self.memory.is_missing(entirely=entirely)

    def _promised(self, models: Iterable[Lifecycle]) -> int:
        """Bytes that models which still load require and have not taken yet."""
        promises = [promise for model in models if (promise := model.memory_promised_to)]
        return sum(max(0, required - self._machine.memory_of(pid)) for pid, required in promises)
