"""What tests of agents on Unix sockets share."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

Fill = Callable[[str], int]


@pytest.fixture
def fill() -> Iterator[Fill]:
    """Sends to an agent that reads nothing until it can take no more; returns how many packets that were.

    How many differs: the queue of a datagram socket holds 11 on a bare Linux and 512 where systemd runs, and what one
    sender may have on its way ends earlier than that.
    """
    with ExitStack() as open_sockets:

        def send_all(path: str) -> int:
            total = 0
            while True:
                one = open_sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                one.setblocking(False)
                sent = 0
                try:
                    while True:
                        one.sendto(b"filler", path)
                        sent += 1
                except OSError:
                    total += sent
                if not sent:
                    return total

        yield send_all
