"""`mlxhub status`: how the models are, as the hub that runs knows it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mlxhub_core.cli.asking import named
from mlxhub_core.cli.common import config_option, json_option, printable, style, terminal_width
from mlxhub_core.cli.rows import COLOURS, lines_of
from mlxhub_core.cli.words import state_in_words
from mlxhub_core.control.client import ControlClient
from mlxhub_core.place import same_hub


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@config_option
@json_option
def status(models: tuple[str, ...], config: Path, as_json: bool) -> None:
    """How these models are, or all of hub.yaml.

    On a terminal, columns for which there is no room are left out. Exit code 3 if no hub runs for this hub.yaml.

    \b
      mlxhub status
      mlxhub status qwen3-4b --json
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    shown = named(models, ControlClient(config).get("/hub/status")["models"])
    if as_json:
        click.echo(json.dumps(shown, indent=2))
    else:
        show(shown, same_hub(config))


def show(models: Sequence[dict[str, Any]], option: str) -> None:
    """The table of these models, and what there is to say of each that is not well, on standard output.

    Args:
        models: their status.
        option: what to add to commands so that they are about the same hub.
    """
    lines = lines_of(models, terminal_width(sys.stdout))
    for line, model in zip(lines, [None, *models], strict=True):
        state = model["state"] if model else ""
        # Only after the columns are aligned: a colour has no width.
        click.echo(line.replace(f" {state} ", f" {style(state, COLOURS[state])} ", 1) if state in COLOURS else line)
    for model in models:
        if said := state_in_words(model, option):
            click.echo(f"{model['name']}: {printable(said)}")
