"""The README says what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import yaml
from mlxhub_otlp_sink import OtlpSink, target
from mlxhub_otlp_sink.names import ATTRIBUTES, is_for_otlp
from mlxhub_otlp_sink.records import EVENTS

from mlxhub_core.metrics import CATALOGUE, Kind, Metric, otlp_name
from mlxhub_core.options import check_options

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
INSTRUMENTS = {Kind.COUNTER: "Counter", Kind.HISTOGRAM: "Histogram"}


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table of a section, without its head."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def instrument(metric: Metric) -> str:
    return INSTRUMENTS.get(metric.kind) or ("UpDownCounter" if metric.additive else "Gauge")


def test_every_metric_is_told_with_its_instrument_unit_and_attributes_and_no_other_is() -> None:
    told = {name.strip("`"): (kind, unit, labels) for name, kind, unit, labels, _ in rows("Metrics")}
    assert told == {
        otlp_name(metric): (instrument(metric), metric.unit, ", ".join(metric.labels))
        for metric in CATALOGUE
        if is_for_otlp(metric)
    }


def test_every_attribute_is_told_by_its_whole_name() -> None:
    assert [f"`{name}` ({label})" for label, name in ATTRIBUTES.items() if f"`{name}` ({label})" not in README] == []


def test_every_event_is_told_with_its_severity() -> None:
    told = {name.strip("`"): severity for name, severity in rows("Log records")}
    assert told == {name: severity.name for name, severity, _ in EVENTS.values()}


def test_every_option_is_told_with_its_default() -> None:
    told = {name.strip("`"): default.strip("`") for name, default, _ in rows("Options")}
    options = [name for name in inspect.signature(OtlpSink).parameters if not name.startswith("_")]
    assert list(told) == options
    assert told == {
        **dict.fromkeys(options, "none"),
        "endpoint": target.ENDPOINTS[target.PROTOCOL],
        "protocol": target.PROTOCOL,
        "timeout": f"{target.TIMEOUT:g}",
        "interval": f"{target.INTERVAL:g}",
        "logs": "false",
    }


def test_what_it_shows_of_hub_yaml_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTLP_API_KEY", "s3cret")
    shown = [yaml.safe_load(text)["sinks"] for text in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)]
    assert [len(sinks) for sinks in shown] == [1, 3]
    for options in (options for sinks in shown for options in sinks.values()):
        arguments, findings = check_options(OtlpSink, options, Path())
        assert findings == []
        OtlpSink(**arguments)


def test_every_variable_that_is_heeded_is_told() -> None:
    code = "".join(path.read_text() for path in Path(inspect.getfile(target)).parent.glob("*.py"))
    assert [name for name in re.findall(r'"(OTEL_[A-Z_]+)"', code) if name not in README] == []
