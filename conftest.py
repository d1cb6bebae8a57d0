"""For all tests of the repository: in CI nothing is skipped for want of a program."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI is set, make a skip because something "is not installed" a failure: there, it can be."""
    report = yield
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    if os.environ.get("CI") and reason.endswith("is not installed"):
        report.outcome = "failed"
        report.longrepr = f"{reason}, and in CI it must be: see .ci/run"
    return report
