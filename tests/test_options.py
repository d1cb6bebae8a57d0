"""A sink's keyword parameters as its options: what may be written in hub.yaml, and what its author may declare."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from mlxhub_core import HubModelContext, HubObservabilitySink, Sink, options
from mlxhub_core.errors import SinkError

CANARY = "s3cr3t-canary"
"""What no message may repeat."""


class Flavor(Enum):
    PLAIN = "plain"
    DATADOG = "datadog"


class Acme(Sink):
    def __init__(
        self,
        *,
        host: str,
        port: Annotated[int, Field(ge=1, le=65535)] = 8125,
        interval: float = 10.0,
        verbose: bool = False,
        flavor: Literal["plain", "datadog"] = "plain",
        token: str | None = None,
        tags: list[str] | None = None,
        labels: dict[str, str] | None = None,
        path: Path | None = None,
        style: Flavor = Flavor.PLAIN,
        buckets: tuple[float, ...] = (),
        only: Annotated[set[str] | None, Field(max_length=2)] = None,
        files: list[Path] | None = None,
    ) -> None:
        raise AssertionError("to check the options is not to make the sink")


HERE = Path("/where/hub.yaml/is")


def check_options(sink: Callable[..., object], given: dict[str, Any], directory: Path = HERE) -> Any:
    return options.check_options(sink, given, directory)


def declared(annotation: Any, default: Any = ...) -> Callable[..., object]:
    """A sink with one option `x` of a type."""

    def make(*, x: Any = default) -> object:
        return x

    make.__annotations__["x"] = annotation
    if default is ...:
        make.__kwdefaults__ = {}
    return make


def findings(sink: Callable[..., object], given: dict[str, Any]) -> dict[str, str]:
    """What is wrong with each option, by its path."""
    arguments, found = check_options(sink, given)
    assert not (arguments and found), "arguments only if nothing is wrong"
    return {".".join(map(str, finding.keys)): finding.message for finding in found}


# What a user writes.


def test_what_is_written_is_passed_and_what_is_not_is_left_to_the_sinks_own_defaults() -> None:
    given = {"host": "stats.eu.internal", "port": 9125}
    assert check_options(Acme, given) == (given, [])


@pytest.mark.parametrize(
    ("option", "value", "passed"),
    [
        ("port", 1, 1),
        ("port", 65535, 65535),
        ("interval", 5, 5.0),
        ("verbose", True, True),
        ("flavor", "datadog", "datadog"),
        ("token", None, None),
        ("token", CANARY, CANARY),
        ("tags", ["a", "b"], ["a", "b"]),
        ("labels", {"region": "eu"}, {"region": "eu"}),
        ("path", "/var/log/acme", Path("/var/log/acme")),
        ("style", "datadog", Flavor.DATADOG),
        ("buckets", [1, 2.5], (1.0, 2.5)),
        ("only", ["model_failed"], {"model_failed"}),
        ("files", ["a", "/b"], [Path("/where/hub.yaml/is/a"), Path("/b")]),
    ],
    ids=str,
)
def test_a_value_of_the_declared_type_is_taken(option: str, value: object, passed: object) -> None:
    arguments, found = check_options(Acme, {"host": "h", option: value})
    assert (arguments[option], found) == (passed, [])
    assert type(arguments[option]) is type(passed)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("port", True, "must be a whole number, not yes/no"),
        ("port", "8126", "must be a whole number, not text; write it without quotes"),
        ("port", 8126.0, "must be a whole number"),
        ("port", None, "must be a whole number, not empty"),
        ("port", 99999, "must be at most 65535"),
        ("port", 0, "must be at least 1"),
        ("interval", "1:30", "must be a number, not text"),
        ("interval", False, "must be a number, not yes/no"),
        ("interval", float("inf"), "finite"),
        ("verbose", 1, "must be true or false, not a number"),
        ("verbose", "yes", "must be true or false, not text"),
        ("host", 10.1, "must be text, not a number; put it in quotes"),
        ("host", False, "must be text, not yes/no; put it in quotes"),
        ("host", None, "must be text, not empty"),
        ("flavor", "datadogg", "must be 'plain' or 'datadog'; did you mean 'datadog'?"),
        ("flavor", True, "must be 'plain' or 'datadog'"),
        ("tags", "a, b", "must be a list, not text"),
        ("tags", {"a": 1}, "must be a list, not a mapping"),
        ("labels", ["region"], "must be a mapping of keys to values, not a list"),
        ("path", 5, "path"),
        ("path", True, "path"),
        ("style", "dogdata", "'plain' or 'datadog'"),
        ("buckets", "1,2", "must be a list, not text"),
        ("only", ["a", "b", "c"], "at most 2"),
        ("only", "model_failed", "set"),
        ("files", "a", "must be a list, not text"),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused_and_not_bent(option: str, value: object, message: str) -> None:
    found = findings(Acme, {"host": "h", option: value})
    assert list(found) == [option]
    assert message in found[option]


@pytest.mark.parametrize(
    ("option", "value", "path"),
    [("tags", ["a", 5], "tags.1"), ("labels", {"a": 5}, "labels.a"), ("buckets", [1, "2"], "buckets.1")],
    ids=["list", "mapping", "tuple"],
)
def test_a_mistake_inside_a_value_is_found_at_its_place(option: str, value: object, path: str) -> None:
    assert list(findings(Acme, {"host": "h", option: value})) == [path]


def test_an_unknown_option_comes_with_the_nearest_name_and_all_the_others() -> None:
    found = findings(Acme, {"host": "h", "prot": 8126})
    assert found["prot"].startswith("unknown key; did you mean 'port'? (known: host, port, interval, ")


def test_an_option_that_must_be_given_is_missed() -> None:
    assert findings(Acme, {}) == {"host": "is required"}


def test_all_mistakes_are_found_at_once() -> None:
    found = findings(Acme, {"port": True, "flavor": 3, "prot": 1})
    assert set(found) == {"host", "port", "flavor", "prot"}


def test_a_key_that_is_a_number_is_refused() -> None:
    assert set(findings(declared(int, 1), {1: 2})) == {"1"}  # type: ignore[dict-item]


WRONG_SHAPES = [
    pytest.param(declared(str | None, None), {"x": {"v": CANARY}}, id="a-mapping-for-text"),
    pytest.param(declared(str | None, None), {"x": [CANARY]}, id="a-list-for-text"),
    pytest.param(declared(int), {"x": CANARY}, id="text-for-a-number"),
    pytest.param(declared(bool), {"x": CANARY}, id="text-for-yes-or-no"),
    pytest.param(declared(Literal["plain"]), {"x": CANARY}, id="text-for-one-of-some"),
    pytest.param(declared(Flavor), {"x": CANARY}, id="text-for-a-member"),
    pytest.param(declared(list[int]), {"x": [CANARY]}, id="text-in-a-list-of-numbers"),
    pytest.param(declared(dict[str, int]), {"x": {"k": CANARY}}, id="text-in-a-mapping-to-numbers"),
    pytest.param(declared(Annotated[str, Field(pattern="^[a-z]+$")]), {"x": CANARY}, id="text-of-another-pattern"),
    pytest.param(declared(Annotated[str, Field(max_length=3)]), {"x": CANARY}, id="text-too-long"),
    pytest.param(declared(int, 1), {"y": CANARY}, id="an-unknown-option"),
]


@pytest.mark.parametrize(("sink", "given"), WRONG_SHAPES)
def test_no_message_repeats_a_value_for_it_may_be_a_secret(sink: Callable[..., object], given: dict[str, Any]) -> None:
    found = findings(sink, given)
    assert found
    assert CANARY not in str(found)


# What an author declares.


class Untyped(HubObservabilitySink):
    """As the seed has it: no constructor, and the catch-all one of a Protocol behind it."""

    def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None: ...
    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None) -> None: ...
    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None) -> None: ...


class Plain:
    pass


class OfBase(Sink):
    pass


@pytest.mark.parametrize("sink", [Untyped, Plain, OfBase])
def test_a_sink_without_a_constructor_has_no_options_also_after_one_was_made(sink: type) -> None:
    for _ in range(2):
        assert check_options(sink, {}) == ({}, [])
        assert findings(sink, {"port": 1})["port"].startswith("unknown key")
        sink()


def test_a_constructor_is_inherited_with_its_options() -> None:
    class Child(Acme):
        pass

    assert findings(Child, {}) == {"host": "is required"}


def test_a_dataclass_its_defaults_made_by_a_factory_among_them_is_a_sink() -> None:
    @dataclass
    class Sinklet:
        host: str
        tags: list[str] = field(default_factory=list)

    arguments, found = check_options(Sinklet, {"host": "h"})
    assert (Sinklet(**arguments), found) == (Sinklet("h", []), [])
    assert findings(Sinklet, {"host": "h", "tags": [1]}).keys() == {"tags.0"}


def test_a_default_need_not_fit_its_type() -> None:
    assert check_options(declared(int, None), {}) == ({}, [])


def factory(*, port: int) -> object:
    return port


@functools.wraps(factory)
def decorated(**options: Any) -> object:
    return factory(**options)


class WithClassMethod:
    @classmethod
    def make(cls, *, port: int) -> object:
        return port


def quoted(*, port: "int") -> object:  # noqa: UP037  # twice text: by these quotes and by the import from __future__
    return port


@pytest.mark.parametrize(
    "sink",
    [factory, decorated, WithClassMethod.make, quoted],
    ids=["plain", "decorated", "of-a-class", "with-types-in-quotes"],
)
def test_a_function_may_make_sinks(sink: Callable[..., object]) -> None:
    assert check_options(sink, {"port": 1}) == ({"port": 1}, [])
    assert findings(sink, {"port": True}) == {"port": "must be a whole number, not yes/no"}


@pytest.mark.parametrize("name", ["schema", "json", "copy", "dict", "validate", "model_label", "root", "self"])
def test_an_option_may_have_any_name_that_says_what_it_is(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def make(*, {name}: int = 1): ...", namespace)
    assert check_options(namespace["make"], {name: 5}) == ({name: 5}, [])
    assert check_options(namespace["make"], {}) == ({}, [])


def test_a_private_parameter_with_a_default_is_no_option() -> None:
    def make(*, port: int = 1, _client: socket.socket | None = None, _clock=None) -> None:  # type: ignore[no-untyped-def]
        ...

    assert check_options(make, {"port": 2}) == ({"port": 2}, [])
    assert findings(make, {"_client": 5})["_client"].endswith("(known: port)")


def star_args(*hosts: str) -> None: ...
def star_kwargs(**options: str) -> None: ...
def by_position(host: str, /) -> None: ...
def typeless(*, host="h") -> None: ...  # type: ignore[no-untyped-def]
def private(*, _host: str) -> None: ...
def reserved(*, model_config: str = "x") -> None: ...
def reserved_too(*, model_fields_set: str = "x") -> None: ...
def unresolved(*, client: Nope) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def misspelt(*, client: os.Nope) -> None: ...  # type: ignore[name-defined]


@pytest.mark.parametrize(
    ("sink", "reason"),
    [
        pytest.param(star_args, "parameter *hosts: ", id="star-args"),
        pytest.param(star_kwargs, "parameter **options: ", id="star-star-kwargs"),
        pytest.param(by_position, "parameter host: ", id="positional-only"),
        pytest.param(typeless, "parameter 'host' has no type", id="no-type"),
        pytest.param(private, "parameter '_host' has a name that pydantic keeps for itself", id="private"),
        pytest.param(reserved, "parameter 'model_config' has a name that pydantic keeps for itself", id="reserved"),
        pytest.param(reserved_too, "parameter 'model_fields_set' has a name that pydantic", id="reserved-too"),
        pytest.param(unresolved, "its types cannot be read: name 'Nope' is not defined", id="a-type-not-imported"),
        pytest.param(misspelt, "its types cannot be read: module 'os' has no attribute 'Nope'", id="a-type-misspelt"),
        pytest.param(dict, "its parameters cannot be read: no signature found for builtin type", id="no-signature"),
        pytest.param(
            declared(socket.socket),
            "one of its types cannot be checked: Unable to generate pydantic-core schema for <class 'socket.socket'>",
            id="a-type-nobody-can-write",
        ),
    ],
)
def test_parameters_that_cannot_be_options_are_their_authors_mistake(sink: Callable[..., object], reason: str) -> None:
    with pytest.raises(SinkError) as caught:
        check_options(sink, {})
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)
    assert "http" not in str(caught.value)
