"""How bytes leave: over UDP, TCP, Unix streams and Unix datagrams, on the clients of the `statsd` package.

Those connect and close. What is sent through them is ours, as they would write ASCII only, swallow the errors of UDP, try
just the first address of a name, and go on in the middle of a line after an error.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Protocol

from statsd import StatsClient, TCPStatsClient, UnixSocketStatsClient  # type: ignore[import-untyped]  # it ships none

from .address import Address


class Link(Protocol):
    """A socket that is connected, or knows where to send."""

    def write(self, data: bytes) -> int:
        """Hand bytes to the system. Returns how many it took: of a stream some, of a datagram all. Raises OSError."""

    def is_over(self) -> bool:
        """Whether the other side has ended it, so that what is written now would be lost without a word."""

    def close(self) -> None:
        """Let go. What the system took is still sent."""


def connect(address: Address, timeout: float) -> Link:
    """Find a server and connect to it.

    Args:
        address: where it is. Its name is looked up now, each time.
        timeout: seconds that connecting, and later each write, may take.

    Raises:
        OSError: it cannot be found or reached.
    """
    match address.scheme:
        case "udp":
            # Nobody answers over UDP, so there is no trying: IPv4 where there is both, as servers listen there by default.
            family, host = min(_found(address, socket.SOCK_DGRAM), key=lambda found: found[0] != socket.AF_INET)
            return _Udp(host, address.port, timeout, family)
        case "tcp":
            return _tcp(address, timeout)
        case "unix":
            return _connected(_UnixStream(address.path, timeout=timeout))
        case "unixgram":
            return _connected(_UnixDatagrams(address.path, timeout=timeout))


def _tcp(address: Address, timeout: float) -> Link:
    """The first address of a name that answers."""
    error = OSError()
    for family, host in _found(address, socket.SOCK_STREAM):
        try:
            return _connected(_Tcp(host, address.port, timeout=timeout, ipv6=family == socket.AF_INET6))
        except OSError as refused:
            error = refused
    raise error


def _found(address: Address, kind: socket.SocketKind) -> Iterator[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=kind)
    except (OSError, UnicodeError) as error:  # UnicodeError: no DNS name can look like this, as with two dots in a row
        message = f"the host {address.host!r} cannot be found ({error}); check its spelling, or write its address"
        raise OSError(message) from None
    for family, _, _, _, place in found:
        yield family, str(place[0])


class _Udp(StatsClient):  # type: ignore[misc]
    def __init__(self, host: str, port: int, timeout: float, family: int) -> None:
        super().__init__(host, port, ipv6=family == socket.AF_INET6)
        self._sock.settimeout(timeout)

    def write(self, data: bytes) -> int:
        return int(self._sock.sendto(data, self._addr))

    def is_over(self) -> bool:
        return False


class _Stream:
    """What TCP and Unix streams have in common."""

    _sock: socket.socket

    def write(self, data: bytes) -> int:
        return self._sock.send(data)

    def is_over(self) -> bool:
        # A StatsD server never says anything: there is either nothing to read, or the end.
        timeout = self._sock.gettimeout()
        try:
            self._sock.setblocking(False)
            return not self._sock.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._sock.settimeout(timeout)


class _Tcp(_Stream, TCPStatsClient):  # type: ignore[misc]
    def connect(self) -> None:
        super().connect()
        # A port of the range for clients on which nobody listens can be given to this very socket, which then talks to
        # itself and keeps the server from its port.
        if self._sock.getsockname() == self._sock.getpeername():
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


class _UnixStream(_Stream, UnixSocketStatsClient):  # type: ignore[misc]
    pass


class _UnixDatagrams(_Stream, UnixSocketStatsClient):  # type: ignore[misc]
    """The package has streams only."""

    def connect(self) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.settimeout(self._timeout)
        self._sock.connect(self._socket_path)

    def is_over(self) -> bool:
        return False


def _connected(client: _Tcp | _UnixStream | _UnixDatagrams) -> Link:
    try:
        client.connect()
    except BaseException:
        client.close()  # the package forgets the socket that it has made
        raise
    return client
