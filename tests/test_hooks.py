"""The hooks of a sink: in which forms they may be written, which are called, and what is refused with a sentence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from mlxhub_core import HubError, HubEvent, HubModelContext, HubObservabilitySink, Sink
from mlxhub_core.hooks import deprecations_of, hooks_of
from mlxhub_core.hookspecs import DEPRECATED, HOOKS

CTX = HubModelContext("qwen3-4b", "chat", "/logs/qwen3-4b.log")
EVENT = HubEvent(seq=1, id="id-1", time=1000.0)
FAILURE: dict[str, Any] = {"ctx": CTX, "exit_code": 3, "event": EVENT}


def acme(**members: object) -> object:
    """A sink of a class named Acme with these members."""
    return type("Acme", (), members)()


# In which forms a hook may be written.


def keyword_only(self: Any, ctx: HubModelContext, *, exit_code: int | None) -> None:
    self.seen.append({"ctx": ctx, "exit_code": exit_code})


def positional(self: Any, ctx: HubModelContext, exit_code: int | None, event: HubEvent) -> None:
    self.seen.append({"ctx": ctx, "exit_code": exit_code, "event": event})


def in_another_order(self: Any, event: HubEvent, exit_code: int | None, ctx: HubModelContext) -> None:
    self.seen.append({"ctx": ctx, "exit_code": exit_code, "event": event})


def only_one(self: Any, exit_code: int | None) -> None:
    self.seen.append({"exit_code": exit_code})


def none_at_all(self: Any) -> None:
    self.seen.append({})


def all_of_them(self: Any, **more: Any) -> None:
    self.seen.append(more)


def one_and_the_rest(self: Any, ctx: HubModelContext, **more: Any) -> None:
    self.seen.append({"ctx": ctx, "rest": more})


def extra_with_default(self: Any, ctx: HubModelContext, *, of_a_later_hub: str = "mine") -> None:
    self.seen.append({"ctx": ctx, "of_a_later_hub": of_a_later_hub})


def known_with_default(self: Any, ctx: HubModelContext | None = None, *, exit_code: int | None = None) -> None:
    self.seen.append({"ctx": ctx, "exit_code": exit_code})


def bare_decorator(function: Callable[..., None]) -> Callable[..., None]:
    def inner(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)

    return inner


FORMS = {
    "keyword-only-as-the-seed-has-it": (keyword_only, {"ctx": CTX, "exit_code": 3}),
    "positional": (positional, FAILURE),
    "another-order": (in_another_order, FAILURE),
    "fewer": (only_one, {"exit_code": 3}),
    "none": (none_at_all, {}),
    "double-star-more": (all_of_them, FAILURE),
    "one-and-double-star-more": (one_and_the_rest, {"ctx": CTX, "rest": {"exit_code": 3, "event": EVENT}}),
    "an-extra-one-with-a-default": (extra_with_default, {"ctx": CTX, "of_a_later_hub": "mine"}),
    "a-default-gives-way-to-the-true-value": (known_with_default, {"ctx": CTX, "exit_code": 3}),
    "behind-a-decorator-without-wraps": (bare_decorator(all_of_them), FAILURE),
    "behind-a-decorator-with-wraps": (
        functools.wraps(keyword_only)(bare_decorator(keyword_only)),
        {"ctx": CTX, "exit_code": 3},
    ),
}


@pytest.mark.parametrize(("form", "expected"), FORMS.values(), ids=FORMS)
def test_a_hook_gets_the_arguments_it_names_in_whatever_form(
    form: Callable[..., None], expected: dict[str, Any]
) -> None:
    seen: list[dict[str, Any]] = []
    hooks_of(acme(model_failed=form, seen=seen))["model_failed"](FAILURE)
    assert seen == [expected]


def test_a_hook_may_be_a_static_method_a_class_method_or_a_function_kept_by_the_object() -> None:
    seen: list[object] = []

    class Acme(Sink):
        def __init__(self) -> None:
            # Over an inherited hook that does nothing: this one does something.
            self.model_ready = lambda ctx: seen.append(("ready", ctx))  # type: ignore[assignment,misc]

        @staticmethod
        def model_failed(exit_code: int | None) -> None:  # type: ignore[override]
            seen.append(("failed", exit_code))

        @classmethod
        def model_stopped(cls, ctx: HubModelContext) -> None:  # type: ignore[override]
            seen.append(("stopped", ctx))

    for hook in hooks_of(Acme()).values():
        hook(FAILURE)
    assert seen == [("ready", CTX), ("stopped", CTX), ("failed", 3)]


def test_a_mock_serves_as_a_sink_in_the_tests_of_others() -> None:
    mock = Mock()
    hooks = hooks_of(mock)
    assert set(hooks) == set(HOOKS)
    hooks["model_failed"](FAILURE)
    mock.model_failed.assert_called_once_with(**FAILURE)


def test_a_sink_that_hands_on_what_it_does_not_know_has_the_hooks_of_the_other() -> None:
    class Wrapper:
        def __init__(self, other: object) -> None:
            self.other = other

        def __getattr__(self, name: str) -> Any:
            return getattr(self.other, name)

    assert set(hooks_of(Wrapper(acme(model_failed=only_one)))) == {"model_failed"}


# The seed's own sink, word for word but for its import line, which is the one at the top of this file.


class metrics:  # noqa: N801
    counted: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012

    def __init__(self, name: str, labels: dict[str, Any]) -> None:
        self.what = (name, labels)

    @classmethod
    def counter(cls, name: str, labels: dict[str, Any]) -> metrics:
        return cls(name, labels)

    def inc(self) -> None:
        self.counted.append(self.what)


# fmt: off
class MetricsSink(HubObservabilitySink):
    def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None:
        metrics.counter("hub_model_started", {"model": ctx.name, "group": ctx.group}).inc()

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        metrics.counter("hub_model_stopped", {"model": ctx.name}).inc()

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        metrics.counter("hub_model_failed", {"model": ctx.name, "exit_code": exit_code}).inc()
# fmt: on


def test_the_sink_of_the_seed_works_as_it_is_written() -> None:
    metrics.counted.clear()
    hooks = hooks_of(MetricsSink())
    hooks["model_started"]({"ctx": CTX, "pid": 42, "event": EVENT})
    hooks["model_stopped"]({"ctx": CTX, "exit_code": 0, "event": EVENT})
    hooks["model_failed"]({"ctx": CTX, "exit_code": -9, "event": EVENT})
    assert metrics.counted == [
        ("hub_model_started", {"model": "qwen3-4b", "group": "chat"}),
        ("hub_model_stopped", {"model": "qwen3-4b"}),
        ("hub_model_failed", {"model": "qwen3-4b", "exit_code": -9}),
    ]


# Which are called.


class OfBase(Sink):
    def model_failed(self, ctx: HubModelContext, **_: object) -> None: ...


class OfProtocol(HubObservabilitySink):
    def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None: ...


class Grandchild(OfBase):
    def model_ready(self, ctx: HubModelContext, **_: object) -> None: ...


@pytest.mark.parametrize(
    ("kind", "hooks"),
    [
        (OfBase, {"model_failed"}),
        (OfProtocol, {"model_started"}),
        (Grandchild, {"model_failed", "model_ready"}),
    ],
)
def test_hooks_that_are_inherited_and_do_nothing_are_not_called(kind: type, hooks: set[str]) -> None:
    assert set(hooks_of(kind())) == hooks


def not_to_be_run(self: object) -> None:
    raise AssertionError("a property was run")


HARMLESS = {
    "a-hook-that-is-no-method": {"model_ready": "since noon"},
    "open-and-close-that-are-no-methods": {"open": True, "close": False},
    "data-with-a-reserved-prefix": {"model_count": 3},
    "a-property-with-a-reserved-prefix": {"model_label": property(not_to_be_run)},
    "a-private-helper": {"_model_label": none_at_all},
    "a-public-helper": {"label_of_model": none_at_all},
    "a-hook-of-a-later-hub-that-is-optional": {
        "optional_hooks": ("model_petted",),
        "model_petted": lambda self, ctx, hand: None,
    },
    "the-sink-api-of-this-hub": {"sink_api": 1},
}


@pytest.mark.parametrize("members", HARMLESS.values(), ids=HARMLESS)
def test_what_only_looks_like_a_hook_or_may_be_missing_is_left_alone(members: dict[str, object]) -> None:
    assert set(hooks_of(acme(model_failed=only_one, **members))) == {"model_failed"}


# What is refused.


async def asynchronous(self: Any, ctx: HubModelContext) -> None: ...


REFUSED = {
    "an-argument-the-hub-does-not-have": (
        acme(model_failed=lambda self, ctx, host: None),
        "Acme.model_failed asks for 'host', which sink API 1 does not pass (it has ctx, exit_code, event); "
        + "upgrade mlxhub-core, or tell the sink's author",
    ),
    "a-misspelt-argument": (
        acme(model_failed=lambda self, ctx, *, exitcode: None),
        "asks for 'exitcode', which sink API 1 does not pass; did you mean 'exit_code'?",
    ),
    "an-argument-of-another-hook": (
        acme(model_started=lambda self, ctx, exit_code: None),
        "Acme.model_started asks for 'exit_code'",
    ),
    "an-argument-beside-double-star-more": (acme(model_failed=lambda self, host, **more: None), "asks for 'host'"),
    "positional-only": (
        acme(model_failed=lambda self, ctx, /: None),
        "Acme.model_failed takes arguments by position, and the hub passes them by name; drop `/` and `*args`",
    ),
    "positional-only-with-a-default": (acme(model_failed=lambda self, ctx=None, /, **more: None), "by position"),
    "star-args": (acme(model_failed=lambda self, *args: None), "by position"),
    "async": (
        acme(model_failed=asynchronous),
        "Acme.model_failed is async, and nobody would await it; make it a plain function",
    ),
    "open-with-an-argument": (
        acme(model_failed=only_one, open=lambda self, config: None),
        "Acme.open asks for 'config'",
    ),
    "async-close": (acme(model_failed=only_one, close=asynchronous), "Acme.close is async"),
    "a-later-sink-api": (
        acme(model_failed=only_one, sink_api=2),
        "Acme needs sink API 2, and this hub has 1; upgrade mlxhub-core",
    ),
    "a-misspelt-hook": (
        acme(model_failed=only_one, model_start=only_one),
        "Acme.model_start is not a hook of sink API 1; did you mean 'model_started'? (if it is one of a later hub, "
        + "upgrade mlxhub-core, or its author lists it in `optional_hooks`; a helper begins with _)",
    ),
    "a-misspelt-hook-about-the-hub": (acme(hub_start=only_one), "did you mean 'hub_started'?"),
    "a-misspelt-hook-about-the-file": (acme(config_reload=only_one), "did you mean 'config_reloaded'?"),
    "a-misspelt-hook-about-lost-events": (acme(events_loss=only_one), "did you mean 'events_lost'?"),
    "a-misspelt-static-method": (acme(model_start=staticmethod(none_at_all)), "Acme.model_start is not a hook"),
    "a-misspelt-class-method": (acme(model_start=classmethod(none_at_all)), "Acme.model_start is not a hook"),
    "another-hook-than-the-optional-one": (
        acme(model_start=only_one, optional_hooks=("model_petted",)),
        "Acme.model_start is not a hook",
    ),
    "the-class-itself": (OfBase, "OfBase is a class, not a sink; call it: OfBase()"),
    "none": (None, "NoneType has no hook"),
    "text": ("statsd", "str has no hook"),
    "the-base-class-as-it-is": (
        Sink(),
        "Sink has no hook, so there is nothing to tell it; give it one of hub_started, ",
    ),
}


@pytest.mark.parametrize(("sink", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_sink_that_could_not_be_told_is_refused_with_a_sentence(sink: object, sentence: str) -> None:
    with pytest.raises(HubError) as caught:
        hooks_of(sink)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_hook_that_the_object_keeps_itself_is_refused_too() -> None:
    sink = OfBase()
    sink.model_start = none_at_all  # type: ignore[attr-defined]
    with pytest.raises(HubError, match=r"OfBase\.model_start is not a hook"):
        hooks_of(sink)


# What will be gone.


@pytest.fixture
def deprecated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEPRECATED, "model_gave_up", "use model_failed")
    monkeypatch.setitem(DEPRECATED, "model_failed.exit_code", "use event.end")


@pytest.mark.usefixtures("deprecated")
def test_who_uses_what_is_deprecated_is_told_what_to_use_instead() -> None:
    sink = acme(model_failed=lambda self, ctx, *, exit_code: None, model_gave_up=lambda self, ctx: None)
    assert list(deprecations_of(sink)) == [
        "Acme.model_gave_up is deprecated: use model_failed",
        "Acme.model_failed asks for 'exit_code', which is deprecated: use event.end",
    ]
    assert set(hooks_of(sink)) == {"model_failed", "model_gave_up"}, "it works all the same"


@pytest.mark.usefixtures("deprecated")
@pytest.mark.parametrize("sink", [acme(model_failed=none_at_all), acme(model_failed=lambda self, **all_: None), Sink()])
def test_who_does_not_use_it_is_told_nothing(sink: object) -> None:
    assert list(deprecations_of(sink)) == []


def test_what_is_deprecated_are_hooks_and_their_arguments() -> None:
    for key in DEPRECATED:
        hook, _, argument = key.partition(".")
        assert not argument or argument in HOOKS[hook]
