"""One process of a model, as the supervisor sees it: what is ordered, how it is ended, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mlxhub_core.launch import Launch
from mlxhub_core.settings import RotationSettings


@dataclass(frozen=True, slots=True)
class Order:
    """A process to be started.

    Attributes:
        model: the name of the model.
        run_id: tells this process from all others.
        launch: what to execute.
        log: the file for its output.
        rotation: of that file; None: only on request.
        grace: seconds from SIGTERM to SIGKILL when nobody says otherwise.
        record: what the next hub should know of it, should this one die: values that JSON can hold.
    """

    model: str
    run_id: str
    launch: Launch
    log: Path
    rotation: RotationSettings | None = None
    grace: float = 30.0
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended.

    Attributes:
        code: its exit code, or the negative number of the signal that ended it, as `subprocess` has it; None: nobody
            knows, because its keeper did not live to see it.
        forced: whether the hub ended it, or a child of it, by SIGKILL.
        tail: the last lines of its output.
        lost_bytes: bytes of its output that could not be written to the log.
        at: when, in seconds since the epoch; None: just now.
    """

    code: int | None
    forced: bool = False
    tail: tuple[str, ...] = ()
    lost_bytes: int = 0
    at: float | None = None


class Listener(Protocol):
    """Is told what happens to a process, on any thread."""

    def exited(self, outcome: Exit) -> bool:
        """It has ended, and of its session all that a SIGKILL ends. Called once, and last.

        Returns whether anybody is left to hear it; if not, the next hub is told.
        """
        ...

    def log_failing(self, reason: str) -> None:
        """Its output can no longer be written; it is lost."""
        ...

    def log_recovered(self, lost_bytes: int) -> None:
        """Its output is written again; so much of this run's has been lost so far."""
        ...


class Process(Protocol):
    """A running process. Everything returns at once, and does nothing when it has ended."""

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group and of its session."""
        ...

    def stop(self, grace: float, reason: str) -> None:
        """Ask its session to end (SIGTERM); after `grace` seconds make it (SIGKILL), also if the hub has died by then.

        The next hub is told the `reason`.
        """
        ...

    def kill(self) -> None:
        """Make its session end now (SIGKILL)."""
        ...

    def note(self, facts: Mapping[str, Any]) -> None:
        """Have the next hub know this of it, should this one die: values that JSON can hold."""
        ...

    def rotate(self, done: Callable[[str | None], None]) -> None:
        """Rotate its log now; `done` is called with what was in the way, or None, on any thread."""
        ...

    def set_rotation(self, rotation: RotationSettings | None) -> None:
        """Rotate its log by these rules from now on."""
        ...

    def release(self) -> None:
        """Let it go on without this hub, which is told nothing more of it. The next hub finds it."""
        ...


@dataclass(frozen=True, slots=True)
class Survivor:
    """A process that a former hub started, and whose end nobody has been told yet.

    Attributes:
        model: the name of the model.
        run_id: as it was ordered.
        pid: its process id.
        started_at: when it was started, in seconds since the epoch.
        log: the file with its output.
        log_begin: the byte of it where the output of this process began.
        record: as it was ordered.
        asked: why a hub has asked it to end; None: none has.
        note: what a hub last noted; empty if none did.
        exit: how it ended meanwhile; None: it runs.
        attach: makes the listener hear of it from now on, and gives the process; to be called once.
    """

    model: str
    run_id: str
    pid: int
    started_at: float
    log: Path
    log_begin: int
    record: Mapping[str, Any]
    asked: str | None
    note: Mapping[str, Any]
    exit: Exit | None
    attach: Callable[[Listener], Process]


class ProcessFactory(Protocol):
    """Starts processes, and finds those of former hubs; `keepers.Keepers` is the real one."""

    def prepare(self) -> None:
        """Begin what the first start takes. Returns at once; what is in the way that start tells."""
        ...

    def start(self, order: Order, listener: Listener) -> Process:
        """Start a process.

        Raises:
            OSError: it cannot be started.
        """
        ...

    def survivors(self) -> Sequence[Survivor]:
        """The processes of former hubs for the same hub.yaml."""
        ...

    def forget(self, run_id: str) -> None:
        """The end of this process has been told: no later hub needs to know of it."""
        ...

    def close(self) -> None:
        """Start no more. Does nothing to those that run."""
        ...
