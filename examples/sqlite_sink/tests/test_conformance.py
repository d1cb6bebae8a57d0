"""What mlxhub asks of every sink, asked of this one."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlxhub_sqlite_sink import SqliteSink

from mlxhub_core.testing import SinkConformance


class TestSqlite(SinkConformance):
    sink_class = SqliteSink

    @pytest.fixture(autouse=True)
    def database(self, tmp_path: Path) -> None:
        self.options = {"path": str(tmp_path / "events.db")}
