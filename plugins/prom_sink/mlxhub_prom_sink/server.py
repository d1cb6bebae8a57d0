"""A small HTTP and HTTPS server for a WSGI application. Knows nothing of Prometheus.

Not `prometheus_client.start_http_server`: there one silent client of an HTTPS port keeps all others out, as the handshake
is made by the thread that accepts. Here each connection has a thread and so many seconds, whatever it does.
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import sys
import threading
import time
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from .tls import TlsContext

CLIENT_TIMEOUT = 10.0
"""Seconds after which a connection is cut: as long as Prometheus waits for an answer by default (`scrape_timeout`)."""
MAX_CONNECTIONS = 100
"""Connections at one time; more are cut at once. A fleet of Prometheus servers needs a few."""
POLL = 0.1
"""Seconds until the server notices that it is to end, or that a client has had its time."""

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


def url_of(host: str, port: int, *, secure: bool) -> str:
    """Where the metrics are."""
    return f"{'https' if secure else 'http'}://{_joined(host, port)}/metrics"


class MetricsServer:
    """Answers on a port, from threads of its own, until it is closed.

    Args:
        host: the address to listen on, or a name of it.
        port: the port; 0 for any that is free.
        app: what answers.
        tls: for HTTPS; None: HTTP.

    Raises:
        OSError: it cannot listen there; the message says what to do.
    """

    def __init__(self, host: str, port: int, app: WSGIApplication, tls: TlsContext | None = None) -> None:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._http = _Http(family, address, tls)
        except (OSError, UnicodeError) as error:  # UnicodeError: no DNS name can look like this.
            raise OSError(f"listen: cannot listen on {_joined(host, port)}: {_why(error)}") from error
        self._secure = tls is not None
        self._http.set_app(app)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(POLL,), name="prom-http", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the metrics are, with the real port."""
        host, port = self._http.server_address[:2]
        return url_of(str(host), port, secure=self._secure)

    def close(self) -> None:
        """Stop listening, and cut the connections that there are. The port is free when this returns."""
        self._http.shutdown()
        self._http.server_close()
        self._http.cut_all()
        self._thread.join()


class _Http(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64
    # Else two hubs could share the port on newer Pythons, and each scrape would show either.
    allow_reuse_port = False

    def __init__(self, family: socket.AddressFamily, address: Any, tls: TlsContext | None) -> None:
        self.address_family = family
        self._tls = tls
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}
        super().__init__(address, _Request)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the DNS for a name that nobody needs, which can take seconds.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        with self._lock:
            return len(self._deadlines) < MAX_CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:
        # Counted here, by the thread that accepts, so that none slips in meanwhile.
        self._watch(request, time.monotonic() + CLIENT_TIMEOUT)
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """On the connection's own thread."""
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        with self._lock:
            deadline = self._deadlines.pop(request, 0.0)
        wrapped = self._tls.current().wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        self._watch(wrapped, deadline)
        try:
            wrapped.do_handshake()
            super().finish_request(wrapped, client_address)
        finally:
            self.shutdown_request(wrapped)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut those who have had their time; called by `serve_forever` every `POLL` seconds."""
        now = time.monotonic()
        self._cut(lambda deadline: deadline <= now)

    def cut_all(self) -> None:
        self._cut(lambda _deadline: True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that hangs up or says nothing is no error of ours; anything else is, and shows.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def _watch(self, request: socket.socket, deadline: float) -> None:
        with self._lock:
            self._deadlines[request] = deadline

    def _cut(self, is_due: Any) -> None:
        with self._lock:
            due = [request for request, deadline in self._deadlines.items() if is_due(deadline)]
        for request in due:
            # Its thread finds the end of what it reads, and lets go of it.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(request, socket.SHUT_RDWR)


class _Request(WSGIRequestHandler):
    server: _Http

    def handle(self) -> None:
        # As in the standard library, but for the handler of ours.
        self.raw_requestline = self.rfile.readline(65537)
        if len(self.raw_requestline) > 65536:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
        elif self.parse_request():
            handler = _Handler(self.rfile, self.wfile, self.get_stderr(), self.get_environ())  # type: ignore[arg-type]
            handler.request_handler = self  # type: ignore[attr-defined]
            handler.run(self.server.get_app())  # type: ignore[arg-type]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name it has in the standard library
        """No access log."""


class _Handler(ServerHandler):
    server_software = "mlxhub"

    def log_exception(self, exc_info: Any) -> None:
        # A client that does not read its answer is no error of ours either.
        if not isinstance(exc_info[1], OSError):
            super().log_exception(exc_info)


def _why(error: OSError | UnicodeError) -> str:
    if not isinstance(error, OSError):
        return f"{error}; check the name"
    return f"{error.strerror or error}; {_ADVICE.get(error.errno or 0, 'check the name')}"


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
