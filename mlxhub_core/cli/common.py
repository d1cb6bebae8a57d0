"""What several commands share."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from mlxhub_core.errors import HubError, Problem

if TYPE_CHECKING:
    from mlxhub_core.manager import HubManager

F = TypeVar("F", bound=Callable[..., Any])

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
"""What ends a command that runs models: each would leave them behind if it were not heeded."""
ECHO_SECONDS = 0.5
"""Signals so soon after the first are its echo: `timeout`, `make` and service managers tell the whole group as well."""

LONGEST_WAIT = 1e6
"""Seconds, 11 days; a system call cannot be told to wait for much more."""
HUB_LOG_BYTES = 10_000_000
"""A hub's own log is rotated when it is so long; a day of events is some hundred kilobytes."""
HUB_LOG_BACKUPS = 3
"""So many rotated ones are kept."""

_FORMAT = "<dim>{time:HH:mm:ss}</dim> <level>{level: <7}</level> {message}"
_FILE_FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {message}"
_LEVELS = {"red": "ERROR", "yellow": "WARNING"}
_has_log_file = False


class Seconds(click.FloatRange):
    """A time span in a range, in which `nan` is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As in click, whose comparisons let `nan` through."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


TIMEOUT = Seconds(min=0, min_open=True, max=LONGEST_WAIT)
"""How long a command may be told to wait."""


def config_option(command: F) -> F:
    """`--config FILE`, by default hub.yaml in the current directory, or what MLXHUB_CONFIG says."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(readable=False, path_type=Path),
        default=Path("hub.yaml"),
        envvar="MLXHUB_CONFIG",
        show_default=True,
        show_envvar=True,
        help="The hub.yaml to use.",
    )(command)


def config_argument(command: F) -> F:
    """The same as `config_option`, or a file named without it: `mlxhub check other.yaml`."""

    def named(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
        if value is not None:
            ctx.params["config"] = value

    argument = click.argument(
        "file",
        type=click.Path(readable=False, path_type=Path),
        required=False,
        metavar="[HUB.YAML]",
        callback=named,
        expose_value=False,
    )
    return argument(config_option(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@dataclass
class Ending:
    """How a hub is to be shut down: with its models, unless somebody has asked for them to be kept."""

    keep_models: bool = False


@contextmanager
def closing(hub: HubManager) -> Iterator[Ending]:
    """Shut the hub down at the end, whatever happens; Ctrl-C or SIGTERM meanwhile kills what still takes its time."""
    ending = Ending()
    # Where children are reaped by themselves nobody would learn how, or that, a model ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    begin = 0.0

    def kill(_number: int) -> None:
        if time.monotonic() - begin >= ECHO_SECONDS:
            hub.kill()
            say("killing what still runs")

    try:
        yield ending
    finally:
        begin = time.monotonic()
        with contextlib.suppress(OSError):  # no file is left for that: it goes without
            listen(END_SIGNALS, kill)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # In a thread of its own: this one may be held up by a terminal, or a pipe, that takes no more words.
        keep = ending.keep_models
        stopper = threading.Thread(target=hub.shutdown, kwargs={"keep_models": keep}, name="shutdown")
        stopper.start()
        if keep:
            say("leaving the models to the next hub")
        else:
            # In the background nobody can press it.
            say("stopping the models" + ("" if _has_log_file else "; Ctrl-C again kills those that take their time"))
        stopper.join()


def listen(numbers: Iterable[int], heard: Callable[[int], object]) -> None:
    """Have `heard` called with the number of each of these signals that comes, on a thread of its own.

    Python's own handlers run on the main thread and do not wake it from a wait: of two signals that come at once the
    system gives the second to another thread, and it would go unheard until the next one. A byte in a pipe does not.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    for number in numbers:
        signal.signal(number, lambda _number, _frame: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def hear() -> None:
        while True:
            for number in os.read(read, 64):
                heard(number)

    threading.Thread(target=hear, name="signals", daemon=True).start()


def say(words: str, colour: str | None = None) -> None:
    """Tell the person, on standard error, or in the log of a hub that has one of its own.

    Nobody being there to hear it must not keep the hub from its duty.
    """
    if _has_log_file:
        from loguru import logger

        logger.log(_LEVELS.get(colour or "", "INFO"), "{}", words)
        return
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        click.echo(style(words, colour) if colour else words, err=True)


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows of words as lines of columns; those with a number in `right` are aligned to the right.

    Not a table of rich's: that takes a tenth of a second to import, and folds what does not fit into the line.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.rjust if number in right else str.ljust for number in range(len(widths))]
    return [
        "  ".join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)).rstrip()
        for row in rows
    ]


def span(seconds: float) -> str:
    """A time span, as `40s`, `1m40s`, `2h05m` or `3d04h`."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def size_of(count: int) -> str:
    """Bytes, as `93MB` or `7.5GB`."""
    return f"{count / 1e9:.1f}GB" if count >= 999_500_000 else f"{count / 1e6:.0f}MB"


def shortened(path: str) -> str:
    """A path as people would write it here: from the current directory, or from their home."""
    with contextlib.suppress(OSError, RuntimeError):  # there may be none of either
        for base, prefix in ((Path.cwd(), ""), (Path.home(), "~/")):
            if Path(path).is_relative_to(base):
                return prefix + str(Path(path).relative_to(base))
    return path


def show_warnings(warnings: tuple[Problem, ...]) -> None:
    """What works but deserves a word, on standard error."""
    for warning in warnings:
        say(f"warning: {warning}", "yellow")


def terminal_width(stream: TextIO | None) -> int | None:
    """The columns of a terminal; None if it is none, so that nothing need be left out."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None if stream and stream.isatty() else None
    except (OSError, ValueError):
        return None


def style(text: str, colour: str) -> str:
    """Text in a colour; click drops it where the output is no terminal, and NO_COLOR (no-color.org) here."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour)


def printable(text: str) -> str:
    """A stranger's words, without what would move the cursor of a terminal or could not be written to it."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def log_to(write: Callable[[str], Any] | None = None, *, level: str = "INFO", colour: bool | None = None) -> None:
    """Send the hub's messages to standard error, or to `write`. The command is the application: it owns the handlers."""
    from loguru import logger

    if colour is None:
        # Loguru itself does not heed NO_COLOR, and would colour a pipe on some build machines.
        colour = sys.stderr is not None and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    logger.remove()
    target = write or sys.stderr
    if target is None:  # started with standard error closed
        return
    # diagnose=False: a traceback must not show the values of variables, which may be secrets.
    logger.add(target, level=level, format=_FORMAT, colorize=colour, diagnose=False, backtrace=False)


def log_to_file(path: Path, *, level: str = "INFO") -> None:
    """Send the hub's messages to a file that is its user's alone and does not grow without end.

    Standard output and error go there, too, also after it was rotated: what an interpreter says that dies is in it.
    """
    global _has_log_file
    from loguru import logger

    def opened(name: str, flags: int) -> int:
        file = os.open(name, flags, 0o600)
        for stream in (1, 2):
            os.dup2(file, stream)
        return file

    logger.remove()
    try:
        logger.add(
            path,
            level=level,
            format=_FILE_FORMAT,
            rotation=HUB_LOG_BYTES,
            retention=HUB_LOG_BACKUPS,
            opener=opened,
            watch=True,  # Whoever removes it gets another one.
            diagnose=False,
            backtrace=False,
        )
    except OSError as error:
        raise HubError(f"the hub's log {path} cannot be written ({error.strerror})") from None
    _has_log_file = True
