"""The models as rows of words: what every table of them shows, drawn by `status.py` plainly and by `table.py` richly."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlxhub_core.cli.common import aligned, shortened, size_of, span
from mlxhub_core.exits import signal_name

COLUMNS = ("NAME", "STATE", "GROUP", "PID", "PORT", "UPTIME", "RESTARTS", "MEMORY", "EXIT", "LOG")
NUMBERS = frozenset({"PID", "PORT", "UPTIME", "RESTARTS", "MEMORY", "EXIT"})
"""The columns that are aligned to the right."""
COLOURS = {
    "ready": "green",
    "starting": "yellow",
    "backoff": "yellow",
    "stopping": "yellow",
    "unhealthy": "red",
    "failed": "red",
}
"""Of the states; one without a colour is none to look at."""
_DISPENSABLE = ("LOG", "GROUP", "PORT", "EXIT", "PID", "RESTARTS", "MEMORY")
"""What is left out first where a line has no room for all."""
GAP = 2
"""Spaces between two columns."""

Model = Mapping[str, Any]


def table_of(models: Iterable[Model], width: int | None = None) -> tuple[Sequence[str], list[Sequence[str]]]:
    """The names of the columns, and a row for each model.

    Args:
        models: as the hub gives them.
        width: leave out columns that do not fit into so many characters; None: none.
    """
    rows = [_cells(model) for model in models]
    if width is None:
        return COLUMNS, rows
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    needed = sum(widths) + GAP * (len(widths) - 1)
    left = set(COLUMNS)
    for name in _DISPENSABLE:
        if needed <= width:
            break
        needed -= widths[COLUMNS.index(name)] + GAP
        left.discard(name)
    kept = [number for number, name in enumerate(COLUMNS) if name in left]
    return [COLUMNS[number] for number in kept], [[row[number] for number in kept] for row in rows]


def lines_of(models: Sequence[Model], width: int | None = None) -> list[str]:
    """The same as lines of text, the first of which is the head."""
    columns, rows = table_of(models, width)
    return aligned([columns, *rows], right={number for number, name in enumerate(columns) if name in NUMBERS})


def _cells(model: Model) -> Sequence[str]:
    code, memory = model["exit_code"], model.get("memory_bytes")
    return (
        model["name"],
        model["state"],
        model["group"] or "-",
        str(model["pid"] or "-"),
        str(model["port"] or "-"),
        uptime(model),
        str(model["restarts"]),
        "-" if memory is None else size_of(memory),
        "-" if code is None else signal_name(code) or str(code),
        shortened(model["log_path"]),
    )


def uptime(model: Model) -> str:
    """How long its process has run, as `1m40s` or `2h05m`; `-` if none runs."""
    if model["pid"] is None or model["started_at"] is None:
        return "-"
    return span(time.time() - model["started_at"])
