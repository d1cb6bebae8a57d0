"""Commands that are imported when they are called, so that starting up stays quick."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from mlxhub_core.errors import did_you_mean

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """A group whose commands are each a file of their own.

    Args:
        package: where the files are.
        commands: the help in a line for each command. Its file has its name, and so has the command in there; where
            that name means something else in Python, there is a `_` behind it. All `...-model` are in `models.py`.
    """

    def __init__(self, *args: Any, package: str, commands: Mapping[str, str], **more: Any) -> None:
        super().__init__(*args, **more)
        self._package = package
        self._commands = commands

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names, in the order of the table."""
        return list(self._commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self._commands:
            return None
        name = _name(cmd_name)
        file = "models" if name.endswith("_model") else name
        command = getattr(importlib.import_module(f"{self._package}.{file}"), name)
        assert isinstance(command, click.Command)
        command.short_help = self._commands[cmd_name]
        if ctx.resilient_parsing:  # somebody has pressed Tab
            from mlxhub_core.cli.completion import teach

            teach(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The table. To list the commands is not to call them: none is imported."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._commands.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands that begin so, and the options of the group. Not by click's own way, which imports them all."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(n, help=text) for n, text in self._commands.items() if n.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, with the nearest name for one that there is not."""
        name = args[0]
        # Whoever completes a line with Tab gets nothing then, as click has it, and no error in the middle of it.
        if not ctx.resilient_parsing and not name.startswith("-") and name not in self._commands:
            ctx.fail(f"no such command {name!r}{did_you_mean(name, self._commands)}")
        return super().resolve_command(ctx, args)


def _name(command: str) -> str:
    name = command.replace("-", "_")
    return f"{name}_" if name in ("list", "test", "print") else name
