"""The state file of a run: always whole, whenever somebody reads it.

After a power failure it may be empty. That matters little: of the process that it is about nothing is left either.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any


class StateFile:
    """A file of JSON. Each version is written beside it and then takes its place.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._next = -1

    def prepare(self) -> None:
        """Make the next version's file, so that writing it, which somebody may wait for, does not take that long."""
        if self._next < 0:
            with contextlib.suppress(OSError):
                self._next = os.open(f"{self._path}.part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def write(self, state: dict[str, Any]) -> None:
        """Replace what it says. Whatever the disk has against that, the model comes first: it never raises."""
        self.prepare()
        if self._next < 0:
            return
        with contextlib.suppress(OSError):
            text = json.dumps(state).encode()
            if os.write(self._next, text) == len(text):
                os.replace(f"{self._path}.part", self._path)
        os.close(self._next)
        self._next = -1
