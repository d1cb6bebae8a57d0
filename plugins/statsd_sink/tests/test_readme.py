"""The README says what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from mlxhub_statsd_sink import StatsdSink
from mlxhub_statsd_sink.dialects import DIALECTS, Sample
from mlxhub_statsd_sink.sink import OWN_TAGS

from mlxhub_core import SinkStats
from mlxhub_core.hooks import hooks_of
from mlxhub_core.testing.day import FakeHub

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
TYPES = {"c": "counter", "g": "gauge", "ms": "timer, ms"}


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table of a section, without its head."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


class Busy(FakeHub):
    """A hub whose one sink counts on."""

    count = 0

    def sink_stats(self) -> list[SinkStats]:
        self.count += 1
        n = self.count
        return [SinkStats("acme", n, n, n, n, n, n, open=True, last_error=None, last_success=None, stuck_seconds=0.0)]


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    """All that is sent in a day."""
    seen: list[Sample] = []

    def encode(sample: Sample, prefix: str, tags: object) -> tuple[str, ...]:
        seen.append(sample)
        return ()

    sink = StatsdSink(dialect="dogstatsd", gauge_interval=0.1)
    sink._encode = encode
    sink.open()
    hooks = hooks_of(sink)
    hub = Busy()
    for hook, arguments in hub.day():
        if hook in hooks:
            hooks[hook](arguments)
            sink._due = 0
            sink.flush()
    sink.close()
    return seen


def test_every_metric_is_told_with_its_type_and_labels_and_no_other_is(samples: list[Sample]) -> None:
    sent: dict[str, tuple[str, list[str]]] = {}
    for sample in samples:
        labels = [name for name, _ in sample.labels]
        if sample.name not in sent or len(labels) > len(sent[sample.name][1]):
            sent[sample.name] = (TYPES[sample.kind], labels)
    told = {name.strip("`"): (kind, labels.split(", ")) for name, kind, labels, _ in rows("Metrics")}
    assert told == sent


def test_every_option_is_told_with_its_default() -> None:
    told = {name.strip("`"): default.strip("`") for name, default, _ in rows("Options")}
    shown: dict[str, Any] = {}
    for name, parameter in inspect.signature(StatsdSink).parameters.items():
        if not name.startswith("_"):
            default = parameter.default
            shown[name] = (
                "none" if default in (None, {}) else f"{default:g}" if isinstance(default, float) else str(default)
            )
    assert told == shown


def test_each_dialect_is_shown_as_it_is_written() -> None:
    labels = (("model", "qwen"), ("group", "chat"), ("exit_code", "-9"))
    failure = Sample("model.failed", "c", 1, labels)
    told = {
        dialect.strip("`"): tuple(line.replace("\\|", "|") for line in re.findall(r"`([^`]+)`", shown))
        for _, dialect, shown in rows("Which dialect")
    }
    assert told == {name: encode(failure, "mlxhub", ()) for name, encode in DIALECTS.items()}


def test_the_tags_that_are_taken_are_told() -> None:
    assert all(f"`{name}`" in README for name in OWN_TAGS)
