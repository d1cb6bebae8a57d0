"""A sink of somebody else: built, installed beside the core, named in hub.yaml, and told what happens."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Home

TOKEN = "s3cret-of-the-hook"

HUB_YAML = """\
log_path: logs
sinks:
  webhook: {url: "http://127.0.0.1:%d/hooks", token: {env: HOOK_TOKEN}}
models:
  - {name: qwen, default: true, restart: never, command: [sh, -c, 'echo it ran; exit 3']}
"""


@dataclass(frozen=True)
class Place:
    home: Home
    directory: Path


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
def place(home: Home, tmp_path: Path) -> Place:
    """An empty directory, and the environment whose commands run in it."""
    assert "mlxhub_webhook_sink-0.1.0-py3-none-any.whl" in home.wheels
    return Place(home, tmp_path)


def in_place(place: Place, *python: str) -> subprocess.Popen[str]:
    """Python of the environment, and of nowhere else, started with the token in its environment."""
    return subprocess.Popen(
        [place.home.bin / "python", *python],
        cwd=place.directory,
        env={**place.home.env, "HOOK_TOKEN": TOKEN},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def mlxhub(place: Place, *arguments: str) -> tuple[str, bool]:
    """Run a command to its end: what it printed, and whether the module of the sink was imported meanwhile."""
    process = in_place(place, "-v", "-m", "mlxhub_core", *arguments)
    out, imports = process.communicate(timeout=60)
    assert process.returncode == 0, imports[-1000:]
    return out, "import 'mlxhub_webhook_sink'" in imports


@pytest.mark.install
@pytest.mark.timeout(300)
def test_a_sink_from_a_package_of_its_own_is_listed_described_and_told_what_happens(
    place: Place, posted: tuple[int, queue.SimpleQueue[Posted]]
) -> None:
    port, arrived = posted
    (place.directory / "hub.yaml").write_text(HUB_YAML % port)

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
