"""Which sinks are installed. Reads what packages declare and imports none of them.

A package offers a sink type with an entry point in the group `mlxhub.sinks`: its name is the type, its value a class.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import importlib_metadata
from importlib_metadata import EntryPoint

GROUP = "mlxhub.sinks"

PACKAGES = {"loguru": "mlxhub-core", "prometheus": "mlxhub-prom-sink", "statsd": "mlxhub-statsd-sink"}
"""Which package to install for a type. Only ones we know: a name that is guessed invites somebody to squat on it."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One sink type that an installed package offers.

    Attributes:
        type: as in hub.yaml.
        distribution: the name of the package.
        version: of the package.
        value: where the class is, as ``mlxhub_statsd_sink:StatsdSink``.
    """

    type: str
    distribution: str
    version: str
    value: str

    def load(self) -> Any:
        """Import the package and return the object. Raises whatever the import raises."""
        return EntryPoint(name=self.type, value=self.value, group=GROUP).load()


def normalised(distribution: str) -> str:
    """The name of a package as pip compares it: `Acme_Sinks` is `acme-sinks`."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@functools.cache
def offers() -> tuple[Offer, ...]:
    """Every sink type that is installed, by type. Scanned once in the life of a process: it reads many files."""
    found: dict[tuple[str, str], Offer] = {}
    seen: set[str] = set()
    for distribution in importlib_metadata.distributions():
        # Of a package that is found twice (lib64 is often lib, a stale egg-info is left) the first is the one imported.
        for offer in _offers_of(distribution, seen):
            found.setdefault((offer.type, offer.distribution), offer)
    return tuple(found[key] for key in sorted(found))


def _offers_of(distribution: Any, seen: set[str]) -> Iterator[Offer]:
    try:
        # Parsed only if our group is in there: the name and version of every package would take ten times as long.
        if GROUP not in (distribution.read_text("entry_points.txt") or ""):
            return
        points = [point for point in distribution.entry_points if point.group == GROUP]
        name, version = distribution.metadata["Name"], distribution.version
    except Exception:  # noqa: BLE001  # A package in ruins is not ours to complain about, and must not hide the others.
        return
    if normalised(name) not in seen:
        seen.add(normalised(name))
        yield from (Offer(point.name, name, version, point.value) for point in points)
