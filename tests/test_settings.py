"""hub.yaml, whole: what a right one means, and everything that is wrong with another, at once."""

from __future__ import annotations

import dataclasses
import pwd
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field

from mlxhub_core.checking import STRICT, check
from mlxhub_core.errors import ConfigError
from mlxhub_core.restart import RestartRule
from mlxhub_core.settings import (
    DeliverySettings,
    GroupSettings,
    HealthSettings,
    HubSettings,
    MemorySettings,
    ModelSettings,
    OnlySettings,
    RestartSettings,
    SinkSettings,
    load_settings,
    resolve,
)
from mlxhub_core.settings.kinds import MAX_NAME
from mlxhub_core.settings.reader import _SECTIONS
from mlxhub_core.settings.schema import HubFile
from mlxhub_core.settings.seed_keys import HUB_KEYS, MODEL_KEYS
from mlxhub_core.yaml_source import dotted

SECRET = "hf_CANARY"
MODELS = "models: [{name: a, model_path: x}]\n"
"""The least there must be."""

Load = Callable[[str], HubSettings]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a text as hub.yaml, with a home directory of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLXHUB_NO_SINKS", raising=False)

    def load_text(text: str) -> HubSettings:
        path = tmp_path / "hub.yaml"
        path.write_text(text, encoding="utf-8")
        return load_settings(path)

    return load_text


def problems(load: Load, text: str) -> list[str]:
    """Each line that is said about a wrong file."""
    with pytest.raises(ConfigError) as raised:
        load(text)
    lines = str(raised.value).splitlines()
    assert lines == [str(problem) for problem in raised.value.problems], "a line for each"
    assert len(set(lines)) == len(lines), "nothing is said twice"
    return lines


def problem(load: Load, text: str) -> str:
    (line,) = problems(load, text)
    return line


def model(load: Load, entry: str) -> ModelSettings:
    """The one model of a file, from the inside of its braces."""
    (loaded,) = load(f"models: [{{name: a, {entry}}}]\n").models
    return loaded


def wrong(load: Load, entry: str) -> str:
    """What is wrong with the one model of a file, without file and line."""
    return problem(load, f"models: [{{name: a, {entry}}}]\n").partition(": models[0].")[2]


# What a right file means.


def test_the_least_file_has_every_default(load: Load, tmp_path: Path) -> None:
    settings = load(MODELS)
    assert settings.path == tmp_path / "hub.yaml"
    assert settings.directory == tmp_path
    assert settings.log_path == tmp_path / "home" / "mlx-openai-server" / "logs"
    assert settings.log_rotation is not None
    assert settings.log_rotation.model_dump() == {"max_bytes": 50_000_000, "backups": 5, "compress": True}
    assert (settings.log_level, settings.host, settings.model_starting_port) == ("INFO", "127.0.0.1", 27850)
    assert settings.groups == {}
    assert settings.sinks == (SinkSettings("loguru", "loguru"),)
    assert settings.warnings == ()
    (only,) = settings.models
    assert only.model_dump() == {
        "name": "a",
        "model_path": "x",
        "default": False,
        "group": None,
        "port": None,
        "restart": {
            "policy": "on-failure",
            "delay": 1.0,
            "max_delay": 60.0,
            "factor": 2.0,
            "jitter": 0.1,
            "reset_after": 60.0,
            "max_failures": 5,
            "window": 600.0,
        },
        "stop_timeout": 30.0,
        "options": {},
        "args": [],
        "python": None,
        "command": None,
        "health": {"path": "/health", "interval": 30.0, "timeout": 5.0, "startup_timeout": 600.0, "failures": 3},
        "memory": {"required": None},
        "env": {},
        "working_directory": None,
    }


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("off", None),
        ("", {"max_bytes": 50_000_000, "backups": 5, "compress": True}),
        ("{max_bytes: , backups: 1}", {"max_bytes": 50_000_000, "backups": 1, "compress": True}),
        ("{max_bytes: 64KiB}", {"max_bytes": 65_536, "backups": 5, "compress": True}),
    ],
)
def test_log_rotation_may_be_off_or_say_only_what_differs(
    load: Load, written: str, meant: dict[str, object] | None
) -> None:
    rotation = load(f"log_rotation: {written}\n" + MODELS).log_rotation
    assert (rotation and rotation.model_dump()) == meant


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{max_bytes: 64KB}", "log_rotation.max_bytes: must be at least 65536"),
        ("{max_bytes: 50}", "log_rotation.max_bytes: must be a size with its unit, as 8GB or 512MiB"),
        ("{backups: 0}", "log_rotation.backups: must be at least 1"),
        ("{backups: 1001}", "log_rotation.backups: must be at most 1000"),
        ("{compress: 1}", "log_rotation.compress: must be true or false, not a number"),
        ("{maxbytes: 1GB}", "log_rotation.maxbytes: unknown key; did you mean 'max_bytes'?"),
        ("on", "log_rotation: "),
    ],
)
def test_a_log_rotation_that_cannot_be_is_told(load: Load, written: str, message: str) -> None:
    assert message in problem(load, f"log_rotation: {written}\n" + MODELS)


def test_a_full_file_means_what_it_says(load: Load, tmp_path: Path) -> None:
    settings = load(
        """\
log_path: ./logs
log_rotation: {max_bytes: 1 MiB, backups: 9, compress: false}
log_level: debug
host: localhost
model_starting_port: 30000
groups:
  - {name: big, max_loaded: 1}
  - name: small
sinks:
  loguru: off
  prometheus:
  acme:statsd/eu:
    host: stats.eu.internal
    delivery: {queue: 9, when_full: drop_newest, only: {events: [model_failed], groups: [big]}, required: false}
models:
  - name: Qwen3_4b-x
    model_path: mlx-community/Qwen3-4B-4bit
    default: true
    group: big
    port: 30001
    restart: always
    health: {interval: 10, startup_timeout: 3600}
    memory: {required: 8.5 GB}
    stop_timeout: 5
    options: {max-tokens: 2048, temp: 0.7, trust-remote-code: true, chat-template-args: {x: [1]}}
    args: [--top-p, 0]
    python: ~/venv/bin/python
    env: {HF_TOKEN: t, OMP_NUM_THREADS: 4}
    working_directory: sub
  - name: other
    command: [my-server, --port, "{port}", 8080]
    health: {path: "/v1/ok?x=1", timeout: 0.5, failures: 1}
    restart: {policy: always, delay: 2, max_delay: 300, factor: 3, jitter: 0, reset_after: 90, max_failures: 9, window: 7}
"""
    )
    assert settings.log_path == tmp_path / "logs"
    assert settings.log_rotation is not None
    assert settings.log_rotation.model_dump() == {"max_bytes": 1_048_576, "backups": 9, "compress": False}
    assert (settings.log_level, settings.host, settings.model_starting_port) == ("DEBUG", "localhost", 30000)
    assert settings.groups == {
        "big": GroupSettings(name="big", max_loaded=1),
        "small": GroupSettings(name="small", max_loaded=None),
    }
    assert settings.sinks == (
        SinkSettings("prometheus", "prometheus", keys=("sinks", "prometheus")),
        SinkSettings(
            "acme:statsd/eu",
            "statsd",
            "acme",
            {"host": "stats.eu.internal"},
            DeliverySettings(
                queue=9,
                when_full="drop_newest",
                only=OnlySettings(events=["model_failed"], groups=["big"]),
                required=False,
            ),
            ("sinks", "acme:statsd/eu"),
        ),
    )
    qwen, other = settings.models
    assert (qwen.name, qwen.group, qwen.port, qwen.default) == ("Qwen3_4b-x", "big", 30001, True)
    assert (qwen.restart.policy, qwen.restart.rule) == ("always", RestartRule())
    assert qwen.health == HealthSettings(interval=10, startup_timeout=3600)
    assert (qwen.memory.required, qwen.stop_timeout) == (8_500_000_000, 5.0)
    options = {"max-tokens": 2048, "temp": 0.7, "trust-remote-code": True, "chat-template-args": {"x": [1]}}
    assert qwen.options == options
    assert (qwen.args, qwen.env) == (["--top-p", "0"], {"HF_TOKEN": "t", "OMP_NUM_THREADS": "4"})
    assert (qwen.python, qwen.working_directory) == ("~/venv/bin/python", "sub")
    assert other.command == ["my-server", "--port", "{port}", "8080"]
    assert other.health == HealthSettings(path="/v1/ok?x=1", timeout=0.5, failures=1)
    assert other.restart.policy == "always"
    assert other.restart.rule == RestartRule(
        delay=2, factor=3, max_delay=300, jitter=0, reset_after=90, max_failures=9, window=7
    )
    assert settings.warnings == ()


@pytest.mark.parametrize(
    ("written", "path"),
    [("logs", "{tmp}/logs"), ("./a/../logs", "{tmp}/a/../logs"), ("~/logs", "{tmp}/home/logs"), ("/var/l", "/var/l")],
    ids=["relative", "with-dots", "home", "absolute"],
)
def test_the_log_path_starts_at_the_directory_of_the_file(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, path: str
) -> None:
    monkeypatch.chdir("/")
    log_path = load(f"log_path: {written}\n" + MODELS).log_path
    assert log_path == Path(path.format(tmp=tmp_path))
    assert not log_path.is_relative_to(tmp_path) or not log_path.exists(), "loading makes nothing"


def test_the_path_of_the_file_may_be_text_relative_or_in_the_home(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("hub.yaml", "~/hub.yaml", str(tmp_path / "hub.yaml")):
        assert load_settings(path).path == tmp_path / "hub.yaml"


def test_resolve_takes_a_path_from_a_directory_unless_it_has_its_own() -> None:
    assert resolve(Path("/base"), "a/b") == Path("/base/a/b")
    assert resolve(Path("/base"), "/a") == Path("/a")


@pytest.mark.parametrize(
    "name", ["a", "7b", "Qwen3-4B", "a_b-c", "x" * MAX_NAME, '"123"', "010", "1e5", "!!str 7"], ids=str
)
def test_a_name_is_kept_as_it_is_written(load: Load, name: str) -> None:
    (loaded,) = load(f"models: [{{name: {name}, model_path: x}}]\n").models
    assert loaded.name == name.strip('"').removeprefix("!!str ")


@pytest.mark.parametrize("written", ["INFO", "info", "Info", "'warning'"], ids=str)
def test_a_log_level_may_be_written_small(load: Load, written: str) -> None:
    assert load(f"log_level: {written}\n" + MODELS).log_level == written.strip("'").upper()


@pytest.mark.parametrize("kind", ["model_path: x", 'command: [x, "{port}"]', "command: [x]"], ids=str)
@pytest.mark.parametrize(
    ("written", "health"),
    [("off", None), ("no", None), ("false", None), ("", HealthSettings()), ("{}", HealthSettings())],
    ids=["off", "no", "false", "nothing", "empty"],
)
def test_health_is_asked_for_unless_it_is_off(
    load: Load, kind: str, written: str, health: HealthSettings | None
) -> None:
    assert model(load, f"{kind}, health: {written}").health == health


@pytest.mark.parametrize("policy", ["never", "on-failure", "always"])
def test_a_word_after_restart_is_short_for_the_policy(load: Load, policy: str) -> None:
    word, mapping = (model(load, f"model_path: x, restart: {each}") for each in (policy, f"{{policy: {policy}}}"))
    assert word.restart == mapping.restart == RestartSettings(policy=policy)  # type: ignore[arg-type]
    assert word.restart.rule == RestartRule()


def test_restart_may_say_how_without_saying_when(load: Load) -> None:
    restart = model(load, "model_path: x, restart: {delay: 5, max_failures: 2}").restart
    assert (restart.policy, restart.rule) == ("on-failure", RestartRule(delay=5, max_failures=2))


def test_the_defaults_of_restart_are_those_of_the_rule_and_no_key_of_it_is_left_out() -> None:
    assert RestartSettings().rule == RestartRule()
    keys = [field.name for field in dataclasses.fields(RestartRule)]
    assert {"policy", *keys} == set(RestartSettings.model_fields)
    # Values of their own, so that none may be handed on under the name of another.
    other = RestartRule(**{key: index + 1 for index, key in enumerate(keys) if key != "jitter"}, jitter=0.5)
    assert RestartSettings(policy="never", **dataclasses.asdict(other)).rule == other


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("8GB", 8 * 10**9),
        ("8 GB", 8 * 10**9),
        ("8gb", 8 * 10**9),
        ("8Gb", 8 * 10**9),
        ("'8GB'", 8 * 10**9),
        ("8GiB", 8 * 2**30),
        ("8gib", 8 * 2**30),
        ("512MiB", 2**29),
        ("512MB", 512 * 10**6),
        ("0.5GB", 5 * 10**8),
        ("1.1GB", 11 * 10**8),
        ("2.5 TiB", 5 * 2**39),
        ("1.5TB", 15 * 10**11),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("007GB", 7 * 10**9),
        ("1000TB", 10**15),
    ],
    ids=str,
)
def test_memory_is_a_size_with_its_unit(load: Load, written: str, size: int) -> None:
    assert model(load, f"model_path: x, memory: {{required: {written}}}").memory.required == size


@pytest.mark.parametrize("written", ["", "{}", "{required: }", "{required: ~}"], ids=repr)
def test_memory_is_looked_at_only_if_a_size_is_given(load: Load, written: str) -> None:
    assert model(load, f"model_path: x, memory: {written}").memory.required is None


@pytest.mark.parametrize(
    ("entry", "wants"),
    [
        ("model_path: x", True),
        ("command: [x]", False),
        ('command: [x, "--port={port}"]', True),
        ('command: [x], env: {PORT: "{port}"}', True),
        ("command: [x], port: 5000", False),
        ("command: [x, port], env: {PORT: port}", False),
    ],
    ids=["mlx", "command", "in-a-word", "in-the-environment", "fixed", "without-braces"],
)
def test_a_model_wants_a_port_if_it_has_a_place_for_it(load: Load, entry: str, wants: bool) -> None:
    assert model(load, entry).wants_port is wants


def test_what_is_loaded_cannot_be_changed(load: Load) -> None:
    settings = load(MODELS)
    with pytest.raises(AttributeError):
        settings.host = "0.0.0.0"  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.models[0].name = "b"


def test_models_made_from_one_anchor_share_nothing(load: Load) -> None:
    first, second = load("models: [&a {name: a, model_path: x, env: {A: 1}}, {<<: *a, name: b}]\n").models
    assert (first.name, second.name) == ("a", "b")
    assert first.env == second.env
    assert first.env is not second.env


# Keys with nothing after them.


@pytest.mark.parametrize("key", sorted(set(HubFile.model_fields) - {"models"}))
def test_a_key_at_the_top_with_nothing_after_it_is_not_given(load: Load, key: str) -> None:
    empty = load(f"{key}:\n  # - name: big\n" + MODELS)
    given = load(MODELS)
    for field in HubSettings.__dataclass_fields__:
        if field != "source":
            assert getattr(empty, field) == getattr(given, field)


@pytest.mark.parametrize("key", sorted(set(ModelSettings.model_fields) - {"name", "model_path"}))
def test_a_key_of_a_model_with_nothing_after_it_is_not_given(load: Load, key: str) -> None:
    assert model(load, f"model_path: x, {key}: ") == model(load, "model_path: x")


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (section, key)
        for section, settings in (("restart", RestartSettings), ("health", HealthSettings), ("memory", MemorySettings))
        for key in settings.model_fields
    ],
)
def test_a_key_below_one_of_a_model_with_nothing_after_it_is_not_given_either(
    load: Load, section: str, key: str
) -> None:
    assert model(load, f"model_path: x, {section}: {{{key}: }}") == model(load, "model_path: x")


def test_all_keys_that_hold_keys_of_ours_are_read_alike() -> None:
    nested = {key for key, field in ModelSettings.model_fields.items() if "Settings" in str(field.annotation)}
    assert nested == set(_SECTIONS)


def test_groups_with_only_comments_below_leave_every_group_a_label(load: Load) -> None:
    settings = load("groups:\n  # - {name: big}\nmodels: [{name: a, model_path: x, group: any}]\n")
    assert (settings.models[0].group, settings.groups) == ("any", {})


@pytest.mark.parametrize("key", ["name", "model_path"])
def test_a_key_that_must_be_given_is_missed_also_with_nothing_after_it(load: Load, key: str) -> None:
    rest = "model_path: x" if key == "name" else "name: a"
    assert f"models[0].{key}: is required" in problem(load, f"models: [{{{rest}}}]\n")
    line = problem(load, f"models: [{{{rest}, {key}: }}]\n")
    assert line.startswith(f"hub.yaml:1:{len(rest) + 13}: models[0].{key}: is required")


@pytest.mark.parametrize("text", ["", "# all comments\n", "---\n", "~\n"], ids=["empty", "comments", "begun", "null"])
def test_an_empty_file_comes_with_the_way_to_a_first_one(load: Load, text: str) -> None:
    line = problem(load, text)
    assert line.startswith("hub.yaml")
    assert line.endswith(": is empty; `mlxhub init OTHER.yaml` writes one to start from")


@pytest.mark.parametrize("text", ["- a\n", "hello\n", "7\n", "no\n", "[]\n", "''\n"], ids=repr)
def test_a_file_that_is_no_mapping_is_told_so(load: Load, text: str) -> None:
    assert problem(load, text).startswith("hub.yaml:1:1: must be a mapping of keys to values; ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{}", "hub.yaml:1:1: models: is required"),
        ("host: localhost\nmodels:\n", "hub.yaml:2:1: models: is required"),
        ("host: localhost\nmodels: []\n", "hub.yaml:2:1: models: must not be empty"),
        ("models: {a: 1}\n", "hub.yaml:1:1: models: must be a list, not a mapping"),
        ("models: a\n", "hub.yaml:1:1: models: must be a list, not text; write it in brackets, as [one, two]"),
    ],
    ids=["nothing", "nothing-after-it", "empty", "mapping", "text"],
)
def test_a_hub_has_models(load: Load, text: str, line: str) -> None:
    assert problem(load, text) == line


def test_a_key_that_is_empty_is_unknown_like_any_other(load: Load) -> None:
    assert problem(load, MODELS + '"": 1\n').startswith("hub.yaml:2:1: unknown key")


# Everything at once.

FULL_OF_MISTAKES = """\
log_path: ""
log_level: verbose
host: 127.0.0.1:8080
hots: 1
model_starting_port: 80
sinks:
  statsd/eu/x: {}
  prometheus: yes please
groups:
  - {name: big, max_loaded: 1}
  - {name: big, max_loaded: 0}
  - small
models:
  - name: a b
    model_path: 10
    model_path: x
    group: bigg
  - name: Q
    model_path: x
    default: yes
    group: big
    port: 99999
    options: {max_tokens: 5, model: z, "--x": 1, l: [1], max-tokens: 6}
    args: [--port=3, 8080, 1.10, --host]
  - name: q
    group: big
    default: true
    command: [a, "{model_path}"]
    args: [x]
    health: {pth: /, interval: 0}
    restart: {policy: on-fail, delay: 90}
    memory: {required: 8}
    stop_timeout: '30'
    env: {A=B: 1, OK: 3, F: 1.10}
  - foo
  - port: 1
  - {name: r, model_path: x, port: 1, on: 2}
  - {name: Q, model_path: x}
modles: []
"""


def test_every_mistake_is_told_at_once_in_the_order_of_the_file(load: Load) -> None:
    lines = problems(load, FULL_OF_MISTAKES)
    assert [line.split(": ")[:2] for line in lines] == [
        ["hub.yaml:1:1", "log_path"],
        ["hub.yaml:2:1", "log_level"],
        ["hub.yaml:3:1", "host"],
        ["hub.yaml:4:1", "hots"],
        ["hub.yaml:5:1", "model_starting_port"],
        ["hub.yaml:7:3", "sinks.statsd/eu/x"],
        ["hub.yaml:8:3", "sinks.prometheus"],
        ["hub.yaml:10:17", "groups[0].max_loaded"],
        ["hub.yaml:11:6", "groups[1].name"],
        ["hub.yaml:11:17", "groups[1].max_loaded"],
        ["hub.yaml:12:5", "groups[2]"],
        ["hub.yaml:14:5", "models[0].name"],
        ["hub.yaml:15:5", "models[0].model_path"],
        ["hub.yaml:16:5", "models[0].model_path"],
        ["hub.yaml:17:5", "models[0].group"],
        ["hub.yaml:22:5", "models[1].port"],
        ["hub.yaml:23:30", "models[1].options.model"],
        ["hub.yaml:23:40", "models[1].options.--x"],
        ["hub.yaml:23:50", "models[1].options.l"],
        ["hub.yaml:23:58", "models[1].options.max-tokens"],
        ["hub.yaml:24:12", "models[1].args[0]"],
        ["hub.yaml:24:28", "models[1].args[2]"],
        ["hub.yaml:24:34", "models[1].args[3]"],
        ["hub.yaml:25:5", "models[2].name"],
        ["hub.yaml:28:5", "models[2].command"],
        ["hub.yaml:29:5", "models[2].args"],
        ["hub.yaml:30:5", "models[2].health"],
        ["hub.yaml:30:14", "models[2].health.pth"],
        ["hub.yaml:30:22", "models[2].health.interval"],
        ["hub.yaml:31:15", "models[2].restart.policy"],
        ["hub.yaml:31:32", "models[2].restart.delay"],
        ["hub.yaml:32:14", "models[2].memory.required"],
        ["hub.yaml:33:5", "models[2].stop_timeout"],
        ["hub.yaml:34:11", "models[2].env.A=..."],
        ["hub.yaml:34:26", "models[2].env.F"],
        ["hub.yaml:35:5", "models[3]"],
        ["hub.yaml:36:5", "models[4].model_path"],
        ["hub.yaml:36:5", "models[4].name"],
        ["hub.yaml:37:30", "models[5].port"],
        ["hub.yaml:37:39", "models[5]"],
        ["hub.yaml:38:6", "models[6].name"],
        ["hub.yaml:39:1", "modles"],
    ]


def test_the_problems_are_in_the_order_of_lines_as_numbers(load: Load) -> None:
    lines = problems(load, MODELS + "".join(f"unknown{number}: 1\n" for number in range(12)))
    assert [line.split(":")[1] for line in lines] == [str(number) for number in range(2, 14)]


# Unknown keys, and those of the seed's hub.


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (MODELS + "log-path: x\n", "hub.yaml:2:1: log-path: unknown key; did you mean 'log_path'? (known: log_path, "),
        (MODELS + "Models: x\n", "hub.yaml:2:1: Models: unknown key; did you mean 'models'?"),
        (MODELS + "LOG_LEVEL: x\n", "hub.yaml:2:1: LOG_LEVEL: unknown key; did you mean 'log_level'?"),
        (
            MODELS + "zzz: x\n",
            "hub.yaml:2:1: zzz: unknown key (known: log_path, log_rotation, log_level, control, host, ",
        ),
        (MODELS + "zzz:\n", "is no mistake"),
        (
            "models: [{name: a, model_path: x, optoins: {}}]",
            "hub.yaml:1:35: models[0].optoins: unknown key; did you mean 'options'? (known: name, model_path, ",
        ),
        (
            MODELS + "groups: [{name: g, max_load: 1}]",
            "hub.yaml:2:20: groups[0].max_load: unknown key; did you mean 'max_loaded'? (known: name, max_loaded)",
        ),
        (
            "models: [{name: a, model_path: x, health: {intervall: 1}}]",
            "hub.yaml:1:44: models[0].health.intervall: unknown key; did you mean 'interval'? (known: path, interval, ",
        ),
        (
            "models: [{name: a, model_path: x, restart: {max-delay: 9}}]",
            "hub.yaml:1:45: models[0].restart.max-delay: unknown key; did you mean 'max_delay'? (known: policy, delay, ",
        ),
        (
            "models: [{name: a, model_path: x, memory: {require: 8GB}}]",
            "hub.yaml:1:44: models[0].memory.require: unknown key; did you mean 'required'? (known: required)",
        ),
    ],
    ids=[
        *("hyphen", "capital", "capitals", "resembles-none", "with-nothing-after-it"),
        *("model", "group", "health", "restart", "memory"),
    ],
)
def test_an_unknown_key_is_a_mistake_and_comes_with_the_nearest_name(load: Load, text: str, start: str) -> None:
    if start == "is no mistake":
        load(text)
    else:
        assert problem(load, text).startswith(start)


@pytest.mark.parametrize("key", HUB_KEYS)
def test_a_key_at_the_top_of_the_seeds_file_is_one_warning_that_says_what_to_write(load: Load, key: str) -> None:
    settings = load(MODELS + f"{key}: {{any: [thing]}}\n")
    assert [str(warning) for warning in settings.warnings] == [f"hub.yaml:2:1: {key}: is not used; {HUB_KEYS[key]}"]
    assert settings.models == load(MODELS).models


@pytest.mark.parametrize("key", MODEL_KEYS)
def test_a_key_of_a_model_in_the_seeds_file_is_one_warning_that_says_what_to_write(load: Load, key: str) -> None:
    settings = load(f"models:\n  - name: a\n    model_path: x\n    {key}: {SECRET}\n")
    assert [str(warning) for warning in settings.warnings] == [
        f"hub.yaml:4:5: models[0].{key}: is not used; {MODEL_KEYS[key]}"
    ]
    assert settings.models == load(MODELS).models


def test_a_file_of_the_seeds_hub_loads_with_a_warning_for_each_key_in_the_order_of_the_file(load: Load) -> None:
    settings = load(
        """\
host: 0.0.0.0
port: 8000
model_starting_port: 47850
log_level: INFO
log_path: ~/mlx-openai-server/logs
enable_status_page: true
groups:
  - name: tier
    max_loaded: 2
models:
  - name: qwen
    model_path: mlx-community/Qwen3-4B-4bit
    model_type: lm
    group: tier
    default: true
    jit_enabled: true
    auto_unload_minutes: 30
    context_length:
"""
    )
    assert [warning.path for warning in settings.warnings] == [
        "host",
        "port",
        "enable_status_page",
        "models[0].model_type",
        "models[0].jit_enabled",
        "models[0].auto_unload_minutes",
        "models[0].context_length",
    ]
    assert (settings.models[0].name, settings.groups["tier"].max_loaded) == ("qwen", 2)


def test_every_key_a_model_has_in_the_seeds_file_is_known_here() -> None:
    # The fields of its MLXServerConfig, which `models:` is read into.
    fields = (
        "model_path model_type context_length port host max_concurrency queue_timeout queue_size disable_auto_resize "
        "quantize config_name lora_paths lora_scales log_file no_log_file log_level enable_auto_tool_choice "
        "tool_call_parser reasoning_parser trust_remote_code jit_enabled auto_unload_minutes name group "
        "is_default_model enable_status_page lora_paths_str lora_scales_str default"
    )
    assert set(fields.split()) <= {*MODEL_KEYS, *ModelSettings.model_fields}
    assert not set(MODEL_KEYS) & set(ModelSettings.model_fields)
    assert not set(HUB_KEYS) & set(HubFile.model_fields)


@pytest.mark.parametrize(("key", "advice"), MODEL_KEYS.items(), ids=list(MODEL_KEYS))
def test_what_is_to_be_written_instead_of_a_key_of_the_seed_is_right(load: Load, key: str, advice: str) -> None:
    written = re.findall(r"`(options: [^`]+|default: true)`", advice)
    assert written or any(words in advice for words in ("remove it", "`log_path:`", "`host:`", "`command:`"))
    for entry in written:
        assert load(f"models: [{{name: a, model_path: x, {entry}}}]\n").warnings == ()


def test_an_unknown_key_beside_those_of_the_seed_is_still_a_mistake(load: Load) -> None:
    assert "models[0].modle_type: unknown key" in problem(load, "models: [{name: a, model_path: x, modle_type: lm}]\n")


# Names.


@pytest.mark.parametrize(
    "name",
    ["a b", "a/b", "../a", "a.b", "a__b", "a-_b", "-a", "a-", "_a", "é", "a\\n", "", " a", "a\\0", "٣", "1:30"],
    ids=repr,
)
@pytest.mark.parametrize("section", ["models", "groups"])
def test_a_name_that_is_no_slug_is_told_with_an_example(load: Load, name: str, section: str) -> None:
    text = f'models: [{{name: "{name}", model_path: x}}]' if section == "models" else f'groups: [{{name: "{name}"}}]'
    line = problem(load, text if section == "models" else MODELS + text)
    assert f": {section}[0].name: must be letters and digits, with single - or _ between them, as qwen3-4b" in line


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yes", "must be text, not yes/no; put it in quotes"),
        ("no", "must be text, not yes/no; put it in quotes"),
        ("1.10", "must be text, not a number; put it in quotes"),
        ("7", "must be text, not a number; put it in quotes"),
        ("[a]", "must be text, not a list; put text with brackets in quotes"),
        ("{port}", "must be text, not a mapping; put text with braces in quotes"),
        ("x" * (MAX_NAME + 1), "must be at most 100 characters long"),
    ],
    ids=["yes", "no", "float", "number", "list", "mapping", "too-long"],
)
def test_a_name_that_yaml_takes_for_something_else_goes_into_quotes(load: Load, name: str, message: str) -> None:
    assert problem(load, f"models: [{{name: {name}, model_path: x}}]") == f"hub.yaml:1:11: models[0].name: {message}"


def test_a_name_may_be_taken_once(load: Load) -> None:
    text = "models:\n" + "  - {name: qwen, model_path: x}\n" * 3
    assert problems(load, text) == [
        f"hub.yaml:{3 + i}:6: models[{1 + i}].name: 'qwen' is already taken by an earlier entry; choose another"
        for i in range(2)
    ]


def test_names_that_differ_only_in_case_cannot_share_a_log(load: Load) -> None:
    text = "models: [{name: Qwen, model_path: x},\n{name: qwen, model_path: x},\n{name: QWEN, model_path: x}]\n"
    reason = "differs from 'Qwen' only in case, so both would share a log file; choose another"
    assert problems(load, text) == [
        f"hub.yaml:2:2: models[1].name: {reason}",
        f"hub.yaml:3:2: models[2].name: {reason}",
    ]


def test_names_that_differ_in_more_than_case_share_nothing(load: Load) -> None:
    assert (
        len(load("models: [{name: a-b, model_path: x}, {name: a_b, model_path: x}, {name: ab, model_path: x}]").models)
        == 3
    )


def test_groups_may_differ_only_in_case_but_not_be_the_same(load: Load) -> None:
    assert set(load(MODELS + "groups: [{name: a}, {name: A}]").groups) == {"a", "A"}
    line = problem(load, MODELS + "groups: [{name: a}, {name: a}]")
    assert line == "hub.yaml:2:22: groups[1].name: 'a' is already taken by an earlier entry; choose another"


# Groups.


def test_without_groups_any_group_is_a_mere_label(load: Load) -> None:
    assert model(load, "model_path: x, group: whatever").group == "whatever"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            "[{name: small}, {name: tiny}, {name: huge}, {name: big}]",
            "no group 'bgi' under `groups:`; did you mean 'big'? (known: big, huge, small, tiny)",
        ),
        ("[{name: zzz}]", "no group 'bgi' under `groups:` (known: zzz)"),
        ("[]", "no group 'bgi' under `groups:` (known: nothing)"),
    ],
    ids=["near", "far", "none"],
)
def test_with_groups_an_unknown_group_is_a_mistake(load: Load, groups: str, message: str) -> None:
    text = f"models: [{{name: a, model_path: x, group: bgi}}]\ngroups: {groups}\n"
    assert problem(load, text) == f"hub.yaml:1:35: models[0].group: {message}"


def test_an_unknown_group_is_found_also_in_a_model_without_a_name(load: Load) -> None:
    lines = problems(load, "models: [{model_path: x, group: bgi}]\ngroups: [{name: big}]\n")
    assert [line.split(": ")[1] for line in lines] == ["models[0].name", "models[0].group"]


@pytest.mark.parametrize(
    ("groups", "line"),
    [
        ("{big: {max_loaded: 1}}", "hub.yaml:2:1: groups: must be a list, not a mapping"),
        ("big", "hub.yaml:2:1: groups: must be a list, not text; write it in brackets, as [one, two]"),
    ],
    ids=["mapping", "text"],
)
def test_groups_that_cannot_be_read_do_not_make_every_group_unknown(load: Load, groups: str, line: str) -> None:
    assert problem(load, f"models: [{{name: a, model_path: x, group: big}}]\ngroups: {groups}\n") == line


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("{name: g, max_loaded: 0}", "groups[0].max_loaded: must be at least 1"),
        ("{name: g, max_loaded: yes}", "groups[0].max_loaded: must be a whole number, not yes/no"),
        (
            "{name: g, max_loaded: '1'}",
            "groups[0].max_loaded: must be a whole number, not text; write it without quotes",
        ),
        ("{name: g, max_loaded: 1.5}", "groups[0].max_loaded: must be a whole number, without a decimal point"),
        ("{max_loaded: 1}", "groups[0].name: is required"),
        ("g", "groups[0]: must be a mapping of keys to values, not text (known: name, max_loaded)"),
        ("~", "groups[0]: must be a mapping of keys to values, not empty (known: name, max_loaded)"),
    ],
    ids=["zero", "yes", "quotes", "fraction", "nameless", "text", "nothing"],
)
def test_a_wrong_group_is_told(load: Load, group: str, message: str) -> None:
    assert problem(load, MODELS + f"groups: [{group}]\n").partition(": ")[2] == message


def test_a_group_has_room_for_its_models_that_start_with_the_hub(load: Load) -> None:
    models = "models:\n" + "".join(f"  - {{name: m{i}, model_path: x, group: g, default: yes}}\n" for i in range(3))
    load(models + "groups: [{name: g, max_loaded: 3}]\n")
    load(models + "groups: [{name: g}, {name: other, max_loaded: 1}]\n")
    line = problem(load, models + "groups: [{name: g, max_loaded: 2}]\n")
    assert line.startswith("hub.yaml:5:20: groups[0].max_loaded: 2 is too few for the group's 3 models")
    assert "(m0, m1, m2)" in line


def test_a_group_without_a_name_is_not_the_group_of_models_without_one(load: Load) -> None:
    models = "models:\n" + "".join(f"  - {{name: m{i}, model_path: x, default: yes}}\n" for i in range(3))
    assert problem(load, models + "groups: [{max_loaded: 1}]\n") == "hub.yaml:5:10: groups[0].name: is required"


# Numbers, ports, hosts.


@pytest.mark.parametrize("port", [1, 80, 65535])
def test_a_port_of_a_model_is_any_port(load: Load, port: int) -> None:
    assert model(load, f"model_path: x, port: {port}").port == port


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("0", "must be at least 1"),
        ("-1", "must be at least 1"),
        ("65536", "must be at most 65535"),
        ("0x1F90F", "must be at most 65535"),
        ("8080.0", "must be a whole number, without a decimal point"),
        ("'8080'", "must be a whole number, not text; write it without quotes"),
        ("010", "must be a whole number, not text"),
        ("80:80", "must be a whole number, not text"),
        ("on", "must be a whole number, not yes/no"),
        ("[1]", "must be a whole number, not a list"),
        ("{}", "must be a whole number, not a mapping"),
        (".inf", "must be a whole number, without a decimal point"),
    ],
    ids=str,
)
def test_a_port_that_is_none_is_told(load: Load, written: str, message: str) -> None:
    assert wrong(load, f"model_path: x, port: {written}") == f"port: {message}"


@pytest.mark.parametrize(("port", "bound"), [(1023, "at least 1024"), (65536, "at most 65535")], ids=str)
def test_the_search_for_ports_begins_above_those_of_the_system(load: Load, port: int, bound: str) -> None:
    line = problem(load, MODELS + f"model_starting_port: {port}\n")
    assert line == f"hub.yaml:2:1: model_starting_port: must be {bound}"


def test_a_port_belongs_to_one_model(load: Load) -> None:
    text = "models: [{name: a, model_path: x, port: 5000},\n{name: b, model_path: x, port: 5000}]\n"
    way_out = "leave it out and the hub finds a free one"
    assert problem(load, text) == f"hub.yaml:2:26: models[1].port: 5000 is already the port of 'a'; {way_out}"


def test_a_port_belongs_to_one_model_also_if_that_has_no_name(load: Load) -> None:
    lines = problems(load, "models: [{model_path: x, port: 5000},\n{name: b, model_path: x, port: 5000}]\n")
    assert "models[1].port: 5000 is already the port of models[0]; " in lines[1]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("0", "must be more than 0"),
        ("-3", "must be more than 0"),
        (".inf", "must be a finite number"),
        (".nan", "must be a finite number"),
        ("86401", "must be at most 86400"),
        ("1.0e+300", "must be at most 86400"),
        ("1:30", "must be a number, not text"),
        ("30s", "must be a number, not text"),
        ("'30'", "must be a number, not text; write it without quotes"),
        ("yes", "must be a number, not yes/no"),
    ],
    ids=str,
)
def test_a_stop_timeout_is_a_time_that_a_timer_can_wait_for(load: Load, written: str, message: str) -> None:
    assert wrong(load, f"model_path: x, stop_timeout: {written}") == f"stop_timeout: {message}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", '"::1"', "127.0.0.2"], ids=str)
def test_a_host_of_this_machine_alone_needs_no_warning(load: Load, host: str) -> None:
    settings = load(MODELS + f"host: {host}\n")
    assert (settings.host, settings.warnings) == (host.strip('"'), ())


@pytest.mark.parametrize("host", ["0.0.0.0", '"::"', "192.168.1.2", "my-mac.local", "fe80::1%en0"], ids=str)
def test_a_host_that_others_can_reach_is_a_warning_and_no_mistake(load: Load, host: str) -> None:
    (warning,) = load(MODELS + f"host: {host}\n").warnings
    assert str(warning).startswith("hub.yaml:2:1: host: lets others on the network use the models")
    assert host.strip('"') not in str(warning)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("127.0.0.1:8080", "must be an address or a host name, without a port, as 127.0.0.1"),
        ("http://localhost", "must be an address or a host name, without a port, as 127.0.0.1"),
        ("a b", "must be an address or a host name, without a port, as 127.0.0.1"),
        ("--help", "must be an address or a host name, without a port, as 127.0.0.1"),
        ('""', "must be an address or a host name, without a port, as 127.0.0.1"),
        ('"x\\n"', "must be an address or a host name, without a port, as 127.0.0.1"),
        ("127.1", "must be text, not a number; put it in quotes"),
        ("0", "must be text, not a number; put it in quotes"),
    ],
    ids=str,
)
def test_a_host_that_is_none_is_told(load: Load, host: str, message: str) -> None:
    assert problem(load, MODELS + f"host: {host}\n") == f"hub.yaml:2:1: host: {message}"


@pytest.mark.parametrize(
    ("level", "hint"),
    [("warn", "; did you mean 'WARNING'?"), ("verbose", ""), ("10", ", not a number"), ("on", ", not yes/no")],
    ids=str,
)
def test_a_log_level_that_is_none_comes_with_those_that_are(load: Load, level: str, hint: str) -> None:
    line = problem(load, MODELS + f"log_level: {level}\n")
    levels = "'TRACE', 'DEBUG', 'INFO', 'SUCCESS', 'WARNING', 'ERROR' or 'CRITICAL'"
    assert line == f"hub.yaml:2:1: log_level: must be {levels}{hint}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log_path: ''", "log_path: must not be empty"),
        ("log_path: 7", "log_path: must be text, not a number; put it in quotes"),
        ('log_path: "a\\0b"', "log_path: must not hold a NUL character"),
        ("log_path: ~no-such-user/x", "log_path: begins with a ~ for which this machine knows no home directory"),
        ('log_path: "\\ud800"', "log_path: holds half a character"),
    ],
    ids=["empty", "number", "nul", "unknown-home", "half-a-character"],
)
def test_a_log_path_that_can_be_no_path_is_told(load: Load, text: str, message: str) -> None:
    assert f": {message}" in problem(load, MODELS + text)


def test_a_user_without_a_home_is_told_to_write_where_the_logs_go(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> object:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert ": log_path: begins with a ~ for which this machine knows no home directory" in problem(load, MODELS)
    load(MODELS + "log_path: logs\n")


def test_a_path_to_the_file_in_an_unknown_home_is_told() -> None:
    with pytest.raises(ConfigError, match=r"no-such-user/hub\.yaml: begins with a ~ for which .* write the whole path"):
        load_settings("~no-such-user/hub.yaml")


# The other keys of a model.


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("model_path: ''", "model_path: must not be empty"),
        ('model_path: "x\\0"', "model_path: must not hold a NUL character"),
        ("model_path: no", "model_path: must be text, not yes/no; put it in quotes"),
        ("model_path: x, default: 'yes'", "default: must be true or false, not text"),
        ("model_path: x, default: 1", "default: must be true or false, not a number"),
        ("model_path: x, args: --a b", "args: must be a list, not text; write it in brackets, as [one, two]"),
        ("model_path: x, args: [1.10]", "args[0]: must be text, not a number; put it in quotes"),
        ("model_path: x, args: [yes]", "args[0]: must be text, not yes/no; put it in quotes"),
        ("model_path: x, args: [~]", "args[0]: must be text, not empty"),
        ('model_path: x, args: ["\\0"]', "args[0]: must not hold a NUL character"),
        ("model_path: x, args: [{port}]", "args[0]: must be text, not a mapping; put text with braces in quotes"),
        ("model_path: x, args: [--model=y]", "args[0]: --model is set by the hub; write `model_path:`"),
        ("model_path: x, args: [--port, 1]", "args[0]: --port is set by the hub; write `port:`"),
        ("model_path: x, args: [a, --host]", "args[1]: --host is set by the hub; write `host:` at the top of the file"),
        ("model_path: x, options: [a]", "options: must be a mapping of keys to values, not a list"),
        ("model_path: x, options: --a", "options: must be a mapping of keys to values, not text"),
        ("model_path: x, options: {a: [1]}", "options.a: must be one value, not a list; write it as the flag wants it"),
        ('model_path: x, options: {a: "\\0"}', "options.a: must not hold a NUL character"),
        ("model_path: x, options: {--a: 1}", "options.--a: must be a flag of mlx_lm server without its dashes"),
        ("model_path: x, options: {A: 1}", "options.A: must be a flag of mlx_lm server without its dashes"),
        ("model_path: x, options: {'': 1}", "options.: must be a flag of mlx_lm server without its dashes"),
        ("model_path: x, options: {a b: 1}", "options.a b: must be a flag of mlx_lm server without its dashes"),
        ("model_path: x, options: {1: 1}", "options[1]: must be text, not a number; put it in quotes"),
        ("model_path: x, options: {port: 1}", "options.port: is set by the hub; write `port:`"),
        ("model_path: x, options: {host: h}", "options.host: is set by the hub; write `host:` at the top of the file"),
        ("model_path: x, options: {a-b: 1, a_b: 1}", "options.a_b: is the same flag as 'a-b'; keep one"),
        ("model_path: x, env: [A=1]", "env: must be a mapping of keys to values, not a list"),
        ("model_path: x, env: {A: 1.10}", "env.A: must be text, not a number; put it in quotes"),
        ("model_path: x, env: {A: yes}", "env.A: must be text, not yes/no; put it in quotes"),
        ("model_path: x, env: {A: }", "env.A: must be text, not empty"),
        ('model_path: x, env: {A: "\\0"}', "env.A: must not hold a NUL character"),
        ("model_path: x, env: {A B: 1}", "env.A B: must be the name of an environment variable, as HF_HUB_OFFLINE"),
        ("model_path: x, env: {'': 1}", "env.: must be the name of an environment variable, as HF_HUB_OFFLINE"),
        ("model_path: x, env: {1A: 1}", "env.1A: must be the name of an environment variable, as HF_HUB_OFFLINE"),
        ("model_path: x, env: {1: 1}", "env[1]: must be text, not a number; put it in quotes"),
        ("model_path: x, python: ''", "python: must not be empty"),
        ("model_path: x, working_directory: 1", "working_directory: must be text, not a number; put it in quotes"),
        ("default: yes", "model_path: is required: a directory or a name on the Hugging Face hub; or give a"),
        ("command: []", "command: must not be empty"),
        ("command: 7", "command: must be a list, not a number"),
        ("command: a --b", "command: must be a list, not text; write it in brackets, as [one, two]"),
        ("command: [a, {port}]", "command[1]: must be text, not a mapping; put text with braces in quotes"),
        ("command: [a], options: {b: 1}", "options: is for mlx_lm server; with `command:` write it there"),
        ("command: [a], args: [b]", "args: is for mlx_lm server; with `command:` write it there"),
        ("command: [a], python: b", "python: is for mlx_lm server; with `command:` write it there"),
        ('command: [a, "--m={model_path}"]', "command: uses {model_path}, so `model_path:` is required"),
        ('command: [a], env: {M: "{model_path}"}', "env.M: uses {model_path}, so `model_path:` is required"),
        ("model_path: x, on: 1", ""),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_value_is_told_with_what_to_write(load: Load, entry: str, message: str) -> None:
    assert wrong(load, entry).startswith(message)


@pytest.mark.parametrize("entry", ["foo", "7", "[a]", "~", "yes"], ids=str)
def test_an_entry_that_is_no_mapping_comes_with_the_keys_it_may_have(load: Load, entry: str) -> None:
    line = problem(load, f"models: [{entry}]\n")
    assert line.startswith("hub.yaml:1:10: models[0]: must be a mapping of keys to values, not ")
    assert "(known: name, model_path, default, " in line


# How it is restarted, asked and fed.


WORDS = "must be 'never', 'on-failure' or 'always'"
SECTION = "must be a mapping of keys to values"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("on-fail", f"restart: {WORDS}; did you mean 'on-failure'?"),
        ("Never", f"restart: {WORDS}; did you mean 'never'?"),
        ("on_failure", f"restart: {WORDS}; did you mean 'on-failure'?"),
        ("unless-stopped", f"restart: {WORDS}"),
        ("''", f"restart: {WORDS}"),
        ("no", f"restart: {WORDS}, not yes/no"),
        ("off", f"restart: {WORDS}, not yes/no"),
        ("5", f"restart: {WORDS}, not a number"),
        ("[never]", f"restart: {WORDS}, not a list"),
        ("{policy: on-fail}", f"restart.policy: {WORDS}; did you mean 'on-failure'?"),
        ("{policy: no}", f"restart.policy: {WORDS}, not yes/no"),
        ("{policy: {delay: 1}}", f"restart.policy: {WORDS}, not a mapping"),
        ("{delay: -0.1}", "restart.delay: must be at least 0"),
        ("{delay: 86401, max_delay: 86400}", "restart.delay: must be at most 86400"),
        ("{delay: '1'}", "restart.delay: must be a number, not text; write it without quotes"),
        ("{delay: 1s}", "restart.delay: must be a number, not text"),
        ("{delay: .inf}", "restart.delay: must be a finite number"),
        ("{delay: .nan}", "restart.delay: must be a finite number"),
        ("{delay: yes}", "restart.delay: must be a number, not yes/no"),
        ("{delay: [1, 2, 4]}", "restart.delay: must be a number, not a list"),
        ("{max_delay: 0}", "restart.max_delay: must be more than 0"),
        ("{delay: 5, max_delay: -1}", "restart.max_delay: must be more than 0"),
        ("{delay: 5, max_delay: 1m}", "restart.max_delay: must be a number, not text"),
        ("{max_delay: 86400.5}", "restart.max_delay: must be at most 86400"),
        ("{factor: 0.5}", "restart.factor: must be at least 1"),
        ("{factor: 100.5}", "restart.factor: must be at most 100"),
        ("{factor: 2x}", "restart.factor: must be a number, not text"),
        ("{jitter: -0.1}", "restart.jitter: must be at least 0"),
        ("{jitter: 10}", "restart.jitter: must be at most 1"),
        ("{jitter: 10%}", "restart.jitter: must be a number, not text"),
        ("{reset_after: 0}", "restart.reset_after: must be more than 0"),
        ("{max_failures: 0}", "restart.max_failures: must be at least 1"),
        ("{max_failures: 2.5}", "restart.max_failures: must be a whole number, without a decimal point"),
        ("{max_failures: .inf}", "restart.max_failures: must be a whole number, without a decimal point"),
        ("{max_failures: off}", "restart.max_failures: must be a whole number, not yes/no"),
        ("{window: 0}", "restart.window: must be more than 0"),
        ("{window: 10m}", "restart.window: must be a number, not text"),
        ("{1: 2}", "restart[1]: a key must be text; put it in quotes"),
    ],
    ids=str,
)
def test_a_wrong_restart_is_told(load: Load, written: str, message: str) -> None:
    assert wrong(load, f"model_path: x, restart: {written}") == message


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("on", f"health: {SECTION}, or off"),
        ("/x", f"health: {SECTION}, or off"),
        ("'off'", f"health: {SECTION}, or off"),
        ("0", f"health: {SECTION}, or off"),
        ("[]", f"health: {SECTION}, or off"),
        ("{interval: 0}", "health.interval: must be at least 0.1"),
        ("{interval: 30s}", "health.interval: must be a number, not text"),
        ("{interval: '30'}", "health.interval: must be a number, not text; write it without quotes"),
        ("{interval: off}", "health.interval: must be a number, not yes/no"),
        ("{interval: 86401}", "health.interval: must be at most 86400"),
        ("{timeout: 0}", "health.timeout: must be more than 0"),
        ("{timeout: .inf}", "health.timeout: must be a finite number"),
        ("{startup_timeout: -1}", "health.startup_timeout: must be more than 0"),
        ("{startup_timeout: off}", "health.startup_timeout: must be a number, not yes/no"),
        ("{failures: 0}", "health.failures: must be at least 1"),
        ("{failures: 1001}", "health.failures: must be at most 1000"),
        ("{failures: 1.5}", "health.failures: must be a whole number, without a decimal point"),
        ("{path: x}", "health.path: must begin with / and hold no spaces, as /health"),
        ("{path: ''}", "health.path: must begin with / and hold no spaces, as /health"),
        ("{path: http://localhost/health}", "health.path: must begin with / and hold no spaces, as /health"),
        ("{path: /a b}", "health.path: must begin with / and hold no spaces, as /health"),
        ('{path: "/a\\r\\n"}', "health.path: must begin with / and hold no spaces, as /health"),
        ("{path: /ä}", "health.path: must begin with / and hold no spaces, as /health"),
        ("{path: 1}", "health.path: must be text, not a number; put it in quotes"),
    ],
    ids=str,
)
def test_a_wrong_health_is_told(load: Load, written: str, message: str) -> None:
    assert wrong(load, f'command: [x, "{{port}}"], health: {written}') == message


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("8GB", f"memory: {SECTION}, not text (known: required)"),
        ("8", f"memory: {SECTION}, not a number (known: required)"),
        ("off", f"memory: {SECTION}, not yes/no (known: required)"),
        ("[8GB]", f"memory: {SECTION}, not a list (known: required)"),
        ("{needed: 8GB}", "memory.needed: unknown key (known: required)"),
        *(
            (f"{{required: {size}}}", "memory.required: must be a size with its unit, as 8GB or 512MiB")
            for size in (
                *(
                    "8",
                    "8.5",
                    "'8'",
                    "0",
                    "-8GB",
                    "+8GB",
                    ".5GB",
                    "8.GB",
                    "8G",
                    "8Gi",
                    "8B",
                    "8GBs",
                    "8PB",
                    "GB",
                    "80%",
                ),
                *("1e3GB", "0x8GB", "1_000GB", "8  GB", "' 8GB'", '"8GB\\n"', "'8,5GB'", "1:30", "yes", "[8GB]", "''"),
                *("٣GB", "8\N{KELVIN SIGN}B", "8M\N{LATIN SMALL LETTER DOTLESS I}B", "{GB: 8}"),
            )
        ),
        *((f"{{required: {size}}}", "memory.required: must be more than 0") for size in ("0GB", "0.0 MiB", "0.0001KB")),
        *(
            (f"{{required: {size}}}", "memory.required: must be at most 1000TB; look at its unit")
            for size in ("1000.1TB", "1000TiB", "16384TB", "9" * 400 + "KB", "9" * 307 + ".5TiB")
        ),
    ],
    ids=lambda value: value[:30],
)
def test_a_wrong_memory_is_told(load: Load, written: str, message: str) -> None:
    assert wrong(load, f"model_path: x, memory: {written}") == message


def test_each_mistake_in_a_mapping_of_a_model_is_told_at_its_own_place(load: Load) -> None:
    text = """\
models:
  - name: a
    command: [x, "{port}"]
    restart:
      policy: sometimes
      delay: -1
      max_failures: 0
      tries: 3
    health:
      path: health
      timeout: 5s
    memory:
      required: 8
"""
    assert [line.split(": ")[:2] for line in problems(load, text)] == [
        ["hub.yaml:5:7", "models[0].restart.policy"],
        ["hub.yaml:6:7", "models[0].restart.delay"],
        ["hub.yaml:7:7", "models[0].restart.max_failures"],
        ["hub.yaml:8:7", "models[0].restart.tries"],
        ["hub.yaml:10:7", "models[0].health.path"],
        ["hub.yaml:11:7", "models[0].health.timeout"],
        ["hub.yaml:13:7", "models[0].memory.required"],
    ]


def test_a_wrong_word_is_told_at_its_key(load: Load) -> None:
    text = "models:\n  - name: a\n    model_path: x\n    restart: sometimes\n    health: on\n"
    assert [line.split(": ")[:2] for line in problems(load, text)] == [
        ["hub.yaml:4:5", "models[0].restart"],
        ["hub.yaml:5:5", "models[0].health"],
    ]


# Combinations that can only be mistakes, and those that merely look odd.


@pytest.mark.parametrize(
    ("written", "column", "longest"),
    [("{delay: 30, max_delay: 20}", 15, "20"), ("{max_delay: 0.5, delay: 1}", 31, "0.5"), ("{delay: 60.5}", 15, "60")],
    ids=["both-written", "in-any-order", "max-delay-by-default"],
)
def test_a_delay_that_max_delay_would_cut_is_told(load: Load, written: str, column: int, longest: str) -> None:
    line = problem(load, f"models:\n  - name: a\n    model_path: x\n    restart: {written}\n")
    said = f"is more than max_delay, which is {longest}; raise that too"
    assert line == f"hub.yaml:4:{column}: models[0].restart.delay: {said}"


def test_a_path_is_for_servers_that_are_asked_for_one(load: Load) -> None:
    said = "health.path: is for `command:` models; mlx_lm server is asked for one token"
    assert wrong(load, "model_path: x, health: {interval: 5, path: /health}") == said


@pytest.mark.parametrize("health", ["{path: /x}", "{interval: 5}"])
@pytest.mark.parametrize("command", ["command: [x]", "command: [x, port], env: {PORT: port}"])
def test_a_server_without_a_port_cannot_be_asked(load: Load, command: str, health: str) -> None:
    assert wrong(load, f"{command}, health: {health}") == (
        "health: cannot be asked without a port; write {port} in `command:`, or the server's own as `port:`;"
        " or `health: off`"
    )


@pytest.mark.parametrize(
    "command",
    [
        'command: [x, "--port={port}"]',
        'command: [x], env: {PORT: "{port}"}',
        "command: [x, --port, 5000], port: 5000",
    ],
    ids=["in-the-command", "in-the-environment", "of-its-own"],
)
def test_a_server_with_a_port_can_be_asked(load: Load, command: str) -> None:
    assert model(load, f"{command}, health: {{path: /x}}").health == HealthSettings(path="/x")


def test_what_cannot_be_read_is_not_called_a_server_without_a_port(load: Load) -> None:
    for entry in ('command: "x {port}", health: {path: /x}', "command: {port: 1}, health: {path: /x}"):
        assert wrong(load, entry).startswith("command: must be a list, not ")


@pytest.mark.parametrize(
    "entry",
    [
        "restart: {delay: 60}",
        "restart: {delay: 5, max_delay: 5}",
        "restart: {max_delay: 0.5}",
        "restart: {delay: 0}",
        "restart: {policy: never, delay: 5}",
        "restart: {reset_after: 900, window: 600}",
        "restart: {max_failures: 1}",
        "restart: {max_failures: 1000000}",
        "restart: {delay: 600, max_delay: 600, window: 60}",
        "restart: {factor: 1, jitter: 1}",
        "health: {interval: 1}",
        "health: {timeout: 60}",
        "health: {startup_timeout: 1}",
        "health: {failures: 1000}",
        "health: off, restart: never",
        "memory: {required: 1KB}",
    ],
)
def test_what_merely_looks_odd_is_the_users_own_choice(load: Load, entry: str) -> None:
    assert load(f"models: [{{name: a, model_path: x, {entry}}}]\n").warnings == ()


def test_one_anchor_may_hold_what_many_models_share(load: Load) -> None:
    first, second, third = load(
        """\
models:
  - {name: a, model_path: x, restart: &r {delay: 5}, health: &h {interval: 9}, memory: &m {required: 1GB}}
  - {name: b, model_path: x, restart: {<<: *r, policy: always}, health: {<<: *h, failures: 1}, memory: *m}
  - {name: c, model_path: x, restart: {<<: *r, delay: }, health: off, memory: {<<: *m, required: 2GB}}
"""
    ).models
    assert (first.restart, second.restart) == (RestartSettings(delay=5), RestartSettings(policy="always", delay=5))
    assert (second.health, third.health) == (HealthSettings(interval=9, failures=1), None)
    assert [each.memory.required for each in (first, second, third)] == [10**9, 10**9, 2 * 10**9]
    assert third.restart == RestartSettings()


def test_a_word_that_only_ends_like_a_flag_of_the_hub_is_the_users_own(load: Load) -> None:
    args = ["--draft-model", "a/model", "--log-level=DEBUG", "myport", "--", "port"]
    assert model(load, f"model_path: x, args: [{', '.join(args)}]").args == args


def test_placeholders_that_the_hub_fills_and_other_braces_are_kept_as_written(load: Load) -> None:
    command = ["x", "{name}", "{host}:{port}", "{model_path}", '{"json": 1}', "{", "{}", "{other}"]
    written = ", ".join("'" + word + "'" for word in command)
    assert model(load, f"command: [{written}], model_path: y").command == command


# Sinks.


@pytest.mark.parametrize(
    ("written", "sinks"),
    [
        ("", ["loguru"]),
        ("loguru: on", ["loguru"]),
        ("loguru:", ["loguru"]),
        ("loguru: off", []),
        ("loguru: {}", ["loguru"]),
        ("statsd:", ["loguru", "statsd"]),
        ("statsd: off", ["loguru"]),
        ("statsd: on, prometheus: {port: 1}", ["loguru", "statsd", "prometheus"]),
        ("statsd: on, loguru: on", ["statsd", "loguru"]),
        ("statsd/eu: , statsd/us: ", ["loguru", "statsd/eu", "statsd/us"]),
        ("'acme-sinks:statsd/eu': on", ["loguru", "acme-sinks:statsd/eu"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sink_is_on_unless_it_is_off_and_loguru_without_being_named(
    load: Load, written: str, sinks: list[str]
) -> None:
    assert [sink.key for sink in load(MODELS + f"sinks: {{{written}}}\n").sinks] == sinks


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("statsd", ("statsd", None)),
        ("statsd/eu", ("statsd", None)),
        ("acme:statsd", ("statsd", "acme")),
        ("Acme.Sinks-2:stats_d2/EU_1-x", ("stats_d2", "Acme.Sinks-2")),
        ("Acme.Stats-D", ("Acme.Stats-D", None)),
    ],
    ids=str,
)
def test_a_sink_key_has_a_type_perhaps_an_instance_and_perhaps_a_distribution(
    load: Load, key: str, parts: tuple[str, str | None]
) -> None:
    settings = load(MODELS + f"sinks: {{loguru: off, {key}: {{host: h, 8: [1]}}}}\n")
    (sink,) = settings.sinks
    assert (sink.key, sink.type, sink.distribution) == (key, *parts)
    assert sink.options == {"host": "h", 8: [1]}
    assert settings.source.where((*sink.keys, "host")) == f"hub.yaml:2:{len(key) + 25}"


@pytest.mark.parametrize(
    "key", ["stats d", "statsd/", "statsd/a/b", "statsd/e.u", "/eu", "a:b:c", "':statsd'", "'acme:'", "''", "7x", ".x"]
)
def test_a_sink_key_that_is_none_is_told(load: Load, key: str) -> None:
    line = problem(load, MODELS + f"sinks: {{{key}: on}}\n")
    said = "must be a sink type, as statsd, or type/instance, as statsd/eu"
    assert line == ": ".join(["hub.yaml:2:9", f"sinks.{key.strip(chr(39))}", said])


def test_a_sink_key_that_is_a_number_is_told_once(load: Load) -> None:
    assert (
        problem(load, MODELS + "sinks: {7: on}")
        == "hub.yaml:2:9: sinks[7]: must be text, not a number; put it in quotes"
    )


@pytest.mark.parametrize("value", ["[a]", "text", "7", "'off'"], ids=str)
def test_a_sink_is_a_mapping_or_on_or_off(load: Load, value: str) -> None:
    line = problem(load, MODELS + f"sinks: {{statsd: {value}}}\n")
    assert line == "hub.yaml:2:9: sinks.statsd: must be a mapping of the sink's options, or on, or off"


@pytest.mark.parametrize(("value", "kind"), [("[statsd]", "a list"), ("statsd", "text"), ("off", "yes/no")], ids=str)
def test_sinks_are_a_mapping(load: Load, value: str, kind: str) -> None:
    line = problem(load, MODELS + f"sinks: {value}\n")
    assert line == f"hub.yaml:2:1: sinks: must be a mapping of keys to values, not {kind}"


def test_a_sink_that_is_written_twice_is_told_with_the_line_of_the_first(load: Load) -> None:
    line = problem(load, MODELS + "sinks:\n  statsd: {host: a}\n  statsd: {host: b}\n")
    assert line == "hub.yaml:4:3: sinks.statsd: is written twice, first on line 3; keep one"


def test_in_safe_mode_no_sink_is_on_and_no_mistake_in_one_is_in_the_way(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXHUB_NO_SINKS", "1")
    settings = load(MODELS + "sinks:\n  statsd: {delivery: {queue: 0, only: {models: [b]}}}\n  a b: 7\n  7: on\n")
    assert settings.sinks == ()
    said = "all are off, because MLXHUB_NO_SINKS is set in the environment"
    assert [str(warning) for warning in settings.warnings] == [f"hub.yaml:2:1: sinks: {said}"]
    assert load(MODELS).sinks == (), "not even Loguru's, which is on without being named"


@pytest.mark.parametrize("value", ["", "0"])
def test_safe_mode_is_off_while_its_variable_says_nothing(
    load: Load, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MLXHUB_NO_SINKS", value)
    settings = load(MODELS + "sinks: {statsd: on}\n")
    assert [sink.key for sink in settings.sinks] == ["loguru", "statsd"]
    assert settings.warnings == ()


# How events reach a sink.

GROUPED = "models: [{name: a, model_path: x, group: chat}, {name: b, model_path: x}]\n"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("", DeliverySettings()),
        ("{}", DeliverySettings(queue=1024, when_full="drop_oldest", only=OnlySettings(), required=True)),
        ("{queue: , only: }", DeliverySettings()),
        ("{only: {events: , models: }}", DeliverySettings()),
        ("{queue: 1}", DeliverySettings(queue=1)),
        ("{queue: 100000}", DeliverySettings(queue=100_000)),
        ("{when_full: drop_newest}", DeliverySettings(when_full="drop_newest")),
        ("{required: false}", DeliverySettings(required=False)),
        ("{only: [model_failed]}", DeliverySettings(only=OnlySettings(events=["model_failed"]))),
        ("{only: {events: [model_failed]}}", DeliverySettings(only=OnlySettings(events=["model_failed"]))),
        (
            "{only: {models: [b], groups: [chat]}}",
            DeliverySettings(only=OnlySettings(models=["b"], groups=["chat"])),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_delivery_is_the_hubs_own_and_no_option_of_the_sink(load: Load, written: str, meant: DeliverySettings) -> None:
    _, sink = load(GROUPED + f"sinks: {{statsd: {{host: h, delivery: {written}}}}}\n").sinks
    assert sink.delivery == meant
    assert sink.options == {"host": "h"}


@pytest.mark.parametrize(
    ("written", "column", "key", "message"),
    [
        ("[a]", 13, "", "must be a mapping of keys to values, not a list (known: queue, when_full, only, required)"),
        ("off", 13, "", "must be a mapping of keys to values, not yes/no (known: queue, when_full, only, required)"),
        ("{quue: 1}", 24, ".quue", "unknown key; did you mean 'queue'? (known: queue, when_full, only, required)"),
        ("{queue: 1, queue: 2}", 34, ".queue", "is written twice, first on line 2; keep one"),
        ("{queue: 0}", 24, ".queue", "must be at least 1"),
        ("{queue: 100001}", 24, ".queue", "must be at most 100000"),
        ("{queue: '5'}", 24, ".queue", "must be a whole number, not text; write it without quotes"),
        (
            "{when_full: drop_it}",
            24,
            ".when_full",
            "must be 'drop_oldest' or 'drop_newest'; did you mean 'drop_oldest'?",
        ),
        ("{required: maybe}", 24, ".required", "must be true or false, not text"),
        ("{only: all}", 24, ".only", "must be a mapping of keys to values, not text (known: events, models, groups)"),
        ("{only: []}", 24, ".only", "must not be empty"),
        ("{only: {models: []}}", 31, ".only.models", "must not be empty"),
        ("{only: {groups: []}}", 31, ".only.groups", "must not be empty"),
        (
            "{only: {event: [a]}}",
            31,
            ".only.event",
            "unknown key; did you mean 'events'? (known: events, models, groups)",
        ),
        ("{only: {models: [b, c]}}", 43, ".only.models[1]", "hub.yaml has no such model (known: a, b)"),
        ("{only: {models: [c d]}}", 40, ".only.models[0]", "hub.yaml has no such model (known: a, b)"),
        (
            "{only: {groups: [chta]}}",
            40,
            ".only.groups[0]",
            "hub.yaml has no such group; did you mean 'chat'? (known: chat)",
        ),
        ("{only: {groups: [1]}}", 40, ".only.groups[0]", "must be text, not a number; put it in quotes"),
    ],
    ids=lambda value: value if str(value).startswith(("{", "[", "off")) else "",
)
def test_what_is_wrong_with_a_delivery_is_told_once_at_its_own_place(
    load: Load, written: str, column: int, key: str, message: str
) -> None:
    line = problem(load, GROUPED + f"sinks: {{s: {{delivery: {written}}}}}\n")
    assert line == f"hub.yaml:2:{column}: sinks.s.delivery{key}: {message}"


@pytest.mark.parametrize("only", ["[model_ready, modl_failed]", "{events: [modl_failed]}"])
def test_an_event_that_there_is_not_comes_with_the_nearest_and_with_all_that_there_are(load: Load, only: str) -> None:
    line = problem(load, MODELS + f"sinks: {{s: {{delivery: {{only: {only}}}}}}}\n")
    assert ": no event is called 'modl_failed'; did you mean 'model_failed'? (known: hub_started, " in line


def test_a_sink_may_ask_for_a_group_that_has_no_models_yet(load: Load) -> None:
    settings = load(MODELS + "groups: [{name: later}]\nsinks: {s: {delivery: {only: {groups: [later]}}}}\n")
    assert settings.sinks[1].delivery.only.groups == ["later"]


# Keys that are no text.


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (MODELS + "7: x\n", "hub.yaml:2:1: [7]: a key must be text; put it in quotes"),
        (
            "models: [{name: a, model_path: x, 7: x}]",
            "hub.yaml:1:35: models[0][7]: a key must be text; put it in quotes",
        ),
        (MODELS + "on: x\n", "hub.yaml:2:1: a key must be text; put it in quotes"),
        (MODELS + "~: x\n", "hub.yaml:2:1: a key must be text; put it in quotes"),
        ("models: [{name: a, model_path: x, on: x}]", "hub.yaml:1:35: models[0]: a key must be text; put it in quotes"),
        (MODELS + "sinks: {on: x}\n", "hub.yaml:2:9: sinks: a key must be text; put it in quotes"),
    ],
    ids=["number", "number-in-a-model", "yes-or-no", "null", "yes-or-no-in-a-model", "yes-or-no-in-sinks"],
)
def test_a_key_that_is_no_text_is_told(load: Load, text: str, line: str) -> None:
    assert problem(load, text) == line


# What only the options of sinks can be.


class Nested(BaseModel):
    model_config = STRICT

    kind: Literal["plain"] = "plain"
    depth: Annotated[int, Field(lt=3)] = 1


class Other(BaseModel):
    model_config = STRICT

    kind: Literal["other"] = "other"
    token: str


def is_even(number: int) -> int:
    if number % 2:
        raise ValueError("must be even")
    return number


class Options(BaseModel):
    model_config = STRICT

    either: int | list[int] = 0
    even: Annotated[int, AfterValidator(is_even)] = 0
    letters: Annotated[str, Field(min_length=3, max_length=5)] = "abc"
    several: Annotated[list[int], Field(min_length=2, max_length=3)] = [1, 2]
    slug: Annotated[str, Field(pattern="^[a-z]+$")] = "a"
    marks: set[str] = set()
    pair: tuple[int, int] = (1, 2)
    nested: Nested = Nested()
    many: dict[str, Nested] = {}
    maybe: Nested | None = None
    tagged: Annotated[Nested | Other, Field(discriminator="kind")] = Nested()
    below: Annotated[float, Field(lt=9.5)] = 1.0
    above: Annotated[float, Field(gt=20)] = 21.0


@pytest.mark.parametrize(
    ("option", "value", "where", "message"),
    [
        ("either", "x", "either", "must be a whole number, not text"),
        ("even", 3, "even", "must be even"),
        ("letters", "ab", "letters", "must be at least 3 characters long"),
        ("letters", "abcdef", "letters", "must be at most 5 characters long"),
        ("several", [1], "several", "must hold at least 2"),
        ("several", [1, 2, 3, 4], "several", "must hold at most 3"),
        ("slug", "A", "slug", "must match the pattern ^[a-z]+$"),
        ("marks", "x", "marks", "must be a valid set"),
        ("pair", "x", "pair", "must be a list, not text; write it in brackets, as [one, two]"),
        ("nested", "x", "nested", "must be a mapping of keys to values, not text (known: kind, depth)"),
        ("nested", {"dpeth": 1}, "nested.dpeth", "unknown key; did you mean 'depth'? (known: kind, depth)"),
        ("nested", {"depth": 3}, "nested.depth", "must be less than 3"),
        ("maybe", {"dpeth": 1}, "maybe.dpeth", "unknown key; did you mean 'depth'? (known: kind, depth)"),
        ("tagged", {"kind": SECRET}, "tagged", "needs a 'kind': 'plain', 'other'"),
        ("tagged", {"kind": "plain", "depth": 9}, "tagged.depth", "must be less than 3"),
        ("tagged", {"kind": "other"}, "tagged.token", "is required"),
        ("below", 10, "below", "must be less than 9.5"),
        ("above", 1, "above", "must be more than 20"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_is_wrong_is_said_once_and_in_the_same_words(
    option: str, value: object, where: str, message: str
) -> None:
    checked, findings = check(Options, {option: value})
    assert checked is None
    assert [(dotted(finding.keys), finding.message) for finding in findings] == [(where, message)]


def test_the_names_of_types_are_no_part_of_the_way_to_a_mistake() -> None:
    _, findings = check(Options, {"either": [1, "x"]})
    assert [dotted(finding.keys) for finding in findings] == ["either", "either[1]"]


def test_a_mistake_in_one_of_many_mappings_is_found_there() -> None:
    _, findings = check(Options, {"many": {"a": {"depth": 1}, "b": {"depth": 9}, "c": 1}})
    assert [dotted(finding.keys) for finding in findings] == ["many.b.depth", "many.c"]


def test_what_is_right_is_given_back() -> None:
    checked, findings = check(Options, {"either": [1], "even": 4})
    assert (checked, findings) == (Options(either=[1], even=4), [])


# Secrets.


@pytest.mark.parametrize(
    "text",
    [
        f"log_level: {SECRET}",
        f"host: {SECRET} x",
        f"model_starting_port: {SECRET}",
        f"log_path: ~{SECRET}/x",
        f'log_path: "{SECRET}\\0"',
        f"log_path: [{SECRET}]",
        f"groups: {SECRET}",
        f"groups: [{SECRET}]",
        f"groups: [{{name: g, max_loaded: {SECRET}}}]",
        f"sinks: {SECRET}",
        f"sinks: [{SECRET}]",
        f"sinks: {{statsd: {SECRET}}}",
        f"sinks: {{statsd: [{SECRET}]}}",
        f"sinks: {{statsd: {{delivery: {SECRET}}}}}",
        f"sinks: {{statsd: {{delivery: {{when_full: {SECRET}}}}}}}",
        f"sinks: {{statsd: {{delivery: {{only: {SECRET}}}}}}}",
        f"sinks: {{statsd: {{delivery: {{only: {{models: [{SECRET}]}}}}}}}}",
        f"unknown: {SECRET}",
        f"on: {SECRET}",
        f"? [{SECRET}]\n: 1",
        f"{SECRET}",
        *(
            f"models: [{{name: b, {entry}}}]"
            for entry in (
                f"model_path: [{SECRET}]",
                f"model_path: x, default: {SECRET}",
                f"model_path: x, port: {SECRET}",
                f"model_path: x, restart: {SECRET}",
                f"model_path: x, restart: {{policy: {SECRET}}}",
                f"model_path: x, restart: {{delay: {SECRET}}}",
                f"model_path: x, health: {SECRET}",
                f"model_path: x, health: {{path: {SECRET}}}",
                f"model_path: x, health: {{timeout: {SECRET}}}",
                f"model_path: x, memory: {SECRET}",
                f"model_path: x, memory: {{required: {SECRET}}}",
                f"model_path: x, stop_timeout: {SECRET}",
                f"model_path: x, options: {SECRET}",
                f"model_path: x, options: {{api-key: [{SECRET}]}}",
                f"model_path: x, options: {{API-KEY: {SECRET}}}",
                f"model_path: x, options: {{api-key={SECRET}}}",
                f"model_path: x, options: {{model: {SECRET}}}",
                f"model_path: x, args: {SECRET}",
                f"model_path: x, args: [[{SECRET}]]",
                f"model_path: x, args: [--model={SECRET}]",
                f"model_path: x, env: {SECRET}",
                f"model_path: x, env: [HF_TOKEN={SECRET}]",
                f"model_path: x, env: {{HF_TOKEN: [{SECRET}]}}",
                f'model_path: x, env: {{HF_TOKEN: "{SECRET}\\0"}}',
                f"model_path: x, env: {{HF_TOKEN={SECRET}}}",
                f"model_path: x, env: {{HF_TOKEN:{SECRET}}}",
                f"model_path: x, env: {{HF TOKEN: {SECRET}}}",
                f"model_path: x, env: {{HF_TOKEN: !{SECRET}}}",
                f"model_path: x, env: {{HF_TOKEN: *{SECRET}}}",
                f"model_path: x, env: {{HF_TOKEN: !!int {SECRET}}}",
                f"command: {SECRET}",
                f"command: [x], args: [{SECRET}]",
                f"command: [x], health: {SECRET}",
                f"command: [x], health: {{path: {SECRET}}}",
            )
        ),
        f"models: [{SECRET}]",
        f"models: {SECRET}",
    ],
    ids=lambda text: text.replace(SECRET, "x").replace("\n", " "),
)
def test_no_message_repeats_a_value_for_it_may_be_a_secret(load: Load, text: str) -> None:
    lines = problems(load, text if "models: " in text else f"{MODELS}{text}\n")
    assert "CANARY" not in "\n".join(lines)


def test_no_warning_repeats_a_value_either(load: Load) -> None:
    settings = load(
        f"host: {SECRET.replace('_', '-')}\nport: {SECRET}\nmodels: [{{name: a, model_path: x, log_file: {SECRET}}}]\n"
    )
    assert len(settings.warnings) == 3
    assert "CANARY" not in str(settings.warnings)


# Whatever a user can write.

GOOD = """\
log_path: ./logs
log_level: debug
host: 127.0.0.1
sinks: &sinks
  loguru: off
  statsd/eu: {host: h, port: 1, tags: [a, b]}
groups:
  - {name: big, max_loaded: 1}
models:
  - &model
    name: qwen3-4b
    model_path: "mlx-community/Qwen3-4B-4bit"
    default: true
    group: big
    options: {max-tokens: 2048, temp: 0.7}
    env: {HF_TOKEN: 'token', N: 4}
  - <<: *model
    name: other
    default: no
  - name: cmd
    command: [my-server, --port, "{port}"]
    health: {path: /x, interval: 5}
    restart: {policy: always, max_failures: 3}
    memory: {required: 8GB}
    stop_timeout: 3
"""

PIECES = [
    *"\t\n :[]{}\"'#,~=@`?|>&*!%<-\0\x1b\x85\u2028\ufeff\r",
    *("yes", "010", "1:30", "1.10", ".nan", "-.inf", "0x", "null", "9" * 400, "0x" + "f" * 5000, "1.0e999", "7"),
    *(": ", "- ", "? ", "---\n", "...\n", "%YAML 9\n", "&a ", "*model", "*sinks", "<<: *model", "<<: 3", "[[[[[["),
    *("!!int ", "!!bool ", "!!float ", "!!str ", "!!null ", "!!set ", "!!binary ", "!!timestamp ", "!x ", "!<x> "),
    *("!!python/object/apply:os.system ", '"\\ud800"', '"\\0"', '"\\UFFFFFFFF"', "~no-such-user/x", "é", "模"),
    *("name", "models", "groups: x", "port: 9", "port: 1.5", "health: on", "command: []", "env: {A: [1]}"),
]  # fmt: skip


def mutated(rng: random.Random) -> bytes:
    """The good file, after somebody slipped on the keyboard a few times."""
    text = GOOD
    for _ in range(rng.randint(1, 4)):
        lines = text.splitlines(keepends=True) or [""]
        at, line = rng.randrange(len(text) + 1), rng.randrange(len(lines))
        match rng.randrange(7):
            case 0:
                text = text[:at] + rng.choice(PIECES) + text[at:]
            case 1:
                text = text[:at] + text[at + rng.randint(1, 12) :]
            case 2:
                lines.insert(rng.randrange(len(lines) + 1), lines[line])
                text = "".join(lines)
            case 3:
                lines[line] = " " * rng.randrange(5) + lines[line].lstrip(" " * rng.randrange(2))
                text = "".join(lines)
            case 4:
                del lines[line]
                text = "".join(lines)
            case 5:
                key, colon, _ = lines[line].partition(": ")
                lines[line] = f"{key}{colon}{rng.choice(PIECES)}\n"
                text = "".join(lines)
            case _:
                text = text[:at] + chr(rng.randrange(0x100)) + text[at + 1 :]
    content = text.encode()
    if rng.randrange(20) == 0:
        at = rng.randrange(len(content) + 1)
        content = content[:at] + bytes([rng.randrange(0x80, 0x100)]) + content[at:]
    return content


def outcome(path: Path) -> HubSettings | ConfigError:
    """What comes of a file; anything but these two is a traceback that a user would see."""
    try:
        return load_settings(path)
    except ConfigError as error:
        return error


def position(line: str) -> tuple[int, int]:
    _, *place = line.split(":")[:3]
    return (int(place[0]), int(place[1])) if len(place) == 2 and place[1].isdigit() else (0, 0)


def test_whatever_is_written_is_loaded_or_told_in_lines_with_places_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "hub.yaml"
    rng = random.Random(27850)
    outcomes = {"loaded": 0, "told": 0, "told in several lines": 0}
    for _ in range(400):
        path.write_bytes(mutated(rng))
        found = outcome(path)
        if isinstance(found, HubSettings):
            outcomes["loaded"] += 1
            assert found.models
            assert all(str(warning).isprintable() for warning in found.warnings)
            continue
        lines = str(found).split("\n")
        outcomes["told"] += 1
        outcomes["told in several lines"] += len(lines) > 1
        assert len(lines) == len(found.problems) == len(set(lines)) > 0
        assert all(line.isprintable() and "hub.yaml" in line for line in lines)
        assert [position(line) for line in lines] == sorted(position(line) for line in lines)
        str(found).encode()
    assert min(outcomes.values()) > 20, f"too tame or too wild: {outcomes}"


def test_the_good_file_is_good(load: Load) -> None:
    settings = load(GOOD)
    assert ([each.name for each in settings.models], settings.warnings) == (["qwen3-4b", "other", "cmd"], ())


VALUES: list[Any] = [
    "~", "yes", "7", "-1", "1.5", ".nan", "''", "text", "[]", "{}", "[~]", "[x]", "[[x]]", "[{a: 1}]", "{a: 1}",
    "{1: 2}", "{a: [1]}", "{a: {b: ~}}", "'\\ud800'", '"\\0"', "9999999999999999999999", "!x y",
    "'*'", "~a", "'{port}'",
]  # fmt: skip


def test_any_value_under_any_key_is_loaded_or_told_with_that_key(tmp_path: Path) -> None:
    path = tmp_path / "hub.yaml"

    def told(text: str, key: str) -> None:
        path.write_text(text)
        found = outcome(path)
        if isinstance(found, ConfigError):
            assert any(key in problem.path for problem in found.problems), text
            assert str(found).encode(), text

    for value in VALUES:
        for key in HubFile.model_fields:
            told(f"{key}: {value}\n" + (MODELS if key != "models" else ""), key)
        for key in {*ModelSettings.model_fields} - {"name", "command"}:
            told(f"models: [{{name: a, command: [x], {key}: {value}}}]\n", key)
        for section, nested in (("restart", RestartSettings), ("health", HealthSettings), ("memory", MemorySettings)):
            for key in nested.model_fields:
                told(f"models: [{{name: a, model_path: x, {section}: {{{key}: {value}}}}}]\n", key)
        for key in ("name", "command"):
            told(f"models: [{{{'name: a, ' * (key != 'name')}model_path: x, {key}: {value}}}]\n", key)
        for key in GroupSettings.model_fields:
            told(MODELS + f"groups: [{{{'name: g, ' * (key != 'name')}{key}: {value}}}]\n", key)
        told(MODELS + f"sinks: {{statsd: {value}}}\n", "statsd")
        for key in DeliverySettings.model_fields:
            told(MODELS + f"sinks: {{statsd: {{delivery: {{{key}: {value}}}}}}}\n", f"statsd.delivery.{key}")
        for key in OnlySettings.model_fields:
            told(MODELS + f"sinks: {{statsd: {{delivery: {{only: {{{key}: {value}}}}}}}}}\n", f"only.{key}")


@pytest.mark.parametrize("kind", ["missing", "directory", "not-utf-8"])
def test_a_file_that_cannot_be_read_is_told_with_its_path(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "hub.yaml"
    if kind == "directory":
        path.mkdir()
    elif kind == "not-utf-8":
        path.write_bytes(MODELS.encode("utf-16"))
    with pytest.raises(ConfigError) as raised:
        load_settings(path)
    assert str(raised.value).startswith(f"{path}: ")


# control


CONTROL = MODELS + "control:\n  port: 8700\n  token_file: token\n"


def write_token(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_without_control_the_hub_listens_nowhere_but_on_its_socket(load: Load) -> None:
    assert load(MODELS).control is None
    assert load(MODELS + "control: off\n").control is None


def test_control_is_on_loopback_and_its_token_file_beside_hub_yaml_and_not_there_yet(
    load: Load, tmp_path: Path
) -> None:
    control = load(CONTROL).control
    assert control is not None
    assert (control.host, control.port, control.token_file) == ("127.0.0.1", 8700, str(tmp_path / "token"))
    assert not (tmp_path / "token").exists(), "reading hub.yaml makes nothing"


def test_a_token_of_ones_own_is_right_when_only_its_owner_can_read_it(load: Load, tmp_path: Path) -> None:
    write_token(tmp_path, "0123456789abcdef\n")
    assert load(CONTROL).control is not None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_token_file_that_others_can_use_is_refused_where_it_is_named(load: Load, tmp_path: Path, mode: int) -> None:
    write_token(tmp_path, SECRET * 3, mode)
    words = f"can be read or written by others (mode {mode:o}); chmod 600"
    assert problem(load, CONTROL) == f"hub.yaml:4:3: control.token_file: {words}"


@pytest.mark.parametrize(
    "text", ["", f"{SECRET}12345", f"{SECRET} {SECRET} {SECRET}", f"{SECRET}\n{SECRET}", "x" * 1025]
)
def test_a_token_that_is_too_short_or_none_is_refused_and_never_repeated(load: Load, tmp_path: Path, text: str) -> None:
    write_token(tmp_path, text)
    said = problem(load, CONTROL)
    assert said.startswith("hub.yaml:4:3: control.token_file: must hold one line of 16 to 1024 letters")
    assert SECRET not in said


def test_a_token_file_that_is_a_directory_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()
    assert "control.token_file: cannot be read (Is a directory)" in problem(load, CONTROL)


def test_the_port_of_control_is_no_model_s(load: Load) -> None:
    text = "models: [{name: a, model_path: x, port: 8700}]\n" + CONTROL.partition("\n")[2]
    assert "models[0].port: 8700 is already the port of `control:`" in problem(load, text)


def test_who_listens_for_others_with_a_token_is_warned(load: Load) -> None:
    (warning,) = load(CONTROL + "  host: 0.0.0.0\n").warnings
    assert str(warning).startswith("hub.yaml:5:3: control.host: lets others on the network see the token")


@pytest.mark.parametrize(("written", "words"), [("{port: 8700}", "token_file"), ("{token_file: t}", "port")])
def test_control_without_port_or_token_file_is_a_mistake(load: Load, written: str, words: str) -> None:
    assert f"control.{words}: is required" in problem(load, MODELS + f"control: {written}\n")
