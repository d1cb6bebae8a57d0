"""`mlxhub explain`: the story of one model."""

from __future__ import annotations

import json
import shutil
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from mlxhub_core.cli.asking import named
from mlxhub_core.cli.common import config_option, json_option, printable, style
from mlxhub_core.cli.rows import COLOURS
from mlxhub_core.cli.story import Story, story_of, when
from mlxhub_core.cli.words import Fields, reason_in_words, seconds
from mlxhub_core.control.client import ControlClient
from mlxhub_core.events import TROUBLES
from mlxhub_core.exits import exit_in_words
from mlxhub_core.place import same_hub

WIDEST = 100
"""Columns into which sentences are put; fewer on a narrower terminal. Lines of logs are left as they are."""


@click.command()
@click.argument("model")
@config_option
@json_option
def explain(model: str, config: Path, as_json: bool) -> None:
    """What happened to a model: how it is, how it failed, what the hub does next, and what you can do.

    Exit code 3 if no hub runs for this hub.yaml.

    \b
      mlxhub explain qwen3-4b
      mlxhub explain qwen3-4b --json
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    models = ControlClient(config).get("/hub/status")["models"]
    (found,) = named([model], models)
    now = time.time()
    story = story_of(found, [other for other in models if other is not found], same_hub(config), now)
    if as_json:
        told = {**asdict(story), "failures": [{"what": what, **failure} for what, failure in story.failures]}
        click.echo(json.dumps({"name": model, "state": found["state"], **told, "status": found}, indent=2))
        return
    width = min(shutil.get_terminal_size().columns, WIDEST)
    click.echo(style(_wrapped(printable(story.headline), width), COLOURS.get(found["state"], "blue")))
    for line in _lines(story, now, width):
        click.echo(line)


def _lines(story: Story, now: float, width: int) -> Iterator[str]:
    yield ""
    for label, fact in story.facts:
        yield _wrapped(printable(fact), width, f"  {label:<10}")
    for what, failure in story.failures:
        yield ""
        yield from _failure(what, failure, now, width)
    yield ""
    yield "What the hub does next"
    yield _wrapped(printable(story.next), width, "  ")
    yield ""
    yield "What you can do"
    longest = max((len(advice.command) for advice in story.advice if advice.command), default=0)
    for advice in story.advice:
        if advice.command is None:
            yield _wrapped(advice.why, width, "  ")
        elif longest + 4 + len(advice.why) <= width:
            yield f"  {style(advice.command, 'cyan')}{' ' * (longest - len(advice.command))}  {advice.why}"
        else:
            yield f"  {style(advice.command, 'cyan')}"
            yield _wrapped(advice.why, width, "      ")


def _failure(what: str, failure: Fields, now: float, width: int) -> Iterator[str]:
    yield f"{what[0].upper()}{what[1:]}: {when(failure['time'], now)}"
    if failure["exit_code"] is not None:
        yield _wrapped(
            exit_in_words(failure["exit_code"], by_hub=failure["reason"] in TROUBLES), width, f"  {'exit':<10}"
        )
        yield f"  {'ran for':<10}{seconds(failure['uptime_seconds'])}"
    if failure["detail"] or failure["reason"] not in ("crash", "signal"):  # which the exit code says
        yield _wrapped(printable(failure["detail"] or reason_in_words(failure["reason"])), width, f"  {'why':<10}")
    if failure["log_tail"]:
        yield "  its last lines"
    for line in failure["log_tail"]:
        yield style(f"  | {printable(line)}", "bright_black")


def _wrapped(text: str, width: int, label: str = "") -> str:
    """Text behind a label, and below itself where it does not fit into one line."""
    indent = " " * len(label)
    lines = textwrap.wrap(text, width, initial_indent=label, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines) or label.rstrip()
