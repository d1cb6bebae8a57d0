"""`mlxhub start --foreground`: run the models of a hub.yaml until told to stop. What also runs in the background."""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlxhub_core.cli.common import END_SIGNALS, Ending, closing, listen, log_to, log_to_file, say, show_warnings
from mlxhub_core.errors import HubError

if TYPE_CHECKING:
    from mlxhub_core.manager import HubManager
    from mlxhub_core.settings import HubSettings
    from mlxhub_core.supervisor import ReloadResult

    # What the command waits for: the number of a signal, a wish for its end, or the outcome of a reload.
    Happening = int | Ending | ReloadResult | HubError


MOST_FILES = 10_240
"""Files that a hub allows itself to open, if its user may: macOS bears no more, and its shells begin with 256."""
LEAVE = signal.SIGUSR2
"""Ends the hub and keeps its models, as `mlxhub stop --keep-models` does; for service managers, which send signals."""


def serve(config: Path, log_file: Path | None = None, ready: int | None = None) -> None:
    """Run a hub until a signal or somebody who asks for it ends it.

    Args:
        config: its hub.yaml.
        log_file: where its messages go; None: to standard error.
        ready: a descriptor that gets a line, and is closed, once hub.yaml is applied.

    Raises:
        HubError: it cannot run.
    """
    from mlxhub_core.manager import HubManager

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError):  # It goes with fewer.
            resource.setrlimit(resource.RLIMIT_NOFILE, (most_files(), hard))
    if ready is not None:
        os.set_inheritable(ready, False)  # Whoever waits shall learn of our end, not of that of the last model.
    settings = _read(config, log_file)
    happenings = _listen_to_signals()
    hub = HubManager(config)
    with _control_of(hub, happenings, log_file), closing(hub) as ending:
        outcome = _reload(hub, happenings)
        if isinstance(outcome, HubError):
            raise outcome
        if isinstance(outcome, Ending):
            ending.keep_models = outcome.keep_models
            return
        _show_failed(outcome)
        if not any(model.pid for model in hub.get_status()):
            say("no model runs yet; `mlxhub start-model NAME` starts one, `default: true` has it start with the hub")
        if ready is not None:
            with contextlib.suppress(OSError):  # nobody waits any more
                os.write(ready, b"\n")
            os.close(ready)
        if log_file is None:
            say(f"{config}: logs in {settings.log_path}; Ctrl-C stops everything")
        ending.keep_models = _serve(hub, happenings, log_file).keep_models


def most_files() -> int:
    """How many files a hub may open here, at least."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (MOST_FILES if limit == resource.RLIM_INFINITY else limit for limit in limits)
    return max(soft, min(hard, MOST_FILES))


def _read(config: Path, log_file: Path | None) -> HubSettings:
    """Check hub.yaml, show its warnings, and log as loudly as it says."""
    from mlxhub_core.selection import problems_of
    from mlxhub_core.settings import load_settings

    settings = load_settings(config, problems_of)
    if log_file is None:
        log_to(level=settings.log_level)
    else:
        log_to_file(log_file, level=settings.log_level)
    show_warnings(settings.warnings)
    return settings


@contextmanager
def _control_of(hub: HubManager, happenings: queue.SimpleQueue[Happening], log_file: Path | None) -> Iterator[None]:
    """Let commands ask the hub meanwhile. It runs without that, too."""
    from mlxhub_core.control.server import ControlServer
    from mlxhub_core.place import place_of

    with ExitStack() as stack:
        try:
            log = None if log_file is None else log_file.absolute()
            server = ControlServer(hub, place_of(hub.config_path), lambda keep: happenings.put(Ending(keep)), log)
            stack.callback(server.close)
            server.start()
        except HubError as error:
            say(f"warning: {error}; the hub runs, but no command can ask it", "yellow")
        yield


def _listen_to_signals() -> queue.SimpleQueue[Happening]:
    """A queue into which the numbers of signals are put as they come."""
    happenings: queue.SimpleQueue[Happening] = queue.SimpleQueue()
    listen((*END_SIGNALS, signal.SIGHUP, LEAVE), happenings.put)
    return happenings


def _serve(hub: HubManager, happenings: queue.SimpleQueue[Happening], log_file: Path | None) -> Ending:
    """Reload at each SIGHUP, until another signal comes, or somebody asks for the end."""
    while (happening := happenings.get()) == signal.SIGHUP:
        # What is wrong with it the reload says, so that the hub itself knows.
        with contextlib.suppress(HubError):
            _read(hub.config_path, log_file)
        outcome = _reload(hub, happenings)
        if isinstance(outcome, Ending):
            return outcome
        if isinstance(outcome, HubError):
            say(f"{outcome}\nhub.yaml was not applied; all goes on as before", "red")
        else:
            _show_failed(outcome)
    return happening if isinstance(happening, Ending) else Ending(keep_models=happening == LEAVE)


def _reload(hub: HubManager, happenings: queue.SimpleQueue[Happening]) -> ReloadResult | HubError | Ending:
    """Apply hub.yaml in the background, so that a signal, or a wish for the end, can end the wait."""
    threading.Thread(target=lambda: happenings.put(_outcome(hub)), name="reload", daemon=True).start()
    again = False
    while isinstance(happening := happenings.get(), int):
        if happening != signal.SIGHUP:
            return Ending(keep_models=happening == LEAVE)
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
