"""The table of models that people look at."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from mlxhub_core.states import ModelState, ModelStatus

_COLOURS = {
    ModelState.READY: "green",
    ModelState.STARTING: "yellow",
    ModelState.BACKOFF: "yellow",
    ModelState.STOPPING: "yellow",
    ModelState.UNHEALTHY: "red",
    ModelState.FAILED: "red",
    ModelState.STOPPED: "dim",
}


def status_table(models: Iterable[ModelStatus]) -> Table:
    """One line a model, in the order of hub.yaml."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("NAME", "STATE", "GROUP"):
        table.add_column(column)
    for column in ("PID", "PORT", "UPTIME", "RESTARTS", "EXIT"):
        table.add_column(column, justify="right")
    table.add_column("LOG", overflow="fold")
    for model in models:
        table.add_row(*_cells(model))
    return table


def _cells(model: ModelStatus) -> list[str]:
    colour = _COLOURS[model.state]
    return [
        model.name,
        f"[{colour}]{model.state}[/]",
        model.group or "-",
        str(model.pid or "-"),
        str(model.port or "-"),
        uptime(model),
        str(model.restarts),
        "-" if model.exit_code is None else str(model.exit_code),
        escape(shortened(model.log_path)),
    ]


def uptime(model: ModelStatus) -> str:
    """How long the process has run, as `1m40s` or `2h05m`; `-` if none runs."""
    if model.pid is None or model.started_at is None:
        return "-"
    minutes, seconds = divmod(int(time.time() - model.started_at), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


def shortened(path: str) -> str:
    """A path as people would write it here: from the current directory, or from their home."""
    for base, prefix in ((Path.cwd(), ""), (Path.home(), "~/")):
        if Path(path).is_relative_to(base):
            return prefix + str(Path(path).relative_to(base))
    return path
