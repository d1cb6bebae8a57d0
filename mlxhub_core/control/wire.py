"""As much of HTTP as a command needs to ask a hub: HTTP/1.0 over a Unix socket, one question for each connection.

Not `http.client`, which imports TLS and the rules of e-mail: a fifth of the time that `mlxhub status` may take. Each
wait for the hub is one that Ctrl-C ends.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from mlxhub_core.waits import until_readable

LONGEST_HEAD = 64 * 1024
"""Bytes of an answer in which its head must end."""
_CHUNK = 64 * 1024


class WireError(Exception):
    """What answers is no hub of ours."""


class WireEndError(Exception):
    """It hung up before its answer was complete."""


class Connection:
    """One question, and its answer. Close it, or use it in a `with`.

    Args:
        path: of the socket.
        timeout: seconds for which the hub may be silent; None: for ever. May be changed at any time.

    Raises:
        OSError: nobody listens there, or it is not allowed to ask.
    """

    def __init__(self, path: Path, timeout: float | None) -> None:
        self.timeout = timeout
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(path))
        except BaseException:
            self._socket.close()
            raise
        self._buffer = bytearray()
        self._length: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. From any thread: whoever waits for the answer there is told that there is no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> int:
        """Ask, and return the status of the answer.

        Raises:
            TimeoutError: the hub is silent for longer than `timeout`.
            WireError, WireEndError: see there.
        """
        head = {"Host": "mlxhub"} | dict(headers or {})
        lines = [f"{method} {path} HTTP/1.0", *(f"{key}: {value}" for key, value in head.items()), "", ""]
        self._socket.sendall("\r\n".join(lines).encode("ascii"))
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > LONGEST_HEAD:
                raise WireError("its answer is no HTTP")
            if not self._receive():
                raise WireEndError if b"HTTP/".startswith(self._buffer[:5]) else WireError("its answer is no HTTP")
        status, *fields = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        named = dict(field.lower().split(": ", 1) for field in fields if ": " in field)
        try:
            self._length = int(named["content-length"]) if "content-length" in named else None
            return int(status.split(" ")[1])
        except (LookupError, ValueError):
            raise WireError("its answer is no HTTP") from None

    def body(self) -> bytes:
        """The rest of the answer. Raises as `ask` does."""
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """The rest of the answer, as it comes. Raises as `ask` does."""
        received = 0
        while self._buffer or self._receive():
            received += len(self._buffer)
            yield self.take()
        if self._length is not None and received < self._length:
            raise WireEndError

    def take(self) -> bytes:
        """What has come of the answer and was not taken yet, without waiting."""
        taken, self._buffer = bytes(self._buffer), bytearray()
        return taken

    def wait(self, timeout: float | None) -> bool:
        """Wait until more of the answer has come; False: it has not in so many seconds, or there was a signal.

        Raises:
            EOFError: there is no more.
        """
        try:
            if not until_readable(self._socket.fileno(), timeout=timeout):
                return False
            data = self._socket.recv(_CHUNK)
        except (OSError, ValueError):  # it was killed; or another thread has hung up, and closed the socket
            data = b""
        if not data:
            raise EOFError
        self._buffer += data
        return True

    def _receive(self) -> bool:
        """Wait for more; False: there is no more."""
        end = None if self.timeout is None else time.monotonic() + self.timeout
        try:
            while not self.wait(None if end is None else max(0.0, end - time.monotonic())):
                if end is not None and time.monotonic() >= end:
                    raise TimeoutError(f"silent for {self.timeout:g} s")
        except EOFError:
            return False
        return True
