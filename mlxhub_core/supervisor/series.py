"""The failures of one model: when to start it again, and how it all began. Pure."""

from __future__ import annotations

from mlxhub_core.events import Failure
from mlxhub_core.restart import Failures, RestartRule


class Series:
    """The ends in a row that nobody asked for, and the first and the last failure among them.

    Ends with exit code 0 count too where the policy is ``always``, though they are no failures.

    Attributes:
        first: the failure that the last series began with; None if there was none ever.
        last: the last failure; None if there was none ever.
    """

    def __init__(self) -> None:
        self.first: Failure | None = None
        self.last: Failure | None = None
        self._ends = Failures()
        self._new = True

    @property
    def in_a_row(self) -> int:
        """Ends without a stable run between them."""
        return self._ends.in_a_row

    @property
    def in_window(self) -> int:
        """Ends that count towards giving up."""
        return len(self._ends.times)

    def begin_anew(self) -> None:
        """Somebody starts the model: what was does not count any more, but is still told."""
        self._ends = Failures()
        self._new = True

    def next_delay(self, rule: RestartRule, *, now: float, ready_for: float, jitter: float) -> float | None:
        """Count one more end; seconds until the next start, or None: give up."""
        self._ends = self._ends.another(rule, now, ready_for)
        self._new = self._new or self._ends.in_a_row == 1
        return self._ends.delay(rule, jitter)

    def add(self, failure: Failure) -> Failure | None:
        """Keep a failure; the first of its series, if that is another."""
        if self._new:
            self.first, self._new = failure, False
        self.last = failure
        return self.first if self.first is not failure else None
