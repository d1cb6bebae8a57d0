"""`mlxhub watch`: the hub that runs, live."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from mlxhub_core.cli import EXIT_INTERRUPTED
from mlxhub_core.cli.common import Seconds, config_option, printable
from mlxhub_core.cli.events import event_line
from mlxhub_core.cli.words import state_in_words
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import HubError, HubNotRunningError
from mlxhub_core.place import same_hub
from mlxhub_core.waits import until_readable

EVENTS = 200
"""So many of the last events are kept to be shown; no terminal has more lines."""

RETRY = 1.0
"""Seconds between looks whether a hub that was away is back."""


@dataclass(slots=True)
class View:
    """What is known of the hub.

    Attributes:
        status: what it last said of itself and its models; None before that.
        sinks: what it last said of its sinks.
        events: the last of them.
        away: why it cannot be asked now; None if it can.
    """

    status: dict[str, Any] | None = None
    sinks: list[dict[str, Any]] = field(default_factory=list)
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=EVENTS))
    away: str | None = None


@click.command()
@click.option(
    "--interval",
    type=Seconds(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often uptimes, memory and counters are read; what happens is shown at once.",
)
@config_option
def watch(interval: float, config: Path) -> None:
    """Watch the models, the sinks and the last events, until Ctrl-C.

    A hub that goes away is waited for. Where the output is no terminal, each change is a line.

    \b
      mlxhub watch
      mlxhub watch | tee hub.txt
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    client = ControlClient(config)
    if not config.exists():
        client.get("/hub/status")  # says which file is not there, if no hub has it
    if sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        _draw(client, interval)
    else:
        _print(client, interval, same_hub(config))


def _draw(client: ControlClient, interval: float) -> None:
    from mlxhub_core.cli.screen import Screen

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, _leave)  # in order, so that the terminal is as it was
    signal.signal(signal.SIGWINCH, lambda *_: None)  # wakes the wait, to draw anew
    view = View()
    try:
        with Screen(view) as screen:
            for _ in _changes(client, view, interval, None):
                screen.draw()
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _print(client: ControlClient, interval: float, option: str) -> None:
    view, begun, away = View(), False, False
    for events in _changes(client, view, interval, time.time()):
        if view.away is not None and not away:
            _say(f"the hub is away: {view.away}")
        elif view.status is not None and not begun:
            _say_how_models_are(view.status["models"], option)
            begun = True
        elif away and view.away is None:
            _say("the hub is back")  # Its events tell how the models are.
        away = view.away is not None
        for event in events:
            click.echo(event_line(event, coloured=False))
        sys.stdout.flush()


def _say_how_models_are(models: list[dict[str, Any]], option: str) -> None:
    for model in models:
        said = state_in_words(model, option)
        _say(f"{model['name']}  {model['state']}" + (f": {said}" if said else ""))


def _say(words: str) -> None:
    click.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {printable(words)}")


def _changes(client: ControlClient, view: View, interval: float, since: float | None) -> Iterator[list[dict[str, Any]]]:
    """Keep a view up to date. Yields what has happened, at once; and nothing from time to time and after a signal."""
    last_id = None
    while True:
        try:
            with client.events(since=since, last_id=last_id) as stream:
                events: list[dict[str, Any]] = []
                while True:
                    view.status, view.sinks = client.get("/hub/status"), client.get("/hub/sinks")["sinks"]
                    view.away = None
                    yield events
                    events = stream.wait(interval)
                    last_id = events[-1]["id"] if events else last_id
                    view.events += events
        except HubNotRunningError as error:
            view.away = str(error)
        except HubError as error:
            if view.status is None:
                raise
            view.away = str(error)
        since = None
        yield []
        # Nothing tells when a hub begins to listen.
        until_readable(timeout=min(interval, RETRY))
