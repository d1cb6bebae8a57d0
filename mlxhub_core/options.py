"""A sink's keyword parameters are its options in hub.yaml: their types, defaults and limits, checked.

The parameters of a dataclass among their types are checked by the same rules, and so on inwards.
"""

from __future__ import annotations

import dataclasses
import errno
import inspect
import os
import stat
import sys
import types
import typing
import warnings
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PlainValidator,
    Strict,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)
from pydantic.errors import PydanticUserError

from mlxhub_core.checking import STRICT, Finding, check, refusal
from mlxhub_core.errors import SinkError
from mlxhub_core.secret import Secret

RESERVED = "delivery"
"""The key of a sink in hub.yaml that is the hub's own."""

MOST_SECRET = 64 * 1024
"""Bytes that a file may have which holds a secret: chains of certificates are long."""
_SPELT_OTHERWISE = (tuple, set, frozenset, PurePath, Enum)
"""Types that YAML has no way to write: a list or a text is taken for them. All others must be given as they are."""


def check_options(
    sink: Callable[..., object], given: Mapping[str, Any], directory: Path
) -> tuple[dict[str, Any], list[Finding]]:
    """Check options against the parameters of a sink class (or of any callable that returns a sink).

    Args:
        sink: what will be called.
        given: the options as they stand in hub.yaml.
        directory: where relative paths begin.

    Returns:
        the keyword arguments to call it with, and what is wrong. With findings, the arguments are empty.

    Raises:
        SinkError: the sink's parameters cannot be options.
    """
    model = options_model(sink)
    try:
        checked, findings = check(model, dict(given), context=directory)
    except Exception as error:  # noqa: BLE001  # a limit that its type cannot have, or what a dataclass raises
        # Not what it says, which may repeat a value.
        raise SinkError(f"one of its types fails to check what was given: {type(error).__name__}") from None
    return ({} if checked is None else _given(checked)), findings


def options_schema(sink: Callable[..., object]) -> dict[str, Any]:
    """The options of a sink as a JSON schema; what each means is taken from the docstring.

    Raises:
        SinkError: the sink's parameters cannot be options.
    """
    model = options_model(sink)
    with warnings.catch_warnings():
        # A default that JSON has no way to write is left out.
        warnings.simplefilter("ignore")
        try:
            return model.model_json_schema()
        except PydanticUserError as error:
            raise SinkError(f"one of its types has no JSON schema: {error.message.splitlines()[0]}") from None


def _describe(sink: Callable[..., object], schema: dict[str, Any]) -> None:
    for name, meaning in _meanings(sink):
        if name in schema.get("properties", {}):
            schema["properties"][name].setdefault("description", meaning)


def _meanings(sink: Callable[..., object]) -> Iterator[tuple[str, str]]:
    """What the docstrings of a class and its constructor say of the parameters, in any of the usual styles."""
    import docstring_parser  # only who describes a sink needs it

    for text in (inspect.getdoc(sink), inspect.getdoc(getattr(sink, "__init__", None))):
        for parameter in docstring_parser.parse(text or "").params:
            if parameter.description:
                yield parameter.arg_name, " ".join(parameter.description.split())


def options_model(sink: Callable[..., object]) -> type[BaseModel]:
    """The parameters of a sink as a pydantic model. Raises SinkError when they cannot be options."""
    config = STRICT | ConfigDict(json_schema_extra=partial(_describe, sink))
    with warnings.catch_warnings():
        # An option may well be called `json` or `schema`: that it hides a method of the model harms nobody.
        warnings.filterwarnings("ignore", "Field name .* shadows an attribute", UserWarning)
        try:
            return create_model(getattr(sink, "__name__", "Options"), __config__=config, **_fields(sink))
        except PydanticUserError as error:
            reason, _, _ = error.message.partition(". ")
        except (TypeError, RuntimeError) as error:  # RecursionError too: a dataclass that holds itself
            reason = str(error)
    raise SinkError(f"one of its types cannot be checked: {reason}")


def _fields(sink: Callable[..., object]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    hints = _hints(sink)
    for parameter in _parameters(sink):
        name, optional = parameter.name, parameter.default is not parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise SinkError(f"parameter {parameter} has no name that hub.yaml could use")
        if name.startswith("_") and optional:
            # Its own affair, as a client that its tests pass in.
            continue
        if name not in hints:
            raise SinkError(f"parameter {name!r} has no type")
        if name == RESERVED:
            raise SinkError(f"parameter {name!r} has a name that hub.yaml keeps for the hub")
        if name.startswith("_") or (name.startswith("model_") and hasattr(BaseModel, name)):
            raise SinkError(f"parameter {name!r} has a name that pydantic keeps for itself")
        fields[name] = (_as_yaml_has_it(hints[name]), parameter.default if optional else ...)
    return fields


def _given(model: BaseModel) -> dict[str, Any]:
    """What was written; the sink's own defaults fill in the rest."""
    return {key: getattr(model, key) for key in model.model_fields_set}


def _as_yaml_has_it(hint: Any) -> Any:
    """The type, made lenient where it, or a type inside it, has no strict form in YAML."""
    if hint is Secret:
        return _SECRET
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return Annotated[options_model(hint), AfterValidator(lambda model: hint(**_given(model)))]
    origin = get_origin(hint)
    if origin is Annotated:
        return Annotated[(_as_yaml_has_it(hint.__origin__), *hint.__metadata__)]
    inside = tuple(map(_as_yaml_has_it, get_args(hint)))
    if origin in (Union, types.UnionType):
        return Union[inside]  # noqa: UP007  # `|` does not take a tuple
    if isinstance(origin, type) and inside:
        hint = origin[inside]  # type: ignore[index]
    kind = origin or hint
    if not (isinstance(kind, type) and issubclass(kind, _SPELT_OTHERWISE)):
        return hint
    return (
        Annotated[hint, Strict(False), AfterValidator(_found)]
        if issubclass(kind, Path)
        else Annotated[hint, Strict(False)]
    )


def _found(path: Path, info: ValidationInfo) -> Path:
    """A path as hub.yaml means it: from its own directory, or from somebody's home."""
    try:
        return (info.context or Path()) / path.expanduser()
    except RuntimeError:
        raise refusal(f"the path {path} begins with a home that is not there") from None


def _secret(value: Any, info: ValidationInfo) -> Secret:
    """The text itself, or from where it says. No message repeats any of it."""
    match value:
        case str() as text:
            pass
        case {"env": str(name)} if len(value) == 1:
            text = os.environ.get(name, "")
            if not text:
                raise refusal(f"the environment variable {name} is not set, or empty; set it where the hub is started")
        case {"file": str(name)} if len(value) == 1:
            text = _content(name, info.context)
        case _:
            raise refusal("must be text in quotes, {env: NAME} or {file: path}")
    if not text:
        raise refusal("must not be empty")
    return Secret(text)


def _content(name: str, directory: Path | None) -> str:
    try:
        path = (directory or Path()) / Path(name).expanduser()
        # Should it be a named pipe, nobody shall wait for somebody to write into it.
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is none")
            content = file.read(MOST_SECRET + 1)
        if len(content) > MOST_SECRET:
            raise OSError(errno.EFBIG, "it is too long for a secret")
        # A file ends with a newline that its writer did not think of.
        return content.decode().strip()
    except OSError as error:
        raise refusal(f"the file {name} cannot be read: {error.strerror}") from None
    except (ValueError, RuntimeError):
        raise refusal(f"the file {name} cannot be read: it is no text, or the path is none") from None


_SECRET = Annotated[
    Any,
    PlainValidator(_secret),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                *(
                    {
                        "type": "object",
                        "properties": {k: {"type": "string"}},
                        "required": [k],
                        "additionalProperties": False,
                    }
                    for k in ("env", "file")
                ),
            ],
            "title": "secret",
        }
    ),
]


def _parameters(sink: Callable[..., object]) -> list[inspect.Parameter]:
    if isinstance(sink, type) and getattr(_owner_of_init(sink), "_is_protocol", False):
        # A Protocol hands its subclasses a catch-all __init__, which says nothing about options.
        return []
    try:
        return list(inspect.signature(sink).parameters.values())
    except (ValueError, TypeError) as error:
        raise SinkError(f"its parameters cannot be read: {error}") from None


def _owner_of_init(sink: type) -> type:
    return next(base for base in sink.__mro__ if "__init__" in vars(base))


def _hints(sink: Callable[..., object]) -> dict[str, Any]:
    target, names = sink, None
    if isinstance(sink, type):
        owner = _owner_of_init(sink)
        target = vars(owner)["__init__"]
        # A dataclass may inherit fields, and the text of their types, from one in a module with other imports.
        modules = (sys.modules.get(base.__module__) for base in owner.__mro__)
        names = ChainMap(*(getattr(module, "__dict__", {}) for module in modules))
    try:
        return typing.get_type_hints(target, localns=names, include_extras=True)
    except Exception as error:  # noqa: BLE001  # types may be text that is evaluated here, and so raise anything
        raise SinkError(f"its types cannot be read: {error}") from None
