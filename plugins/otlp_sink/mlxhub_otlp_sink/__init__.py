"""The sink `otlp` for mlxhub: sends metrics and lifecycle events to whatever speaks OpenTelemetry's protocol."""

from .sink import OtlpSink

__all__ = ["OtlpSink"]
