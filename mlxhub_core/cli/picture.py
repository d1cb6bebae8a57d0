"""What moves on a terminal while models start."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from mlxhub_core.cli.common import printable, span
from mlxhub_core.cli.words import REASONS, Fields


class Picture(Live):
    """The models that are waited for, one line each, below whatever is printed meanwhile. Gone when it ends.

    Args:
        pending: their names, and the status of each if it is known; may change at any time.
    """

    def __init__(self, pending: Mapping[str, Fields | None]) -> None:
        self._pending = pending
        self._spinner = Spinner("dots")
        super().__init__(console=Console(highlight=False), transient=True, get_renderable=self._table)

    def print(self, line: str, colour: str = "") -> None:
        """A line above the picture, that stays."""
        self.console.print(Text(line, colour), soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        for name, model in list(self._pending.items()):
            cells = _cells(model)
            table.add_row(self._spinner, name, *(Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells))
        return table


def _cells(model: Fields | None) -> tuple[str, str, str]:
    if model is None:
        return "waits", "", ""
    since = model["started_at"] if model["pid"] is not None else None
    reason = model["reason"] or ""
    # That it was asked for is no news.
    said = "" if reason in REASONS else printable(reason)
    return model["state"], "" if since is None else span(time.time() - since), said
