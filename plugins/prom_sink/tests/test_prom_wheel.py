"""What users install: the wheels of the core and of this sink, and nothing else of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
import venv
from pathlib import Path

import pytest

from mlxhub_core.testing import wait_until

PLUGIN = Path(__file__).parent.parent
CORE = PLUGIN.parent.parent

HUB_YAML = """\
log_path: logs
sinks:
  prometheus: {listen: "127.0.0.1:0"}
models:
  - {name: qwen, default: true, restart: never, command: [sh, -c, 'sleep 0.5; exit 3']}
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
    assert {"mlxhub-core", "mlxhub-prom-sink"} == {
        line.split(" @ ")[0] for line in run("pip", "freeze").splitlines() if line.startswith("mlxhub")
    }
    (tmp_path / "hub.yaml").write_text(HUB_YAML)
    assert len(run("mlxhub_core", "sinks", "export", "prometheus", "shipped").split()) == 5
    hub = subprocess.Popen(
        [python, "-m", "mlxhub_core", "start", "--foreground"], cwd=tmp_path, env=env, stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: bool(places(run("mlxhub_core", "sd"))), timeout=60)
        (where,) = places(run("mlxhub_core", "sd"))

        def page() -> str:
            with urllib.request.urlopen(f"http://{where}/metrics", timeout=5) as answer:
                return str(answer.read().decode())

        wait_until(lambda: 'mlxhub_model_failed_total{exit_code="3",group="",model="qwen"} 1.0' in page())
        assert 'mlxhub_sink_info{plugin="mlxhub-prom-sink",sink="prometheus",version="0.1.0"} 1.0' in page()
    finally:
        hub.send_signal(signal.SIGTERM)
        _, said = hub.communicate(timeout=60)
        print(said.decode())  # pytest shows it when something is missing
    assert hub.returncode == 0


def places(targets: str) -> list[str]:
    return [address for target in json.loads(targets) for address in target["targets"]]
