"""What a model needs of the loop around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mlxhub_core.actor import Timer
from mlxhub_core.probes import Probe
from mlxhub_core.process import Process
from mlxhub_core.settings import ModelSettings
from mlxhub_core.supervisor.endings import Shortage
from mlxhub_core.supervisor.messages import Message, Reply

if TYPE_CHECKING:
    from mlxhub_core.supervisor.run import Run


@dataclass(frozen=True, slots=True)
class Started:
    """A process that was started.

    Attributes:
        process: the process.
        host: the address it is to listen on.
        port: its port, or None.
        probe: asks it whether it can answer; None: it listens nowhere.
        oom_kills: the machine's count when it was started; see `vitals.Machine`.
        note: a sentence about its start that people should know.
        log_begin: the byte of its log where its output begins.
    """

    process: Process
    host: str
    port: int | None
    probe: Probe | None
    oom_kills: int | None = None
    note: str | None = None
    log_begin: int = 0


class Surroundings(Protocol):
    """What a model needs of the loop around it."""

    patient: bool
    """Whether processes that are asked to end get their `stop_timeout`."""

    def clock(self) -> float:
        """Seconds that only grow."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch."""
        ...

    def jitter(self) -> float:
        """A random number from -1 to 1."""
        ...

    def after(self, seconds: float, message: Message) -> Timer:
        """Have the loop get a message later."""
        ...

    def launch(self, model: ModelSettings, run_id: str, restarts: int) -> Started:
        """Start a process, or raise. `restarts` is for the next hub to know."""
        ...

    def ask(self, run: Run, model: ModelSettings) -> None:
        """Ask a process whether it can answer, and have the loop get the answer."""
        ...

    def ended(self, run: Run) -> Shortage:
        """Take note of the end of a process, and say whether it looks like a lack of memory."""
        ...

    def announce(self, hook: str, about: Mapping[str, Any], **arguments: Any) -> None:
        """Send an event: its hook, the fields of its envelope, and the hook's own arguments."""
        ...

    def answer(self, replies: list[Reply], error: Exception | None = None) -> None:
        """Answer those who wait, and empty the list."""
        ...
