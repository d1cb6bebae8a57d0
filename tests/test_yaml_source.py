"""YAML as people write it: the values, the places, and one line for whatever is no YAML."""

from __future__ import annotations

import math
import os
import random
import string
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlxhub_core import yaml_source
from mlxhub_core.errors import ConfigError
from mlxhub_core.yaml_source import MAX_NODES, MAX_SHOWN, Keys, Source, dotted

SECRET = "hf_CANARY"


def parsed(text: str) -> Any:
    """The value of a text without problems."""
    source = Source("hub.yaml", text)
    assert source.problems == []
    return source.value


def refused(text: str) -> str:
    """The one line that is said about a text that is no YAML."""
    with pytest.raises(ConfigError) as raised:
        Source("hub.yaml", text)
    (problem,) = raised.value.problems
    assert str(problem).isprintable()
    return str(problem)


def complaints(text: str) -> list[str]:
    """What is said about a text that is YAML."""
    return [str(problem) for problem in Source("hub.yaml", text).problems]


# Values.


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", True),
        ("no", False),
        ("on", True),
        ("off", False),
        ("true", True),
        ("y", "y"),
        ("'yes'", "yes"),
        ("", None),
        ("~", None),
        ("null", None),
        ("0", 0),
        ("27850", 27850),
        ("-1", -1),
        ("+1", 1),
        ("1_000", 1000),
        ("0x1F", 31),
        ("010", "010"),
        ("08", "08"),
        ("0o17", "0o17"),
        ("0b1", "0b1"),
        ("0x", "0x"),
        ("0x_", "0x_"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2026-11-24", "2026-11-24"),
        ("2026-11-24 01:02:03", "2026-11-24 01:02:03"),
        ("1.10", 1.1),
        (".5", 0.5),
        ("1.", 1.0),
        ("1.5e3", 1500.0),
        ("1e3", "1e3"),
        (".", "."),
        ("1.2.3", "1.2.3"),
        ("127.0.0.1", "127.0.0.1"),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("=", "="),
        ("<<", "<<"),
        ("::1", "::1"),
        ("!!str 1", "1"),
        ("!!int '7'", 7),
        ("18446744073709551615", 2**64 - 1),
        ('"\\U0001F600"', "\U0001f600"),
    ],
    ids=repr,
)
def test_a_value_is_what_its_writer_meant(written: str, value: object) -> None:
    read = parsed(f"key: {written}\n")["key"]
    assert read == value
    assert type(read) is type(value)


def test_not_a_number_is_a_number() -> None:
    assert math.isnan(parsed("key: .nan")["key"])


def test_the_words_of_a_command_stay_words() -> None:
    assert parsed("[test, a, =, b, <<, -, 1:30]") == ["test", "a", "=", "b", "<<", "-", "1:30"]


def test_the_stock_safe_loader_is_left_as_it_was() -> None:
    assert yaml.safe_load("[1:30, 010]") == [90, 8]


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "--- # begun\n...\n"], ids=repr)
def test_a_file_that_says_nothing_is_nothing(text: str) -> None:
    source = Source("hub.yaml", text)
    assert source.value is None
    assert source.problem((), "is empty").where.startswith("hub.yaml")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old-mac"])
def test_lines_may_end_as_any_editor_ends_them(end: str) -> None:
    source = Source("hub.yaml", end.join(["a: 1", "b:", "  - 2", ""]))
    assert source.value == {"a": 1, "b": [2]}
    assert source.where(("b", 0)) == "hub.yaml:3:5"


def random_value(rng: random.Random, depth: int) -> Any:
    letters = string.ascii_letters + string.digits + " :#-'\"\\{}[]&*!|>%@`,?=~\n\té模"
    kind = rng.randrange(8 if depth else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.randrange(-(10**6), 10**9)
    if kind == 2:
        return rng.uniform(-1e9, 1e25)
    if kind < 6:
        odd = ["yes", "010", "1:30", "1e3", "2026-11-24", "0x", "=", "<<", "", "~", "1.10", "- a", "a: b"]
        return rng.choice([*odd, "".join(rng.choices(letters, k=rng.randrange(12)))])
    if kind == 6:
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {f"k{i}": random_value(rng, depth - 1) for i in range(rng.randrange(4))}


@pytest.mark.parametrize("flow", [True, False], ids=["in-brackets", "by-indentation"])
def test_what_is_dumped_is_read_back(flow: bool) -> None:
    rng = random.Random(27850)
    for _ in range(60):
        value = {f"k{i}": random_value(rng, 3) for i in range(3)}
        text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
        assert parsed(text) == value, text


# Places.

NESTED = """\
log_path: x
models:
  - name: a
    args: [one,
           two]
    env: {A: 1}
  - name: b
"""


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ((), "hub.yaml:1:1"),
        (("log_path",), "hub.yaml:1:1"),
        (("models",), "hub.yaml:2:1"),
        (("models", 0), "hub.yaml:3:5"),
        (("models", 0, "name"), "hub.yaml:3:5"),
        (("models", 0, "args"), "hub.yaml:4:5"),
        (("models", 0, "args", 1), "hub.yaml:5:12"),
        (("models", 0, "env", "A"), "hub.yaml:6:11"),
        (("models", 1, "name"), "hub.yaml:7:5"),
        (("models", 1, "port"), "hub.yaml:7:5"),
        (("models", 9, "name"), "hub.yaml:2:1"),
        (("sinks", "statsd"), "hub.yaml:1:1"),
    ],
    ids=lambda value: dotted(value) if isinstance(value, tuple) else value,
)
def test_a_key_has_a_place_and_what_is_missing_has_that_of_what_it_is_missing_from(keys: Keys, place: str) -> None:
    assert Source("hub.yaml", NESTED).where(keys) == place


def test_a_problem_has_place_path_and_message() -> None:
    problem = Source("hub.yaml", NESTED).problem(("models", 0, "args", 1), "is wrong")
    assert str(problem) == "hub.yaml:5:12: models[0].args[1]: is wrong"


@pytest.mark.parametrize("name", ["hub.yaml", "my:hub:2.yaml", "7"], ids=str)
def test_problems_can_be_sorted_by_place_whatever_the_file_is_called(name: str) -> None:
    source = Source(name, "a: 1\n" + "".join(f"k{i}: {{x: 1}}\n" for i in range(12)))
    ways: list[Keys] = [("k10",), ("k2", "x"), ("k2",), ("a",), ("k9",)]
    found = sorted((source.problem(keys, "") for keys in ways), key=source.position)
    assert [problem.path for problem in found] == ["a", "k2", "k2.x", "k9", "k10"]
    assert source.position(found[2]) == (4, 6)
    assert source.position(Source(name, "").problem((), "is empty")) == (0, 0)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ((), ""),
        (("models", 0, "port"), "models[0].port"),
        (("a", 1, 2, "b"), "a[1][2].b"),
        ((3,), "[3]"),
        (("sinks", "acme-sinks:statsd/eu", "host"), "sinks.acme-sinks:statsd/eu.host"),
    ],
    ids=repr,
)
def test_a_way_to_a_value_is_written_as_in_a_program(keys: Keys, text: str) -> None:
    assert dotted(keys) == text


@pytest.mark.parametrize("separator", ["=", ":"])
def test_a_key_that_ran_on_into_its_value_is_cut_where_it_was_meant_to_end(separator: str) -> None:
    source = Source("hub.yaml", f"env: {{TOKEN{separator}{SECRET}}}")
    (key,) = source.value["env"]
    assert source.problem(("env", key), "is wrong").path == f"env.TOKEN{separator}..."


def test_a_key_that_is_endless_is_cut() -> None:
    assert dotted(("a", "b" * MAX_SHOWN)) == "a." + "b" * MAX_SHOWN
    assert dotted(("a", "b" * (MAX_SHOWN + 1))) == "a." + "b" * MAX_SHOWN + "..."


# Keys.


def test_a_key_written_twice_is_told_with_the_line_of_the_first_and_the_first_counts() -> None:
    source = Source("hub.yaml", "a:\n  - 1\nb: 2\na: 3\na: 4\n")
    assert source.value == {"a": [1], "b": 2}
    assert [str(problem) for problem in source.problems] == [
        "hub.yaml:4:1: a: is written twice, first on line 1; keep one",
        "hub.yaml:5:1: a: is written twice, first on line 1; keep one",
    ]


def test_keys_are_the_same_if_they_read_the_same() -> None:
    assert complaints("0x10: a\n16: b\n") == ["hub.yaml:2:1: [16]: is written twice, first on line 1; keep one"]
    assert complaints("'a': 1\na: 2\n") == ["hub.yaml:2:1: a: is written twice, first on line 1; keep one"]
    assert parsed("'1': a\n1: b\n") == {"1": "a", 1: "b"}


def test_the_same_key_in_neighbours_is_no_duplicate() -> None:
    assert parsed("[{a: 1}, {a: 2}]") == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    "key",
    ["on", "~", "1.5", "? [a]\n", "? {a: b}\n", "? - a\n"],
    ids=["bool", "null", "float", "list", "mapping", "block"],
)
def test_a_key_that_is_no_text_is_told_and_hides_nothing_else(key: str) -> None:
    source = Source("hub.yaml", f"a: 1\n{key}: 2\nb: 3\nb: 4\n")
    assert source.value == {"a": 1, "b": 3}
    first, second = map(str, source.problems)
    assert first.startswith("hub.yaml:2:")
    assert "a key must be text; put it in quotes" in first
    assert "b: is written twice" in second


# Anchors, aliases, merges.


def test_an_alias_is_a_copy() -> None:
    value = parsed("a: &x {k: [1]}\nb: *x\n")
    assert value == {"a": {"k": [1]}, "b": {"k": [1]}}
    assert value["a"] is not value["b"]
    assert value["a"]["k"] is not value["b"]["k"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}\n", {"k": 3, "l": 2}),
        ("a: &x {k: 1, l: 2}\nb: {k: 3, <<: *x}\n", {"k": 3, "l": 2}),
        ("a: [&x {k: 1}, &y {k: 2, l: 2}]\nb: {<<: [*x, *y]}\n", {"k": 1, "l": 2}),
        ("a: [&x {k: 1}, &y {k: 2, l: 2}]\nb: {<<: *x, <<: *y}\n", {"k": 1, "l": 2}),
        ("a: [&x {k: 1}, &y {<<: *x, l: 2}]\nb: {<<: *y}\n", {"k": 1, "l": 2}),
        ("b: {<<: {k: 1}}\n", {"k": 1}),
        ("b: {<<: []}\n", {}),
        ("b: {'<<': 1}\n", {"<<": 1}),
    ],
    ids=["overridden", "merge-comes-last", "several", "several-merges", "chained", "in-place", "none", "in-quotes"],
)
def test_a_merge_gives_way_to_what_is_written_and_to_what_was_merged_before(text: str, value: object) -> None:
    assert parsed(text)["b"] == value
    if text.count("<<:") == 1:
        assert yaml.safe_load(text)["b"] == value, "what PyYAML itself makes of it"


@pytest.mark.parametrize("order", ["<<: *x, k: 3", "k: 3, <<: *x"], ids=["merge-first", "merge-last"])
def test_a_merged_value_has_the_place_where_it_is_written_and_an_overriding_one_its_own(order: str) -> None:
    source = Source("hub.yaml", f"a: &x {{k: 1, l: 2}}\nb: {{{order}}}\n")
    assert source.where(("b", "k")) == f"hub.yaml:2:{5 + order.index('k')}"
    assert source.where(("b", "l")) == "hub.yaml:1:14"


@pytest.mark.parametrize("part", ["3", "[1]", "~", "[{a: 1}, x]"], ids=str)
def test_a_merge_of_something_else_than_mappings_is_told(part: str) -> None:
    (line,) = complaints(f"a: 1\n<<: {part}\n")
    assert line.startswith("hub.yaml:2:")
    assert "`<<` takes a mapping" in line


def test_a_mistake_that_aliases_repeat_is_told_once() -> None:
    text = "a: &x {k: 1, k: 2, l: !!int z}\nb: *x\nc: {<<: *x}\nd: [*x, *x]\n"
    assert [line.partition(": ")[0] for line in complaints(text)] == ["hub.yaml:1:14", "hub.yaml:1:23"]


@pytest.mark.parametrize(
    "text",
    [
        "&a [*a]",
        "&a {k: *a}",
        "a: &a {b: {c: [*a]}}",
        "a: &a {<<: *a}",
        "a: &a {<<: &b {<<: *b}}",
        "a: &a {<<: {k: *a}}",
    ],
    ids=["list", "mapping", "deep", "merge", "merge-in-merge", "in-a-merged-value"],
)
def test_an_alias_that_contains_itself_is_told_with_its_place(text: str) -> None:
    line = refused(text)
    assert line.startswith("hub.yaml:1:")
    assert "an alias stands in what it stands for; write it out" in line


def bomb(first: str, layer: str, layers: int = 12) -> str:
    """Each line holds nine times the one before."""
    lines = (f"a{n}: &a{n} " + layer.format(", ".join([f"*a{n - 1}"] * 9)) for n in range(1, layers))
    return "\n".join([f"a0: &a0 {first}", *lines])


@pytest.mark.parametrize(
    "text",
    [
        bomb("[x, x]", "[{}]"),
        bomb("{k: x}", "{{<<: [{}]}}"),
        "a: &a [" + "x, " * (MAX_NODES // 50) + "]\nb: [" + "*a, " * 51 + "]",
        "a: &a {" + ", ".join(f"k{i}: 1" for i in range(200)) + "}\nb: {<<: [" + "*a, " * (MAX_NODES // 200) + "]}",
    ],
    ids=["lists", "merges", "wide", "one-merge-many-times"],
)
def test_a_billion_laughs_are_not_laughed(text: str) -> None:
    begun = time.process_time()
    line = refused(text)
    assert line.startswith("hub.yaml:")
    assert f"more than {MAX_NODES} values" in line
    assert time.process_time() - begun < 5


# What is no YAML.


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("models:\n\t- name: a\n", "2:1", "indent with spaces"),
        ("a:\n  - name:\tx\n", "2:10", "indent with spaces"),
        ("a: @x", "1:4", "put it in quotes"),
        ("a: `x`", "1:4", "put it in quotes"),
        ("a: %x", "1:4", "put it in quotes"),
        ("a: b: c", "1:5", "this colon fits nowhere"),
        ("a:\n  b: 1\n c: 2\n", "3:2", "check the indentation"),
        ("a:\n  - b\n - c\n", "3:2", "check the indentation"),
        ("a: - b\n", "1:4", "a line of its own"),
        ("a: 1\nb\nc: 2\n", "2:1", "this is no `key: value`"),
        ("a: 1\nTOKEN:x\nc: 2\n", "2:1", "a space after the colon"),
        ("a: 'b\nc: d\n", "1:4", "this quote is never closed"),
        ("a: 'b\n---\nc: d\n", "1:4", "this quote is never closed"),
        ("b: 1\na: [b, c\n", "2:4", "this bracket is never closed"),
        ("a: [", "1:5", "this bracket is never closed"),
        ("a: {b: c", "1:4", "this bracket is never closed"),
        ("a: [b, , c]", "1:8", "a value is missing here"),
        ("a: [--port={port}]", "1:12", "put text with brackets, braces or ? in quotes"),
        ("a: [b}", "1:6", "a comma or a closing bracket is missing"),
        ("a: {path: /ok?x=1}", "1:14", "put text with brackets, braces or ? in quotes"),
        ("{a: b}\nc: d\n", "2:1", "does not belong"),
        ("a: *nowhere", "1:4", "put text that begins with * in quotes"),
        ("a: * b", "1:5", "put text that begins with them in quotes"),
        ("a: & b", "1:5", "put text that begins with them in quotes"),
        ("a: [&x b, &x c]", "1:11", "give it another name"),
        ("a: !e!x y", "1:4", "put text that begins with ! in quotes"),
        ("a: 1\n---\nb: 1\n", "2:1", "a second document begins here; keep one"),
        ('a: "\\U00110000"', "1:7", "an escape that is no character"),
        ('a: "\\UFFFFFFFF"', "1:7", "an escape that is no character"),
        (f"%YAML 1.{'9' * 5000}\n---\n", "1:9", "a number out of bounds"),
        ("a: 1\nb: x\0y", "2:5", "a character that is not allowed (#x0000); remove it"),
        ("a: 1\nb: x\x07y", "2:5", "a character that is not allowed (#x0007); remove it"),
        ("\x1b[31ma: 1", "1:1", "a character that is not allowed (#x001b); remove it"),
        ("a: \ud800", "1:4", "a character that is not allowed (#xd800); remove it"),
    ],
    ids=[
        "tab", "tab-after-colon", "at", "backtick", "percent", "two-colons", "indentation", "indentation-of-a-list",
        "list-on-the-line-of-its-key", "no-colon", "no-space-after-colon", "quote", "quote-until-a-document", "list",
        "bracket-at-the-end", "mapping", "comma-too-many", "braces-in-brackets", "wrong-bracket", "question-mark",
        "text-after-brackets",
        "unknown-alias", "star", "ampersand", "anchor-twice", "tag-handle", "two-documents", "escape", "huge-escape",
        "version", "nul", "control-character", "control-character-first", "half-a-character",
    ],
)  # fmt: skip
def test_what_is_no_yaml_is_told_with_its_place_and_the_way_out(text: str, place: str, words: str) -> None:
    line = refused(text)
    assert line.startswith(f"hub.yaml:{place}: is not valid YAML: ")
    assert words in line


@pytest.mark.parametrize(
    "text",
    ["a: " + "[" * 600 + "]" * 600, "a: " + "[" * 600, "".join(" " * i + "a:\n" for i in range(600)), "? " * 600],
    ids=["brackets", "open-brackets", "blocks", "keys"],
)
def test_a_file_that_is_nested_too_deeply_is_told_so(text: str) -> None:
    assert refused(text) == "hub.yaml: is nested too deeply; check its brackets"


def test_a_file_may_be_nested_as_deeply_as_people_do() -> None:
    assert parsed("[" * 50 + "]" * 50) is not None


# Tags, and scalars that cannot be read.


@pytest.mark.parametrize(
    "tagged",
    [
        "!!python/object/apply:os.system ['touch pwned']",
        "!!python/object/apply:os.system [touch pwned]",
        "!!python/object/new:os.system [touch pwned]",
        "!!python/name:os.system",
        "!!python/name:os.system ''",
        "!!python/module:os",
        "!!python/tuple [1]",
        "!!python/none",
        "!secret x",
        "!<tag:example.org,2026:x> y",
        "!!binary aGVsbG8=",
        "!!timestamp 2026-11-24",
        "!!timestamp x",
        "!!set {a}",
        "!!omap [a: 1]",
        "!!pairs [a: 1]",
        "!!map x",
        "!!seq x",
        "!!str [a]",
        "!!str {a: 1}",
        "!!seq {a: 1}",
        "!!map [a]",
    ],
    ids=str,
)
def test_a_tag_is_told_and_does_nothing(tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = complaints(f"a: 1\nb: {tagged}\n")
    assert line.startswith("hub.yaml:2:4: b: has a tag: ")
    assert line.endswith("; remove it, or put text that begins with ! in quotes")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["!!python/name:os.system x: 1", "!x {a: 1}", "- !x [a]", "<<: !x {a: 1}"], ids=str)
def test_a_tag_is_told_wherever_it_stands(text: str) -> None:
    (line,) = complaints(text)
    assert "has a tag" in line


@pytest.mark.parametrize(
    "scalar",
    [
        "!!int x",
        "!!int ''",
        "!!float x",
        "!!float ''",
        "!!bool x",
        "9" * 5000,
        "0x" + "f" * 5000,
        "18446744073709551616",
        "-18446744073709551616",
    ],
    ids=lambda scalar: scalar[:21],
)
def test_a_scalar_that_cannot_be_read_is_told_and_stays_text(scalar: str) -> None:
    source = Source("hub.yaml", f"a: 1\nb: {scalar}\nc: 3\n")
    assert source.value["c"] == 3
    assert isinstance(source.value["b"], str)
    (problem,) = source.problems
    assert str(problem).startswith("hub.yaml:2:4: b: cannot be read as a number, or as its tag wants; put it in quotes")


def test_half_a_character_is_told_and_never_handed_on() -> None:
    source = Source("hub.yaml", '"k\\ud800": 1\na: "\\ud83d\\ude00"\n')
    assert str(source.value).encode()
    assert str(Source("hub.yaml", 'a: !x "\\ud800"').value).encode()
    assert [problem.where for problem in source.problems] == ["hub.yaml:1:1", "hub.yaml:2:4"]
    assert all("write the character itself" in problem.message for problem in source.problems)


@pytest.mark.parametrize(
    "text",
    [
        f"a: *{SECRET}",
        f"a: !{SECRET}",
        f"a: !{SECRET} x",
        f"a: !e!{SECRET}",
        f"a: !{SECRET}!x",
        f"%TAG !{SECRET}! x\n%TAG !{SECRET}! y\n---\na: 1",
        f"a: !!{SECRET}",
        f"a: !<{SECRET}",
        f"a: [&{SECRET} 1, &{SECRET} 2]",
        f"a: @{SECRET}",
        f"a: %{SECRET}",
        f"a: '{SECRET}",
        f'a: "\\{SECRET}"',
        f"a: |{SECRET}",
        f"a: [{SECRET}",
        f"a: x: {SECRET}",
        f"a: 1\nTOKEN:{SECRET}\nb: 2",
        f"a: !!int {SECRET}",
        f"a: !!bool {SECRET}",
        f"a: !!float {SECRET}",
        f"a: !!timestamp {SECRET}",
        f"<<: {SECRET}",
        f"a: {SECRET}\na: {SECRET}",
        f"a: {SECRET}\0",
        f"? [{SECRET}]\n: 1",
        f'a: "{SECRET}\\ud800"',
        f"a: {{TOKEN={SECRET}: 1, TOKEN={SECRET}: 2}}",
    ],
    ids=lambda text: text.replace(SECRET, "x").split("\n")[0],
)
def test_no_line_repeats_a_value(text: str) -> None:
    try:
        lines = complaints(text)
    except ConfigError as error:
        lines = str(error).splitlines()
    assert lines
    assert "CANARY" not in "\n".join(lines)


# Files.


def test_a_file_is_called_by_its_name_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "my hub.yaml"
    path.parent.mkdir()
    path.write_text("a: 1\na: 2\n")
    source = Source.read(path)
    assert (source.name, source.problems[0].where) == ("my hub.yaml", "my hub.yaml:2:1")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "hub.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    source = Source.read(path)
    assert source.value == {"a": 1}
    assert source.where(("a",)) == "hub.yaml:1:1"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: é".encode("latin-1"), "is not UTF-8 text (byte 3); save it as UTF-8"),
        ("a: 1".encode("utf-16"), "is not UTF-8 text (byte 0); save it as UTF-8"),
        ("a: 1".encode("utf-16-le"), "a character that is not allowed (#x0000)"),
        ("a: 1".encode("utf-32"), "is not UTF-8 text (byte 0); save it as UTF-8"),
        (b"PK\x03\x04", "a character that is not allowed (#x0003)"),
    ],
    ids=["latin-1", "utf-16", "utf-16-without-mark", "utf-32", "an-archive"],
)
def test_a_file_that_is_not_utf_8_is_told_so(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "hub.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        Source.read(path)
    assert words in str(raised.value)


def test_a_file_that_is_not_there_is_told_with_its_whole_path_and_the_flag_to_name_it(tmp_path: Path) -> None:
    path = tmp_path / "hub.yaml"
    with pytest.raises(ConfigError) as raised:
        Source.read(path)
    assert str(raised.value) == f"{path}: no such file; `mlxhub init` writes one, --config FILE names yours"


def test_a_pipe_is_read_to_its_end_and_one_into_which_nobody_writes_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_source, "PATIENCE", 0.05)
    path = tmp_path / "hub.yaml"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="cannot be read: nobody writes into it"):
        Source.read(path)
    monkeypatch.setattr(yaml_source, "PATIENCE", 10)
    writer = threading.Thread(target=path.write_text, args=("a: " + "x" * 200_000,))
    writer.start()
    assert Source.read(path).value == {"a": "x" * 200_000}
    writer.join()


def test_a_file_without_end_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot be read: it is longer than 4 MB"):
        Source.read(Path("/dev/zero"))


def test_a_directory_instead_of_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        Source.read(tmp_path)
    assert str(raised.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_file_that_links_to_itself_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "hub.yaml"
    path.symlink_to(path)
    with pytest.raises(ConfigError, match="cannot be read: Too many levels"):
        Source.read(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "hub.yaml"
    path.touch(mode=0o200)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        Source.read(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [("a\0b", "is no name of a file"), ("x" * 300, "cannot be read: File name too long"), ("", "Is a directory")],
    ids=["nul", "too-long", "empty"],
)
def test_a_path_that_no_file_can_have_is_told(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Source.read(tmp_path / name)
    assert words in str(raised.value)
    assert str(raised.value).isprintable()
