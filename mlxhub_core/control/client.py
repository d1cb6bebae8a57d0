"""How a command asks the hub of a hub.yaml. The standard library alone: commands start quickly."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from mlxhub_core.control import INVALID_CONFIG
from mlxhub_core.control.wire import Connection, WireEndError, WireError
from mlxhub_core.errors import EXIT_USAGE, HubError, HubNotRunningError
from mlxhub_core.place import check_private, holder_of, is_held, place_of, same_hub
from mlxhub_core.waits import until_done, until_readable

MOMENT = 2.0
"""Seconds that a hub may take from its lock to its socket: its imports lie between them."""
POLL = 0.02
"""Seconds between looks for the socket: nothing tells."""
TIMEOUT = 5.0
"""Seconds without a word after which a hub is taken to hang: it answers from snapshots, at once."""


class ControlClient:
    """Asks the hub that runs for a hub.yaml.

    Args:
        config_path: that hub.yaml.
    """

    def __init__(self, config_path: Path | str) -> None:
        self._asked = config_path
        self._place = place_of(config_path)

    @property
    def socket(self) -> Path:
        """Where the hub is asked, whether it runs or not."""
        return self._place.socket

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
                connection = stack.enter_context(self._connected(TIMEOUT))
                status = connection.ask("GET", f"/hub/events?{urlencode(query)}", headers)
                error = connection.body() if status != 200 else None
            if error is not None:
                _content(status, error)
            stack.pop_all()
        return EventStream(connection, self._place.config)

    def wait_for_its_end(self) -> None:
        """Wait until no hub runs for this hub.yaml: until nobody holds its lock."""
        until_done(self._share_its_lock)

    def _share_its_lock(self) -> None:
        with contextlib.suppress(FileNotFoundError), self._place.lock.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)

    def _ask(self, method: str, path: str, timeout: float | None = TIMEOUT) -> dict[str, Any]:
        with self._plainly(), self._connected(timeout) as connection:
            status, body = connection.ask(method, path), connection.body()
        return _content(status, body)

    def _connected(self, timeout: float | None) -> Connection:
        """A connection. A hub that has just begun, and does not listen yet, is given a moment."""
        until = time.monotonic() + MOMENT
        while True:
            try:
                return Connection(self._place.socket, timeout)
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > until or not is_held(self._place.lock):
                    raise
            until_readable(timeout=POLL)

    @contextlib.contextmanager
    def _plainly(self) -> Iterator[None]:
        """Ask the hub; what goes wrong with that, in words."""
        config = self._place.config
        try:
            check_private(self._place.directory)
            yield
        except (FileNotFoundError, ConnectionRefusedError):
            raise self._silent() from None
        except TimeoutError:
            raise HubError(f"the hub for {config} has not answered for {TIMEOUT:g} s; look at its log") from None
        except (WireEndError, BrokenPipeError, ConnectionResetError):
            raise HubNotRunningError(f"the hub for {config} has ended, with its answer not given in full") from None
        except OSError as error:
            raise HubError(f"the hub for {config} cannot be asked ({type(error).__name__}: {error})") from None
        except WireError as error:
            raise HubError(f"the hub for {config} cannot be asked: {error}") from None

    def _silent(self) -> HubError:
        config = self._place.config
        if (pid := holder_of(self._place.lock)) is not None:
            return HubError(
                f"the hub for {config} (pid {pid}) runs, but nobody listens on {self._place.socket};"
                " SIGTERM to it ends it, and its models"
            )
        if not config.exists():
            return HubNotRunningError(
                f"no hub runs for {config}, which does not exist; `mlxhub init` writes one, --config names another"
            )
        return HubNotRunningError(f"no hub runs for {config}; start one with `mlxhub start{same_hub(self._asked)}`")


class EventStream:
    """Events as they come, each as a dict; it ends with the hub. Close it, or use it in a `with`.

    Args:
        connection: on which they come.
        config: the hub.yaml of the hub.
    """

    def __init__(self, connection: Connection, config: Path) -> None:
        self._connection = connection
        self._config = config
        self._rest = connection.take()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The events, one by one. A hub that was killed ends them like one that has ended."""
        with contextlib.suppress(HubNotRunningError):
            while True:
                yield from self.wait()

    def wait(self, timeout: float | None = None) -> list[dict[str, Any]]:
        """Wait for the next events. Returns those that have come; none after `timeout` seconds or a signal.

        Raises:
            HubNotRunningError: the hub has ended.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            # A line that has not come in full is left for the next time.
            lines, _, self._rest = self._rest.rpartition(b"\n")
            fields = (line.partition(b": ") for line in lines.split(b"\n"))
            if events := [json.loads(value) for field, _, value in fields if field == b"data"]:
                return events
            try:
                if not self._connection.wait(None if end is None else max(0.0, end - time.monotonic())):
                    return []
            except EOFError:
                raise HubNotRunningError(f"the hub for {self._config} has ended") from None
            self._rest += self._connection.take()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. From any thread: whoever waits for an event there is told that there are no more."""
        self._connection.close()


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
