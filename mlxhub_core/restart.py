"""When to start a failed model again. Pure arithmetic: the time is handed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartRule:
    """How patient the hub is with a model that keeps failing.

    Attributes:
        delay: seconds before the first restart. Not 0: hard restarts of big models on Apple silicon leave memory wired.
        factor: each further delay in a row is so many times longer.
        max_delay: seconds; no delay is longer, but for its jitter.
        jitter: each delay is up to this part shorter or longer, so that models do not load in step.
        reset_after: a model that was ready for so many seconds counts as stable, and the delays start over.
        max_failures: after so many failures within `window` the hub gives up.
        window: seconds.
    """

    delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.1
    reset_after: float = 60.0
    max_failures: int = 5
    window: float = 600.0


@dataclass(frozen=True, slots=True)
class Failures:
    """The failures of one model that still count.

    Attributes:
        in_a_row: failures without a stable run between them.
        times: when the failures within the window happened, in seconds of any one clock.
    """

    in_a_row: int = 0
    times: tuple[float, ...] = ()

    def another(self, rule: RestartRule, now: float, ready_for: float) -> Failures:
        """These and one more, at `now`, of a run that was ready for so many seconds; 0: it never was."""
        in_a_row = 1 if ready_for >= rule.reset_after else self.in_a_row + 1
        return Failures(in_a_row, (*(time for time in self.times if time > now - rule.window), now))

    def delay(self, rule: RestartRule, jitter: float) -> float | None:
        """Seconds until the next start; None: give up.

        Args:
            rule: how patient to be.
            jitter: a random number from -1 to 1.
        """
        if len(self.times) >= rule.max_failures:
            return None
        return self._wait(rule) * (1 + rule.jitter * jitter)

    def _wait(self, rule: RestartRule) -> float:
        try:
            longer = float(rule.factor) ** max(self.in_a_row - 1, 0)
        except OverflowError:  # Longer than any max_delay; but no time at all stays none.
            return rule.max_delay if rule.delay else 0.0
        return min(rule.delay * longer, rule.max_delay)
