"""A sink's keyword parameters are its options in hub.yaml: their types, defaults and limits, checked."""

from __future__ import annotations

import inspect
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Strict, create_model
from pydantic.errors import PydanticUserError

from mlxhub_core.checking import STRICT, Finding, check

_SPELT_OTHERWISE = (tuple, set, frozenset, PurePath, Enum)
"""Types that YAML has no way to write: a list or a text is taken for them. All others must be given as they are."""


class UnusableParametersError(TypeError):
    """The parameters of a sink cannot serve as options: a mistake of its author."""


def check_options(sink: Callable[..., object], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """Check options against the parameters of a sink class (or of any callable that returns a sink).

    Returns:
        the keyword arguments to call it with, and what is wrong. With findings, the arguments are empty.

    Raises:
        UnusableParametersError: the sink's parameters cannot be options.
    """
    model, findings = check(_options_model(sink), dict(given))
    return ({} if model is None else {key: getattr(model, key) for key in model.model_fields_set}), findings


def _options_model(sink: Callable[..., object]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    parameters, hints = _parameters(sink), _hints(sink)
    for parameter in parameters:
        name, optional = parameter.name, parameter.default is not parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise UnusableParametersError(f"parameter {parameter} has no name that hub.yaml could use")
        if name.startswith("_") and optional:
            # Its own affair, as a client that its tests pass in.
            continue
        if name not in hints:
            raise UnusableParametersError(f"parameter {name!r} has no type")
        if name.startswith("_") or (name.startswith("model_") and hasattr(BaseModel, name)):
            raise UnusableParametersError(f"parameter {name!r} has a name that pydantic keeps for itself")
        fields[name] = (_as_yaml_has_it(hints[name]), parameter.default if optional else ...)
    return _model_of(fields)


def _model_of(fields: dict[str, Any]) -> type[BaseModel]:
    with warnings.catch_warnings():
        # An option may well be called `json` or `schema`: that it hides a method of the model harms nobody.
        warnings.filterwarnings("ignore", "Field name .* shadows an attribute", UserWarning)
        try:
            return create_model("Options", __config__=STRICT, **fields)
        except PydanticUserError as error:
            reason, _, _ = error.message.partition(". ")
            raise UnusableParametersError(f"one of its types cannot be checked: {reason}") from None


def _as_yaml_has_it(hint: Any) -> Any:
    """The type, made lenient where it, or a type inside it, has no strict form in YAML."""
    origin = get_origin(hint)
    if origin is Annotated:
        return Annotated[(_as_yaml_has_it(hint.__origin__), *hint.__metadata__)]
    inside = tuple(map(_as_yaml_has_it, get_args(hint)))
    if origin in (Union, types.UnionType):
        return Union[inside]  # noqa: UP007  # `|` does not take a tuple
    if origin in (list, dict, tuple, set, frozenset):
        hint = origin[inside]
    kind = origin or hint
    return Annotated[hint, Strict(False)] if isinstance(kind, type) and issubclass(kind, _SPELT_OTHERWISE) else hint


def _parameters(sink: Callable[..., object]) -> list[inspect.Parameter]:
    if isinstance(sink, type) and getattr(_owner_of_init(sink), "_is_protocol", False):
        # A Protocol hands its subclasses a catch-all __init__, which says nothing about options.
        return []
    try:
        return list(inspect.signature(sink).parameters.values())
    except ValueError as error:
        raise UnusableParametersError(f"its parameters cannot be read: {error}") from None


def _owner_of_init(sink: type) -> type:
    return next(base for base in sink.__mro__ if "__init__" in vars(base))


def _hints(sink: Callable[..., object]) -> dict[str, Any]:
    target = vars(_owner_of_init(sink))["__init__"] if isinstance(sink, type) else sink
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception as error:  # noqa: BLE001  # types may be text that is evaluated here, and so raise anything
        raise UnusableParametersError(f"its types cannot be read: {error}") from None
