"""The sink `statsd` for mlxhub: counts what happens to models and sends it to a StatsD server."""

from .sink import StatsdSink

__all__ = ["StatsdSink"]
