"""What each dialect writes, and that no text can make it write anything else."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlxhub_statsd_sink.dialects import DIALECTS, MAX_TEXT, Sample

FAILED = Sample("model.failed", "c", 1, (("model", "qwen-4b"), ("group", "chat"), ("exit_code", "-9")))
READY = Sample("model.ready", "g", 1, (("model", "qwen-4b"), ("group", "")))
STATE = Sample("model.state", "g", 0, (("model", "qwen-4b"), ("group", "chat"), ("state", "backoff")))
START = Sample("model.start_duration", "ms", 8250.5, (("model", "qwen-4b"), ("group", "chat")))
RELOAD = Sample("config_last_reload_successful", "g", 1)
NEGATIVE = Sample("model.last_exit_code", "g", -9, (("model", "qwen-4b"), ("group", "")))

LINES = {
    ("plain", FAILED): ("mlxhub.model.qwen-4b.failed:1|c", "mlxhub.model.qwen-4b.failed.exit_code.-9:1|c"),
    ("plain", READY): ("mlxhub.model.qwen-4b.ready:1|g",),
    ("plain", STATE): ("mlxhub.model.qwen-4b.state.backoff:0|g",),
    ("plain", START): ("mlxhub.model.qwen-4b.start_duration:8250.5|ms",),
    ("plain", RELOAD): ("mlxhub.config_last_reload_successful:1|g",),
    ("dogstatsd", FAILED): ("mlxhub.model.failed:1|c|#model:qwen-4b,group:chat,exit_code:-9",),
    ("dogstatsd", READY): ("mlxhub.model.ready:1|g|#model:qwen-4b",),
    ("dogstatsd", STATE): ("mlxhub.model.state:0|g|#model:qwen-4b,group:chat,state:backoff",),
    ("dogstatsd", START): ("mlxhub.model.start_duration:8250.5|ms|#model:qwen-4b,group:chat",),
    ("dogstatsd", RELOAD): ("mlxhub.config_last_reload_successful:1|g",),
    ("dogstatsd", NEGATIVE): ("mlxhub.model.last_exit_code:-9|g|#model:qwen-4b",),
    ("graphite", FAILED): ("mlxhub.model.failed;model=qwen-4b;group=chat;exit_code=-9:1|c",),
    ("graphite", READY): ("mlxhub.model.ready;model=qwen-4b:1|g",),
    ("graphite", RELOAD): ("mlxhub.config_last_reload_successful:1|g",),
    ("influx", FAILED): ("mlxhub.model.failed,model=qwen-4b,group=chat,exit_code=-9:1|c",),
    ("influx", STATE): ("mlxhub.model.state,model=qwen-4b,group=chat,state=backoff:0|g",),
    ("influx", RELOAD): ("mlxhub.config_last_reload_successful:1|g",),
    ("signalfx", FAILED): ("mlxhub.model.failed[model=qwen-4b,group=chat,exit_code=-9]:1|c",),
    ("signalfx", START): ("mlxhub.model.start_duration[model=qwen-4b,group=chat]:8250.5|ms",),
    ("signalfx", RELOAD): ("mlxhub.config_last_reload_successful:1|g",),
}


@pytest.mark.parametrize(("key", "lines"), LINES.items(), ids=lambda value: value[0] if len(value) == 2 else "")
def test_each_dialect_writes_labels_where_its_servers_look_for_them(
    key: tuple[str, Sample], lines: tuple[str, ...]
) -> None:
    dialect, sample = key
    assert DIALECTS[dialect](sample, "mlxhub", ()) == lines


@pytest.mark.parametrize("dialect", ["plain", "graphite", "influx", "signalfx"])
def test_a_negative_gauge_is_left_out_where_its_sign_would_make_it_a_change(dialect: str) -> None:
    assert DIALECTS[dialect](NEGATIVE, "mlxhub", ()) == ()


@pytest.mark.parametrize(
    ("dialect", "line"),
    [
        ("dogstatsd", "eu.model.ready:1|g|#model:qwen-4b,site:Zürich,run:a_b"),
        ("graphite", "eu.model.ready;model=qwen-4b;site=Z_rich;run=a_b:1|g"),
        ("influx", "eu.model.ready,model=qwen-4b,site=Z_rich,run=a_b:1|g"),
        ("signalfx", "eu.model.ready[model=qwen-4b,site=Z_rich,run=a_b]:1|g"),
    ],
)
def test_constant_tags_follow_the_labels(dialect: str, line: str) -> None:
    tags = [("site", "Zürich"), ("run", "a b"), ("empty", "")]
    assert DIALECTS[dialect](READY, "eu", tags) == (line,)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1"),
        (-0.0, "0"),
        (0.25, "0.25"),
        (0.0001, "0"),
        (9.9996, "10"),
        (1e16, "1" + 16 * "0"),
        (1.5, "1.5"),
    ],
)
def test_numbers_have_no_exponent_and_three_decimals_at_most(value: float, text: str) -> None:
    assert DIALECTS["plain"](Sample("x", "g", value), "", ()) == (f"x:{text}|g",)


Parsed = tuple[str, str, str, dict[str, str]]
"""Name, value, type and tags of a line."""


def parsed_dogstatsd(line: str) -> Parsed:
    name, value, kind, tags = re.fullmatch(r"([^:|#]+):([^:|#]+)\|([^:|#]+)(?:\|#([^|#]+))?", line).groups()  # type: ignore[union-attr]
    return name, value, kind, dict(pair.split(":", 1) for pair in (tags or "").split(",") if pair)


def parsed_inside(pattern: str, between: str) -> Callable[[str], Parsed]:
    """A parser of a dialect that has its tags in the name, in a group of the pattern."""

    def parsed(line: str) -> Parsed:
        inside, value, kind = re.fullmatch(r"([^:|]+):([^:|]+)\|([^:|]+)", line).groups()  # type: ignore[union-attr]
        name, tags = re.fullmatch(pattern, inside).groups()  # type: ignore[union-attr]
        return name, value, kind, dict(pair.split("=") for pair in (tags or "").split(between) if pair)

    return parsed


PARSERS: dict[str, Callable[[str], Parsed]] = {
    "plain": parsed_inside(r"([^;,\[\]=]+)()", ","),
    "dogstatsd": parsed_dogstatsd,
    "graphite": parsed_inside(r"([^;]+)((?:;[^;=]+=[^;~][^;]*)*)", ";"),
    "influx": parsed_inside(r"([^,]+)((?:,[^,=]+=[^,=]+)*)", ","),
    "signalfx": parsed_inside(r"([^\[\]]+)(?:\[([^\[\]]+)\])?", ","),
}
"""Each written from the description of its dialect, and stricter than servers are."""

HOSTILE = st.one_of(
    st.text(max_size=400),
    st.text(alphabet=":|#,;=@[]~!^. \n\r\t\0é模a", max_size=30),
    st.sampled_from(
        ["a:1|c\nevil:666|c\nb", "x|c|#model:other", "mlx-community/Qwen2.5", "模型", "~", "a" * 300, "\ud800"]
    ),
)


@given(
    dialect=st.sampled_from(sorted(DIALECTS)),
    kind=st.sampled_from(["c", "g", "ms"]),
    value=st.floats(min_value=0, max_value=1e15),
    model=HOSTILE,
    group=HOSTILE,
    other=HOSTILE,
    prefix=HOSTILE,
    tag=st.tuples(HOSTILE.filter(lambda name: name not in ("model", "group", "exit_code")), HOSTILE),
)
@example("plain", "c", 1.0, "a:1|c\nevil:666|c\nb", "g", "3", "x:9|g\ny", ("t", "v"))
@example("graphite", "c", 1.0, "m", "~;model=other", "3", "", ("a=b", "~"))
@example("dogstatsd", "c", 1.0, "m", "g,model:other", "3", "", ("a:b,c", "x|@0.1"))
@example("influx", "c", 1.0, "m", "g,model=other", "3", "a" * 300, ("", "v"))
@example("signalfx", "c", 1.0, "m", "g]", "3", "..", ("[", "a,model=other"))
@settings(max_examples=300)
def test_whatever_the_text_a_line_reads_back_as_the_metric_it_was_made_of(  # type: ignore[no-untyped-def]
    dialect: str, kind, value: float, model: str, group: str, other: str, prefix: str, tag: tuple[str, str]
) -> None:
    sample = Sample("model.failed", kind, value, (("model", model), ("group", group), ("exit_code", other)))
    tags = () if dialect == "plain" else (tag,)
    lines = DIALECTS[dialect](sample, prefix, tags)
    assert len(lines) == (2 if dialect == "plain" and kind == "c" and other else 1)
    for line in lines:
        assert line.splitlines() == [line], "one line, for those who part lines at more than newlines too"
        assert len(line.encode()) <= 4 * 6 * MAX_TEXT + 1300, "it fits a packet whatever the texts are"
        name, number, wire_kind, found = PARSERS[dialect](line)
        assert wire_kind == kind
        assert abs(float(number) - value) <= 0.0005 + value * 1e-12
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)
        assert all(1 <= len(part) <= MAX_TEXT for part in name.split("."))
        if dialect == "plain":
            parts = len([part for part in prefix.split(".") if part]) + 2 + bool(model)
            assert len(name.split(".")) in ((parts, parts + 2) if other else (parts,))
        else:
            assert name.endswith("model.failed")
            texts = {"model": model, "group": group, "exit_code": other}
            wanted = [key for key, text in texts.items() if text]
            assert list(found)[: len(wanted)] == wanted
            assert all(len(found[key]) == min(len(texts[key]), MAX_TEXT) for key in wanted), "letter by letter"
            assert len(found) <= len(wanted) + 1


@given(st.sampled_from(sorted(DIALECTS)), st.from_regex(r"[A-Za-z0-9]{1,9}([-_][A-Za-z0-9]{1,9}){0,9}", fullmatch=True))
def test_a_name_that_hub_yaml_takes_is_written_as_it_is_so_no_two_models_can_share_a_path(
    dialect: str, name: str
) -> None:
    (line,) = DIALECTS[dialect](Sample("model.up", "g", 1, (("model", name),)), "mlxhub", ())
    path, _, _, tags = PARSERS[dialect](line)
    assert (tags.get("model") or path.split(".")[2]) == name
