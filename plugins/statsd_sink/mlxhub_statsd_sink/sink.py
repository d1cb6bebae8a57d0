"""From events to StatsD counters. What each metric means is told in the README."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from mlxhub_core import HubEvent, HubModelContext, Reason, Sink

from .names import metric

if TYPE_CHECKING:
    from statsd import StatsClient  # type: ignore[import-untyped]  # it ships no types


class StatsdSink(Sink):
    """Sends counters over UDP, in the plain dialect that every StatsD server reads.

    UDP tells nobody whether a packet arrived: an event counts as delivered once it is handed to the system.

    Args:
        host: where the StatsD server is: a name or an address. IPv4 is taken where a name has both.
        port: its UDP port, 1 to 65535.
        prefix: goes before every name; dots in it part it, as in ``mlxhub.studio``; empty for none.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 8125, prefix: str = "mlxhub") -> None:
        if not 1 <= port <= 65535:
            raise ValueError(f"port must be from 1 to 65535, not {port}")
        self._host = host
        self._port = port
        self._prefix = prefix
        self._client: StatsClient | None = None

    def open(self) -> None:
        """Look the server up. Raises OSError while its name is unknown; the hub tries again."""
        from statsd import StatsClient

        # The client asks the DNS once, when it is made, and never again.
        self._client = StatsClient(self._host, self._port, ipv6=_has_only_ipv6(self._host, self._port))

    def close(self) -> None:
        """Close the socket. There is nothing to flush: each line is sent at once."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def model_started(self, ctx: HubModelContext, *, event: HubEvent, **_: object) -> None:
        """Count a start; also as a restart, if nobody but the hub asked for it."""
        self._count(ctx, "started")
        if event.reason == Reason.RESTART:
            self._count(ctx, "restarts")

    def model_ready(self, ctx: HubModelContext, *, startup_seconds: float, **_: object) -> None:
        """Time a start. StatsD's timers are in milliseconds."""
        self._connected().timing(self._name(ctx, "start_duration"), startup_seconds * 1000)

    def model_stopped(self, ctx: HubModelContext, **_: object) -> None:
        """Count a stop."""
        self._count(ctx, "stopped")

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None, **_: object) -> None:
        """Count a failure; also by its exit code, if there was a process to have one."""
        self._count(ctx, "failed")
        if exit_code is not None:
            self._count(ctx, "failed", "exit_code", str(exit_code))

    def _count(self, ctx: HubModelContext, *tail: str) -> None:
        self._connected().incr(self._name(ctx, *tail))

    def _name(self, ctx: HubModelContext, *tail: str) -> str:
        return metric(self._prefix, "model", ctx.name, *tail)

    def _connected(self) -> StatsClient:
        if self._client is None:
            raise RuntimeError("the statsd sink is not open")
        return self._client


def _has_only_ipv6(host: str, port: int) -> bool:
    """Whether the client must be told to use IPv6, which it does not find out by itself."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: no DNS name can look like this, as with two dots in a row.
        raise OSError(f"host: {host!r} cannot be found ({error}); check its spelling, or write its address") from None
    return all(family == socket.AF_INET6 for family, *_ in found)
