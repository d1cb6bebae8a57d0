"""The README says what the code does."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlxhub_statsd_sink import StatsdSink
from mlxhub_statsd_sink.dialects import DIALECTS, Sample
from mlxhub_statsd_sink.readings import is_for_statsd
from mlxhub_statsd_sink.sink import OWN_TAGS

from mlxhub_core import ModelStatus, SinkStats
from mlxhub_core.hooks import hooks_of
from mlxhub_core.metrics import CATALOGUE, Kind, statsd_name
from mlxhub_core.testing import FakeClock
from mlxhub_core.testing.day import FakeHub

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
TYPES = {Kind.COUNTER: "counter", Kind.GAUGE: "gauge", Kind.HISTOGRAM: "timer, ms"}


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table of a section, without its head."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_metric_that_statsd_has_is_told_with_its_type_and_labels_and_no_other_is() -> None:
    told = {name.strip("`"): (kind, labels) for name, kind, labels, _ in rows("Metrics")}
    assert told == {
        statsd_name(metric): (TYPES[metric.kind], ", ".join(metric.labels))
        for metric in CATALOGUE
        if is_for_statsd(metric)
    }


class Busy(FakeHub):
    """A hub with a model and a sink whose counts grow with each look."""

    count = 0

    def status(self) -> list[ModelStatus]:
        self.count += 1
        return [replace(model, health_checks=self.count, health_checks_failed=self.count) for model in super().status()]

    def sink_stats(self) -> list[SinkStats]:
        n = self.count
        return [SinkStats("acme", n, n, n, n, n, n, open=True, last_error=None, last_success=None, stuck_seconds=0.0)]


def test_all_of_them_are_sent_in_a_day() -> None:
    clock = FakeClock()
    sink = StatsdSink(dialect="dogstatsd", _clock=clock)
    lines: list[str] = []
    sink.trace = lines.append
    sink.open()
    hooks = hooks_of(sink)
    for hook, arguments in Busy().day():
        if hook in hooks:
            hooks[hook](arguments)
            clock.advance(10)
            sink.flush()
    sink.close()
    sent = {line.partition(":")[0].removeprefix("mlxhub.") for line in lines}
    assert sent == {name.strip("`") for name, *_ in rows("Metrics")}


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
