"""What is known of a model's processes: of the one that runs or ran last, and a little of the one before. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mlxhub_core.process import Exit


@dataclass(slots=True)
class Facts:
    """The fields of `states.ModelStatus` with these names, which say what they mean."""

    started_at: float | None = None
    ready_at: float | None = None
    stopped_at: float | None = None
    exit_code: int | None = None
    restarts: int = 0
    log_lost_bytes: int = 0
    health_checks: int = 0
    health_checks_failed: int = 0
    log_begin: int | None = None
    previous_started_at: float | None = None
    previous_log_begin: int | None = None

    def began(self, at: float, log_begin: int) -> None:
        """A process was started then; its output begins there in the log."""
        if self.log_begin is not None:
            self.previous_started_at, self.previous_log_begin = self.started_at, self.log_begin
        self.started_at, self.log_begin = at, log_begin
        self.ready_at = self.stopped_at = None
        self.log_lost_bytes = 0

    def ended(self, outcome: Exit, now: float) -> None:
        """It has ended so; `now`, unless its keeper knows better."""
        self.exit_code, self.log_lost_bytes = outcome.code, outcome.lost_bytes
        self.stopped_at = now if outcome.at is None else outcome.at

    def checked(self, *, ok: bool) -> None:
        """It was asked how it is, and was well or not."""
        self.health_checks += 1
        self.health_checks_failed += not ok

    def log_is_elsewhere(self) -> None:
        """Its log is another one from now on: nothing of it is there yet."""
        self.log_begin = self.previous_started_at = self.previous_log_begin = None

    def uptime(self, seconds: float, now: float) -> float:
        """How long the process ran that has ended.

        Args:
            seconds: since its start, on the hub's clock.
            now: seconds since the epoch.
        """
        assert self.stopped_at is not None
        late = now - self.stopped_at
        # Before it was started, or still to come: then the time of day was set meanwhile, and says nothing.
        return seconds - late if 0 <= late <= seconds else seconds
