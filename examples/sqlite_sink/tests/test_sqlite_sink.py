"""The rows that events become."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from mlxhub_sqlite_sink import DAY, SqliteSink

from mlxhub_core.testing import FakeHub, fake_hub
from mlxhub_core.testing.strategies import Told, days


def rows(path: Path, query: str = "SELECT * FROM events ORDER BY rowid") -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def test_every_event_is_a_row_with_all_that_was_told(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    told = fake_hub(SqliteSink(path))
    found = rows(path, "SELECT id, time, seq, hook, model, reason, arguments FROM events ORDER BY rowid")
    for event, (id_, time, seq, hook, model, reason, arguments) in zip(told, found, strict=True):
        assert (id_, time, seq, hook, model) == (
            event.event.id,
            event.event.time,
            event.event.seq,
            event.hook,
            event.model,
        )
        assert reason == event.event.reason
        rest = {key: value for key, value in event.arguments.items() if key not in ("ctx", "event", "hub")}
        assert json.loads(arguments) == json.loads(json.dumps(rest))


def test_an_event_that_comes_twice_is_one_row(tmp_path: Path) -> None:
    path, day = tmp_path / "events.db", list(FakeHub().day())
    fake_hub(SqliteSink(path), day)
    fake_hub(SqliteSink(path), day)
    assert len(rows(path)) == len(day)


def test_what_is_too_old_goes_when_a_hub_starts(tmp_path: Path) -> None:
    path, day = tmp_path / "events.db", list(FakeHub().day())
    old = [(hook, {**all_, "event": replace(all_["event"], time=all_["event"].time - 91 * DAY)}) for hook, all_ in day]
    fake_hub(SqliteSink(path), old)
    fresh = [(hook, {**all_, "event": replace(all_["event"], id=f"new {all_['event'].seq}")}) for hook, all_ in day]
    fake_hub(SqliteSink(path, keep_days=0), fresh[:1])
    assert len(rows(path)) == len(day) + 1, "0 keeps all"
    fake_hub(SqliteSink(path), fresh[:1])
    assert [row[0] for row in rows(path)] == ["new 0"]


def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    sink = SqliteSink(path, timeout=0)
    sink.open()
    hook, arguments = next(told for told in FakeHub().day() if told[0] == "model_failed")
    getattr(sink, hook)(**arguments)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sink.flush()
    sink.flush()
    sink.close()
    assert len(rows(path)) == 1


@settings(max_examples=20, deadline=None)
@given(days())
def test_it_takes_whatever_comes(day: Sequence[Told]) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "events.db"
        fake_hub(SqliteSink(path), day)
        assert len(rows(path)) == len({arguments["event"].id for _, arguments in day})
