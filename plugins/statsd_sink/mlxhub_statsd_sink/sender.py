"""From lines to a server that may be slow, away, or come back elsewhere.

It does one thing at a time and tries everything once: whoever uses it tries again, and decides how often. What could not
be sent stays with the caller.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from .address import Address
from .links import Link, connect
from .packets import packed

LOOK_UP_AGAIN = 60.0
"""Seconds after which the name of a UDP server is looked up again: it may have moved, and nothing else would tell."""


class Sender:
    """Sends lines, over a connection that it makes when it needs one.

    Args:
        address: where to send.
        max_packet: bytes in a packet.
        timeout: seconds that connecting, and each packet, may take.
        trace: called with each line that the system took.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        address: Address,
        max_packet: int,
        timeout: float,
        trace: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._max_packet = max_packet
        self._timeout = timeout
        self._trace = trace
        self._clock = clock
        self._link: Link | None = None
        self._connected_at = 0.0

    def connect(self) -> Link:
        """The connection, a new one if there is none or it is over. Raises OSError, which names the address."""
        if self._link is not None and self._address.is_stream and self._link.is_over():
            self.close()
        age = self._clock() - self._connected_at
        if self._link is not None and (self._address.scheme != "udp" or age < LOOK_UP_AGAIN):
            return self._link
        self._connected_at = self._clock()
        try:
            link = connect(self._address, self._timeout)
        except OSError as error:
            if self._link is not None:
                return self._link  # the name is not known just now: where it was last is the best there is
            raise _about(self._address, error) from error
        self.close()
        self._link = link
        return link

    def send(self, lines: deque[str]) -> None:
        """Send lines, and take from the deque those that the system took.

        Of a stream that broke the system may have taken half a line: that one stays, and goes whole over a new
        connection, as half a line and another after it would be a third that nobody meant.

        Raises:
            OSError: not all could be sent.
        """
        for packet in list(packed(lines, self._max_packet)):
            link = self.connect()
            ends = b"\n" if self._address.is_stream else b""
            data = b"\n".join(packet) + ends
            taken = 0
            try:
                while taken < len(data):
                    taken += link.write(data[taken:])
            except OSError as error:
                self.close()
                raise _about(self._address, error) from error
            finally:
                whole = len(packet) if taken == len(data) else data[:taken].count(b"\n")
                self._forget(lines, whole)

    def close(self) -> None:
        """Let the connection go."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _forget(self, lines: deque[str], count: int) -> None:
        for _ in range(count):
            line = lines.popleft()
            if self._trace is not None:
                self._trace(line)


def _about(address: Address, error: OSError) -> OSError:
    return OSError(f"{address}: {error.strerror or error}")
