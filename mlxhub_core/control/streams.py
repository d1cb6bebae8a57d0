"""Answers that do not end by themselves: they go on until the client hangs up, or the hub ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
from collections.abc import AsyncIterator, Callable, Collection
from typing import TypeVar

from mlxhub_core.control.history import LOST, Entry, History
from mlxhub_core.log_reader import POLL, LogReader

T = TypeVar("T")


async def events(
    history: History, position: int | None, since: float | None, models: Collection[str], *, follow: bool
) -> AsyncIterator[bytes]:
    """Events as server-sent ones, as the HTML standard has them.

    Whoever does not read holds up nobody and costs no memory: nothing is queued for it, but read from the history when
    it takes more; and what is not kept any more by then, it is told to have lost.

    Args:
        history: has them.
        position: the number after which to begin; None: with all that are kept.
        since: of what has happened by now only what did then or later, in seconds since the epoch.
        models: only what is about these; empty: everything.
        follow: go on with those that come.
    """
    earliest = -math.inf if since is None else since
    news = asyncio.Event()
    loop = asyncio.get_running_loop()
    with history.waking(lambda: loop.call_soon_threadsafe(news.set)):
        while True:
            news.clear()
            over = history.closed or not follow
            for entry in history.after(position):
                position = entry.event.seq
                if entry.hook == LOST or ((not models or entry.model in models) and entry.event.time >= earliest):
                    yield _server_sent(history.hub, entry)
            if over:
                return
            earliest = -math.inf  # What comes now is new, wherever the clock of the machine was put meanwhile.
            await news.wait()


async def output(history: History, opened: Callable[[], LogReader], *, follow: bool) -> AsyncIterator[bytes]:
    """What a log holds. Files are read on other threads: a disk that is slow holds up nobody else.

    Args:
        history: of the hub, whose end ends this, too.
        opened: opens the log.
        follow: go on with what is written.
    """
    news, loop, lock = asyncio.Event(), asyncio.get_running_loop(), threading.Lock()

    def alone(call: Callable[[], T]) -> T:
        with lock:
            return call()

    reader = await asyncio.to_thread(opened)
    try:
        there = reader.read()
        while data := await asyncio.to_thread(alone, lambda: next(there, b"")):
            yield data
        with history.waking(lambda: loop.call_soon_threadsafe(news.set)):
            over = not follow or reader.ends
            while not over:
                news.clear()
                over = history.closed
                while data := await asyncio.to_thread(alone, reader.more):
                    yield data
                if not over:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(news.wait(), POLL)
    finally:
        # A client that hung up may have left a thread that still reads.
        loop.run_in_executor(None, alone, reader.close)


def _server_sent(hub: str, entry: Entry) -> bytes:
    told = entry.told(hub)
    return f"id: {told['id']}\nevent: {entry.hook}\ndata: {json.dumps(told)}\n\n".encode()
