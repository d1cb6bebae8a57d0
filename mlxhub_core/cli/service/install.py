"""`mlxhub service install`: have the system start the hub."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

import click

from mlxhub_core.cli.common import config_argument, say, show_warnings, style
from mlxhub_core.cli.service.managers import manager_here
from mlxhub_core.cli.service.units import MARK, missing_secrets, service_of
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import HubError, HubNotRunningError

PATIENCE = 20.0
"""Seconds that a hub may take to answer once it was started: it does so before its models are there."""
POLL = 0.05
"""Seconds between looks whether it does, which nobody tells."""


@click.command()
@config_argument
def install(config: Path) -> None:
    """Start the hub now and whenever you log in, and again should it crash.

    Writes a file for launchd or systemd and has it read. A hub that runs already ends and leaves its models to the
    service. What the service knows of your shell is PATH, where Hugging Face keeps its models, and what begins with
    MLXHUB_; run it again when that, or the Python of mlxhub, has changed. A file of the same name that is not from here
    is left alone.

    \b
      mlxhub service install
      mlxhub service install ~/models/hub.yaml
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    from mlxhub_core.selection import problems_of, select
    from mlxhub_core.settings import load_settings

    settings = load_settings(config, problems_of)
    show_warnings((*settings.warnings, *select(settings, settings.sinks).warnings))
    service, manager = service_of(settings, os.environ), manager_here()
    for name in dict.fromkeys(missing_secrets(settings, service.environ)):
        say(f"warning: the service has no ${name}; in hub.yaml, name a file with it: {{file: path}}", "yellow")
    file = manager.file(service.name)
    write(file, manager.text(service))
    click.echo(f"wrote {file}")
    # Before the hub that runs is asked to leave: where nobody takes its place, it shall stay.
    manager.enable(service)
    client = ControlClient(config)
    _take_over(client)
    notes = manager.start(service)
    _wait_for(client, service.name)
    click.echo(style(f"{service.name} runs, and starts when you log in", "green"))
    for note in notes:
        click.echo(note)


def write(file: Path, text: str) -> None:
    """Write a file of ours, or write it anew, as a whole or not at all.

    Raises:
        HubError: there is another one, or it cannot be written.
    """
    try:
        if (file.exists() or file.is_symlink()) and not is_ours(file):
            raise HubError(f"{file} is there and not from mlxhub, so it is left as it is; move it away first")
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, new = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as made:
                made.write(text)
                os.fchmod(made.fileno(), 0o644)
            Path(new).replace(file)
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HubError(f"{file} cannot be written ({error.strerror})") from None


def is_ours(file: Path) -> bool:
    """Whether a file is from here."""
    with contextlib.suppress(OSError):
        return not file.is_symlink() and MARK.encode() in file.read_bytes()
    return False


def _take_over(client: ControlClient) -> None:
    """Have a hub that runs end and leave its models, which the next one finds."""
    try:
        client.post("/hub/shutdown?keep_models=true")
    except HubNotRunningError:
        return
    client.wait_for_its_end()
    click.echo("the hub that ran has ended; its models go on")


def _wait_for(client: ControlClient, name: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client.get("/hub/status")
        except HubNotRunningError as error:
            if time.monotonic() > deadline:
                raise HubError(
                    f"{name} was started, and no hub answers; look at its log, and try `mlxhub check`"
                ) from error
            time.sleep(POLL)
        else:
            return
