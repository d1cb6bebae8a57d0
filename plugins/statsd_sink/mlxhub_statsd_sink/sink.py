"""From events and the hub's own picture to samples, and from there to a StatsD server. The README tells each metric."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval, MaxLen

from mlxhub_core import HubEvent, HubModelContext, HubView, Reason, Sink

from .address import DEFAULT_HOST, DEFAULT_PORT, Address, parse_address
from .dialects import DIALECTS, SIGNED, Sample, tag_name
from .held import Gauges, Totals
from .readings import gauges_of_models, gauges_of_sinks, labels_of, totals_of_sinks

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
        tags: Annotated[dict[str, str], MaxLen(20)] = {},  # noqa: B006  # never changed
        max_packet: Annotated[int, Interval(ge=128, le=65507)] = 1432,
        gauge_interval: Annotated[float, Interval(ge=0.1, le=3600)] = 10.0,
        timeout: Annotated[float, Interval(ge=0.01, le=60)] = 1.0,
        _clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = _address(host, port, address)
        self._prefix = prefix
        self._encode = DIALECTS[dialect]
        self._signed = dialect in SIGNED
        self._tags = _checked(tags, dialect)
        self._max_packet = max_packet
        self._timeout = timeout
        self._gauge_interval = gauge_interval
        self._lines: deque[str] = deque()
        self._of_models = Gauges()
        self._of_sinks = Gauges()
        self._totals = Totals()
        self._clock = _clock
        self._due = _clock()
        self._hub: HubView | None = None
        self._sender: Sender | None = None

    def open(self) -> None:
        """Look the server up and, but for UDP, connect. Raises OSError if that fails; the hub tries again."""
        from .sender import Sender  # with the statsd package, which nobody needs who does not send

        sender = Sender(self._address, self._max_packet, self._timeout, self._traced)
        sender.connect()
        self._sender = sender

    def flush(self) -> None:
        """Send what the events made and the gauges that changed; on the interval all gauges, and how the sinks are.

        Raises OSError; what was not sent is kept, or found again.
        """
        sender = self._connected()
        sender.send(self._lines)
        if self._hub is not None:
            due = self._clock() >= self._due
            models = list(gauges_of_models(self._hub, signed=self._signed))
            self._send(sender, self._of_models.to_send(models, all_of_them=due))
            self._of_models.was_sent(models)
            if due:
                self._send_sinks(sender, self._hub)
                self._due = self._clock() + (self._gauge_interval if models else min(SOON, self._gauge_interval))
        self.flush_interval = max(0.0, self._due - self._clock()) if self._hub is not None else None

    def close(self) -> None:
        """Send what is left, set all gauges to 0, as they outlive the hub, and let the connection go."""
        sender, self._sender = self._sender, None
        if sender is None:
            return
        try:
            sender.send(self._lines)
            for gauges in (self._of_models, self._of_sinks):
                self._send(sender, gauges.to_send((), all_of_them=True))
        finally:
            sender.close()

    def hub_started(self, *, hub: HubView, **_: object) -> None:
        """Remember the hub, which is asked for the gauges."""
        self._hub = hub

    def model_started(self, ctx: HubModelContext, *, event: HubEvent, **_: object) -> None:
        """Count a start; also as a restart, if nobody but the hub asked for it."""
        self._count(ctx, "started")
        if event.reason == Reason.RESTART:
            self._count(ctx, "restarts")

    def model_ready(self, ctx: HubModelContext, *, startup_seconds: float, **_: object) -> None:
        """Time a start. StatsD's timers are in milliseconds."""
        self._add(Sample("model.start_duration", "ms", startup_seconds * 1000, labels_of(ctx)))

    def model_stopped(self, ctx: HubModelContext, **_: object) -> None:
        """Count a stop."""
        self._count(ctx, "stopped")

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None, **_: object) -> None:
        """Count a failure, by its exit code if there was a process to have one."""
        self._count(ctx, "failed", *(() if exit_code is None else [("exit_code", str(exit_code))]))

    # Of these only the gauges change, which the flush after each event sends.

    def config_reloaded(self, **_: object) -> None:
        """Models came or went."""

    def model_adopted(self, ctx: HubModelContext, **_: object) -> None:
        """A model of an earlier hub runs on."""

    def model_unhealthy(self, ctx: HubModelContext, **_: object) -> None:
        """A model is not ready any more."""

    def model_recovered(self, ctx: HubModelContext, **_: object) -> None:
        """A model is ready again."""

    def _count(self, ctx: HubModelContext, what: str, *labels: tuple[str, str]) -> None:
        self._add(Sample(f"model.{what}", "c", 1, (*labels_of(ctx), *labels)))

    def _add(self, sample: Sample) -> None:
        self._lines.extend(self._encoded([sample]))

    def _send_sinks(self, sender: Sender, hub: HubView) -> None:
        totals, gauges = list(totals_of_sinks(hub)), list(gauges_of_sinks(hub))
        self._lines.extend(self._encoded(self._totals.to_send(totals)))
        self._totals.was_sent(totals)  # now it is among the lines, which are kept until they are sent
        sender.send(self._lines)
        self._send(sender, self._of_sinks.to_send(gauges, all_of_them=True))
        self._of_sinks.was_sent(gauges)

    def _send(self, sender: Sender, samples: Iterable[Sample]) -> None:
        sender.send(self._encoded(samples))

    def _encoded(self, samples: Iterable[Sample]) -> deque[str]:
        return deque(line for sample in samples for line in self._encode(sample, self._prefix, self._tags))

    def _traced(self, line: str) -> None:
        if self.trace is not None:
            self.trace(line)

    def _connected(self) -> Sender:
        if self._sender is None:
            raise RuntimeError("the statsd sink is not open")
        return self._sender


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
