"""`mlxhub logs`: what models have written, and the rotation of that."""

from __future__ import annotations

from typing import Any

import click


class _Logs(click.Command):
    """A command whose first word may be that of another one: `mlxhub logs rotate`.

    A group would ask for such a word always, and take a model's name for one. A model named so is
    `mlxhub logs -- rotate`.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As in click; of `rotate` if that is the first word."""
        if args[:1] == ["rotate"]:
            from mlxhub_core.cli.logs.rotate import rotate

            return rotate.make_context(f"{info_name} rotate", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)
