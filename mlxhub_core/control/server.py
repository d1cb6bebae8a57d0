"""All that a hub can be asked through: its Unix socket, and what hub.yaml says under `control:`."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from starlette.applications import Starlette

from mlxhub_core.control.answering import answering
from mlxhub_core.control.app import Hub, make_app
from mlxhub_core.control.door import Door
from mlxhub_core.control.history import History
from mlxhub_core.errors import HubError
from mlxhub_core.place import Place


class ControlServer:
    """Answers what commands ask a hub, on a Unix socket that only its owner can reach; and over TCP, as hub.yaml says.

    What that says is heeded from the next reload on: so start it before the first.

    Args:
        hub: is asked.
        place: where the socket is.
        stop: see `app.make_app`.
        log: the file that the hub itself logs to, if it does.
    """

    def __init__(self, hub: Hub, place: Place, stop: Callable[[bool], object], log: Path | None = None) -> None:
        self._hub = hub
        self._stop = stop
        self._log = log
        self._place = place
        self._held = ExitStack()

    def start(self) -> None:
        """Open the socket; returns when it accepts.

        The hub must hold its place.

        Raises:
            HubError: there can be no socket.
        """
        with ExitStack() as stack:
            history = stack.enter_context(_heard(self._hub))

            def app() -> Starlette:
                return make_app(self._hub, self._stop, history, self._log)

            listener = stack.enter_context(_listening(self._place.socket))
            stack.enter_context(answering(app(), listener, "control"))
            door = Door(app)
            stack.callback(door.close)
            self._hub.heed_settings(door.change)
            stack.callback(self._hub.heed_settings, None)
            stack.callback(history.close)
            self._held = stack.pop_all()

    def close(self) -> None:
        """Answer no more, and remove the socket. Does nothing if it is not open."""
        self._held.close()


@contextmanager
def _heard(hub: Hub) -> Iterator[History]:
    """A history that hears of all that happens in the hub."""
    history = History(hub.info())
    hub.register(history)
    try:
        yield history
    finally:
        hub.unregister(history)


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """A socket at `path`, in place of what a dead hub has left there."""
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            path.unlink(missing_ok=True)
            _bind(listener, path)
            ours = _identity(path)
        except OSError as error:
            raise HubError(f"no socket can be made at {path} ({error.strerror or error})") from None
        try:
            yield listener
        finally:
            # By now the hub has let go of its place: the next one may have put its own socket there.
            with contextlib.suppress(OSError):
                if _identity(path) == ours:
                    path.unlink()


def _identity(path: Path) -> tuple[int, int, int]:
    """What tells a file from another of the same name; the number alone may be given again at once."""
    found = path.lstat()
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _bind(listener: socket.socket, path: Path) -> None:
    # Not chmod afterwards: uvicorn would do that, and to 0666.
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(umask)
