"""`mlxhub sinks test`: whether a sink works, tried with the events of a model that does not exist."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import click

from mlxhub_core.cli.common import Seconds, config_option, log_to, printable, say, style
from mlxhub_core.errors import EXIT_FAILED, ConfigError, HubError, did_you_mean, listed
from mlxhub_core.hooks import Arguments, hooks_of
from mlxhub_core.runner import described
from mlxhub_core.selection import load, offer_of, select
from mlxhub_core.settings import load_settings
from mlxhub_core.testing.day import MODEL, FakeHub


@click.command("test")
@click.argument("key")
@click.option("--timeout", type=Seconds(0.1, 600), default=10.0, show_default=True, help="Seconds for each call.")
@config_option
def test_(key: str, timeout: float, config: Path) -> None:
    """Send a sink the events of a model that does not exist, and say how it took them.

    KEY as in hub.yaml, as statsd/eu. A sink that is not in there is tried with its defaults. It is opened, told of a
    day in the life of the model `mlxhub-test`, and closed: look for that name in your monitoring afterwards. Exit code
    1 if the sink raises or does not come back.

    \b
      mlxhub sinks test statsd/eu
      mlxhub sinks test prometheus --timeout 3
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    log_to(level="DEBUG")
    sink = _sink(key, config)
    hooks = hooks_of(sink)
    click.echo(f"{key}: a day in the life of the model {MODEL!r}")
    thread = _Thread(key, timeout)
    if getattr(sink, "trace", thread) is None:
        sink.trace = thread.traced.append  # type: ignore[attr-defined]
    failed = list(dict.fromkeys(_failures(sink, hooks, thread)))
    if failed:
        say(f"{key} failed in {listed(failed)}", "red")
        raise SystemExit(EXIT_FAILED)
    click.echo(style(f"{key} took them all; look for {MODEL!r} in your monitoring", "green"))


def _sink(key: str, config: Path) -> object:
    if config != Path("hub.yaml") or config.exists():
        settings = load_settings(config)
        wanted = [entry for entry in settings.sinks if entry.key == key]
        if wanted:
            selection = select(settings, wanted)
            if selection.warnings:  # the hub can do without it, a test of it cannot
                raise ConfigError(sorted(selection.warnings, key=settings.source.position))
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
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # a stranger's constructor, which may even call sys.exit()
        raise HubError(f"{key} cannot be made without options ({described(error)}); write it into hub.yaml") from None


def _failures(sink: object, hooks: Mapping[str, Callable[[Arguments], None]], thread: _Thread) -> Iterator[str]:
    """What it fails in. As in a hub, one that does not open is spared the events, and is closed all the same."""
    flush = getattr(sink, "flush", None)
    if thread.does("open", getattr(sink, "open", None)):
        # One by one: the sink may ask the hub how the model is.
        for hook, arguments in FakeHub().day():
            if hook in hooks and not thread.does(hook, _followed(partial(hooks[hook], arguments), flush)):
                yield hook
    else:
        yield "open"
    if not thread.does("close", getattr(sink, "close", None)):
        yield "close"


def _followed(call: Callable[[], object], flush: object) -> Callable[[], object]:
    """A hook and, as no other event waits, the flush after it, if the sink has one."""

    def both() -> None:
        call()
        if callable(flush):
            flush()

    return both


class _Thread:
    """The sink's own thread, as it has one in the hub: what it opens may be of no use in another.

    Args:
        key: of the sink, for messages.
        timeout: seconds for each call.

    Attributes:
        traced: what the sink says that it sent, for the call that it has in hand.
    """

    def __init__(self, key: str, timeout: float) -> None:
        self.traced: list[str] = []
        self._key = key
        self._timeout = timeout
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=f"sink-{key}", daemon=True).start()

    def does(self, what: str, call: object) -> bool:
        """Make one call, if the sink has it, and say what became of it.

        Raises:
            HubError: it does not come back, so that the sink cannot be asked any more.
        """
        if not callable(call):
            return True
        began = time.monotonic()
        self._calls.put(call)
        try:
            error = self._outcomes.get(timeout=self._timeout)
        except queue.Empty:
            message = f"has not come back for {self._timeout:g} s; a hub would go on without waiting"
            raise HubError(f"{self._key}: {what} {message}") from None
        took = f"{(time.monotonic() - began) * 1000:.1f} ms"
        said = "" if error is None else style(f"  {described(error)}", "red")
        click.echo(f"  {what:<18} {took:>10}{said}")
        for text in self.traced:
            click.echo(style(f"      {printable(text)}", "cyan"))
        self.traced.clear()
        return error is None

    def _run(self) -> None:
        while True:
            try:
                self._calls.get()()
            except BaseException as error:  # noqa: BLE001  # SystemExit too: it would end the thread without a word
                self._outcomes.put(error)
            else:
                self._outcomes.put(None)
