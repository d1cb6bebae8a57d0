"""The sink `sqlite` for mlxhub: every event is a row of an SQLite database, which keeps them for so many days."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval

from mlxhub_core import HubEvent, HubModelContext, Sink

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY,      -- the same event told twice, by a hub and by the next one, is one row
    time REAL NOT NULL,       -- seconds since the epoch
    seq INTEGER NOT NULL,
    hook TEXT NOT NULL,
    model TEXT,               -- these two are NULL for events of the hub itself
    model_group TEXT,
    run_id TEXT,
    reason TEXT,
    detail TEXT,
    arguments TEXT NOT NULL   -- JSON: what else the hook tells, as {"exit_code": 3}
);
CREATE INDEX IF NOT EXISTS events_of_model ON events (model, time);
"""
INSERT = "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
DAY = 86_400.0
"""Seconds."""


class SqliteSink(Sink):
    """Keeps every event in an SQLite database, in its table `events`.

    Events that come together are written in one transaction. Other programs may read the database meanwhile.

    Args:
        path: the file of the database.
        keep_days: events older than so many days are removed when the hub starts; 0: none is.
        timeout: seconds to wait while another program writes to it.
    """

    def __init__(
        self,
        path: Path = Path("mlxhub-events.db"),
        keep_days: Annotated[float, Interval(ge=0, le=36_500)] = 90.0,
        timeout: Annotated[float, Interval(ge=0, le=60)] = 5.0,
    ) -> None:
        self._path = path
        self._keep_days = keep_days
        self._timeout = timeout
        self._database: sqlite3.Connection | None = None
        self._rows: list[tuple[Any, ...]] = []

    def open(self) -> None:
        """Open the database and make the table. Only this thread may use the connection, and only this thread does."""
        database = sqlite3.connect(self._path, timeout=self._timeout)
        try:
            database.execute("PRAGMA journal_mode = WAL")  # who reads does not wait for who writes
            database.executescript(SCHEMA)
        except BaseException:
            database.close()
            raise
        self._database = database
        self.where = str(self._path)

    def flush(self) -> None:
        """Write what has come, all or nothing: what could not be written is tried again."""
        if self._database is None or not self._rows:
            return
        with self._database:
            self._database.executemany(INSERT, self._rows)
        self._rows.clear()

    def close(self) -> None:
        """Let go of the database, also if it was never there."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _prune(self, now: float) -> None:
        if self._keep_days and self._database is not None:
            with self._database:
                self._database.execute("DELETE FROM events WHERE time < ?", (now - self._keep_days * DAY,))

    def _keep(self, hook: str, event: HubEvent, ctx: HubModelContext | None, arguments: dict[str, Any]) -> None:
        name, group = (ctx.name, ctx.group) if ctx else (None, None)
        about = (hook, name, group, event.run_id, event.reason, event.detail)
        self._rows.append((event.id, event.time, event.seq, *about, json.dumps(arguments)))

    def hub_started(self, *, event: HubEvent, **_: object) -> None:  # `hub` is no value that could be kept
        """Remove what is too old."""
        self._prune(event.time)
        self._keep("hub_started", event, None, {})


def _keeper(hook: str) -> Any:
    # `**arguments` asks for all that the hub has to tell, also what later versions add.
    def keep(self: SqliteSink, *, event: HubEvent, ctx: HubModelContext | None = None, **arguments: Any) -> None:
        self._keep(hook, event, ctx, arguments)

    return keep


# All other hooks there are in the version of mlxhub-core that is installed.
for _name in vars(Sink):
    if _name.startswith(("model_", "hub_", "config_", "events_")) and _name not in vars(SqliteSink):
        setattr(SqliteSink, _name, _keeper(_name))
