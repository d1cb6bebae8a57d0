"""`mlxhub start`: run the models of a hub.yaml."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxhub_core.cli.common import TIMEOUT, config_option, printable, say, shortened, show_warnings, style
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import EXIT_FAILED, HubError, HubNotRunningError
from mlxhub_core.place import is_held, place_of, same_hub
from mlxhub_core.waits import interrupted_later, until_readable

if TYPE_CHECKING:
    from mlxhub_core.settings import HubSettings

OPENING = 1.0
"""Seconds that sinks may take to open before the start ends without their word."""
POLL = 0.02
"""Seconds between looks at that: no event tells."""


@click.command()
@config_option
@click.option(
    "--foreground",
    is_flag=True,
    help="Run the hub in this process and log to standard error, as launchd, systemd and containers want it.",
)
@click.option("--no-wait", is_flag=True, help="Do not wait until the models are ready.")
@click.option(
    "--timeout",
    type=TIMEOUT,
    metavar="SECONDS",
    help="Wait no longer than that; exit code 1 if not all models are ready by then.",
)
@click.option("--log-file", type=click.Path(path_type=Path), hidden=True)
@click.option("--ready-fd", type=int, hidden=True)
def start(
    config: Path, foreground: bool, no_wait: bool, timeout: float | None, log_file: Path | None, ready_fd: int | None
) -> None:
    """Start the hub in the background, and wait until each model with `default: true` is ready or has failed.

    Exit code 1 if one has failed: the hub goes on all the same. Ctrl-C ends only the wait. A hub that runs already is
    left alone and its status shown.

    \b
      mlxhub start
      mlxhub start --config other.yaml --timeout 300
      mlxhub start --foreground      # until Ctrl-C, which stops all models; a second one kills them
      mlxhub status                  # then: watch, events -f, logs -f MODEL, explain MODEL, stop
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    if foreground:
        from mlxhub_core.cli.foreground import serve

        serve(config, log_file, ready_fd)
    elif not _is_running(config):
        _start(config, timeout, wait=not no_wait)


def _is_running(config: Path) -> bool:
    """Whether a hub runs already; if so, says how it is."""
    from mlxhub_core.cli.status import show

    if not is_held(place_of(config).lock):
        return False  # One that has just been stopped may still answer.
    client = ControlClient(config)
    try:
        status = client.get("/hub/status")
    except HubNotRunningError:
        return False
    if status.get("stopping"):  # an older hub does not say
        say(f"the hub that runs (pid {status['pid']}) is about to end; this one starts then")
        client.wait_for_its_end()
        return False
    click.echo(f"the hub for {shortened(status['config'])} already runs (pid {status['pid']})")
    show(status["models"], same_hub(config))
    return True


def _start(config: Path, timeout: float | None, *, wait: bool) -> None:
    end = None if timeout is None else time.monotonic() + timeout
    settings = _checked(config)
    from mlxhub_core.cli.background import HubEndedError, start_hub
    from mlxhub_core.cli.progress import until_ready
    from mlxhub_core.logs import hub_log_file

    client = ControlClient(config)
    models = [model.name for model in settings.models if model.default]
    with interrupted_later():  # It is known then what goes on.
        hub = start_hub(config, hub_log_file(settings.log_path))
    try:
        applied = hub.until_applied(timeout)
        left = None if end is None else max(0.0, end - time.monotonic())
        ready = until_ready(client, models, hub.began, left, same_hub(config)) if wait and applied else models
        if applied:
            _show_places(client, config, settings, hub.log)
    except KeyboardInterrupt:
        hub.until_known(place_of(config).lock)  # so that a `mlxhub stop` that follows finds it
        say(f"not waiting any more; the hub goes on: `mlxhub status{same_hub(config)}`")
        raise
    except HubEndedError:
        if not _is_running(config):  # Somebody else has started one in the same moment.
            raise
        return
    except HubError:
        raise hub.trouble() from None
    if not applied:
        say(f"hub.yaml is not applied in time; the hub goes on with it; its log is {hub.log}", "red")
        raise SystemExit(EXIT_FAILED)
    if len(ready) < len(models):
        raise SystemExit(EXIT_FAILED)


def _sinks(client: ControlClient) -> list[dict[str, Any]]:
    """The sinks, when each has opened or failed to; not later than after `OPENING`: they do that on threads of theirs."""
    until = time.monotonic() + OPENING
    while True:
        sinks: list[dict[str, Any]] = client.get("/hub/sinks")["sinks"]
        if all(sink["open"] or sink["last_error"] for sink in sinks) or time.monotonic() > until:
            return sinks
        until_readable(timeout=POLL)


def _checked(config: Path) -> HubSettings:
    """hub.yaml, if it can be used, sinks and all: nothing is started with one that cannot."""
    from mlxhub_core.selection import problems_of, select
    from mlxhub_core.settings import load_settings

    settings = load_settings(config, problems_of)
    selection = select(settings, settings.sinks)
    show_warnings((*settings.warnings, *selection.warnings))
    return settings


def _show_places(client: ControlClient, config: Path, settings: HubSettings, log: Path) -> None:
    pid = client.get("/hub/status")["pid"]
    option = same_hub(config)
    click.echo(style(f"the hub runs (pid {pid}); `mlxhub stop{option}` ends it", "green"))
    click.echo(f"logs: {shortened(str(settings.log_path))}, the hub's own: {log.name}")
    click.echo(f"socket: {shortened(str(client.socket))}")
    for sink in _sinks(client):
        if sink["where"]:
            click.echo(f"{sink['name']}: {printable(sink['where'])}")
        elif not sink["open"] and sink["last_error"]:
            say(f"{sink['name']}: does not work yet: {printable(sink['last_error'])}; the hub tries again", "yellow")
    if not any(model.default for model in settings.models):
        example = next((model.name for model in settings.models), "NAME")
        click.echo(f"no model has `default: true`; start one with `mlxhub start-model{option} {example}`")
