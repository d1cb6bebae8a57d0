"""Answers that do not end by themselves: they go on until the client hangs up, or the hub ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

from mlxhub_core.control.history import LOST, Entry, History


async def events(
    history: History, position: int | None, wanted: Callable[[Entry], bool], *, follow: bool
) -> AsyncIterator[bytes]:
    """Events as server-sent ones, as the HTML standard has them.

    Whoever does not read holds up nobody and costs no memory: nothing is queued for it, but read from the history when
    it takes more; and what is not kept any more by then, it is told to have lost.

    Args:
        history: has them.
        position: the number after which to begin; None: with all that are kept.
        wanted: which of them.
        follow: go on with those that come.
    """
    news = asyncio.Event()
    loop = asyncio.get_running_loop()
    with history.waking(lambda: loop.call_soon_threadsafe(news.set)):
        while True:
            news.clear()
            over = history.closed or not follow
            for entry in history.after(position):
                position = entry.event.seq
                if entry.hook == LOST or wanted(entry):
                    yield _server_sent(history.hub, entry)
            if over:
                return
            await news.wait()


def _server_sent(hub: str, entry: Entry) -> bytes:
    told = entry.told(hub)
    return f"id: {told['id']}\nevent: {entry.hook}\ndata: {json.dumps(told)}\n\n".encode()
