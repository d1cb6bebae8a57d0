"""The pages of docs that are made from the code: hub.yaml's keys, hooks and events, metrics, options of sinks, the API.

docs/site.py puts them into the site; nothing of them is kept in the repository, so that they cannot be out of step.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from docstring_parser import parse
from pydantic import BaseModel

import mlxhub_core
from mlxhub_core import testing
from mlxhub_core.cli.sinks.describe import in_words
from mlxhub_core.discovery import PACKAGES, scan
from mlxhub_core.events import Failure, HubEvent, HubModelContext, Reason
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.metrics import CATALOGUE, Metric, otlp_name, prometheus_name, statsd_name
from mlxhub_core.observability import HubInfo, Sink, SinkStats
from mlxhub_core.options import options_schema
from mlxhub_core.settings.kinds import MAX_SECONDS
from mlxhub_core.settings.schema import (
    ControlSettings,
    DeliverySettings,
    GroupSettings,
    HealthSettings,
    HubFile,
    MemorySettings,
    ModelSettings,
    OnlySettings,
    RestartSettings,
    RotationSettings,
)

SECTIONS: Mapping[str, type[BaseModel]] = {
    "The top of the file": HubFile,
    "log_rotation": RotationSettings,
    "control": ControlSettings,
    "models": ModelSettings,
    "models: restart": RestartSettings,
    "models: health": HealthSettings,
    "models: memory": MemorySettings,
    "groups": GroupSettings,
    "sinks: delivery": DeliverySettings,
    "sinks: delivery: only": OnlySettings,
}
EXAMPLES: Mapping[type[BaseModel], Mapping[str, str]] = {
    HubFile: {
        "log_path": "~/hub/logs",
        "log_rotation": "{max_bytes: 100MB}",
        "log_level": "DEBUG",
        "control": "{port: 27800, token_file: ~/.mlxhub/token}",
        "host": "127.0.0.1",
        "model_starting_port": "28000",
        "models": "[{name: qwen3, model_path: mlx-community/Qwen3-4B-4bit}]",
        "groups": "[{name: big, max_loaded: 1}]",
        "sinks": "{loguru: off}",
    },
    ControlSettings: {"host": "127.0.0.1", "port": "27800", "token_file": "~/.mlxhub/token"},
    RotationSettings: {"max_bytes": "100MB", "backups": "10", "compress": "false"},
    ModelSettings: {
        "name": "qwen3",
        "model_path": "mlx-community/Qwen3-4B-4bit",
        "default": "true",
        "group": "big",
        "port": "8080",
        "restart": "always",
        "stop_timeout": "60",
        "options": "{max-tokens: 2048}",
        "args": "[--log-level, DEBUG]",
        "python": "~/venvs/mlx/bin/python",
        "command": '[my-server, --port, "{port}"]',
        "health": "{interval: 10}",
        "memory": "{required: 8GB}",
        "env": "{HF_HOME: /models}",
        "working_directory": "~/hub",
    },
    RestartSettings: {
        "policy": "always",
        "delay": "2",
        "max_delay": "120",
        "factor": "3",
        "jitter": "0",
        "reset_after": "300",
        "max_failures": "10",
        "window": "3600",
    },
    HealthSettings: {"path": "/ready", "interval": "10", "timeout": "2", "startup_timeout": "1200", "failures": "5"},
    MemorySettings: {"required": "8GB"},
    GroupSettings: {"name": "big", "max_loaded": "1"},
    DeliverySettings: {
        "queue": "4096",
        "when_full": "drop_newest",
        "only": "[model_failed, model_gave_up]",
        "required": "false",
    },
    OnlySettings: {"events": "[model_failed]", "models": "[qwen3]", "groups": "[big]"},
}
"""A value of each key, as it is written. tests/test_site.py reads them all with the real reader."""
NAMES: Mapping[str, Callable[[Metric], str]] = {
    "prometheus": prometheus_name,
    "statsd": statsd_name,
    "otlp": otlp_name,
}
"""What each sink that shows metrics calls them."""


def pages() -> dict[str, str]:
    """Every page that is made here, by its place in the site."""
    return {"hub-yaml-keys.md": hub_yaml(), "events.md": hooks_and_events(), "metrics.md": metrics(), "api.md": api()}


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines
    )


def hub_yaml() -> str:
    """Every key of hub.yaml."""
    parts = [
        "# Every key of hub.yaml\n",
        (
            "This page is made from the rules by which hub.yaml is checked. What the keys are for, and how they go together,"
            " is told in [hub.yaml](hub-yaml.md).\n"
        ),
    ]
    for heading, model in SECTIONS.items():
        parts += [f"## {heading}\n", table(("key", "default", "unit", "limits", "example", "what it is"), _keys(model))]
    return "\n".join(parts)


def _keys(model: type[BaseModel]) -> Iterator[Sequence[str]]:
    properties = model.model_json_schema()["properties"]
    for key, field in model.model_fields.items():
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        schema = properties[key]
        yield (
            f"`{key}`",
            default,
            _unit(field),
            _limits(schema),
            f"`{key}: {EXAMPLES[model][key]}`",
            field.description or "",
        )


def _shown(value: object) -> str:
    if isinstance(value, BaseModel):
        return "see below"
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _unit(field: Any) -> str:
    if any(getattr(bound, "le", None) == MAX_SECONDS for bound in field.metadata) or field.description == "seconds":
        return "seconds"
    return "bytes" if "GB" in (field.description or "") or "MB" in (field.description or "") else ""


def _limits(schema: Mapping[str, Any]) -> str:
    for option in (schema, *schema.get("anyOf", ())):
        if "enum" in option:
            return ", ".join(f"`{value}`" for value in option["enum"])
        words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "minItems": "items ≥"}
        if found := [f"{sign} {option[name]:g}" for name, sign in words.items() if name in option]:
            return ", ".join(found)
    return ""


def hooks_and_events() -> str:
    """Every hook, and all that travels with it."""
    parts = [
        "# Events and hooks\n",
        (
            "This page is made from the code. How hooks are called, and what is promised, is told in"
            " [Write a sink](writing-a-sink.md). All arguments are passed by name, and only those that a sink names.\n"
        ),
    ]
    for hook, arguments in HOOKS.items():
        signature = inspect.signature(getattr(Sink, hook))
        typed = (f"`{name}: {signature.parameters[name].annotation}`" for name in arguments)
        parts += [f"## {hook}\n", f"{', '.join(typed)}\n", f"{inspect.getdoc(getattr(Sink, hook))}\n"]
    for kind, heading in (
        (HubModelContext, "ctx: HubModelContext"),
        (HubEvent, "event: HubEvent"),
        (Failure, "event.first_failure: Failure"),
        (SinkStats, "hub.sink_stats(): SinkStats"),
        (HubInfo, "hub.info(): HubInfo"),
    ):
        parts += [f"## {heading}\n", table(("field", "type", "default", "what it is"), _fields(kind))]
    parts += ["## event.reason: Reason\n", table(("value", "what it says"), _values(Reason))]
    return "\n".join(parts)


def _fields(kind: type) -> Iterator[Sequence[str]]:
    said = {each.arg_name: each.description or "" for each in parse(kind.__doc__ or "").params}
    for field in dataclasses.fields(kind):
        default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
        yield f"`{field.name}`", f"`{field.type}`", default, said[field.name]


def _values(kind: type[Enum]) -> Iterator[Sequence[str]]:
    """The members of an enumeration, and the sentence below each."""
    (body,) = [
        node.body for node in ast.parse(textwrap.dedent(inspect.getsource(kind))).body if isinstance(node, ast.ClassDef)
    ]
    for assignment, words in itertools.pairwise(body):
        if isinstance(assignment, ast.Assign) and isinstance(words, ast.Expr) and isinstance(words.value, ast.Constant):
            name = assignment.targets[0]
            assert isinstance(name, ast.Name)
            yield f"`{kind[name.id].value}`", str(words.value.value)


def metrics() -> str:
    """Every metric, with what each sink calls it."""
    head = ("metric", "kind", "unit", "labels", *(f"in {sink}" for sink in NAMES), "what it is")
    rows = (
        (
            f"`{each.stem}`",
            each.kind.value,
            each.unit.strip("{}"),
            ", ".join(each.labels),
            *tuple(f"`{name(each)}`" for name in NAMES.values()),
            each.help,
        )
        for each in CATALOGUE
    )
    return (
        "# Metrics\n\nThis page is made from the catalogue that all sinks share. Each protocol has its own habits, so the"
        " names differ; which of them a sink shows, and how, is on its page. What counts begins with the hub, or with the"
        f" sink if that was turned on later.\n\n{table(head, rows)}"
    )


def sink_tables(sink: str) -> str:
    """What is made from the code for the page of a sink: its options, and its metrics if it has some."""
    (offer,) = [offer for offer in scan().offers if offer.type == sink and offer.distribution == PACKAGES[sink]]
    schema = options_schema(offer.load())
    parts = ["## All options, as the code has them\n"]
    rows = [
        (
            f"`{name}`",
            "required" if name in schema.get("required", ()) else _shown(option.get("default")),
            in_words(option, schema.get("$defs", {})),
            option.get("description", ""),
        )
        for name, option in schema.get("properties", {}).items()
    ]
    parts.append(table(("option", "default", "type", "what it is"), iter(rows)) if rows else "It takes none.\n")
    if sink in NAMES:
        name = NAMES[sink]
        said = ((f"`{name(each)}`", each.kind.value, ", ".join(each.labels), each.help) for each in CATALOGUE)
        parts += ["## Metrics, as the catalogue has them\n", table(("name", "kind", "labels", "what it is"), said)]
    return "\n".join(parts)


def api() -> str:
    """What programs and sinks may import, from the docstrings."""
    parts = ["# Python API\n", "What is not on this page may change with any version.\n", "## mlxhub_core\n"]
    parts += [f"::: mlxhub_core.{home}.{name}\n" for name, home in mlxhub_core._HOME_OF.items()]  # noqa: SLF001
    parts += ["## mlxhub_core.metrics\n", "::: mlxhub_core.metrics.MetricSink\n", "## mlxhub_core.testing\n"]
    homes = {name: f".{home}" for name, home in testing._HOMES.items()}  # noqa: SLF001
    parts += [f"::: mlxhub_core.testing{homes.get(name, '')}.{name}\n" for name in testing.__all__]
    parts += ["## mlxhub_core.testing.strategies\n", "::: mlxhub_core.testing.strategies\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    for place, text in pages().items():
        print(f"<!-- {place} -->\n\n{text}")
