"""`mlxhub service`: have the system start the hub: launchd on macOS, systemd on Linux."""

from __future__ import annotations

import click

from mlxhub_core.cli.lazy import LazyGroup

_COMMANDS = {
    "install": "Start the hub now and whenever you log in.",
    "uninstall": "Stop that, and the hub with its models.",
    "print": "Print the file that install would write.",
}


@click.group(cls=LazyGroup, package=__name__, commands=_COMMANDS)
def service() -> None:
    """Have the system start the hub, and start it again should it crash: launchd on macOS, systemd on Linux.

    A service of its own for each hub.yaml, for you alone; no administrator is needed.

    \b
      mlxhub service install
      mlxhub service print --systemd
      mlxhub service uninstall
    """  # noqa: D301  # click needs the character, to leave the lines as they are
