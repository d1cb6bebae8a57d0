"""The textfile, read by a real node_exporter."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from mlxhub_core import HubManager
from mlxhub_core.testing import wait_until

PROGRAM = "prometheus-node-exporter"


@pytest.mark.skipif(shutil.which(PROGRAM) is None, reason=f"{PROGRAM} is not installed")
def test_node_exporter_shows_what_the_textfile_has(tmp_path: Path) -> None:
    config = {
        "log_path": "logs",
        "sinks": {"loguru": False, "prometheus": {"textfile": "text/mlxhub.prom", "textfile_interval": 0.2}},
        "models": [{"name": "qwen", "command": ["sleep", "1000"], "default": True}],
    }
    (tmp_path / "hub.yaml").write_text(json.dumps(config))
    (tmp_path / "text").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    options = [
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={tmp_path}/text",
    ]
    command = [PROGRAM, f"--web.listen-address={address}", *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as exporter, HubManager(tmp_path / "hub.yaml") as hub:
        hub.reload()

        def page() -> str:
            try:
                with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
                    return str(answer.read().decode())
            except OSError:
                return ""

        try:
            wait_until(lambda: 'mlxhub_model_started_total{group="",model="qwen"} 1' in page())
            wait_until(lambda: 'mlxhub_model_state{group="",model="qwen",state="ready"} 1' in page())
            assert "node_textfile_scrape_error 0" in page()
        finally:
            exporter.kill()
    assert not list((tmp_path / "text").iterdir())
