"""For all tests of the repository: a home of their own, and in CI nothing is skipped for want of a program."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI is set, make a skip because something "is not installed" a failure: there, it can be."""
    report = yield
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    if os.environ.get("CI") and reason.endswith("is not installed"):
        report.outcome = "failed"
        report.longrepr = f"{reason}, and in CI it must be: see .ci/run"
    return report
