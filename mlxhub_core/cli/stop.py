"""`mlxhub stop`: end the hub that runs."""

from __future__ import annotations

from pathlib import Path

import click

from mlxhub_core.cli.common import config_option, say
from mlxhub_core.control.client import ControlClient


@click.command()
@config_option
@click.option(
    "--keep-models", is_flag=True, help="Leave the models running; the next `mlxhub start` goes on with them."
)
def stop(config: Path, keep_models: bool) -> None:
    """Stop the hub and its models, and wait until that is done.

    With --keep-models they go on serving and logging, so that the hub can be upgraded without loading them again:

    \b
      mlxhub stop --keep-models
      python -m pip install --upgrade mlxhub-core
      mlxhub start

    Ctrl-C ends only the wait. Exit code 3 if no hub runs for this hub.yaml.
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    client = ControlClient(config)
    running = [model["name"] for model in client.get("/hub/status")["models"] if model["pid"] is not None]
    client.post(f"/hub/shutdown?keep_models={str(keep_models).lower()}")
    try:
        client.wait_for_its_end()
    except KeyboardInterrupt:
        say("not waiting any more; the hub goes on stopping")
        raise
    if not keep_models:
        click.echo("stopped")
    elif running:
        click.echo(f"stopped; {', '.join(running)} run on until the next `mlxhub start`")
    else:
        click.echo("stopped; no model ran")
