"""What users install: the wheels of the core and of this sink, and nothing else of ours."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from mlxhub_core.testing import wait_until
from mlxhub_core.testing.wheels import CleanInstall

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
    installed = CleanInstall(tmp_path, CORE, PLUGIN)
    assert installed.packages() == {"mlxhub-core", "mlxhub-prom-sink"}

    def places() -> list[str]:
        targets = json.loads(installed.run("mlxhub_core", "sd"))
        return [address for target in targets for address in target["targets"]]

    with installed.hub(HUB_YAML):
        assert len(installed.run("mlxhub_core", "sinks", "export", "prometheus", "shipped").split()) == 5
        wait_until(lambda: bool(places()), timeout=60)
        (where,) = places()

        def page() -> str:
            with urllib.request.urlopen(f"http://{where}/metrics", timeout=5) as answer:
                return str(answer.read().decode())

        wait_until(lambda: 'mlxhub_model_failed_total{exit_code="3",group="",model="qwen"} 1.0' in page())
        assert 'mlxhub_sink_info{plugin="mlxhub-prom-sink",sink="prometheus",version="0.1.0"} 1.0' in page()
