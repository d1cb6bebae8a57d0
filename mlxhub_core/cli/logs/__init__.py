"""`mlxhub logs`: what to do with the logs of the models."""

from __future__ import annotations

import click

from mlxhub_core.cli.lazy import LazyGroup

_COMMANDS = {"rotate": "Rotate the logs of models now."}


@click.group(cls=LazyGroup, package=__name__, commands=_COMMANDS)
def logs() -> None:
    """Rotate logs. One is read with `tail -F <log_path>/<model>.log`."""
