"""From `sinks:` in hub.yaml to sink objects, or to every problem with them at once."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from mlxhub_core.checking import Finding
from mlxhub_core.discovery import PACKAGES, Offer, normalised, scan
from mlxhub_core.errors import ConfigError, HubError, Problem, SinkError, did_you_mean, listed
from mlxhub_core.hooks import check_version, deprecations_of, hooks_of
from mlxhub_core.options import check_options
from mlxhub_core.runner import described
from mlxhub_core.secret import Secret
from mlxhub_core.settings import HubSettings, SinkSettings
from mlxhub_core.yaml_source import Keys, Source


@dataclass(frozen=True, slots=True)
class Selected:
    """A sink that hub.yaml turns on: its settings, where it comes from, the object, and a digest of its options."""

    settings: SinkSettings
    offer: Offer
    sink: object
    digest: bytes = field(repr=False)

    @property
    def key(self) -> str:
        """Its key in hub.yaml."""
        return self.settings.key

    @property
    def place(self) -> Keys:
        """Where it stands in hub.yaml; of one that is on by itself, where it would."""
        return self.settings.keys or ("sinks", self.key)

    def deprecations(self) -> Iterator[str]:
        """What it uses and a later hub will not have, with whose it is."""
        for words in deprecations_of(self.sink):
            yield f"{self.offer}: {words}; tell its author"

    @property
    def made_of(self) -> tuple[object, ...]:
        """What decides whether it is made anew; its package cannot change while the process lives."""
        return self.settings.delivery, self.digest


@dataclass(frozen=True, slots=True)
class Selection:
    """The sinks that are on, and what is worth a warning.

    Attributes:
        sinks: those that are on.
        warnings: what is wrong with those that the hub can do without, and does.
        deprecations: what those that are on use, and a later hub will not have.
    """

    sinks: tuple[Selected, ...]
    warnings: tuple[Problem, ...]
    deprecations: tuple[Problem, ...] = ()


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
            selected = _selected(settings.source, settings.directory, entry, (running or {}).get(entry.key))
        except ConfigError as error:
            (problems if entry.delivery.required else warnings).extend(error.problems)
        else:
            sinks.append(selected)
    if problems:
        raise ConfigError(sorted(problems, key=settings.source.position))
    deprecations = [settings.source.problem(each.place, words) for each in sinks for words in each.deprecations()]
    return Selection(tuple(sinks), tuple(sorted(warnings, key=settings.source.position)), tuple(deprecations))


def problems_of(source: Source, directory: Path, sinks: Iterable[SinkSettings]) -> Iterator[Problem]:
    """What is wrong with sinks that are required, of a hub.yaml that cannot be used anyhow: see `load_settings`."""
    for entry in sinks:
        try:
            _selected(source, directory, entry)
        except ConfigError as error:
            yield from error.problems if entry.delivery.required else ()


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
        raise SinkError(_missing(sink_type, distribution))
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


def _selected(source: Source, directory: Path, entry: SinkSettings, running: Selected | None = None) -> Selected:
    place = entry.keys or ("sinks", entry.key)
    try:
        offer = offer_of(entry.type, entry.distribution, entry.key.rpartition(":")[2])
        factory = load(offer)
        _check_version(offer, factory)
        arguments, findings = _checked(offer, factory, entry, directory)
        if findings:
            raise ConfigError([source.problem((*place, *finding.keys), finding.message) for finding in findings])
        digest = _digest(entry.options, arguments)
        if running is not None and running.made_of == (entry.delivery, digest):
            return running
        return Selected(entry, offer, _made(offer, factory, arguments), digest)
    except SinkError as error:
        raise ConfigError([source.problem(place, str(error))]) from None


def _check_version(offer: Offer, factory: Callable[..., object]) -> None:
    try:
        check_version(factory, getattr(factory, "__name__", offer.type))
    except SinkError as error:
        raise SinkError(f"{offer}: {error}") from None


def _checked(
    offer: Offer, factory: Callable[..., object], entry: SinkSettings, directory: Path
) -> tuple[dict[str, Any], list[Finding]]:
    try:
        return check_options(factory, entry.options, directory)
    except SinkError as error:
        raise SinkError(f"{offer} cannot be used: {error}; tell its author") from None


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


def _missing(sink_type: str, distribution: str | None) -> str:
    """That a type is not installed, and what to do; never with the name of a package that nobody knows."""
    offers = scan().offers
    types = sorted({offer.type for offer in offers})
    message = f"no installed sink is called {sink_type!r}"
    package = PACKAGES.get(sink_type)
    if package and normalised(distribution or package) == package:
        message += f"; install it with `{shlex.quote(sys.executable)} -m pip install {package}`"
    elif offered := [offer.type for offer in offers if normalised(offer.distribution) == normalised(sink_type)]:
        message += f"; that is a package, which offers {listed(offered)}"
    else:
        message += did_you_mean(sink_type, sorted({*types, *PACKAGES}))
    ruins = "".join(f"; {ruin}" for ruin in scan().ruins)
    return f"{message} (installed: {listed(types)}){ruins}"


def _digest(options: Mapping[str, Any], arguments: Mapping[str, Any]) -> bytes:
    """What a sink is made with, to compare. The sink may change the objects that it gets, so they would not do.

    The arguments count too, because the text of a secret may have changed where it is kept.
    """
    text = to_json([sorted(options.items()), sorted(arguments.items())], fallback=_revealed)
    return hashlib.sha256(text).digest()


def _revealed(value: object) -> str | None:
    # All but secrets is among the options. An environment variable may hold what is no character, hence `ascii`.
    return ascii(value.reveal()) if isinstance(value, Secret) else None
