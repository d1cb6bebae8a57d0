"""`mlxhub sinks test`: whether a sink works, tried with the events of a model that does not exist."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click

from mlxhub_core.cli.common import config_option, log_to, say, style
from mlxhub_core.errors import EXIT_FAILED, HubError, did_you_mean, listed
from mlxhub_core.hooks import hooks_of
from mlxhub_core.runner import described
from mlxhub_core.selection import load, offer_of, select
from mlxhub_core.settings import load_settings
from mlxhub_core.testing.day import MODEL, FakeHub

Step = tuple[str, Callable[[], object]]


@click.command("test")
@click.argument("key")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 600), default=10.0, show_default=True, help="Seconds for each call."
)
@config_option
def test_(key: str, timeout: float, config: Path) -> None:
    """Send a sink the events of a model that does not exist, and say how it took them.

    KEY as in hub.yaml, as statsd/eu. A sink that is not in there is tried with its defaults. It is opened, told of a
    day in the life of the model `mlxhub-test`, and closed: look for that name in your monitoring afterwards. Exit code
    1 if the sink raises or does not come back.
    """
    log_to(level="DEBUG")
    sink = _sink(key, config)
    steps = _steps(sink)
    click.echo(f"{key}: {len(steps) - 2} events of the model {MODEL!r}")
    failed = [what for what, call in steps if not _tried(what, call, timeout)]
    if failed:
        say(f"{key} failed in {listed(failed)}", "red")
        raise SystemExit(EXIT_FAILED)
    click.echo(style(f"{key} took them all; look for {MODEL!r} in your monitoring", "green"))


def _sink(key: str, config: Path) -> object:
    if config.exists() or config != Path("hub.yaml"):
        settings = load_settings(config)
        wanted = [entry for entry in settings.sinks if entry.key == key]
        if wanted:
            for warning in (selection := select(settings, wanted)).warnings:
                raise HubError(str(warning))
            return selection.sinks[0].sink
        known = [entry.key for entry in settings.sinks]
        hint = f"{key!r} is not on in {config}{did_you_mean(key, known)} (on: {listed(known)})"
    else:
        hint = f"there is no {config}"
    package, _, name = key.rpartition(":")
    try:
        factory = load(offer_of(name.partition("/")[0], package or None, name))
    except HubError as error:
        raise HubError(f"{hint}, and {error}") from None
    say(f"{hint}; it is tried with its defaults", "yellow")
    try:
        return factory()
    except Exception as error:  # noqa: BLE001  # a stranger's constructor
        raise HubError(f"{key} cannot be made without options ({described(error)}); write it into hub.yaml") from None


def _steps(sink: object) -> list[Step]:
    hooks = hooks_of(sink)
    steps: list[Step] = [("open", getattr(sink, "open", lambda: None))]
    for hook, arguments in FakeHub().day():
        if hook in hooks:
            steps.append((hook, lambda call=hooks[hook], with_=arguments: call(with_)))  # type: ignore[misc]
    return [*steps, ("close", getattr(sink, "close", lambda: None))]


def _tried(what: str, call: Callable[[], object], timeout: float) -> bool:
    """Make one call and say what became of it. After one that does not come back the sink cannot be asked any more."""
    outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    began = time.monotonic()
    threading.Thread(target=lambda: outcome.put(_error_of(call)), name=f"sink-{what}", daemon=True).start()
    try:
        error = outcome.get(timeout=timeout)
    except queue.Empty:
        raise HubError(f"{what} has not come back for {timeout:g} s; a hub would go on without waiting") from None
    took = f"{(time.monotonic() - began) * 1000:.1f} ms"
    if error is None:
        click.echo(f"  {what:<18} {took:>10}")
        return True
    click.echo(f"  {what:<18} {took:>10}  {style(described(error), 'red')}")
    return False


def _error_of(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except BaseException as error:  # noqa: BLE001  # SystemExit too: it would end the thread without a word
        return error
    return None
