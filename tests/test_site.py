"""The documentation cannot drift: what is in the code is in the docs, and what is in the docs can be done."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import runpy
import shlex
import subprocess
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel

from mlxhub_core import testing
from mlxhub_core.cli import cli
from mlxhub_core.discovery import PACKAGES, scan
from mlxhub_core.events import Failure, HubEvent, HubModelContext, Reason
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.metrics import CATALOGUE, prometheus_name, statsd_name
from mlxhub_core.observability import LoggingHubObservabilitySink
from mlxhub_core.options import options_schema
from mlxhub_core.settings import load_settings
from mlxhub_core.testing import FakeHub, fake_hub

ROOT = Path(__file__).parent.parent
MADE = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))
PAGES: dict[str, str] = MADE["pages"]()
MKDOCS = Path(sysconfig.get_path("scripts")) / "mkdocs"
WRITTEN = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]
WRITTEN += sorted(ROOT.glob("examples/**/README.md"))
PLACES = {path: str(path.relative_to(ROOT)) for path in WRITTEN}
FENCE = re.compile(r"^( *)```(\w*)(?: title=\"[^\"]*\")?\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[Any]:
    """Every block of a language in all that is written, with where it is; the tutorials run as a whole elsewhere."""
    return [
        pytest.param(text, id=f"{PLACES[path]}-{number}")
        for path in WRITTEN
        if path.name not in ("first-hub.md", "first-sink.md")
        for number, (_, kind, text) in enumerate(FENCE.findall(path.read_text(encoding="utf-8")))
        if kind == language
    ]


# What is in the code is in the docs.


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_its_section_with_every_argument(hook: str) -> None:
    section = PAGES["events.md"].partition(f"## {hook}\n")[2].partition("\n## ")[0]
    assert re.findall(r"`(\w+): ", section) == list(HOOKS[hook])
    assert section.strip().count("\n\n") >= 1, "and a sentence"


@pytest.mark.parametrize("kind", [HubEvent, HubModelContext, Failure])
def test_every_field_of_an_event_is_there(kind: type) -> None:
    for field in dataclasses.fields(kind):
        assert f"| `{field.name}` |" in PAGES["events.md"]


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_there_with_what_it_says(reason: Reason) -> None:
    assert re.search(rf"\| `{reason.value}` \| \w.+\. \|", PAGES["events.md"])


@pytest.mark.sinks("prometheus", "statsd")
@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.stem)
def test_every_metric_is_there_by_each_of_its_names_and_on_the_pages_of_the_sinks(metric: Any) -> None:
    for name in (metric.stem, prometheus_name(metric), statsd_name(metric)):
        assert f"`{name}`" in PAGES["metrics.md"]
    assert f"`{prometheus_name(metric)}`" in MADE["sink_tables"]("prometheus")
    assert f"`{statsd_name(metric)}`" in MADE["sink_tables"]("statsd")


@pytest.mark.parametrize("sink", sorted(set(PACKAGES) & {offer.type for offer in scan().offers}))
def test_every_option_of_our_sinks_is_on_its_page(sink: str) -> None:
    (offer,) = [offer for offer in scan().offers if offer.type == sink]
    for option in options_schema(offer.load()).get("properties", {}):
        assert f"| `{option}` |" in MADE["sink_tables"](sink)


@pytest.mark.parametrize("model", MADE["SECTIONS"].values(), ids=lambda model: model.__name__)
def test_every_key_of_hub_yaml_is_there_with_an_example_that_the_hub_takes(
    model: type[BaseModel], tmp_path: Path
) -> None:
    examples = MADE["EXAMPLES"][model]
    assert list(examples) == list(model.model_fields)
    for key, text in examples.items():
        assert f"`{key}: {text}`" in PAGES["hub-yaml-keys.md"]
        config = tmp_path / f"{key}.yaml"
        config.write_text(in_its_place(model.__name__, key, text), encoding="utf-8")
        assert load_settings(config).warnings == (), f"{key}: {text}"


def in_its_place(section: str, key: str, value: str) -> str:
    """A hub.yaml in which one key has this value, and the rest is as little as can be."""
    pair = f"{key}: {value}"
    models = "models: [{name: qwen3, group: big, command: [x]}]\n"
    groups = "groups: [{name: big}]\n"
    other = "" if key in ("name", "model_path") else ("model_path: x, " if key != "command" else "")
    control = ", ".join({"port": "port: 1024", "token_file": "token_file: t", key: pair}.values())
    return {
        "HubFile": f"{pair}\n" + ("" if key == "models" else "models: [{name: qwen3, command: [x]}]\n"),
        "ControlSettings": f"control: {{{control}}}\n{models}{groups}",
        "RotationSettings": f"log_rotation: {{{pair}}}\n{models}{groups}",
        "ModelSettings": "models: [{"
        + ("" if key == "name" else "name: qwen3, ")
        + (other or ("model_path: x, " if key == "name" else ""))
        + f"{pair}}}]\n{groups}",
        "RestartSettings": f"models: [{{name: qwen3, command: [x], restart: {{{pair}}}}}]\n",
        "HealthSettings": f'models: [{{name: qwen3, command: [x, "{{port}}"], health: {{{pair}}}}}]\n',
        "MemorySettings": f"models: [{{name: qwen3, command: [x], memory: {{{pair}}}}}]\n",
        "GroupSettings": "groups: [{" + ("" if key == "name" else "name: big, ") + f"{pair}}}]\n{models}",
        "DeliverySettings": f"sinks: {{loguru: {{delivery: {{{pair}}}}}}}\n{models}{groups}",
        "OnlySettings": f"sinks: {{loguru: {{delivery: {{only: {{{pair}}}}}}}}}\n{models}{groups}",
    }[section]


def test_the_fields_of_the_records_of_loguru_are_all_on_its_page() -> None:
    page = (ROOT / "docs" / "sinks" / "loguru.md").read_text(encoding="utf-8")
    bound: set[str] = set()

    class Logger:
        def bind(self, **fields: object) -> Logger:
            bound.update(fields)
            return self

        def __getattr__(self, _: str) -> Any:
            return lambda *_: None

    fake_hub(LoggingHubObservabilitySink(Logger()), FakeHub().day())  # type: ignore[arg-type]
    assert bound
    assert {field for field in bound if f"`{field}`" not in page} == set()


@pytest.mark.parametrize("name", testing.__all__)
def test_the_kit_is_in_the_api(name: str) -> None:
    assert re.search(rf"^::: mlxhub_core\.testing(\.\w+)?\.{name}$", PAGES["api.md"], re.MULTILINE)


# What is in the docs can be done.


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_a_hub_yaml(text: str, tmp_path: Path) -> None:
    """Those of other programs are not: of Prometheus, which has tests of its own."""
    document = yaml.safe_load(text)
    if not isinstance(document, dict) or not set(document) & {"models", "sinks", "log_path"}:
        pytest.skip("it is for another program")
    config = tmp_path / "hub.yaml"
    config.write_text(
        text if "models" in document else f"{text}\nmodels: [{{name: a, command: [x]}}]\n", encoding="utf-8"
    )
    load_settings(config)


@pytest.mark.parametrize("text", blocks("toml"))
def test_toml_is_toml(text: str) -> None:
    tomllib.loads(text)


@pytest.mark.parametrize("text", blocks("json"))
def test_json_is_json(text: str) -> None:
    json.loads(text)


@pytest.mark.parametrize("text", blocks("python"))
def test_python_compiles(text: str) -> None:
    """Those of the contract and of README are run by test_docs.py, as they need each other."""
    compile(text, "a block", "exec")


def test_the_example_of_the_loguru_page_writes_records_that_can_be_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loguru import logger

    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "sinks" / "loguru.md").read_text(encoding="utf-8")
    (text,) = [text for _, kind, text in FENCE.findall(page) if kind == "python"]
    before = set(logger._core.handlers)  # type: ignore[attr-defined]
    exec(compile(text, "loguru.md", "exec"), {})
    (added,) = set(logger._core.handlers) - before  # type: ignore[attr-defined]
    logger.bind(hub_model="qwen3-4b").info("mine")
    logger.bind(hub_model="other").info("not mine")
    logger.remove(added)
    (line,) = Path("hub.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["record"]["extra"] == {"hub_model": "qwen3-4b"}


def commands(text: str) -> Iterator[list[str]]:
    """What a block of shell runs, one program after the other."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), ";"]:
            if word in ("&&", "||", ";", "|", "&", ">", "$"):
                if words:
                    yield words
                words = []
                if word in (">", "$"):
                    words = ["a file"] if word == ">" else []
            elif words or not re.fullmatch(r"[A-Z_]+=.*", word):
                words.append(word)


@pytest.mark.parametrize("text", blocks("sh"))
def test_every_command_of_ours_in_the_docs_is_one_with_arguments_that_it_takes(text: str) -> None:
    for words in commands(text):
        if words[0] == "mlxhub":
            parse(words[1:])


def parse(words: list[str]) -> None:
    """Take a command line apart as the command does, and run nothing."""
    group: click.Command = cli
    context = click.Context(cli, info_name="mlxhub")
    while isinstance(group, click.Group) and words:
        name, found, words = group.resolve_command(context, words)
        assert found is not None
        group = found
        context = click.Context(group, info_name=name, parent=context)
    group.parse_args(click.Context(group, parent=context.parent, info_name=context.info_name), words)


def test_a_command_that_there_is_not_and_an_option_that_there_is_not_are_found() -> None:
    for wrong in ("mlxhub strat", "mlxhub status --jsn", "mlxhub sinks lst"):
        (words,) = commands(wrong)
        with pytest.raises(click.UsageError):
            parse(words[1:])


def test_a_link_leads_to_a_file_or_to_a_page_that_is_made() -> None:
    for path in WRITTEN:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            made = os.path.relpath(path.parent / target, ROOT / "docs") in {
                *PAGES,
                "sinks/prometheus.md",
                "sinks/statsd.md",
            }
            assert made or (path.parent / target).exists(), f"{PLACES[path]}: {target}"


@pytest.mark.skipif(not MKDOCS.exists(), reason="mkdocs is not installed")
@pytest.mark.sinks("prometheus", "statsd", "otlp")
def test_the_site_is_built_with_no_warning_and_has_every_page(tmp_path: Path) -> None:
    done = subprocess.run(
        [MKDOCS, "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    site = tmp_path / "site"
    for page in ("events", "hub-yaml-keys", "metrics", "api", "commands", "sinks/loguru", "sinks/statsd", "first-sink"):
        assert (site / page / "index.html").exists(), page
    api = (site / "api" / "index.html").read_text(encoding="utf-8")
    assert 'id="mlxhub_core.manager.HubManager.plan"' in api
    prometheus = (site / "sinks" / "prometheus" / "index.html").read_text(encoding="utf-8")
    assert "All options, as the code has them" in prometheus
    everything = [
        text for path in site.rglob("*.html") for text in re.findall(r'(?:src|href)="(https?:[^"]*)"', path.read_text())
    ]
    assert not [link for link in everything if re.search(r"fonts|cdn|unpkg|\.js$|\.css$", link)], (
        "nothing is loaded from others"
    )
