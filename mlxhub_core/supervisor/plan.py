"""What a new hub.yaml asks for, as a value: nothing is done here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxhub_core.errors import HubError
from mlxhub_core.settings import HubSettings, ModelSettings
from mlxhub_core.states import ALIVE, ModelState

LIVE_KEYS = frozenset({"default", "group", "restart", "stop_timeout", "health", "memory"})
"""Keys of a model that the hub alone heeds: a running process need not be restarted when they change."""


@dataclass(frozen=True, slots=True)
class Step:
    """One model, and why it is where it is in the plan."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Which models a reload starts, stops, restarts, and leaves as they are, in the order of hub.yaml.

    Attributes:
        start: the models that it starts.
        stop: those that it ends.
        restart: those that it ends and starts again.
        unchanged: those that it leaves as they are.
        warnings: what works but deserves a word, with its place in hub.yaml: keys that have no use, sinks that the hub
            will do without, and what a sink uses that a later hub will not have.
    """

    start: tuple[Step, ...]
    stop: tuple[Step, ...]
    restart: tuple[Step, ...]
    unchanged: tuple[Step, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What a reload did, by name. A restarted model is in both `stopped` and `started`.

    Attributes:
        started: models whose process was started.
        stopped: models whose process was ended.
        unchanged: models that are as they were.
        failed: models that should have started, and the error that kept them from it.
    """

    started: tuple[str, ...]
    stopped: tuple[str, ...]
    unchanged: tuple[str, ...]
    failed: Mapping[str, HubError] = field(default_factory=dict)


def make_plan(
    current: Mapping[str, ModelState],
    old: HubSettings | None,
    new: HubSettings,
    rehoused: Collection[str] = (),
    adopted: Mapping[str, bool] | None = None,
) -> Plan:
    """Compare what is with what hub.yaml wants.

    Args:
        current: the state of each model the hub knows.
        old: the settings that are in force; None at the start of the hub.
        new: the settings to come.
        rehoused: running models whose port now belongs to another.
        adopted: models that an earlier hub started, or was about to start again, and whether their entries are still as
            they were then.
    """
    adopted = adopted or {}
    before = {model.name: model for model in (old or new).models if old or model.name in adopted}
    moved = {
        model.name: _moved(old, new)
        or ("its port went to another model" if model.name in rehoused else "")
        or ("" if adopted.get(model.name, True) else "changed since an earlier hub started it")
        for model in new.models
    }
    plan: dict[str, list[Step]] = {"start": [], "stop": [], "restart": [], "unchanged": []}
    for model in new.models:
        verb, reason = _verdict(before.get(model.name), model, current.get(model.name), moved[model.name])
        plan[verb].append(Step(model.name, reason))
    wanted = {model.name for model in new.models}
    plan["stop"] += [Step(name, "no longer in hub.yaml") for name in current if name not in wanted]
    start, stop, restart, unchanged = (tuple(plan[verb]) for verb in ("start", "stop", "restart", "unchanged"))
    return Plan(start, stop, restart, unchanged)


def _verdict(old: ModelSettings | None, new: ModelSettings, state: ModelState | None, moved: str) -> tuple[str, str]:
    if old is None or state is None:
        return ("start", "new, with default: true") if new.default else ("unchanged", "new, started on demand")
    changes = moved or _changes(old, new)
    # One that is stopping needs no second stop: if it is to run again, it does so with the new settings.
    if state in ALIVE and state is not ModelState.STOPPING:
        return ("restart", changes) if changes else ("unchanged", f"is {state}")
    if state is ModelState.BACKOFF and not changes:
        return "unchanged", "waits for its restart" if new.restart.policy != "never" else "is no longer restarted"
    if state is ModelState.BACKOFF:
        return "start", changes
    if new.default and not old.default:
        return ("start", "default: true is new")
    if new.default and state is ModelState.FAILED:
        return ("start", "had failed")
    return ("unchanged", f"is {state}")


def _moved(old: HubSettings | None, new: HubSettings) -> str:
    """What changed for every model at once."""
    if old is None:
        return ""
    keys = [key for key in ("host", "log_path", "directory") if getattr(old, key) != getattr(new, key)]
    return f"{', '.join(keys)} changed" if keys else ""


def _changes(old: ModelSettings, new: ModelSettings) -> str:
    heeded = [key for key in type(new).model_fields if key not in LIVE_KEYS]
    changed = [key for key in heeded if not _equal(getattr(old, key), getattr(new, key))]
    return f"{', '.join(changed)} changed" if changed else ""


def _equal(old: Any, new: Any) -> bool:
    """Whether two values are the same to a command line: to Python so are `true` and `1`."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_equal(value, new[key]) for key, value in old.items())
    return type(old) is type(new) and bool(old == new)
