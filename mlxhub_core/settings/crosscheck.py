"""What is wrong between keys that are each right by themselves.

Works on the plain values of the file and not on checked ones, so that one bad entry does not hide what is wrong
with its neighbours. Whatever has the wrong type here is left to the schema to complain about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlxhub_core.checking import Finding
from mlxhub_core.errors import did_you_mean, listed

Entries = list[tuple[int, dict[str, Any]]]

_FLAG = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_OWN_FLAGS = {
    "model": "write `model_path:`",
    "port": "write `port:`",
    "host": "write `host:` at the top of the file",
}


def entries(raw: Mapping[str, Any], section: str) -> list[tuple[int, Any]]:
    """The entries of a list of hub.yaml with their indexes; none if it is no list."""
    values = raw.get(section)
    return list(enumerate(values)) if isinstance(values, list) else []


def between_entries(raw: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong between the entries of the file."""
    models, groups = _named(raw, "models"), _named(raw, "groups")
    yield from _shared_names("models", models)
    yield from _shared_names("groups", groups)
    yield from _shared_ports(models)
    if "groups" in raw:
        yield from _unknown_groups(models, {group["name"] for _, group in groups})
        yield from _too_many_defaults(models, groups)


def within_model(raw: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong between the keys of one model."""
    yield from _within_command_model(raw) if "command" in raw else _within_mlx_model(raw)


def _within_command_model(raw: Mapping[str, Any]) -> Iterator[Finding]:
    for key in ("options", "args", "python"):
        if key in raw:
            yield Finding((key,), "is for mlx_lm server; with `command:` write it there")
    words = raw["command"] if isinstance(raw["command"], list) else []
    if "model_path" not in raw and any("{model_path}" in str(word) for word in words):
        yield Finding(("command",), "uses {model_path}, so `model_path:` is required")


def _within_mlx_model(raw: Mapping[str, Any]) -> Iterator[Finding]:
    if "model_path" not in raw:
        yield Finding(
            ("model_path",), "is required: a directory or a name on the Hugging Face hub; or give a `command:`"
        )
    if "health" in raw:
        yield Finding(("health",), "is for `command:` models; mlx_lm server is asked for one token")
    options, args = raw.get("options"), raw.get("args")
    for key in options if isinstance(options, dict) else ():
        flag = str(key).replace("_", "-")
        if flag in _OWN_FLAGS:
            yield Finding(("options", key), f"is set by the hub; {_OWN_FLAGS[flag]}")
        elif not _FLAG.fullmatch(str(key)):
            yield Finding(("options", key), "must be a flag of mlx_lm server without its dashes, as max-tokens")
    for index, word in enumerate(args if isinstance(args, list) else ()):
        flag = str(word).partition("=")[0]
        if flag.startswith("--") and flag[2:] in _OWN_FLAGS:
            yield Finding(("args", index), f"{flag} is set by the hub; {_OWN_FLAGS[flag[2:]]}")


def _named(raw: Mapping[str, Any], section: str) -> Entries:
    return [
        (i, entry)
        for i, entry in entries(raw, section)
        if isinstance(entry, dict) and isinstance(entry.get("name"), str)
    ]


def _shared_names(section: str, named: Entries) -> Iterator[Finding]:
    # Without regard to case: on a Mac's file system `Qwen.log` and `qwen.log` are one file.
    taken: dict[str, int] = {}
    for index, entry in named:
        name = entry["name"]
        owner = taken.setdefault(name.lower(), index)
        first = dict(named)[owner]["name"]
        if owner != index and first == name:
            yield Finding((section, index, "name"), f"{name!r} is already taken by an earlier entry")
        elif owner != index:
            yield Finding(
                (section, index, "name"), f"differs from {first!r} only in case, so both would share a log file"
            )


def _shared_ports(models: Entries) -> Iterator[Finding]:
    owners: dict[int, int] = {}
    for index, model in models:
        port = model.get("port")
        if type(port) is int and owners.setdefault(port, index) != index:
            owner = dict(models)[owners[port]]["name"]
            message = f"{port} is already the port of {owner!r}; leave it out and the hub finds a free one"
            yield Finding(("models", index, "port"), message)


def _unknown_groups(models: Entries, known: set[str]) -> Iterator[Finding]:
    for index, model in models:
        group = model.get("group")
        if isinstance(group, str) and group not in known:
            hint = did_you_mean(group, known)
            yield Finding(
                ("models", index, "group"), f"no group {group!r} under `groups:`{hint} (known: {listed(sorted(known))})"
            )


def _too_many_defaults(models: Entries, groups: Entries) -> Iterator[Finding]:
    for index, group in groups:
        defaults = [m["name"] for _, m in models if m.get("group") == group["name"] and m.get("default") is True]
        cap = group.get("max_loaded")
        if type(cap) is int and 0 < cap < len(defaults):
            message = (
                f"{cap} is too few for the group's {len(defaults)} models that start with the hub ({listed(defaults)})"
            )
            yield Finding(("groups", index, "max_loaded"), message)
