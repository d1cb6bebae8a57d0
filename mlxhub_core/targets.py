"""Where Prometheus finds the metrics of hubs: the JSON of its HTTP and file service discovery. Pure.

https://prometheus.io/docs/prometheus/latest/http_sd/ has the format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

TYPE = "prometheus"
"""The type of the sinks that are scraped, whichever package they come from."""
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  # nothing is bound here
"""Addresses that mean every address of a machine, and that nobody can ask."""


def targets_of(
    sinks: Iterable[tuple[str, str | None]], config: str, machine: str, labels: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """The targets of one hub: each sink that is scraped, where it says that it is.

    Args:
        sinks: the key in hub.yaml, and ``SinkStats.where``, of each.
        config: the hub's hub.yaml.
        machine: the address of the machine, for sinks that listen on all that it has.
        labels: go with every series that is scraped.
    """
    return [
        _target(key, where, config, machine, labels or {}) for key, where in sinks if where and _is_scraped(key, where)
    ]


def _is_scraped(key: str, where: str) -> bool:
    kind = key.rpartition(":")[2].partition("/")[0]
    return kind == TYPE and urlsplit(where).scheme in ("http", "https")


def _target(key: str, where: str, config: str, machine: str, labels: Mapping[str, str]) -> dict[str, Any]:
    url = urlsplit(where)
    host = machine if url.hostname in WILDCARDS else url.hostname or machine
    address = f"[{host}]:{url.port}" if ":" in host else f"{host}:{url.port}"
    own = {
        "__scheme__": url.scheme,
        "__metrics_path__": url.path,
        "__meta_mlxhub_config": config,
        "__meta_mlxhub_sink": key,
    }
    return {"targets": [address], "labels": {**own, **labels}}
