"""A thread that answers on one socket: uvicorn, with as little of it as will do."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from mlxhub_core.errors import HubError

START_SECONDS = 10.0
"""Seconds in which the thread must accept."""
GRACE_SECONDS = 1
"""Seconds that those who are being answered get at the end; uvicorn takes whole ones."""
QUESTION_SECONDS = 10.0
"""Seconds in which whoever has connected must have asked."""
CLOSE_SECONDS = 5.0
"""Seconds after which `close` leaves the thread behind, whatever holds it up."""


@contextmanager
def answering(app: ASGIApp, listener: socket.socket, name: str, most: int | None = None) -> Iterator[None]:
    """Meanwhile a thread of this name answers on this socket.

    Args:
        app: what is answered.
        listener: the socket.
        name: of the thread.
        most: connections at once; more are hung up on. Default: as many as come.

    Raises:
        HubError: it cannot.
    """
    server = _Server(app, most)
    thread = threading.Thread(target=server.answer, args=(listener,), name=name, daemon=True)
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

    def __init__(self, app: ASGIApp, most: int | None) -> None:
        # Each is uvicorn's own way to do less: no logs, no look into the environment, no timers.
        super().__init__(
            Config(
                app,
                http=functools.partial(_Protocol, most=most),  # type: ignore[arg-type]  # it makes one
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
        # Those who do not read their answer are still there, and those who connected in the last moment are only now;
        # uvicorn would leave them to the garbage collector.
        await asyncio.sleep(0.01)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Protocol(H11Protocol):
    """uvicorn's side of one connection, but it does not wait for ever for a question, nor bear any number of them.

    Args:
        most: connections at once.
    """

    def __init__(self, *args: Any, most: int | None, **more: Any) -> None:
        super().__init__(*args, **more)
        self._most = most
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._most is not None and len(self.connections) > self._most:
            transport.abort()
        else:
            self._await_question()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_question()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_question()

    def _await_question(self) -> None:
        """Hang up unless all of a question is there in time, however slowly its bytes come."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget_question()
        elif self._patience is None:
            self._patience = self.loop.call_later(QUESTION_SECONDS, self.transport.abort)

    def _forget_question(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
