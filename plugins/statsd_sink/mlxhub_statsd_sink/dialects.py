"""One value of one metric as StatsD lines: a pure function for each dialect.

A line is ``name:value|type``, and lines are parted by newlines. The dialects differ in where labels stand: in the path of
the name (plain), or as tags, which each writes elsewhere. Servers do not say when they are sent another dialect than
theirs: they take tags for parts of a name. So the dialect is chosen, never guessed.

What text may stand where is the other half: a `:`, a `|` or a newline in a name would send another metric than meant.
Everything that could be misread becomes ``_``. So no text, whatever it holds, makes a second line, tag or part of a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["c", "g", "ms"]
"""Counter, gauge, timer in milliseconds: as they are written on the wire."""
Tags = Iterable[tuple[str, str]]
Encode = Callable[["Sample", str, Tags], tuple[str, ...]]
"""From a sample, a prefix and constant tags to its lines, mostly one."""

MAX_TEXT = 200
"""Characters of a label or a part of a name; the rest is cut off. A tag of Datadog has 200, and a part of a Graphite path
must be the name of a file. It also keeps every line within a packet."""

_NOT_IN_SEGMENT = re.compile(r"[^A-Za-z0-9_-]")
_NOT_IN_TAG = re.compile(r"[^A-Za-z0-9_.-]")
_NOT_IN_DATADOG_TAG = re.compile(r"[^\w\-:/.]")
"""The rule of Datadog's own client, which keeps letters of all alphabets."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric.

    Attributes:
        name: dotted, without prefix, as ``model.failed``.
        kind: counter, gauge or timer.
        value: of a counter how much it grew, of a timer milliseconds.
        labels: name and value each, in order. One that is empty is left out.
    """

    name: str
    kind: Kind
    value: float
    labels: tuple[tuple[str, str], ...] = ()


def plain(sample: Sample, prefix: str, _tags: Tags) -> tuple[str, ...]:
    """All in the path: ``mlxhub.model.qwen.failed:1|c``. There is no place for constant tags.

    The label that the name begins with, the model of ``model.…``, comes right after that. The group is left out: it says
    nothing that the model does not. Any other label makes a path of its own, as ``….failed.exit_code.-9``, and of a
    counter the path without it is sent as well, as no server adds up paths.
    """
    scope, *tail = sample.name.split(".")
    labels = {name: value for name, value in sample.labels if value and name != "group"}
    base = [scope, *([labels.pop(scope)] if scope in labels else []), *tail]
    lines = []
    if labels:
        # The states of a model are `state.ready` and so on, not `state.state.ready`.
        extra = [part for pair in labels.items() for part in (pair[1:] if pair[0] == base[-1] else pair)]
        lines.append(_line(_path(prefix, *base, *extra), sample))
    if not labels or sample.kind == "c":
        lines.insert(0, _line(_path(prefix, *base), sample))
    return _unsigned(sample, lines)


def dogstatsd(sample: Sample, prefix: str, tags: Tags) -> tuple[str, ...]:
    """Datadog: ``mlxhub.model.failed:1|c|#model:qwen,exit_code:-9``. Tags may hold letters of all alphabets."""
    pairs = ",".join(f"{name}:{value}" for name, value in _tags(sample, tags, _NOT_IN_DATADOG_TAG))
    return (_line(_name(prefix, sample), sample) + (f"|#{pairs}" if pairs else ""),)


def graphite(sample: Sample, prefix: str, tags: Tags) -> tuple[str, ...]:
    """Graphite 1.1: ``mlxhub.model.failed;model=qwen;exit_code=-9:1|c``."""
    pairs = "".join(f";{name}={value}" for name, value in _tags(sample, tags))
    return _unsigned(sample, [_line(_name(prefix, sample) + pairs, sample)])


def influx(sample: Sample, prefix: str, tags: Tags) -> tuple[str, ...]:
    """Telegraf and InfluxDB: ``mlxhub.model.failed,model=qwen,exit_code=-9:1|c``."""
    pairs = "".join(f",{name}={value}" for name, value in _tags(sample, tags))
    return _unsigned(sample, [_line(_name(prefix, sample) + pairs, sample)])


def signalfx(sample: Sample, prefix: str, tags: Tags) -> tuple[str, ...]:
    """SignalFx: ``mlxhub.model.failed[model=qwen,exit_code=-9]:1|c``."""
    pairs = ",".join(f"{name}={value}" for name, value in _tags(sample, tags))
    return _unsigned(sample, [_line(_name(prefix, sample) + (f"[{pairs}]" if pairs else ""), sample)])


DIALECTS: Mapping[str, Encode] = {
    "plain": plain,
    "dogstatsd": dogstatsd,
    "graphite": graphite,
    "influx": influx,
    "signalfx": signalfx,
}


SIGNED = frozenset({"dogstatsd"})
"""The dialects with negative gauges. In the others a gauge with a sign is a change."""


def segment(text: str) -> str:
    """One part of a path: ASCII letters, digits, ``_`` and ``-`` as they are, ``_`` for all else; never empty."""
    return _NOT_IN_SEGMENT.sub("_", text[:MAX_TEXT]) or "_"


def tag_name(text: str) -> str:
    """The name of a constant tag, as it is written in every dialect."""
    return segment(text)


def _line(name: str, sample: Sample) -> str:
    return f"{name}:{_number(sample.value)}|{sample.kind}"


def _number(value: float) -> str:
    """At most three decimals, and never an exponent, which not every server reads."""
    value += 0.0  # no minus before a zero: a gauge with a sign is a change
    return f"{value:.3f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def _unsigned(sample: Sample, lines: list[str]) -> tuple[str, ...]:
    """No line for what the dialect cannot say: see `SIGNED`."""
    return () if sample.kind == "g" and sample.value < 0 else tuple(lines)


def _path(prefix: str, *parts: str) -> str:
    return ".".join([*map(segment, filter(None, prefix.split("."))), *map(segment, parts)])


def _name(prefix: str, sample: Sample) -> str:
    return _path(prefix, *sample.name.split("."))


def _tags(sample: Sample, tags: Tags, unsafe: re.Pattern[str] = _NOT_IN_TAG) -> list[tuple[str, str]]:
    return [(tag_name(name), unsafe.sub("_", value[:MAX_TEXT])) for name, value in (*sample.labels, *tags) if value]
