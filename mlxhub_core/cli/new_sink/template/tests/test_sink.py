"""What this sink makes of the events."""

from __future__ import annotations

import json
from pathlib import Path

from mlxhub_core.testing import fake_hub

from mlxhub_acme_sink import AcmeSink


def test_each_line_tells_of_one_event(tmp_path: Path) -> None:
    """A day in the life of a model, told as a hub tells it."""
    path = tmp_path / "events.jsonl"
    told = fake_hub(AcmeSink(path=path, label="here"))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    wanted = ("model_started", "model_ready", "model_stopped", "model_failed")
    assert [line["hook"] for line in lines] == [event.hook for event in told if event.hook in wanted]
    assert {line["label"] for line in lines} == {"here"}
    assert [line["value"] for line in lines if line["hook"] == "model_failed"] == [-9, 3]
