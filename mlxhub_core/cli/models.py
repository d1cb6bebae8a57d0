"""`mlxhub start-model`, `stop-model` and `restart-model`: what can be asked of single models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from mlxhub_core.cli.common import config_option, say
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import EXIT_FAILED, HubError, HubNotRunningError


def _models(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("models", nargs=-1, required=True, metavar="MODEL...")(config_option(command))


@click.command()
@_models
def start_model(models: tuple[str, ...], config: Path) -> None:
    """Start models, unless they run. Returns when their processes are there; they may not answer yet.

    Exit code 1 if one could not be started, 3 if no hub runs for this hub.yaml.
    """
    _ask(config, models, "start")


@click.command()
@_models
def stop_model(models: tuple[str, ...], config: Path) -> None:
    """Stop models, and wait until they have ended. They stay stopped until somebody starts them.

    Exit code 1 if one could not be stopped, 3 if no hub runs for this hub.yaml.
    """
    _ask(config, models, "stop")


@click.command()
@_models
def restart_model(models: tuple[str, ...], config: Path) -> None:
    """Stop models, if they run, and start them. Returns when their new processes are there.

    Exit code 1 if one could not be started, 3 if no hub runs for this hub.yaml.
    """
    _ask(config, models, "restart")


def _ask(config: Path, models: tuple[str, ...], verb: str) -> None:
    """One after the other; one that cannot does not keep the others from it."""
    client, failed = ControlClient(config), False
    for name in models:
        try:
            # It may take as long as a model takes to end.
            client.post(f"/hub/models/{quote(name, safe='')}/{verb}", patient=True)
        except HubNotRunningError:
            raise
        except HubError as error:
            failed = True
            say(str(error), "red")
    if failed:
        raise SystemExit(EXIT_FAILED)
