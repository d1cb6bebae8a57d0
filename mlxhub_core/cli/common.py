"""What several commands share."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlxhub_core.errors import Problem

if TYPE_CHECKING:
    from mlxhub_core.manager import HubManager

F = TypeVar("F", bound=Callable[..., Any])

ECHO_SECONDS = 0.5
"""Signals so soon after the first are its echo: `timeout`, `make` and service managers tell the whole group as well."""

_FORMAT = "<dim>{time:HH:mm:ss}</dim> <level>{level: <7}</level> {message}"


def config_option(command: F) -> F:
    """`--config FILE`, by default hub.yaml in the current directory, or what MLXHUB_CONFIG says."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        default=Path("hub.yaml"),
        envvar="MLXHUB_CONFIG",
        show_default=True,
        show_envvar=True,
        help="The hub.yaml to use.",
    )(command)


@contextmanager
def closing(hub: HubManager) -> Iterator[HubManager]:
    """Shut the hub down at the end, whatever happens; Ctrl-C or SIGTERM meanwhile kills what still takes its time."""
    begin = 0.0

    def kill(_number: int, _frame: object) -> None:
        if time.monotonic() - begin < ECHO_SECONDS:
            return
        click.echo("killing what still runs", err=True)
        hub.kill()

    try:
        yield hub
    finally:
        begin = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, kill)
        click.echo("stopping the models; Ctrl-C again kills those that take their time", err=True)
        hub.shutdown()


def show_warnings(warnings: tuple[Problem, ...]) -> None:
    """What works but deserves a word, on standard error."""
    for warning in warnings:
        click.echo(style(f"warning: {warning}", "yellow"), err=True)


def style(text: str, colour: str) -> str:
    """Text in a colour; click drops it where the output is no terminal, and NO_COLOR (no-color.org) here."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour)


def log_to(write: Callable[[str], Any] | None = None, *, level: str = "INFO", colour: bool | None = None) -> None:
    """Send the hub's messages to standard error, or to `write`. The command is the application: it owns the handlers."""
    from loguru import logger

    if colour is None:
        # Loguru itself does not heed NO_COLOR, and would colour a pipe on some build machines.
        colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    logger.remove()
    # diagnose=False: a traceback must not show the values of variables, which may be secrets.
    logger.add(write or sys.stderr, level=level, format=_FORMAT, colorize=colour, diagnose=False, backtrace=False)
