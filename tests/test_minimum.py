"""Every package that needs the core works with the oldest core that it says it takes."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import mlxhub_core

ROOT = Path(__file__).parent.parent
PROJECTS = sorted([*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("examples/*/pyproject.toml")])
PROJECTS += [ROOT / "mlxhub_core" / "cli" / "new_sink" / "template" / "pyproject.toml"]


def wanted(project: Path) -> str:
    """What it says of the core."""
    declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    (core,) = [str(each).removeprefix("mlxhub-core") for each in declared if each.startswith("mlxhub-core")]
    return core


def minimum(project: Path) -> str:
    """The oldest version that it takes."""
    found = re.fullmatch(r">=([0-9.]+),<2", wanted(project))
    assert found, (
        f"{project.parent.name}: a sink takes the oldest core that it works with, and any up to the next sink API"
    )
    return found[1]


def release(version: str) -> str | None:
    """The tag of the first release of that version; None if it is the one that is being made."""
    tags = subprocess.run(
        ["git", "tag", "--list", f"v{version}*"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = sorted(tags.stdout.split(), key=lambda tag: [int(part) for part in re.findall(r"\d+", tag)])
    return found[0] if found else None


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_the_oldest_core_that_a_sink_takes_is_this_one_or_one_that_was_released(project: Path) -> None:
    """With this one its tests run anyway."""
    oldest = minimum(project)
    is_this = f"{mlxhub_core.__version__}.".startswith(f"{oldest}.")
    assert is_this or release(oldest), (
        f"it takes mlxhub-core {oldest}, which was never released: tag it, or ask for more"
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "project", [path for path in PROJECTS if "plugins" in path.parts], ids=lambda path: path.parent.name
)
def test_the_tests_of_a_plug_in_pass_with_the_oldest_core_that_it_takes(project: Path, tmp_path: Path) -> None:
    tag = release(minimum(project))
    if tag is None:
        pytest.skip("that is this one, with which they run anyway")
    archive = subprocess.run(["git", "archive", tag, "mlxhub_core"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(tmp_path, filter="data")
    # Not those that need servers of others: they are about the wire, which no core changes.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not install", project.parent / "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
