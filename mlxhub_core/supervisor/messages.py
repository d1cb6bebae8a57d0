"""What may be said to the supervisor. Commands carry a future, through which they are answered."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from mlxhub_core.errors import HubError
from mlxhub_core.probes import ProbeResult
from mlxhub_core.process import Exit
from mlxhub_core.settings import HubSettings
from mlxhub_core.supervisor.plan import Plan, ReloadResult

Reply = Future[None]


@dataclass(frozen=True, slots=True)
class Start:
    """Start a model; answered when its process runs."""

    name: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop a model; answered when its process has ended."""

    name: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Restart:
    """Stop a model if it runs, and start it; answered when the new process runs."""

    name: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Reset:
    """Forget that a model has failed; answered at once."""

    name: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class RotateLog:
    """Rotate the log of a model; answered when that is done."""

    name: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Reserve:
    """Find a port for each model, and what a former hub has left running; answered when that is found."""

    settings: HubSettings
    reply: Reply


@dataclass(frozen=True, slots=True)
class Preview:
    """What would an `Apply` do? Answered at once; nothing changes."""

    settings: HubSettings
    reply: Future[Plan]


@dataclass(frozen=True, slots=True)
class Apply:
    """Make the models be as hub.yaml says; answered when that is done."""

    settings: HubSettings
    reply: Future[ReloadResult]


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Stop every model, for good; answered when all have ended. With `keep_models` they are left to the next hub."""

    reply: Reply
    keep_models: bool = False


@dataclass(frozen=True, slots=True)
class Kill:
    """End the stopping models at once, and those that stop later too."""


@dataclass(frozen=True, slots=True)
class Exited:
    """A process has ended."""

    name: str
    run_id: str
    outcome: Exit


@dataclass(frozen=True, slots=True)
class Told:
    """The sinks have had time to hear how a process ended."""

    run_id: str


@dataclass(frozen=True, slots=True)
class LogFailing:
    """The output of a process is lost."""

    name: str
    run_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LogRecovered:
    """The output of a process is written again."""

    name: str
    run_id: str
    lost_bytes: int


@dataclass(frozen=True, slots=True)
class ProbeDue:
    """It is time to ask a model whether it can answer."""

    name: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Probed:
    """What the model answered."""

    name: str
    run_id: str
    result: ProbeResult


@dataclass(frozen=True, slots=True)
class RestartDue:
    """The wait before a restart is over."""

    name: str


@dataclass(frozen=True, slots=True)
class StartupDue:
    """A model's `startup_timeout` is over."""

    name: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Overdue:
    """Whoever waits for this answer shall not wait any longer."""

    reply: Reply
    error: HubError


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Those who wait for memory may try again."""


Message = (
    Start
    | Stop
    | Restart
    | Reset
    | RotateLog
    | Reserve
    | Preview
    | Apply
    | Shutdown
    | Kill
    | Exited
    | Told
    | LogFailing
    | LogRecovered
    | ProbeDue
    | Probed
    | StartupDue
    | RestartDue
    | Overdue
    | LookAgain
)
