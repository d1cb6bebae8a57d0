"""From `sinks:` in hub.yaml to sink objects, or to every problem with them at once."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mlxhub_core.discovery import PACKAGES, Offer, normalised, offers
from mlxhub_core.errors import ConfigError, HubError, Problem, did_you_mean, listed
from mlxhub_core.options import UnusableParametersError, check_options
from mlxhub_core.runner import described, hooks_of
from mlxhub_core.settings import HubSettings, SinkSettings


@dataclass(frozen=True, slots=True)
class Selected:
    """A sink that hub.yaml turns on: its key, its settings, and the object."""

    key: str
    settings: SinkSettings
    sink: object


def select(settings: HubSettings, wanted: Iterable[SinkSettings]) -> list[Selected]:
    """Make the sinks that are wanted. Only their packages are imported.

    Raises:
        ConfigError: with what is wrong with any of them.
    """
    problems: list[Problem] = []
    selected = []
    for entry in wanted:
        try:
            selected.append(Selected(entry.key, entry, _make(settings, entry)))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(sorted(problems, key=settings.source.position))
    return selected


def _make(settings: HubSettings, entry: SinkSettings) -> object:
    def wrong(message: str) -> ConfigError:
        return ConfigError([settings.source.problem(entry.keys or ("sinks", entry.key), message)])

    offer = _offer(entry, wrong)
    factory = _load(offer, wrong)
    try:
        arguments, findings = check_options(factory, entry.options)
        if findings:
            problems = [settings.source.problem((*entry.keys, *f.keys), f.message) for f in findings]
            raise ConfigError(problems)
        sink = factory(**arguments)
        hooks_of(sink)
    except UnusableParametersError as error:
        raise wrong(f"{_origin(offer)} cannot be used: {error}; tell its author") from None
    except HubError as error:
        if isinstance(error, ConfigError):
            raise
        raise wrong(f"{_origin(offer)}: {error}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # whatever a stranger's constructor raises is about its options
        raise wrong(f"{_origin(offer)} refused its options: {described(error)}") from None
    return sink


def _offer(entry: SinkSettings, wrong: Callable[[str], ConfigError]) -> Offer:
    offered = [offer for offer in offers() if offer.type == entry.type]
    if not offered:
        raise wrong(_missing(entry))
    origins = " and ".join(map(_origin, offered))
    if entry.distribution is not None:
        wanted = normalised(entry.distribution)
        offered = [offer for offer in offered if normalised(offer.distribution) == wanted]
        if not offered:
            raise wrong(f"no installed {entry.distribution!r} offers {entry.type!r}; it is offered by {origins}")
    if len(offered) > 1:
        _, _, bare = entry.key.rpartition(":")
        choice = f"{offered[0].distribution}:{bare}"
        raise wrong(f"sink type {entry.type!r} is offered by {origins}; write {choice!r} (or the other) to choose")
    return offered[0]


def _missing(entry: SinkSettings) -> str:
    types = sorted({offer.type for offer in offers()})
    message = f"no installed sink is called {entry.type!r}"
    if package := PACKAGES.get(entry.type):
        message += f"; install it with `{shlex.quote(sys.executable)} -m pip install {package}`"
    else:
        message += did_you_mean(entry.type, sorted({*types, *PACKAGES}))
    return f"{message} (installed: {listed(types)})"


def _load(offer: Offer, wrong: Callable[[str], ConfigError]) -> Any:
    try:
        factory = offer.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # a package may even call sys.exit() when imported
        raise wrong(f"{_origin(offer)} cannot be imported: {described(error)}") from None
    if not callable(factory):
        raise wrong(f"{_origin(offer)} does not register a class: {offer.value}; tell its author")
    return factory


def _origin(offer: Offer) -> str:
    return f"{offer.distribution} {offer.version}"
