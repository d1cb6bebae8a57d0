"""What can be asked of a hub that runs, asked of a real `mlxhub start`."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
import sys
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
def home(home: Path) -> Path:
    models = [{"name": name, "default": True, "health": False, "command": TALKS} for name in ("a", "b")]
    (home / "hub.yaml").write_text(f"log_path: logs\nmodels: {json.dumps(models)}\n")
    return home


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    hubs: list[subprocess.Popen[str]] = []

    def run() -> subprocess.Popen[str]:
        hub = subprocess.Popen(
            [*MLXHUB, "start", "--foreground"], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        hubs.append(hub)
        assert hub.stderr is not None
        while "Ctrl-C stops everything" not in (line := hub.stderr.readline()):
            assert line, "it ended"
        return hub

    yield run
    for hub in hubs:
        hub.terminate()
        try:
            hub.communicate(timeout=5)
        except subprocess.TimeoutExpired:  # a model that takes its time: it does not get it
            hub.terminate()
            hub.communicate()


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
    assert done.stdout == "stopped; a, b run on; the next `mlxhub start` finds them\n"
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
    assert stopping.communicate(timeout=10) == ("", "not waiting any more; the hub goes on stopping\n\n")
    assert stopping.returncode == 130
    assert hub.poll() is None


def test_logs_are_rotated_one_by_one_or_all_and_an_empty_one_is_left(home: Path, start: Start) -> None:
    start()
    logs = home / "logs"
    wait_until(lambda: all((logs / f"{name}.log").read_text() == "hello\n" for name in "ab"))
    assert mlxhub("logs", "rotate", "a").returncode == 0
    wait_until((logs / "a.log.1.gz").exists)
    assert sorted(path.name for path in logs.glob("?.log")) == ["a.log", "b.log"]
    assert gzip.decompress((logs / "a.log.1.gz").read_bytes()) == b"hello\n"
    assert mlxhub("logs", "rotate").returncode == 0
    wait_until((logs / "b.log.1.gz").exists)
    assert not (logs / "a.log.2.gz").exists(), "the log was empty"
    done = mlxhub("logs", "rotate", "aa", "b")
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        ["aa: no such model in hub.yaml; it has a, b; did you mean 'a'?"],
    )
    mlxhub("stop")
    assert mlxhub("logs", "rotate").returncode == 3


def test_status_shows_each_model_or_those_that_are_named(home: Path, start: Start) -> None:
    start()
    a, b = pids().values()
    head, first, second = mlxhub("status").stdout.splitlines()
    assert head.split() == ["NAME", "STATE", "GROUP", "PID", "PORT", "UPTIME", "RESTARTS", "MEMORY", "EXIT", "LOG"]
    assert re.fullmatch(rf"a +ready +- +{a} +- +\d+s +0 +\d+MB +- +logs/a.log", first)
    assert re.fullmatch(rf"b +ready +- +{b} +- +\d+s +0 +\d+MB +- +logs/b.log", second)
    assert [line.split()[0] for line in mlxhub("status", "b").stdout.splitlines()] == ["NAME", "b"]
    (only,) = json.loads(mlxhub("status", "b", "--json").stdout)
    assert (only["name"], only["state"], only["pid"]) == ("b", "ready", b)
    done = mlxhub("status", "c")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "c: no such model in hub.yaml; it has a, b\n"
    assert (home / "logs").is_dir()


def test_status_imports_nothing_that_takes_its_time() -> None:
    program = "import sys; from mlxhub_core.cli import status; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"rich", "asyncio", "pydantic", "loguru", "starlette", "psutil"} & set(done.stdout.split())


def test_models_are_stopped_started_and_restarted_one_by_one(start: Start) -> None:
    start()
    before = pids()
    assert mlxhub("stop-model", "a").returncode == 0
    assert pids() == {"a": None, "b": before["b"]}
    assert not runs(before["a"])
    assert mlxhub("status").stdout.endswith("a: stopped; `mlxhub start-model a` starts it\n")
    assert mlxhub("start-model", "a", "b").returncode == 0
    after = pids()
    assert after["b"] == before["b"], "it ran"
    assert after["a"] not in (None, before["a"])
    assert mlxhub("restart-model", "b").returncode == 0
    assert pids()["b"] not in (None, before["b"])


def test_a_model_that_cannot_be_started_keeps_no_other_from_it(home: Path, start: Start) -> None:
    start()
    mlxhub("stop-model", "a", "b")
    done = mlxhub("start-model", "c", "b")
    assert (done.returncode, done.stderr) == (1, "c: no such model in hub.yaml; it has a, b\n")
    assert pids()["b"]
    assert mlxhub("start-model").returncode == 2
    (home / "hub.yaml").write_text("log_path: logs\nmodels: [{name: c, default: true, command: [gone]}]\n")
    done = mlxhub("reload")
    assert (done.returncode, done.stdout) == (1, "stopped: b\n")
    assert "c: command: no program 'gone' on the PATH" in done.stderr


def test_reload_says_what_it_would_do_and_why_and_then_does_it(home: Path, start: Start) -> None:
    start()
    before = pids()
    models = [
        {"name": "a", "default": True, "health": False, "command": TALKS},
        {"name": "c", "default": True, "health": False, "command": TALKS},
    ]
    (home / "hub.yaml").write_text(f"log_path: logs\nmodels: {json.dumps(models)}\n")
    plan = mlxhub("reload", "--dry-run")
    assert plan.stdout.splitlines() == [
        "start      c  new, with default: true",
        "stop       b  no longer in hub.yaml",
        "unchanged  a  is ready",
    ]
    assert pids() == before
    done = mlxhub("reload")
    assert (done.returncode, done.stdout) == (0, "started: c\nstopped: b\nunchanged: a\n")
    after = pids()
    assert (sorted(after), after["a"]) == (["a", "c"], before["a"])
    assert json.loads(mlxhub("reload", "--json").stdout)["unchanged"] == ["a", "c"]


def test_a_dry_run_warns_of_what_works_but_deserves_a_word(home: Path, start: Start) -> None:
    start()
    (home / "hub.yaml").write_text("log_path: logs\nenable_status_page: true\nmodels: [{name: a, command: [x]}]\n")
    plan = mlxhub("reload", "--dry-run")
    assert plan.returncode == 0
    assert plan.stderr.startswith("warning: hub.yaml:2:1: enable_status_page: ")
    assert "warn" not in plan.stdout
    (warning,) = json.loads(mlxhub("reload", "--dry-run", "--json").stdout)["warnings"]
    assert plan.stderr == f"warning: {warning}\n"


def test_a_hub_yaml_with_mistakes_changes_nothing_and_says_all_of_them(home: Path, start: Start) -> None:
    start()
    before = pids()
    (home / "hub.yaml").write_text("log_pth: x\nmodels: [{name: a, comand: [x]}]\n")
    for arguments in (["reload"], ["reload", "--dry-run"]):
        done = mlxhub(*arguments)
        assert done.returncode == 2
        assert "hub.yaml:1:1: log_pth: unknown key; did you mean 'log_path'?" in done.stderr
        assert "did you mean 'command'?" in done.stderr
    assert pids() == before


@pytest.mark.parametrize("command", ["status", "reload", "stop", "start-model a", "stop-model a", "restart-model a"])
def test_where_no_hub_runs_each_command_says_so_with_exit_code_3(home: Path, command: str) -> None:
    done = mlxhub(*command.split())
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"no hub runs for {home}/hub.yaml; start one with `mlxhub start`\n"
