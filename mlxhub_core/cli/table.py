"""The table of models that people look at."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from mlxhub_core.cli.common import shortened, span
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
    return span(time.time() - model.started_at)
