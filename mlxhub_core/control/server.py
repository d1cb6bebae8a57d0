"""The control socket while a hub runs: the socket itself, and the thread that answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path

from starlette.applications import Starlette
from uvicorn import Config, Server

from mlxhub_core.control.app import Hub, make_app
from mlxhub_core.control.history import History
from mlxhub_core.errors import HubError
from mlxhub_core.place import Place

START_SECONDS = 10.0
"""Seconds in which the thread must accept."""
GRACE_SECONDS = 1
"""Seconds that those who are being answered get at the end; uvicorn takes whole ones."""
CLOSE_SECONDS = 5.0
"""Seconds after which `close` leaves the thread behind, whatever holds it up."""


class ControlServer:
    """Answers what commands ask a hub, on a Unix socket that only its owner can reach.

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
            listener = stack.enter_context(_listening(self._place.socket))
            stack.enter_context(_answering(make_app(self._hub, self._stop, history, self._log), listener))
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
        except OSError as error:
            raise HubError(f"no socket can be made at {path} ({error.strerror or error})") from None
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _bind(listener: socket.socket, path: Path) -> None:
    # Not chmod afterwards: uvicorn would do that, and to 0666.
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(umask)


@contextmanager
def _answering(app: Starlette, listener: socket.socket) -> Iterator[None]:
    """A thread that answers on this socket."""
    server = _Server(app)
    thread = threading.Thread(target=server.answer, args=(listener,), name="control", daemon=True)
    thread.start()
    try:
        server.loop.result(START_SECONDS)
    except Exception as error:  # noqa: BLE001  # whatever it is, the hub can do without
        raise HubError(f"the control socket does not accept ({type(error).__name__}: {error})") from None
    try:
        yield
    finally:
        server.end()
        thread.join(CLOSE_SECONDS)


class _Server(Server):
    """uvicorn's server, but it waits to be told of its end where that one looks ten times a second."""

    def __init__(self, app: Starlette) -> None:
        # Each is uvicorn's own way to do less: no logs, no look into the environment, no timers.
        super().__init__(
            Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                workers=1,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self.loop: Future[asyncio.AbstractEventLoop] = Future()
        """The loop of its thread, once it accepts; or why it does not."""
        self._ended = asyncio.Event()

    def answer(self, listener: socket.socket) -> None:
        """Answer on this socket until `end` is called, on the calling thread."""
        try:
            asyncio.run(self.serve(sockets=[listener]))
        except BaseException as error:
            if self.loop.done():
                raise
            self.loop.set_exception(error)

    def end(self) -> None:
        """Have `answer` return, soon. From any thread."""
        with contextlib.suppress(RuntimeError):  # it has ended already
            self.loop.result().call_soon_threadsafe(self._ended.set)

    async def main_loop(self) -> None:
        self.loop.set_result(asyncio.get_running_loop())
        await self._ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # Those who do not read their answer are still there; uvicorn would leave them to the garbage collector.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
