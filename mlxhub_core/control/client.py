"""How a command asks the hub of a hub.yaml. The standard library alone: commands start quickly."""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

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

    def events(
        self, *, since: float | None = None, models: Iterable[str] = (), follow: bool = True, last_id: str | None = None
    ) -> EventStream:
        """What has happened in the hub, and what happens. Raises as `get` does.

        Args:
            since: only what happened then or later, in seconds since the epoch.
            models: only what is about one of these; none: everything.
            follow: go on until the hub ends.
            last_id: the id of the last event that is known: only what came after it.
        """
        query = [("model", name) for name in models]
        query += [] if since is None else [("since", repr(since))]
        query += [] if follow else [("follow", "false")]
        headers = {"Accept": "text/event-stream"} | ({} if last_id is None else {"Last-Event-ID": last_id})
        with ExitStack() as stack:
            with self._plainly():
                connection = stack.enter_context(closing(_Connection(self._place.socket, TIMEOUT)))
                response = _answer(connection, "GET", f"/hub/events?{urlencode(query)}", headers)
                error = response.read() if response.status != 200 else None
            if error is not None:
                _content(response.status, error)
            stream = EventStream(connection, response)
            stack.pop_all()
        return stream

    def wait_for_its_end(self) -> None:
        """Wait until no hub runs for this hub.yaml: until nobody holds its lock."""
        with contextlib.suppress(FileNotFoundError), self._place.lock.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)

    def _ask(self, method: str, path: str, timeout: float | None = TIMEOUT) -> dict[str, Any]:
        with self._plainly():
            status, body = self._exchange(method, path, timeout)
        return _content(status, body)

    def _exchange(self, method: str, path: str, timeout: float | None) -> tuple[int, bytes]:
        with closing(_Connection(self._place.socket, timeout)) as connection:
            response = _answer(connection, method, path, {"Connection": "close"})
            return response.status, response.read()

    @contextlib.contextmanager
    def _plainly(self) -> Iterator[None]:
        """Ask the hub; what goes wrong with that, in words."""
        config = self._place.config
        try:
            check_private(self._place.directory)
            yield
        except (FileNotFoundError, ConnectionRefusedError):
            raise self._not_running() from None
        except TimeoutError:
            raise HubError(f"the hub for {config} has not answered for {TIMEOUT:g} s; look at its log") from None
        except (OSError, HTTPException) as error:
            raise HubError(f"the hub for {config} cannot be asked ({type(error).__name__}: {error})") from None

    def _not_running(self) -> HubNotRunningError:
        config = self._place.config
        if not config.exists():
            return HubNotRunningError(f"no hub runs for {config}, which does not exist; name another with --config")
        return HubNotRunningError(f"no hub runs for {config}; start one with `mlxhub start`")


class EventStream:
    """Events as they come, each as a dict; it ends with the hub. Close it, or use it in a `with`.

    Args:
        connection: to the hub.
        response: whose body has the events.
    """

    def __init__(self, connection: HTTPConnection, response: HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self._socket = connection.sock
        # From now on silence only says that nothing happens.
        self._socket.settimeout(None)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The events. A hub that was killed ends them like one that has ended."""
        with contextlib.suppress(OSError, HTTPException, ValueError):
            for line in self._response:
                field, _, value = line.partition(b": ")
                if field == b"data":
                    yield json.loads(value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. From any thread: whoever waits for an event there is told that there are no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._connection.close()


class _Connection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("mlxhub", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _answer(connection: HTTPConnection, method: str, path: str, headers: Mapping[str, str]) -> HTTPResponse:
    connection.request(method, path, headers=dict(headers))
    return connection.getresponse()


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
