"""`mlxhub status`: how the models are, as the hub that runs knows it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from mlxhub_core.cli.common import aligned, config_option, json_option, shortened, span, style
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import UnknownModelError

_COLOURS = {"ready": "green", "starting": "yellow", "backoff": "yellow", "stopping": "yellow"} | dict.fromkeys(
    ("unhealthy", "failed"), "red"
)
_COLUMNS = ("NAME", "STATE", "GROUP", "PID", "PORT", "UPTIME", "RESTARTS", "EXIT", "LOG")


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@config_option
@json_option
def status(models: tuple[str, ...], config: Path, as_json: bool) -> None:
    """How these models are, or all of hub.yaml.

    Exit code 3 if no hub runs for this hub.yaml.

    \b
      mlxhub status
      mlxhub status qwen3-4b --json
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    known = {model["name"]: model for model in ControlClient(config).get("/hub/status")["models"]}
    for name in models:
        if name not in known:
            raise UnknownModelError(name, known)
    shown = [known[name] for name in models or known]
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    lines = aligned([_COLUMNS, *map(_cells, shown)])
    for line, model in zip(lines, [None, *shown], strict=True):
        state = model["state"] if model else ""
        # Only after the columns are aligned: a colour has no width.
        click.echo(line.replace(f" {state} ", f" {style(state, _COLOURS[state])} ", 1) if state in _COLOURS else line)
    for model in shown:
        if model["state"] != "ready" and model["reason"]:
            click.echo(f"{model['name']}: {model['reason']}")


def _cells(model: dict[str, Any]) -> tuple[str, ...]:
    runs = model["pid"] is not None and model["started_at"] is not None
    return (
        model["name"],
        model["state"],
        model["group"] or "-",
        str(model["pid"] or "-"),
        str(model["port"] or "-"),
        span(time.time() - model["started_at"]) if runs else "-",
        str(model["restarts"]),
        "-" if model["exit_code"] is None else str(model["exit_code"]),
        shortened(model["log_path"]),
    )
