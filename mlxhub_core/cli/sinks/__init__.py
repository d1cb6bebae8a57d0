"""`mlxhub sinks`: which sinks are installed, what each takes, and whether it works."""

from __future__ import annotations

import click

from mlxhub_core.cli.lazy import LazyGroup

_COMMANDS = {
    "list": "Which sinks are installed, and which are on.",
    "describe": "What a sink does and which options it takes.",
    "check": "Say what is wrong with the sinks of a hub.yaml.",
    "test": "Send a sink events of a model that does not exist.",
    "export": "Write the alerts, rules and dashboards that a sink brings.",
    "status": "What became of the events, in the hub that runs.",
}


@click.group(cls=LazyGroup, package=__name__, commands=_COMMANDS)
def sinks() -> None:
    """See and try the sinks: what is told when a model starts, fails, restarts.

    \b
      mlxhub sinks list
      mlxhub sinks describe statsd
      mlxhub sinks test statsd
    """  # noqa: D301  # click needs the character, to leave the lines as they are
