"""What any history of a hub must look like, whatever happened to its models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mlxhub_core.events import Reason

if TYPE_CHECKING:
    from mlxhub_core.testing import Recorded

_NONE = "no process"

_LEGAL: Mapping[tuple[str, str], str] = {
    (_NONE, "model_started"): "starting",
    (_NONE, "model_adopted"): "adopted",
    ("adopted", "model_ready"): "ready",
    ("adopted", "model_unhealthy"): "adopted and unhealthy",
    ("adopted and unhealthy", "model_ready"): "ready",
    ("adopted and unhealthy", "model_recovered"): "ready",
    ("starting", "model_ready"): "ready",
    ("starting", "model_unhealthy"): "late",
    ("late", "model_ready"): "ready",
    ("ready", "model_unhealthy"): "unhealthy",
    ("unhealthy", "model_recovered"): "ready",
    **{
        (phase, end): _NONE
        for phase in ("starting", "late", "ready", "unhealthy", "adopted", "adopted and unhealthy")
        for end in ("model_stopped", "model_failed")
    },
}
"""Where a process is after an event, by where it was before."""


def check_history(events: Iterable[Recorded]) -> None:
    """Check all events of a hub up to now: none missing, none twice, and each possible after those before it.

    Every process has one start (or was found running) and at most one end, and nothing in between that could not be; what could not be
    started has no process; a restart is announced exactly where an end said so.

    Raises:
        AssertionError: with the event that cannot be, and what was before it.
    """
    last, ids, histories = 0, set[str](), dict[str, _History]()
    for recorded in events:
        if recorded.event.seq == 0:  # the greeting, which each sink gets by itself
            continue
        assert recorded.event.seq == last + 1, f"event {recorded.event.seq} came after {last}"
        assert recorded.event.id not in ids, f"event {last + 1} came twice"
        last = recorded.event.seq
        ids.add(recorded.event.id)
        if recorded.model is not None:
            histories.setdefault(recorded.model, _History(recorded.model)).add(recorded)


class _History:
    """The history of one model."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.phase = _NONE
        self.run: str | None = None
        self.runs: set[str | None] = set()
        self.end: Recorded | None = None
        self.seen: list[str] = []

    def add(self, recorded: Recorded) -> None:
        self.seen.append(recorded.hook)
        if recorded.hook in ("model_restarting", "model_gave_up"):
            self._add_sequel(recorded)
        elif recorded.hook.startswith("model_log_"):
            self._expect(recorded.event.run_id == self.run, "it belongs to another run")
        elif recorded.event.reason is Reason.SPAWN_ERROR:
            self._expect(self.phase == _NONE, "it could not be started, but has a process")
            self.end = recorded
        else:
            self._add_step(recorded)

    def _add_step(self, recorded: Recorded) -> None:
        run = recorded.event.run_id
        is_end = recorded.hook in ("model_stopped", "model_failed")
        if is_end and self.run is None and run not in self.runs:
            self.runs.add(run)  # It ended while no hub was there to see it.
            self.end = recorded
            return
        if recorded.hook in ("model_started", "model_adopted"):
            self._expect(run not in self.runs, "its run has begun before")
            self.runs.add(run)
            self.run = run
        self._expect((self.phase, recorded.hook) in _LEGAL, f"it was {self.phase}")
        self._expect(run == self.run, "it belongs to another run")
        self.phase = _LEGAL[self.phase, recorded.hook]
        self.end = recorded if self.phase == _NONE else None

    def _add_sequel(self, recorded: Recorded) -> None:
        again = recorded.hook == "model_restarting"
        if not again and recorded.event.reason is Reason.RELOAD:
            return  # hub.yaml now says never, after the restart was announced
        end, self.end = self.end, None
        self._expect(end is not None, "nothing has ended")
        assert end is not None
        self._expect(end.event.run_id == recorded.event.run_id, "it belongs to another run")
        self._expect((end.event.restart_in is not None) == again, "the end had said otherwise")

    def _expect(self, holds: bool, why_not: str) -> None:
        assert holds, f"{self.model}: {self.seen[-1]} cannot be: {why_not}; before it: {self.seen[-8:-1]}"
