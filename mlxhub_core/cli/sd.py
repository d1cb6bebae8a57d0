"""`mlxhub sd`: where Prometheus finds the metrics of hubs, as JSON for its service discovery."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import HubNotRunningError
from mlxhub_core.targets import TYPE, targets_of

_LABEL = re.compile(r"(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)=(?P<value>.*)")


@click.command()
@click.option(
    "-c",
    "--config",
    "configs",
    type=click.Path(readable=False, path_type=Path),
    multiple=True,
    default=[Path("hub.yaml")],
    envvar="MLXHUB_CONFIG",
    show_default="hub.yaml",
    show_envvar=True,
    help="The hub.yaml of a hub; may be given more than once.",
)
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label for all series, as site=berlin.")
@click.option(
    "--host",
    default=socket.gethostname,
    show_default="the name of this machine",
    help="What to write for a hub that listens on 0.0.0.0 or [::].",
)
def sd(configs: tuple[Path, ...], labels: tuple[str, ...], host: str) -> None:
    """Print where Prometheus finds the metrics of hubs, as JSON.

    It is what `file_sd_configs` reads, and a hub serves the same on its control socket. A hub that does not run is
    listed as its hub.yaml has it, so that Prometheus sees, and tells, that it is down.

    \b
      mlxhub sd -c ~/a/hub.yaml -c ~/b/hub.yaml --label site=berlin > /etc/prometheus/mlxhub.json
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    named = dict(map(_named, labels))
    click.echo(json.dumps([t for config in configs for t in _targets(config, host, named)], indent=2))


def _named(label: str) -> tuple[str, str]:
    match = _LABEL.fullmatch(label)
    if match is None:
        raise click.UsageError(f"--label must be NAME=VALUE, the name of letters, digits and _, not {label!r}")
    return match["name"], match["value"]


def _targets(config: Path, host: str, labels: dict[str, str]) -> list[dict[str, Any]]:
    try:
        sinks = ControlClient(config).get("/hub/sinks")["sinks"]
        found: Sequence[tuple[str, str | None]] = [(sink["name"], sink.get("where")) for sink in sinks]
    except HubNotRunningError:
        found = list(_written(config))
    return targets_of(found, str(config.resolve()), host, labels)


def _written(config: Path) -> Iterator[tuple[str, str | None]]:
    """The sinks that are scraped, and where, as hub.yaml has it. Raises ConfigError."""
    from mlxhub_core.selection import select
    from mlxhub_core.settings import load_settings

    settings = load_settings(config)
    for selected in select(settings, [entry for entry in settings.sinks if entry.type == TYPE]).sinks:
        where = getattr(selected.sink, "where", None)
        yield selected.key, where if isinstance(where, str) else None
