"""`mlxhub sinks status`: what became of the events, as the hub that runs has counted them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxhub_core.cli.common import config_option, json_option, printable, span
from mlxhub_core.control.client import ControlClient

if TYPE_CHECKING:
    from rich.table import Table


@click.command()
@config_option
@json_option
def status(config: Path, as_json: bool) -> None:
    """What became of the events of each sink, in the hub that runs.

    Exit code 3 if none runs for this hub.yaml.

    \b
      mlxhub sinks status
      mlxhub sinks status --json
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    sinks = ControlClient(config).get("/hub/sinks")["sinks"]
    if as_json:
        click.echo(json.dumps(sinks, indent=2))
        return
    from rich.console import Console

    Console().print(_table(sinks))
    for sink in sinks:
        # No column: there is no room for one on a terminal of 80.
        if where := sink.get("where"):
            click.echo(f"{sink['name']} is at {printable(where)}")


def _table(sinks: list[dict[str, Any]]) -> Table:
    """One line a sink, in the order in which they were added."""
    from rich.table import Table

    # One space between columns leaves room for an error on a terminal of 80.
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("SINK", overflow="fold")
    for column in ("OPEN", "QUEUE", "OFFERED", "DELIVERED", "FAILED", "DROPPED", "STUCK"):
        table.add_column(column, justify="left" if column == "OPEN" else "right", no_wrap=True)
    table.add_column("LAST SUCCESS", justify="right")
    table.add_column("LAST ERROR", overflow="fold")
    for sink in sinks:
        table.add_row(*_cells(sink))
    return table


def _cells(sink: dict[str, Any]) -> list[str]:
    from rich.markup import escape

    stuck, success = sink["stuck_seconds"], sink["last_success"]
    return [
        escape(sink["name"]),
        "[green]yes[/]" if sink["open"] else "[red]no[/]",
        f"{sink['queue_length']}/{sink['queue_capacity']}",
        str(sink["offered"]),
        str(sink["delivered"]),
        _bad(sink["failed"]),
        _bad(sink["dropped"]),
        f"[red]{stuck:.0f}s[/]" if stuck >= 1 else "-",
        "-" if success is None else span(time.time() - success),
        escape(printable(sink["last_error"] or "-")) + _again(sink.get("retried", 0)),
    ]


def _again(count: int) -> str:
    return f" (tried again {count} times)" if count > 1 else " (tried again once)" if count else ""


def _bad(count: int) -> str:
    return f"[yellow]{count}[/]" if count else "0"
