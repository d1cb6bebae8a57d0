"""Lines of JSON between the hub and one keeper; and the way to a keeper that a former hub has left."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlxhub_core.keepers.remains import POLL, keeper_of, lock_of
from mlxhub_core.place import is_held

PATIENCE = 10.0
"""Seconds that a keeper has to answer when it is started or met again: it does so in a few thousandths."""


class Connection:
    """Lines of JSON to and from one keeper."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._inbox = b""
        peer.settimeout(PATIENCE)

    def order(self, text: bytes) -> dict[str, Any]:
        """Order a process from a keeper that has none yet. Returns its state.

        Raises:
            EOFError, ValueError: as `receive` does.
            OSError: it does not answer, or the process cannot be started.
        """
        self._peer.sendall(text + b"\n")
        answer = self.receive()
        if failed := answer.get("failed"):
            raise OSError(failed["errno"], failed["strerror"], failed["filename"])
        state: dict[str, Any] = answer["state"]
        return state

    def say(self, line: bytes) -> None:
        """Say something, and wait for nothing.

        Raises:
            BlockingIOError: it has not listened for so long that nothing more can be said to it now.
            OSError: it is gone.
        """
        text = line + b"\n"
        if self._peer.send(text, socket.MSG_DONTWAIT) < len(text):
            self.hang_up()
            raise ConnectionAbortedError(errno.ECONNABORTED, "it was said but in part")

    def receive(self) -> dict[str, Any]:
        """What it says next; within `PATIENCE`, unless `listen` was called.

        Raises:
            EOFError: nothing, for it has hung up.
            OSError: it does not answer.
            ValueError: no keeper of ours says this.
        """
        while b"\n" not in self._inbox:
            said = self._peer.recv(65536)
            if not said:
                raise EOFError("it has hung up")
            self._inbox += said
        line, _, self._inbox = self._inbox.partition(b"\n")
        news = json.loads(line)
        if not isinstance(news, dict):
            raise ValueError("no keeper of ours says this")  # noqa: TRY004  # as json does
        return news

    def listen(self) -> Iterator[dict[str, Any]]:
        """All that it says, until it hangs up."""
        self._peer.settimeout(None)
        with contextlib.suppress(OSError, EOFError, ValueError):
            while True:
                yield self.receive()

    def hang_up(self) -> None:
        """End the connection, also under somebody who listens to it."""
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free what it took."""
        self._peer.close()


def meet(place: Path) -> tuple[Connection, dict[str, Any]] | None:
    """Connect to a keeper that a former hub has left. None: it has ended.

    Raises:
        OSError, EOFError, ValueError: it lives and cannot be spoken to.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        # The socket before the lock: somebody may have removed either.
        try:
            return _greeted(place)
        except (FileNotFoundError, ConnectionError, EOFError):
            if not is_held(lock_of(place)):
                return None
            if time.monotonic() > deadline:
                raise
            with contextlib.suppress(ProcessLookupError):  # It has just ended.
                os.kill(keeper_of(place), signal.SIGUSR1)  # Have it make another socket.
            time.sleep(POLL)


def _greeted(place: Path) -> tuple[Connection, dict[str, Any]]:
    """A connection to the keeper that is there, and its state. Raises OSError, EOFError, ValueError."""
    connection = _connect(place)
    try:
        state = connection.receive().get("state")
        if not isinstance(state, dict):
            raise ValueError("no keeper of ours says this")  # noqa: TRY004  # as json does
    except BaseException:
        connection.close()
        raise
    return connection, state


def _connect(place: Path) -> Connection:
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.settimeout(PATIENCE)
        peer.connect(f"{place}.sock")
    except OSError:
        peer.close()
        raise
    return Connection(peer)
