"""The whole path on the real `mlx_lm server`, with a tiny real model."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxhub_core import HubManager, ModelState, ModelStatus
from mlxhub_core.place import place_of
from mlxhub_core.testing import RecordingSink
from mlxhub_core.testing.tiny_model import write_tiny_model

pytestmark = [
    pytest.mark.mlx,
    pytest.mark.timeout(180),
    pytest.mark.skipif(importlib.util.find_spec("mlx_lm") is None, reason="mlx-lm is not installed"),
]

READY = 120.0
"""Seconds until a model must have answered; a cold start reads some 300 MB."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, and a space in its name."""
    path = tmp_path_factory.mktemp("with a space") / "models here"
    write_tiny_model(path / "tiny", "mlxhub!")
    write_tiny_model(path / "other", "works.")
    return path


@pytest.fixture(scope="module")
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture(scope="module")
def hub(directory: Path, sink: RecordingSink) -> Iterator[HubManager]:
    """A running hub with two models of the real server; what the tests below do to it builds up."""
    config = directory / "hub.yaml"
    config.write_text(
        "log_path: logs\n"
        "models:\n"
        "  - {name: tiny, model_path: tiny, default: true, group: g, options: {max-tokens: 32}}\n"
        f"  - {{name: other, model_path: '{directory}/other', default: true, args: [--temp, '0.5']}}\n"
        "  - {name: gone, model_path: ./not-there}\n"
    )
    with HubManager(config, observability_sink=sink) as manager:
        manager.reload()
        yield manager
    assert not list(place_of(config).runs.glob("*.lock")), "a model, or its keeper, outlived its hub"


def status(hub: HubManager, name: str) -> ModelStatus:
    return next(status for status in hub.get_status() if status.name == name)


def ask(model: ModelStatus, path: str, **body: Any) -> dict[str, Any]:
    assert model.host is not None
    connection = http.client.HTTPConnection(model.host, model.port, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer: dict[str, Any] = json.load(connection.getresponse())
        return answer
    finally:
        connection.close()


def test_a_model_that_is_ready_really_answers(hub: HubManager, sink: RecordingSink) -> None:
    for name, reply in (("tiny", "mlxhub!"), ("other", "works.")):
        sink.wait_for("model_ready", name, timeout=READY)
        assert status(hub, name).state is ModelState.READY
        answer = ask(status(hub, name), "/v1/chat/completions", messages=[{"role": "user", "content": "Hello?"}])
        assert answer["choices"][0]["message"]["content"] == reply


def test_it_listens_on_loopback_only_and_was_told_to_stay_offline(hub: HubManager, sink: RecordingSink) -> None:
    sink.wait_for("model_ready", "tiny", timeout=READY)
    process = psutil.Process(status(hub, "tiny").pid)
    listening = [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]
    environ = process.environ()
    assert (environ["HF_HUB_OFFLINE"], environ["PYTHONUNBUFFERED"]) == ("1", "1")


def test_its_log_has_what_it_writes_on_both_outputs(hub: HubManager, sink: RecordingSink) -> None:
    sink.wait_for("model_ready", "tiny", timeout=READY)
    text = Path(status(hub, "tiny").log_path).read_text()
    assert "Starting httpd at 127.0.0.1 on port" in text
    assert '"POST /v1/completions HTTP/1.1" 200' in text


def test_a_killed_model_is_told_with_its_last_words_restarted_and_answers_again(
    hub: HubManager, sink: RecordingSink
) -> None:
    sink.wait_for("model_ready", "tiny", timeout=READY)
    pid = status(hub, "tiny").pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    failed = sink.wait_for("model_failed", "tiny")
    assert failed.arguments["exit_code"] == -9
    assert failed.event.log_tail
    sink.wait_for("model_ready", "tiny", count=2, timeout=READY)
    assert status(hub, "tiny").pid != pid
    answer = ask(status(hub, "tiny"), "/v1/completions", prompt="again", max_tokens=16)
    assert answer["choices"][0]["text"] == "mlxhub!"
    assert sink.hooks_of("tiny")[:6] == [
        "model_started",
        "model_ready",
        "model_failed",
        "model_restarting",
        "model_started",
        "model_ready",
    ]


def test_a_stop_ends_it_and_nothing_restarts_it(hub: HubManager, sink: RecordingSink) -> None:
    sink.wait_for("model_ready", "other", timeout=READY)
    hub.stop_model("other")
    assert status(hub, "other").state is ModelState.STOPPED
    stopped = sink.wait_for("model_stopped", "other")
    assert (stopped.arguments["exit_code"], stopped.event.forced) == (-15, False)


# A hub of its own for each of the following: what the real server does when it goes wrong.

SLOWLY = """\
import importlib, time
import_module = importlib.import_module
def slowly(name, package=None):
    module = import_module(name, package)
    if name == "mlx_lm.server":
        load = module.ModelProvider.load_default
        module.ModelProvider.load_default = lambda self: (time.sleep(SECONDS), load(self))[1]
    return module
importlib.import_module = slowly
"""
"""A `sitecustomize` that makes the real server's load of its model take so long."""


def test_a_model_that_still_loads_is_not_ready_though_its_health_path_says_200(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(SLOWLY.replace("SECONDS", "4"))
    config = tmp_path / "hub.yaml"
    config.write_text(
        "log_path: logs\nmodels:\n"
        f"  - {{name: tiny, model_path: tiny, default: true, env: {{PYTHONPATH: '{tmp_path}/path'}}}}\n"
    )
    sink = RecordingSink()
    with HubManager(config, observability_sink=sink) as hub:
        hub.reload()
        port = status(hub, "tiny").port
        deadline = time.monotonic() + READY
        while health(port) != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert status(hub, "tiny").state is ModelState.STARTING
        said_yes = time.time()
        assert sink.wait_for("model_ready", "tiny", timeout=READY).event.time - said_yes > 2.0
        assert ask(status(hub, "tiny"), "/v1/completions", prompt="x")["choices"][0]["text"] == "mlxhub!"


def health(port: int | None) -> int | None:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status
    except OSError:
        return None


def test_unreadable_weights_end_in_failed_with_the_servers_own_words(tmp_path: Path) -> None:
    weights = write_tiny_model(tmp_path / "tiny") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    config = tmp_path / "hub.yaml"
    config.write_text(
        "log_path: logs\nmodels:\n"
        "  - {name: tiny, model_path: tiny, default: true, restart: {delay: 0.1, max_failures: 2}}\n"
    )
    sink = RecordingSink()
    with HubManager(config, observability_sink=sink) as hub:
        hub.reload()
        words = "generation thread died: [load_safetensors] Tensor 'lm_head.weight' invalid data offsets"
        unhealthy = sink.wait_for("model_unhealthy", "tiny", timeout=READY)
        assert unhealthy.arguments["reason"].startswith(words)
        assert sink.wait_for("model_failed", "tiny").event.detail == unhealthy.arguments["reason"]
        gave_up = sink.wait_for("model_gave_up", "tiny", timeout=READY)
        assert gave_up.arguments["failures"] == 2
        assert gave_up.event.first_failure is not None
        assert str(gave_up.event.first_failure.detail).startswith(words)
        assert status(hub, "tiny").state is ModelState.FAILED
        assert str(status(hub, "tiny").reason).startswith(words)
        assert "model_ready" not in sink.hooks_of("tiny")


def test_a_request_that_kills_the_generation_thread_is_found_and_cured(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    config = tmp_path / "hub.yaml"
    config.write_text(
        "log_path: logs\nmodels:\n"
        "  - {name: tiny, model_path: tiny, default: true, restart: {delay: 0.1}, health: {interval: 0.3}}\n"
    )
    sink = RecordingSink()
    with HubManager(config, observability_sink=sink) as hub:
        hub.reload()
        sink.wait_for("model_ready", "tiny", timeout=READY)
        pid, port = status(hub, "tiny").pid, status(hub, "tiny").port
        with socket.create_connection(("127.0.0.1", int(port or 0))) as connection:
            body = b'{"prompt": "", "max_tokens": 1}'
            head = b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(head % len(body) + body)
        failed = sink.wait_for("model_failed", "tiny")
        assert (failed.event.reason, failed.arguments["exit_code"]) == ("unhealthy", -15)
        assert str(failed.event.detail).startswith("generation thread died: ")
        sink.wait_for("model_ready", "tiny", count=2, timeout=READY)
        assert status(hub, "tiny").pid != pid
        assert ask(status(hub, "tiny"), "/v1/completions", prompt="x")["choices"][0]["text"] == "mlxhub!"


def test_a_model_that_serves_is_not_asked_and_one_that_idles_is_asked_sparsely(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    config = tmp_path / "hub.yaml"
    config.write_text(
        "log_path: logs\nmodels:\n  - {name: tiny, model_path: tiny, default: true, health: {interval: 0.5}}\n"
    )
    sink = RecordingSink()
    with HubManager(config, observability_sink=sink) as hub:
        hub.reload()
        sink.wait_for("model_ready", "tiny", timeout=READY)
        log = Path(status(hub, "tiny").log_path)
        for _ in range(20):
            ask(status(hub, "tiny"), "/v1/completions", prompt="x", max_tokens=1)
            time.sleep(0.1)
        assert log.read_text().count("GET /health") <= 1, "it was asked though it served others all the time"
        time.sleep(2.2)
        assert 2 <= log.read_text().count("GET /health") <= 6
        assert log.read_text().count("POST /v1/completions") == 21, "20 of ours and the one that made it ready"


def test_the_hub_itself_never_imports_a_model_library(hub: HubManager) -> None:
    libraries = {"mlx", "mlx_lm", "transformers", "torch", "numpy"}
    assert not libraries & {module.partition(".")[0] for module in sys.modules}
