"""From `sinks:` in hub.yaml to sink objects, or to every problem with them at once."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxhub_core.discovery import PACKAGES, Offer, normalised, scan
from mlxhub_core.errors import ConfigError, HubError, Problem, SinkError, did_you_mean, listed
from mlxhub_core.hooks import hooks_of
from mlxhub_core.options import check_options
from mlxhub_core.runner import described
from mlxhub_core.settings import HubSettings, SinkSettings


@dataclass(frozen=True, slots=True)
class Selected:
    """A sink that hub.yaml turns on: its settings, where it comes from, what it was made with, and the object."""

    settings: SinkSettings
    offer: Offer
    arguments: Mapping[str, Any] = field(repr=False)
    sink: object

    @property
    def key(self) -> str:
        """Its key in hub.yaml."""
        return self.settings.key

    def serves(self, settings: SinkSettings, offer: Offer, arguments: Mapping[str, Any]) -> bool:
        """Whether this one would be made again if a sink were made of these."""
        return (
            (self.offer, self.settings.delivery, _exact(self.settings.options))
            == (offer, settings.delivery, _exact(settings.options))
            # The text of a secret may have changed where it is kept.
            and self.arguments == arguments
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """The sinks that are on, and what is wrong with those that the hub can do without."""

    sinks: tuple[Selected, ...]
    warnings: tuple[Problem, ...]


def select(
    settings: HubSettings, wanted: Iterable[SinkSettings], running: Mapping[str, Selected] | None = None
) -> Selection:
    """Make the sinks that are wanted. Only their packages are imported.

    Args:
        settings: where the problems stand.
        wanted: entries of it.
        running: sinks by key; one for which nothing has changed is taken as it is.

    Raises:
        ConfigError: with what is wrong with any of them that is required.
    """
    sinks: list[Selected] = []
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for entry in wanted:
        try:
            sinks.append(_selected(settings, entry, (running or {}).get(entry.key)))
        except ConfigError as error:
            (problems if entry.delivery.required else warnings).extend(error.problems)
    if problems:
        raise ConfigError(sorted(problems, key=settings.source.position))
    return Selection(tuple(sinks), tuple(warnings))


def offer_of(sink_type: str, distribution: str | None = None, key: str | None = None) -> Offer:
    """What is installed under a type.

    Args:
        sink_type: as in hub.yaml.
        distribution: the package it must come from; default: any.
        key: as it is written, for the advice.

    Raises:
        SinkError: nothing, or more than one package offers it.
    """
    offered = [offer for offer in scan().offers if offer.type == sink_type]
    if not offered:
        raise SinkError(_missing(sink_type))
    origins = " and ".join(map(str, offered))
    if distribution is not None:
        offered = [offer for offer in offered if normalised(offer.distribution) == normalised(distribution)]
        if not offered:
            raise SinkError(f"no installed {distribution!r} offers {sink_type!r}; it is offered by {origins}")
    if len(offered) > 1:
        choice = f"{offered[0].distribution}:{key or sink_type}"
        raise SinkError(f"sink type {sink_type!r} is offered by {origins}; write {choice!r} (or the other) to choose")
    return offered[0]


def load(offer: Offer) -> Callable[..., object]:
    """Import a sink class. Raises SinkError when that fails, or when it is none."""
    try:
        factory = offer.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # a package may even call sys.exit() when imported
        raise SinkError(f"{offer} cannot be imported: {described(error)}") from None
    if not callable(factory):
        raise SinkError(f"{offer} does not register a class: {offer.value}; tell its author")
    return factory  # type: ignore[no-any-return]


def _selected(settings: HubSettings, entry: SinkSettings, running: Selected | None) -> Selected:
    place = entry.keys or ("sinks", entry.key)
    try:
        offer = offer_of(entry.type, entry.distribution, entry.key.rpartition(":")[2])
        factory = load(offer)
        arguments, findings = _checked(offer, factory, entry, settings)
        if findings:
            raise ConfigError(findings)
        if running is not None and running.serves(entry, offer, arguments):
            return running
        return Selected(entry, offer, arguments, _made(offer, factory, arguments))
    except SinkError as error:
        raise ConfigError([settings.source.problem(place, str(error))]) from None


def _checked(
    offer: Offer, factory: Callable[..., object], entry: SinkSettings, settings: HubSettings
) -> tuple[dict[str, Any], list[Problem]]:
    try:
        arguments, findings = check_options(factory, entry.options, settings.directory)
    except SinkError as error:
        raise SinkError(f"{offer} cannot be used: {error}; tell its author") from None
    return arguments, [settings.source.problem((*entry.keys, *f.keys), f.message) for f in findings]


def _made(offer: Offer, factory: Callable[..., object], arguments: Mapping[str, Any]) -> object:
    try:
        sink = factory(**arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # whatever a stranger's constructor raises is about its options
        raise SinkError(f"{offer} refused its options: {described(error)}") from None
    try:
        hooks_of(sink)
    except HubError as error:
        raise SinkError(f"{offer}: {error}") from None
    return sink


def _missing(sink_type: str) -> str:
    """That a type is not installed, and what to do; never with the name of a package that nobody knows."""
    offers = scan().offers
    types = sorted({offer.type for offer in offers})
    message = f"no installed sink is called {sink_type!r}"
    if package := PACKAGES.get(sink_type):
        message += f"; install it with `{shlex.quote(sys.executable)} -m pip install {package}`"
    elif offered := [offer.type for offer in offers if normalised(offer.distribution) == normalised(sink_type)]:
        message += f"; that is a package, which offers {listed(offered)}"
    else:
        message += did_you_mean(sink_type, sorted({*types, *PACKAGES}))
    ruins = "".join(f"; {ruin}" for ruin in scan().ruins)
    return f"{message} (installed: {listed(types)}){ruins}"


def _exact(options: Mapping[str, Any]) -> str:
    """Options as text: in Python `true` equals 1."""
    return json.dumps(options, sort_keys=True, default=repr)
