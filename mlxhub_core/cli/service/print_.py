"""`mlxhub service print`: what `install` would write, for here or for the other system."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mlxhub_core.cli.common import config_argument
from mlxhub_core.cli.service.managers import Launchd, Manager, Systemd, manager_here
from mlxhub_core.cli.service.units import service_of


@click.command("print")
@config_argument
@click.option("--systemd", "kind", flag_value="systemd", help="The unit for systemd; default on Linux.")
@click.option("--launchd", "kind", flag_value="launchd", help="The property list for launchd; default on macOS.")
def print_(config: Path, kind: str | None) -> None:
    """Print the file that `mlxhub service install` would write, and write nothing.

    \b
      mlxhub service print
      mlxhub service print --launchd
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    from mlxhub_core.settings import load_settings

    manager: Manager = manager_here() if kind is None else Systemd() if kind == "systemd" else Launchd()
    click.echo(manager.text(service_of(load_settings(config), os.environ)), nl=False)
