"""The `metrics` that the sink counts with: counters in a file, which node_exporter's textfile collector reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, write_to_textfile

FILE = Path("hub.prom")


class Count:
    """One counter with its labels; it is in the file as soon as it has grown."""

    def __init__(self, counter: Counter, registry: CollectorRegistry) -> None:
        self._counter = counter
        self._registry = registry

    def inc(self) -> None:
        self._counter.inc()
        write_to_textfile(str(FILE), self._registry)


class Metrics:
    """Counters by name."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}

    def counter(self, name: str, labels: Mapping[str, object]) -> Count:
        if name not in self._counters:
            self._counters[name] = Counter(name, f"{name} of mlxhub", list(labels), registry=self._registry)
        values = {label: "" if value is None else str(value) for label, value in labels.items()}
        return Count(self._counters[name].labels(**values), self._registry)


metrics = Metrics()
