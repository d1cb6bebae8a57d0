"""How a command asks the hub of a hub.yaml. The standard library alone: commands start quickly."""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from mlxhub_core.control import INVALID_CONFIG
from mlxhub_core.errors import EXIT_USAGE, HubError, HubNotRunningError
from mlxhub_core.place import check_private, place_of

TIMEOUT = 5.0
"""Seconds without a word after which a hub is taken to hang: it answers from snapshots, at once."""


class ControlClient:
    """Asks the hub that runs for a hub.yaml.

    Args:
        config_path: that hub.yaml.
    """

    def __init__(self, config_path: Path | str) -> None:
        self._place = place_of(config_path)

    def get(self, path: str) -> dict[str, Any]:
        """What the hub answers to ``GET path``.

        Raises:
            HubNotRunningError: no hub runs for this hub.yaml.
            HubError: the hub refuses, does not answer within `TIMEOUT`, or its socket is not to be trusted.
        """
        return self._ask("GET", path)

    def post(self, path: str, *, patient: bool = False) -> dict[str, Any]:
        """What the hub answers to ``POST path``. Raises as `get` does.

        Args:
            path: what is asked for.
            patient: wait for as long as it takes.
        """
        return self._ask("POST", path, None if patient else TIMEOUT)

    def wait_for_its_end(self) -> None:
        """Wait until no hub runs for this hub.yaml: until nobody holds its lock."""
        with contextlib.suppress(FileNotFoundError), self._place.lock.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)

    def _ask(self, method: str, path: str, timeout: float | None = TIMEOUT) -> dict[str, Any]:
        config = self._place.config
        try:
            check_private(self._place.directory)
            status, body = self._exchange(method, path, timeout)
        except (FileNotFoundError, ConnectionRefusedError):
            raise self._not_running() from None
        except TimeoutError:
            raise HubError(f"the hub for {config} has not answered for {TIMEOUT:g} s; look at its log") from None
        except (OSError, HTTPException) as error:
            raise HubError(f"the hub for {config} cannot be asked ({type(error).__name__}: {error})") from None
        return _content(status, body)

    def _exchange(self, method: str, path: str, timeout: float | None) -> tuple[int, bytes]:
        with closing(_Connection(self._place.socket, timeout)) as connection:
            connection.request(method, path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read()

    def _not_running(self) -> HubNotRunningError:
        config = self._place.config
        if not config.exists():
            return HubNotRunningError(f"no hub runs for {config}, which does not exist; name another with --config")
        return HubNotRunningError(f"no hub runs for {config}; start one with `mlxhub start`")


class _Connection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("mlxhub", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _content(status: int, body: bytes) -> dict[str, Any]:
    """The body of an answer. Raises HubError for one that is an error, or that no hub of ours gives."""
    try:
        content = json.loads(body)
        if status < 400 and isinstance(content, dict):
            return content
        error = HubError(str(content["error"]["message"]))
        if content["error"].get("code") == INVALID_CONFIG:
            error.exit_code = EXIT_USAGE
    except (ValueError, LookupError, TypeError):
        error = HubError(f"the hub's answer (status {status}) is none that mlxhub knows; restart the hub")
    raise error
