"""`mlxhub sd` and the control socket: where Prometheus finds the metrics of hubs; and `mlxhub sinks export`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxhub_core import HubManager
from mlxhub_core.control.client import ControlClient
from mlxhub_core.control.server import ControlServer
from mlxhub_core.control.wire import Connection
from mlxhub_core.place import place_of
from mlxhub_core.targets import targets_of
from mlxhub_core.testing import wait_until

MLXHUB = [sys.executable, "-m", "mlxhub_core"]


def mlxhub(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*MLXHUB, *arguments], capture_output=True, text=True, timeout=50, check=False)
    assert "Traceback" not in done.stderr
    return done


def config(directory: Path, name: str, **prometheus: Any) -> Path:
    path = directory / name / "hub.yaml"
    path.parent.mkdir()
    sinks = {"loguru": False, "prometheus": prometheus}
    path.write_text(
        json.dumps({"log_path": "logs", "sinks": sinks, "models": [{"name": "a", "command": ["sleep", "1000"]}]})
    )
    return path


def addresses(targets: list[dict[str, Any]]) -> list[str]:
    return [address for target in targets for address in target["targets"]]


# What is made of a place.


@pytest.mark.parametrize(
    ("where", "address", "scheme", "path"),
    [
        ("http://127.0.0.1:9464/metrics", "127.0.0.1:9464", "http", "/metrics"),
        ("https://hub.example:1/x/metrics", "hub.example:1", "https", "/x/metrics"),
        ("http://[::1]:9464/metrics", "[::1]:9464", "http", "/metrics"),
        ("http://0.0.0.0:9464/metrics", "studio:9464", "http", "/metrics"),
        ("http://[::]:9464/metrics", "studio:9464", "http", "/metrics"),
    ],
)
def test_a_target_is_what_prometheus_needs_to_scrape_it(where: str, address: str, scheme: str, path: str) -> None:
    (target,) = targets_of([("prometheus/eu", where)], "/etc/hub.yaml", "studio", {"site": "berlin"})
    assert target == {
        "targets": [address],
        "labels": {
            "__scheme__": scheme,
            "__metrics_path__": path,
            "__meta_mlxhub_config": "/etc/hub.yaml",
            "__meta_mlxhub_sink": "prometheus/eu",
            "site": "berlin",
        },
    }


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("statsd", "http://127.0.0.1:1/metrics"),
        ("prometheus", None),
        ("prometheus", "/var/lib/mlxhub.prom"),
        ("webhook/prometheus", "https://hooks.example/x"),
    ],
)
def test_what_is_not_scraped_is_no_target(key: str, where: str | None) -> None:
    assert targets_of([(key, where)], "hub.yaml", "studio") == []


def test_a_sink_of_a_package_that_is_named_is_one_too() -> None:
    targets = targets_of([("mlxhub-prom-sink:prometheus/eu", "http://h:1/metrics")], "hub.yaml", "studio")
    assert addresses(targets) == ["h:1"]


# Hubs that run, and hubs that do not.


@pytest.mark.sinks("prometheus")
def test_hubs_that_run_say_their_real_port_and_others_are_listed_as_hub_yaml_has_them(tmp_path: Path) -> None:
    running = config(tmp_path, "running", listen="127.0.0.1:0")
    down = config(tmp_path, "down", listen="127.0.0.1:4711")
    unknown = config(tmp_path, "unknown", listen="127.0.0.1:0")
    with HubManager(running) as hub:
        hub.reload()
        wait_until(lambda: hub.sink_stats()[0].open)
        control = ControlServer(hub, place_of(running), lambda _keep: None)
        control.start()
        status = mlxhub("sinks", "status", "-c", running)
        done = mlxhub("sd", "-c", running, "-c", down, "-c", unknown, "--label", "site=berlin")
        control.close()
        where = str(hub.sink_stats()[0].where)
    assert status.stdout.splitlines()[-1] == f"prometheus is at {where}"
    assert (done.returncode, done.stderr) == (0, "")
    targets = json.loads(done.stdout)
    assert addresses(targets) == [where.split("/")[2], "127.0.0.1:4711"]
    assert {target["labels"]["site"] for target in targets} == {"berlin"}
    assert targets[1]["labels"]["__meta_mlxhub_config"] == str(down)


def test_without_any_there_is_an_empty_list(tmp_path: Path) -> None:
    path = tmp_path / "hub.yaml"
    path.write_text("models: [{name: a, command: [x]}]\n")
    done = mlxhub("sd", "-c", path)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def ask(client: ControlClient) -> tuple[int, bytes]:
    with Connection(client.socket, 5.0) as connection:
        return connection.ask("GET", "/hub/sd"), connection.body()


@pytest.mark.parametrize("label", ["site", "a-b=c", "=x"])
def test_a_label_that_is_none_is_refused(label: str) -> None:
    done = mlxhub("sd", "--label", label)
    assert done.returncode == 2
    assert "--label must be NAME=VALUE" in done.stderr


@pytest.mark.sinks("prometheus")
def test_a_hub_serves_the_same_in_the_form_that_prometheus_asks_for(tmp_path: Path) -> None:
    path = config(tmp_path, "one", listen="127.0.0.1:0")
    # Prometheus itself wants JSON by its content type: it is asked in plugins/prom_sink/tests/test_prometheus.py.
    with HubManager(path) as hub:
        control = ControlServer(hub, place_of(path), lambda _keep: None)
        control.start()
        client = ControlClient(path)
        assert ask(client) == (200, b"[]")
        hub.reload()
        wait_until(lambda: hub.sink_stats()[0].open)
        status, body = ask(client)
        control.close()
        assert status == 200
        assert addresses(json.loads(body)) == [str(hub.sink_stats()[0].where).split("/")[2]]


# What a sink brings.


@pytest.mark.parametrize(
    ("kind", "message"),
    [("loguru", "mlxhub-core 0.1.0 brings no files"), ("nosuch", "no installed sink is called 'nosuch'")],
)
def test_what_has_nothing_to_export_is_told(tmp_path: Path, kind: str, message: str) -> None:
    done = mlxhub("sinks", "export", kind, tmp_path / "new")
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.sinks("prometheus")
def test_a_directory_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = mlxhub("sinks", "export", "prometheus", tmp_path / "file" / "new")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot be written to (Not a directory); name another" in done.stderr
