"""What every sink must be able to bear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxhub_statsd_sink import StatsdSink

from mlxhub_core.testing import SinkConformance


class TestStatsdSink(SinkConformance):
    sink_class = StatsdSink
    options = {"port": 18125}  # noqa: RUF012  # as in hub.yaml; never changed

    def options_for(self, host: str, port: int) -> Mapping[str, Any]:
        return {"address": f"tcp://{host}:{port}", "timeout": 0.2}
