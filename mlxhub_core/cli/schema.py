"""`mlxhub schema`: the JSON schema of hub.yaml, with the options of every sink that is installed."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections import Counter
from typing import Any

import click

from mlxhub_core.cli.common import say
from mlxhub_core.discovery import Offer, scan
from mlxhub_core.errors import HubError
from mlxhub_core.options import RESERVED, options_schema
from mlxhub_core.selection import load
from mlxhub_core.settings import file_schema

_DELIVERY = {
    "anyOf": [{"$ref": "#/$defs/DeliverySettings"}, {"type": "null"}],
    "description": "how events reach it, which of them, and whether the hub can do without it",
}


@click.command()
def schema() -> None:
    """Print the JSON schema of hub.yaml, with the options of every sink that is installed.

    Editors complete and check by it. Write it beside hub.yaml, and name it in that file's first line:

    \b
      mlxhub schema > hub.schema.json
      # yaml-language-server: $schema=hub.schema.json
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    click.echo(json.dumps(hub_schema(), indent=2))


def hub_schema() -> dict[str, Any]:
    """The schema. A sink that cannot be imported may have any options; that is told on standard error."""
    whole = file_schema()
    offers = scan().offers
    types = Counter(offer.type for offer in offers)
    patterns = {_key_pattern(offer, types[offer.type]): _entry(offer, whole["$defs"]) for offer in offers}
    sinks = whole["properties"]["sinks"]
    del sinks["anyOf"]
    sinks |= {"type": ["object", "null"], "patternProperties": patterns, "additionalProperties": False}
    return whole


def _key_pattern(offer: Offer, rivals: int) -> str:
    """What the key of a sink looks like: where more than one package offers the type, it names the package."""
    package = "[-_.]+".join(map(_literal, re.split("[-_.]+", offer.distribution)))
    return f"^({package}:){'?' if rivals == 1 else ''}{_literal(offer.type)}(/[A-Za-z0-9_-]+)?$"


def _literal(name: str) -> str:
    # Not `re.escape`: editors read it as a JavaScript expression, which knows no `\\-`.
    return re.sub(r"[^A-Za-z0-9_-]", lambda match: f"\\u{ord(match[0]):04x}", name)


def _entry(offer: Offer, definitions: dict[str, Any]) -> dict[str, Any]:
    """What may stand behind the key of a sink: its options; off; and if none is required, on, or nothing."""
    options = _options(offer)
    definitions |= {_own(offer, name): part for name, part in options.pop("$defs", {}).items()}
    options["properties"] = {**options.get("properties", {}), RESERVED: _DELIVERY}
    options["description"] = str(offer)
    if "required" in options:
        return {**options, "type": ["object", "boolean"], "not": {"const": True}}
    return {**options, "type": ["object", "boolean", "null"]}


def _options(offer: Offer) -> dict[str, Any]:
    try:
        # What its modules print when they are imported is no part of it.
        with contextlib.redirect_stdout(sys.stderr):
            factory = load(offer)
        options = options_schema(factory)
    except HubError as error:
        say(f"warning: the options of {offer.type} are not known: {error}", "yellow")
        return {"type": "object"}
    text = json.dumps(options)
    text = re.sub(r'"#/\$defs/([^"]+)"', lambda match: json.dumps(f"#/$defs/{_own(offer, match[1])}"), text)
    # A default may be infinite, and JSON has no word for it.
    renamed: dict[str, Any] = json.loads(text, parse_constant=str)
    return renamed


def _own(offer: Offer, name: str) -> str:
    """A name among the definitions that no other sink can have."""
    return f"{offer.distribution}.{offer.type}.{name}"
