"""OTLP over HTTP, as protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from mlxhub_core import HubError, Secret

from .answers import judge, rejected, unreachable
from .exporters import Exporter, Watch
from .target import Signal, Target

_COMPRESSIONS = {None: None, "none": Compression.NoCompression, "gzip": Compression.Gzip}


def exporter_of(signal: Signal, target: Target, watch: Watch, timeout: float) -> Exporter:
    """The SDK's exporter for a signal."""
    certificate = None if target.certificate is None else str(target.certificate)
    kind = OTLPMetricExporter if signal == "metrics" else OTLPLogExporter
    return kind(
        endpoint=watch.url,
        certificate_file=certificate,
        timeout=timeout,
        compression=_COMPRESSIONS[target.compression],
        session=_Session(watch, target.headers),
    )


class _Session(requests.Session):
    """Makes the exporter's requests, and sees what it would not tell.

    It raises what the exporter does not know, and therefore does not try again.
    """

    def __init__(self, watch: Watch, headers: Mapping[str, Secret]) -> None:
        super().__init__()
        self._watch = watch
        self._secrets = headers
        # Else a .netrc of the user would take the place of our header.
        self.auth = lambda request: request

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **how: Any) -> requests.Response:
        how["headers"] = {**(how.get("headers") or {}), **{name: s.reveal() for name, s in self._secrets.items()}}
        # A redirect would make a GET of it, and carry the headers elsewhere; and the certificate that was named counts,
        # whatever else the environment says.
        how |= {"allow_redirects": False, "verify": self.verify}
        try:
            answer = super().request(method, url, *args, **how)
        except (requests.RequestException, OSError) as error:
            self._watch.problem = unreachable(self._watch.url, error)
            raise self._watch.problem from None
        self._watch.problem = judge(self._watch.url, answer.status_code, answer.headers) or self._rejected(answer)
        if self._watch.problem is not None:
            raise self._watch.problem
        return answer

    def _rejected(self, answer: requests.Response) -> HubError | None:
        """What a server says that takes a part of it."""
        if "protobuf" not in answer.headers.get("Content-Type", "") or not answer.content:
            return None
        response = ExportMetricsServiceResponse()  # that for logs has the same form
        try:
            response.ParseFromString(answer.content)
        except Exception:  # noqa: BLE001  # it said 200, and what it says besides is no concern of ours
            return None
        partial = response.partial_success
        return rejected(self._watch.url, partial.rejected_data_points, partial.error_message)
