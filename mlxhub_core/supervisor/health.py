"""What the answers of one process mean. Pure: the time is handed in."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mlxhub_core.probes import ProbeResult, Question
from mlxhub_core.settings import HealthSettings
from mlxhub_core.vitals import Vitals

FIRST_PROBE = 0.05
"""Seconds from a process's start to the first question whether it can answer."""
PROBE_GROWTH = 1.5
"""Each further question comes so many times later than the one before."""
MAX_PROBE_INTERVAL = 1.0
"""Seconds between two questions at most: as much later than it became ready may a model be called ready."""

CPU_PROGRESS = 0.05
"""Of one core: a server that only waits uses less (mlx_lm 0.003), one that loads more."""
MEMORY_PROGRESS = 1024 * 1024
"""Bytes by which the memory of a process changes that loads."""
IO_PROGRESS = 1024 * 1024
"""Bytes that it reads from or writes to files meanwhile."""
LOG_PROGRESS = 1024
"""Bytes that it writes meanwhile, as a download does; our own question may cost it a line of a hundred or two."""

MAX_BUSY = 600.0
"""Seconds for which one that was ready may be too busy to answer: so long may a server take over one request that can
do only one thing at a time. Counted from its last answer; twice the `interval` if that is more."""


class Verdict(enum.Enum):
    """What an answer changes."""

    NOTHING = enum.auto()
    READY = enum.auto()
    """It answers for the first time."""
    RECOVERED = enum.auto()
    """It answers again."""


@dataclass(slots=True)
class Watch:
    """What is known of the health of one process.

    Attributes:
        ready_since: when it first answered, on the hub's clock; None until then.
        unhealthy_since: since when it counts as unhealthy; None while it does not.
        misses: questions in a row that count against it.
        vitals: what it had used when it was last looked at.
        said: what it answered when it last could not.
    """

    ready_since: float | None = None
    unhealthy_since: float | None = None
    misses: int = 0
    vitals: Vitals | None = None
    said: str = "no answer yet"
    _looked: float = 0.0
    _mark: Vitals | None = None
    _answered: float = 0.0
    _counted: float = 0.0
    _pause: float = FIRST_PROBE

    @property
    def question(self) -> Question:
        """What to ask next."""
        return Question.READY if self.ready_since is None else Question.ALIVE

    def go_on(self, ready_since: float, now: float) -> None:
        """A former hub has watched it until now, and found it ready then."""
        # When it answered last nobody knows: it may be busy, as one that answered just now may be.
        self.ready_since, self._answered = ready_since, now

    def well(self, now: float) -> Verdict:
        """Take note that it can answer."""
        self._answered = now
        sick, self.unhealthy_since, self.misses = self.unhealthy_since, None, 0
        if self.ready_since is None:
            self.ready_since = now
            return Verdict.READY
        return Verdict.NOTHING if sick is None else Verdict.RECOVERED

    def missed(self, result: ProbeResult, health: HealthSettings, now: float) -> bool:
        """Take note that it could not answer. Whether that was once too often, or is for good.

        Until it is late nothing counts against one that starts; after that, only that it makes no progress, once each
        `interval`. One that was ready is forgiven its silence while it is busy.
        """
        self.said = result.detail
        progress = self._progress(result.vitals, now)
        self._look(result.vitals, now)
        if not result.asked or not (progress or result.final or self._is_due(health, now)):
            return False
        # Else slow progress would never be enough for one that is asked often.
        self._mark = self.vitals
        if not result.final and self._is_excused(result, progress, health, now):
            return False
        self._counted = now
        self.misses += 1
        if self.misses < health.failures and not result.final:
            return False
        self.late(now)
        return True

    def _is_due(self, health: HealthSettings, now: float) -> bool:
        """Whether a miss may count by now."""
        is_late = self.ready_since is None and self.unhealthy_since is not None
        return not is_late or now - self._counted >= health.interval

    def _is_excused(self, result: ProbeResult, progress: bool, health: HealthSettings, now: float) -> bool:
        if self.ready_since is not None:
            return result.silent and progress and now - self._answered < max(MAX_BUSY, 2 * health.interval)
        if progress or self.unhealthy_since is None:
            self.misses = 0
            self._counted = now
            return True
        return False

    def late(self, now: float) -> None:
        """Count it as unhealthy from now on, if it does not already."""
        if self.unhealthy_since is None:
            self.unhealthy_since = self._counted = now

    def pause(self, health: HealthSettings) -> float:
        """Seconds until the next question."""
        if self.ready_since is None and self.unhealthy_since is None:
            now, self._pause = self._pause, min(self._pause * PROBE_GROWTH, MAX_PROBE_INTERVAL)
            return now
        doubtful = (self.misses > 0 and self.unhealthy_since is None) or self.ready_since is None
        return min(health.interval, health.timeout) if doubtful else health.interval

    def see(self, vitals: Vitals | None, now: float) -> None:
        """Take note of what it has used by now."""
        self._look(vitals, now)
        self._mark = self.vitals

    def _look(self, vitals: Vitals | None, now: float) -> None:
        if vitals is not None:
            self.vitals, self._looked = vitals, now

    def _progress(self, vitals: Vitals | None, now: float) -> bool:
        """Whether it computed or wrote since the last look, or moved data since that last counted for or against it."""
        before, mark, seconds = self.vitals, self._mark, now - self._looked
        if before is None or mark is None or vitals is None:
            # The first look has nothing to be compared with, and says nothing against it.
            return vitals is not None
        return (
            vitals.cpu_seconds - before.cpu_seconds >= CPU_PROGRESS * seconds
            or vitals.io_bytes - mark.io_bytes >= IO_PROGRESS
            or abs(vitals.memory_bytes - mark.memory_bytes) >= MEMORY_PROGRESS
            # Not since the mark: one that is asked often would get on by the lines that our questions cost it.
            or vitals.log_bytes - before.log_bytes >= LOG_PROGRESS
        )
