"""Official clients of the dialects write the same bytes for the same event."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlxhub_statsd_sink.dialects import Sample, dogstatsd, influx

LABELS = (("model", "qwen-4b"), ("group", "chat"))
SAMPLES = [
    Sample("model.started", "c", 1, LABELS),
    Sample("model.failed", "c", 1, (*LABELS, ("exit_code", "-9"))),
    Sample("model.start_duration", "ms", 8250.5, LABELS),
    Sample("model.state", "g", 0, (*LABELS, ("state", "backoff"))),
    Sample("model.up", "g", 1, (("model", "Qwen2.5"),)),
    Sample("config_last_reload_successful", "g", 1),
]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        yield server


@pytest.mark.parametrize(
    "sample",
    [
        *SAMPLES,
        Sample("model.last_exit_code", "g", -9, LABELS),
        Sample("model.up", "g", 1, (("model", "mlx-community/Qwen 2.5|4bit,x#y"),)),
        Sample("model.up", "g", 1, (("model", "模型:é\n"),)),
    ],
    ids=lambda sample: sample.name,
)
@pytest.mark.skipif(importlib.util.find_spec("datadog") is None, reason="datadog is not installed")
def test_dogstatsd_is_what_datadogs_own_client_writes(server: socket.socket, sample: Sample) -> None:
    from datadog.dogstatsd.base import DogStatsd

    client = DogStatsd(
        host="127.0.0.1",
        port=server.getsockname()[1],
        namespace="mlxhub",
        constant_tags=["site:Zürich 1", "a:b|c"],
        disable_buffering=True,
        disable_telemetry=True,
        origin_detection_enabled=False,
    )
    send = {"c": client.increment, "g": client.gauge, "ms": client.timing}[sample.kind]
    send(sample.name, sample.value, tags=[f"{name}:{value}" for name, value in sample.labels])
    (line,) = dogstatsd(sample, "mlxhub", [("site", "Zürich 1"), ("a", "b|c")])
    assert server.recv(9999).decode() == f"{line}\n"
    client.close_socket()


HOT_SHOTS = Path(sys.prefix) / "npm" / "node_modules"
"""Where .ci/run has npm put it."""

SEND = """
const StatsD = require('hot-shots');
const [port, ...lines] = process.argv.slice(1);
const client = new StatsD({host: '127.0.0.1', port: Number(port), telegraf: true, prefix: 'mlxhub.'});
const methods = {c: 'increment', g: 'gauge', ms: 'timing'};
const next = () => {
  if (!lines.length) return client.close();
  const {name, kind, value, tags} = JSON.parse(lines.shift());
  client[methods[kind]](name, value, tags, next);
};
next();
"""


def _node_has_hot_shots() -> bool:
    return shutil.which("node") is not None and (HOT_SHOTS / "hot-shots").is_dir()


@pytest.mark.skipif(not _node_has_hot_shots(), reason="hot-shots (npm) is not installed")
def test_influx_is_what_hot_shots_writes_for_telegraf(server: socket.socket) -> None:
    lines = [json.dumps({"name": s.name, "kind": s.kind, "value": s.value, "tags": dict(s.labels)}) for s in SAMPLES]
    subprocess.run(
        ["node", "-e", SEND, str(server.getsockname()[1]), *lines],
        env={**os.environ, "NODE_PATH": str(HOT_SHOTS)},
        timeout=30,
        check=True,
    )
    ours = [line for sample in SAMPLES for line in influx(sample, "mlxhub", ())]
    assert [server.recv(9999).decode() for _ in SAMPLES] == ours
