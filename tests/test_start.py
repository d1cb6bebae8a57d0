"""`mlxhub start`: the hub in the background, and what is seen until its models are ready."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from mlxhub_core.cli.models import restart_model
from mlxhub_core.cli.progress import SILENT, _Wait, until_ready
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import HubNotRunningError
from mlxhub_core.place import make_private, place_of
from mlxhub_core.testing import FAKE_SERVER, wait_until

MLXHUB = str(Path(sys.executable).with_name("mlxhub"))
SERVER = [sys.executable, "-I", "-S", FAKE_SERVER, "--port", "{port}"]
LATE = [*SERVER, "--listen-after", "600"]
Write = Callable[..., Path]


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def home(home: Path) -> Iterator[Path]:
    yield home
    for config in home.glob("*.yaml"):
        mlxhub("stop", "-c", str(config))


@pytest.fixture
def write(home: Path) -> Write:
    def file(name: str = "hub.yaml", log_path: str = "logs", **models: Any) -> Path:
        entries = [{"name": name, "default": True, **model} for name, model in models.items()]
        (home / name).write_text(f"log_path: {log_path}\nmodels: {json.dumps(entries)}\n")
        return home / name

    return file


def mlxhub(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([MLXHUB, *arguments], capture_output=True, text=True, timeout=50, check=False)
    assert "Traceback" not in done.stderr + done.stdout
    return done


def hub(config: str = "hub.yaml") -> dict[str, Any]:
    return ControlClient(config).get("/hub/status")


def states() -> dict[str, str]:
    return {model["name"]: model["state"] for model in hub()["models"]}


def a_is_starting() -> bool:
    try:
        return states() == {"a": "starting"}
    except HubNotRunningError:
        return False


def test_start_returns_when_the_models_are_ready_and_the_hub_goes_on_by_itself(home: Path, write: Write) -> None:
    write(a={"command": SERVER}, b={"command": SERVER}, c={"command": SERVER, "default": False})
    done = mlxhub("start")
    assert (done.returncode, done.stderr) == (0, "")
    *ready, runs_, logs, where = done.stdout.splitlines()
    assert sorted(line.partition(" in ")[0] for line in ready) == ["a: ready", "b: ready"]
    pid = hub()["pid"]
    assert runs_ == f"the hub runs (pid {pid}); `mlxhub stop` ends it"
    assert logs == "logs: logs, the hub's own: _hub.log"
    assert (home / where.removeprefix("socket: ")).is_socket()
    assert os.getsid(pid) == pid, "a session of its own: neither Ctrl-C nor the end of the terminal reaches it"
    assert states() == {"a": "ready", "b": "ready", "c": "stopped"}
    assert mlxhub("stop").stdout == "stopped\n"
    wait_until(lambda: not runs(pid))


def test_the_hub_has_a_log_of_its_own_that_nobody_else_reads(home: Path, write: Write) -> None:
    write(a={"command": SERVER})
    mlxhub("start")
    log = home / "logs" / "_hub.log"
    assert hub()["log"] == str(log)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    mlxhub("stop-model", "a")
    wait_until(lambda: "a stopped (SIGTERM)" in log.read_text())
    assert "a is ready after" in log.read_text()


def test_a_hub_that_runs_already_is_left_alone_and_shown(write: Write) -> None:
    write(a={"command": SERVER})
    mlxhub("start")
    pid = hub()["pid"]
    done = mlxhub("start")
    first, head, row = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert first == f"the hub for hub.yaml already runs (pid {pid})"
    assert head.split()[:2] == ["NAME", "STATE"]
    assert row.split()[:2] == ["a", "ready"]
    assert hub()["pid"] == pid


def test_a_hub_that_has_ended_but_still_answers_is_not_taken_for_one_that_runs(home: Path, write: Write) -> None:
    place = place_of(write(a={"command": SERVER}))
    make_private(place.directory)
    with socket.socket(socket.AF_UNIX) as last_breath:
        last_breath.bind(str(place.socket))
        last_breath.listen()
        done = mlxhub("start")
    assert (done.returncode, done.stderr) == (0, "")
    assert "already runs" not in done.stdout
    assert states() == {"a": "ready"}


def test_a_default_model_that_fails_is_told_with_its_last_words_and_the_hub_goes_on(write: Write) -> None:
    bad = ["sh", "-c", "echo first; echo 'no such weights'; exit 3", "sh", "{port}"]
    write(good={"command": SERVER}, bad={"command": bad})
    done = mlxhub("start")
    assert done.returncode == 1
    assert done.stdout.startswith("good: ready in ")
    head, *rest = done.stderr.splitlines()
    assert head.startswith("bad: failed (exit code 3 after 0.")
    assert "; the hub tries again in " in head
    assert rest == ["  | first", "  | no such weights", "  `mlxhub explain bad` says more"]
    assert states()["good"] == "ready"


def test_a_model_that_cannot_be_started_is_told_with_what_to_mend(write: Write) -> None:
    write(bad={"command": ["no-such-program"]})
    done = mlxhub("start")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == (
        "bad: failed (command: no program 'no-such-program' on the PATH; install it, or write its whole path, and each"
        " word of the command as an entry of its own); the hub does not try again"
    )
    assert states() == {"bad": "failed"}


def test_a_wrong_hub_yaml_starts_nothing(home: Path, write: Write) -> None:
    write(a={"command": SERVER, "prt": 1})
    done = mlxhub("start")
    assert (done.returncode, done.stdout) == (2, "")
    assert "prt: unknown key; did you mean 'port'?" in done.stderr
    assert not (home / "logs").exists()
    assert not (home / ".mlxhub").exists()


def test_a_sink_that_cannot_be_used_starts_nothing_either(home: Path, write: Write) -> None:
    config = write(a={"command": SERVER})
    config.write_text(config.read_text() + "sinks: {nowhere: {}}\n")
    done = mlxhub("start")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert not (home / "logs").exists()


def test_who_does_not_want_to_wait_need_not(write: Write) -> None:
    write(a={"command": LATE})
    done = mlxhub("start", "--no-wait")
    assert done.returncode == 0
    assert "ready" not in done.stdout
    assert states() == {"a": "starting"}


def test_the_wait_ends_with_its_time_and_the_hub_goes_on(write: Write) -> None:
    write(a={"command": LATE})
    done = mlxhub("start", "--timeout", "2")
    assert done.returncode == 1
    # Under load not even that may be done.
    assert done.stderr.startswith(
        ("a: not ready in time (starting); the hub goes on", "hub.yaml is not applied in time")
    )
    wait_until(a_is_starting)


def test_a_model_that_is_late_is_told_when_its_own_time_is_over(write: Write) -> None:
    write(a={"command": LATE, "health": {"startup_timeout": 0.3}})
    done = mlxhub("start")
    assert done.returncode == 1
    assert done.stderr.startswith("a: unhealthy: not ready after 0.3 s: ")


def test_ctrl_c_ends_only_the_wait(write: Write) -> None:
    write(a={"command": LATE})
    starting = subprocess.Popen(
        [MLXHUB, "start"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    wait_until(a_is_starting)
    os.killpg(starting.pid, signal.SIGINT)
    _, said = starting.communicate(timeout=20)
    assert starting.returncode == 130
    assert said.startswith("not waiting any more; the hub goes on: `mlxhub status`\n")
    assert states() == {"a": "starting"}


def test_a_hub_that_dies_while_it_is_waited_for_is_told_with_the_end_of_its_log(write: Write) -> None:
    write(a={"command": LATE})
    starting = subprocess.Popen([MLXHUB, "start"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def hub_pid() -> int | None:
        try:
            return int(hub()["pid"]) if states() else None
        except HubNotRunningError:
            return None

    wait_until(lambda: hub_pid() is not None)
    os.kill(hub_pid() or 0, signal.SIGKILL)
    _, said = starting.communicate(timeout=20)
    assert starting.returncode == 1
    assert "the hub has ended while it started (exit code -9); it said in " in said
    assert "a started (pid" in said
    mlxhub("start", "--no-wait")  # which finds the model that is left, so that it can be stopped


def test_a_hub_that_cannot_run_says_why_and_not_only_in_its_log(home: Path, write: Write) -> None:
    write(a={"command": SERVER})
    mlxhub("start")
    write("other.yaml", b={"command": SERVER})
    done = mlxhub("start", "-c", "other.yaml")
    assert done.returncode == 1
    assert "the hub has ended while it started (exit code 1)" in done.stderr
    assert f"writes its logs to {home}/logs; stop it first, or give each hub a log_path of its own" in done.stderr


def test_what_is_said_of_another_hub_yaml_names_it(write: Write) -> None:
    write("other.yaml", log_path="elsewhere", a={"command": SERVER, "default": False})
    done = mlxhub("start", "-c", "other.yaml")
    assert done.returncode == 0
    assert "`mlxhub stop -c other.yaml` ends it" in done.stdout
    assert done.stdout.endswith("no model has `default: true`; start one with `mlxhub start-model -c other.yaml a`\n")


def test_what_is_said_of_a_failure_names_the_same_hub(write: Write) -> None:
    write("other.yaml", log_path="elsewhere", bad={"command": ["no-such-program"]})
    assert mlxhub("start", "-c", "other.yaml").stderr.endswith("`mlxhub explain -c other.yaml bad` says more\n")
    assert mlxhub("status", "-c", "other.yaml").stdout.endswith("`mlxhub explain -c other.yaml bad` says more\n")


def test_a_hub_that_runs_and_cannot_be_asked_is_told_so(
    home: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(a={"command": SERVER, "default": False})
    socket = ControlClient("hub.yaml").socket
    socket.parent.mkdir(parents=True, mode=0o700)
    socket.mkdir()  # so that there can be none
    done = mlxhub("start")
    assert done.returncode == 1
    assert re.match(r"the hub runs \(pid (\d+)\), but cannot be asked; it said in ", done.stderr)
    assert "the hub runs, but no command can ask it" in done.stderr
    os.kill(int(done.stderr.split("pid ")[1].partition(")")[0]), signal.SIGTERM)


def test_what_lies_in_the_current_directory_is_no_module_of_the_hub(home: Path, write: Write) -> None:
    write(a={"command": SERVER})
    (home / "loguru.py").write_text("raise SystemExit('imported')")
    assert mlxhub("start").returncode == 0


def test_the_log_of_a_hub_does_not_grow_without_end_and_keeps_what_an_interpreter_says(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from mlxhub_core.cli import common
common.HUB_LOG_BYTES = 1000
common.log_to_file(Path(sys.argv[1]))
for number in range(100):
    common.say(f"line {number} " + "x" * 60)
common.say("a warning", "yellow")
os.write(2, b"the last words of an interpreter\\n")
"""
    log = tmp_path / "_hub.log"
    subprocess.run([sys.executable, "-c", program, str(log)], check=True)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4, "the log and three before it"
    assert all(file.stat().st_size < 1200 and stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    *_, warning, last = log.read_text().splitlines()
    assert warning.endswith(" WARNING a warning")
    assert last == "the last words of an interpreter"


def status(state: str, failed_at: float | None = None, **more: Any) -> dict[str, Any]:
    failure: dict[str, Any] = {
        "time": failed_at, "reason": "crash", "exit_code": 3, "detail": None, "uptime_seconds": 1.0, "log_tail": [],
    }  # fmt: skip
    empty = dict.fromkeys(("reason", "pid", "started_at", "ready_at", "restart_at"))
    return {"name": "a", "state": state, **empty, "last_failure": failure if failed_at else None, **more}


@pytest.mark.parametrize(
    ("pictures", "ready"),
    [
        ([status("ready")], ["a"]),
        ([status("starting"), status("ready")], ["a"]),
        ([status("ready", 90.0)], ["a"]),  # it failed before that
        ([status("starting", 110.0)], []),  # it failed, and runs again
        ([status("backoff", 110.0)], []),
        ([status("failed", 110.0)], []),
        ([status("unhealthy", reason="not ready after 3 s")], []),
        ([status("stopped", reason="operator")], []),  # somebody has stopped it meanwhile
        ([status("ready"), status("backoff", 110.0)], []),  # it was ready, while others were waited for
        ([status("starting")], None),
        ([status("starting", 90.0)], None),  # it failed before that
        ([], []),  # a reload has removed it meanwhile
    ],
)
def test_a_model_is_waited_for_until_it_is_ready_or_has_failed(
    pictures: list[dict[str, Any]], ready: list[str] | None
) -> None:
    wait = _Wait(["a"], since=100.0, option="")
    waits = [wait.look([picture]) for picture in pictures] or [wait.look([])]
    assert waits[-1] is (ready is None)
    assert wait.ready == (ready or [])


def test_a_model_that_becomes_ready_without_an_event_is_not_waited_for_in_vain() -> None:
    class Hub:
        """One that tells no event, as of a model that was ready before it was found."""

        def __init__(self) -> None:
            self.waits: list[float | None] = []

        def events(self, since: float) -> Any:
            return self

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def wait(self, timeout: float | None) -> list[Any]:
            self.waits.append(timeout)
            return []

        def get(self, _path: str) -> Any:
            state = "ready" if self.waits else "starting"
            times = {"started_at": 1.0, "ready_at": 2.0}
            return {"models": [{"name": "a", "state": state, "last_failure": None, "reason": None, **times}]}

    hub: Any = Hub()
    assert until_ready(hub, ["a"], 0.0, None, "") == ["a"]
    assert hub.waits == [SILENT], "not for ever"


def test_what_the_process_before_a_restart_failed_in_is_no_failure_of_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments: list[float] = []

    def post(*_: Any, **__: Any) -> list[str]:
        moments.append(time.time())
        return ["a"]

    def wait(_client: Any, done: list[str], _since: float, _timeout: Any, _option: str, failures: float) -> list[str]:
        moments.append(failures)
        return done

    monkeypatch.setattr("mlxhub_core.cli.models.post_for_each", post)
    monkeypatch.setattr("mlxhub_core.cli.progress.until_ready", wait)
    assert CliRunner().invoke(restart_model, ["a", "--wait"], catch_exceptions=False).exit_code == 0
    posted, since = moments
    assert since >= posted


def test_a_failure_before_the_restart_does_not_count_and_one_after_it_does() -> None:
    model = {"name": "a", "state": "starting", "started_at": 9.0, "ready_at": None, "reason": None}
    wait = _Wait(["a"], since=1.0, option="", failures_since=5.0)
    assert wait.look([{**model, "last_failure": {"time": 4.0}}]), "that was the process before"
    ready = {**model, "state": "ready", "ready_at": 9.5, "last_failure": {"time": 4.0}}
    assert not wait.look([ready])
    assert wait.ready == ["a"]
    assert _Wait(["a"], since=1.0, option="")._judge({**model, "last_failure": {"time": 4.0}}) is False
