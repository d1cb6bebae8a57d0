"""The table of models in colour, for those who draw with rich."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from mlxhub_core.cli.rows import COLOURS, GAP, NUMBERS, Model, table_of


def status_table(models: Iterable[Model], width: int | None = None) -> Table:
    """One line a model, in the order of hub.yaml; columns that do not fit into `width` characters are left out."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
    columns, rows = table_of(models, width)
    for column in columns:
        if column == "LOG":
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=True)
    for row in rows:
        name, state, *rest = map(escape, row)
        table.add_row(name, f"[{COLOURS.get(state, 'dim')}]{state}[/]", *rest)
    return table
