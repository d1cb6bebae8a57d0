"""uvicorn, with as little of it as will do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from concurrent.futures import Future

from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn import Server as Uvicorn

GRACE_SECONDS = 1
"""Seconds that those who are being answered get at the end; uvicorn takes whole ones."""


class Server(Uvicorn):
    """uvicorn's server, but it waits to be told of its end where that one looks ten times a second.

    Args:
        app: answers.
        begun: gets, once the server accepts, what ends it, to be called from any thread.
    """

    def __init__(self, app: ASGIApp, begun: Future[Callable[[], None]]) -> None:
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
        self._begun = begun
        self._ended = asyncio.Event()

    def answer(self, listener: socket.socket) -> None:
        """Answer on this socket until the end, on the calling thread."""
        asyncio.run(self.serve(sockets=[listener]))

    async def main_loop(self) -> None:
        loop = asyncio.get_running_loop()

        def end() -> None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                loop.call_soon_threadsafe(self._ended.set)

        self._begun.set_result(end)
        await self._ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # Those who do not read their answer are still there; uvicorn would leave them to the garbage collector.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
