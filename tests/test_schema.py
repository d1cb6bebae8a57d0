"""The JSON schema of hub.yaml: it takes what the hub takes, refuses what the hub refuses, and is of use in an editor."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from mlxhub_core.cli import cli
from mlxhub_core.cli.demo import HUB_YAML as DEMO
from mlxhub_core.cli.init import HUB_YAML as INIT
from mlxhub_core.cli.schema import hub_schema
from mlxhub_core.discovery import PACKAGES, scan
from mlxhub_core.errors import ConfigError
from mlxhub_core.selection import select
from mlxhub_core.settings import (
    DeliverySettings,
    GroupSettings,
    HealthSettings,
    MemorySettings,
    ModelSettings,
    OnlySettings,
    RestartSettings,
    load_settings,
)
from mlxhub_core.settings.file_schema import file_schema
from mlxhub_core.settings.schema import HubFile
from mlxhub_core.yaml_source import Source

ROOT = Path(__file__).parent.parent
MODELS = "models: [{name: a, command: [x]}]\n"
GROUPED = "models: [{name: a, command: [x], group: a}]\n"

ACME = """\
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from pathlib import Path
from typing import Annotated, Literal
from annotated_types import Interval, MinLen
from mlxhub_core import Secret


class Level(Enum):
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True)
class Retry:
    attempts: Annotated[int, Interval(ge=0, le=10)] = 3
    pause: float = 0.5


@dataclass
class AcmeSink:
    \"\"\"Sends failures to Acme.

    Args:
        host: where Acme is.
    \"\"\"
    host: Annotated[str, MinLen(1)]
    port: Annotated[int, Interval(ge=1, le=65535)] = 8125
    flavor: Literal["plain", "fancy"] = "plain"
    level: Level = Level.LOW
    tags: tuple[str, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)
    retry: Retry = Retry()
    token: Secret | None = None
    path: Path | None = None
    patience: float = inf

    def __post_init__(self):
        if self.host == "nowhere":
            raise ValueError("there is no such host")

    def model_failed(self, ctx): ...
"""
"""A sink with options of every kind, of which one is required."""

PLAIN = "class PlainSink:\n    def model_failed(self, ctx): ...\n"


def install(site: Path, name: str, points: dict[str, str], code: str, version: str = "1.0") -> None:
    """Install a package of one module; `points` are its entry points."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{type_} = {value}\n" for type_, value in points.items()]
    (info / "entry_points.txt").write_text("[mlxhub.sinks]\n" + "".join(lines), encoding="utf-8")
    (site / f"{name.replace('-', '_')}.py").write_text(dedent(code), encoding="utf-8")
    importlib.invalidate_caches()


SITE = "mlxhub-site"
"""The name of each directory of installed packages."""


def new_site(parent: Path) -> Iterator[Path]:
    """A directory of installed packages, in the place of any other. What is imported from there is forgotten."""
    (directory := parent / SITE).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in imported():
            patch.delitem(sys.modules, name)
        patch.setattr(sys, "path", [str(directory), *(entry for entry in sys.path if SITE not in entry)])
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.delenv("MLXHUB_NO_SINKS", raising=False)
        scan.cache_clear()
        yield directory
        for name in imported():
            del sys.modules[name]
    scan.cache_clear()


def imported() -> list[str]:
    return [name for name, module in sys.modules.items() if SITE in str(getattr(module, "__file__", ""))]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    yield from new_site(tmp_path)


@pytest.fixture(scope="module")
def full_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One with the sinks that the tables below use. Made once: the tables are long."""
    for directory in new_site(tmp_path_factory.mktemp("full")):
        install(directory, "acme-sinks", {"acme": "acme_sinks:AcmeSink"}, ACME)
        types = ("plain.sink", "plain-2")
        install(directory, "plain-sinks", dict.fromkeys(types, "plain_sinks:PlainSink"), PLAIN)
        for name in ("a-sinks", "b-sinks"):
            install(directory, name, {"kafka": f"{name[0]}_sinks:PlainSink"}, PLAIN)
        yield directory


@pytest.fixture(scope="module")
def full(full_site: Path) -> Draft202012Validator:
    """The schema of that one."""
    return Draft202012Validator(hub_schema())


def plain(text: str) -> Any:
    """What an editor makes of a hub.yaml: the values of JSON, whose keys are text."""
    return json.loads(json.dumps(Source("hub.yaml", text).value))


def complaints(schema: dict[str, Any], sinks: str) -> list[str]:
    """What a schema has against these sinks, as the places of the mistakes."""
    document = plain(MODELS + "sinks:\n" + indent(dedent(sinks), "  "))
    return [error.json_path for error in Draft202012Validator(schema).iter_errors(document)]


def hub_takes(directory: Path, text: str) -> bool:
    """Whether the hub would run with it, its sinks included."""
    (directory / "hub.yaml").write_text(text, encoding="utf-8")
    try:
        settings = load_settings(directory / "hub.yaml")
        select(settings, settings.sinks)
    except ConfigError:
        return False
    return True


def schema_takes(schema: Draft202012Validator, text: str) -> bool:
    return schema.is_valid(plain(text))


def mistakes(schema: Draft202012Validator, document: Any) -> list[str]:
    """What is invalid, in few words: an error itself shows the whole schema."""
    return [f"{error.json_path}: {error.message[:100]}" for error in schema.iter_errors(document)]


# What it is.


def walk(part: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within a schema."""
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from walk(inner)


def test_it_is_a_schema_of_the_dialect_it_names_and_all_its_references_lead_somewhere(full: Any) -> None:
    schema = full.schema
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(schema)
    references = {part["$ref"] for part in walk(schema) if "$ref" in part}
    assert {f"#/$defs/{name}" for name in schema["$defs"]} >= references
    assert len(references) > 5


def test_its_patterns_mean_the_same_to_editors_which_read_them_as_javascript(full: Any) -> None:
    patterns = {part["pattern"] for part in walk(full.schema) if isinstance(part.get("pattern"), str)}
    patterns |= set(full.schema["properties"]["sinks"]["patternProperties"])
    assert len(patterns) > 8
    for pattern in patterns:
        assert re.compile(pattern)
        assert (pattern[0], pattern[-1]) == ("^", "$"), "editors look anywhere in the text"
        assert not re.search(r"\(\?|\\[^.u]", pattern), pattern


@pytest.mark.parametrize(
    "model",
    [
        HubFile,
        ModelSettings,
        GroupSettings,
        HealthSettings,
        RestartSettings,
        MemorySettings,
        DeliverySettings,
        OnlySettings,
    ],
)
def test_every_key_is_there_with_a_description_and_no_other_is_taken(full: Any, model: Any) -> None:
    part = full.schema if model is HubFile else full.schema["$defs"][model.__name__]
    assert list(part["properties"]) == list(model.model_fields)
    assert part["additionalProperties"] is False
    for name, value in part["properties"].items():
        assert value.get("description"), name
        assert ("default" in value) is (name not in part["required"]) if "required" in part else "default" in value


def test_every_sink_is_there_with_its_package_its_options_and_how_events_reach_it(full: Any) -> None:
    entries = full.schema["properties"]["sinks"]["patternProperties"]
    (acme,) = [entry for key, entry in entries.items() if re.search(key, "acme")]
    assert acme["description"] == "acme-sinks 1.0"
    assert acme["properties"]["host"]["description"] == "where Acme is."
    assert acme["required"] == ["host"]
    for entry in entries.values():
        assert entry["additionalProperties"] is False
        assert entry["properties"]["delivery"]["description"]
    assert {offer.type for offer in scan().offers} >= {"acme", "kafka", "plain.sink", "loguru"}
    assert len(entries) == len(scan().offers)
    assert "anyOf" not in full.schema["properties"]["sinks"], "nothing beside them takes any sink"


def test_each_call_makes_a_new_one() -> None:
    first = file_schema()
    first["properties"].clear()
    first["$defs"].clear()
    assert file_schema()["properties"]
    assert file_schema()["$defs"]


def test_the_command_prints_it_and_nothing_else(full: Any) -> None:
    result = CliRunner().invoke(cli, ["schema"], prog_name="mlxhub")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == full.schema


# What is written in our own pages.


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]


EXAMPLES = [
    ("demo", DEMO),
    ("init", INIT),
    *((page.name, text) for page in pages() for text in blocks(page.read_text(encoding="utf-8"), "yaml")),
]
# On the page of first-hub.md one thing is wrong on purpose.
EXAMPLES = [
    (page, text)
    for page, text in EXAMPLES
    if re.search("^(models|sinks):", text, re.MULTILINE) and "defualt" not in text
]


def sinks_of_ours(text: str) -> set[str]:
    """The types among its sinks that packages of ours offer."""
    return {key.partition("/")[0] for key in plain(text).get("sinks") or {}} & set(PACKAGES)


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Draft202012Validator:
    """The schema where the sinks that the pages themselves show are installed."""
    code = blocks((ROOT / "docs" / "writing-a-sink.md").read_text(encoding="utf-8"), "python")
    for site in new_site(tmp_path_factory.mktemp("documented")):
        install(site, "mlxhub-print-sink", {"print": "mlxhub_print_sink:PrintSink"}, code[0])
        install(site, "mlxhub-acme-sink", {"acme": "mlxhub_acme_sink:AcmeSink"}, code[1])
        schema = hub_schema()
    return Draft202012Validator(schema)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        pytest.param(page, text, id=f"{page}-{i}", marks=pytest.mark.sinks(*sinks_of_ours(text)))
        for i, (page, text) in enumerate(EXAMPLES)
    ],
)
def test_every_example_is_valid(documented: Draft202012Validator, page: str, text: str) -> None:
    document = plain(text)
    if "models" not in document:
        document["models"] = [{"name": "a", "command": ["x"]}]
    assert mistakes(documented, document) == []


def test_there_are_examples_to_check() -> None:
    assert {"README.md", "hub-yaml.md", "writing-a-sink.md"} <= {page for page, _ in EXAMPLES}


# Where the hub and the schema agree.


def model(inside: str) -> str:
    return f"models: [{{name: a, {inside}}}]\n"


def mlx(inside: str) -> str:
    return model(f"model_path: x, {inside}")


def server(inside: str) -> str:
    return model(f"command: [x, '{{port}}'], {inside}")


def top(text: str) -> str:
    return MODELS + text + "\n"


def sinks(text: str) -> str:
    return top("sinks: {" + text + "}")


def delivery(text: str) -> str:
    return sinks(f"loguru: {{delivery: {text}}}")


VALID = [
    MODELS,
    model("model_path: org/name"),
    model("model_path: x, command: [x]"),
    model("command: [x, 8080]"),
    "models:\n  - {name: a, model_path: x}\n  - {name: b_c-d, model_path: y, default: true}\n",
    top("log_path: ./logs"),
    top("log_level: debug"),
    top("log_level: WARNING"),
    top('host: "::1"'),
    top("host: my-mac.local"),
    top("model_starting_port: 1024"),
    top("log_path:\nlog_level:\nhost:\nmodel_starting_port:\ngroups:\nsinks:"),
    top("groups: []"),
    top("groups: [{name: g, max_loaded: 1}, {name: h, max_loaded: }]"),
    mlx("port: 65535"),
    mlx("port: , restart: , health: , memory: , options: , args: , env: , group: , python: , working_directory: "),
    mlx("restart: never"),
    mlx("restart: {policy: always, delay: 0, max_delay: 5, factor: 1, jitter: 1}"),
    mlx("restart: {delay: , window: 60}"),
    mlx("stop_timeout: 0.5"),
    mlx("stop_timeout: 86400"),
    mlx("options: {max-tokens: 512, trust_remote_code: true, temp: 0.5, chat-template-args: {a: 1}}"),
    mlx("options: {adapter-path: }"),
    mlx("args: [--max-tokens, 512]"),
    mlx("python: ~/venvs/mlx/bin/python"),
    mlx("health: off"),
    mlx("health: {interval: 0.1, timeout: 1, startup_timeout: 10, failures: 1000}"),
    server("health: {path: '/v1/ready?x=1'}"),
    mlx("memory: {required: 8GB}"),
    mlx("memory: {required: 1.5 gib}"),
    mlx("memory: {required: }"),
    mlx("env: {HF_HUB_OFFLINE: 0, A_b1: text}"),
    mlx("working_directory: /tmp"),
    sinks(""),
    sinks("loguru: off"),
    sinks("loguru: on, plain.sink: , plain.sink/eu_1: {}, plain-2: "),
    sinks("plain-sinks:plain.sink/x: {}, plain_sinks:plain.sink: {}"),
    sinks("acme: {host: x}"),
    sinks("acme: off, acme/a: {host: x, port: 1}, acme/b: {host: y, flavor: fancy, level: high}"),
    sinks("acme: {host: x, tags: [a, b], labels: {a: 1}, path: /x, patience: 1}"),
    sinks("acme: {host: x, retry: {attempts: 10}}"),
    sinks("acme: {host: x, retry: {}}"),
    sinks("acme: {host: x, token: text}"),
    sinks("acme: {host: x, token: }"),
    sinks("acme: {host: x, delivery: {queue: 1}}"),
    sinks("a-sinks:kafka: , b-sinks:kafka/x: on"),
    delivery("{queue: 100000, when_full: drop_newest, required: false}"),
    delivery("{queue: , when_full: , only: , required: }"),
    delivery(""),
    delivery("{only: [model_failed, hub_stopping]}"),
    GROUPED + "sinks: {loguru: {delivery: {only: {events: [model_failed], models: [a], groups: [a]}}}}\n",
    delivery("{only: {}}"),
]

WRONG = [
    "[]\n",
    "log_path: x\n",
    "models: []\n",
    "models: {}\n",
    "models:\n",
    "models: [a]\n",
    "models: [~]\n",
    "models: [{name: a}]\n",
    "models: [{model_path: x}]\n",
    "models: [{name: , model_path: x}]\n",
    top("hots: x"),
    top("log_path: ''"),
    top("log_path: 7"),
    top("log_level: loud"),
    top("log_level: 10"),
    top("host: ''"),
    top("host: http://x"),
    top("host: a b"),
    top("model_starting_port: 1023"),
    top("model_starting_port: 65536"),
    top("model_starting_port: '27850'"),
    top("groups: {g: 1}"),
    top("groups: [g]"),
    top("groups: [{max_loaded: 1}]"),
    top("groups: [{name: g, max_loaded: 0}]"),
    top("groups: [{name: g, cap: 1}]"),
    mlx("defualt: true"),
    mlx("default: 1"),
    mlx("default: 'true'"),
    "models: [{name: a b, model_path: x}]\n",
    "models: [{name: a--b, model_path: x}]\n",
    "models: [{name: 7, model_path: x}]\n",
    f"models: [{{name: {'n' * 101}, model_path: x}}]\n",
    model("model_path: ''"),
    model("model_path: 7"),
    model("command: x"),
    model("command: []"),
    model("command: [1.5]"),
    model("command: [[x]]"),
    mlx("port: 0"),
    mlx("port: 65536"),
    mlx("port: '80'"),
    mlx("port: true"),
    mlx("group: 'a b'"),
    mlx("restart: sometimes"),
    mlx("restart: true"),
    mlx("restart: {policy: sometimes}"),
    mlx("restart: {delay: -1}"),
    mlx("restart: {max_delay: 0}"),
    mlx("restart: {factor: 0.5}"),
    mlx("restart: {jitter: 2}"),
    mlx("restart: {max_failures: 1.5}"),
    mlx("restart: {window: 100000}"),
    mlx("restart: {retries: 3}"),
    mlx("stop_timeout: 0"),
    mlx("stop_timeout: 30s"),
    mlx("options: [max-tokens]"),
    mlx("args: --max-tokens"),
    mlx("args: [~]"),
    mlx("args: [true]"),
    mlx("python: ''"),
    mlx("health: on"),
    mlx("health: /health"),
    mlx("health: {interval: 0.01}"),
    mlx("health: {failures: 0}"),
    mlx("health: {every: 5}"),
    server("health: {path: health}"),
    server("health: {path: '/a b'}"),
    mlx("memory: 8GB"),
    mlx("memory: {required: 8}"),
    mlx("memory: {required: 8 apples}"),
    mlx("memory: {at_least: 8GB}"),
    mlx("env: [A]"),
    mlx("env: {A: true}"),
    mlx("env: {A: 1.10}"),
    mlx("working_directory: 7"),
    top("sinks: [loguru]"),
    top("sinks: loguru"),
    sinks("nowhere: "),
    sinks("nowhere: {a: 1}"),
    sinks("log guru: "),
    sinks("loguru/: "),
    sinks("loguru/a/b: "),
    sinks("other-sinks:acme: {host: x}"),
    sinks("plainXsink: "),
    sinks("plain-sinksXplain.sink: "),
    sinks("loguru: 7"),
    sinks("loguru: 'off'"),
    sinks("loguru: [a]"),
    sinks("loguru: {level: DEBUG}"),
    sinks("kafka: "),
    sinks("kafka/x: {}"),
    sinks("acme: "),
    sinks("acme: on"),
    sinks("acme: {}"),
    sinks("acme: {port: 1}"),
    sinks("acme: {host: }"),
    sinks("acme: {host: ''}"),
    sinks("acme: {host: 1.10}"),
    sinks("acme: {host: x, prot: 1}"),
    sinks("acme: {host: x, port: 0}"),
    sinks("acme: {host: x, port: '1'}"),
    sinks("acme: {host: x, flavor: sour}"),
    sinks("acme: {host: x, level: middle}"),
    sinks("acme: {host: x, tags: a}"),
    sinks("acme: {host: x, labels: {a: b}}"),
    sinks("acme: {host: x, retry: {attempts: 11}}"),
    sinks("acme: {host: x, retry: {times: 1}}"),
    sinks("acme: {host: x, retry: }"),
    sinks("acme: {host: x, token: 7}"),
    sinks("acme: {host: x, token: ''}"),
    sinks("acme: {host: x, token: {env: A, file: b}}"),
    sinks("acme: {host: x, token: {vault: a}}"),
    delivery("on"),
    delivery("{queue: 0}"),
    delivery("{queue: 100001}"),
    delivery("{when_full: block}"),
    delivery("{required: 1}"),
    delivery("{retries: 1}"),
    delivery("{only: model_failed}"),
    delivery("{only: []}"),
    delivery("{only: [model_fails]}"),
    delivery("{only: {events: []}}"),
    delivery("{only: {events: [model_fails]}}"),
    delivery("{only: {hooks: [model_failed]}}"),
    delivery("{only: {models: [a b]}}"),
]


def name_of(text: str) -> str:
    return text.removeprefix(MODELS).strip()[:60]


@pytest.mark.parametrize("text", VALID, ids=name_of)
def test_what_the_hub_takes_is_valid(full: Draft202012Validator, tmp_path: Path, text: str) -> None:
    assert hub_takes(tmp_path, text)
    assert mistakes(full, plain(text)) == []


@pytest.mark.parametrize("text", WRONG, ids=name_of)
def test_what_the_hub_refuses_is_invalid(full: Draft202012Validator, tmp_path: Path, text: str) -> None:
    assert not hub_takes(tmp_path, text)
    assert not schema_takes(full, text)


ONLY_THE_HUB_REFUSES = {
    "between the keys of a model": [
        model("command: [x], options: {a: 1}"),
        model("command: [x], args: [a]"),
        model("command: [x], python: a"),
        model("command: ['{model_path}']"),
        model("command: [x], health: {interval: 5}"),
        mlx("health: {path: /health}"),
        mlx("options: {port: 1}"),
        mlx("options: {max-tokens: 1, max_tokens: 1}"),
        mlx("options: {--max-tokens: 1}"),
        mlx("args: [--port, 1]"),
        mlx("restart: {delay: 61}"),
        model("model_path: "),
        model("command: "),
    ],
    "between entries": [
        "models: [{name: a, command: [x]}, {name: A, command: [x]}]\n",
        "models: [{name: a, command: [x], port: 1}, {name: b, command: [x], port: 1}]\n",
        GROUPED + "groups: [{name: h}]\n",
        top("groups: [{name: g}, {name: g}]"),
        delivery("{only: {models: [b]}}"),
        delivery("{only: {groups: [h]}}"),
    ],
    "what only this machine, or the sink, knows": [
        sinks("acme: {host: x, token: {env: NOBODY_HAS_SET_THIS}}"),
        sinks("acme: {host: x, token: {file: nowhere}}"),
        sinks("acme: {host: nowhere}"),
        top("log_path: ~nobody-of-this-name/logs"),
    ],
    "what JSON has no way to say": [
        mlx("port: 8080.0"),
        mlx("stop_timeout: .nan"),
        sinks("acme: {host: x, patience: .inf}"),
    ],
    "what the schema could say and does not yet": [
        top("host: 'a:1'"),
        mlx("env: {a b: x}"),
        mlx("env: {1: x}"),
        mlx("options: {a: [1]}"),
        mlx("options: {a b: 1}"),
        mlx("memory: {required: 0GB}"),
        mlx("memory: {required: 9999TB}"),
        mlx(r'working_directory: "a\0b"'),
    ],
}
ONLY_THE_SCHEMA_REFUSES = {
    "what the hub warns of": [
        top("port: 8000"),
        mlx("model_type: lm"),
        sinks("nowhere: {delivery: {required: false}}"),
    ],
    "what is off, or says nothing, and so does not count": [
        sinks("nowhere: off"),
        sinks("kafka: off"),
        mlx("defualt: "),
        mlx("restart: {retries: }"),
        top("hots: "),
    ],
    "what is rarely written so": [
        top("log_level: Info"),
        sinks("Plain.Sinks:plain.sink: "),
    ],
}


@pytest.mark.parametrize("text", [text for texts in ONLY_THE_HUB_REFUSES.values() for text in texts], ids=name_of)
def test_what_only_the_hub_refuses_is_known(full: Draft202012Validator, tmp_path: Path, text: str) -> None:
    assert not hub_takes(tmp_path, text)
    assert schema_takes(full, text), "they agree now; move it to the table of what is wrong"


@pytest.mark.parametrize("text", [text for texts in ONLY_THE_SCHEMA_REFUSES.values() for text in texts], ids=name_of)
def test_what_only_the_schema_refuses_is_known(full: Draft202012Validator, tmp_path: Path, text: str) -> None:
    assert hub_takes(tmp_path, text)
    assert not schema_takes(full, text), "they agree now; move it to the table of what is valid"


VALUES = [
    *("", "true", "false", "0", "1", "-1", "7", "5000", "100000", "0.5", "1.5", "99999999"),
    *('""', '"a"', '"a b"', '"127.0.0.1"', '"/x"', '"8GB"', "always", "info", "drop_newest"),
    *("[]", "[a]", "[1]", "[model_failed]", "[1.5]", "[~]", "[[]]", "{}", "{zz: 1}", "{a: 1}", "{A: x}"),
]
"""Of every kind; the first is nothing at all."""

PLACES: list[tuple[str, type, str, dict[str, str]]] = [
    ("top", HubFile, "{%s}\n", {"models": "[{name: a, command: [x]}]"}),
    ("a server of mlx-lm", ModelSettings, "models: [{%s}]\n", {"name": "a", "model_path": "x"}),
    ("a command", ModelSettings, "models: [{%s}]\n", {"name": "a", "command": "[x, '{port}']"}),
    ("restart", RestartSettings, mlx("restart: {%s}"), {"max_delay": "86400"}),
    ("health", HealthSettings, server("health: {%s}"), {}),
    ("memory", MemorySettings, mlx("memory: {%s}"), {}),
    ("groups", GroupSettings, top("groups: [{name: g}, {%s}]"), {"name": "h"}),
    ("delivery", DeliverySettings, delivery("{%s}"), {}),
    ("only", OnlySettings, GROUPED + "sinks: {loguru: {delivery: {only: {%s}}}}\n", {}),
]
"""Where keys stand, and what must stand beside them."""

DIFFER = {
    # Between keys.
    ("a server of mlx-lm", "model_path", ""),
    ("a command", "command", ""),
    *(("a command", "options", value) for value in ("{}", "{zz: 1}", "{a: 1}", "{A: x}")),
    *(("a command", "args", value) for value in ("[]", "[a]", "[1]", "[model_failed]")),
    *(("a command", "python", f'"{value}"') for value in ("a", "a b", "127.0.0.1", "/x", "8GB")),
    *(("a command", "python", value) for value in ("always", "info", "drop_newest")),
    ("a server of mlx-lm", "options", "{A: x}"),
    ("only", "models", "[model_failed]"),
    ("only", "groups", "[model_failed]"),
}
"""Where hub and schema do not agree about one value."""


@pytest.mark.parametrize(("place", "kind", "template", "beside"), PLACES, ids=[place for place, *_ in PLACES])
def test_they_agree_about_any_value_of_any_key(
    full: Draft202012Validator, tmp_path: Path, place: str, kind: Any, template: str, beside: dict[str, str]
) -> None:
    differ = set()
    for key in kind.model_fields:
        for value in VALUES:
            text = template % ", ".join(f"{name}: {said}" for name, said in {**beside, key: value}.items())
            if hub_takes(tmp_path, text) != schema_takes(full, text):
                differ.add((place, key, value))
    assert differ == {known for known in DIFFER if known[0] == place}


# Sinks of all sorts.


def test_a_sink_that_cannot_be_imported_leaves_the_rest_of_use_and_is_told(site: Path) -> None:
    install(site, "bad-sinks", {"bad": "bad_sinks:Sink"}, "raise SystemExit(3)")
    install(site, "odd-sinks", {"odd": "odd_sinks:Sink"}, "class Sink:\n    def __init__(self, x): ...\n")
    install(site, "acme-sinks", {"acme": "acme_sinks:AcmeSink"}, ACME)
    result = CliRunner().invoke(cli, ["schema"], prog_name="mlxhub")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "warning: the options of bad are not known: bad-sinks 1.0 cannot be imported: SystemExit: 3",
        "warning: the options of odd are not known: parameter 'x' has no type",
    ]
    schema = json.loads(result.stdout)
    Draft202012Validator.check_schema(schema)
    assert complaints(schema, "bad: {any: [thing]}\nodd:\nbad/x: on\nacme: {host: x}") == []
    assert complaints(schema, "bad: {delivery: {queue: 0}}\nacme: {host: 7}") == [
        "$.sinks.acme.host",
        "$.sinks.bad.delivery",
    ]
    assert complaints(schema, "bad: 7") == ["$.sinks.bad"]


NESTED = """\
from dataclasses import dataclass
@dataclass
class Retry:
    {option}: int = 1
@dataclass
class Size:
    retry: Retry | None = None
@dataclass
class Sink:
    retry: Retry | None = None
    size: Size | None = None
    def model_failed(self): ...
"""


def test_what_two_sinks_call_by_one_name_are_two_things(site: Path) -> None:
    install(site, "a-sinks", {"one": "a_sinks:Sink", "two": "a_sinks:Sink"}, NESTED.format(option="times"))
    install(site, "b-sinks", {"one": "b_sinks:Sink"}, NESTED.format(option="seconds"))
    schema = hub_schema()
    Draft202012Validator.check_schema(schema)
    right = "a-sinks:one: {retry: {times: 1}}\nb-sinks:one: {retry: {seconds: 1}}\ntwo: {size: {retry: {times: 1}}}"
    assert complaints(schema, right) == []
    assert complaints(schema, "a-sinks:one: {retry: {seconds: 1}}") == ["$.sinks['a-sinks:one'].retry"]
    assert complaints(schema, "b-sinks:one: {size: {retry: {times: 1}}}") == ["$.sinks['b-sinks:one'].size"]
    assert complaints(schema, "two: {size: {retry: {seconds: 1}}}") == ["$.sinks.two.size"]
    assert json.loads(json.dumps(schema)) == schema


def test_each_of_two_packages_with_one_type_has_its_own_options(site: Path) -> None:
    install(site, "a-sinks", {"one": "a_sinks:AcmeSink"}, ACME)
    install(site, "b-sinks", {"one": "b_sinks:PlainSink"}, PLAIN)
    schema = hub_schema()
    assert complaints(schema, "a-sinks:one/x: {host: x}\nb-sinks:one:\na-sinks:one: off") == []
    assert complaints(schema, "b-sinks:one/x: {host: x}") == ["$.sinks['b-sinks:one/x']"]
    assert complaints(schema, "a-sinks:one:") == ["$.sinks['a-sinks:one']"]


def test_a_module_that_prints_when_it_is_imported_does_not_write_into_the_schema(site: Path) -> None:
    install(site, "plain-sinks", {"plain": "plain_sinks:PlainSink"}, "print('hello')\n" + PLAIN)
    result = CliRunner().invoke(cli, ["schema"], prog_name="mlxhub")
    assert "plain-sinks 1.0" in json.dumps(json.loads(result.stdout))
    assert result.stderr == "hello\n"


def test_a_default_that_json_has_no_word_for_leaves_it_json(full: Draft202012Validator) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(json.dumps(full.schema), parse_constant=refuse)


def test_a_type_that_hub_yaml_could_never_name_does_no_harm(site: Path) -> None:
    install(site, "odd-sinks", {"c++ (old)": "odd_sinks:PlainSink"}, PLAIN)
    install(site, "plain-sinks", {"plain": "plain_sinks:PlainSink"}, PLAIN)
    schema = hub_schema()
    Draft202012Validator.check_schema(schema)
    assert complaints(schema, "plain: on") == []
    assert complaints(schema, "ccc: on") == ["$.sinks"]


def test_the_default_of_a_secret_is_not_in_it(site: Path) -> None:
    code = ACME.replace("token: Secret | None = None", "token: Secret | None = Secret('canary')")
    install(site, "acme-sinks", {"acme": "acme_sinks:AcmeSink"}, code)
    assert "canary" not in json.dumps(hub_schema())


def test_to_make_it_imports_the_sinks_and_makes_none(site: Path) -> None:
    code = "class PlainSink:\n    def __init__(self): raise AssertionError\n    def model_failed(self): ...\n"
    install(site, "plain-sinks", {"plain": "plain_sinks:PlainSink"}, code)
    assert complaints(hub_schema(), "plain:") == []
