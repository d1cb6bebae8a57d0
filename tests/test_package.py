"""What importing and installing the package costs and needs."""

from __future__ import annotations

import ast
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import mlxhub_core

ROOT = Path(__file__).parent.parent
HEAVY = {
    "pydantic",
    "loguru",
    "yaml",
    "pluggy",
    "psutil",
    "rich",
    "click",
    "importlib_metadata",
    "asyncio",
    "subprocess",
}


def imported_by(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_root_loads_none_of_its_dependencies() -> None:
    assert not (imported_by("import mlxhub_core") - imported_by("")) & HEAVY


def test_what_a_sink_needs_loads_neither_pydantic_nor_loguru() -> None:
    loaded = imported_by("from mlxhub_core import Sink, HubModelContext, HubEvent, HubObservabilitySink")
    assert not loaded & HEAVY


def test_the_hub_never_loads_a_model_library_or_a_sink_that_is_not_on(tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text("models: [{name: a, model_path: x}]\n")
    loaded = imported_by(
        f"from mlxhub_core import HubManager\nwith HubManager({str(tmp_path / 'hub.yaml')!r}) as h: h.reload()"
    )
    assert "loguru" in loaded
    assert not loaded & {"mlx", "mlx_lm", "transformers", "numpy", "statsd", "prometheus_client"}


@pytest.mark.parametrize("name", mlxhub_core.__all__)
def test_every_name_of_the_surface_is_there(name: str) -> None:
    assert getattr(mlxhub_core, name) is not None
    assert name in dir(mlxhub_core)


def test_the_surface_is_the_same_to_python_to_type_checkers_and_to_those_who_import_all() -> None:
    tree = ast.parse(Path(mlxhub_core.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    checked = {name.name: (node.module or "").removeprefix("mlxhub_core.") for node in imports for name in node.names}
    assert checked == mlxhub_core._HOME_OF
    assert sorted(mlxhub_core.__all__) == sorted(checked)


def test_how_a_model_failed_and_that_memory_was_short_can_be_told_apart_by_programs() -> None:
    assert {"Failure", "MemoryShortError", "LaunchError", "Plan"} <= set(mlxhub_core.__all__)
    assert issubclass(mlxhub_core.MemoryShortError, mlxhub_core.LaunchError)


def test_what_a_sink_reads_of_a_failure_loads_neither_pydantic_nor_loguru() -> None:
    assert not imported_by("from mlxhub_core import Failure, MemoryShortError, ModelStatus, Reason") & HEAVY


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nosuch"):
        mlxhub_core.nosuch  # noqa: B018


@pytest.mark.install
@pytest.mark.timeout(300)
def test_the_core_alone_runs_commands_and_says_what_mlx_needs(tmp_path: Path) -> None:
    home = tmp_path / "an empty place"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(ROOT)], check=True, cwd=tmp_path)
    (tmp_path / "hub.yaml").write_text(
        "log_path: logs\nmodels:\n"
        "  - {name: needs-mlx, model_path: mlx-community/x, default: true}\n"
        "  - {name: plain, command: [sh, -c, 'echo it ran'], default: true}\n"
    )
    program = (
        "from mlxhub_core import HubManager\n"
        "from mlxhub_core.testing import wait_until\n"
        "with HubManager('hub.yaml') as hub:\n"
        "    result = hub.reload()\n"
        "    print(result.started, result.failed['needs-mlx'])\n"
        "    wait_until(lambda: hub.get_status()[1].exit_code == 0)\n"
    )
    done = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "('plain',) needs-mlx: needs mlx-lm, which is not installed here; run `" in done.stdout
    assert '-m pip install "mlxhub-core[mlx]"`' in done.stdout
    assert (tmp_path / "logs" / "plain.log").read_text() == "it ran\n"
    mlxhub = home / "bin" / "mlxhub"
    assert subprocess.run([mlxhub, "check"], cwd=tmp_path, check=False).returncode == 0
    demo = subprocess.run([mlxhub, "demo"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert demo.returncode == 1
    assert "needs mlx-lm, which is not installed here; run `" in demo.stderr
