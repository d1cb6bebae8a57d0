"""The life of a real model, told by a real hub to a real VictoriaMetrics, and asked for in PromQL.

Its names there are to be those that the Prometheus sink gives, so that one dashboard and the same alerts fit both.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mlxhub_otlp_sink.names import is_for_otlp

from mlxhub_core import HubManager, ModelState
from mlxhub_core.metrics import CATALOGUE, prometheus_name
from mlxhub_core.testing import RecordingSink, wait_until
from mlxhub_core.testing.tiny_model import write_tiny_model

NAME = "victoria-metrics"
PLACES = (None, f"{sys.prefix}/victoria/usr/bin")
"""Where it may be: on the PATH, or where .ci/run puts one, as that of Debian 12 does not know OTLP."""
PATIENCE = 120.0
"""Seconds; the first start of mlx-lm reads some 300 MB."""

ABOUT = 'mlxhub_model_name="tiny",mlxhub_model_group="chat",service_name="mlxhub"'

pytestmark = [
    pytest.mark.mlx,
    pytest.mark.timeout(300),
    pytest.mark.skipif(importlib.util.find_spec("mlx_lm") is None, reason="mlx-lm is not installed"),
]


def victoria_metrics() -> str | None:
    """One that knows OTLP, and names metrics as Prometheus does."""
    for place in PLACES:
        if (path := shutil.which(NAME, path=place)) is not None:
            flags = subprocess.run([path, "-help"], capture_output=True, text=True, timeout=30, check=False)
            if "-opentelemetry.usePrometheusNaming" in flags.stdout + flags.stderr:
                return path
    return None


class Victoria:
    """A server of VictoriaMetrics, which is there as long as the context is."""

    def __init__(self, program: str, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._command = [
            program,
            f"-storageDataPath={directory}/data",
            f"-httpListenAddr=127.0.0.1:{port}",
            "-opentelemetry.usePrometheusNaming",
            "-retentionPeriod=1d",
            "-search.latencyOffset=0s",
        ]
        self._output = directory / "output"

    @contextlib.contextmanager
    def running(self) -> Iterator[Victoria]:
        with self._output.open("wb") as output:
            process = subprocess.Popen(self._command, stdout=output, stderr=output)
        try:
            wait_until(self._answers)
            yield self
        finally:
            process.terminate()
            process.wait(20)

    def ask(self, path: str, **parameters: str) -> Any:
        # What has just come is not to be seen before that.
        urllib.request.urlopen(f"{self.url}/internal/force_flush", timeout=10).close()
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def values(self, query: str) -> list[float]:
        return [float(series["value"][1]) for series in self.ask("/api/v1/query", query=query)["result"]]

    def most(self, query: str) -> list[float]:
        """The largest value of late: what is 0 now may have been 1."""
        return self.values(f"max_over_time({query}[10m])")

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
        except OSError:
            return False
        return True


class Lived(NamedTuple):
    """A server, and what it was told."""

    victoria: Victoria
    events: RecordingSink


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """A server that was told of a model which started, was killed, was started again by the hub, and was stopped."""
    program = victoria_metrics()
    if program is None:
        pytest.skip(f"{NAME} with OTLP is not installed")
    directory = tmp_path_factory.mktemp("hub")
    write_tiny_model(directory / "model", "mlxhub!")
    with Victoria(program, directory).running() as victoria:
        model = {"name": "tiny", "model_path": "model", "group": "chat", "default": True, "restart": {"delay": 0}}
        otlp = {"endpoint": f"{victoria.url}/opentelemetry", "interval": 1}
        config = {"log_path": "logs", "sinks": {"loguru": False, "otlp": otlp}, "models": [model]}
        (directory / "hub.yaml").write_text(json.dumps(config))
        yield Lived(victoria, live(directory / "hub.yaml", victoria))


def live(config: Path, victoria: Victoria) -> RecordingSink:
    sink = RecordingSink()
    with HubManager(config, observability_sink=sink) as hub:
        hub.reload()
        sink.wait_for("model_ready", "tiny", timeout=PATIENCE)
        wait_until(lambda: victoria.values(f"mlxhub_model_process_resident_memory_bytes{{{ABOUT}}} > 50e6") != [])
        (status,) = hub.get_status()
        assert status.pid is not None
        os.kill(status.pid, signal.SIGKILL)
        sink.wait_for("model_ready", "tiny", count=2, timeout=PATIENCE)
        wait_until(lambda: victoria.values(f"mlxhub_model_ready{{{ABOUT}}}") == [1])
        hub.stop_model("tiny")

        def counted() -> tuple[int, int, int]:
            (otlp,) = [stats for stats in hub.sink_stats() if stats.name == "otlp"]
            return otlp.offered - otlp.delivered, otlp.failed, otlp.dropped

        wait_until(lambda: counted() == (0, 0, 0))
        assert hub.shutdown() == {}
    return sink


@pytest.mark.parametrize("hook", ["model_started", "model_stopped", "model_failed"])
def test_what_happened_can_be_counted(lived: Lived, hook: str) -> None:
    # As often as it did: on a machine that others use, too, a port may be taken and a start fail by itself.
    count = len(lived.events.of("tiny", hook))
    assert count == {"model_stopped": 1}.get(hook, count) > 0
    wait_until(lambda: sum(lived.victoria.values(f"mlxhub_{hook}_total{{{ABOUT}}}")) == count)


@pytest.mark.parametrize(
    ("query", "value"),
    [
        (f'mlxhub_model_failed_total{{{ABOUT},process_exit_code="-9"}}', 1),
        (f'mlxhub_model_state{{{ABOUT},mlxhub_model_state="stopped"}}', 1),
        (f'mlxhub_model_state{{{ABOUT},mlxhub_model_state="ready"}}', 0),
        (f"mlxhub_model_up{{{ABOUT}}}", 0),
        (f"mlxhub_model_start_duration_seconds_count{{{ABOUT}}}", 2),
        (f"mlxhub_model_last_exit_code{{{ABOUT}}}", -15),
        (f"mlxhub_model_restarts_total{{{ABOUT}}} > bool 0", 1),
        ('mlxhub_sink_events_failed_total{mlxhub_sink_name="otlp",service_name="mlxhub"}', 0),
    ],
)
def test_the_life_of_a_model_can_be_asked_for(lived: Lived, query: str, value: float) -> None:
    wait_until(lambda: lived.victoria.values(query) == [value])


@pytest.mark.parametrize("state", [ModelState.STARTING, ModelState.READY, ModelState.STOPPED])
def test_each_state_that_lasted_was_seen(lived: Lived, state: ModelState) -> None:
    wait_until(lambda: lived.victoria.most(f'mlxhub_model_state{{{ABOUT},mlxhub_model_state="{state}"}}') == [1])


def test_all_are_there_under_the_names_that_the_prometheus_sink_gives_them_and_no_others(lived: Lived) -> None:
    def names() -> set[str]:
        found = {name for name in lived.victoria.ask("/api/v1/label/__name__/values") if name.startswith("mlxhub_")}
        return {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in found}

    declared = {prometheus_name(metric) for metric in CATALOGUE if is_for_otlp(metric)}
    wait_until(lambda: names() == declared)


def test_the_server_took_them_for_otlp(lived: Lived) -> None:
    with urllib.request.urlopen(f"{lived.victoria.url}/metrics", timeout=10) as answer:
        counts = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if "opentelemetry" in line)
    assert float(counts['vm_rows_inserted_total{type="opentelemetry"}']) > 100
