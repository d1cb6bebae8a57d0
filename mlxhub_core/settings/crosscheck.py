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
from mlxhub_core.restart import RestartRule
from mlxhub_core.settings.kinds import MAX_SECONDS
from mlxhub_core.yaml_source import Keys

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
    models, groups = _mappings(raw, "models"), _mappings(raw, "groups")
    yield from _shared_names("models", models)
    yield from _shared_names("groups", groups)
    yield from _shared_ports(models, raw.get("control"))
    if isinstance(raw.get("groups"), list):
        yield from _unknown_groups(models, {group["name"] for _, group in groups if _is_named(group)})
        yield from _too_many_defaults(models, groups)
    yield from _unknown_to_sinks(raw, models, groups)


def within_model(raw: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong between the keys of one model."""
    yield from _within_command_model(raw) if "command" in raw else _within_mlx_model(raw)
    yield from _within_restart(raw.get("restart"))


def _within_command_model(raw: Mapping[str, Any]) -> Iterator[Finding]:
    for key in ("options", "args", "python"):
        if key in raw:
            yield Finding((key,), "is for mlx_lm server; with `command:` write it there")
    if "model_path" not in raw:
        for keys in _places(raw, "{model_path}"):
            yield Finding(keys, "uses {model_path}, so `model_path:` is required")
    health, portless = raw.get("health"), "port" not in raw and not any(_places(raw, "{port}"))
    if isinstance(health, dict) and health and portless and isinstance(raw["command"], list):
        # It would be ready at once, and nobody would ever ask it.
        message = "cannot be asked without a port; write {port} in `command:`, or the server's own as `port:`"
        yield Finding(("health",), f"{message}; or `health: off`")


def _places(raw: Mapping[str, Any], placeholder: str) -> Iterator[Keys]:
    """The keys of a `command:` model under which the hub fills in something."""
    words, env = raw["command"], raw.get("env")
    if isinstance(words, list) and any(isinstance(word, str) and placeholder in word for word in words):
        yield ("command",)
    for key, text in env.items() if isinstance(env, dict) else ():
        if isinstance(text, str) and placeholder in text:
            yield ("env", key)


def _within_mlx_model(raw: Mapping[str, Any]) -> Iterator[Finding]:
    if "model_path" not in raw:
        yield Finding(
            ("model_path",), "is required: a directory or a name on the Hugging Face hub; or give a `command:`"
        )
    if isinstance(raw.get("health"), dict) and "path" in raw["health"]:
        yield Finding(("health", "path"), "is for `command:` models; mlx_lm server is asked for one token")
    options, args = raw.get("options"), raw.get("args")
    flags: dict[str, str] = {}
    for key in options if isinstance(options, dict) else ():
        if not isinstance(key, str):
            continue
        flag = key.replace("_", "-")
        if flag in _OWN_FLAGS:
            yield Finding(("options", key), f"is set by the hub; {_OWN_FLAGS[flag]}")
        elif not _FLAG.fullmatch(key):
            yield Finding(("options", key), "must be a flag of mlx_lm server without its dashes, as max-tokens")
        elif flags.setdefault(flag, key) != key:
            yield Finding(("options", key), f"is the same flag as {flags[flag]!r}; keep one")
    for index, word in enumerate(args if isinstance(args, list) else ()):
        flag = str(word).partition("=")[0]
        if flag.startswith("--") and flag[2:] in _OWN_FLAGS:
            yield Finding(("args", index), f"{flag} is set by the hub; {_OWN_FLAGS[flag[2:]]}")


def _within_restart(raw: Any) -> Iterator[Finding]:
    if not isinstance(raw, dict):
        return
    delay, longest = raw.get("delay", 0), raw.get("max_delay", RestartRule().max_delay)
    if type(delay) in (int, float) and type(longest) in (int, float) and 0 < longest < delay <= MAX_SECONDS:
        yield Finding(("restart", "delay"), f"is more than max_delay, which is {longest:g}; raise that too")


def _mappings(raw: Mapping[str, Any], section: str) -> Entries:
    return [(i, entry) for i, entry in entries(raw, section) if isinstance(entry, dict)]


def _is_named(entry: Mapping[str, Any]) -> bool:
    return isinstance(entry.get("name"), str)


def _shared_names(section: str, items: Entries) -> Iterator[Finding]:
    taken: dict[str, str] = {}
    for index, entry in items:
        if not _is_named(entry):
            continue
        name = entry["name"]
        # Models without regard to case: on a Mac's file system `Qwen.log` and `qwen.log` are one file.
        key = name.lower() if section == "models" else name
        if key not in taken:
            taken[key] = name
        elif taken[key] == name:
            yield Finding((section, index, "name"), f"{name!r} is already taken by an earlier entry; choose another")
        else:
            message = f"differs from {taken[key]!r} only in case, so both would share a log file; choose another"
            yield Finding((section, index, "name"), message)


def _shared_ports(models: Entries, control: Any) -> Iterator[Finding]:
    port = control.get("port") if isinstance(control, dict) else None
    owners: dict[int, str] = {port: "`control:`"} if type(port) is int else {}
    for index, model in models:
        port = model.get("port")
        if type(port) is not int:
            continue
        if port in owners:
            message = f"{port} is already the port of {owners[port]}; leave it out and the hub finds a free one"
            yield Finding(("models", index, "port"), message)
        else:
            owners[port] = repr(model["name"]) if _is_named(model) else f"models[{index}]"


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
        name, cap = group.get("name"), group.get("max_loaded")
        defaults = [model for _, model in models if model.get("group") == name and model.get("default") is True]
        if isinstance(name, str) and type(cap) is int and 0 < cap < len(defaults):
            names = listed(str(model.get("name")) for model in defaults if _is_named(model))
            message = f"{cap} is too few for the group's {len(defaults)} models that start with the hub ({names})"
            yield Finding(("groups", index, "max_loaded"), message)


def _unknown_to_sinks(raw: Mapping[str, Any], models: Entries, groups: Entries) -> Iterator[Finding]:
    """Names in a sink's `only:` that no model or group has: it would wait for them for ever."""
    labels = {model["group"] for _, model in models if isinstance(model.get("group"), str)}
    known = {
        "models": {model["name"] for _, model in models if _is_named(model)},
        "groups": labels | {group["name"] for _, group in groups if _is_named(group)},
    }
    for keys, only in _only_of_sinks(raw.get("sinks")):
        for section, names in known.items():
            wanted = only.get(section)
            for index, name in enumerate(wanted if isinstance(wanted, list) else ()):
                if isinstance(name, str) and name not in names:
                    message = f"hub.yaml has no such {section[:-1]}{did_you_mean(name, names)} (known: {listed(sorted(names))})"
                    yield Finding((*keys, section, index), message)


def _only_of_sinks(sinks: Any) -> Iterator[tuple[Keys, dict[str, Any]]]:
    for key, value in sinks.items() if isinstance(sinks, dict) else ():
        delivery = value.get("delivery") if isinstance(value, dict) else None
        only = delivery.get("only") if isinstance(delivery, dict) else None
        if isinstance(only, dict):
            yield ("sinks", key, "delivery", "only"), only
