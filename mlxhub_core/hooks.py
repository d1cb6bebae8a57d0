"""The hooks of one sink: found, checked, and made into calls.

A sink may write the arguments of a hook in any form: by position, keyword-only as in the seed, some of them, all of them
as `**more`, or further ones with a default. Each is called by keyword with just those it names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlxhub_core.errors import SinkError, did_you_mean, listed
from mlxhub_core.hookspecs import DEPRECATED, HOOKS
from mlxhub_core.observability import SINK_API, HubObservabilitySink, Sink

RESERVED = ("model_", "hub_", "config_", "events_")
"""How the names of hooks begin. A method so named that is no hook is a slip, or a hook of a later hub."""

Arguments = Mapping[str, Any]

_Kind = inspect.Parameter


def hooks_of(sink: object) -> dict[str, Callable[[Arguments], None]]:
    """The hooks that a sink implements, each as a call that passes it just the arguments it names.

    Raises:
        SinkError: `sink` has no hook at all, or one that the hub could not call or that would not be told the truth.
    """
    kind = type(sink).__name__
    if isinstance(sink, type):
        raise SinkError(f"{sink.__name__} is a class, not a sink; call it: {sink.__name__}()")
    check_version(sink, kind)
    for name in ("open", "flush", "close"):
        if callable(method := getattr(sink, name, None)):
            _names_wanted(f"{kind}.{name}", method, known=())
    hooks = {}
    for name, arguments in HOOKS.items():
        method = getattr(sink, name, None)
        if callable(method) and not is_inherited_noop(method, name):
            hooks[name] = _call_with_named(method, _names_wanted(f"{kind}.{name}", method, arguments))
    _check_names(sink, kind)
    if not hooks:
        raise SinkError(f"{kind} has no hook, so there is nothing to tell it; give it one of {listed(HOOKS)}")
    return hooks


def check_version(sink: object, kind: str) -> None:
    """Raise SinkError if a sink, or its class, asks for a sink API that this hub does not have.

    It is looked at before anything else of the class: what a later API brings, this hub would only misunderstand.
    """
    wanted = getattr(sink, "sink_api", SINK_API)
    if isinstance(wanted, int) and wanted > SINK_API:
        raise SinkError(f"{kind} needs sink API {wanted}, and this hub has {SINK_API}; upgrade mlxhub-core")


def deprecations_of(sink: object) -> Iterator[str]:
    """What a sink uses that the next sink API will not have any more, each as a sentence. It can be used all the same."""
    for key, advice in DEPRECATED.items():
        name, _, argument = key.partition(".")
        method = getattr(sink, name, None)
        if not callable(method) or is_inherited_noop(method, name):
            continue
        if not argument:
            yield f"{type(sink).__name__}.{name} is deprecated: {advice}"
        elif argument in inspect.signature(method).parameters:
            yield f"{type(sink).__name__}.{name} asks for {argument!r}, which is deprecated: {advice}"


def _check_names(sink: object, kind: str) -> None:
    """Refuse a method that looks like a hook and is none: it would never be called, and nobody would know why."""
    optional = getattr(sink, "optional_hooks", ())
    for name in _public_methods(sink):
        if name.startswith(RESERVED) and name not in HOOKS and name not in optional:
            raise SinkError(
                f"{kind}.{name} is not a hook of sink API {SINK_API}{did_you_mean(name, HOOKS)} (if it is one of a later"
                f" hub, upgrade mlxhub-core, or its author lists it in `optional_hooks`; a helper begins with _)"
            )


def _public_methods(sink: object) -> Iterator[str]:
    for name in sorted({*dir(type(sink)), *getattr(sink, "__dict__", ())}):
        # Statically: a property must not be run to find out that it is none. Of itself, a class method is not callable.
        attribute = inspect.getattr_static(sink, name, None)
        if callable(attribute) or isinstance(attribute, classmethod):
            yield name


def is_inherited_noop(method: Callable[..., Any], name: str) -> bool:
    """Whether a hook, of a sink or of its class, is the one of the base class that does nothing."""
    function = getattr(method, "__func__", method)
    return function is not None and function in (getattr(Sink, name, None), getattr(HubObservabilitySink, name, None))


def _names_wanted(where: str, method: Callable[..., Any], known: tuple[str, ...]) -> tuple[str, ...]:
    if inspect.iscoroutinefunction(method):
        raise SinkError(f"{where} is async, and nobody would await it; make it a plain function")
    parameters = inspect.signature(method).parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    # `*args` beside `**more` is a decorator's catch-all: what the hub passes arrives in `more`.
    if _Kind.POSITIONAL_ONLY in kinds or (_Kind.VAR_POSITIONAL in kinds and _Kind.VAR_KEYWORD not in kinds):
        raise SinkError(f"{where} takes arguments by position, and the hub passes them by name; drop `/` and `*args`")
    named = [p for p in parameters if p.kind in (_Kind.POSITIONAL_OR_KEYWORD, _Kind.KEYWORD_ONLY)]
    for parameter in named:
        if parameter.name not in known and parameter.default is parameter.empty:
            message = f"{where} asks for {parameter.name!r}, which sink API {SINK_API} does not pass"
            hint = did_you_mean(parameter.name, known)
            raise SinkError(f"{message}{hint} (it has {listed(known)}); upgrade mlxhub-core, or tell the sink's author")
    if _Kind.VAR_KEYWORD in kinds:
        return known
    return tuple(parameter.name for parameter in named if parameter.name in known)


def _call_with_named(method: Callable[..., Any], names: tuple[str, ...]) -> Callable[[Arguments], None]:
    def call(arguments: Arguments) -> None:
        method(**{name: arguments[name] for name in names})

    return call
