"""The hookspecs, the base class and the protocol say the same; what travels in the hooks is frozen and told in units."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pluggy
import pytest

import mlxhub_core
from mlxhub_core import (
    Failure,
    HubEvent,
    HubModelContext,
    HubObservabilitySink,
    Sink,
    SinkStats,
    hookspecs,
    observability,
)
from mlxhub_core.events import Reason
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.states import ModelStatus

SEED_HOOKS = {
    "model_started": ["ctx", "pid"],
    "model_stopped": ["ctx", "exit_code"],
    "model_failed": ["ctx", "exit_code"],
}
"""What the seed promises."""

MESSAGES: list[type[Any]] = [HubEvent, HubModelContext, Failure, SinkStats, ModelStatus]
"""Everything that a sink gets to hold."""


def specs() -> dict[str, Callable[..., None]]:
    return {name: getattr(hookspecs, name) for name in HOOKS}


def methods(kind: type) -> dict[str, Callable[..., None]]:
    """The hooks of a class."""
    return {
        name: method
        for name, method in vars(kind).items()
        if inspect.isfunction(method) and not name.startswith("_") and name not in ("open", "flush", "close")
    }


def arguments(function: Callable[..., None]) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(function).parameters.values() if p.name != "self"]


def names(function: Callable[..., None]) -> list[str]:
    return [parameter.name for parameter in arguments(function)]


def types(function: Callable[..., None]) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(function).items() if name != "return"}


def test_the_base_class_has_each_hook_with_the_same_arguments_and_types() -> None:
    theirs, ours = methods(Sink), specs()
    assert list(theirs) == list(ours), "in the same order, to be read side by side"
    for name, spec in ours.items():
        assert names(theirs[name]) == names(spec), name
        assert types(theirs[name]) == types(spec), name


def test_the_protocol_is_that_of_the_seed_and_part_of_the_specs() -> None:
    protocol = methods(HubObservabilitySink)
    assert {name: names(method) for name, method in protocol.items()} == SEED_HOOKS
    for name, method in protocol.items():
        known = types(specs()[name])
        assert types(method).items() <= known.items(), name
        # As the seed writes it: the context by position, the rest by keyword.
        assert [p.kind for p in arguments(method)] == [
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        ]


def test_each_argument_of_a_spec_is_positional_and_has_no_default_or_pluggy_would_drop_it() -> None:
    for name, spec in specs().items():
        for parameter in arguments(spec):
            assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD, name
            assert parameter.default is inspect.Parameter.empty, name


def test_pluggy_knows_each_spec_with_all_its_arguments() -> None:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name, known in HOOKS.items():
        spec = getattr(manager.hook, name).spec
        assert spec is not None, name
        assert tuple(spec.argnames) == known == tuple(names(getattr(hookspecs, name)))


def test_each_hook_of_a_model_begins_with_its_context_and_all_end_with_the_envelope() -> None:
    for name, known in HOOKS.items():
        assert known[-1] == "event"
        assert (known[0] == "ctx") == name.startswith("model_"), name


def test_hooks_are_told_by_their_first_word_what_they_are_about() -> None:
    # So that a later check for misspelt hooks may refuse what begins like one and is none.
    assert {name.split("_")[0] for name in HOOKS} <= {"hub", "config", "model", "events"}


def test_in_a_sink_every_argument_but_the_context_is_keyword_only() -> None:
    for name, method in methods(Sink).items():
        kinds = {parameter.name: parameter.kind for parameter in arguments(method)}
        assert kinds.pop("ctx", None) in (None, inspect.Parameter.POSITIONAL_OR_KEYWORD), name
        assert set(kinds.values()) == {inspect.Parameter.KEYWORD_ONLY}, name


@pytest.mark.parametrize(
    "home",
    [hookspecs, Sink, HubObservabilitySink, observability.HubView],
    ids=["specs", "base-class", "protocol", "view"],
)
def test_each_hook_and_each_method_says_when_it_is_called(home: Any) -> None:
    functions = specs() if home is hookspecs else {n: f for n, f in vars(home).items() if inspect.isfunction(f)}
    documented = {name: inspect.getdoc(f) for name, f in functions.items() if not name.startswith("_")}
    assert documented
    for name, text in documented.items():
        assert text, f"{name} has no docstring"
        assert text.strip().endswith("."), name


def test_the_base_class_does_nothing() -> None:
    sink = Sink()
    for name, method in methods(Sink).items():
        assert method(sink, **dict.fromkeys(names(method))) is None, name
    sink.open()
    sink.close()
    assert vars(sink) == {}


def test_a_sink_that_has_the_three_methods_of_the_seed_fulfils_the_protocol() -> None:
    assert isinstance(Sink(), HubObservabilitySink)
    assert isinstance(mlxhub_core.LoggingHubObservabilitySink(), HubObservabilitySink)
    assert not isinstance(object(), HubObservabilitySink)


def test_the_markers_are_those_of_our_project_and_part_of_the_surface() -> None:
    assert mlxhub_core.hookimpl is hookspecs.hookimpl
    assert mlxhub_core.hookspec is hookspecs.hookspec
    assert (hookspecs.hookimpl.project_name, hookspecs.hookspec.project_name) == ("mlxhub", "mlxhub")


# What travels.


def entries(kind: type) -> dict[str, str]:
    """What the docstring of a class says of each of its fields."""
    _, _, text = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    return {
        match["field"]: " ".join(match["text"].split())
        for match in re.finditer(r"^    (?P<field>\w+): (?P<text>.*(?:\n {8}.*)*)", text, re.MULTILINE)
    }


@pytest.mark.parametrize("kind", MESSAGES)
def test_what_a_sink_gets_is_frozen_through_and_through(kind: type[Any]) -> None:
    assert kind.__dataclass_params__.frozen
    for name, hint in get_type_hints(kind).items():
        assert not re.search(r"\b(list|dict|set|Any|object)\b", str(hint)), f"{name} could be changed by a sink"


def test_one_sink_cannot_change_what_the_next_one_gets() -> None:
    event = HubEvent(seq=1, id="id", time=0.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.seq = 2  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        event.mine = 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", MESSAGES)
def test_each_field_is_told_in_the_docstring_and_no_other(kind: type[Any]) -> None:
    assert list(entries(kind)) == [field.name for field in dataclasses.fields(kind)]


@pytest.mark.parametrize("kind", MESSAGES)
def test_each_number_that_may_have_a_fraction_has_its_unit_in_the_docstring(kind: type[Any]) -> None:
    told = entries(kind)
    for name, hint in get_type_hints(kind).items():
        if "float" in str(hint):
            assert "seconds" in told[name], f"{kind.__name__}.{name}: {told[name]}"


def test_each_float_that_a_hook_passes_has_its_unit_in_its_name() -> None:
    for name, spec in specs().items():
        for argument, hint in types(spec).items():
            if hint is float:
                assert argument.endswith("_seconds"), f"{name}({argument})"


def test_what_a_failure_and_the_event_that_tells_it_share_is_named_alike() -> None:
    event, failure = get_type_hints(HubEvent), get_type_hints(Failure)
    assert set(failure) - set(event) == {"exit_code"}, "the hook's own argument"
    for name in set(failure) & set(event):
        assert failure[name] in (event[name], *get_args(event[name])), name


def test_the_health_of_a_model_is_told_between_its_readiness_and_its_end() -> None:
    told = list(HOOKS)
    assert told[told.index("model_ready") :][:4] == [
        *("model_ready", "model_unhealthy", "model_recovered", "model_stopped"),
    ]
    assert HOOKS["model_unhealthy"] == ("ctx", "reason", "event")
    assert HOOKS["model_recovered"] == ("ctx", "unhealthy_seconds", "event")


def test_each_reason_is_told_and_is_a_plain_word() -> None:
    assert [str(reason) for reason in Reason] == [reason.name.lower() for reason in Reason]
