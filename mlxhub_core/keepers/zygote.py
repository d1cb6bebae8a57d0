"""The process that keepers are forked from, as the hub has it: the only starter of models' processes."""

from __future__ import annotations

import socket
import subprocess
import sys

from mlxhub_core.keeper import __main__ as program


class Zygote:
    """The process that keepers are forked from. Started when it is first needed, and again when it has ended.

    One keeper waits for its order while nothing is started: a crash is followed by a start, which then needs no fork.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None
        self._spare: socket.socket | None = None

    def prepare(self) -> None:
        """Have it run and a keeper wait, and do not wait until they do. Raises OSError."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        if self._spare is None:
            self._spare = self._forked()

    def keeper(self) -> socket.socket:
        """The connection to a keeper that has no order yet. Raises OSError."""
        self.prepare()
        assert self._spare is not None
        spare, self._spare = self._spare, None
        return spare

    def close(self) -> None:
        """Have it end, and the keeper that waits; they have nothing to finish."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            argv = [sys.executable, "-I", "-S", program.__file__, "zygote", self._label]
            try:
                self._process = subprocess.Popen(argv, stdin=theirs.fileno(), start_new_session=True)
            except OSError:
                ours.close()
                raise
        self._orders = ours

    def _forked(self) -> socket.socket:
        assert self._orders is not None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._orders, [b"k"], [theirs.fileno()])
            except OSError:
                ours.close()
                self.close()
                raise
        return ours
