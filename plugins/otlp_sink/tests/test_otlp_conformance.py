"""What every sink must be able to bear, over HTTP and over gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
from mlxhub_otlp_sink import OtlpSink

from mlxhub_core.testing import SinkConformance

from .receiver import RECEIVERS


class TestOverHttp(SinkConformance):
    sink_class = OtlpSink
    protocol: ClassVar[str] = "http/protobuf"

    @pytest.fixture(autouse=True)
    def receiver(self) -> Iterator[None]:
        with RECEIVERS[self.protocol]() as receiver:
            self.options = {"endpoint": receiver.url, "protocol": self.protocol, "logs": True}
            yield

    def options_for(self, host: str, port: int) -> Mapping[str, Any]:
        return {"endpoint": f"http://{host}:{port}", "protocol": self.protocol, "logs": True, "timeout": 0.2}


class TestOverGrpc(TestOverHttp):
    protocol = "grpc"
