"""What mlxhub asks of every sink: `mlxhub_core.testing` has the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlxhub_core.testing import SinkConformance

from mlxhub_acme_sink import AcmeSink


class TestAcme(SinkConformance):
    """Options are written as in hub.yaml. One that sends over TCP also overrides `options_for`."""

    sink_class = AcmeSink

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        """A file of its own for each test."""
        self.options = {"path": str(tmp_path / "events.jsonl")}
