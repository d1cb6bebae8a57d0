"""`mlxhub new-sink`: a package of a sink to start from. The files of `template/`, with the names of the new one."""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from mlxhub_core.cli.common import style
from mlxhub_core.errors import HubError

TEMPLATE = Path(__file__).with_name("template")
"""A whole package, of the sink `acme`. It passes its own tests as it is."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST_NAME = 30
"""Letters of a name: with more, lines of the files would be longer than their own rules allow."""
_LEFT_OUT = ("__pycache__", "_cache")
"""How directories end that pip, and the tools of who changes the template, leave in it."""


@click.command("new-sink")
@click.argument("name")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(file_okay=False, path_type=Path))
def new_sink(name: str, directory: Path | None) -> None:
    """Write a package of a new sink: the sink, its tests, and all that pip and CI need.

    NAME is what hub.yaml will call it; DIR is where the package is written, by default NAME. It works as it is
    written: it can be installed, and passes its tests. Nothing that is there already is touched.

    \b
      mlxhub new-sink acme
      mlxhub new-sink acme ~/src/mlxhub-acme-sink
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    _check(name)
    target = Path(name) if directory is None else directory
    _write(name, target)
    click.echo(style(f"wrote {target}: the package mlxhub-{name}-sink, whose sink hub.yaml calls {name}", "green"))
    click.echo(f"Make {target / _renamed('mlxhub_acme_sink/__init__.py', name)} send to your monitoring. Try it with:")
    where = shlex.quote(str(target) if target.is_absolute() else f"./{target}")
    click.echo(f"  {shlex.quote(sys.executable)} -m pip install -e {where} pytest")
    click.echo(f"  mlxhub sinks test {name}")
    click.echo(f"  {shlex.quote(sys.executable)} -m pytest {where}")


def _check(name: str) -> None:
    from mlxhub_core.discovery import PACKAGES

    nearest = _nearest(name)
    if name != nearest or len(name) > _LONGEST_NAME:
        hint = f"; did you mean {nearest!r}?" if nearest and len(nearest) <= _LONGEST_NAME else ""
        rule = (
            f"small letters and digits with single - between them, at most {_LONGEST_NAME}, without mlxhub- and -sink"
        )
        raise click.UsageError(f"{name!r} cannot be the name of a sink{hint} ({rule})")
    if package := PACKAGES.get(name):
        raise click.UsageError(f"{name!r} is the sink of {package}; choose another name")


def _nearest(name: str) -> str | None:
    """The name that is meant, without what the package gets anyway; None if there is none in it."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    words = words.removeprefix("mlxhub-").removesuffix("-sink")
    return words if _NAME.fullmatch(words) else None


def _write(name: str, target: Path) -> None:
    """Write it all, or nothing: it is made beside its place, and then moved there."""
    try:
        if target.is_symlink() or (target.exists() and any(target.iterdir())):
            raise HubError(f"{target} is there already, and is left as it is; name another: mlxhub new-sink {name} DIR")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-sink-", dir=target.parent) as beside:
            made = Path(beside) / "made"
            for file in _files():
                place = made / _renamed(str(file.relative_to(TEMPLATE)), name)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(_renamed(file.read_text(encoding="utf-8"), name), encoding="utf-8")
            # Takes the place of a directory only if that is empty.
            made.rename(target)
    except OSError as error:
        raise HubError(f"{error.filename2 or error.filename or target} cannot be written: {error.strerror}") from None


def _files() -> Iterator[Path]:
    for path in sorted(TEMPLATE.rglob("*")):
        if path.is_file() and not any(part.endswith(_LEFT_OUT) for part in path.relative_to(TEMPLATE).parts):
            yield path


def _renamed(text: str, name: str) -> str:
    """A file, or its path, as it is for a sink of that name."""
    words = name.split("-")
    text = text.replace("mlxhub_acme_sink", f"mlxhub_{'_'.join(words)}_sink")
    text = text.replace("Acme", "".join(map(str.capitalize, words)))
    return text.replace("acme", name)
