"""`mlxhub version`: what is installed here, as a bug report wants it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from mlxhub_core import __version__
from mlxhub_core.cli import version

MLXHUB = str(Path(sysconfig.get_path("scripts")) / "mlxhub")


def mlxhub(*arguments: str) -> str:
    done = subprocess.run([MLXHUB, *arguments], capture_output=True, text=True, timeout=50, check=True)
    assert done.stderr == ""
    return done.stdout


def test_it_tells_the_versions_of_all_that_counts() -> None:
    lines = [line.split(maxsplit=1) for line in mlxhub("version").splitlines()]
    told = {name: text for name, text in lines if name != "sink"}
    assert told["mlxhub"] == __version__
    assert told["python"].startswith(f"{platform.python_version()} ({Path(sys.executable).parent}/python")
    assert told["mlx-lm"] == metadata.version("mlx-lm")
    assert platform.machine() in told["platform"]
    sinks = {text.split()[0]: " ".join(text.split()[1:]) for name, text in lines if name == "sink"}
    assert sinks["loguru"] == f"{__version__} (mlxhub-core)"
    points = metadata.entry_points(group="mlxhub.sinks")
    assert sinks == {point.name: f"{point.dist.version} ({point.dist.name})" for point in points if point.dist}


def test_programs_get_the_same_as_json() -> None:
    told = json.loads(mlxhub("version", "--json"))
    assert list(told) == ["mlxhub", "python", "platform", "mlx", "mlx_lm", "sinks"]
    assert {"type": "loguru", "package": "mlxhub-core", "version": __version__} in told["sinks"]


def test_what_is_not_installed_or_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise metadata.PackageNotFoundError(package) if package == "mlx" else KeyError("Version")

    monkeypatch.setattr(metadata, "version", missing)
    assert version.versions()["mlx"] is None
    assert version.versions()["mlx_lm"] is None


def test_a_mac_is_called_by_its_own_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert version.system() == "macOS 15.1 arm64"


def test_it_imports_nothing_that_takes_its_time() -> None:
    program = "import sys; from mlxhub_core.cli import version; version.versions(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"rich", "asyncio", "pydantic", "loguru", "starlette", "mlx", "mlx_lm", "mlxhub_statsd_sink"} & set(
        done.stdout.split()
    )
