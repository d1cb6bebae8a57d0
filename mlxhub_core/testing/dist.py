"""A package that is installed as far as Python can tell, for as long as a test needs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mlxhub_core.discovery import GROUP, scan


@contextmanager
def tmp_dist(
    directory: Path,
    name: str,
    sinks: Mapping[str, str],
    modules: Mapping[str, str] | None = None,
    *,
    version: str = "1.0",
) -> Iterator[Path]:
    """Have a package that offers sinks, so that hub.yaml, `HubManager` and the commands find it. Nothing is built.

    Args:
        directory: where its files are written, as pytest's ``tmp_path``.
        name: of the package, as pip would show it.
        sinks: where the class of each sink type is: ``{"acme": "acme_sink:AcmeSink"}``.
        modules: the text of each module by its name, ``{"acme_sink": "class AcmeSink: …"}``; default: they can be
            imported already. They are forgotten at the end.
        version: of the package.

    Yields:
        the directory that must be on ``PYTHONPATH`` for another process to find it too; it is on ``sys.path`` here.
    """
    site = directory / f"site of {name}"
    information = site / f"{name.replace('-', '_')}-{version}.dist-info"
    information.mkdir(parents=True)
    points = "".join(f"{kind} = {value}\n" for kind, value in sinks.items())
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
    (information / "entry_points.txt").write_text(f"[{GROUP}]\n{points}", "utf-8")
    for module, text in (modules or {}).items():
        (site / f"{module}.py").write_text(text, "utf-8")
    # First, as a package that is installed too must not be found instead; and what is installed is looked at once only.
    sys.path.insert(0, str(site))
    scan.cache_clear()
    try:
        yield site
    finally:
        sys.path.remove(str(site))
        scan.cache_clear()
        for module in modules or {}:
            sys.modules.pop(module, None)
