"""`mlxhub sinks list`: which sinks are installed, and which are on. Imports none of them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from mlxhub_core.cli.common import aligned, config_option, json_option, say, style
from mlxhub_core.discovery import PACKAGES, Offer, scan
from mlxhub_core.errors import HubError


@dataclass(slots=True)
class _Line:
    """A sink type of one package; without package it is on in hub.yaml and not installed."""

    type: str
    package: str | None
    version: str | None
    value: str | None
    enabled: list[str]
    problem: str | None = None


@click.command("list")
@config_option
@json_option
def list_(config: Path, as_json: bool) -> None:
    """Which sinks are installed, and which are on in hub.yaml.

    Looks only at what packages declare: no sink is imported, so a broken one cannot get in the way.

    \b
      mlxhub sinks list
      mlxhub sinks list --json
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    lines = _lines(_enabled(config))
    if as_json:
        click.echo(json.dumps([asdict(line) for line in lines], indent=2))
    else:
        _show(lines)
    for ruin in scan().ruins:
        say(f"warning: {ruin}", "yellow")


def _enabled(config: Path) -> list[tuple[str, str, str | None]]:
    """Key, type and package of what is on in hub.yaml, if there is one that can be read."""
    from mlxhub_core.settings import load_settings

    if config == Path("hub.yaml") and not config.exists():
        return []
    try:
        return [(sink.key, sink.type, sink.distribution) for sink in load_settings(config).sinks]
    except HubError as error:
        say(f"warning: which sinks are on is not known: {str(error).splitlines()[0]}; see `mlxhub check`", "yellow")
        return []


def _lines(enabled: list[tuple[str, str, str | None]]) -> list[_Line]:
    from mlxhub_core.selection import offer_of

    offers = scan().offers
    lines = [_line(offer, offers) for offer in offers]
    for key, sink_type, package in enabled:
        try:
            offer = offer_of(sink_type, package, key.rpartition(":")[2])
        except HubError as error:
            lines.append(_Line(sink_type, None, None, None, [key], str(error)))
        else:
            line = lines[offers.index(offer)]
            line.enabled.append(key)
            line.problem = None  # hub.yaml has chosen it
    return lines


def _line(offer: Offer, offers: Iterable[Offer]) -> _Line:
    others = [str(other) for other in offers if other.type == offer.type and other is not offer]
    choice = f"{offer.distribution}:{offer.type}"
    problem = f"also offered by {' and '.join(others)}; write {choice!r} to choose this one" if others else None
    return _Line(offer.type, offer.distribution, offer.version, offer.value, [], problem)


def _show(lines: list[_Line]) -> None:
    texts = aligned([("TYPE", "PACKAGE", "VERSION", "ON AS", "PROBLEM"), *map(_cells, lines)])
    for text, line in zip(texts, [None, *lines], strict=True):
        click.echo(style(text, "red") if line and line.enabled and line.problem else text)
    more = [f"{name} ({package})" for name, package in sorted(PACKAGES.items()) if name not in {x.type for x in lines}]
    if more:
        pip = f"{shlex.quote(sys.executable)} -m pip install PACKAGE"
        say(f"There are more: {', '.join(more)}. Install one with `{pip}`.")


def _cells(line: _Line) -> tuple[str, ...]:
    enabled = ", ".join(line.enabled) or "-"
    return line.type, line.package or "-", line.version or "-", enabled, line.problem or ""
