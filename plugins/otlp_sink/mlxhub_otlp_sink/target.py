"""Where to and how. hub.yaml comes first, then the variables that OpenTelemetry has for it, then what is usual."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from mlxhub_core import HubError, Secret

Protocol = Literal["http/protobuf", "grpc"]
Compression = Literal["none", "gzip"]
Signal = Literal["metrics", "logs"]

PROTOCOL: Protocol = "http/protobuf"
ENDPOINTS: Mapping[Protocol, str] = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}
"""Those of the protocol's specification."""
TIMEOUT = 5.0
"""Seconds. The specification has 10, but a hub that ends waits for its sinks only 5."""
INTERVAL = 60.0
"""Seconds; that of the specification for the export of metrics."""

_VARIABLE = "OTEL_EXPORTER_OTLP"
_VISIBLE = re.compile("[!-~]+")
_HEADER = re.compile("[a-z0-9_.-]+")
_HEADER_VALUE = re.compile("[ -~]+")


@dataclass(frozen=True, slots=True)
class Target:
    """What hub.yaml says; None for what it leaves to others.

    Attributes:
        protocol: how the server is spoken to.
        endpoint: the URL of the server, without the path of a signal.
        headers: go with every request; their names in small letters.
        timeout: seconds that a request may take.
        compression: of the requests.
        certificate: the file of the certificates with which the server's must be signed.
    """

    protocol: Protocol | None = None
    endpoint: str | None = None
    headers: Mapping[str, Secret] = field(default_factory=dict)
    timeout: float | None = None
    compression: Compression | None = None
    certificate: Path | None = None

    def protocol_in(self, environ: Mapping[str, str]) -> Protocol:
        """The protocol. Raises HubError if a variable names one that is not spoken here."""
        wanted = self.protocol or environ.get(f"{_VARIABLE}_PROTOCOL") or PROTOCOL
        for protocol in ENDPOINTS:
            if wanted == protocol:
                return protocol
        raise HubError(f"{_VARIABLE}_PROTOCOL is {wanted!r}, and must be http/protobuf or grpc; or set `protocol`")

    def url(self, signal: Signal, environ: Mapping[str, str]) -> str:
        """Where a signal goes; for gRPC, whose methods have names, all go to one place. Raises HubError."""
        protocol = self.protocol_in(environ)
        if self.endpoint is None and (url := environ.get(name := f"{_VARIABLE}_{signal.upper()}_ENDPOINT")):
            return _checked(name, url)
        name = f"{_VARIABLE}_ENDPOINT"
        base = self.endpoint or _checked(name, environ.get(name) or ENDPOINTS[protocol])
        return base if protocol == "grpc" else f"{base.rstrip('/')}/v1/{signal}"

    def timeout_in(self, signal: Signal, environ: Mapping[str, str]) -> float:
        """Seconds that a request may take. Raises HubError if a variable is no number."""
        if self.timeout is not None:
            return self.timeout
        names = (f"{_VARIABLE}_{signal.upper()}_TIMEOUT", f"{_VARIABLE}_TIMEOUT")
        return next((_number(name, environ[name]) for name in names if environ.get(name)), TIMEOUT)


def interval_in(interval: float | None, environ: Mapping[str, str]) -> float:
    """Seconds between two exports of metrics. Raises HubError if the variable, which has milliseconds, is no number."""
    name = "OTEL_METRIC_EXPORT_INTERVAL"
    if interval is None and environ.get(name):
        return max(0.1, _number(name, environ[name]) / 1000)
    return INTERVAL if interval is None else interval


def checked_endpoint(url: str) -> str:
    """The URL of a server, as it is used. Raises ValueError, without a word of it: people hide tokens in URLs."""
    if not _VISIBLE.fullmatch(url):
        raise ValueError("endpoint must be ASCII without blanks")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("endpoint has a port that is none") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("endpoint must begin with http:// or https:// and a host, as http://localhost:4318")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("endpoint must not hold a user, a password or a query; the server gets secrets as headers")
    # Whoever gives the whole URL of a signal means the server all the same.
    return re.sub(r"/v1/(metrics|logs|traces)/?$", "", url)


def checked_headers(headers: Mapping[str, Secret]) -> dict[str, Secret]:
    """The headers, as they are sent. Raises ValueError, without a word of their values."""
    checked: dict[str, Secret] = {}
    for name, value in headers.items():
        if not _HEADER.fullmatch(name.lower()):
            raise ValueError(f"headers: {name!r} cannot be the name of a header; use letters, digits, - and _")
        if not _HEADER_VALUE.fullmatch(value.reveal()):
            raise ValueError(f"headers: the value of {name} must be ASCII without line breaks")
        if name.lower() in checked:
            raise ValueError(f"headers: {name} is there twice; capitals make no difference")
        checked[name.lower()] = value
    return checked


def _checked(name: str, url: str) -> str:
    try:
        checked_endpoint(url)
    except ValueError as error:
        raise HubError(f"{name}: {error}") from None
    return url


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise HubError(f"{name} is {text!r}, and must be a number above 0")
    return number
