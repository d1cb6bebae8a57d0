"""`mlxhub stop` and `mlxhub logs rotate`, asked of a real `mlxhub start`."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mlxhub_core.control.client import ControlClient
from mlxhub_core.testing import FAKE_SERVER, wait_until

MLXHUB = [sys.executable, "-m", "mlxhub_core"]
TALKS = [sys.executable, "-I", "-S", "-u", "-c", "import signal; print('hello'); signal.pause()"]
Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/tmp")).resolve()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.chdir(path)
    models = [{"name": name, "default": True, "health": False, "command": TALKS} for name in ("a", "b")]
    (path / "hub.yaml").write_text(f"log_path: logs\nmodels: {json.dumps(models)}\n")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    hubs: list[subprocess.Popen[str]] = []

    def run() -> subprocess.Popen[str]:
        hub = subprocess.Popen([*MLXHUB, "start"], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        hubs.append(hub)
        assert hub.stderr is not None
        while "Ctrl-C stops everything" not in (line := hub.stderr.readline()):
            assert line, "it ended"
        return hub

    yield run
    for hub in hubs:
        hub.kill()
        hub.communicate()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()) == home and process.pid != psutil.Process().pid:
                process.kill()


def mlxhub(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*MLXHUB, *arguments], capture_output=True, text=True, timeout=50, check=False)
    assert "Traceback" not in done.stderr
    return done


def pids() -> dict[str, int]:
    return {model["name"]: model["pid"] for model in ControlClient("hub.yaml").get("/hub/status")["models"]}


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_stop_returns_when_the_hub_and_its_models_have_ended(start: Start) -> None:
    hub, models = start(), pids()
    done = mlxhub("stop")
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")
    assert hub.wait(10) == 0
    assert not any(map(runs, models.values()))
    done = mlxhub("stop")
    assert done.returncode == 3
    assert done.stderr.startswith("no hub runs for")


def test_stop_that_keeps_the_models_leaves_them_to_the_next_start(start: Start) -> None:
    hub, before = start(), pids()
    done = mlxhub("stop", "--keep-models")
    assert done.stdout == "stopped; a, b run on until the next `mlxhub start`\n"
    assert hub.wait(10) == 0
    assert all(map(runs, before.values()))
    start()
    assert pids() == before
    mlxhub("stop")
    assert not any(map(runs, before.values()))


def test_stop_waits_for_a_model_that_takes_its_time_and_ctrl_c_ends_only_the_wait(home: Path, start: Start) -> None:
    command = [sys.executable, "-I", "-S", FAKE_SERVER, "--port", "{port}", "--ignore-sigterm"]
    model = {"name": "a", "default": True, "stop_timeout": 600, "command": command}
    (home / "hub.yaml").write_text(f"log_path: logs\nmodels: {json.dumps([model])}\n")
    hub = start()
    wait_until(lambda: ControlClient("hub.yaml").get("/hub/status")["models"][0]["state"] == "ready")
    stopping = subprocess.Popen([*MLXHUB, "stop"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: ControlClient("hub.yaml").get("/hub/status")["models"][0]["state"] == "stopping")
    assert stopping.poll() is None
    stopping.send_signal(signal.SIGINT)
    assert stopping.communicate(timeout=10) == ("", "\n")
    assert stopping.returncode == 130
    assert hub.poll() is None


def test_logs_are_rotated_one_by_one_or_all_and_an_empty_one_is_left(home: Path, start: Start) -> None:
    start()
    logs = home / "logs"
    wait_until(lambda: all((logs / f"{name}.log").read_text() == "hello\n" for name in "ab"))
    assert mlxhub("logs", "rotate", "a").returncode == 0
    assert sorted(path.name for path in logs.glob("?.log*")) == ["a.log", "a.log.1", "b.log"]
    assert (logs / "a.log.1").read_text() == "hello\n"
    assert mlxhub("logs", "rotate").returncode == 0
    names = sorted(path.name.removesuffix(".gz") for path in logs.glob("?.log*") if path.suffix != ".part")
    assert names == ["a.log", "a.log.1", "b.log", "b.log.1"]
    done = mlxhub("logs", "rotate", "aa", "b")
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        ["aa: no such model in hub.yaml; did you mean 'a'?; it has a, b"],
    )
    mlxhub("stop")
    assert mlxhub("logs", "rotate").returncode == 3
