"""`mlxhub reload`: have the hub that runs apply hub.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mlxhub_core.cli.common import aligned, config_option, json_option, say
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import EXIT_FAILED


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Say what would happen, and why, and change nothing.")
@json_option
def reload(config: Path, dry_run: bool, as_json: bool) -> None:
    """Apply hub.yaml: start what is new, stop what is gone, restart what has changed. The rest goes on as it is.

    "New" is also a model with `default: true` that has failed: it is tried again.

    A hub.yaml with a mistake changes nothing; exit code 2. Exit code 1 if a model could not be started, 3 if no hub
    runs for this hub.yaml.

    \b
      mlxhub reload --dry-run
      mlxhub reload
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    outcome = ControlClient(config).post(f"/hub/reload?dry_run={str(dry_run).lower()}", patient=True)
    if as_json:
        click.echo(json.dumps(outcome, indent=2))
    elif dry_run:
        _show_plan(outcome)
    else:
        _show_result(outcome)
    if outcome.get("failed"):
        raise SystemExit(EXIT_FAILED)


def _show_plan(plan: dict[str, Any]) -> None:
    for warning in plan.pop("warnings", ()):  # an older hub has none
        say(f"warning: {warning}", "yellow")
    steps = [(verb, step["name"], step["reason"]) for verb in plan for step in plan[verb]]
    for line in aligned(steps):
        click.echo(line)


def _show_result(result: dict[str, Any]) -> None:
    for verb in ("started", "stopped", "unchanged"):
        if result[verb]:
            click.echo(f"{verb}: {', '.join(result[verb])}")
    for message in result["failed"].values():
        say(message, "red")
