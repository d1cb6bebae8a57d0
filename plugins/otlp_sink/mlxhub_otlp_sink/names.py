"""What labels are called as attributes."""

from __future__ import annotations

from mlxhub_core.metrics import Kind, Metric

MODEL = "mlxhub.model.name"
GROUP = "mlxhub.model.group"
EXIT_CODE = "process.exit.code"

ATTRIBUTES = {
    "model": MODEL,
    "group": GROUP,
    "state": "mlxhub.model.state",
    "exit_code": EXIT_CODE,
    "sink": "mlxhub.sink.name",
}
"""For each label of a metric its attribute. That of the exit code is one of OpenTelemetry's conventions."""


def is_for_otlp(metric: Metric) -> bool:
    """Whether it is sent as a metric: what is always 1 says nothing that resource and records do not."""
    return metric.kind is not Kind.INFO


def attributes_of(metric: Metric, labels: tuple[str, ...]) -> dict[str, str | int]:
    """The attributes of a series. Without a value there is none, but each model has a name. Exit codes are numbers.

    Only the exit code that stands for many others is a word.
    """
    attributes: dict[str, str | int] = {}
    for label, value in zip(metric.labels, labels, strict=True):
        name = ATTRIBUTES[label]
        if value or name == MODEL:
            attributes[name] = int(value) if name == EXIT_CODE and value.lstrip("-").isdecimal() else value
    return attributes
