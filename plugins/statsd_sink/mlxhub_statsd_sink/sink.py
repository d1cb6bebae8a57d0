"""From events and the hub's own picture to samples, and from there to a StatsD server. The README tells each metric."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval, MaxLen

from mlxhub_core import HubEvent, HubModelContext, HubView, Reason
from mlxhub_core.metrics import CATALOGUE, Metric, MetricSink
from mlxhub_core.metrics.catalogue import FAILED, RESTARTS, START_DURATION, STARTED, STOPPED

from .address import DEFAULT_HOST, DEFAULT_PORT, Address, parse_address
from .dialects import DIALECTS, SIGNED, Sample, tag_name
from .held import Gauged, Gauges, Totals
from .readings import is_for_statsd, read, sample_of

if TYPE_CHECKING:
    from mlxhub_core import ModelStatus
    from mlxhub_core.metrics.usage import UsageMeter

    from .sender import Sender

SOON = 0.5
"""Seconds after which a hub that had no models is asked again: a sink is greeted before the hub has read them."""
OWN_TAGS = frozenset(label for metric in CATALOGUE if is_for_statsd(metric) for label in metric.labels)
"""Tags that the sink itself sets."""


class StatsdSink(MetricSink):
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
        super().__init__()
        self._address = _address(host, port, address)
        self.where = str(self._address)
        self._prefix = prefix
        self._encode = DIALECTS[dialect]
        self._signed = dialect in SIGNED
        self._tags = _checked(tags, dialect)
        self._max_packet = max_packet
        self._timeout = timeout
        self._gauge_interval = gauge_interval
        self._lines: deque[str] = deque()
        self._of_models = Gauges()
        self._of_others = Gauges()
        self._totals = Totals()
        self._shown: dict[str, ModelStatus] = {}
        self._clock = _clock
        self._due = _clock()
        self._open: tuple[Sender, UsageMeter] | None = None

    def open(self) -> None:
        """Look the server up and, but for UDP, connect. Raises OSError if that fails; the hub tries again."""
        from mlxhub_core.metrics.usage import UsageMeter

        from .sender import Sender  # with the statsd package, which nobody needs who does not send

        sender = Sender(self._address, self._max_packet, self._timeout, self._traced)
        sender.connect()
        self._open = sender, UsageMeter()

    def flush(self) -> None:
        """Send what the events made and the gauges of models that changed; on the interval everything.

        Raises OSError; what was not sent is kept, or found again.
        """
        sender, meter = self._opened()
        sender.send(self._lines)
        models = {model.name: model for model in self.models()}
        if self._clock() >= self._due:
            self._send_all(sender, meter)
            self._due = self._clock() + (self._gauge_interval if models else min(SOON, self._gauge_interval))
        else:
            # Of the others nothing is read: with many models that would take as long as all else that an event costs.
            changed = [model for model in models.values() if model != self._shown.get(model.name)]
            gauges = read(self.samples_of(changed), signed=self._signed).models
            self._send_gauges(sender, self._of_models, gauges, models)
        self._shown = models
        self.flush_interval = max(0.0, self._due - self._clock())

    def close(self) -> None:
        """Send what is left, set all gauges to 0, as they outlive the hub, and let the connection go."""
        opened, self._open = self._open, None
        if opened is None:
            return
        sender, _ = opened
        try:
            sender.send(self._lines)
            for gauges in (self._of_models, self._of_others):
                self._send_gauges(sender, gauges, {}, ())
        finally:
            sender.close()

    def hub_started(self, *, hub: HubView, event: HubEvent) -> None:
        """Ask this hub from now on. What it has counted so far was counted for others."""
        super().hub_started(hub=hub, event=event)
        self._totals.growth(read(self.samples(), signed=False).totals)

    def model_started(self, ctx: HubModelContext, *, event: HubEvent, **more: object) -> None:
        """Count a start; also as a restart, if nobody but the hub asked for it."""
        super().model_started(ctx, event=event, **more)
        self._add(STARTED, ctx)
        if event.reason == Reason.RESTART:
            self._add(RESTARTS, ctx)

    def model_ready(self, ctx: HubModelContext, *, startup_seconds: float, **more: object) -> None:
        """Time a start. StatsD's timers are in milliseconds."""
        super().model_ready(ctx, startup_seconds=startup_seconds, **more)
        self._add(START_DURATION, ctx, value=startup_seconds * 1000)

    def model_stopped(self, ctx: HubModelContext, **more: object) -> None:
        """Count a stop."""
        super().model_stopped(ctx, **more)
        self._add(STOPPED, ctx)

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None, **more: object) -> None:
        """Count a failure, by its exit code if there was a process to have one."""
        super().model_failed(ctx, exit_code=exit_code, **more)
        self._add(FAILED, ctx, "" if exit_code is None else str(exit_code))

    # Of these only the gauges change, which the flush after each event sends.

    def model_adopted(self, ctx: HubModelContext, **_: object) -> None:
        """A model of an earlier hub runs on."""

    def model_unhealthy(self, ctx: HubModelContext, **_: object) -> None:
        """A model is not ready any more."""

    def model_recovered(self, ctx: HubModelContext, **_: object) -> None:
        """A model is ready again."""

    def _add(self, metric: Metric, ctx: HubModelContext, *labels: str, value: float = 1) -> None:
        sample = sample_of(metric, (ctx.name, ctx.group or "", *labels), value)
        self._lines.extend(self._encoded([sample]))

    def _send_all(self, sender: Sender, meter: UsageMeter) -> None:
        self.set_usage(meter.measure(self.models()))
        models, others, totals = read(self.samples(), signed=self._signed)
        self._send_gauges(sender, self._of_models, models, models, all_of_them=True)
        self._lines.extend(self._encoded(self._totals.growth(totals)))  # which are kept until they are sent
        sender.send(self._lines)
        self._send_gauges(sender, self._of_others, others, others, all_of_them=True)

    def _send_gauges(
        self, sender: Sender, gauges: Gauges, now: Gauged, owners: Collection[str], *, all_of_them: bool = False
    ) -> None:
        sender.send(self._encoded(gauges.to_send(now, owners, all_of_them=all_of_them)))
        gauges.was_sent(now, owners)

    def _encoded(self, samples: Iterable[Sample]) -> deque[str]:
        return deque(line for sample in samples for line in self._encode(sample, self._prefix, self._tags))

    def _traced(self, line: str) -> None:
        if self.trace is not None:
            self.trace(line)

    def _opened(self) -> tuple[Sender, UsageMeter]:
        if self._open is None:
            raise RuntimeError("the statsd sink is not open")
        return self._open


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
