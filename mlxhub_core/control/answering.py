"""A thread that answers on one socket."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlxhub_core.errors import HubError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

START_SECONDS = 10.0
"""Seconds that the end waits for the beginning."""
CLOSE_SECONDS = 5.0
"""Seconds after which the thread is left behind, whatever holds it up."""


@contextmanager
def answering(
    make_app: Callable[[], ASGIApp], listener: socket.socket, name: str, failed: Callable[[HubError], object]
) -> Iterator[None]:
    """Meanwhile a thread answers on a socket that listens already: who comes early waits.

    To import what answers takes some hundredths of a second. The thread does that, so the hub's models need not wait.

    Args:
        make_app: makes what answers; called on that thread.
        listener: the socket.
        name: of the thread.
        failed: called on that thread with why it cannot answer.
    """
    begun: Future[Callable[[], None]] = Future()

    def answer() -> None:
        try:
            from mlxhub_core.control.serving import Server

            Server(make_app(), begun).answer(listener)
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)
            listener.close()  # so that nobody waits for an answer
            failed(HubError(f"the control socket does not accept ({type(error).__name__}: {error})"))

    thread = threading.Thread(target=answer, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            begun.result(START_SECONDS)()
        thread.join(CLOSE_SECONDS)
