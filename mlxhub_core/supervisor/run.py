"""One process of a model, and the questions that it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlxhub_core.actor import Timer
from mlxhub_core.events import HubModelContext, Reason
from mlxhub_core.settings import HealthSettings, ModelSettings
from mlxhub_core.supervisor.endings import Trouble
from mlxhub_core.supervisor.health import FIRST_PROBE, Watch
from mlxhub_core.supervisor.messages import ProbeDue, StartupDue
from mlxhub_core.supervisor.world import Started, Surroundings


@dataclass(slots=True)
class Run:
    """One process of a model.

    Attributes:
        id: in all its events.
        ctx: the model as it was when the process was started.
        started: the process.
        world: what is around it.
        since: when it was started, on the hub's clock.
        watch: its health.
        stop_reason: why it was asked to end; None: nobody asked.
        trouble: why the hub calls it unhealthy; None: it does not.
        asking: whether it has been asked and has not answered yet.
    """

    id: str
    ctx: HubModelContext
    started: Started
    world: Surroundings
    since: float
    watch: Watch = field(default_factory=Watch)
    stop_reason: Reason | None = None
    trouble: Trouble | None = None
    asking: bool = False
    _next_question: Timer | None = None
    _startup_due: Timer | None = None

    @property
    def uptime(self) -> float:
        """Seconds since it was started."""
        return self.world.clock() - self.since

    @property
    def seconds_well(self) -> float:
        """How long it has been ready, until now or until it turned unhealthy."""
        if self.watch.ready_since is None:
            return 0.0
        sick_since = self.watch.unhealthy_since
        return (self.world.clock() if sick_since is None else sick_since) - self.watch.ready_since

    def begin(self, health: HealthSettings, *, adopted: bool) -> None:
        """Begin to ask it."""
        self.ask_later(FIRST_PROBE)
        if self.watch.ready_since is None:
            # While there was no hub nobody asked: an adopted one is not late before it could answer.
            least = self.uptime + FIRST_PROBE + health.timeout if adopted else 0.0
            self._allow_time(max(health.startup_timeout, least))

    def ask(self, model: ModelSettings, health: HealthSettings) -> None:
        """Ask it, unless it still owes an answer."""
        if not self.asking:
            # If it cannot be asked now it must be asked again all the same.
            self.ask_later(health.interval)
            self.world.ask(self, model)
            self.asking = True

    def ask_later(self, seconds: float) -> None:
        """Ask it then, and not when it was to be asked before."""
        if self._next_question is not None:
            self._next_question.cancel()
        if self.started.probe is not None:
            self._next_question = self.world.after(seconds, ProbeDue(self.ctx.name, self.id))

    def watch_anew(self, health: HealthSettings | None) -> None:
        """Its `health` has changed: what it still waits for by the old one shall not hold it up."""
        self.ask_later(self.watch.pause(health) if health is not None else 0.0)
        if health is not None and self.watch.ready_since is None:
            self._allow_time(health.startup_timeout)

    def _allow_time(self, seconds: float) -> None:
        """Have it be late when it is not ready so many seconds after its start."""
        if self._startup_due is not None:
            self._startup_due.cancel()
        self._startup_due = self.world.after(seconds - self.uptime, StartupDue(self.ctx.name, self.id))
