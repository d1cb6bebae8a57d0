"""`mlxhub schema`: the JSON schema of hub.yaml, with the options of every sink that is installed."""

from __future__ import annotations

import json
import re
from typing import Any

import click

from mlxhub_core.cli.common import say
from mlxhub_core.discovery import Offer, scan
from mlxhub_core.errors import HubError
from mlxhub_core.options import RESERVED, options_schema
from mlxhub_core.selection import load
from mlxhub_core.settings import file_schema


@click.command()
def schema() -> None:
    r"""Print the JSON schema of hub.yaml, with the options of every sink that is installed.

    Editors complete and check by it. Write it beside hub.yaml, and name it in that file's first line:

    \b
        mlxhub schema > hub.schema.json
        # yaml-language-server: $schema=hub.schema.json
    """
    click.echo(json.dumps(hub_schema(), indent=2))


def hub_schema() -> dict[str, Any]:
    """The schema. A sink that cannot be imported may have any options; that is told on standard error."""
    whole = file_schema()
    # By type, and by package and type: two packages may offer one.
    patterns = {_key_pattern(offer): _entry(offer, whole["$defs"]) for offer in scan().offers}
    sinks = whole["properties"]["sinks"]
    del sinks["anyOf"]
    sinks |= {"type": ["object", "null"], "patternProperties": patterns, "additionalProperties": False}
    return whole


def _key_pattern(offer: Offer) -> str:
    # Not `re.escape`: editors read it as a JavaScript expression, which knows no `\\-`. Names hold nothing worse than dots.
    distribution, sink_type = (name.replace(".", "[.]") for name in (offer.distribution, offer.type))
    return f"^({distribution}:)?{sink_type}(/[A-Za-z0-9_-]+)?$"


def _entry(offer: Offer, definitions: dict[str, Any]) -> dict[str, Any]:
    """What may stand behind the key of a sink: its options, on, off, or nothing."""
    options = _options(offer)
    definitions |= {_own(offer, name): part for name, part in options.pop("$defs", {}).items()}
    options["properties"] = {**options.get("properties", {}), RESERVED: {"$ref": "#/$defs/DeliverySettings"}}
    return {**options, "type": ["object", "boolean", "null"], "description": str(offer)}


def _options(offer: Offer) -> dict[str, Any]:
    try:
        options = options_schema(load(offer))
    except HubError as error:
        say(f"warning: the options of {offer.type} are not known: {error}", "yellow")
        return {"type": "object"}
    renamed: dict[str, Any] = json.loads(
        re.sub(r'"#/\$defs/([^"]+)"', lambda match: json.dumps(f"#/$defs/{_own(offer, match[1])}"), json.dumps(options))
    )
    return renamed


def _own(offer: Offer, name: str) -> str:
    """A name among the definitions that no other sink can have."""
    return f"{offer.distribution}.{offer.type}.{name}"
