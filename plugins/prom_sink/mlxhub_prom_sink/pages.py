"""What is answered under which path. The library would show the metrics under all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, make_wsgi_app

from mlxhub_core.metrics import MetricSink

from .collector import HubCollector

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def registry_of(source: MetricSink, namespace: str, *, created: bool) -> CollectorRegistry:
    """A registry of our own: the global one belongs to the program that the hub is part of."""
    registry = CollectorRegistry()
    registry.register(HubCollector(source, namespace, created=created))
    return registry


def pages(source: MetricSink, namespace: str) -> WSGIApplication:
    """The metrics at /metrics, in the format that is asked for; a line of text at /; nothing else."""
    text, openmetrics = (make_wsgi_app(registry_of(source, namespace, created=it_may)) for it_may in (False, True))

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                # In the text format the times of creation would be as many gauges more, of use to nobody.
                wanted = "application/openmetrics-text" in environ.get("HTTP_ACCEPT", "")
                metrics: WSGIApplication = openmetrics if wanted else text
                return metrics(environ, start_response)
            case "/":
                status, words = "200 OK", b"mlxhub: the metrics are at /metrics\n"
            case _:
                status, words = "404 Not Found", b"only /metrics is here\n"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(words)))])
        return [words]

    return app
