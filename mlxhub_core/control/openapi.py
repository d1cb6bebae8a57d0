"""The OpenAPI document: made of the declared operations and of the very classes whose values are answered."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import Any

import docstring_parser
from pydantic import TypeAdapter

from mlxhub_core import hookspecs
from mlxhub_core.control.operations import COMMON, EVENTS, OPERATIONS, Error, Operation, Parameter
from mlxhub_core.events import HubEvent
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.observability import HubInfo

_REF = "#/components/schemas/{model}"
_ABOUT = """What a hub of mlxhub can be asked: over its Unix socket, which only its owner can reach, or over TCP with the
token in `Authorization: Bearer`, where hub.yaml has `control:`."""


def document(version: str) -> dict[str, Any]:
    """The document, as a value that JSON can hold. Each call makes a new one.

    Args:
        version: of mlxhub-core.
    """
    types = {operation.name: operation.answer for operation in OPERATIONS if not isinstance(operation.answer, str)}
    schemas, components = _schemas({**types, "error": Error, "event": HubEvent, "hub": HubInfo})
    components["Event"] = _event()
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlxhub control API", "version": version, "description": _ABOUT},
        "paths": paths,
        "security": [{}, {"token": []}],
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(operation: Operation, schemas: Mapping[str, Any]) -> dict[str, Any]:
    error = {"application/json": {"schema": schemas["error"]}}
    codes = {**COMMON, **operation.errors}
    parameters = [_parameter(parameter) for parameter in operation.parameters]
    parameters += [
        {"name": name, "in": "header", "description": about, "schema": {"type": "string"}}
        for name, about in operation.headers.items()
    ]
    if "{name}" in operation.path:
        about = "of the model, as in hub.yaml"
        parameters += [
            {"name": "name", "in": "path", "required": True, "description": about, "schema": {"type": "string"}}
        ]
    return {
        "operationId": operation.name,
        "summary": operation.about,
        "parameters": parameters,
        "responses": {
            str(operation.status): {"description": "done", "content": _content(operation, schemas)},
            **{str(code): {"description": about, "content": error} for code, about in sorted(codes.items())},
        },
    }


def _content(operation: Operation, schemas: Mapping[str, Any]) -> dict[str, Any]:
    if operation.answer == EVENTS:
        return {EVENTS: {"schema": _server_sent()}}
    if isinstance(operation.answer, str):
        return {operation.answer: {"schema": {"type": "string"}}}
    return {"application/json": {"schema": schemas[operation.name]}}


def _server_sent() -> dict[str, Any]:
    """One event of those that are sent, by its fields."""
    told = {"contentMediaType": "application/json", "contentSchema": {"$ref": _REF.format(model="Event")}}
    properties = {"id": {"type": "string"}, "event": {"enum": list(HOOKS)}, "data": {"type": "string", **told}}
    about = "each of the events, by its fields; its data is one line of JSON, an `Event`"
    return {"type": "object", "description": about, "properties": properties, "required": list(properties)}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = TypeAdapter(parameter.type).json_schema()
    if parameter.many:
        schema = {"type": "array", "items": schema}
    elif parameter.default is not None:
        schema["default"] = parameter.default
    return {"name": parameter.name, "in": "query", "description": parameter.about, "schema": schema}


def _event() -> dict[str, Any]:
    """What each hook tells: its own arguments, with the model in the place of its context."""
    return {"description": "One event.", "oneOf": [_of_hook(hook) for hook in HOOKS]}


def _of_hook(hook: str) -> dict[str, Any]:
    spec = getattr(hookspecs, hook)
    hints = typing.get_type_hints(spec)
    own = {name: _argument(name, hints[name]) for name in HOOKS[hook] if name not in ("ctx", "event")}
    text = {"type": ["string", "null"]}
    head = {"id": {"type": "string"}, "hook": {"const": hook}, "time": {"type": "number"}, "seq": {"type": "integer"}}
    properties = {**head, "model": text, "group": text, **own, "event": {"$ref": _REF.format(model="HubEvent")}}
    about = {"title": hook, "description": inspect.getdoc(spec)}
    return {**about, "type": "object", "properties": properties, "required": list(properties)}


def _argument(name: str, hint: Any) -> dict[str, Any]:
    return {"$ref": _REF.format(model="HubInfo")} if name == "hub" else TypeAdapter(hint).json_schema()


def _schemas(types: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A schema for each of these types, and the ones that they refer to, by name."""
    inputs = [(name, typing.cast(Any, "serialization"), TypeAdapter(kind)) for name, kind in types.items()]
    found, definitions = TypeAdapter.json_schemas(inputs, ref_template=_REF)
    classes = {each.__name__: each for kind in types.values() for each in _classes(kind)}
    components = definitions["$defs"]
    for name, schema in components.items():
        if name in classes:
            _describe(schema, classes[name])
    return {name: schema for (name, _), schema in found.items()}, components


def _describe(schema: dict[str, Any], kind: type) -> None:
    """All keys are always there, and are what the docstring says."""
    schema["required"] = list(schema["properties"])
    for each in reversed(kind.__mro__[:-1]):
        told = docstring_parser.parse(inspect.cleandoc(each.__doc__ or ""))
        schema["description"] = told.short_description
        for attribute in told.params:
            schema["properties"][attribute.arg_name]["description"] = " ".join((attribute.description or "").split())


def _classes(hint: Any) -> set[type]:
    """The dataclasses in a type, and in the types of their fields."""
    found = {hint} if hasattr(hint, "__dataclass_fields__") else set()
    inner = typing.get_type_hints(hint).values() if found else typing.get_args(hint)
    return found.union(*(_classes(each) for each in inner))
