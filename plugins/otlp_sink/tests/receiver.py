"""A receiver of OTLP in this process, over HTTP or gRPC, which keeps what it gets and answers as it is told to."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

REQUESTS: Mapping[str, Any] = {"metrics": ExportMetricsServiceRequest, "logs": ExportLogsServiceRequest}
RESPONSES: Mapping[str, Any] = {"metrics": ExportMetricsServiceResponse, "logs": ExportLogsServiceResponse}

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""What gRPC calls the same answer."""


@dataclass
class Receiver:
    """What came, and what is to be answered.

    Attributes:
        url: where it is.
        answers: the status of each of the next answers to a signal, by its name; then all is well.
        for_ever: the status of all answers to a signal, whatever else is said.
        headers: of each answer over HTTP.
        rejects: what it says that it rejects of each request: how many, and why.
        got: each request that was answered with 200: its signal and what was in it.
        asked: each request, also those that were not taken: its signal, and its headers in small letters.
    """

    url: str = ""
    answers: dict[str, list[int]] = field(default_factory=dict)
    for_ever: dict[str, int] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    rejects: tuple[int, str] = (0, "")
    got: list[tuple[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def take(self, signal: str, headers: Mapping[str, str], message: Any) -> int:
        """Keep a request. Returns the status to answer with."""
        self.asked.append((signal, dict(headers)))
        waiting = self.answers.get(signal, [])
        status = self.for_ever.get(signal) or (waiting.pop(0) if waiting else 200)
        if status == 200:
            self.got.append((signal, message))
        return status

    def response(self, signal: str) -> Any:
        """What is said when it is taken."""
        response = RESPONSES[signal]()
        partial = response.partial_success
        if self.rejects[0]:
            setattr(partial, "rejected_data_points" if signal == "metrics" else "rejected_log_records", self.rejects[0])
            partial.error_message = self.rejects[1]
        return response

    def count(self, signal: str) -> int:
        """How many requests of a signal came, whatever was answered."""
        return sum(name == signal for name, _ in list(self.asked))

    def metrics(self) -> dict[str, Any]:
        """The metrics of the last request that was taken, by name."""
        messages = [message for signal, message in list(self.got) if signal == "metrics"]
        scopes = [scope for resource in messages[-1].resource_metrics for scope in resource.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def value(self, name: str, **attributes: Any) -> float | None:
        """The last value of a series; None if there is none. Underscores in the names of attributes are dots."""
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}
        if not any(signal == "metrics" for signal, _ in list(self.got)) or name not in self.metrics():
            return None
        metric = self.metrics()[name]
        for point in getattr(metric, metric.WhichOneof("data")).data_points:
            if wanted.items() <= plain(point.attributes).items():
                return float(getattr(point, point.WhichOneof("value")))
        return None

    def records(self) -> list[Any]:
        """All log records, in the order in which they came."""
        return [
            record
            for signal, message in list(self.got)
            if signal == "logs"
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def resource(self, signal: str = "metrics") -> dict[str, Any]:
        """The attributes of who sent the last request of a signal."""
        message = [message for name, message in list(self.got) if name == signal][-1]
        (sent,) = message.resource_metrics if signal == "metrics" else message.resource_logs
        return plain(sent.resource.attributes)


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes as a dictionary."""

    def value_of(value: AnyValue) -> Any:
        kind = value.WhichOneof("value")
        if kind == "array_value":
            return [value_of(each) for each in value.array_value.values]
        return getattr(value, kind) if kind else None

    pairs: list[KeyValue] = list(attributes)
    return {pair.key: value_of(pair.value) for pair in pairs}


@contextmanager
def http_receiver(port: int = 0, context: Any = None) -> Iterator[Receiver]:
    """One that speaks HTTP; with the context of a certificate HTTPS."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            signal = self.path.rpartition("/")[2]
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            status = receiver.take(signal, headers, REQUESTS[signal].FromString(body)) if signal in REQUESTS else 404
            answer = receiver.response(signal).SerializeToString() if status == 200 else b""
            self.send_response(status)
            for name, value in {"Content-Type": "application/x-protobuf", **receiver.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False  # a client may keep its connection
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        receiver.url = f"http{'s' if context is not None else ''}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def grpc_receiver(port: int = 0) -> Iterator[Receiver]:
    """One that speaks gRPC."""
    receiver = Receiver()

    def export(signal: str, request: Any, context: grpc.ServicerContext) -> Any:
        headers: dict[str, str] = {}
        for name, value in context.invocation_metadata():
            headers[name] = f"{headers[name]}, {value!s}" if name in headers else str(value)
        status = receiver.take(signal, headers, request)
        if status != 200:
            context.set_trailing_metadata(tuple(receiver.headers.items()))
            context.abort(CODES[status], "as told")
        return receiver.response(signal)

    class Metrics(MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
            return export("metrics", request, context)

    class Logs(LogsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
            return export("logs", request, context)

    pool = ThreadPoolExecutor(1)
    pool.submit(int).result()  # its thread is there from the beginning, and so is not taken for one of the sink's
    server = grpc.server(pool)
    add_MetricsServiceServicer_to_server(Metrics(), server)  # type: ignore[no-untyped-call]
    add_LogsServiceServicer_to_server(Logs(), server)  # type: ignore[no-untyped-call]
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    receiver.url = f"http://127.0.0.1:{bound}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(0).wait(10)


RECEIVERS = {"http/protobuf": http_receiver, "grpc": grpc_receiver}
