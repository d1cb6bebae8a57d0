"""For all tests of the repository: a home of their own, and in CI nothing is skipped for want of a program."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
EXAMPLES = ROOT / "examples"


def pytest_configure() -> None:
    """Hubs keep sockets and locks below the user's home. Those of the person who runs the tests are none of ours."""
    # What was downloaded once may be used again.
    os.environ.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    os.environ["HOME"] = home = tempfile.mkdtemp(prefix="home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long it storms; see tests/chaos."""
    parser.addoption("--chaos-seconds", type=float, default=40.0, help="seconds of each storm of tests/chaos")
    parser.addoption("--chaos-seed", type=int, default=20261126, help="has the same things go wrong again")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The core's tests pass with none of the other packages installed; those that need them are skipped then."""
    there = {point.name for point in metadata.entry_points(group="mlxhub.sinks")}
    for marker in item.iter_markers("sinks"):
        for sink in marker.args:
            if sink not in there:
                pytest.skip(f"the sink {sink} is not installed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI is set, make a skip because something "is not installed" a failure: there, it can be."""
    report = yield
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    if os.environ.get("CI") and reason.endswith("is not installed"):
        report.outcome = "failed"
        report.longrepr = f"{reason}, and in CI it must be: see .ci/run"
    return report


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheels of the core and of the examples, and nothing else of ours."""

    bin: Path
    wheels: tuple[str, ...]

    @property
    def env(self) -> dict[str, str]:
        """The environment of whoever has activated it, and what is set for these tests left out."""
        mine = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLXHUB", "PYTEST"))}
        return {**mine, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(self.bin.parent)}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Made once for all tests that install something: it takes longer than what they do in it."""
    import virtualenv  # by the few who need it

    place = tmp_path_factory.mktemp("installed")
    # Not `venv`, which takes five seconds to put pip into it.
    virtualenv.cli_run([str(place / "venv"), "--quiet"])
    made = Installed(place / "venv" / "bin", ())

    def pip(python: str | Path, *arguments: str | Path) -> None:
        subprocess.run([python, "-m", "pip", "--quiet", *arguments], env=made.env, cwd=place, check=True)

    # A copy, as whoever builds where the sources are leaves something there. All with the one hatchling that is there.
    examples = shutil.copytree(EXAMPLES, place / "examples", ignore=shutil.ignore_patterns("*cache*"))
    packages = [ROOT, *(path.parent for path in sorted(examples.glob("*/pyproject.toml")))]
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "wheels", *packages)
    wheels = sorted((place / "wheels").iterdir())
    pip(made.bin / "python", "install", "pytest", "hypothesis", "hatchling", "editables", *wheels)
    return Installed(made.bin, tuple(wheel.name for wheel in wheels))


# Fixtures of the same name in a test file build on these.


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home, and the current directory, with a path so short that the sockets of a hub have their usual place."""
    path = Path(tempfile.mkdtemp(dir="/tmp")).resolve()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.chdir(path)
    for name in ("MLXHUB_CONFIG", "MLXHUB_NO_SINKS"):
        monkeypatch.delenv(name, raising=False)
    yield path
    shutil.rmtree(path, ignore_errors=True)  # a hub may be about to remove its socket


@pytest.fixture(scope="module")
def module_home() -> Iterator[Path]:
    """The same for all tests of a file together."""
    with pytest.MonkeyPatch.context() as patch:
        path = Path(tempfile.mkdtemp(dir="/tmp")).resolve()
        patch.setenv("HOME", str(path))
        patch.chdir(path)
        yield path
        shutil.rmtree(path, ignore_errors=True)
