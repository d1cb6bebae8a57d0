"""Addresses and ports of this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import psutil

from mlxhub_core.errors import HubError

CONNECT_TIMEOUT = 0.5
"""Seconds to wait for a stranger to accept a connection on a port that could be bound."""

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # what to connect to for them
_ABORT = struct.pack("ii", 1, 0)


def reachable(host: str) -> str:
    """The address to connect to for a server that listens on `host`."""
    return _ANY.get(host, host)


def refuse_itself(connection: socket.socket) -> None:
    """Raise ConnectionRefusedError if a connection has met itself, as one can on an ephemeral port.

    It is then aborted when it is closed, as what else would remain of it keeps a server from that port for a minute.
    """
    if connection.getsockname() == connection.getpeername():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        raise ConnectionRefusedError("nobody listens there; the connection met itself")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now.

    Raises:
        HubError: none ever could, as the host is unknown or another machine, or the port is for administrators.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a host name"
        raise HubError(f"host: {host!r} cannot be resolved ({why}); write 127.0.0.1") from None
    try:
        _bind(family, kind, address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        if error.errno == errno.EACCES:
            raise HubError(f"port {port} is for administrators only; take one from 1024 on") from None
        raise HubError(f"host: cannot listen on {host!r} ({error.strerror}); write 127.0.0.1") from None
    # With SO_REUSEADDR macOS lets us bind one address under a stranger who listens on all of them: so knock as well.
    try:
        with socket.create_connection((reachable(host), port), timeout=CONNECT_TIMEOUT) as connection:
            refuse_itself(connection)
    except OSError:
        return True
    return False


def _bind(family: int, kind: int, address: Any) -> None:
    with socket.socket(family, kind) as probe:
        # As the servers do: without it, the remains of their last connections would count as somebody listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def listens(pid: int, port: int) -> bool:
    """Whether a process or one of its children listens on a port; True where the system does not let us look."""
    try:
        leader = psutil.Process(pid)
        # Whom else it has started is looked up only when it matters: that means a look at every process there is.
        return _has_listener(leader, port) or any(_has_listener(process, port) for process in _started_by(leader))
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False


def _started_by(leader: psutil.Process) -> Iterator[psutil.Process]:
    """Its descendants, and those of its session whose parents are gone."""
    yield from leader.children(recursive=True)
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if process.pid != leader.pid and os.getsid(process.pid) == leader.pid:
                yield process


def _has_listener(process: psutil.Process, port: int) -> bool:
    try:
        sockets = process.net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return False
    return any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets)
