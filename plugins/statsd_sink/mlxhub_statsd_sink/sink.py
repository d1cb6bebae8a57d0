"""From events and the hub's own picture to samples, and from there to a StatsD server. The README tells each metric."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval, MaxLen

from mlxhub_core import HubEvent, HubModelContext, HubView, ModelState, Reason, Sink

from .address import DEFAULT_HOST, DEFAULT_PORT, Address, parse_address
from .dialects import DIALECTS, Sample, tag_name
from .gauges import Gauges

if TYPE_CHECKING:
    from .sender import Sender

SOON = 0.5
"""Seconds after which a hub that had no models is asked again: a sink is greeted before the hub has read them."""
OWN_TAGS = frozenset({"model", "group", "state", "exit_code", "sink"})
"""Tags that the sink itself sets."""


class StatsdSink(Sink):
    """Sends counters, timers and gauges in the dialect that the StatsD server reads.

    UDP tells nobody whether a packet arrived: there, an event counts as delivered once it is handed to the system.

    Args:
        host: where the StatsD server is, for UDP: a name or an address. IPv4 is taken where a name has both.
        port: its UDP port.
        address: where it is, instead of host and port: udp://host:port, tcp://host:port, unix:///path for a stream,
            unixgram:///path for datagrams.
        prefix: goes before every name; dots in it part it, as in mlxhub.studio; empty for none.
        dialect: how labels are written; ask the documentation of the server. Another one than the server's spoils names
            without any error.
        tags: goes with every metric, as {site: berlin}; not in the plain dialect, which has no tags.
        max_packet: bytes in a packet: 1432 for Ethernet, 512 over the internet, 8932 for jumbo frames.
        gauge_interval: seconds after which all gauges are sent again.
        timeout: seconds that connecting, and each packet, may take.
    """

    def __init__(
        self,
        host: Annotated[str, MaxLen(255)] = DEFAULT_HOST,
        port: Annotated[int, Interval(ge=1, le=65535)] = DEFAULT_PORT,
        address: str | None = None,
        prefix: Annotated[str, MaxLen(200)] = "mlxhub",
        dialect: Literal["plain", "dogstatsd", "graphite", "influx", "signalfx"] = "plain",
        tags: dict[str, str] = {},  # noqa: B006  # never changed
        max_packet: Annotated[int, Interval(ge=128, le=65507)] = 1432,
        gauge_interval: Annotated[float, Interval(ge=0.1, le=3600)] = 10.0,
        timeout: Annotated[float, Interval(ge=0.01, le=60)] = 1.0,
    ) -> None:
        self._address = _address(host, port, address)
        self._prefix = prefix
        self._encode = DIALECTS[dialect]
        self._tags = _checked(tags, dialect)
        self._max_packet = max_packet
        self._timeout = timeout
        self._gauge_interval = gauge_interval
        self._lines: deque[str] = deque()
        self._gauges = Gauges()
        self._gauges_due = 0.0
        self._hub: HubView | None = None
        self._sender: Sender | None = None

    def open(self) -> None:
        """Look the server up and, but for UDP, connect. Raises OSError if that fails; the hub tries again."""
        from .sender import Sender  # with the statsd package, which nobody needs who does not send

        sender = Sender(self._address, self._max_packet, self._timeout, self._traced)
        sender.connect()
        self._sender = sender

    def flush(self) -> None:
        """Send what the events made, then the gauges. Raises OSError; what was not sent is kept."""
        sender = self._connected()
        sender.send(self._lines)
        everything = time.monotonic() >= self._gauges_due
        readings = list(self._readings())
        sender.send(self._encoded(self._gauges.to_send(readings, all_of_them=everything)))
        self._gauges.was_sent(readings)
        if everything:
            pause = self._gauge_interval if readings else min(SOON, self._gauge_interval)
            self._gauges_due = time.monotonic() + pause
        self.flush_interval = max(0.0, self._gauges_due - time.monotonic())

    def close(self) -> None:
        """Send what is left, set all gauges to 0, as they outlive the hub, and let the connection go."""
        sender, self._sender = self._sender, None
        if sender is None:
            return
        try:
            sender.send(self._lines)
            sender.send(self._encoded(self._gauges.to_send((), all_of_them=True)))
        finally:
            sender.close()

    def hub_started(self, *, hub: HubView, **_: object) -> None:
        """Remember the hub, which is asked for the gauges."""
        self._hub = hub

    def config_reloaded(self, **_: object) -> None:
        """Models came or went: the flush that follows tells their gauges."""

    def model_started(self, ctx: HubModelContext, *, event: HubEvent, **_: object) -> None:
        """Count a start; also as a restart, if nobody but the hub asked for it."""
        self._count(ctx, "started")
        if event.reason == Reason.RESTART:
            self._count(ctx, "restarts")

    def model_ready(self, ctx: HubModelContext, *, startup_seconds: float, **_: object) -> None:
        """Time a start. StatsD's timers are in milliseconds."""
        self._add(Sample("model.start_duration", "ms", startup_seconds * 1000, _labels(ctx)))

    def model_stopped(self, ctx: HubModelContext, **_: object) -> None:
        """Count a stop."""
        self._count(ctx, "stopped")

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None, **_: object) -> None:
        """Count a failure, by its exit code if there was a process to have one."""
        self._count(ctx, "failed", "" if exit_code is None else str(exit_code))

    def _count(self, ctx: HubModelContext, what: str, exit_code: str = "") -> None:
        self._add(Sample(f"model.{what}", "c", 1, (*_labels(ctx), ("exit_code", exit_code))))

    def _add(self, sample: Sample) -> None:
        self._lines.extend(self._encoded([sample]))

    def _readings(self) -> Iterable[Sample]:
        for model in self._hub.status() if self._hub is not None else ():
            labels = (("model", model.name), ("group", model.group or ""))
            yield Sample("model.ready", "g", model.state is ModelState.READY, labels)
            yield Sample("model.up", "g", model.pid is not None, labels)
            for state in ModelState:
                yield Sample("model.state", "g", state is model.state, (*labels, ("state", state.value)))

    def _encoded(self, samples: Iterable[Sample]) -> deque[str]:
        return deque(line for sample in samples for line in self._encode(sample, self._prefix, self._tags))

    def _traced(self, line: str) -> None:
        if self.trace is not None:
            self.trace(line)

    def _connected(self) -> Sender:
        if self._sender is None:
            raise RuntimeError("the statsd sink is not open")
        return self._sender


def _labels(ctx: HubModelContext) -> tuple[tuple[str, str], ...]:
    return ("model", ctx.name), ("group", ctx.group or "")


def _address(host: str, port: int, address: str | None) -> Address:
    if address is None:
        return Address("udp", host, port)
    if (host, port) != (DEFAULT_HOST, DEFAULT_PORT):
        raise ValueError("address takes the place of host and port; leave these out")
    return parse_address(address)


def _checked(tags: dict[str, str], dialect: str) -> tuple[tuple[str, str], ...]:
    """The constant tags, if there is a place for each. Raises ValueError."""
    if tags and dialect == "plain":
        raise ValueError("tags: the plain dialect has none; choose the dialect of your server, or leave tags out")
    names: dict[str, str] = {}
    for name in tags:
        written = tag_name(name)
        if written in OWN_TAGS:
            raise ValueError(f"tags: {name!r} is set by the sink itself; choose another name")
        if written in names:
            raise ValueError(f"tags: {names[written]!r} and {name!r} would both be written {written!r}; rename one")
        names[written] = name
    return tuple(tags.items())
