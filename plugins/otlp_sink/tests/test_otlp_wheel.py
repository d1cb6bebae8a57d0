"""What users install: the wheels of the core and of this sink, and nothing else of ours; gRPC is not needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxhub_core.testing import wait_until
from mlxhub_core.testing.wheels import CleanInstall

from .receiver import http_receiver

PLUGIN = Path(__file__).parent.parent
CORE = PLUGIN.parent.parent

HUB_YAML = """\
log_path: logs
sinks:
  otlp: {endpoint: "%s", logs: true}
models:
  - {name: qwen, default: true, restart: never, command: [sh, -c, 'exit 3']}
"""


@pytest.mark.install
@pytest.mark.timeout(300)
@pytest.mark.skipif(not (CORE / "mlxhub_core").is_dir(), reason="needs the repository that it is part of")
def test_the_wheels_of_the_core_and_of_the_sink_work_together(tmp_path: Path) -> None:
    installed = CleanInstall(tmp_path, CORE, PLUGIN)
    assert installed.packages() == {"mlxhub-core", "mlxhub-otlp-sink"}
    assert installed.packages("grpc") == set()
    assert "endpoint" in installed.run("mlxhub_core", "sinks", "describe", "otlp")
    with http_receiver() as receiver, installed.hub(HUB_YAML % receiver.url):
        about = {"mlxhub_model_name": "qwen"}
        wait_until(lambda: receiver.value("mlxhub.model.failed", **about, process_exit_code=3) == 1, timeout=60)
        assert receiver.value("mlxhub.model.started", **about) == 1
        wait_until(lambda: "mlxhub.model.failed" in [record.event_name for record in receiver.records()])
    (tmp_path / "hub.yaml").write_text("sinks: {otlp: {protocol: grpc}}\nmodels: [{name: a, command: [x]}]\n")
    with pytest.raises(AssertionError, match=r"pip install 'mlxhub-otlp-sink\[grpc\]'"):
        installed.run("mlxhub_core", "sinks", "check")
