"""OTLP over gRPC. Needs the extra `grpc`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

from mlxhub_core import DeliveryRefusedError, HubError, Secret

from .answers import OtlpUnavailableError, later, rejected
from .exporters import Exporter, Watch
from .target import Signal, Target

_COMPRESSIONS = {None: None, "none": grpc.Compression.NoCompression, "gzip": grpc.Compression.Gzip}

_LATER = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""The codes after which OTLP says that a request may be sent again."""

_NEVER_AGAIN = (grpc.StatusCode.OK,)
"""The failures after which the exporter itself tries again: none. An empty list would mean its own."""

_ADVICE = {
    grpc.StatusCode.UNAUTHENTICATED: "check `headers`",
    grpc.StatusCode.PERMISSION_DENIED: "check `headers`",
    grpc.StatusCode.UNIMPLEMENTED: "check `endpoint`: there is a server, but it takes no OTLP there",
}


def exporter_of(signal: Signal, target: Target, watch: Watch, timeout: float) -> Exporter:
    """The SDK's exporter for a signal."""
    credentials = None
    if target.certificate is not None:
        credentials = grpc.ssl_channel_credentials(root_certificates=target.certificate.read_bytes())
    kind = _Metrics if signal == "metrics" else _Logs
    return kind(
        watch,
        target.headers,
        endpoint=watch.url,
        insecure=urlsplit(watch.url).scheme == "http",
        credentials=credentials,
        timeout=timeout,
        compression=_COMPRESSIONS[target.compression],
        retryable_error_codes=_NEVER_AGAIN,
    )


class _Stub:
    """The way to the server, which adds our headers and sees what the exporter would not tell."""

    def __init__(self, inner: Any, watch: Watch, secrets: Mapping[str, Secret]) -> None:
        self._inner = inner
        self._watch = watch
        self._secrets = secrets

    def Export(self, request: Any, metadata: Sequence[tuple[str, str]] = (), timeout: float | None = None) -> Any:  # noqa: N802  # gRPC's name
        """Send it."""
        others = [(name, value) for name, value in metadata if name.lower() not in self._secrets]
        ours = [(name, secret.reveal()) for name, secret in self._secrets.items()]
        try:
            answer = self._inner.Export(request, metadata=(*others, *ours), timeout=timeout)
        except grpc.RpcError as error:
            self._watch.problem = _judge(self._watch.url, error)
            raise
        partial = answer.partial_success
        # The field that counts has another name for each signal.
        count = getattr(partial, "rejected_data_points", 0) or getattr(partial, "rejected_log_records", 0)
        self._watch.problem = rejected(self._watch.url, count, partial.error_message)
        return answer


class _Watched:
    """Puts our stub in place of the exporter's, whenever it makes a connection."""

    _client: Any

    def __init__(self, watch: Watch, secrets: Mapping[str, Secret], **how: Any) -> None:
        self._watch, self._secrets = watch, secrets
        super().__init__(**how)

    def _initialize_channel_and_stub(self) -> None:
        super()._initialize_channel_and_stub()  # type: ignore[misc]
        self._client = _Stub(self._client, self._watch, self._secrets)


class _Metrics(_Watched, OTLPMetricExporter): ...


class _Logs(_Watched, OTLPLogExporter): ...


def _judge(url: str, error: Any) -> HubError:
    code = error.code()
    if code is grpc.StatusCode.UNAVAILABLE and _asked_for(error) is None:
        return OtlpUnavailableError(f"{url} cannot be reached, or does not answer now; check that it runs")
    if code in _LATER:
        return later(f"{url} answered {code.name}; it is sent again", _asked_for(error))
    return DeliveryRefusedError(f"{url} answered {code.name}; {_ADVICE.get(code, 'look at its log')}")


def _asked_for(error: Any) -> float | None:
    """How many seconds the server asks to be left alone; None: it does not say."""
    for name, value in error.trailing_metadata() or ():
        if name != "grpc-status-details-bin":
            continue
        status, retry = Status(), RetryInfo()
        status.ParseFromString(value)
        if any(detail.Unpack(retry) for detail in status.details):
            return float(retry.retry_delay.ToTimedelta().total_seconds())
    return None
