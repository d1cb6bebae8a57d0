"""A small HTTP server for one page. Knows nothing of Prometheus: the page is any WSGI application.

Not `prometheus_client.start_http_server`: that one shows the metrics under every path.
"""

from __future__ import annotations

import errno
import re
import socket
import sys
import threading
from collections.abc import Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

CLIENT_TIMEOUT = 10.0
"""Seconds of silence after which a client is hung up on: as long as Prometheus waits for an answer by default."""
POLL = 0.1
"""Seconds until the server notices that it is to end."""

_LISTEN = re.compile(r"(?P<host>[^:\[\]]+|\[[^\[\]]+\]):(?P<port>[0-9]{1,5})")
_ADVICE = {
    errno.EADDRINUSE: "stop the other program, or choose another port (0: any that is free)",
    errno.EADDRNOTAVAIL: "write an address of this machine, as 127.0.0.1",
    errno.EACCES: "choose a port above 1023",
}


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 address stands in brackets. Raises ValueError."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f"listen must be host:port, as 127.0.0.1:9464 or [::1]:9464, not {text!r}")
    return match["host"].strip("[]"), int(match["port"])


class MetricsServer:
    """Answers on a port, from threads of its own, until it is closed.

    Args:
        host: the address to listen on, or a name of it.
        port: the port; 0 for any that is free.
        metrics: answers for /metrics.

    Raises:
        OSError: it cannot listen there; the message says what to do.
    """

    def __init__(self, host: str, port: int, metrics: WSGIApplication) -> None:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._http = _Http(family, address)
        except (OSError, UnicodeError) as error:  # UnicodeError: no DNS name can look like this.
            raise OSError(f"listen: cannot listen on {_joined(host, port)}: {_why(error)}") from error
        self._http.set_app(_pages(metrics))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(POLL,), name="prom-http", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the metrics are, with the real port."""
        host, port = self._http.server_address[:2]
        return f"http://{_joined(str(host), port)}/metrics"

    def close(self) -> None:
        """Stop listening. The port is free when this returns."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Http(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    # Else two hubs could share the port on newer Pythons, and each scrape would show either.
    allow_reuse_port = False

    def __init__(self, family: socket.AddressFamily, address: Any) -> None:
        self.address_family = family
        super().__init__(address, _Request)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the DNS for a name that nobody needs, which can take seconds.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that hangs up or says nothing is no error of ours; anything else is, and shows.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Request(WSGIRequestHandler):
    timeout = CLIENT_TIMEOUT

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name it has in the standard library
        """No access log."""


def _pages(metrics: WSGIApplication) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start_response)
            case "/":
                status, text = "200 OK", b"mlxhub: the metrics are at /metrics\n"
            case _:
                status, text = "404 Not Found", b"only /metrics is here\n"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))])
        return [text]

    return app


def _why(error: OSError | UnicodeError) -> str:
    if not isinstance(error, OSError):
        return f"{error}; check the name"
    return f"{error.strerror or error}; {_ADVICE.get(error.errno or 0, 'check the name')}"


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
