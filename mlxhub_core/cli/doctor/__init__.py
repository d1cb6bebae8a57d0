"""`mlxhub doctor`: looks at all that a hub needs, before it is missed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from mlxhub_core.cli.common import aligned, config_argument, json_option, printable, style
from mlxhub_core.cli.doctor import hub, machine, models, sinks
from mlxhub_core.cli.doctor.findings import FIRST_LIMIT, Finding, findings
from mlxhub_core.errors import EXIT_FAILED

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@config_argument
@json_option
def doctor(config: Path, as_json: bool) -> None:
    """Look at all that a hub needs, and say what to do about what it lacks: a line for each, ok, warn or fail.

    Python and the system; mlx-lm, by asking the interpreters that the models name; hub.yaml, what each model needs to
    start, its port; the directories of logs and sockets, memory, file descriptors; the sinks, which are opened and
    closed unless a hub runs; and that hub. Nothing is changed, no model is started, and whatever hangs, it ends within
    40 seconds. Works without a hub.yaml, too. Exit code 1 if anything fails.

    \b
      mlxhub doctor
      mlxhub doctor ~/models/hub.yaml
      mlxhub doctor --json
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    # What modules of sinks print when they are imported is no part of the answer.
    with contextlib.redirect_stdout(sys.stderr):
        found = list(_findings(config))
    if as_json:
        click.echo(
            json.dumps({"ok": not _count(found, "fail"), "findings": [asdict(each) for each in found]}, indent=2)
        )
    else:
        _show(found)
    if _count(found, "fail"):
        raise SystemExit(EXIT_FAILED)


def _findings(config: Path) -> Iterator[Finding]:
    situation = hub.Situation(config)
    # These first: the others look at what they have found out.
    checks = [("hub.yaml", partial(hub.hub_yaml, situation)), ("hub", partial(hub.hub, situation))]
    first = list(findings(checks, FIRST_LIMIT))
    settings = situation.settings
    yield from findings(
        [
            ("python", machine.python),
            ("platform", machine.operating_system),
            ("mlx", partial(models.mlx, settings)),
            ("hub.yaml", lambda: [each for each in first if each.check == "hub.yaml"]),
            ("models", partial(models.starts, settings)),
            ("ports", partial(models.ports, situation)),
            ("runtime", partial(hub.runtime, situation)),
            ("logs", partial(hub.logs, settings)),
            ("memory", partial(machine.memory, settings, runs=situation.running is not None)),
            ("files", partial(machine.files, settings)),
            ("sinks", partial(sinks.sinks, situation)),
            ("hub", lambda: [each for each in first if each.check == "hub"]),
        ]
    )


def _show(found: list[Finding]) -> None:
    rows = [(each.level, each.check, printable(each.message)) for each in found]
    for line, each in zip(aligned(rows), found, strict=True):
        # Only after the columns are aligned: a colour has no width.
        click.echo(style(each.level, _COLOURS[each.level]) + line[len(each.level) :])
    failed, warned = _count(found, "fail"), _count(found, "warn")
    if failed or warned:
        click.echo(f"failures: {failed}, warnings: {warned}")


def _count(found: list[Finding], level: str) -> int:
    return sum(each.level == level for each in found)
