"""`mlxhub check`: what is wrong with a hub.yaml, all at once, without starting anything."""

from __future__ import annotations

from pathlib import Path

import click

from mlxhub_core.cli.common import config_argument, show_warnings, style


@click.command()
@config_argument
def check(config: Path) -> None:
    """Say what is wrong with a hub.yaml, all at once.

    Nothing is started; the sinks it names are imported and their options checked, and none of them connects. What a
    model lacks on this machine, as its program or its weights, is a warning. Exit code 2 if anything is wrong.
    `mlxhub sinks check` is the same.

    \b
      mlxhub check
      mlxhub check ~/models/hub.yaml
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    from mlxhub_core.launch import lacks
    from mlxhub_core.selection import problems_of, select
    from mlxhub_core.settings import load_settings

    settings = load_settings(config, problems_of)
    selection = select(settings, settings.sinks)
    missing = [settings.source.problem(("models", index), error.message) for index, error in lacks(settings)]
    show_warnings((*settings.warnings, *selection.warnings, *selection.deprecations, *missing))
    models, sinks = len(settings.models), ", ".join(sink.key for sink in selection.sinks) or "none"
    click.echo(style(f"{config}: ok ({models} model{'s' * (models != 1)}; sinks: {sinks})", "green"))
