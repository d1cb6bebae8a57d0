"""`mlxhub sinks export`: what a sink brings for the monitoring that it feeds, as files."""

from __future__ import annotations

from pathlib import Path

import click

from mlxhub_core.errors import HubError
from mlxhub_core.runner import described
from mlxhub_core.selection import load, offer_of


@click.command()
@click.argument("type_", metavar="TYPE")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
def export(type_: str, directory: Path) -> None:
    """Write what a sink brings for your monitoring (alerts, rules, dashboards) into a directory.

    TYPE as `mlxhub sinks list` shows it. Files of an earlier export are replaced.

    \b
      mlxhub sinks export prometheus monitoring
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    offer = offer_of(type_)
    exporter = getattr(load(offer), "export", None)
    if not callable(exporter):
        raise HubError(f"{offer} brings no files")
    try:
        written = list(exporter(directory))
    except OSError as error:
        raise HubError(f"{directory} cannot be written to ({error.strerror}); name another") from None
    except Exception as error:  # noqa: BLE001  # a stranger's code
        raise HubError(f"{offer} cannot write its files ({described(error)}); tell its author") from None
    for path in written:
        click.echo(path)
