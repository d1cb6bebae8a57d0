"""Commands where the machine, the terminal or the moment is awkward: the person is told, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import HubError
from mlxhub_core.place import is_held, place_of
from mlxhub_core.testing import wait_until

MLXHUB = str(Path(sys.executable).with_name("mlxhub"))
SLEEPER = ["sleep", "1000"]
STUBBORN = [sys.executable, "-I", "-S", "-c", "import signal\nsignal.signal(15, signal.SIG_IGN)\nopen('deaf', 'w')\nwhile True: signal.pause()"]  # fmt: skip
Write = Callable[..., Path]


@pytest.fixture
def home(home: Path) -> Iterator[Path]:
    yield home
    os.chdir(home)
    for config in home.glob("*.yaml"):
        mlxhub("stop", "-c", str(config))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(home) and process.pid != os.getpid():
                process.kill()


@pytest.fixture
def write(home: Path) -> Write:
    def file(name: str = "hub.yaml", top: str = "", **commands: Any) -> Path:
        entries = [
            {"name": model, "default": True, "health": False, "stop_timeout": 2, "command": command}
            for model, command in commands.items()
        ]
        (home / name).write_text(f"log_path: logs\n{top}models: {json.dumps(entries)}\n")
        return home / name

    return file


def mlxhub(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    how = {"capture_output": True, **how}
    done = subprocess.run([MLXHUB, *arguments], text=True, errors="replace", timeout=50, check=False, **how)
    assert "Traceback" not in (done.stderr or "") + (done.stdout or "")
    return done


def begun(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([MLXHUB, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def pid() -> int:
    return int(ControlClient("hub.yaml").get("/hub/status")["pid"])


# Two at once.


def test_a_start_while_the_hub_is_about_to_end_starts_the_next_one(home: Path, write: Write) -> None:
    write(a=STUBBORN)
    mlxhub("start")
    wait_until((home / "deaf").exists)
    first, stopping = pid(), begun("stop")
    wait_until(lambda: ControlClient("hub.yaml").get("/hub/status")["stopping"])
    done = mlxhub("start")
    assert done.returncode == 0
    assert done.stderr == f"the hub that runs (pid {first}) is about to end; this one starts then\n"
    assert stopping.communicate(timeout=20)[0] == "stopped\n"
    assert pid() != first


def test_of_two_starts_at_once_both_end_well_and_one_hub_runs(write: Write) -> None:
    write(a=SLEEPER)
    both = [begun("start"), begun("start")]
    said = [each.communicate(timeout=40) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert f"pid {pid()}" in said[0][0] + said[1][0]


def test_a_stop_right_after_ctrl_c_at_a_start_finds_the_hub(home: Path, write: Write) -> None:
    write(a=SLEEPER)
    starting = begun("start")
    wait_until(lambda: bool(psutil.Process(starting.pid).children()))
    starting.send_signal(signal.SIGINT)
    assert "the hub goes on" in starting.communicate(timeout=20)[1]
    assert starting.returncode == 130
    assert mlxhub("stop").stdout == "stopped\n"


def test_a_stop_of_a_hub_that_is_killed_meanwhile_does_not_say_that_all_have_stopped(home: Path, write: Write) -> None:
    write(a=STUBBORN)
    mlxhub("start")
    wait_until((home / "deaf").exists)
    hub, stopping = pid(), begun("stop")
    wait_until(lambda: ControlClient("hub.yaml").get("/hub/status")["models"][0]["state"] == "stopping")
    os.kill(hub, signal.SIGKILL)
    said = stopping.communicate(timeout=20)
    assert (stopping.returncode, said[0]) == (1, "")
    assert said[1] == "the hub has ended before 1 of its models had; `mlxhub start` finds those that go on\n"


def test_a_model_that_is_named_twice_is_started_once_and_all_is_well(write: Write) -> None:
    write(a=SLEEPER)
    mlxhub("start")
    assert mlxhub("start-model", "a", "a", "--wait").returncode == 0
    assert mlxhub("stop-model", "a", "a").returncode == 0


# A hub that cannot be asked.


def test_a_hub_whose_socket_is_gone_is_no_hub_that_does_not_run(home: Path, write: Write) -> None:
    write(a=SLEEPER)
    mlxhub("start")
    hub, place = pid(), place_of("hub.yaml")
    place.socket.unlink()
    for command in (["stop"], ["doctor"]):
        done = mlxhub(*command)
        assert done.returncode == 1
        assert f"hub.yaml (pid {hub}) runs, but nobody listens on {place.socket}; SIGTERM" in done.stderr + done.stdout
    os.kill(hub, signal.SIGTERM)
    wait_until(lambda: not is_held(place.lock))


def test_a_hub_whose_file_has_become_a_directory_can_be_stopped(home: Path, write: Write) -> None:
    write(a=SLEEPER)
    mlxhub("start")
    (home / "hub.yaml").unlink()
    (home / "hub.yaml").mkdir()
    assert mlxhub("check").stderr.endswith("hub.yaml: cannot be read: Is a directory\n")
    assert mlxhub("reload").returncode == 2
    assert mlxhub("status").returncode == 0
    assert mlxhub("stop").stdout == "stopped\n"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("loop.yaml", "a link that leads to itself"),
        ("x" * 300, "File name too long"),
        ("hub.yaml/x", "which does not exist"),
    ],
)
def test_a_file_that_cannot_even_be_looked_for_is_told(home: Path, write: Write, config: str, said: str) -> None:
    write(a=SLEEPER)
    (home / "loop.yaml").symlink_to("loop.yaml")
    for command in ("status", "start", "logs", "watch", "doctor", "sd"):
        done = mlxhub(command, "-c", config, *(["a"] if command == "logs" else []))
        assert done.returncode in (1, 2, 3), command
    assert said in mlxhub("status", "-c", config).stderr
    (home / "loop.yaml").unlink()


def test_without_a_current_directory_a_hub_can_be_asked_by_its_whole_path(home: Path, write: Write) -> None:
    config = str(write(a=SLEEPER))
    mlxhub("start")
    (home / "gone").mkdir()
    os.chdir(home / "gone")
    (home / "gone").rmdir()
    assert "sleep" not in mlxhub("status", "-c", config).stderr
    assert mlxhub("status", "-c", config).returncode == 0
    done = mlxhub("status")
    assert (done.returncode, done.stderr) == (1, "the current directory is not there any more; `cd` to another\n")


# Files, logs, limits.


def test_the_demo_writes_over_no_hub_yaml_of_yours(home: Path, write: Write) -> None:
    before = write(a=SLEEPER).read_text()
    done = mlxhub("demo", "--once", "--dir", ".")
    assert done.returncode == 1
    assert "hub.yaml is not from the demo" in done.stderr
    assert (home / "hub.yaml").read_text() == before
    assert not (home / "models").exists()


def test_the_log_of_a_hub_is_begun_anew_when_it_was_removed(home: Path, write: Write) -> None:
    write(a=SLEEPER)
    mlxhub("start")
    log = home / "logs" / "_hub.log"
    log.unlink()
    mlxhub("restart-model", "a")
    wait_until(lambda: log.exists() and "a started" in log.read_text())


def test_a_log_that_cannot_be_read_is_told(home: Path, write: Write) -> None:
    write(a=SLEEPER)
    (home / "logs" / "a.log").mkdir(parents=True)
    done = mlxhub("logs", "a")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"a: its log {home}/logs/a.log cannot be read (it is a directory)\n"


def test_a_hub_allows_itself_as_many_files_as_its_user_may_open(home: Path, write: Write) -> None:
    write(**{f"m{number}": SLEEPER for number in range(80)})

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))

    done = mlxhub("start", preexec_fn=limit)
    assert done.returncode == 0, done.stderr
    assert {model["state"] for model in json.loads(mlxhub("status", "--json").stdout)} == {"ready"}


def test_a_hub_that_may_open_too_few_files_leaves_the_models_of_the_one_before_as_they_are(
    home: Path, write: Write
) -> None:
    names = [f"m{number}" for number in range(30)]
    write(**dict.fromkeys(names, SLEEPER))
    mlxhub("start")
    running = {model["pid"] for model in json.loads(mlxhub("status", "--json").stdout)}
    mlxhub("stop", "--keep-models")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    assert mlxhub("start", preexec_fn=limit).returncode == 1
    with contextlib.suppress(HubError):
        mlxhub("stop", "--keep-models")
    wait_until(lambda: not is_held(place_of("hub.yaml").lock))
    mlxhub("start")
    assert {model["pid"] for model in json.loads(mlxhub("status", "--json").stdout)} == running


@pytest.mark.sinks("prometheus")
def test_a_sink_that_does_not_work_yet_is_told_by_the_start(home: Path, write: Write) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        write(top=f"sinks: {{prometheus: {{listen: '127.0.0.1:{port}'}}}}\n", a=SLEEPER)
        done = mlxhub("start")
    assert done.returncode == 0
    assert "prometheus: does not work yet: open: " in done.stderr


# What is printed.


@pytest.mark.parametrize("command", [["version"], ["check"], ["schema"], ["sinks", "list"], ["doctor"]])
def test_an_output_that_is_full_is_told_in_a_line(write: Write, command: list[str]) -> None:
    write(a=SLEEPER)
    with Path("/dev/full").open("w") as full:
        done = mlxhub(*command, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "it cannot be done (No space left on device)"


def test_an_output_that_is_closed_is_no_reason_to_fail(write: Write) -> None:
    write(a=SLEEPER)
    mlxhub("start")
    for command in ("events", "logs a", "status", "explain a"):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{MLXHUB} {command} >&-"], capture_output=True, text=True, timeout=50, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), command


def test_a_name_that_the_terminal_cannot_say_is_told(home: Path) -> None:
    (home / "hub.yaml").write_text("log_path: lögs\nmodels: [{name: a, command: [sleep, '1000'], health: off}]\n")
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = mlxhub("start", env=plain)
    assert done.returncode == 1
    assert done.stderr == "a name cannot be written in the language of this terminal; set LC_ALL=C.UTF-8\n"
    assert mlxhub("start").returncode == 0


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e400", "1e300", "0", "-1"])
def test_a_wait_without_end_is_refused_before_anything_is_done(write: Write, seconds: str) -> None:
    write(a=SLEEPER)
    done = mlxhub("start", "--timeout", seconds)
    assert done.returncode == 2
    assert "--timeout" in done.stderr
    assert mlxhub("status").returncode == 3


@pytest.mark.parametrize("command", [["watch", "--interval"], ["sinks", "test", "loguru", "--timeout"]])
def test_nan_is_in_no_range(command: list[str]) -> None:
    done = mlxhub(*command, "nan")
    assert done.returncode == 2
    assert "'nan' is no number of seconds" in done.stderr


def test_a_moment_that_nobody_could_mean_is_refused() -> None:
    assert mlxhub("events", "--since", "9" * 5000 + "d").returncode == 2
