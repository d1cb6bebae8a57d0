"""`mlxhub sinks describe`: what a sink does and which options it takes. Imports that one."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any

import click

from mlxhub_core.discovery import Offer
from mlxhub_core.errors import HubError, listed
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.options import options_schema
from mlxhub_core.selection import load, offer_of


@click.command()
@click.argument("sink_type", metavar="TYPE")
@click.option("--json-schema", is_flag=True, help="Print the JSON schema of its options.")
def describe(sink_type: str, json_schema: bool) -> None:
    """What a sink does and which options it takes.

    TYPE as in hub.yaml: statsd, or mlxhub-statsd-sink:statsd.

    \b
      mlxhub sinks describe statsd
      mlxhub sinks describe loguru --json-schema
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    package, _, name = sink_type.rpartition(":")
    offer = offer_of(name.partition("/")[0], package or None)
    # What its modules print when they are imported is no part of the answer.
    with contextlib.redirect_stdout(sys.stderr):
        factory = load(offer)
    try:
        schema = options_schema(factory)
    except HubError as error:
        raise HubError(f"{offer} cannot be used: {error}; tell its author") from None
    if json_schema:
        click.echo(json.dumps(schema, indent=2))
    else:
        _show(offer, factory, schema)


def _show(offer: Offer, factory: Callable[..., object], schema: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    summary = _summary(factory) or "its author says nothing about it"
    console.print(f"[bold]{escape(offer.type)}[/]: {escape(summary)}")
    console.print(
        f"from {escape(str(offer))} ({escape(offer.value)}), {escape(_file(factory))}", style="dim", highlight=False
    )
    console.print(f"events: {_events(factory)}", highlight=False)
    console.print(_table(schema) if schema.get("properties") else "It takes no options of its own.")
    console.print("Beside these `delivery:` says how events reach it: see `mlxhub schema`.", style="dim")


def _table(schema: dict[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("OPTION", "IS", "DEFAULT", "MEANING"):
        table.add_column(column, overflow="fold")
    for name, option in schema["properties"].items():
        default = "required" if name in schema.get("required", ()) else _default(option)
        table.add_row(
            *map(escape, (name, in_words(option, schema.get("$defs", {})), default, option.get("description", "")))
        )
    return table


def _summary(factory: Callable[..., object]) -> str:
    """The first line that its author wrote, and not what it has from a base class or from the decorator of dataclasses."""
    first, _, _ = inspect.cleandoc(factory.__doc__ or "").partition("\n")
    is_dataclass = isinstance(factory, type) and dataclasses.is_dataclass(factory)
    return "" if is_dataclass and first.startswith(f"{factory.__name__}(") else first


def _default(option: dict[str, Any]) -> str:
    if "default" not in option:
        return "the sink's own"  # a secret, or made by a function, or else nothing that JSON could hold
    default = option["default"]
    return "none" if default is None else default if isinstance(default, str) and default else json.dumps(default)


def _events(factory: Callable[..., object]) -> str:
    if not isinstance(factory, type):
        return "known only when it is made; see `mlxhub sinks test`"
    return listed(hook for hook in HOOKS if _has(factory, hook))


def _has(factory: Callable[..., object], hook: str) -> bool:
    from mlxhub_core.hooks import is_inherited_noop

    method = getattr(factory, hook, None)
    return callable(method) and not is_inherited_noop(method, hook)


def _file(factory: Callable[..., object]) -> str:
    try:
        return inspect.getfile(factory)
    except (TypeError, OSError):
        return "built in"


_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "nothing",
    "object": "mapping",
    "array": "list",
}


def in_words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a JSON schema asks for, as people would say it."""
    match schema:
        case {"title": "secret"}:
            return "secret: text, {env: NAME} or {file: path}"
        case {"$ref": str(reference)}:
            return in_words(definitions[reference.rpartition("/")[2]], definitions)
        case {"anyOf": list(parts)}:
            return " or ".join(in_words(part, definitions) for part in parts if part.get("type") != "null")
        case {"enum": list(values)}:
            return " or ".join(map(_plain, values))
        case {"const": value}:
            return _plain(value)
        case {"type": "array", "items": dict(items)}:
            return f"list of {in_words(items, definitions)}"
        case {"type": "object", "properties": dict(properties)}:
            return "mapping with " + ", ".join(properties)
        case {"type": str(kind)}:
            return _WORDS[kind] + _bounds(schema)
    return "anything"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _bounds(schema: dict[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
    }
    said = [f"{word} {schema[key]:.15g}" for key, word in words.items() if key in schema]
    return f", {' and '.join(said)}" if said else ""
