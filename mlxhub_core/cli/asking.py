"""What commands ask the hub about several models."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any
from urllib.parse import quote

from mlxhub_core.cli.common import say
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import EXIT_FAILED, HubError, HubNotRunningError, UnknownModelError


def named(names: Sequence[str], models: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the models of a hub those with these names, or all if there are none. Raises UnknownModelError."""
    known = {model["name"]: model for model in models}
    for name in names:
        if name not in known:
            raise UnknownModelError(name, known)
    return [known[name] for name in dict.fromkeys(names or known)]


def post_for_each(client: ControlClient, models: Iterable[str], verb: str, *, patient: bool = False) -> list[str]:
    """Ask the hub for the same thing for each of these models, one after the other.

    One that cannot does not keep the others from it. Returns those for which it was done; what is wrong with the
    others was said.

    Args:
        client: asks.
        models: their names.
        verb: the last part of the path.
        patient: it may take as long as a model takes to end.

    Raises:
        HubNotRunningError: no hub runs for this hub.yaml.
    """
    done = []
    for name in models:
        try:
            client.post(f"/hub/models/{quote(name, safe='')}/{verb}", patient=patient)
        except HubNotRunningError:
            raise
        except HubError as error:
            say(str(error), "red")
        else:
            done.append(name)
    return done


def all_done(done: Collection[str], models: Collection[str]) -> None:
    """Leave with `EXIT_FAILED` if not all of them were done."""
    if len(done) < len(models):
        raise SystemExit(EXIT_FAILED)
