"""A sink of somebody else: built, installed beside the core, named in hub.yaml, and told what happens."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import venv
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "webhook_sink"
TOKEN = "s3cret-of-the-hook"

HUB_YAML = """\
log_path: logs
sinks:
  webhook: {url: "http://127.0.0.1:%d/hooks", token: {env: HOOK_TOKEN}}
models:
  - {name: qwen, default: true, restart: never, command: [sh, -c, 'echo it ran; exit 3']}
"""

Posted = tuple[Message, dict[str, Any]]


@pytest.fixture
def posted() -> Iterator[tuple[int, queue.SimpleQueue[Posted]]]:
    """The port of a server, and what is posted to it as it comes: the headers and the document."""
    arrived: queue.SimpleQueue[Posted] = queue.SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.put((self.headers, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True)
        thread.start()
        yield server.server_address[1], arrived
        server.shutdown()
        thread.join()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a virtual environment in it that has the core and the wheel of the example, and nothing of ours."""
    venv.create(tmp_path / "venv", with_pip=True)
    pip = [str(tmp_path / "venv" / "bin" / "python"), "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", "wheels", str(EXAMPLE)], cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert wheel.name == "mlxhub_webhook_sink-0.1.0-py3-none-any.whl"
    subprocess.run([*pip, "install", str(ROOT), str(wheel)], cwd=tmp_path, check=True)
    return tmp_path


def in_place(place: Path, *python: str) -> subprocess.Popen[str]:
    """Python of the environment, and of nowhere else, started with the token in its environment."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLXHUB"))}
    return subprocess.Popen(
        [place / "venv" / "bin" / "python", *python],
        cwd=place,
        env={**env, "HOOK_TOKEN": TOKEN},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def mlxhub(place: Path, *arguments: str) -> tuple[str, bool]:
    """Run a command to its end: what it printed, and whether the module of the sink was imported meanwhile."""
    process = in_place(place, "-v", "-m", "mlxhub_core", *arguments)
    out, imports = process.communicate(timeout=60)
    assert process.returncode == 0, imports[-1000:]
    return out, "import 'mlxhub_webhook_sink'" in imports


@pytest.mark.install
@pytest.mark.timeout(300)
def test_a_sink_from_a_package_of_its_own_is_listed_described_and_told_what_happens(
    place: Path, posted: tuple[int, queue.SimpleQueue[Posted]]
) -> None:
    port, arrived = posted
    (place / "hub.yaml").write_text(HUB_YAML % port)

    out, imported = mlxhub(place, "sinks", "list", "--json")
    (listed,) = [sink for sink in json.loads(out) if sink["type"] == "webhook"]
    assert (listed["package"], listed["version"]) == ("mlxhub-webhook-sink", "0.1.0")
    assert not imported

    out, imported = mlxhub(place, "sinks", "describe", "webhook", "--json-schema")
    assert json.loads(out)["properties"]["timeout"] | {"description": ""} == {
        "default": 5.0,
        "description": "",
        "exclusiveMinimum": 0,
        "maximum": 60,
        "title": "Timeout",
        "type": "number",
    }
    assert imported, "or else the line above about the list says nothing"

    hub = in_place(place, "-m", "mlxhub_core", "start", "--foreground")
    try:
        told = [arrived.get(timeout=30) for _ in range(4)]
    finally:
        hub.send_signal(signal.SIGTERM)
        _, said = hub.communicate(timeout=60)
        print(said)  # pytest shows it when something is missing
    assert hub.returncode == 0
    told.append(arrived.get(timeout=30))

    hooks = [document["hook"] for _, document in told]
    assert hooks == ["hub_started", "model_started", "model_ready", "model_failed", "hub_stopping"]
    started, failed = told[1][1], told[3][1]
    assert (started["model"], type(started["pid"])) == ("qwen", int)
    assert (failed["model"], failed["exit_code"], failed["reason"]) == ("qwen", 3, "crash")
    assert Path(failed["log_path"]).read_text() == "it ran\n"
    assert {headers["Authorization"] for headers, _ in told} == {f"Bearer {TOKEN}"}
    assert TOKEN not in said
