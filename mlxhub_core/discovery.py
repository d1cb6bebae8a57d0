"""Which sinks are installed. Reads what packages declare and imports none of them.

A package offers a sink type with an entry point in the group `mlxhub.sinks`: its name is the type, its value a class.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from importlib_metadata import EntryPoint, distributions

T = TypeVar("T")

GROUP = "mlxhub.sinks"

PACKAGES = {
    "loguru": "mlxhub-core",
    "otlp": "mlxhub-otlp-sink",
    "prometheus": "mlxhub-prom-sink",
    "statsd": "mlxhub-statsd-sink",
}
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

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"

    def load(self) -> Any:
        """Import the package and return the object. Raises whatever the import raises."""
        return EntryPoint(name=self.type, value=self.value, group=GROUP).load()


def normalised(distribution: str) -> str:
    """The name of a package as pip compares it: `Acme_Sinks` is `acme-sinks`."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@dataclass(frozen=True, slots=True)
class Ruin:
    """A package that seems to offer sinks and cannot be read.

    Attributes:
        where: the directory of its metadata.
        reason: what is wrong with it.
    """

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where} cannot be read ({self.reason}); install that package again, or remove it"


@dataclass(frozen=True, slots=True)
class Scan:
    """What is installed: every sink type, by type, and what could not be read."""

    offers: tuple[Offer, ...]
    ruins: tuple[Ruin, ...]


@functools.cache
def scan() -> Scan:
    """Look at all that is installed. Done once in the life of a process: it reads many files.

    The current directory does not count, though `python -m` searches it: a folder that somebody downloaded would bring
    sinks of its own.
    """
    path = [entry for entry in sys.path if not _is_current_directory(entry)]
    ruins: dict[str, Ruin] = {}
    candidates = {name for one in distributions(path=path) if (name := _reading(_name_if_it_matters, one, ruins))}
    found: dict[tuple[str, str], Offer] = {}
    for name in candidates:
        for offer in _offers_of_first(distributions(name=name, path=path), ruins):
            found.setdefault((offer.type, offer.distribution), offer)
    return Scan(tuple(found[key] for key in sorted(found)), tuple(ruins[key] for key in sorted(ruins)))


def _offers_of_first(candidates: Iterable[Any], ruins: dict[str, Ruin]) -> list[Offer]:
    """Of a package found twice (lib64 is often lib, a stale version was left) the first is the one that is imported."""
    for distribution in candidates:
        if (found := _reading(_offers_of, distribution, ruins)) is not None:
            return found
    return []


def _name_if_it_matters(distribution: Any) -> str | None:
    # The name and version of every package would take ten times as long.
    if GROUP not in (distribution.read_text("entry_points.txt") or ""):
        return None
    return normalised(distribution.metadata["Name"])


def _offers_of(distribution: Any) -> list[Offer]:
    name, version = distribution.metadata["Name"], distribution.version
    return [Offer(p.name, name, version, p.value) for p in distribution.entry_points if p.group == GROUP]


def _reading(read: Callable[[Any], T], distribution: Any, ruins: dict[str, Ruin]) -> T | None:
    """A package in ruins must not hide the others."""
    try:
        return read(distribution)
    except Exception as error:  # noqa: BLE001  # metadata is a stranger's text
        where = str(getattr(distribution, "_path", distribution.locate_file("")))
        ruins[where] = Ruin(where, type(error).__name__)
        return None


def _is_current_directory(entry: str) -> bool:
    """Whether `entry` of sys.path is where the user happens to be, and not where packages are installed."""
    try:
        here, there = os.path.realpath(os.curdir), os.path.realpath(entry or os.curdir)
        return here == there and there not in {
            os.path.realpath(p) for p in map(sysconfig.get_path, ("purelib", "platlib"))
        }
    except OSError:  # a current directory that was deleted
        return not entry
