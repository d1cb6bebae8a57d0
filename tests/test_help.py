"""What the command says of itself: help that teaches by example, and a page of docs that says the same."""

from __future__ import annotations

import re
import runpy
import subprocess
import sysconfig
from pathlib import Path

import click
import pytest

from mlxhub_core.cli import cli

ROOT = Path(__file__).parent.parent
MLXHUB = str(Path(sysconfig.get_path("scripts")) / "mlxhub")


def paths(group: click.Group, *before: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found.append((*before, name))
        if isinstance(command, click.Group):
            found += paths(command, *before, name)
    return found


PATHS = paths(cli)


def mlxhub(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MLXHUB, *arguments], capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize("path", [(), *PATHS], ids=" ".join)
def test_the_help_of_every_command_teaches_by_example(path: tuple[str, ...]) -> None:
    done = mlxhub(*path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    command = " ".join(("mlxhub", *(path[-1:] if path[-1:] == ("check",) else path)))  # `sinks check` is `check`
    assert re.search(rf"^ {{4,}}.*\b{command}\b", done.stdout, re.MULTILINE), "an example on a line of its own"
    assert mlxhub(*path, "-h").stdout == done.stdout


def test_exit_codes_are_in_the_help() -> None:
    words = " ".join(mlxhub("--help").stdout.split())
    assert (
        "Exit codes: 0 ok; 1 it could not be done; 2 hub.yaml or the command line is wrong; 3 no hub runs; 130" in words
    )


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("stats", "'status'"),
        ("sinks lst", "'list'"),
        ("service instal", "'install'"),
        ("status --jsn", "'--json'"),
        ("stop --keep-model", "'--keep-models'"),
        ("reload --dryrun", "'--dry-run'"),
        ("--vresion", "'--version'"),
    ],
)
def test_a_slip_of_the_keyboard_is_answered_with_the_nearest_name(line: str, nearest: str) -> None:
    done = mlxhub(*line.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert f"id you mean {nearest}?" in done.stderr


def test_the_page_of_commands_says_what_the_commands_say() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_commands.py"))["page"]()
    there = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert made == there, "docs/commands.md is out of step with the commands; renew it with: make commands"
    for path in PATHS:
        assert f"# mlxhub {' '.join(path)}\n" in there
    assert "docs/commands.md" in (ROOT / "README.md").read_text(encoding="utf-8")
