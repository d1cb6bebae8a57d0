"""`mlxhub logs rotate`: have the hub that runs rotate logs now."""

from __future__ import annotations

from pathlib import Path

import click

from mlxhub_core.cli.asking import all_done, named, post_for_each
from mlxhub_core.cli.common import config_option
from mlxhub_core.control.client import ControlClient


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@config_option
def rotate(models: tuple[str, ...], config: Path) -> None:
    """Rotate the logs of these models, or of all: LOG becomes LOG.1, and what the model writes next begins a new LOG.

    No line is lost or torn, and no model notices. An empty log stays as it is. Exit code 3 if no hub runs for this
    hub.yaml.

    \b
      mlxhub logs rotate
      mlxhub logs rotate qwen3-4b
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    client = ControlClient(config)
    names = models or [model["name"] for model in named((), client.get("/hub/status")["models"])]
    all_done(post_for_each(client, names, "log/rotate"), names)
