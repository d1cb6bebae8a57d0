"""hub.yaml as a JSON schema, for editors. The options of sinks are for others to add."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from mlxhub_core.settings.schema import DeliverySettings, GroupSettings, HubFile, ModelSettings

DIALECT = GenerateJsonSchema.schema_dialect
"""Which JSON schema it is."""
MODELS: tuple[type[BaseModel], ...] = (HubFile, ModelSettings, GroupSettings, DeliverySettings)


def file_schema() -> dict[str, Any]:
    """The schema of the whole file; `$defs/DeliverySettings` is of what every sink has. Each call makes a new one."""
    _, schema = models_json_schema([(model, "validation") for model in MODELS])
    definitions = schema["$defs"]
    for definition in definitions.values():
        _let_optional_be_empty(definition)
    top = definitions.pop(HubFile.__name__)
    top["properties"]["models"]["items"] = {"$ref": f"#/$defs/{ModelSettings.__name__}"}
    for groups in _arrays(top["properties"]["groups"]):
        groups["items"] = {"$ref": f"#/$defs/{GroupSettings.__name__}"}
    return {"$schema": DIALECT, **top, "title": "hub.yaml of mlxhub", "$defs": definitions}


def _arrays(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (part for part in schema.get("anyOf", [schema]) if part.get("type") == "array")


def _let_optional_be_empty(definition: dict[str, Any]) -> None:
    """A key with nothing after it counts as not written."""
    required = definition.get("required", ())
    for name, value in definition.get("properties", {}).items():
        if name not in required:
            about = {key: value.pop(key) for key in ("description", "default", "title") if key in value}
            options = value.get("anyOf", [value]) if set(value) == {"anyOf"} else [value]
            empty = {"type": "null"}
            definition["properties"][name] = {"anyOf": [*options, *([empty] if empty not in options else [])], **about}
