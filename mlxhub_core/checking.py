"""What pydantic finds wrong, said in plain English and without repeating what the user wrote: it may be a secret.

Shared by the two rooms that check what users wrote: `settings` for hub.yaml and `options` for the sinks in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from mlxhub_core.errors import did_you_mean
from mlxhub_core.yaml_source import Key, Keys

M = TypeVar("M", bound=BaseModel)

STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)
"""No value becomes another type behind the user's back, no key is ignored, no input is echoed by pydantic."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake: where in the checked value, and a sentence that says what is wrong and what to do."""

    keys: Keys
    message: str


def check(model: type[M], value: Any, context: Any = None) -> tuple[M | None, list[Finding]]:
    """Validate plain values, as from YAML, against `model`; validators get `context`.

    Returns:
        the model, or None and every finding.
    """
    try:
        return model.model_validate(value, context=context), []
    except ValidationError as error:
        return None, list(_findings(model, value, error.errors(include_url=False)))


def refusal(message: str) -> PydanticCustomError:
    """An error for validators to raise, whose message reaches the user as it is."""
    return PydanticCustomError("mlxhub", "{message}", {"message": message})


def _findings(model: type[BaseModel], value: Any, errors: Iterable[ErrorDetails]) -> Iterator[Finding]:
    seen: set[Keys] = set()
    for error in errors:
        keys = _keys_within(value, error)
        # The members of a union all complain at one place: one sentence there is enough.
        if keys not in seen:
            seen.add(keys)
            yield Finding(keys, _sentence(model, keys, error))


def _keys_within(value: Any, error: ErrorDetails) -> Keys:
    """pydantic's location without the names of union members, which it mixes in with the user's own keys."""
    keys: list[Key] = []
    if not error["loc"]:  # all of it
        return ()
    *parents, last = error["loc"]
    for key in parents:
        if _holds(value, key):
            value = value[key]
            keys.append(key)
    # A key of the model itself belongs to the file even when it is not there: it is missing, or its default is wrong.
    if error["type"] == "missing" or not parents or _holds(value, last):
        keys.append(last)
    return tuple(keys)


def _holds(value: Any, key: Key) -> bool:
    if isinstance(value, Mapping):
        return key in value
    return isinstance(value, list) and isinstance(key, int) and key < len(value)


def _sentence(model: type[BaseModel], keys: Keys, error: ErrorDetails) -> str:
    kind, bounds = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        known = _fields_at(model, keys[:-1])
        return f"unknown key{did_you_mean(str(keys[-1]), known)} (known: {', '.join(known)})"
    if kind in ("literal_error", "enum"):
        wanted = str(bounds["expected"])
        if not isinstance(error["input"], str):
            # Where another number is wanted, `not a number` would only puzzle.
            return f"must be {wanted}" + (f", not {_kind(error['input'])}" if _TEXTS.fullmatch(wanted) else "")
        return f"must be {wanted}{did_you_mean(error['input'], _QUOTED.findall(wanted))}"
    if kind == "int_type" and isinstance(error["input"], float):
        kind = "int_from_float"  # what pydantic calls it when it is not strict
    if kind in _WANTED:
        return f"must be {_WANTED[kind]}, not {_kind(error['input'])}{_hint(model, keys, error)}"
    if kind in ("too_short", "string_too_short") and bounds["min_length"] == 1:
        return "must not be empty"
    if kind in _SENTENCES:
        return _SENTENCES[kind].format(**{name: _plain(bound) for name, bound in bounds.items()})
    if kind == "value_error":  # raised by the author of a sink
        return str(bounds["error"])
    said = error["msg"].replace("Input should", "must", 1)
    return said[:1].lower() + said[1:]


_QUOTED = re.compile(r"'([^']*)'")
_TEXTS = re.compile(r"'[^']*'((, | or )'[^']*')*")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
"""Text that would be a whole number if it stood in no quotes: not so `010`."""

_WANTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "tuple_type": "a list",
    "path_type": "text",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
}

_SENTENCES = {
    "missing": "is required",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "int_from_float": "must be a whole number, without a decimal point",
    "invalid_key": "a key must be text; put it in quotes",
    "too_short": "must hold at least {min_length}",
    "too_long": "must hold at most {max_length}",
    "string_too_short": "must be at least {min_length} characters long",
    "string_too_long": "must be at most {max_length} characters long",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "union_tag_invalid": "needs a {discriminator}: {expected_tags}",
}


def _plain(bound: Any) -> Any:
    """A bound as people write it: 60 and not 60.0."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _kind(value: Any) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return "yes/no"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
    return "a mapping"


def _hint(model: type[BaseModel], keys: Keys, error: ErrorDetails) -> str:
    kind, value = error["type"], error["input"]
    if kind == "model_type":
        return f" (known: {', '.join(_fields_at(model, keys))})"
    if _WANTED[kind] == "text":
        hints = {dict: "; put text with braces in quotes", list: "; put text with brackets in quotes", type(None): ""}
        return hints.get(type(value), "; put it in quotes")
    if isinstance(value, str) and _WANTED[kind] == "a list":
        return "; write it in brackets, as [one, two]"
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return "; write it without quotes"
    return ""


def _fields_at(model: type[BaseModel], keys: Keys) -> list[str]:
    """The keys that `model` knows at a place inside it."""
    current: Any = model
    for key in keys:
        field = current.model_fields.get(key) if isinstance(key, str) else None
        current = next(_models_in(field.annotation), current) if field else current
    return list(current.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
