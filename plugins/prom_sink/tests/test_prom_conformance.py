"""What every sink must be able to bear."""

from __future__ import annotations

from mlxhub_prom_sink import PrometheusSink

from mlxhub_core.testing import SinkConformance


class TestPrometheusSink(SinkConformance):
    sink_class = PrometheusSink
    options = {"listen": "127.0.0.1:0"}  # noqa: RUF012  # as in hub.yaml; never changed
