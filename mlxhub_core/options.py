"""A sink's keyword parameters are its options in hub.yaml: their types, defaults and limits, checked."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pydantic import BaseModel, create_model

from mlxhub_core.checking import STRICT, Finding, check


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
    hints = _hints(sink)
    for parameter in _parameters(sink):
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise UnusableParametersError(f"parameter {parameter} has no name that hub.yaml could use")
        if name not in hints:
            raise UnusableParametersError(f"parameter {name!r} has no type")
        fields[name] = (hints[name], ... if parameter.default is parameter.empty else parameter.default)
    return create_model("Options", __config__=STRICT, **fields)


def _parameters(sink: Callable[..., object]) -> list[inspect.Parameter]:
    if isinstance(sink, type) and _has_no_init(sink):
        return []
    return list(inspect.signature(sink).parameters.values())


def _has_no_init(sink: type) -> bool:
    # A Protocol hands its subclasses a catch-all __init__, which says nothing about options.
    owner = _owner_of_init(sink)
    return owner is object or owner is Protocol or bool(getattr(owner, "_is_protocol", False))


def _owner_of_init(sink: type) -> type:
    return next(base for base in sink.__mro__ if "__init__" in vars(base))


def _hints(sink: Callable[..., object]) -> dict[str, Any]:
    target = vars(_owner_of_init(sink))["__init__"] if isinstance(sink, type) else sink
    try:
        return typing.get_type_hints(target, include_extras=True)
    except (NameError, TypeError) as error:
        raise UnusableParametersError(f"its types cannot be read: {error}") from None
