"""A YAML file as plain values, with the place of each of them. The only reader of YAML.

The values are those of ``yaml.safe_load`` but for what surprises people in a configuration file: duplicate keys
are refused, ``1:30`` and ``2026-11-24`` stay text, ``010`` is no octal number, and tags mean nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mlxhub_core.errors import ConfigError, Problem
from mlxhub_core.waits import until_readable

Key = str | int
Pair = tuple[yaml.Node, yaml.Node]
Keys = tuple[Key, ...]
"""The way to a value: the keys of mappings and the indexes of lists, from the root."""

LONGEST = 4_000_000
"""Bytes a file may have: a hundred times any real one, and no more than can be read at once."""
PATIENCE = 5.0
"""Seconds to wait for what a pipe holds."""
MAX_NODES = 20_000
"""Values a file may hold once its aliases are followed: far above any real file, far below what fills the memory."""
MAX_SHOWN = 80
"""Characters of a key in messages."""
MAX_BITS = 64
"""Of a whole number: Python writes no text of one that is much larger."""

_MERGE_TAG = "tag:yaml.org,2002:merge"
_TAGS = {
    yaml.ScalarNode: {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "merge")},
    yaml.SequenceNode: {"tag:yaml.org,2002:seq"},
    yaml.MappingNode: {"tag:yaml.org,2002:map"},
}
"""What YAML itself finds a value to be. Whatever else a tag may ask for is refused."""

# What PyYAML says, by a part of it, and what we say instead: for one thing, its words may repeat a secret.
_SYNTAX = {
    r"'\t'": "a tab where spaces must be; indent with spaces",
    "cannot start any token": "text cannot begin with this character; put it in quotes",
    "mapping values are not allowed": "this colon fits nowhere; check the indentation, put text with a colon in quotes",
    "expected <block end>": "this does not fit with what stands above it; check the indentation",
    "'<stream end>'": "this bracket is never closed",
    "expected the node content": "a value is missing here",
    "expected '<document start>'": "this does not belong to what stands above it; check brackets and indentation",
    "sequence entries are not allowed": "a list cannot begin here; begin it on a line of its own",
    "expected ',' or": "a comma or a closing bracket is missing; put text with brackets, braces or ? in quotes",
    "unexpected end of stream": "this quote is never closed",
    "document separator": "this quote is never closed",
    "expected ':'": "this is no `key: value`; there must be a space after the colon",
    "undefined alias": "`*` is for the name of an anchor, and there is none; put text that begins with * in quotes",
    "alphabetic or numeric": "`*` and `&` are for names of anchors; put text that begins with them in quotes",
    "second occurrence": "an anchor of this name stands above; give it another name",
    "tag handle": "tags mean nothing here; remove it, or put text that begins with ! in quotes",
    "another document": "a second document begins here; keep one",
}
_TOLD_WHERE_IT_BEGINS = {"'<stream end>'", "unexpected end of stream", "document separator", "expected ':'"}


_KEY_AND_VALUE = re.compile(r"([=:]).+", re.DOTALL)
"""What follows a key that was meant to end earlier, as in `{TOKEN=abc}` and `{TOKEN:abc}`: it may be a secret."""


class _Loader(yaml.SafeLoader):
    """SafeLoader without YAML 1.1's sexagesimal numbers, octals by a leading zero, timestamps, and sense in `=`."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":int", ":float", ":timestamp", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^(?:[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F][0-9a-fA-F_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+0123456789."),
)


class Source:
    """One YAML document: its `value`, where in the file each part of it stands, and its `problems`.

    Only what is no YAML at all is raised; duplicate keys, tags and the like are problems, so that one who checks the
    value can tell them together with what else is wrong.

    Args:
        name: how to call the file in messages, as ``hub.yaml``.
        text: its content.

    Raises:
        ConfigError: the text is not one YAML document of a reasonable size.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._marks: dict[Keys, yaml.Mark] = {}
        self.problems: list[Problem] = []
        self._told: set[str] = set()
        self._open: set[int] = set()
        self._nodes = 0
        self.value: Any = self._parse(text)

    @classmethod
    def read(cls, path: Path) -> Source:
        """Read a file. Raises ConfigError when it cannot be read, or is not UTF-8."""
        try:
            return cls(path.name, _content(path).decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            message = f"is not UTF-8 text (byte {error.start}); save it as UTF-8"
            raise ConfigError([Problem(str(path), "", message)]) from None
        except FileNotFoundError:
            raise ConfigError(
                [Problem(str(path), "", "no such file; `mlxhub init` writes one, --config FILE names yours")]
            ) from None
        except OSError as error:
            raise ConfigError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from None
        except ValueError:
            raise ConfigError([Problem(str(path), "", "is no name of a file; name yours with --config FILE")]) from None

    def where(self, keys: Keys) -> str:
        """The place of the value at `keys`, or of the nearest part around it that the file holds."""
        for length in range(len(keys), -1, -1):
            if mark := self._marks.get(keys[:length]):
                return self._place(mark)
        return self.name

    def problem(self, keys: Keys, message: str) -> Problem:
        """A problem at `keys`."""
        return Problem(self.where(keys), dotted(keys), message)

    def position(self, problem: Problem) -> tuple[int, int]:
        """Line and column of a problem of this file, to sort by."""
        line, _, column = problem.where.removeprefix(self.name).strip(":").partition(":")
        return (int(line or 0), int(column or 0))

    def _parse(self, text: str) -> Any:
        loader = None
        try:
            # Inside the try: the constructor already refuses characters that YAML does not allow.
            loader = _Loader(text)
            node = loader.get_single_node()
            return None if node is None else self._value(loader, node, ())
        except yaml.MarkedYAMLError as error:
            raise ConfigError([self._syntax_problem(error)]) from None
        except yaml.reader.ReaderError as error:
            before = text[: error.position]
            where = f"{self.name}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
            message = f"is not valid YAML: a character that is not allowed (#x{error.character:04x}); remove it"
            raise ConfigError([Problem(where, "", message)]) from None
        except (ValueError, OverflowError):
            where = self.name if loader is None else self._place(loader.get_mark())
            message = r"is not valid YAML: an escape that is no character, as \U00110000, or a number out of bounds"
            raise ConfigError([Problem(where, "", message)]) from None
        except RecursionError:
            raise ConfigError([Problem(self.name, "", "is nested too deeply; check its brackets")]) from None
        finally:
            if loader is not None:
                loader.dispose()

    def _place(self, mark: yaml.Mark) -> str:
        return f"{self.name}:{mark.line + 1}:{mark.column + 1}"

    def _syntax_problem(self, error: yaml.MarkedYAMLError) -> Problem:
        said = error.problem or "cannot be parsed"
        part = next((part for part in _SYNTAX if part in said), "")
        marks = [error.problem_mark, error.context_mark]
        mark = next(filter(None, reversed(marks) if part in _TOLD_WHERE_IT_BEGINS else marks), None)
        where = self._place(mark) if mark else self.name
        return Problem(where, "", f"is not valid YAML: {_SYNTAX.get(part, said)}")

    def _complain(self, node: yaml.Node, keys: Keys, message: str) -> None:
        # Once for each place: aliases and merges bring a part of the file here again.
        where = self._place(node.start_mark)
        if where not in self._told:
            self._told.add(where)
            self.problems.append(Problem(where, dotted(keys), message))

    @contextmanager
    def _inside(self, node: yaml.Node) -> Iterator[None]:
        """Within a part of the file. Raises when it holds itself, or when aliases have made the whole too large."""
        self._nodes += 1
        if id(node) in self._open:
            raise yaml.MarkedYAMLError(
                None, None, "an alias stands in what it stands for; write it out", node.start_mark
            )
        if self._nodes > MAX_NODES:
            message = f"more than {MAX_NODES} values, counting those that aliases repeat; write fewer"
            raise yaml.MarkedYAMLError(None, None, message, node.start_mark)
        self._open.add(id(node))
        try:
            yield
        finally:
            self._open.discard(id(node))

    def _value(self, loader: _Loader, node: yaml.Node, keys: Keys) -> Any:
        self._marks.setdefault(keys, node.start_mark)
        with self._inside(node):
            if isinstance(node, yaml.MappingNode):
                value = {}
                for key, (key_node, value_node) in self._pairs(loader, node, keys).items():
                    self._marks[(*keys, key)] = key_node.start_mark
                    value[key] = self._value(loader, value_node, (*keys, key))
                return value
            if isinstance(node, yaml.SequenceNode):
                self._check_tag(node, keys)
                return [self._value(loader, item, (*keys, index)) for index, item in enumerate(node.value)]
            return self._scalar(loader, node, keys)

    def _check_tag(self, node: yaml.Node, keys: Keys) -> bool:
        if node.tag in _TAGS[type(node)]:
            return True
        self._complain(node, keys, f"has a tag: {_SYNTAX['tag handle']}")
        return False

    def _scalar(self, loader: _Loader, node: yaml.Node, keys: Keys) -> Any:
        """A value that holds no others; one that cannot be read is a problem, and text."""
        if not self._check_tag(node, keys) or node.tag == _MERGE_TAG:
            return _encodable(node.value)
        try:
            value = loader.construct_object(node)
            if isinstance(value, int) and value.bit_length() > MAX_BITS:
                raise ValueError
        except (ValueError, LookupError, yaml.constructor.ConstructorError):
            self._complain(
                node, keys, "cannot be read as a number, or as its tag wants; put it in quotes if it is text"
            )
            value = node.value
        if isinstance(value, str) and value != _encodable(value):
            self._complain(node, keys, r"holds half a character, as \ud83d; write the character itself")
            value = _encodable(value)
        return value

    def _pairs(self, loader: _Loader, node: yaml.MappingNode, keys: Keys) -> dict[Key, Pair]:
        """The nodes of a mapping's keys and values, by key; a ``<<`` merge gives way to written keys."""
        written: dict[Key, Pair] = {}
        merged: dict[Key, Pair] = {}
        self._check_tag(node, keys)
        self._nodes += len(node.value)
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE_TAG:
                for part in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    if isinstance(part, yaml.MappingNode):
                        with self._inside(part):
                            merged = self._pairs(loader, part, keys) | merged
                    else:
                        self._complain(part, keys, "`<<` takes a mapping from elsewhere, as `<<: *name`")
                continue
            key = self._scalar(loader, key_node, keys) if isinstance(key_node, yaml.ScalarNode) else None
            if isinstance(key, bool) or not isinstance(key, str | int):
                self._complain(key_node, keys, "a key must be text; put it in quotes")
            elif key in written:
                first = written[key][0].start_mark.line + 1
                self._complain(key_node, (*keys, key), f"is written twice, first on line {first}; keep one")
            else:
                written[key] = (key_node, value_node)
        return written | {key: pair for key, pair in merged.items() if key not in written}


def _encodable(text: str) -> str:
    """The text, without halves of surrogate pairs: they can be neither printed nor passed to a process."""
    return text.encode("utf-8", "replace").decode("utf-8")


def dotted(keys: Keys) -> str:
    """``("models", 0, "port")`` as ``models[0].port``."""
    text = ""
    for depth, key in enumerate(keys):
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            # The keys of `sinks:` may hold a colon, as `package:type`.
            shown = key if depth == 1 and keys[0] == "sinks" else _KEY_AND_VALUE.sub(r"\1...", key)
            text += "." * bool(text) + (shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}...")
    return text


def _content(path: Path) -> bytes:
    """What a file holds. Raises OSError: it cannot be read, is too long, or is a pipe into which nobody writes."""
    # Not blocking: a pipe without a writer would hold up its reader, a hub that reloads, for ever.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    content = bytearray()
    try:
        may_wait = not stat.S_ISREG(os.fstat(file).st_mode)
        while len(content) <= LONGEST:
            if may_wait and not until_readable(file, timeout=PATIENCE):
                raise TimeoutError(errno.ETIMEDOUT, "nobody writes into it")
            with contextlib.suppress(BlockingIOError):
                if not (chunk := os.read(file, 65536)):
                    return bytes(content)
                content += chunk
    finally:
        os.close(file)
    raise OSError(errno.EFBIG, f"it is longer than {LONGEST // 1_000_000} MB")
