"""`mlxhub start`: run the models of a hub.yaml until told to stop."""

from __future__ import annotations

import queue
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlxhub_core.cli.common import closing, config_option, log_to, show_warnings, style
from mlxhub_core.errors import EXIT_FAILED, ConfigError, HubError

if TYPE_CHECKING:
    from mlxhub_core.manager import HubManager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@config_option
@click.option("--foreground", is_flag=True, help="Stay in the foreground. What it always does for now.")
def start(config: Path, foreground: bool) -> None:  # noqa: ARG001  # kept for service files
    """Run the models of a hub.yaml until Ctrl-C.

    Models with `default: true` start at once. SIGHUP reads hub.yaml again; SIGTERM and Ctrl-C stop all models, a
    second Ctrl-C kills them.
    """
    from mlxhub_core.manager import HubManager
    from mlxhub_core.settings import load_settings

    settings = load_settings(config)
    log_to(level=settings.log_level)
    show_warnings(settings.warnings)
    asked = _listen_to_signals()
    with closing(HubManager(config)) as hub:
        failed = hub.reload().failed
        _show_failed(failed)
        if not any(model.pid for model in hub.get_status()):
            _explain_nothing_runs(failed)
            raise SystemExit(EXIT_FAILED)
        click.echo(f"{config}: logs in {settings.log_path}; Ctrl-C stops everything", err=True)
        while asked.get() == signal.SIGHUP:
            _reload(hub)


def _listen_to_signals() -> queue.SimpleQueue[int]:
    """A queue of the signals that come. A handler only puts its number there: it may interrupt anything."""
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in _SIGNALS:
        signal.signal(number, lambda number, _frame: asked.put(number))
    return asked


def _reload(hub: HubManager) -> None:
    try:
        _show_failed(hub.reload().failed)
    except ConfigError as error:
        click.echo(style(f"{error}\nhub.yaml was not applied; all goes on as before", "red"), err=True)


def _show_failed(failed: Mapping[str, HubError]) -> None:
    for error in failed.values():
        click.echo(style(str(error), "red"), err=True)


def _explain_nothing_runs(failed: Mapping[str, HubError]) -> None:
    if not failed:
        click.echo("nothing to run: no model in hub.yaml has `default: true`", err=True)
