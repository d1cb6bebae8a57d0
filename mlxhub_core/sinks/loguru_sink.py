"""The sink `loguru`: each event is a Loguru record. On unless hub.yaml says `loguru: off`."""

from __future__ import annotations

from mlxhub_core.observability import LoggingHubObservabilitySink


class LoguruSink(LoggingHubObservabilitySink):
    """Writes each event to Loguru, with hub_model, hub_group and hub_log_path bound to the record."""

    def __init__(self) -> None:
        super().__init__()
