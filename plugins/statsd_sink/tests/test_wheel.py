"""What users install: the wheels of the core and of this sink, and nothing else of ours."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mlxhub_core.testing.wheels import CleanInstall

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
    installed = CleanInstall(tmp_path, CORE, PLUGIN)
    assert installed.packages() == {"mlxhub-core", "mlxhub-statsd-sink"}
    assert "tags" in installed.run("mlxhub_core", "sinks", "describe", "statsd")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.settimeout(30)
        server.bind(("127.0.0.1", 0))
        seen = ""
        with installed.hub(HUB_YAML % server.getsockname()[1]):
            while "mlxhub.model.qwen.failed.exit_code.3:1|c" not in seen:
                seen += f"{server.recv(65536).decode()}\n"
    assert "mlxhub.model.qwen.started:1|c" in seen.splitlines()
