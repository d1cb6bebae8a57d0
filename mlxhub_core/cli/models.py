"""`mlxhub start-model`, `stop-model` and `restart-model`: what can be asked of single models."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mlxhub_core.cli.asking import all_done, post_for_each
from mlxhub_core.cli.common import TIMEOUT, config_option
from mlxhub_core.control.client import ControlClient
from mlxhub_core.place import same_hub

F = TypeVar("F", bound=Callable[..., Any])


def models_argument(command: F) -> F:
    """`MODEL...`, one or more; each counts once."""

    def once(_ctx: click.Context, _parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))

    return click.argument("models", nargs=-1, required=True, metavar="MODEL...", callback=once)(command)


def _wait_options(command: F) -> F:
    timeout = click.option(
        "--timeout",
        type=TIMEOUT,
        metavar="SECONDS",
        help="Wait no longer than that. Implies --wait.",
    )
    return click.option("--wait", is_flag=True, help="Wait until each is ready or has failed.")(timeout(command))


@click.command()
@models_argument
@_wait_options
@config_option
def start_model(models: tuple[str, ...], wait: bool, timeout: float | None, config: Path) -> None:
    """Start models, unless they run. Returns when their processes are there; they may not answer yet.

    Exit code 1 if one could not be started or, with --wait, did not become ready; 3 if no hub runs for this hub.yaml.

    \b
      mlxhub start-model qwen3-4b
      mlxhub start-model qwen3-4b embeddings --wait
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    _start(config, models, "start", timeout, wait=wait)


@click.command()
@models_argument
@config_option
def stop_model(models: tuple[str, ...], config: Path) -> None:
    """Stop models, and wait until they have ended. They stay stopped until somebody starts them.

    Ctrl-C ends only the wait. Exit code 1 if one could not be stopped, 3 if no hub runs for this hub.yaml.

    \b
      mlxhub stop-model qwen3-4b
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    all_done(post_for_each(ControlClient(config), models, "stop", patient=True), models)


@click.command()
@models_argument
@_wait_options
@config_option
def restart_model(models: tuple[str, ...], wait: bool, timeout: float | None, config: Path) -> None:
    """Stop models, if they run, and start them. Returns when their new processes are there.

    Exit code 1 if one could not be started or, with --wait, did not become ready; 3 if no hub runs for this hub.yaml.

    \b
      mlxhub restart-model qwen3-4b --wait
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    _start(config, models, "restart", timeout, wait=wait)


def _start(config: Path, models: tuple[str, ...], verb: str, timeout: float | None, *, wait: bool) -> None:
    client, began = ControlClient(config), time.time()
    done = post_for_each(client, models, verb, patient=True)
    # What the process before may have failed in meanwhile is no failure of the new one.
    started = time.time()
    if wait or timeout is not None:
        from mlxhub_core.cli.progress import until_ready

        done = until_ready(client, done, began, timeout, same_hub(config), started)
    all_done(done, models)
