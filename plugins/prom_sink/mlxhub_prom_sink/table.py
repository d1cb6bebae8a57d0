"""What there is to show: the counts so far and the hub's own picture. Knows nothing of Prometheus.

The sink's thread counts while any number of scrapes read; so a lock stands between them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mlxhub_core import HubView, ModelStatus

NEVER_RAN = ""
"""The exit code, as a label, of a process that could not be started. Prometheus drops empty labels."""
OTHER = "other"
"""The label of all exit codes beyond the first `MAX_EXIT_CODES` of a model."""
MAX_EXIT_CODES = 20
"""Each exit code is a series that Prometheus keeps; a program that ends with random ones must not flood it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened to one model: a new object for each change, so that readers may keep theirs.

    Attributes:
        started: processes that were started.
        stopped: processes that ended because they were asked to, or with exit code 0.
        restarts: those of `started` that nobody but the hub asked for.
        failed: processes that ended unasked, or could not be started, by exit code. The latter are there from the
            start, so that no model is without its series.
    """

    started: int = 0
    stopped: int = 0
    restarts: int = 0
    failed: Mapping[str, int] = field(default_factory=lambda: {NEVER_RAN: 0})


@dataclass(frozen=True, slots=True)
class Row:
    """One model: what the hub says about it, and what was counted."""

    status: ModelStatus
    counts: Counts


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All there is to show at one moment.

    Attributes:
        since: when the counting began, in seconds since the epoch; None before the hub's first event.
        rows: every model of hub.yaml, in its order.
    """

    since: float | None = None
    rows: tuple[Row, ...] = ()


class Table:
    """The counts of every model, and the hub to ask for the rest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counts] = {}
        self._hub: HubView | None = None
        self._since: float | None = None

    def begin(self, hub: HubView, since: float) -> None:
        """Show this hub, whose events are counted from now on."""
        with self._lock:
            self._hub, self._since = hub, since

    def start(self, model: str, *, again: bool) -> None:
        """Count a start; `again`: nobody but the hub asked for it."""
        with self._lock:
            old = self._of(model)
            self._counts[model] = replace(old, started=old.started + 1, restarts=old.restarts + again)

    def stop(self, model: str) -> None:
        """Count a stop."""
        with self._lock:
            old = self._of(model)
            self._counts[model] = replace(old, stopped=old.stopped + 1)

    def fail(self, model: str, exit_code: int | None) -> None:
        """Count a failure; None: the process could not be started."""
        label = NEVER_RAN if exit_code is None else str(exit_code)
        with self._lock:
            old = self._of(model)
            if label not in old.failed and len(old.failed) > MAX_EXIT_CODES:
                label = OTHER
            failed = {**old.failed, label: old.failed.get(label, 0) + 1}
            self._counts[model] = replace(old, failed=failed)

    def snapshot(self) -> Snapshot:
        """Everything as it is now. A model that left hub.yaml is left out; should it return, its counts go on."""
        with self._lock:
            if self._hub is None:
                return Snapshot()
            return Snapshot(self._since, tuple(Row(model, self._of(model.name)) for model in self._hub.status()))

    def _of(self, model: str) -> Counts:
        return self._counts.get(model, _NOTHING)


_NOTHING = Counts()
