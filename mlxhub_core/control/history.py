"""What has happened lately: the last events of a hub, for those who ask, and for those who follow."""

from __future__ import annotations

import bisect
import contextlib
import re
import secrets
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mlxhub_core.events import HubEvent
from mlxhub_core.hookspecs import HOOKS, forwarder
from mlxhub_core.observability import HubInfo

KEPT = 1000
"""Events that are kept. One is about 1 KB, or 10 KB where it has the last lines of a log."""
GREETING = "hub_started"
"""The hook that each sink gets by itself, and so is no event that everybody hears of."""
LOST = "events_lost"
"""The hook that tells of a gap, to the one who has it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One event that is kept.

    Attributes:
        hook: its name.
        arguments: of that hook, without its envelope.
        event: the envelope.
    """

    hook: str
    arguments: dict[str, Any]
    event: HubEvent

    @property
    def model(self) -> str | None:
        """The name of the model that it is about, if it is about one."""
        ctx = self.arguments.get("ctx")
        return None if ctx is None else str(ctx.name)

    def told(self, hub: str) -> dict[str, Any]:
        """As the API has it.

        Args:
            hub: see `History.hub`.
        """
        ctx = self.arguments.get("ctx")
        about = {"model": None, "group": None} if ctx is None else {"model": ctx.name, "group": ctx.group}
        own = {key: value for key, value in self.arguments.items() if key != "ctx"}
        head = {"id": f"{hub}:{self.event.seq}", "hook": self.hook, "time": self.event.time, "seq": self.event.seq}
        return {**head, **about, **own, "event": asdict(self.event)}


class History:
    """The last events of a hub. Register it with the hub, and it hears of all that comes.

    Attributes:
        hub: a word for this hub process: the same number means another event in another one.
        closed: whether nothing more will come.

    Args:
        info: of the hub; the first event is its start, which has no number of its own.
        kept: how many events are kept.
    """

    def __init__(self, info: HubInfo, kept: int = KEPT) -> None:
        self.hub = secrets.token_hex(4)
        self.closed = False
        self._entries: deque[Entry] = deque(maxlen=kept)
        self._lock = threading.Lock()
        self._followers: list[Callable[[], object]] = []
        start = HubEvent(seq=0, id=str(uuid.uuid4()), time=info.started_at)
        self._entries.append(Entry(GREETING, {"hub": asdict(info)}, start))
        for hook in HOOKS.keys() - {GREETING, LOST}:
            setattr(self, hook, forwarder(hook, self._hear))

    def add(self, entry: Entry) -> None:
        """Keep an event, and wake those who follow. Returns at once and never raises."""
        with self._lock:
            self._entries.append(entry)
        self._wake()

    def after(self, seq: int | None) -> list[Entry]:
        """The events with a number above `seq`, the oldest first; None: all that are kept.

        If some of them are not kept any more, one that tells how many stands before the others.
        """
        with self._lock:
            kept = list(self._entries)
        if seq is None:
            return kept
        found = kept[bisect.bisect_right(kept, seq, key=lambda entry: entry.event.seq) :]
        return [*self._gap(seq, found[0].event), *found] if found else []

    def seq_of(self, last_id: str) -> int | None:
        """The number in the id of an event; None: it is none, or one of another hub."""
        hub, _, number = last_id.partition(":")
        return int(number) if hub == self.hub and re.fullmatch("[0-9]{1,18}", number) else None

    def knows(self, model: str) -> bool:
        """Whether an event of a model of this name is kept."""
        return any(entry.model == model for entry in self.after(None))

    @contextlib.contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Meanwhile `wake` is called after each event and at the end, on any thread: it must return at once."""
        self._followers.append(wake)
        try:
            yield
        finally:
            self._followers.remove(wake)

    def close(self) -> None:
        """Nothing more will come: send those away who follow."""
        self.closed = True
        self._wake()

    def _hear(self, hook: str, arguments: dict[str, Any]) -> None:
        self.add(Entry(hook, arguments, arguments.pop("event")))

    def _gap(self, seq: int, found: HubEvent) -> list[Entry]:
        count = found.seq - seq - 1
        if count <= 0:
            return []
        detail = f"a hub keeps its last {self._entries.maxlen} events"
        event = HubEvent(seq=found.seq - 1, id=str(uuid.uuid4()), time=found.time, detail=detail)
        return [Entry(LOST, {"count": count}, event)]

    def _wake(self) -> None:
        for wake in tuple(self._followers):
            with contextlib.suppress(Exception):  # a loop that has ended meanwhile
                wake()
