"""The whole path on the real `mlx_lm server`, with a tiny real model."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxhub_core import HubManager, ModelState, ModelStatus
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
    assert not psutil.Process().children(recursive=True)


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


def test_the_hub_itself_never_imports_a_model_library(hub: HubManager) -> None:
    libraries = {"mlx", "mlx_lm", "transformers", "torch", "numpy"}
    assert not libraries & {module.partition(".")[0] for module in sys.modules}
