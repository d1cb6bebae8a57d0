"""What mlxhub asks of every sink, asked of this one, with a real HTTP server to send to."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from mlxhub_webhook_sink import WebhookSink

from mlxhub_core.testing import SinkConformance


class Handler(BaseHTTPRequestHandler):
    """Takes everything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class TestWebhook(SinkConformance):
    sink_class = WebhookSink

    @pytest.fixture(autouse=True)
    def server(self) -> Iterator[None]:
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.options = {"url": f"http://127.0.0.1:{server.server_port}/hooks"}
            thread = threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True)
            thread.start()
            yield
            server.shutdown()
            thread.join()

    def options_for(self, host: str, port: int) -> Mapping[str, Any]:
        return {"url": f"http://{host}:{port}/hooks", "timeout": 0.2, "retries": 0}
