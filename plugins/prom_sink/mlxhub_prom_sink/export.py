"""What is shipped for Prometheus and Grafana, and how it gets out of the package.

All of it is written for the names of the default namespace and for the job `mlxhub`; others are put in their place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

SHIPPED = (
    "alerts.yaml",
    "rules.yaml",
    "compat-seed-rules.yaml",
    "dashboard.json",
    "mixin.libsonnet",
)


def shipped(name: str) -> str:
    """The text of one of the files."""
    return files(__package__).joinpath("monitoring", name).read_text(encoding="utf-8")


def export(directory: Path, *, namespace: str = "mlxhub", job: str = "mlxhub") -> Sequence[Path]:
    """Write the files into a directory, which is made if need be, over those of an earlier export.

    Args:
        directory: where to.
        namespace: what the names of the metrics begin with; see the option of the sink.
        job: the name of the job in the scrape configuration.

    Returns:
        the files.

    Raises:
        OSError: they cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name in SHIPPED:
        path = directory / name
        path.write_text(_adapted(shipped(name), namespace, job), encoding="utf-8")
        written.append(path)
    return written


def _adapted(text: str, namespace: str, job: str) -> str:
    text = re.sub(r"\bmlxhub_(?=[a-z])", f"{namespace}_", text)
    return text.replace('job="mlxhub"', f'job="{job}"').replace(r"job=\"mlxhub\"", rf"job=\"{job}\"")
