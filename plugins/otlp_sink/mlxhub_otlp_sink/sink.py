"""From events and the hub's own picture to OTLP: on each burst of events, and on an interval. The README tells what."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Interval, MaxLen

from mlxhub_core import DeliveryRefusedError, HubError, HubEvent, HubModelContext, HubView, Secret
from mlxhub_core.metrics import MetricSink

from .target import Compression, Protocol, Target, checked_endpoint, checked_headers, interval_in

if TYPE_CHECKING:
    from mlxhub_core.metrics.usage import UsageMeter

    from .exporters import Channel
    from .instruments import Instruments
    from .records import Records

SOON = 0.5
"""Seconds after which a hub that had no models is looked at again: a sink is greeted before the hub has read them."""
VERSION = "0.1.0"
"""Of this package, for the scope of what is sent. A test compares it with the package's."""


class OtlpSink(MetricSink):
    """Sends metrics, and if wanted a log record for each event, to an OpenTelemetry collector or backend.

    What is not given here is taken from OpenTelemetry's own variables, as OTEL_EXPORTER_OTLP_ENDPOINT, if they are set
    where the hub is started.

    Args:
        endpoint: the URL of the server, without /v1/metrics; by default http://localhost:4318, and for grpc
            http://localhost:4317.
        protocol: http/protobuf, which is the default, or grpc, for which mlxhub-otlp-sink[grpc] must be installed.
        headers: go with every request, as {api-key: {env: OTLP_API_KEY}}.
        timeout: seconds that a request may take; by default 5.
        interval: seconds after which metrics are sent though nothing happened; by default 60.
        compression: of the requests, none or gzip; by default none.
        certificate: a file of certificates with which the server's must be signed; by default those that are known.
        resource: attributes that say who sends it, as {deployment.environment.name: home}.
        logs: whether each event is sent as a log record too.
    """

    def __init__(
        self,
        endpoint: Annotated[str, MaxLen(2000)] | None = None,
        protocol: Protocol | None = None,
        headers: Annotated[dict[str, Secret], MaxLen(20)] = {},  # noqa: B006  # never changed
        timeout: Annotated[float, Interval(ge=0.1, le=60)] | None = None,
        interval: Annotated[float, Interval(ge=0.1, le=3600)] | None = None,
        compression: Compression | None = None,
        certificate: Path | None = None,
        resource: Annotated[dict[str, str], MaxLen(50)] = {},  # noqa: B006  # never changed
        logs: bool = False,
        _clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        if protocol == "grpc" and find_spec("grpc") is None:
            raise ValueError("protocol: grpc needs: python -m pip install 'mlxhub-otlp-sink[grpc]'")
        if endpoint is not None:
            endpoint = checked_endpoint(endpoint)
        if certificate is not None and endpoint is not None and endpoint.startswith("http:"):
            raise ValueError("certificate is for a server with https://, and the endpoint begins with http://")
        self._target = Target(protocol, endpoint, checked_headers(headers), timeout, compression, certificate)
        self._interval = interval
        self._seconds = 0.0
        self._resource = resource
        self._logs = logs
        self._clock = _clock
        self._due = _clock()
        self._unsent = False
        self._shown: list[str] = []
        self._refusal: DeliveryRefusedError | None = None
        self._held = ExitStack()
        self._open: tuple[Channel, Channel | None, UsageMeter] | None = None
        self._instruments: Instruments | None = None
        self._records: Records | None = None

    @property
    def where(self) -> str | None:  # type: ignore[override]  # read only
        """Where the metrics go; None until that is known."""
        return self._open[0].url if self._open is not None else None

    @property
    def flush_interval(self) -> float | None:  # type: ignore[override]  # read only
        """Until the metrics are due, or the hub may have read its models; None before the hub's first event."""
        if self._instruments is None:
            return None
        left = max(0.0, self._due - self._clock())
        return left if self._shown else min(left, SOON)

    def open(self) -> None:
        """Make ready to send. Raises HubError or OSError if that cannot be done as wanted; the hub tries again."""
        # The SDK is imported here, as it takes a while that only the sink's own thread should spend.
        from mlxhub_core.metrics.usage import UsageMeter

        from . import instruments  # noqa: F401  # so that the first event does not have to wait for it
        from .exporters import channel
        from .hushed import Hushed

        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            raise HubError("OTEL_SDK_DISABLED is set, so nothing would be sent; unset it, or remove the sink")
        self._seconds = interval_in(self._interval, os.environ)
        with ExitStack() as begun:
            hushed = Hushed()
            begun.callback(hushed.close)
            metrics = channel("metrics", self._target, hushed)
            begun.callback(metrics.close)
            logs = None
            if self._logs:
                from . import records  # noqa: F401

                logs = channel("logs", self._target, hushed)
                begun.callback(logs.close)
            self._open = metrics, logs, UsageMeter()
            self._held = begun.pop_all()

    def flush(self) -> None:
        """Send what the events made, and on the interval the metrics all the same.

        Raises HubError if the server may take a part of it later, and else DeliveryRefusedError if it will never take one.
        """
        later: HubError | None = None
        # Both have their turn: a server may take the one and not the other, and they may go to two.
        for send in (self._send_records, self._send_metrics):
            try:
                send()
            except DeliveryRefusedError as refusal:
                self._refusal = self._refusal or refusal
            except HubError as error:
                later = later or error
        if later is not None:
            raise later
        told, self._refusal = self._refusal, None
        if told is not None:
            raise told

    def close(self) -> None:
        """Let go of everything. What was to be sent was flushed."""
        self._open = None
        held, self._held = self._held, ExitStack()
        for part in (self._instruments, self._records):
            if part is not None:
                held.callback(part.close)
        self._instruments = self._records = None
        held.close()

    def hub_started(self, *, hub: HubView, event: HubEvent) -> None:
        """Ask this hub from now on, and send in its name."""
        from .identity import resource_of
        from .instruments import Instruments

        super().hub_started(hub=hub, event=event)
        resource = resource_of(hub.info(), self._resource)
        self._instruments = Instruments(resource, VERSION)
        if self._logs:
            from .records import Records

            self._records = Records(resource, VERSION)
        self._note("hub_started", event=event)

    def hub_stopping(self, **more: Any) -> None:
        """The hub begins to shut down."""
        self._note("hub_stopping", **more)

    def config_reloaded(self, **more: Any) -> None:
        """Forget the models that are gone."""
        super().config_reloaded(**more)
        self._note("config_reloaded", **more)

    def model_started(self, ctx: HubModelContext, **more: Any) -> None:
        """Count a start; also as a restart, if nobody but the hub asked for it."""
        super().model_started(ctx, **more)
        self._note("model_started", ctx, **more)

    def model_adopted(self, ctx: HubModelContext, **more: Any) -> None:
        """A model of an earlier hub runs on."""
        self._note("model_adopted", ctx, **more)

    def model_ready(self, ctx: HubModelContext, *, startup_seconds: float, **more: Any) -> None:
        """Count how long a start took."""
        super().model_ready(ctx, startup_seconds=startup_seconds, **more)
        if self._instruments is not None:
            self._instruments.started_after(startup_seconds, (ctx.name, ctx.group or ""))
        self._note("model_ready", ctx, startup_seconds=startup_seconds, **more)

    def model_unhealthy(self, ctx: HubModelContext, **more: Any) -> None:
        """A model is not ready any more."""
        self._note("model_unhealthy", ctx, **more)

    def model_recovered(self, ctx: HubModelContext, **more: Any) -> None:
        """A model is ready again."""
        self._note("model_recovered", ctx, **more)

    def model_stopped(self, ctx: HubModelContext, **more: Any) -> None:
        """Count a stop."""
        super().model_stopped(ctx, **more)
        self._note("model_stopped", ctx, **more)

    def model_failed(self, ctx: HubModelContext, **more: Any) -> None:
        """Count a failure by its exit code."""
        super().model_failed(ctx, **more)
        self._note("model_failed", ctx, **more)

    def model_restarting(self, ctx: HubModelContext, **more: Any) -> None:
        """The hub will start a model again."""
        self._note("model_restarting", ctx, **more)

    def model_gave_up(self, ctx: HubModelContext, **more: Any) -> None:
        """A model stays down."""
        self._note("model_gave_up", ctx, **more)

    def model_log_failing(self, ctx: HubModelContext, **more: Any) -> None:
        """A model's log cannot be written."""
        self._note("model_log_failing", ctx, **more)

    def model_log_recovered(self, ctx: HubModelContext, **more: Any) -> None:
        """A model's log is written again."""
        self._note("model_log_recovered", ctx, **more)

    def events_lost(self, **more: Any) -> None:
        """Events were dropped."""
        self._note("events_lost", **more)

    def _note(self, hook: str, ctx: HubModelContext | None = None, *, event: HubEvent, **arguments: Any) -> None:
        """Something happened, so there is something to send."""
        self._unsent = True
        if self._records is not None:
            model = next((model for model in self.models() if ctx is not None and model.name == ctx.name), None)
            self._records.add(hook, event, ctx, model, arguments)

    def _send_records(self) -> None:
        channel = self._open[1] if self._open is not None else None
        if channel is None or self._records is None or not (waiting := self._records.waiting()):
            return
        self._trace(channel, ", ".join(str(record.log_record.event_name) for record in waiting))
        try:
            channel.send(waiting)
        except DeliveryRefusedError:
            self._records.sent()
            raise
        self._records.sent()

    def _send_metrics(self) -> None:
        models = [model.name for model in self.models()]
        due = self._clock() >= self._due
        if self._open is None or self._instruments is None or not (self._unsent or due or models != self._shown):
            return
        channel, _, meter = self._open
        if due or models != self._shown:
            self.set_usage(meter.measure(self.models()))
            self._due = self._clock() + self._seconds
        metrics = self._instruments.read(self.samples())
        self._trace(channel, _counted(metrics))
        self._unsent, self._shown = False, models
        try:
            channel.send(metrics)
        except DeliveryRefusedError:
            raise  # the sums are in the next request, too
        except BaseException:
            self._unsent = True
            raise

    def _trace(self, channel: Channel, what: str) -> None:
        if self.trace is not None:
            self.trace(f"{channel.url}: {what}")


def _counted(metrics: Any) -> str:
    found = [m for r in metrics.resource_metrics for s in r.scope_metrics for m in s.metrics if m.data.data_points]
    return f"{len(found)} metrics, {sum(len(metric.data.data_points) for metric in found)} series"
