"""From events to the table, and the server that shows it. What each metric means is told in the README."""

from __future__ import annotations

from mlxhub_core import HubEvent, HubModelContext, HubView, Reason, Sink

from .server import MetricsServer, parse_listen
from .table import Table


class PrometheusSink(Sink):
    """Shows the models to Prometheus at ``http://<listen>/metrics``. Asks for no password: keep it on 127.0.0.1.

    Args:
        listen: where to listen, as host:port; an IPv6 address stands in brackets; port 0 takes any that is free.
    """

    def __init__(self, listen: str = "127.0.0.1:9464") -> None:
        self._host, self._port = parse_listen(listen)
        self._table = Table()
        self._server: MetricsServer | None = None

    @property
    def url(self) -> str | None:
        """Where the metrics are, with the real port; None while it does not listen."""
        return self._server.url if self._server is not None else None

    def open(self) -> None:
        """Listen. Raises OSError if that is not possible now; the hub tries again."""
        # Imported here, as it takes a tenth of a second that only the sink's own thread should spend.
        from prometheus_client import CollectorRegistry, make_wsgi_app

        from .collector import HubCollector

        # A registry of our own: the global one belongs to the program that the hub is part of.
        registry = CollectorRegistry()
        registry.register(HubCollector(self._table))
        self._server = MetricsServer(self._host, self._port, make_wsgi_app(registry))

    def close(self) -> None:
        """Stop listening; the port is free again."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def hub_started(self, *, hub: HubView, event: HubEvent) -> None:
        """Remember the hub, whose models and their states are asked for at each scrape."""
        self._table.begin(hub, event.time)

    def model_started(self, ctx: HubModelContext, *, event: HubEvent, **_: object) -> None:
        """Count a start; also as a restart, if nobody but the hub asked for it."""
        self._table.start(ctx.name, again=event.reason == Reason.RESTART)

    def model_stopped(self, ctx: HubModelContext, **_: object) -> None:
        """Count a stop."""
        self._table.stop(ctx.name)

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None, **_: object) -> None:
        """Count a failure."""
        self._table.fail(ctx.name, exit_code)
