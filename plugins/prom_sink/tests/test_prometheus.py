"""The sink, the alerts and the dashboard on a real Prometheus and a real Alertmanager, which tells a real webhook.

The alerts are those that are shipped, but for their minutes, which are seconds here. One stack serves all tests: a hub with
a model of the real `mlx_lm server` and others that misbehave, and what Prometheus made of it.
"""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlxhub_prom_sink.export import shipped

from mlxhub_core import HubEvent, HubManager, HubModelContext, ModelState
from mlxhub_core.control.server import ControlServer
from mlxhub_core.place import place_of
from mlxhub_core.testing import FAKE_SERVER, wait_until
from mlxhub_core.testing.tiny_model import write_tiny_model

PYTHON = [sys.executable, "-I", "-S", "-c"]
PATIENCE = 60.0
"""Seconds: the machine may be busy, and the first start of mlx-lm reads some 300 MB."""

pytestmark = [
    pytest.mark.mlx,
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
    pytest.mark.skipif(
        shutil.which("prometheus-alertmanager") is None, reason="prometheus-alertmanager is not installed"
    ),
    pytest.mark.skipif(importlib.util.find_spec("mlx_lm") is None, reason="mlx-lm is not installed"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Webhook:
    """Keeps the alerts that Alertmanager sends."""

    def __init__(self) -> None:
        told: list[dict[str, Any]] = []
        self.told = told

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_args: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def wait_for(self, alert: str, status: str, **labels: str) -> dict[str, Any]:
        """Wait until an alert with these labels is told to be ``firing`` or ``resolved``."""

        def found() -> list[dict[str, Any]]:
            wanted = {"alertname": alert, **labels}.items()
            return [a for a in list(self.told) if a["status"] == status and wanted <= a["labels"].items()]

        wait_until(lambda: bool(found()), timeout=PATIENCE)
        return found()[-1]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Prometheus:
    """Its API."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._base}{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, text: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("query", query=text)["result"]
        return found

    def answers(self, text: str) -> bool:
        try:
            return bool(self.query(text))
        except OSError:
            return False  # It is not there yet.


class Slow:
    """A sink that holds its events up for as long as it is told to."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def model_restarting(self, ctx: HubModelContext, *, attempt: int) -> None:
        self.gate.wait()


class Bridge:
    """HTTP from a TCP port to the control socket of a hub, as a reverse proxy would offer it to Prometheus."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.socket(socket.AF_UNIX) as hub:
                request = client.recv(65536).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
                hub.connect(str(self._path))
                hub.sendall(request)
                while data := hub.recv(65536):
                    client.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


class Stack:
    """All of it, running."""

    def __init__(self, directory: Path, held: ExitStack) -> None:
        self.directory = directory
        self.webhook = Webhook()
        held.callback(self.webhook.close)
        self.slow = Slow()
        held.callback(self.slow.gate.set)
        self.hub = held.enter_context(self._hub())
        self._held = held
        self.prometheus = Prometheus(self._run())

    def _hub(self) -> HubManager:
        write_tiny_model(self.directory / "tiny")
        self.looping = self.directory / "loops"
        self.looping.touch()
        loop = f"import os, signal; os.path.exists({str(self.looping)!r}) and os._exit(3); signal.pause()"
        deaf = [
            sys.executable,
            "-I",
            "-S",
            FAKE_SERVER,
            "--port",
            "{port}",
            "--load-seconds",
            "9999",
            "--unready-status",
            "503",
        ]
        models = [
            {
                "name": "tiny",
                "model_path": "tiny",
                "group": "real",
                "default": True,
                "restart": {"delay": 1},
                "health": {"interval": 1},
            },
            {
                "name": "loop",
                "command": [*PYTHON, loop],
                "default": True,
                "restart": {"delay": 0.5, "factor": 1, "max_failures": 10000},
            },
            {"name": "deaf", "command": deaf, "default": True},
            {"name": "down", "command": [*PYTHON, "raise SystemExit(7)"], "restart": "never"},
            {"name": "idle", "command": [*PYTHON, "0"]},
        ]
        self.port = free_port()
        sinks = {"loguru": False, "prometheus": {"listen": f"127.0.0.1:{self.port}", "process_interval": 0.5}}
        config = {"log_path": "logs", "sinks": sinks, "models": models}
        (self.directory / "hub.yaml").write_text(json.dumps(config))
        hub = HubManager(self.directory / "hub.yaml", observability_sink=self.slow)
        hub.reload()
        return hub

    def _run(self) -> int:
        alertmanager, port = free_port(), free_port()
        (self.directory / "alerts.yaml").write_text(in_seconds(shipped("alerts.yaml")))
        for name in ("rules.yaml", "compat-seed-rules.yaml"):
            (self.directory / name).write_text(in_seconds(shipped(name)))
        self._write("alertmanager.yml", route(self.webhook.url))
        self._write(
            "prometheus.yml",
            {
                "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
                "rule_files": ["alerts.yaml", "rules.yaml", "compat-seed-rules.yaml"],
                "scrape_configs": [
                    {"job_name": "mlxhub", "static_configs": [{"targets": [f"127.0.0.1:{self.port}"]}]},
                    {"job_name": "found", "http_sd_configs": [{"url": self._discovery(), "refresh_interval": "1s"}]},
                ],
                "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
            },
        )
        self._start(
            "prometheus-alertmanager",
            "--config.file=alertmanager.yml",
            "--storage.path=am",
            f"--web.listen-address=127.0.0.1:{alertmanager}",
            "--cluster.listen-address=",
        )
        self._start(
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=tsdb",
            f"--web.listen-address=127.0.0.1:{port}",
            "--rules.alert.resend-delay=1s",
        )
        return port

    def _discovery(self) -> str:
        place = place_of(self.directory / "hub.yaml")
        control = ControlServer(self.hub, place, lambda _keep: None)
        control.start()
        self._held.callback(control.close)
        bridge = Bridge(place.socket)
        self._held.callback(bridge.close)
        return f"http://127.0.0.1:{bridge.port}/hub/sd"

    def _write(self, name: str, content: dict[str, Any]) -> None:
        (self.directory / name).write_text(yaml.safe_dump(content))

    def _start(self, *command: str) -> None:
        log = self._held.enter_context((self.directory / f"{command[0]}.log").open("wb"))
        process = subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=log)
        self._held.callback(process.wait)
        self._held.callback(process.kill)

    def state(self, name: str) -> ModelState:
        return next(model.state for model in self.hub.get_status() if model.name == name)


def in_seconds(rules: str) -> str:
    """Rules in which each minute is a second."""
    return re.sub(r"\b(\d+)h\b", r"\1m", re.sub(r"\b(\d+)m\b", r"\1s", rules)).replace("< 300", "< 5")


def route(url: str) -> dict[str, Any]:
    soon = {"group_wait": "100ms", "group_interval": "500ms", "repeat_interval": "1h", "group_by": ["..."]}
    receiver = {"name": "test", "webhook_configs": [{"url": url, "send_resolved": True}]}
    return {"route": {"receiver": "test", **soon}, "receivers": [receiver]}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with ExitStack() as held:
        yield Stack(tmp_path_factory.mktemp("live"), held)


def test_a_model_of_mlx_lm_is_scraped(stack: Stack) -> None:
    ready = 'mlxhub_model_ready{job="mlxhub",model="tiny",group="real"} == 1'
    wait_until(lambda: stack.prometheus.answers(ready), timeout=PATIENCE)
    (memory,) = stack.prometheus.query('mlxhub_model_process_resident_memory_bytes{job="mlxhub",model="tiny"}')
    assert float(memory["value"][1]) > 50e6
    (info,) = stack.prometheus.query('mlxhub_model_info{job="mlxhub",model="tiny"}')
    assert (info["metric"]["backend"], info["metric"]["source"]) == ("mlx_lm", "tiny")
    (duration,) = stack.prometheus.query('mlxhub_model_start_duration_seconds_sum{job="mlxhub",model="tiny"}')
    assert float(duration["value"][1]) > 0.1
    (target,) = [t for t in stack.prometheus.ask("targets")["activeTargets"] if t["scrapePool"] == "mlxhub"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_a_kill_reaches_the_webhook_with_its_exit_code_and_resolves(stack: Stack) -> None:
    wait_until(lambda: stack.state("tiny") is ModelState.READY, timeout=PATIENCE)
    wait_until(lambda: stack.prometheus.answers('mlxhub_model_ready{model="tiny"} == 1'), timeout=PATIENCE)
    pid = next(model.pid for model in stack.hub.get_status() if model.name == "tiny")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    alert = stack.webhook.wait_for("MlxhubModelCrashed", "firing", model="tiny", job="mlxhub", group="real")
    assert "exit code -9." in alert["annotations"]["description"]
    assert alert["annotations"]["summary"] == f"tiny at 127.0.0.1:{stack.port} has failed."
    stack.webhook.wait_for("MlxhubModelCrashed", "resolved", model="tiny", job="mlxhub")
    # The pair that the alert is made to escape: the counter was born at 1.
    born = 'mlxhub_model_failed_total{model="tiny",exit_code="-9",job="mlxhub"}'
    assert [float(found["value"][1]) for found in stack.prometheus.query(born)] == [1.0]
    assert [float(found["value"][1]) for found in stack.prometheus.query(f"increase({born}[10m])")] == [0.0]


def test_what_goes_wrong_fires_with_the_right_labels(stack: Stack) -> None:
    stack.hub.start_model("down")
    stack.webhook.wait_for("MlxhubModelCrashLooping", "firing", model="loop", job="mlxhub")
    stack.webhook.wait_for("MlxhubModelNotReady", "firing", model="deaf", job="mlxhub")
    stack.webhook.wait_for("MlxhubModelFailed", "firing", model="down", job="mlxhub")


def test_a_sink_that_drops_fires_and_resolves(stack: Stack) -> None:
    # Its queue is full as soon as the looping model has failed often enough; here by events of our own, which is quicker.
    (slow,) = [s for s in stack.hub.sink_stats() if s.name == "observability_sink"]
    relay = stack.hub._fanout._relays["observability_sink"].runner
    wait_until(lambda: stack.prometheus.answers('mlxhub_sink_events_dropped_total{sink="observability_sink"}'))
    for seq in range(slow.queue_capacity + 50):
        event = HubEvent(seq=seq, id="0", time=0.0)
        relay.offer("model_restarting", {"ctx": HubModelContext("x", None, ""), "attempt": 1, "event": event})
    stack.webhook.wait_for("MlxhubSinkDropping", "firing", sink="observability_sink", job="mlxhub")
    stack.slow.gate.set()
    stack.webhook.wait_for("MlxhubSinkDropping", "resolved", sink="observability_sink", job="mlxhub")


def dashboard_queries() -> Iterator[tuple[str, str]]:
    for panel in json.loads(shipped("dashboard.json"))["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]


@pytest.mark.parametrize(("name", "expression"), list(dashboard_queries()), ids=lambda value: str(value)[:30])
def test_every_query_of_the_dashboard_has_data(stack: Stack, name: str, expression: str) -> None:
    for variable, value in (
        ("$__rate_interval", "5s"),
        ("[1h]", "[1m]"),
        ("$job", "mlxhub"),
        ("$instance", ".*"),
        ("$model", ".*"),
    ):
        expression = expression.replace(variable, value)
    assert "$" not in expression
    wait_until(lambda: stack.prometheus.answers(expression), timeout=PATIENCE)


def test_recording_rules_have_data(stack: Stack) -> None:
    for name in re.findall(r"record: (\S+)", shipped("rules.yaml") + shipped("compat-seed-rules.yaml")):
        wait_until(lambda name=name: stack.prometheus.answers(name), timeout=PATIENCE)  # type: ignore[misc]
    groups = stack.prometheus.ask("rules")["groups"]
    assert [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")] == []


def test_prometheus_finds_the_hub_by_its_service_discovery(stack: Stack) -> None:
    wait_until(lambda: stack.prometheus.answers(f'up{{job="found",instance="127.0.0.1:{stack.port}"}} == 1'))


def test_what_has_been_mended_resolves(stack: Stack) -> None:
    stack.webhook.wait_for("MlxhubModelCrashLooping", "firing", model="loop", job="mlxhub")
    stack.webhook.wait_for("MlxhubModelNotReady", "firing", model="deaf", job="mlxhub")
    stack.looping.unlink()
    stack.hub.stop_model("deaf")
    stack.webhook.wait_for("MlxhubModelNotReady", "resolved", model="deaf", job="mlxhub")
    stack.webhook.wait_for("MlxhubModelCrashLooping", "resolved", model="loop", job="mlxhub")


def test_what_was_well_was_never_told(stack: Stack) -> None:
    assert {alert["labels"].get("model") for alert in stack.webhook.told} <= {"tiny", "loop", "deaf", "down", None}
