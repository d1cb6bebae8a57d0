"""A YAML file as plain values, with the place of each of them. The only reader of YAML.

The values are those of ``yaml.safe_load`` but for what surprises people in a configuration file: duplicate keys
are refused, ``1:30`` and ``2026-11-24`` stay text, and ``010`` is no octal number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mlxhub_core.errors import ConfigError, Problem

Key = str | int
Keys = tuple[Key, ...]
"""The way to a value: the keys of mappings and the indexes of lists, from the root."""

MAX_NODES = 100_000
"""Values a file may hold once its aliases are followed: far above any real file, far below what fills the memory."""

_MERGE_TAG = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """SafeLoader without YAML 1.1's sexagesimal numbers, octals by a leading zero, and timestamps."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":int", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^(?:[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+0123456789."),
)


class Source:
    """One YAML document: its `value`, where in the file each part of it stands, and its duplicate keys as `problems`.

    Args:
        name: how to call the file in messages, as ``hub.yaml``.
        text: its content.

    Raises:
        ConfigError: the text is not one YAML document.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._marks: dict[Keys, yaml.Mark] = {}
        self.problems: list[Problem] = []
        self._open: list[int] = []
        self._nodes = 0
        self.value: Any = self._parse(text)

    @classmethod
    def read(cls, path: Path) -> Source:
        """Read a file. Raises ConfigError when it cannot be read, or is not UTF-8."""
        try:
            return cls(path.name, path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ConfigError([Problem(str(path), "", f"is not UTF-8 text (byte {error.start})")]) from None
        except FileNotFoundError:
            raise ConfigError([Problem(str(path), "", "no such file; name yours with --config FILE")]) from None
        except OSError as error:
            raise ConfigError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from None

    def where(self, keys: Keys) -> str:
        """The place of the value at `keys`, or of the nearest part around it that the file holds."""
        for length in range(len(keys), -1, -1):
            if mark := self._marks.get(keys[:length]):
                return f"{self.name}:{mark.line + 1}:{mark.column + 1}"
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
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError([Problem(self.name, "", f"is not valid YAML: {str(error).splitlines()[0]}")]) from None
        except RecursionError:
            raise ConfigError([Problem(self.name, "", "is nested too deeply")]) from None
        finally:
            if loader is not None:
                loader.dispose()

    def _syntax_problem(self, error: yaml.MarkedYAMLError) -> Problem:
        mark = error.problem_mark or error.context_mark
        where = f"{self.name}:{mark.line + 1}:{mark.column + 1}" if mark else self.name
        said = error.problem or error.context or "cannot be parsed"
        hint = "; indent with spaces" if "'\\t'" in said else ""
        return Problem(where, "", f"is not valid YAML: {said}{hint}")

    def _value(self, loader: _Loader, node: yaml.Node, keys: Keys) -> Any:
        self._marks.setdefault(keys, node.start_mark)
        self._nodes += 1
        if id(node) in self._open or self._nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(
                None, None, "an alias makes the file refer to itself or grow out of bounds", node.start_mark
            )
        self._open.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return {key: self._value(loader, value, (*keys, key)) for key, value in self._pairs(loader, node, keys)}
            if isinstance(node, yaml.SequenceNode):
                return [self._value(loader, item, (*keys, index)) for index, item in enumerate(node.value)]
            return loader.construct_object(node)
        finally:
            self._open.pop()

    def _pairs(self, loader: _Loader, node: yaml.MappingNode, keys: Keys) -> Iterator[tuple[Key, yaml.Node]]:
        """The key and value nodes of a mapping; duplicates are problems; a ``<<`` merge gives way to written keys."""
        written: dict[Key, yaml.Node] = {}
        merged: dict[Key, yaml.Node] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE_TAG:
                for part in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    self._merge(loader, part, keys, merged)
                continue
            key = self._key(loader, key_node)
            if key in written:
                first = written[key].start_mark.line + 1
                message = f"is written twice, first on line {first}; keep one"
                mark = key_node.start_mark
                place = f"{self.name}:{mark.line + 1}:{mark.column + 1}"
                self.problems.append(Problem(place, dotted((*keys, key)), message))
                continue
            written[key] = value_node
            self._marks[(*keys, key)] = key_node.start_mark
        yield from written.items()
        yield from ((key, value) for key, value in merged.items() if key not in written)

    def _merge(self, loader: _Loader, node: yaml.Node, keys: Keys, merged: dict[Key, yaml.Node]) -> None:
        if not isinstance(node, yaml.MappingNode) or id(node) in self._open:
            raise yaml.MarkedYAMLError(None, None, "`<<` merges only mappings", node.start_mark)
        for key, value in self._pairs(loader, node, keys):
            merged.setdefault(key, value)

    def _key(self, loader: _Loader, node: yaml.Node) -> Key:
        key = loader.construct_object(node, deep=True) if isinstance(node, yaml.ScalarNode) else None
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise yaml.MarkedYAMLError(None, None, "a key must be text; put it in quotes", node.start_mark)
        return key


def dotted(keys: Keys) -> str:
    """``("models", 0, "port")`` as ``models[0].port``."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text
