"""`mlxhub events`: what has happened in the hub that runs, and what happens."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from mlxhub_core.cli.common import config_option, printable, say, style
from mlxhub_core.cli.since import Since
from mlxhub_core.cli.words import event_in_words
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import EXIT_NOT_RUNNING

COLOURS = {
    "model_ready": "green",
    "model_recovered": "green",
    "model_log_recovered": "green",
    "model_unhealthy": "yellow",
    "model_restarting": "yellow",
    "model_log_failing": "yellow",
    "events_lost": "yellow",
    "model_failed": "red",
    "model_gave_up": "red",
}
"""Of the events that are good news or bad."""


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("-f", "--follow", is_flag=True, help="Go on with those that come, until Ctrl-C or the hub's end.")
@click.option(
    "--since", type=Since(), metavar="WHEN", help="Only from then on: 10m, 1h30m, 18:40, an ISO date, seconds."
)
@click.option("--json", "as_json", is_flag=True, help="Print each as JSON in a line, with all that is known of it.")
@config_option
def events(models: tuple[str, ...], follow: bool, since: float | None, as_json: bool, config: Path) -> None:
    """What has happened to these models, or to all and the hub itself: one line for each event.

    A hub remembers its last 1000 events. With --follow, exit code 3 when the hub ends, or if none runs.

    \b
      mlxhub events --since 10m
      mlxhub events -f qwen3-4b
      mlxhub events -f --json | jq -r 'select(.hook == "model_failed") | .model'
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    with ControlClient(config).events(since=since, models=models, follow=follow) as stream:
        for event in stream:
            click.echo(json.dumps(event) if as_json else event_line(event))
            sys.stdout.flush()  # whoever reads a pipe shall not wait for the next one
    if follow:
        say("the hub has ended")
        raise SystemExit(EXIT_NOT_RUNNING)


def event_line(event: dict[str, Any], *, coloured: bool = True) -> str:
    """One event: when, which model, what."""
    told = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
    what = printable(event_in_words(event))
    colour = COLOURS.get(event["hook"]) if coloured else None
    return f"{told}  {event['model'] or '-'}  {style(what, colour) if colour else what}"
