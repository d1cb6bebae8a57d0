"""Where a StatsD server is, from the text in hub.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8125

_NETWORK = re.compile(
    r"(?P<scheme>udp|tcp)://(?:\[(?P<ipv6>[^\]/\s]+)\]|(?P<host>[^:/\[\]\s]+))(?::(?P<port>[0-9]{1,5}))?/?"
)
_UNIX = re.compile(r"(?P<scheme>unix|unixgram)://(?P<path>[/~].*)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to send.

    Attributes:
        scheme: ``unix`` is a stream, ``unixgram`` datagrams.
        host: a name or an address, of ``udp`` and ``tcp``.
        port: its port.
        path: of the socket, of ``unix`` and ``unixgram``.
    """

    scheme: Literal["udp", "tcp", "unix", "unixgram"]
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_stream(self) -> bool:
        """Whether lines go one after the other, and not in packets."""
        return self.scheme in ("tcp", "unix")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{self.path or f'{host}:{self.port}'}"


def parse_address(text: str) -> Address:
    """The address that a text means. The port may be left out: `DEFAULT_PORT`.

    Raises:
        ValueError: it is none.
    """
    if match := _NETWORK.fullmatch(text):
        port = int(match["port"] or DEFAULT_PORT)
        if 1 <= port <= 65535:
            return Address(match["scheme"], match["ipv6"] or match["host"], port)  # type: ignore[arg-type]
        raise ValueError(f"address: the port must be from 1 to 65535, not {port}")
    if match := _UNIX.fullmatch(text):
        return Address(match["scheme"], path=str(Path(match["path"]).expanduser()))  # type: ignore[arg-type]
    raise ValueError(
        f"address: {text!r} must be like udp://127.0.0.1:8125, tcp://stats.internal:8125, udp://[::1]:8125,"
        " unix:///run/statsd.sock or unixgram:///run/datadog/dsd.socket"
    )
