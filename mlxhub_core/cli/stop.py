"""`mlxhub stop`: end the hub that runs."""

from __future__ import annotations

from pathlib import Path

import click

from mlxhub_core.cli.common import config_option, say
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import HubError, HubNotRunningError
from mlxhub_core.place import place_of, runs_of, same_hub


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
    running = _running(client)
    client.post(f"/hub/shutdown?keep_models={str(keep_models).lower()}")
    try:
        client.wait_for_its_end()
    except KeyboardInterrupt:
        say("not waiting any more; the hub goes on stopping")
        raise
    again = f"`mlxhub start{same_hub(config)}`"
    if keep_models:
        click.echo(f"stopped; {running} run on; the next {again} finds them" if running else "stopped; no model ran")
    elif left := runs_of(place_of(config)):
        raise HubError(f"the hub has ended before {left} of its models had; {again} finds those that go on")
    else:
        click.echo("stopped")


def _running(client: ControlClient) -> str:
    """The names of the models that run. A hub that cannot even say that can be stopped all the same."""
    try:
        models = client.get("/hub/status")["models"]
    except HubNotRunningError:
        raise
    except HubError:
        return "its models"
    return ", ".join(model["name"] for model in models if model["pid"] is not None)
