"""`mlxhub service uninstall`: the system starts the hub no more."""

from __future__ import annotations

from pathlib import Path

import click

from mlxhub_core.cli.common import config_argument, style
from mlxhub_core.cli.service.install import is_ours
from mlxhub_core.cli.service.managers import manager_here
from mlxhub_core.cli.service.units import name_of
from mlxhub_core.errors import HubError


@click.command()
@config_argument
def uninstall(config: Path) -> None:
    """Stop the hub that the system runs, with its models, and have it started no more.

    The hub.yaml may be gone already. To go on without a service, run `mlxhub stop --keep-models` first and
    `mlxhub start` afterwards.

    \b
      mlxhub service uninstall
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    name, manager = name_of(config), manager_here()
    file = manager.file(name)
    if not (file.exists() or file.is_symlink()):
        raise HubError(f"no service is installed for {config.resolve()}: {file} is not there")
    if not is_ours(file):
        raise HubError(f"{file} is not from mlxhub, so it is left as it is")
    manager.disable(name)
    file.unlink()
    manager.forget()
    click.echo(style(f"{name} is stopped, and {file} removed", "green"))
