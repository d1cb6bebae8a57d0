"""A sink's keyword parameters as its options: what may be written in hub.yaml, and what its author may declare."""

from __future__ import annotations

import functools
import importlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen, MultipleOf
from jsonschema import Draft202012Validator
from pydantic import Field

from mlxhub_core import HubModelContext, HubObservabilitySink, Sink, options
from mlxhub_core.errors import SinkError
from mlxhub_core.options import options_schema
from mlxhub_core.yaml_source import Source

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
        port: Annotated[int, Interval(ge=1, le=65535)] = 8125,
        interval: float = 10.0,
        verbose: bool = False,
        flavor: Literal["plain", "datadog"] = "plain",
        token: str | None = None,
        tags: list[str] | None = None,
        labels: dict[str, str] | None = None,
        path: Path | None = None,
        style: Flavor = Flavor.PLAIN,
        buckets: tuple[float, ...] = (),
        only: Annotated[set[str] | None, MaxLen(2)] = None,
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
    told = {".".join(map(str, finding.keys)): finding.message for finding in found}
    assert len(told) == len(found), "one sentence for each place"
    return told


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
        ("path", 5, "must be text, not a number; put it in quotes"),
        ("path", True, "must be text, not yes/no; put it in quotes"),
        ("path", "~nobody-at-all/x", "the path ~nobody-at-all/x begins with a home that is not there"),
        ("style", "datadogg", "must be 'plain' or 'datadog'; did you mean 'datadog'?"),
        ("style", 5, "must be 'plain' or 'datadog', not a number"),
        ("buckets", "1,2", "must be a list, not text; write it in brackets, as [one, two]"),
        ("only", ["a", "b", "c"], "at most 2"),
        ("only", "model_failed", "must be a valid set"),
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


def test_where_two_types_may_be_one_sentence_is_enough() -> None:
    assert findings(declared(int | bool), {"x": CANARY}) == {"x": "must be a whole number, not text"}
    found = findings(declared(str | list[int]), {"x": ["a"]})
    assert found["x.0"] == "must be a whole number, not text"


def test_an_unknown_option_comes_with_the_nearest_name_and_all_the_others() -> None:
    found = findings(Acme, {"host": "h", "prot": 8126})
    assert found["prot"].startswith("unknown key; did you mean 'port'? (known: host, port, interval, ")


def test_an_option_that_must_be_given_is_missed() -> None:
    assert findings(Acme, {}) == {"host": "is required"}


@pytest.mark.parametrize(
    ("annotation", "text", "message"),
    [
        (int, "yes", "must be a whole number, not yes/no"),
        (int, '"8126"', "must be a whole number, not text; write it without quotes"),
        (int, "1e3", "must be a whole number, not text"),
        (float, "yes", "must be a number, not yes/no"),
        (float, ".inf", "must be a finite number"),
        (str, "1.10", "must be text, not a number; put it in quotes"),
        (str, "123", "must be text, not a number; put it in quotes"),
        (str, "on", "must be text, not yes/no; put it in quotes"),
        (str, "{name}", "must be text, not a mapping; put text with braces in quotes"),
        (str, "[a]", "must be text, not a list; put text with brackets in quotes"),
        (bool, "0", "must be true or false, not a number"),
        (list[str], "a, b", "must be a list, not text; write it in brackets, as [one, two]"),
        (tuple[int, ...], '["5"]', "must be a whole number, not text; write it without quotes"),
        (set[str], "[1.10]", "must be text, not a number; put it in quotes"),
        (dict[str, int], "{1: 2}", "must be text, not a number; put it in quotes"),
        (Mapping[str, int], "{a: yes}", "must be a whole number, not yes/no"),
        (Literal["on", "off"], "on", "must be 'on' or 'off', not yes/no"),
        (Literal["1.10", "1.2", "2"], "1.10", "must be '1.10', '1.2' or '2', not a number"),
        (Literal[1, "auto"], "2", "must be 1 or 'auto'"),
    ],
    ids=str,
)
def test_what_yaml_takes_for_something_else_is_refused_with_what_to_do(
    annotation: Any, text: str, message: str
) -> None:
    (found,) = findings(declared(annotation), Source("hub.yaml", f"x: {text}").value).values()
    assert found == message


@pytest.mark.parametrize(
    ("annotation", "fits", "beyond", "message"),
    [
        (Annotated[int, Ge(1)], 1, 0, "must be at least 1"),
        (Annotated[float, Gt(0)], 0.1, 0, "must be more than 0"),
        (Annotated[int, Le(9)], 9, 10, "must be at most 9"),
        (Annotated[float, Lt(1.5)], 1.4, 1.5, "must be less than 1.5"),
        (Annotated[int, Interval(ge=1, lt=9)], 8, 9, "must be less than 9"),
        (Annotated[int, MultipleOf(3)], 6, 7, "must be a multiple of 3"),
        (Annotated[str, MinLen(1)], "a", "", "must not be empty"),
        (Annotated[str, MinLen(2)], "ab", "a", "must be at least 2 characters long"),
        (Annotated[str, MaxLen(2)], "ab", "abc", "must be at most 2 characters long"),
        (Annotated[list[int], MinLen(1)], [1], [], "must not be empty"),
        (Annotated[list[int], Len(2, 3)], [1, 2], [1], "must hold at least 2"),
        (Annotated[dict[str, int], MaxLen(1)], {"a": 1}, {"a": 1, "b": 2}, "must hold at most 1"),
        (Annotated[int, Ge(1)] | None, None, 0, "must be at least 1"),
        (Annotated[int | None, Ge(1)], 1, 0, "must be at least 1"),
        (list[Annotated[int, Ge(1)]], [1], [0], "must be at least 1"),
        (dict[str, Annotated[int, Ge(1)]], {"a": 1}, {"a": 0}, "must be at least 1"),
    ],
    ids=str,
)
def test_a_limit_is_kept(annotation: Any, fits: object, beyond: object, message: str) -> None:
    assert check_options(declared(annotation), {"x": fits}) == ({"x": fits}, [])
    assert list(findings(declared(annotation), {"x": beyond}).values()) == [message]


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


# Dataclasses inside.


@dataclass
class Retry:
    """How often.

    Args:
        attempts: how many.
    """

    attempts: Annotated[int, Interval(ge=0, le=10)] = 3
    pause: float = 0.5
    codes: list[int] = field(default_factory=lambda: [503])


@dataclass
class Target:
    host: str
    retry: Retry | None = None
    weight: int = None  # type: ignore[assignment]  # a default is its author's affair

    def __post_init__(self) -> None:
        if self.host == "nowhere":
            raise ValueError("there is no such host")
        if self.host == "broken":
            raise KeyError(CANARY)


@pytest.mark.parametrize(
    ("annotation", "value", "passed"),
    [
        (Retry, {}, Retry(3, 0.5, [503])),
        (Retry, {"attempts": 5, "codes": []}, Retry(5, 0.5, [])),
        (Annotated[Retry, "of any kind"], {"pause": 1}, Retry(3, 1.0, [503])),
        (Retry | None, {"attempts": 5}, Retry(5)),
        (Retry | None, None, None),
        (list[Retry], [{}, {"attempts": 5}], [Retry(), Retry(5)]),
        (tuple[Retry, ...], [{"attempts": 5}], (Retry(5),)),
        (Sequence[Retry], [{"attempts": 5}], [Retry(5)]),
        (dict[str, Retry], {"pause": {"attempts": 5}}, {"pause": Retry(5)}),
        (Mapping[str, Retry], {"a": {"attempts": 5}}, {"a": Retry(5)}),
        (dict[str, list[Retry]] | None, {"a": [{"attempts": 5}]}, {"a": [Retry(5)]}),
        (Target, {"host": "h", "retry": {"attempts": 5}}, Target("h", Retry(5))),
    ],
    ids=str,
)
def test_a_mapping_becomes_the_dataclass_with_its_own_defaults(annotation: Any, value: object, passed: object) -> None:
    assert check_options(declared(annotation), {"x": value}) == ({"x": passed}, [])


def test_what_a_factory_makes_is_made_for_each() -> None:
    (one, other) = check_options(declared(list[Retry]), {"x": [{}, {}]})[0]["x"]
    assert one.codes is not other.codes


def test_a_dataclass_that_is_not_written_is_the_one_of_the_sinks_default() -> None:
    sink = declared(Retry, Retry(attempts=7))
    assert check_options(sink, {}) == ({}, [])
    assert check_options(sink, {"x": {"pause": 1}}) == ({"x": Retry(3, 1.0)}, []), "what is written is complete"


MAPPING = "must be a mapping of keys to values, not text (known: attempts, pause, codes)"
MISSPELT = "unknown key; did you mean 'attempts'? (known: attempts, pause, codes)"


@pytest.mark.parametrize(
    ("annotation", "wrap", "path"),
    [
        (Retry, lambda value: value, "x"),
        (Retry | None, lambda value: value, "x"),
        (list[Retry], lambda value: [{}, value], "x.1"),
        (list[Retry] | None, lambda value: [value], "x.0"),
        (tuple[Retry, ...], lambda value: [value], "x.0"),
        (dict[str, Retry], lambda value: {"pause": value}, "x.pause"),
        (dict[str, list[Retry]] | None, lambda value: {"a": [value]}, "x.a.0"),
        (Target, lambda value: {"host": "h", "retry": value}, "x.retry"),
        (list[Target], lambda value: [{"host": "h", "retry": value}], "x.0.retry"),
    ],
    ids=str,
)
def test_each_mistake_inside_is_found_at_its_place_with_what_is_known_there(
    annotation: Any, wrap: Callable[[object], object], path: str
) -> None:
    sink = declared(annotation)
    assert findings(sink, {"x": wrap(CANARY)}) == {path: MAPPING}
    assert findings(sink, {"x": wrap({"attempts": 11, "pause": "1:30", "codes": [1, "a"], "atempts": 1})}) == {
        f"{path}.attempts": "must be at most 10",
        f"{path}.pause": "must be a number, not text",
        f"{path}.codes.1": "must be a whole number, not text",
        f"{path}.atempts": MISSPELT,
    }


def test_what_a_dataclass_must_be_given_is_missed() -> None:
    assert findings(declared(list[Target]), {"x": [{}]}) == {"x.0.host": "is required"}


def test_what_a_dataclass_does_not_want_is_a_mistake_of_the_user_and_what_it_cannot_do_one_of_its_author() -> None:
    assert findings(declared(list[Target]), {"x": [{"host": "nowhere"}]}) == {"x.0": "there is no such host"}
    with pytest.raises(SinkError) as caught:
        check_options(declared(Target), {"x": {"host": "broken"}})
    assert str(caught.value) == "one of its types fails to check what was given: KeyError"


def test_a_dataclass_may_inherit_from_one_of_a_module_with_other_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    fields = "import typing as t\n@dataclass\nclass Base:\n    level: t.Literal[1, 2] = 1\n"
    (tmp_path / "acme_base.py").write_text(start + fields)
    (tmp_path / "acme_sub.py").write_text(
        start + "from acme_base import Base\n@dataclass\nclass Sub(Base):\n    port: int = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sink = importlib.import_module("acme_sub").Sub
    assert findings(sink, {"level": 3, "port": "x"}) == {
        "level": "must be 1 or 2",
        "port": "must be a whole number, not text",
    }


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


@pytest.mark.parametrize(
    "name", ["schema", "json", "copy", "dict", "validate", "fields", "model_label", "model_x", "root", "self"]
)
def test_an_option_may_have_any_name_that_says_what_it_is(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def make(*, {name}: int = 1): ...", namespace)
    assert check_options(namespace["make"], {name: 5}) == ({name: 5}, [])
    assert check_options(namespace["make"], {}) == ({}, [])
    assert list(options_schema(namespace["make"])["properties"]) == [name]


def test_a_private_parameter_with_a_default_is_no_option() -> None:
    def make(*, port: int = 1, _client: socket.socket | None = None, _clock=None) -> None:  # type: ignore[no-untyped-def]
        ...

    assert check_options(make, {"port": 2}) == ({"port": 2}, [])
    assert findings(make, {"_client": 5})["_client"].endswith("(known: port)")


@dataclass
class Endless:
    more: Endless | None = None


@dataclass
class Typeless:
    options: Any

    def __init__(self, options="x") -> None:  # type: ignore[no-untyped-def]
        ...


class Pair(NamedTuple):
    one: int


def star_args(*hosts: str) -> None: ...
def star_kwargs(**options: str) -> None: ...
def by_position(host: str, /) -> None: ...
def typeless(*, host="h") -> None: ...  # type: ignore[no-untyped-def]
def private(*, _host: str) -> None: ...
def reserved(*, model_config: str = "x") -> None: ...
def delivery(*, delivery: str = "x") -> None: ...
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
        pytest.param(delivery, "parameter 'delivery' has a name that hub.yaml keeps for the hub", id="of-the-hub"),
        pytest.param(declared(list[Typeless]), "parameter 'options' has no type", id="no-type-inside"),
        pytest.param(declared(Endless), "one of its types cannot be checked: maximum recursion", id="holds-itself"),
        pytest.param(declared(Pair), "one of its types cannot be checked: ", id="a-tuple-with-names"),
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


@pytest.mark.parametrize("annotation", [Annotated[str, Ge(1)], Annotated[Retry, MaxLen(1)]], ids=str)
def test_a_limit_that_its_type_cannot_have_is_its_authors_mistake(annotation: Any) -> None:
    with pytest.raises(SinkError) as caught:
        check_options(declared(annotation), {"x": {} if "Retry" in str(annotation) else CANARY})
    assert str(caught.value) == "one of its types fails to check what was given: TypeError"


# What others are told of the options.

STYLES = {
    "google": """Sends.

    Args:
        host: where Acme
            is.
        port (int): its TCP port.
        nobody: is no option.
    """,
    "numpy": """Sends.

    Parameters
    ----------
    host : str
        where Acme
        is.
    port : int, optional
        its TCP port.
    """,
    "rest": """Sends.

    :param host: where Acme
        is.
    :param int port: its TCP port.
    """,
}


def of_class(text: str) -> type:
    class Sinklet:
        def __init__(self, *, host: str, port: int = 1, silent: bool = False) -> None: ...

    Sinklet.__doc__ = text
    return Sinklet


def of_constructor(text: str) -> type:
    sink = of_class("Sends.")
    sink.__init__.__doc__ = text  # type: ignore[misc]
    return sink


def of_function(text: str) -> Callable[..., object]:
    def make(*, host: str, port: int = 1, silent: bool = False) -> None: ...

    make.__doc__ = text
    return make


def of_dataclass(text: str) -> type:
    @dataclass
    class Sinklet:
        host: str
        port: int = 1
        silent: bool = False

    Sinklet.__doc__ = text
    return Sinklet


@pytest.mark.parametrize("make", [of_class, of_constructor, of_function, of_dataclass])
@pytest.mark.parametrize("style", STYLES)
def test_what_an_option_means_is_read_from_the_docstring(make: Callable[[str], Any], style: str) -> None:
    told = options_schema(make(STYLES[style]))["properties"]
    meanings = {"host": "where Acme is.", "port": "its TCP port.", "silent": None}
    assert {name: option.get("description") for name, option in told.items()} == meanings


def test_the_schema_says_of_each_option_its_type_its_limits_and_its_default() -> None:
    schema = options_schema(Acme)
    assert (schema["required"], schema["additionalProperties"]) == (["host"], False)
    told = schema["properties"]
    assert told["host"] == {"title": "Host", "type": "string"}
    assert told["port"] == {"default": 8125, "maximum": 65535, "minimum": 1, "title": "Port", "type": "integer"}
    assert told["flavor"]["enum"] == ["plain", "datadog"]
    assert "factory" not in str(options_schema(Retry)), "of a dataclass's default not the mark that stands for it"


def test_the_schema_says_the_same_of_a_dataclass_inside() -> None:
    schema = options_schema(declared(list[Target] | None, None))
    told = schema["$defs"]["Retry"]["properties"]
    assert told["attempts"]["description"] == "how many."
    valid = Draft202012Validator(schema).is_valid
    assert valid({"x": [{"host": "h", "retry": {"attempts": 10}}]})
    for wrong in ({}, {"host": "h", "retry": {"attempts": 11}}, {"host": "h", "retry": {"atempts": 1}}):
        assert not valid({"x": [wrong]})


def test_a_type_without_a_json_schema_is_its_authors_mistake() -> None:
    with pytest.raises(SinkError, match=r"^one of its types has no JSON schema: [^\n]*$"):
        options_schema(declared(Callable[[], int]))
