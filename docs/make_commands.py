"""Writes docs/commands.md from the commands themselves: `make commands`. tests/test_help.py says when it is due."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from mlxhub_core.cli import cli
from mlxhub_core.cli.logs import logs
from mlxhub_core.cli.logs.rotate import rotate
from mlxhub_core.errors import EXIT_FAILED, EXIT_NOT_RUNNING, EXIT_USAGE

PAGE = Path(__file__).with_name("commands.md")
INTRODUCTION = f"""\
# Commands

<!-- Written by docs/make_commands.py: change the commands, and run `make commands`. -->

`mlxhub COMMAND --help` says the same. Names of commands, options, models and sinks are completed by Tab: see
[completion](#mlxhub-completion). A name that there is not is answered with the nearest one that there is.

| exit code | meaning |
|---|---|
| 0 | ok |
| {EXIT_FAILED} | it could not be done; standard error says why, and what to do |
| {EXIT_USAGE} | hub.yaml or the command line is wrong |
| {EXIT_NOT_RUNNING} | no hub runs for this hub.yaml |
| 130 | interrupted by Ctrl-C |

| variable | meaning |
|---|---|
| `MLXHUB_CONFIG` | the hub.yaml to use where none is named; without it, `hub.yaml` in the current directory |
| `MLXHUB_NO_SINKS` | `1`: run without the sinks of hub.yaml, for when one is in the way |
| `NO_COLOR` | no colours, also on a terminal |
"""


def page() -> str:
    """The whole page."""
    context = click.Context(cli, info_name="mlxhub")
    return "\n".join([INTRODUCTION, *(line for part in walk(cli, context) for line in section(*part))])


def walk(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """All commands, those of a group behind it."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        below = click.Context(command, info_name=name, parent=context, help_option_names=["-h", "--help"])
        yield command, below
        if isinstance(command, click.Group):
            yield from walk(command, below)
        elif command is logs:  # no group: its first word is a model, unless it is this
            yield rotate, click.Context(rotate, info_name="rotate", parent=below)


def section(command: click.Command, context: click.Context) -> Iterator[str]:
    """What there is to say about one command."""
    depth = "###" if context.parent and context.parent.parent else "##"
    yield f"{depth} {context.command_path}\n"
    yield f"`{context.command_path} {' '.join(command.collect_usage_pieces(context))}`\n"
    for paragraph in inspect.cleandoc(command.help or "").replace("\f", "").split("\n\n"):
        if paragraph.startswith("\b"):
            yield f"```sh\n{inspect.cleandoc(paragraph.lstrip(chr(8)))}\n```\n"
        else:
            yield paragraph.replace("<", r"\<") + "\n"
    records = [each.get_help_record(context) for each in command.params if isinstance(each, click.Option)]
    if rows := [f"| `{record[0]}` | {record[1]} |".replace("\n", " ") for record in records if record]:
        yield "\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
