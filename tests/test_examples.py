"""The examples: each is installed, passes what is asked of it, and is told by a hub what happens."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import tomllib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlxhub_core.testing import wait_until

if TYPE_CHECKING:
    from conftest import Home

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/pyproject.toml"))

SEED = """
class MetricsSink(HubObservabilitySink):
    def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None:
        metrics.counter("hub_model_started", {"model": ctx.name, "group": ctx.group}).inc()

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        metrics.counter("hub_model_stopped", {"model": ctx.name}).inc()

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        metrics.counter("hub_model_failed", {"model": ctx.name, "exit_code": exit_code}).inc()
"""
"""The class as the seed document has it, to the letter."""

HUB_YAML = """\
log_path: logs
sinks:
  metrics:
  minimal: {greeting: dear me}
  sqlite: {path: events.db}
models:
  - {name: well, default: true, command: [sh, -c, 'exit 0']}
  - {name: ill, default: true, group: weak, restart: never, command: [sh, -c, 'exit 3']}
"""


HUB = """
import sys
from mlxhub_core import HubManager
with HubManager("hub.yaml") as hub:
    hub.reload()
    sys.stdin.read()
"""


def test_the_sink_of_the_seed_is_there_to_the_letter() -> None:
    text = (EXAMPLES / "metrics_sink" / "mlxhub_metrics_sink.py").read_text(encoding="utf-8")
    assert text.endswith(SEED)
    assert "from mlxhub_core.observability import HubModelContext, HubObservabilitySink\n" in text


def test_the_minimal_one_is_two_files_and_less_than_25_lines() -> None:
    files = [path for path in (EXAMPLES / "minimal_sink").iterdir() if path.is_file()]
    assert len(files) == 2
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    assert len([line for line in lines if line and not line.lstrip().startswith(("#", '"""'))]) < 25


@pytest.mark.parametrize("name", NAMES)
def test_each_is_in_the_list_and_named_after_its_folder(name: str) -> None:
    project = tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == f"mlxhub-{name.replace('_', '-')}"
    assert f"[{name}]" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


@pytest.mark.install
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name in NAMES if (EXAMPLES / name / "tests").is_dir()])
def test_each_passes_its_own_tests_where_it_is_installed(name: str, home: Home, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / name / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for page in (EXAMPLES / name).glob("*.*"):
        if page.is_file() and page.suffix != ".py":
            shutil.copy(page, tmp_path)
    done = subprocess.run(
        [home.bin / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env=home.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.install
@pytest.mark.timeout(300)
def test_each_is_told_by_a_hub_what_happens(home: Home, tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text(HUB_YAML)
    hub = subprocess.Popen(
        [home.bin / "python", "-c", HUB],
        cwd=tmp_path,
        env=home.env,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: 'exit_code="3"' in read(tmp_path / "hub.prom") and "stopped" in read(tmp_path / "hub.prom"))
        wait_until(lambda: len(rows(tmp_path / "events.db")) == 2)
    finally:
        _, said = hub.communicate(timeout=60)  # which ends what it reads
        print(said)  # pytest shows it when something is missing
    assert hub.returncode == 0
    assert 'hub_model_started_total{group="weak",model="ill"} 1.0' in read(tmp_path / "hub.prom")
    assert 'hub_model_failed_total{exit_code="3",model="ill"} 1.0' in read(tmp_path / "hub.prom")
    assert 'hub_model_stopped_total{model="well"} 1.0' in read(tmp_path / "hub.prom")
    assert f"dear me: ill ended with 3; see {tmp_path}/logs/ill.log" in said.splitlines()
    assert sorted(rows(tmp_path / "events.db")) == [
        ("ill", "weak", '{"exit_code": 3}'),
        ("well", None, '{"exit_code": 0}'),
    ]


@pytest.mark.install
@pytest.mark.timeout(300)
def test_the_question_in_the_readme_is_answered_by_the_database(home: Home, tmp_path: Path) -> None:
    subprocess.run([home.bin / "mlxhub", "sinks", "test", "sqlite"], cwd=tmp_path, env=home.env, check=True)
    readme = (EXAMPLES / "sqlite_sink" / "README.md").read_text(encoding="utf-8")
    (query,) = re.findall(r"```sql\n(.*?)```", readme, re.DOTALL)
    assert sorted(ask(tmp_path / "mlxhub-events.db", query)) == [("mlxhub-test", -9, 1), ("mlxhub-test", 3, 1)]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def rows(path: Path) -> list[tuple[object, ...]]:
    """The ends of processes; none, as long as there is no table."""
    try:
        return ask(
            path, "SELECT model, model_group, arguments FROM events WHERE hook IN ('model_failed', 'model_stopped')"
        )
    except sqlite3.OperationalError:
        return []


def ask(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(query).fetchall()
