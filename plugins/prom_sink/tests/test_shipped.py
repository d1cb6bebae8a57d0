"""What is shipped for Prometheus and Grafana, tried with promtool and jsonnet, and compared with the metrics there are."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlxhub_prom_sink import PrometheusSink
from mlxhub_prom_sink.collector import ERRORS
from mlxhub_prom_sink.export import SHIPPED, export, shipped
from mlxhub_prom_sink.sink import LISTEN
from prometheus_client import generate_latest

from mlxhub_core.metrics import CATALOGUE, Kind, Metric, prometheus_name
from mlxhub_core.metrics.usage import UsageMeter
from mlxhub_core.testing.day import FakeHub

HERE = Path(__file__).parent
README = (HERE.parent / "README.md").read_text(encoding="utf-8")
NAME = re.compile(r"\bmlxhub_[a-z_]+")
ALL = (*CATALOGUE, ERRORS)

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
needs_jsonnet = pytest.mark.skipif(shutil.which("jsonnet") is None, reason="jsonnet is not installed")


def run(*command: str | Path, cwd: Path | None = None, stdin: bytes | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=50
    )
    output = done.stdout.decode()
    assert done.returncode == 0, output
    return output


def page() -> bytes:
    """What a hub shows after a day in which all kinds of things happened to a model."""
    sink = PrometheusSink()
    from mlxhub_prom_sink.pages import registry_of

    hub = FakeHub()
    for hook, arguments in hub.day():
        getattr(sink, hook)(**arguments)
        if hook == "model_ready":
            sink.set_usage(UsageMeter().measure(hub.status()))
    return generate_latest(registry_of(sink, "mlxhub", created=False))


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    export(tmp_path)
    return tmp_path


@needs_promtool
def test_promtool_finds_nothing_to_say_about_the_metrics() -> None:
    assert run("promtool", "check", "metrics", stdin=page()) == ""


@needs_promtool
@pytest.mark.parametrize("name", [name for name in SHIPPED if name.endswith(".yaml")])
def test_promtool_takes_the_rules(exported: Path, name: str) -> None:
    assert "SUCCESS" in run("promtool", "check", "rules", "--lint=all", "--lint-fatal", exported / name)


@needs_promtool
def test_the_alerts_fire_and_resolve_when_they_should(exported: Path) -> None:
    shutil.copy(HERE / "alerts_test.yaml", exported)
    assert "SUCCESS" in run("promtool", "test", "rules", "alerts_test.yaml", cwd=exported)


def test_every_alert_has_its_case() -> None:
    cases = yaml.safe_load((HERE / "alerts_test.yaml").read_text())["tests"]
    fired = {t["alertname"] for case in cases for t in case.get("alert_rule_test", ()) if t.get("exp_alerts")}
    (group,) = yaml.safe_load(shipped("alerts.yaml"))["groups"]
    assert fired == {rule["alert"] for rule in group["rules"]}
    assert len(fired) == 8


@pytest.mark.parametrize("name", SHIPPED)
def test_every_metric_that_is_used_is_shown(name: str) -> None:
    shown = set(re.findall(r"^# TYPE (\S+)", page().decode(), re.MULTILINE))
    recorded = set(re.findall(r"record: \S*:(mlxhub_[a-z_]+)", shipped(name)))
    used = {re.sub(r"_bucket$", "", found) for found in NAME.findall(shipped(name))} - recorded - {"mlxhub_config"}
    assert used <= shown


def test_every_metric_of_the_catalogue_is_shown_and_no_other() -> None:
    shown = dict(re.findall(r"^# TYPE (\S+) (\w+)", page().decode(), re.MULTILINE))
    kinds = {prometheus_name(m): "gauge" if m.kind is Kind.INFO else m.kind.value for m in ALL}
    # The first day has no sink to tell of; its families are there all the same.
    assert shown == kinds


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.stem)
def test_every_metric_is_documented_with_its_kind_and_labels(metric: Metric) -> None:
    labels = [label for label in metric.labels if label not in ("model", "group")]
    if "model" not in metric.labels and labels != ["sink"]:
        labels = list(metric.labels)
    row = f"| `{prometheus_name(metric)}` | {metric.kind.value} | {', '.join(f'`{label}`' for label in labels)}"
    assert row in README, row


def test_the_documentation_names_no_other_metric() -> None:
    known = {prometheus_name(metric) for metric in ALL}
    written = {re.sub(r"_(bucket|count|sum)$", "", name) for name in NAME.findall(README)}
    assert written - {"mlxhub_prom_sink"} <= known


@pytest.mark.parametrize("alert", re.findall(r"alert: (\w+)", shipped("alerts.yaml")))
def test_every_alert_is_documented(alert: str) -> None:
    assert f"| `{alert}` |" in README


# The dashboard.


def panels() -> Iterator[dict[str, Any]]:
    for panel in json.loads(shipped("dashboard.json"))["panels"]:
        if panel["type"] != "row":
            yield panel


def test_the_dashboard_has_its_rows_and_no_panel_lies_over_another() -> None:
    dashboard = json.loads(shipped("dashboard.json"))
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == ["Overview", "Lifecycle", "Start duration", "Processes", "Sinks"]
    assert [v["name"] for v in dashboard["templating"]["list"]] == ["datasource", "job", "instance", "model"]
    cells = [
        (x, y)
        for p in dashboard["panels"]
        for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
        for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({p["id"] for p in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(panel["targets"] for panel in panels())


# Getting it out.


def test_it_is_written_by_the_package_and_by_mlxhub(tmp_path: Path) -> None:
    for command in (["-m", "mlxhub_prom_sink", "export"], ["-m", "mlxhub_core", "sinks", "export", "prometheus"]):
        directory = tmp_path / command[1] / "new"
        output = run(sys.executable, *command, directory)
        assert output.split() == [str(directory / name) for name in SHIPPED]
        assert {path.name: path.read_text() for path in directory.iterdir()} == {n: shipped(n) for n in SHIPPED}


def test_another_namespace_and_another_job_are_put_in(tmp_path: Path) -> None:
    run(sys.executable, "-m", "mlxhub_prom_sink", "export", tmp_path, "--namespace", "hub", "--job", "llm")
    alerts = (tmp_path / "alerts.yaml").read_text()
    assert 'up{job="llm"}' in alerts
    assert "hub_model_restarts_total" in alerts
    for name in ("alerts.yaml", "rules.yaml", "dashboard.json"):
        assert not re.search(r"\bmlxhub_(?=[a-z])", (tmp_path / name).read_text())


def test_a_directory_that_cannot_be_written_to_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "mlxhub_prom_sink", "export", str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot be written to (File exists)" in done.stderr


@needs_jsonnet
def test_the_mixin_is_the_same_with_the_selector_of_its_user(exported: Path) -> None:
    code = "(import 'mixin.libsonnet') + {_config+:: {mlxhubSelector: 'job=\"llm\"'}}"
    show = f"local m = {code}; [m.prometheusAlerts, m.prometheusRules, m.grafanaDashboards['mlxhub.json']]"
    alerts, rules, dashboard = json.loads(run("jsonnet", "-e", show, cwd=exported))
    assert alerts == yaml.safe_load(shipped("alerts.yaml").replace('job="mlxhub"', 'job="llm"'))
    assert rules == yaml.safe_load(shipped("rules.yaml"))
    assert dashboard == json.loads(shipped("dashboard.json"))


def test_every_option_is_documented_with_its_default() -> None:
    for name, parameter in inspect.signature(PrometheusSink).parameters.items():
        default = {None: "none", True: "`true`"}.get(parameter.default, f"`{parameter.default}`")
        if name == "listen":
            default = f"`{LISTEN}`"
        if isinstance(parameter.default, float):
            default = f"`{parameter.default:g}`"
        assert f"| `{name}` | {default} |" in README
