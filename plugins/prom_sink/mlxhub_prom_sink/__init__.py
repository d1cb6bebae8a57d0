"""The sink `prometheus` for mlxhub: a page at /metrics that tells Prometheus how the models are."""

from .sink import PrometheusSink
from .tls import Tls

__all__ = ["PrometheusSink", "Tls"]
