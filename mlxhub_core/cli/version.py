"""`mlxhub version`: what is installed here, as a bug report wants it."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from typing import Any

import click

from mlxhub_core import __version__
from mlxhub_core.cli.common import aligned, json_option
from mlxhub_core.discovery import scan


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Which versions are here: of mlxhub, Python, the system, mlx-lm and every sink that is installed.

    Nothing of them is imported. mlx-lm is that of this Python; `mlxhub doctor` looks at those that models name.

    \b
      mlxhub version
      mlxhub version --json
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    found = versions()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [(name.replace("_", "-"), text or "not installed") for name, text in found.items() if name != "sinks"]
    rows += [(f"sink {sink['type']}", f"{sink['version']} ({sink['package']})") for sink in found["sinks"]]
    for line in aligned(rows):
        click.echo(line)


def versions() -> dict[str, Any]:
    """The versions, None for what is not installed."""
    return {
        "mlxhub": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": system(),
        "mlx": _installed("mlx"),
        "mlx_lm": _installed("mlx-lm"),
        "sinks": [
            {"type": offer.type, "package": offer.distribution, "version": offer.version} for offer in scan().offers
        ],
    }


def system() -> str:
    """The operating system, its version and the machine, as ``macOS 15.1 arm64``."""
    if mac := platform.mac_ver()[0]:
        return f"macOS {mac} {platform.machine()}"
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, OSError, ValueError, KeyError):  # also what pip left half installed
        return None
