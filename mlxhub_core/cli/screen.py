"""What `mlxhub watch` draws: as much as the terminal has room for, the most important first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mlxhub_core.cli.common import printable, shortened, span
from mlxhub_core.cli.events import COLOURS
from mlxhub_core.cli.table import status_table
from mlxhub_core.cli.watch import View
from mlxhub_core.cli.words import event_in_words

FEWEST_EVENTS = 5
"""Lines that the events have, or a third of what there is."""
_FRAME = 7
"""Lines for the head, the heads of the three parts, and what is between them."""
_WELL = ("ready", "stopped")


class Screen:
    """A terminal of which the whole is drawn, and which is as it was when it ends.

    Args:
        view: what to draw.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, traceback)

    def draw(self) -> None:
        """Draw what the view has now."""
        self._live.update(picture(self._view, self._console.width, self._console.height), refresh=True)


def picture(view: View, width: int, height: int) -> RenderableType:
    """The view, in so many columns and lines."""
    models: list[dict[str, Any]] = view.status["models"] if view.status else []
    room = max(0, height - _FRAME - (view.away is not None))
    for_sinks = min(len(view.sinks), max(1, room // 4))
    for_models = min(len(models), max(1, room - for_sinks - min(FEWEST_EVENTS, room // 3)))
    for_events = max(0, room - for_sinks - for_models)
    return Group(
        *_head(view, width),
        Text(),
        status_table(_most_telling(models, for_models), width),
        _more(len(models) - for_models, "models", "mlxhub status"),
        _sinks(view, for_sinks),
        _more(len(view.sinks) - for_sinks, "sinks", "mlxhub sinks status"),
        Text("EVENTS", "bold"),
        *_events(view, for_events),
    )


def _head(view: View, width: int) -> Iterator[Text]:
    status = view.status
    if status is None:
        yield Text("mlxhub", "bold")
    else:
        up = span(time.time() - status["started_at"])
        about = f"  {shortened(status['config'])}  pid {status['pid']}  up {up}"
        yield _line(Text.assemble((f"mlxhub {status['version']}", "bold"), printable(about)))
    if view.away is not None:
        yield _line(Text(f" THE HUB IS AWAY: {printable(view.away)}".ljust(width), "bold white on red"))


def _most_telling(models: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """So many of them, in their order; those that are not well before others."""
    if len(models) <= count:
        return models
    ranked = sorted(models, key=lambda model: model["state"] in _WELL)[:count]
    return [model for model in models if any(model is chosen for chosen in ranked)]


def _more(count: int, what: str, command: str) -> Text:
    return Text(f"… and {count} more {what}: {command}" if count > 0 else "", "dim")


def _sinks(view: View, count: int) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("SINK", no_wrap=True)
    for column in ("OPEN", "DELIVERED", "FAILED", "DROPPED", "WAITING"):
        table.add_column(column, justify="left" if column == "OPEN" else "right", no_wrap=True)
    table.add_column("WHERE", no_wrap=True, overflow="ellipsis")
    # As with the models: those that lose something before others.
    for sink in sorted(view.sinks, key=lambda sink: sink["open"] and not sink["dropped"])[:count]:
        table.add_row(*_cells(sink))
    return table


def _cells(sink: dict[str, Any]) -> list[str]:
    trouble = None if sink["open"] and not sink["failed"] else sink["last_error"]
    return [
        escape(sink["name"]),
        "[green]yes[/]" if sink["open"] else "[red]no[/]",
        str(sink["delivered"]),
        *(f"[red]{count}[/]" if count else "0" for count in (sink["failed"], sink["dropped"])),
        str(sink["queue_length"]),
        escape(printable(trouble or sink["where"] or "-")),
    ]


def _events(view: View, count: int) -> Iterator[Text]:
    for event in list(view.events)[-count:] if count else []:
        moment = time.strftime("%H:%M:%S", time.localtime(event["time"]))
        what = printable(event_in_words(event))
        told = Text.assemble((moment, "dim"), "  ", (event["model"] or "-", "bold"), "  ")
        yield _line(told.append(what, COLOURS.get(event["hook"], "")))


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
