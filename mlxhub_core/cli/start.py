"""`mlxhub start`: run the models of a hub.yaml until told to stop."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlxhub_core.cli.common import END_SIGNALS, Ending, closing, config_option, listen, log_to, say, show_warnings
from mlxhub_core.errors import EXIT_FAILED, HubError

if TYPE_CHECKING:
    from mlxhub_core.manager import HubManager
    from mlxhub_core.settings import HubSettings
    from mlxhub_core.supervisor import ReloadResult

    # What the command waits for: the number of a signal, a wish for its end, or the outcome of a reload.
    Happening = int | Ending | ReloadResult | HubError


@click.command()
@config_option
@click.option("--foreground", is_flag=True, help="Stay in the foreground. What it always does for now.")
def start(config: Path, foreground: bool) -> None:  # noqa: ARG001  # kept for service files
    """Run the models of a hub.yaml until Ctrl-C.

    Models with `default: true` start at once. SIGHUP reads hub.yaml again; SIGTERM and Ctrl-C stop all models, a
    second Ctrl-C kills them.
    """
    from mlxhub_core.manager import HubManager

    settings = _read(config)
    happenings = _listen_to_signals()
    hub = HubManager(config)
    with _control_of(hub, happenings), closing(hub) as ending:
        outcome = _reload(hub, happenings)
        if isinstance(outcome, HubError):
            raise outcome
        if isinstance(outcome, Ending):
            ending.keep_models = outcome.keep_models
            return
        _show_failed(outcome)
        if not any(model.pid for model in hub.get_status()):
            if not (outcome.failed or outcome.started):
                say("nothing to run: no model in hub.yaml has `default: true`")
            if not outcome.started:
                raise SystemExit(EXIT_FAILED)
        say(f"{config}: logs in {settings.log_path}; Ctrl-C stops everything")
        ending.keep_models = _serve(hub, happenings).keep_models


def _read(config: Path) -> HubSettings:
    """Check hub.yaml, show its warnings, and log as loudly as it says."""
    from mlxhub_core.settings import load_settings

    settings = load_settings(config)
    log_to(level=settings.log_level)
    show_warnings(settings.warnings)
    return settings


@contextmanager
def _control_of(hub: HubManager, happenings: queue.SimpleQueue[Happening]) -> Iterator[None]:
    """Let commands ask the hub meanwhile. It runs without that, too."""
    from mlxhub_core.control.server import ControlServer
    from mlxhub_core.place import place_of

    with ExitStack() as stack:
        try:
            server = ControlServer(hub, place_of(hub.config_path), lambda keep: happenings.put(Ending(keep)))
            stack.callback(server.close)
            server.start()
        except HubError as error:
            say(f"warning: {error}; the hub runs, but no command can ask it", "yellow")
        yield


def _listen_to_signals() -> queue.SimpleQueue[Happening]:
    """A queue into which the numbers of signals are put as they come."""
    happenings: queue.SimpleQueue[Happening] = queue.SimpleQueue()
    listen((*END_SIGNALS, signal.SIGHUP), happenings.put)
    return happenings


def _serve(hub: HubManager, happenings: queue.SimpleQueue[Happening]) -> Ending:
    """Reload at each SIGHUP, until another signal comes, or somebody asks for the end."""
    while (happening := happenings.get()) == signal.SIGHUP:
        # What is wrong with it the reload says, so that the hub itself knows.
        with contextlib.suppress(HubError):
            _read(hub.config_path)
        outcome = _reload(hub, happenings)
        if isinstance(outcome, Ending):
            return outcome
        if isinstance(outcome, HubError):
            say(f"{outcome}\nhub.yaml was not applied; all goes on as before", "red")
        else:
            _show_failed(outcome)
    return happening if isinstance(happening, Ending) else Ending()


def _reload(hub: HubManager, happenings: queue.SimpleQueue[Happening]) -> ReloadResult | HubError | Ending:
    """Apply hub.yaml in the background, so that a signal, or a wish for the end, can end the wait."""
    threading.Thread(target=lambda: happenings.put(_outcome(hub)), name="reload", daemon=True).start()
    again = False
    while isinstance(happening := happenings.get(), int):
        if happening != signal.SIGHUP:
            return Ending()
        again = True
    if again:
        happenings.put(signal.SIGHUP)
    return happening


def _outcome(hub: HubManager) -> ReloadResult | HubError:
    try:
        return hub.reload()
    except HubError as error:
        return error
    except Exception as error:  # noqa: BLE001  # without an outcome the command would wait for ever
        return HubError(f"a bug in mlxhub, please report it: {type(error).__name__}: {error}")


def _show_failed(result: ReloadResult) -> None:
    for error in result.failed.values():
        say(str(error), "red")
