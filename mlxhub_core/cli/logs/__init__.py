"""`mlxhub logs`: what models have written, and the rotation of that."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxhub_core.cli.common import config_option, style
from mlxhub_core.errors import HubError, HubNotRunningError

if TYPE_CHECKING:
    from mlxhub_core.log_reader import LogReader

LINES = 100
"""The last so many lines are shown, if nothing else is said."""
FOLLOWED_LINES = 10
"""And so many before those that are followed."""
_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")


class _Logs(click.Command):
    """A command whose first word may be that of another one: `mlxhub logs rotate`.

    A group would ask for such a word always, and take a model's name for one.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As in click; of `rotate` if that is the first word."""
        if args[:1] == ["rotate"]:
            from mlxhub_core.cli.logs.rotate import rotate

            if extra.get("resilient_parsing"):  # somebody has pressed Tab
                from mlxhub_core.cli.completion import teach

                teach(rotate)
            return rotate.make_context(f"{info_name} rotate", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


def _count(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "all":
        return value
    if not value.isascii() or not value.isdigit():
        raise click.BadParameter(f"{value!r} is no number of lines; write one, or all")
    return int(value)


@dataclass(frozen=True, slots=True)
class _Wish:
    """Which part of a log is wanted: of the last run, of the one before, and how many lines of it; None: all."""

    since_start: bool
    previous: bool
    lines: int | None


@click.command(cls=_Logs)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, also after a rotation, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    callback=_count,
    metavar="N",
    help=f"The last N lines, or all.  [default: {LINES}; with -f {FOLLOWED_LINES}; of one run all]",
)
@click.option("--since-start", is_flag=True, help="What was written since the current or last run began.")
@click.option("--previous", is_flag=True, help="What the run before that wrote.")
@config_option
def logs(
    models: tuple[str, ...], follow: bool, lines: int | str | None, since_start: bool, previous: bool, config: Path
) -> None:
    """What models have written, byte for byte; of several, each line behind the name of its model.

    Rotated logs are read as if they were one. Only --since-start and --previous need a hub that runs. A model whose
    name is rotate is `mlxhub logs -- rotate`.

    \b
      mlxhub logs qwen3-4b
      mlxhub logs -f qwen3-4b embeddings
      mlxhub logs qwen3-4b --previous      # why did it crash?
      mlxhub logs rotate [MODEL]...        # have the hub rotate logs now, see `mlxhub logs rotate --help`
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    if previous and (follow or since_start):
        raise click.UsageError("--previous is about a run that has ended; leave -f and --since-start out")
    one_run = since_start or previous
    default = None if one_run else FOLLOWED_LINES if follow else LINES
    wish = _Wish(since_start, previous, default if lines is None else None if lines == "all" else int(lines))
    found = _found(config, models, one_run=one_run)
    output = _Raw() if len(found) == 1 else _Prefixed([model["name"] for model in found])
    with ExitStack() as stack:
        readers = {model["name"]: stack.enter_context(_reader(model, wish)) for model in found}
        for name, reader in readers.items():
            for data in reader.read():
                output.write(name, data)
            if not follow:
                output.end(name)
        if follow:
            _follow(readers, output)


def _found(config: Path, names: Sequence[str], *, one_run: bool) -> list[dict[str, Any]]:
    """The models of these names, as the hub that runs knows them; if none does, only where their logs are."""
    from mlxhub_core.cli.asking import named
    from mlxhub_core.control.client import ControlClient

    try:
        return named(names, ControlClient(config).get("/hub/status")["models"])
    except HubNotRunningError as error:
        if one_run:
            raise HubNotRunningError(f"{error}; only it knows where a run began") from None
    from mlxhub_core.logs import log_file
    from mlxhub_core.settings import load_settings

    settings = load_settings(config)
    paths = {model.name: log_file(settings.log_path, model.name) for model in settings.models}
    return named(names, [{"name": name, "log_path": str(path)} for name, path in paths.items()])


def _reader(model: dict[str, Any], wish: _Wish) -> LogReader:
    from mlxhub_core.log_reader import LogReader, Mark

    path, begin, end = model["log_path"], None, None
    _check_readable(model["name"], path)
    if wish.since_start or wish.previous:
        if model["log_begin"] is None:
            raise HubError(f"{model['name']}: it has not run yet")
        begin = Mark(model["log_begin"], model["started_at"])
    if wish.previous:
        if model["previous_log_begin"] is None:
            raise HubError(f"{model['name']}: the hub knows of no run before this one; leave --previous out")
        begin, end = Mark(model["previous_log_begin"], model["previous_started_at"]), begin
    return LogReader(path, begin=begin, end=end, lines=wish.lines)


def _check_readable(name: str, path: str) -> None:
    """Raise HubError for a log that is there and cannot be read. One that is not there has nothing in it yet."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except FileNotFoundError:
        return
    except OSError as error:
        raise HubError(f"{name}: its log {path} cannot be read ({error.strerror})") from None
    if Path(path).is_dir():
        raise HubError(f"{name}: its log {path} cannot be read (it is a directory)")


def _follow(readers: dict[str, LogReader], output: _Raw | _Prefixed) -> None:
    from mlxhub_core.log_reader import POLL
    from mlxhub_core.waits import until_readable

    sys.stdout.flush()
    while True:
        more = [(name, data) for name, reader in readers.items() if (data := reader.more())]
        for name, data in more:
            output.write(name, data)
        if more:
            sys.stdout.flush()
        else:
            until_readable(timeout=POLL)


class _Raw:
    """The bytes of one log."""

    def write(self, _name: str, data: bytes) -> None:
        """Some of them."""
        sys.stdout.buffer.write(data)

    def end(self, _name: str) -> None:
        """There are no more."""


class _Prefixed:
    """The lines of several logs, each behind the name of its model.

    Args:
        names: of the models.
    """

    def __init__(self, names: Sequence[str]) -> None:
        width = max(map(len, names))
        coloured = sys.stdout.isatty()
        self._heads = {
            name: (style(f"{name:<{width}} |", colour) if coloured else f"{name:<{width}} |").encode() + b" "
            for name, colour in zip(names, cycle(_COLOURS), strict=False)
        }
        self._begun: dict[str, list[bytes]] = {name: [] for name in names}

    def write(self, name: str, data: bytes) -> None:
        """What one of them wrote next. A line is shown when it has come to its end."""
        begun = self._begun[name]
        if b"\n" not in data:  # Joined but once, as it may be very long.
            begun.append(data)
            return
        lines, newline, rest = b"".join([*begun, data]).rpartition(b"\n")
        begun[:] = [rest] if rest else []
        if newline:
            head = self._heads[name]
            sys.stdout.buffer.write(b"".join(head + line + b"\n" for line in lines.split(b"\n")))

    def end(self, name: str) -> None:
        """There is no more; the last line may have no end."""
        if self._begun[name]:
            self.write(name, b"\n")
