"""The sink `acme` for mlxhub: writes a line of JSON for each event to a file. Have it send to your monitoring instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TextIO

from annotated_types import MinLen
from mlxhub_core import HubEvent, HubModelContext, Sink


class AcmeSink(Sink):
    """Writes starts, stops and failures of models to a file, one JSON document in each line.

    The keyword parameters are the options in hub.yaml; these words are what `mlxhub sinks describe acme` shows.

    Args:
        path: the file, which is appended to.
        label: a word that goes with every line.
    """

    def __init__(self, path: Path = Path("events.jsonl"), label: Annotated[str, MinLen(1)] = "mlxhub") -> None:
        # Only keep what is given: this runs on the hub's own thread. What connects belongs into `open`.
        self._path = path
        self._label = label
        self._file: TextIO | None = None

    def open(self) -> None:
        """Called again, after a while, when it raises; events wait meanwhile."""
        self._file = self._path.open("a", encoding="utf-8")
        self.where = str(self._path)  # for `mlxhub sinks status`

    # A method for each event you want; `mlxhub_core.Sink` has them all. The last parameter takes what you leave out.

    def model_started(self, ctx: HubModelContext, *, pid: int | None, event: HubEvent, **_: object) -> None:
        """A process was started; it may not answer yet."""
        self._write("model_started", ctx, event, pid)

    def model_ready(self, ctx: HubModelContext, *, startup_seconds: float, event: HubEvent, **_: object) -> None:
        """It answered for the first time."""
        self._write("model_ready", ctx, event, startup_seconds)

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None, event: HubEvent, **_: object) -> None:
        """It ended as asked, or by itself with exit code 0."""
        self._write("model_stopped", ctx, event, exit_code)

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None, event: HubEvent, **_: object) -> None:
        """It ended unasked; negative codes are signals, None: it could not be started."""
        self._write("model_failed", ctx, event, exit_code)

    def flush(self) -> None:
        """No event waits now: what was collected is sent."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Called once, also when `open` never worked."""
        if self._file is not None:
            self._file.close()

    def _write(self, hook: str, ctx: HubModelContext, event: HubEvent, value: float | None) -> None:
        document = {"label": self._label, "hook": hook, "model": ctx.name, "group": ctx.group}
        line = json.dumps({**document, "time": event.time, "reason": event.reason, "value": value})
        if self._file is not None:
            self._file.write(f"{line}\n")
        if self.trace is not None:  # `mlxhub sinks test acme` shows it
            self.trace(line)
