"""Addresses and ports of this machine."""

from __future__ import annotations

import socket

from mlxhub_core.errors import HubError

CONNECT_TIMEOUT = 0.5
"""Seconds to wait for a stranger to accept a connection on a port that could be bound."""

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # what to connect to for them


def reachable(host: str) -> str:
    """The address to connect to for a server that listens on `host`."""
    return _ANY.get(host, host)


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now.

    Raises:
        HubError: the host name is unknown.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise HubError(f"host: {host!r} cannot be resolved ({error.strerror}); write 127.0.0.1") from None
    with socket.socket(family, kind) as probe:
        # As the servers do: without it, the remains of their last connections would count as somebody listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError:
            return False
    # With SO_REUSEADDR macOS lets us bind one address under a stranger who listens on all of them: so knock as well.
    try:
        socket.create_connection((reachable(host), port), timeout=CONNECT_TIMEOUT).close()
    except OSError:
        return True
    return False
