"""What users install: the wheels of the core and of this sink, and nothing else of ours."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import venv
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent.parent
CORE = PLUGIN.parent.parent

HUB_YAML = """\
log_path: logs
sinks:
  statsd: {port: %d}
models:
  - {name: qwen, default: true, restart: never, command: [sh, -c, 'exit 3']}
"""


@pytest.mark.install
@pytest.mark.timeout(300)
@pytest.mark.skipif(not (CORE / "mlxhub_core").is_dir(), reason="needs the repository that it is part of")
def test_the_wheels_of_the_core_and_of_the_sink_work_together(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLXHUB"))}

    def run(*arguments: str | Path) -> str:
        return subprocess.run(
            [python, "-m", *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=250, check=True
        ).stdout

    run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "wheels", CORE, PLUGIN)
    run("pip", "install", "--quiet", *(tmp_path / "wheels").iterdir())
    assert {"mlxhub-core", "mlxhub-statsd-sink"} == {
        line.split(" @ ")[0] for line in run("pip", "freeze").splitlines() if line.startswith("mlxhub")
    }
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.settimeout(30)
        server.bind(("127.0.0.1", 0))
        (tmp_path / "hub.yaml").write_text(HUB_YAML % server.getsockname()[1])
        assert "tags" in run("mlxhub_core", "sinks", "describe", "statsd")
        hub = subprocess.Popen(
            [python, "-m", "mlxhub_core", "start", "--foreground"], cwd=tmp_path, env=env, stderr=subprocess.PIPE
        )
        try:
            seen = ""
            while "mlxhub.model.qwen.failed.exit_code.3:1|c" not in seen:
                seen += f"{server.recv(65536).decode()}\n"
        finally:
            hub.send_signal(signal.SIGTERM)
            _, said = hub.communicate(timeout=60)
            print(said.decode())  # pytest shows it when something is missing
    assert hub.returncode == 0
    assert "mlxhub.model.qwen.started:1|c" in seen.splitlines()
