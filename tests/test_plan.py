"""What a reload would do: from the old hub.yaml, the new one and the states of the models to a plan with its reasons."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mlxhub_core.settings import HubSettings, ModelSettings, load_settings
from mlxhub_core.states import ModelState
from mlxhub_core.supervisor.plan import LIVE_KEYS, Plan, Step, make_plan

STOPPED, STARTING, READY, UNHEALTHY, STOPPING, BACKOFF, FAILED = ModelState

Model = dict[str, Any]


def command(name: str, **keys: Any) -> Model:
    return {"name": name, "command": ["serve"], **keys}


def served(name: str, **keys: Any) -> Model:
    return command(name, **{"command": ["serve", "{port}"], **keys})


def mlx(name: str, **keys: Any) -> Model:
    return {"name": name, "model_path": "org/model", **keys}


def settings(directory: Path, *models: Model, **top: Any) -> HubSettings:
    # JSON is YAML.
    path = directory / "hub.yaml"
    directory.mkdir(exist_ok=True)
    path.write_text(json.dumps({**top, "models": models}))
    return load_settings(path)


def shown(plan: Plan) -> dict[str, dict[str, str]]:
    """A plan as ``{verb: {model: reason}}``, without the verbs that nobody is to do."""
    verbs = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    return {verb: {step.name: step.reason for step in steps} for verb, steps in verbs.items() if steps}


A, B = command("a"), command("b")
A_DEFAULT = command("a", default=True)
A_CHANGED = command("a", command=["serve", "--fast"])
A_DEFAULT_CHANGED = command("a", default=True, command=["serve", "--fast"])

TABLE: dict[str, tuple[list[Model], list[Model], dict[str, ModelState], dict[str, dict[str, str]]]] = {
    "a ready model that is as it was stays": (
        [A], [A], {"a": READY}, {"unchanged": {"a": "is ready"}},
    ),
    "a starting model that is as it was stays": (
        [A_DEFAULT], [A_DEFAULT], {"a": STARTING}, {"unchanged": {"a": "is starting"}},
    ),
    "an unhealthy model that is as it was stays": (
        [A_DEFAULT], [A_DEFAULT], {"a": UNHEALTHY}, {"unchanged": {"a": "is unhealthy"}},
    ),
    "a model that waits for its restart goes on waiting": (
        [A_DEFAULT], [A_DEFAULT], {"a": BACKOFF}, {"unchanged": {"a": "waits for its restart"}},
    ),
    "a default model that was stopped by hand stays stopped": (
        [A_DEFAULT], [A_DEFAULT], {"a": STOPPED}, {"unchanged": {"a": "is stopped"}},
    ),
    "and so it does if something of it has changed": (
        [A_DEFAULT], [A_DEFAULT_CHANGED], {"a": STOPPED}, {"unchanged": {"a": "is stopped"}},
    ),
    "a default model that is being stopped by hand stays so": (
        [A_DEFAULT], [A_DEFAULT], {"a": STOPPING}, {"unchanged": {"a": "is stopping"}},
    ),
    "and is not started because something of it has changed": (
        [A_DEFAULT], [A_DEFAULT_CHANGED], {"a": STOPPING}, {"unchanged": {"a": "is stopping"}},
    ),
    "a default model that failed is started": (
        [A_DEFAULT], [A_DEFAULT], {"a": FAILED}, {"start": {"a": "had failed"}},
    ),
    "a failed model that nobody wants with the hub is left": (
        [A], [A_CHANGED], {"a": FAILED}, {"unchanged": {"a": "is failed"}},
    ),
    "a changed ready model is restarted": (
        [A], [A_CHANGED], {"a": READY}, {"restart": {"a": "command changed"}},
    ),
    "a changed starting model is restarted": (
        [A], [A_CHANGED], {"a": STARTING}, {"restart": {"a": "command changed"}},
    ),
    "a changed unhealthy model is restarted": (
        [A], [A_CHANGED], {"a": UNHEALTHY}, {"restart": {"a": "command changed"}},
    ),
    "a changed model that waits for its restart need not wait, and has no process to stop": (
        [A], [A_CHANGED], {"a": BACKOFF}, {"start": {"a": "command changed"}},
    ),
    "a changed model that never ran waits to be wanted": (
        [A], [A_CHANGED], {"a": STOPPED}, {"unchanged": {"a": "is stopped"}},
    ),
    "every changed key is a reason": (
        [mlx("a", options={"temp": 1})], [mlx("a", model_path="org/other", options={"temp": 0}, args=["-v"])],
        {"a": READY}, {"restart": {"a": "model_path, options, args changed"}},
    ),
    "a model that is to start with the hub from now on starts": (
        [A], [A_DEFAULT], {"a": STOPPED}, {"start": {"a": "default: true is new"}},
    ),
    "even if it is just being stopped": (
        [A], [A_DEFAULT], {"a": STOPPING}, {"start": {"a": "default: true is new"}},
    ),
    "but not if it runs already": (
        [A], [A_DEFAULT], {"a": READY}, {"unchanged": {"a": "is ready"}},
    ),
    "a model that is no longer to start with the hub runs on": (
        [A_DEFAULT], [A], {"a": READY}, {"unchanged": {"a": "is ready"}},
    ),
    "a new default model starts": (
        [B], [B, A_DEFAULT], {"b": READY}, {"start": {"a": "new, with default: true"}, "unchanged": {"b": "is ready"}},
    ),
    "a new model on demand waits": (
        [B], [B, A], {"b": READY}, {"unchanged": {"b": "is ready", "a": "new, started on demand"}},
    ),
    "a removed model stops": (
        [A, B], [B], {"a": READY, "b": READY}, {"stop": {"a": "no longer in hub.yaml"}, "unchanged": {"b": "is ready"}},
    ),
    "a removed model is forgotten even if it does not run": (
        [A, B], [B], {"a": FAILED, "b": STOPPED},
        {"stop": {"a": "no longer in hub.yaml"}, "unchanged": {"b": "is stopped"}},
    ),
    "a renamed model is another one": (
        [A_DEFAULT], [command("c", default=True)], {"a": READY},
        {"start": {"c": "new, with default: true"}, "stop": {"a": "no longer in hub.yaml"}},
    ),
    "a model of which the hub knows nothing is new though the old file has it": (
        [A_DEFAULT], [A_DEFAULT], {}, {"start": {"a": "new, with default: true"}},
    ),
    "a default written out is no change": (
        [A], [command("a", restart="on-failure", env={}, port=None)], {"a": READY}, {"unchanged": {"a": "is ready"}},
    ),
    "the order of mappings is no change": (
        [mlx("a", options={"x": 1, "y": 2})], [mlx("a", options={"y": 2, "x": 1})], {"a": READY},
        {"unchanged": {"a": "is ready"}},
    ),
    "the order of words is one": (
        [mlx("a", args=["-x", "-y"])], [mlx("a", args=["-y", "-x"])], {"a": READY},
        {"restart": {"a": "args changed"}},
    ),
    "true is not 1": (
        [mlx("a", options={"verbose": True})], [mlx("a", options={"verbose": 1})], {"a": READY},
        {"restart": {"a": "options changed"}},
    ),
    "not even within a mapping": (
        [mlx("a", options={"template-args": {"think": False}})], [mlx("a", options={"template-args": {"think": 0}})],
        {"a": READY}, {"restart": {"a": "options changed"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "states", "expected"), TABLE.values(), ids=TABLE)
def test_from_one_hub_yaml_to_the_next(
    tmp_path: Path,
    old: list[Model],
    new: list[Model],
    states: dict[str, ModelState],
    expected: dict[str, dict[str, str]],
) -> None:
    plan = make_plan(states, settings(tmp_path, *old), settings(tmp_path, *new))
    assert shown(plan) == expected


LIVE: dict[str, tuple[Model, Model]] = {
    "default": (command("a", default=True), command("a")),
    "group": (command("a", group="x"), command("a", group="y")),
    "restart": (command("a", restart="never"), command("a", restart={"policy": "always", "delay": 5})),
    "stop_timeout": (command("a", stop_timeout=1), command("a", stop_timeout=2.5)),
    "health": (served("a"), served("a", health={"path": "/alive"})),
    "memory": (command("a"), command("a", memory={"required": "8GB"})),
}
CHANGES: dict[str, tuple[Model, Model]] = {
    "model_path": (mlx("a"), mlx("a", model_path="org/other")),
    "port": (mlx("a", port=8001), mlx("a", port=8002)),
    "options": (mlx("a"), mlx("a", options={"max-tokens": 1})),
    "args": (mlx("a"), mlx("a", args=["--trust-remote-code"])),
    "python": (mlx("a"), mlx("a", python="/opt/python")),
    "command": (command("a"), command("a", command=["serve", "-v"])),
    "env": (command("a", env={"A": "1"}), command("a", env={"A": "2"})),
    "working_directory": (command("a"), command("a", working_directory="sub")),
}


def test_of_every_key_it_is_known_whether_it_needs_a_restart() -> None:
    assert set(LIVE) == LIVE_KEYS
    assert set(CHANGES) == set(ModelSettings.model_fields) - LIVE_KEYS - {"name"}


@pytest.mark.parametrize(("old", "new"), LIVE.values(), ids=LIVE)
def test_a_key_that_only_the_hub_heeds_restarts_nothing(tmp_path: Path, old: Model, new: Model) -> None:
    assert settings(tmp_path, old).models != settings(tmp_path, new).models
    plan = make_plan({"a": READY}, settings(tmp_path, old), settings(tmp_path, new))
    assert shown(plan) == {"unchanged": {"a": "is ready"}}


@pytest.mark.parametrize("state", [STARTING, READY, UNHEALTHY, STOPPING, BACKOFF, STOPPED, FAILED], ids=str)
@pytest.mark.parametrize(
    "keys",
    [
        {"restart": "never"},
        {"restart": {"max_failures": 1}},
        {"health": False},
        {"health": {"interval": 1, "startup_timeout": 5}},
        {"memory": {"required": "1TB"}},
    ],
    ids=["restart", "restart-rule", "health-off", "health", "memory"],
)
def test_how_a_model_is_watched_may_change_in_any_state_and_moves_nothing(
    tmp_path: Path, keys: Model, state: ModelState
) -> None:
    plan = make_plan({"a": state}, settings(tmp_path, served("a")), settings(tmp_path, served("a", **keys)))
    assert [step.name for step in plan.unchanged] == ["a"]


def test_a_change_that_reaches_the_process_is_the_only_reason_given_beside_those_that_do_not(tmp_path: Path) -> None:
    new = served("a", command=["serve", "--p={port}"], restart="never", health=False, memory={"required": "1GB"})
    plan = make_plan({"a": UNHEALTHY}, settings(tmp_path, served("a")), settings(tmp_path, new))
    assert shown(plan) == {"restart": {"a": "command changed"}}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"restart": "always"}, {"restart": {"policy": "always"}}),
        ({}, {"restart": {}, "health": {}, "memory": {}}),
        ({"memory": {"required": "8GB"}}, {"memory": {"required": "8000 MB"}}),
    ],
    ids=["word", "empty", "other-unit"],
)
def test_the_same_in_other_words_is_no_change(tmp_path: Path, old: Model, new: Model) -> None:
    assert settings(tmp_path, served("a", **old)).models == settings(tmp_path, served("a", **new)).models


@pytest.mark.parametrize(("key", "old", "new"), [(key, *pair) for key, pair in CHANGES.items()], ids=CHANGES)
def test_a_key_that_reaches_the_process_restarts_it(tmp_path: Path, key: str, old: Model, new: Model) -> None:
    plan = make_plan({"a": READY}, settings(tmp_path, old), settings(tmp_path, new))
    assert shown(plan) == {"restart": {"a": f"{key} changed"}}


def test_the_first_hub_yaml_starts_its_default_models_and_no_other(tmp_path: Path) -> None:
    plan = make_plan({}, None, settings(tmp_path, A_DEFAULT, B))
    assert shown(plan) == {"start": {"a": "new, with default: true"}, "unchanged": {"b": "new, started on demand"}}


@pytest.mark.parametrize(
    ("top", "reason"),
    [
        ({"host": "::1"}, "host changed"),
        ({"log_path": "elsewhere"}, "log_path changed"),
        ({"host": "localhost", "log_path": "elsewhere"}, "host, log_path changed"),
    ],
    ids=["host", "log_path", "both"],
)
def test_what_moves_every_model_restarts_those_that_run(tmp_path: Path, top: dict[str, str], reason: str) -> None:
    models = [command(name, default=True) for name in "abcd"]
    states = {"a": READY, "b": STOPPED, "c": BACKOFF, "d": STOPPING}
    plan = make_plan(states, settings(tmp_path, *models), settings(tmp_path, *models, **top))
    assert shown(plan) == {
        "restart": {"a": reason},
        "start": {"c": reason},
        "unchanged": {"b": "is stopped", "d": "is stopping"},
    }


def test_a_hub_yaml_in_another_directory_restarts_those_that_run(tmp_path: Path) -> None:
    plan = make_plan({"a": READY}, settings(tmp_path / "old", A), settings(tmp_path / "new", A))
    assert shown(plan) == {"restart": {"a": "directory changed"}}


@pytest.mark.parametrize(
    ("state", "verb", "reason"),
    [
        (READY, "restart", "its port went to another model"),
        (STARTING, "restart", "its port went to another model"),
        (BACKOFF, "start", "its port went to another model"),
        (STOPPED, "unchanged", "is stopped"),
        (STOPPING, "unchanged", "is stopping"),
    ],
    ids=str,
)
def test_a_running_model_whose_port_another_one_needs_moves_out(
    tmp_path: Path, state: ModelState, verb: str, reason: str
) -> None:
    hub = settings(tmp_path, A_DEFAULT, B)
    plan = make_plan({"a": state, "b": READY}, hub, hub, rehoused={"a"})
    assert shown(plan)[verb]["a"] == reason
    assert Step("b", "is ready") in plan.unchanged


@pytest.mark.parametrize(
    "top",
    [{"log_level": "DEBUG"}, {"model_starting_port": 28000}, {"sinks": {"loguru": False}}, {"groups": [{"name": "g"}]}],
    ids=lambda top: next(iter(top)),
)
def test_what_concerns_only_the_hub_restarts_nothing(tmp_path: Path, top: dict[str, Any]) -> None:
    plan = make_plan({"a": READY}, settings(tmp_path, A), settings(tmp_path, A, **top))
    assert shown(plan) == {"unchanged": {"a": "is ready"}}


def test_a_plan_follows_the_order_of_the_new_file(tmp_path: Path) -> None:
    names = ["z", "m", "a", "k"]
    old = settings(tmp_path, *(command(name) for name in sorted(names)))
    new = settings(tmp_path, *(command(name, env={"A": "b"}) for name in names))
    plan = make_plan(dict.fromkeys(sorted(names), READY), old, new)
    assert [step.name for step in plan.restart] == names


def test_a_plan_is_a_value(tmp_path: Path) -> None:
    hub, states = settings(tmp_path, A_DEFAULT, B), {"a": FAILED, "b": READY}
    plan = make_plan(states, hub, hub)
    assert plan == make_plan(dict(states), hub, hub)
    assert len({plan, make_plan(states, hub, hub)}) == 1
    assert states == {"a": FAILED, "b": READY}
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.start = ()  # type: ignore[misc]


def test_every_model_is_in_a_plan_once(tmp_path: Path) -> None:
    old = settings(tmp_path, A, B, command("c"), command("d"))
    new = settings(tmp_path, A_CHANGED, B, command("d", default=True), command("e", default=True), command("f"))
    plan = make_plan({"a": READY, "b": READY, "c": READY, "d": STOPPED}, old, new)
    steps = [*plan.start, *plan.stop, *plan.restart, *plan.unchanged]
    assert sorted(step.name for step in steps) == ["a", "b", "c", "d", "e", "f"]
    assert all(isinstance(step, Step) and step.reason for step in steps)
