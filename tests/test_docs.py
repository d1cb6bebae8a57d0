"""README and docs say what the code does."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from mlxhub_core import errors, events
from mlxhub_core.cli import cli
from mlxhub_core.cli.demo import HUB_YAML
from mlxhub_core.control.operations import COMMON, OPERATIONS
from mlxhub_core.discovery import PACKAGES
from mlxhub_core.fanout import Fanout
from mlxhub_core.hooks import hooks_of
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.options import check_options
from mlxhub_core.settings import (
    ControlSettings,
    DeliverySettings,
    GroupSettings,
    HealthSettings,
    MemorySettings,
    ModelSettings,
    OnlySettings,
    RestartSettings,
    load_settings,
)
from mlxhub_core.settings.kinds import MAX_SECONDS
from mlxhub_core.settings.schema import HubFile

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
HUB_YAML_DOC = (ROOT / "docs" / "hub-yaml.md").read_text(encoding="utf-8")
SINK_DOC = (ROOT / "docs" / "writing-a-sink.md").read_text(encoding="utf-8")
API_DOC = (ROOT / "docs" / "control-api.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.mlx
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_first_block_of_the_readme_runs_and_shows_what_it_says() -> None:
    done = subprocess.run(
        ["/bin/sh", "-ec", blocks(README, "sh")[0]],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        # Not what this very test runs under.
        env={key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "PYTEST"))},
    )
    assert done.returncode == 0, done.stdout
    for words in (
        "alpha was asked «Hello, who is there?» and said: mlxhub!",
        "beta was asked «Hello, who is there?» and said: works.",
        "alpha failed (SIGKILL)",
        "alpha restarts in",
        "alpha is ready after",
    ):
        assert words in README, "README shows something else than the demo prints"
        assert words in done.stdout
    assert done.stdout.count("said: mlxhub!") == 2


@pytest.mark.parametrize(
    ("model", "heading"),
    [
        (HubFile, "The top of the file"),
        (ControlSettings, "control"),
        (ModelSettings, "models"),
        (RestartSettings, "restart"),
        (HealthSettings, "health"),
        (MemorySettings, "memory"),
        (GroupSettings, "groups"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.__name__,
)
def test_every_key_of_hub_yaml_is_documented_with_its_default(model: type[BaseModel], heading: str) -> None:
    _, _, section = HUB_YAML_DOC.partition(f"# {heading}\n")
    table = [line for line in section.partition("\n#")[0].splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in table] == list(model.model_fields), "a row for each key, in their order"
    for row, (key, field) in zip(table, model.model_fields.items(), strict=True):
        default = field.default
        if isinstance(default, str | bool | int | float) and default not in (None, False):
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            assert f"| `{key}` | `{shown}` |" in row, f"the default of {key} is {shown}: {row}"
        if any(getattr(bound, "le", None) == MAX_SECONDS for bound in field.metadata):
            assert "seconds" in row, f"{key} has a unit: {row}"


@pytest.mark.parametrize(("hook", "arguments"), HOOKS.items())
def test_every_hook_is_documented_with_its_arguments(hook: str, arguments: tuple[str, ...]) -> None:
    assert f"| `{hook}` | {', '.join(f'`{name}`' for name in arguments)} |" in SINK_DOC


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(events.HubEvent)])
def test_every_field_of_the_envelope_is_documented(field: str) -> None:
    assert f"| `{field}` |" in SINK_DOC


@pytest.mark.parametrize("reason", list(events.Reason))
def test_every_reason_is_documented(reason: str) -> None:
    assert f"`{reason}`" in SINK_DOC


def test_every_question_of_the_control_api_is_documented_with_its_parameters_and_what_may_go_wrong() -> None:
    rows = {line.split("`")[1]: line for line in API_DOC.splitlines() if line.startswith("| `")}
    assert [row for row in rows if row.startswith(("GET", "POST"))] == [each.route for each in OPERATIONS]
    for operation in OPERATIONS:
        for parameter in operation.parameters:
            assert f"`{parameter.name}`" in rows[operation.route] or f"`{parameter.name}=" in rows[operation.route]
    statuses = {int(status) for status in re.findall(r"^\| (\d{3}) \|", API_DOC, re.MULTILINE)}
    assert statuses == {405, *COMMON, *(status for operation in OPERATIONS for status in operation.errors)}


@pytest.mark.parametrize("command", sorted(cli.list_commands(None)))  # type: ignore[arg-type]
def test_every_command_is_in_the_readme(command: str) -> None:
    assert f"| `mlxhub {command}` |" in README


@pytest.mark.parametrize("sink", sorted(PACKAGES))
def test_every_sink_of_ours_is_in_the_readme(sink: str) -> None:
    assert f"| `{sink}` |" in README


def test_every_file_has_its_line_in_the_architecture() -> None:
    package = ROOT / "mlxhub_core"
    rooms = {path.name for path in package.glob("*.py")} | {
        f"{path.parent.name}/" for path in package.glob("*/__init__.py")
    }
    assert {room for room in rooms - {"__init__.py", "__main__.py"} if f"`{room}`" not in ARCHITECTURE} == set()


def test_the_hub_yaml_of_the_readme_and_of_the_demo_are_right(tmp_path: Path) -> None:
    config = tmp_path / "hub.yaml"
    for text in (blocks(README, "yaml")[0], HUB_YAML):
        config.write_text(text, encoding="utf-8")
        assert load_settings(config).warnings == ()
    sinks = [*blocks(README, "yaml")[1:], *blocks(HUB_YAML_DOC, "yaml"), *blocks(SINK_DOC, "yaml")]
    for text in sinks:
        config.write_text(text + "models: [{name: a, command: [x]}]\n", encoding="utf-8")
        load_settings(config)


def test_the_sinks_in_the_docs_can_be_what_they_say() -> None:
    names: dict[str, Any] = {}
    for text in blocks(SINK_DOC, "python"):
        exec(compile(text, "writing-a-sink.md", "exec", dont_inherit=True), names)
    options = yaml.safe_load(next(text for text in blocks(SINK_DOC, "yaml") if "acme:" in text))["sinks"]["acme"]
    arguments, findings = check_options(names["AcmeSink"], options | {"token": "given here"}, ROOT)
    assert findings == []
    assert hooks_of(names["AcmeSink"](**arguments)).keys() == {"model_failed"}
    assert hooks_of(names["PrintSink"]()).keys() == {"model_failed"}
    fanout = Fanout(print)
    fanout.register(counter := names["Counter"]())
    fanout.publish("model_failed", {"ctx": None, "exit_code": 1, "event": None})
    assert counter.failures == 1


@pytest.mark.parametrize("model", [DeliverySettings, OnlySettings])
def test_every_key_of_delivery_is_documented_with_its_default(model: type[BaseModel]) -> None:
    for name, key in model.model_fields.items():
        default = f"`{str(key.default).lower()}`"
        shown = "all" if model is OnlySettings or name == "only" else default
        assert f"| `{name}` | {shown} |" in HUB_YAML_DOC


def test_the_program_in_the_readme_runs(tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text(
        "log_path: logs\nmodels:\n"
        "  - {name: a, default: true, command: [sleep, '60']}\n"
        "  - {name: b, default: true, command: [no-such-program]}\n"
    )
    (program,) = blocks(README, "python")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    # Two threads print, so that what one prints may stand between two words of the other.
    assert done.stdout.count("()") == 2
    assert "{'b': LaunchError" in done.stdout
    assert "b died with None; see" in done.stdout


def test_the_tree_of_errors_is_drawn_in_full() -> None:
    classes = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
    assert [error.__name__ for error in classes if error.__name__ not in (errors.__doc__ or "")] == []


def test_links_in_the_docs_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("plugins/*/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_ratios_of_the_readme_are_those_that_were_measured() -> None:
    quoted = re.findall(r"<!-- from bench/RESULTS.md -->\n(.*?)<!-- end -->", README, re.DOTALL)[0].splitlines()
    results = (ROOT / "bench" / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    assert len(quoted) == 3
    assert [line for line in quoted if line not in results] == []
