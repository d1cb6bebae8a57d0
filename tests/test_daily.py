"""What people ask a hub every day, of a real one in the background: events, explain, logs, reset, waits for models."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxhub_core.control.client import ControlClient
from mlxhub_core.testing import FAKE_SERVER, wait_until

MLXHUB = str(Path(sys.executable).with_name("mlxhub"))
SERVER = [sys.executable, "-I", "-S", FAKE_SERVER, "--port", "{port}"]
BAD = ["sh", "-c", "echo run $$; echo 'no such weights' >&2; exit 3", "bad", "{port}"]
MODELS: dict[str, dict[str, Any]] = {
    "good": {"command": SERVER, "default": True},
    "bad": {"command": BAD, "restart": {"delay": 0.05, "jitter": 0, "max_failures": 3}},
    "mute": {"command": SERVER},
}


@pytest.fixture(scope="module")
def home(module_home: Path) -> Iterator[Path]:
    models = [{"name": name, **model} for name, model in MODELS.items()]
    Path("hub.yaml").write_text(f"log_path: logs\nmodels: {json.dumps(models)}\n")
    yield module_home
    mlxhub("stop")


@pytest.fixture
def hub(home: Path) -> ControlClient:
    """One hub for all tests of this file. None of them minds what the others have done to its models."""
    assert mlxhub("start").returncode == 0
    return ControlClient("hub.yaml")


def mlxhub(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([MLXHUB, *arguments], capture_output=True, text=True, timeout=50, check=False)
    assert "Traceback" not in done.stderr + done.stdout
    return done


def model(name: str) -> dict[str, Any]:
    return next(each for each in ControlClient("hub.yaml").get("/hub/status")["models"] if each["name"] == name)


def fail_for_good(name: str = "bad") -> None:
    mlxhub("start-model", name)
    wait_until(lambda: model(name)["state"] == "failed")


class Following:
    """A command that goes on, and the lines of its standard output."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen([MLXHUB, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def until_it_reads(self, *logs: str) -> None:
        """What comes before it has begun is none of its business."""
        names = {str(Path("logs", f"{log}.log").resolve()) for log in logs}
        process = psutil.Process(self.process.pid)
        wait_until(lambda: names <= {file.path for file in process.open_files()})

    def until(self, words: str) -> str:
        while words not in (line := self.line()):
            assert line, f"it ended without saying {words!r}"
        return line

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=20)
        return self.process.returncode


# events


def test_events_are_a_line_each_with_when_which_model_and_what(hub: ControlClient) -> None:
    fail_for_good()
    lines = mlxhub("events", "bad").stdout.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  bad  ", line) for line in lines)
    told = [line.split("  ", 2)[2] for line in lines[-4:]]
    assert re.fullmatch(r"restarts in 0\.\d s \(attempt 2\)", told[0])
    assert re.fullmatch(r"started \(pid \d+\): the hub starts it again by its `restart` rule", told[1])
    assert re.fullmatch(r"failed \(exit code 3\) after \d\.\d s", told[2])
    assert told[3] == "ended 3 times; stays down until somebody starts it"
    assert mlxhub("events").stdout.splitlines()[0].split("  ")[1:] == [
        "-",
        f"the hub started (pid {hub.get('/hub/status')['pid']}, mlxhub {hub.get('/hub/status')['version']})",
    ]


def test_events_since_a_moment_are_those_that_came_then_or_later(hub: ControlClient) -> None:
    began = time.time()
    mlxhub("stop-model", "good")
    mlxhub("start-model", "good", "--wait")
    hooks = ["model_stopped", "model_started", "model_ready"]
    for since in (repr(began), "1h"):
        lines = mlxhub("events", "--since", since, "--json", "good").stdout.splitlines()
        assert [event["hook"] for event in map(json.loads, lines)][-3:] == hooks
    told = mlxhub("events", "--since", repr(began), "--json").stdout.splitlines()
    assert [event["hook"] for event in map(json.loads, told)] == hooks
    assert mlxhub("events", "--since", "2100-01-01").stdout == ""
    done = mlxhub("events", "--since", "yesterday")
    assert done.returncode == 2
    assert "'yesterday' is no moment; write 10m," in done.stderr


def test_events_are_followed_until_ctrl_c(hub: ControlClient) -> None:
    follower = Following("events", "-f", "--since", repr(time.time()), "--json", "good")
    mlxhub("restart-model", "good")
    assert json.loads(follower.line())["hook"] == "model_stopped"
    assert json.loads(follower.line())["pid"] == model("good")["pid"]
    assert follower.interrupt() == 130


def test_an_unknown_model_gets_the_nearest_name(hub: ControlClient) -> None:
    for command in (["events"], ["explain"], ["logs"], ["start-model"], ["reset"]):
        done = mlxhub(*command, "goood")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith("; did you mean 'good'?\n")


# explain


def test_explain_tells_the_story_of_a_model_that_was_given_up(hub: ControlClient, home: Path) -> None:
    fail_for_good()
    told = mlxhub("explain", "bad").stdout
    assert re.match(r"bad has failed \(exit code 3 after 0\.\d s\), and stays down\.\n", told)
    assert "restarts  2 (automatic)" in told
    first, last = re.findall(
        r"The (first failure in a row|last failure): .*\n"
        r"  exit      3: it ended by itself, and says that something went wrong\n"
        r"  ran for   0\.\d s\n"
        r"  its last lines\n"
        r"  \| run (\d+)\n"
        r"  \| no such weights\n",
        told,
    )
    assert (first[0], last[0]) == ("first failure in a row", "last failure")
    assert first[1] != last[1], "each with the words of its own run"
    assert "Nothing by itself: its `restart:` rule allows no further try until somebody starts it." in " ".join(
        told.split()
    )
    commands = re.findall(r"^  mlxhub (\S+)", told, re.MULTILINE)
    assert commands == ["logs", "logs", "start-model", "events"]


def test_what_explain_advises_can_be_typed(hub: ControlClient) -> None:
    fail_for_good()
    for advice in json.loads(mlxhub("explain", "bad", "--json").stdout)["advice"]:
        assert advice["command"].startswith("mlxhub ")
        done = mlxhub(*advice["command"].split()[1:])
        assert done.returncode == ("--wait" in advice["command"]), "it fails again"
        assert "Usage" not in done.stderr


def test_explain_is_one_object_for_programs(hub: ControlClient) -> None:
    fail_for_good()
    story = json.loads(mlxhub("explain", "bad", "--json").stdout)
    assert (story["name"], story["state"], story["status"]["restarts"]) == ("bad", "failed", 2)
    assert [failure["what"] for failure in story["failures"]] == ["the first failure in a row", "the last failure"]
    assert story["failures"][0]["log_tail"][-1] == "no such weights"


def test_explain_says_what_a_signal_means(hub: ControlClient) -> None:
    mlxhub("start-model", "mute", "--wait")
    os.kill(model("mute")["pid"], signal.SIGKILL)
    wait_until(lambda: model("mute")["last_failure"] is not None)
    told = mlxhub("explain", "mute").stdout
    assert "-9 SIGKILL: killed; the system does that when memory runs out" in told
    mlxhub("stop-model", "mute")
    told = mlxhub("explain", "mute").stdout
    assert told.startswith("mute is stopped: somebody asked for it.\n")
    assert "mlxhub start-model mute --wait" in told


def test_explain_of_a_model_that_is_well_says_so(hub: ControlClient) -> None:
    told = mlxhub("explain", "good").stdout
    assert told.startswith("good is ready, and nothing is wrong.\n")
    assert re.search(rf"process   pid {model('good')['pid']}, port \d+, \d+MB of memory\n", told)


# logs


def test_a_log_is_shown_byte_for_byte_and_its_last_lines_if_asked(hub: ControlClient, home: Path) -> None:
    fail_for_good()
    log = (home / "logs" / "bad.log").read_text()
    assert mlxhub("logs", "bad", "-n", "all").stdout == log
    assert mlxhub("logs", "bad", "-n", "1").stdout == "no such weights\n"
    assert mlxhub("logs", "bad", "-n", "0").stdout == ""
    done = mlxhub("logs", "bad", "-n", "-1")
    assert (done.returncode, "no number of lines; write one, or all" in done.stderr) == (2, True)


def test_the_runs_of_a_log_are_told_apart(hub: ControlClient, home: Path) -> None:
    fail_for_good()
    *_, before, _, last, _ = (home / "logs" / "bad.log").read_text().splitlines(keepends=True)
    assert mlxhub("logs", "bad", "--since-start").stdout == f"{last}no such weights\n"
    assert mlxhub("logs", "bad", "--previous").stdout == f"{before}no such weights\n"
    assert mlxhub("logs", "bad", "--previous", "-f").returncode == 2


def test_lines_of_several_logs_stand_behind_the_names_of_their_models(hub: ControlClient) -> None:
    fail_for_good()
    lines = mlxhub("logs", "bad", "good", "-n", "1").stdout.splitlines()
    assert lines[0] == "bad  | no such weights"
    assert lines[1].startswith("good | ")
    assert len(lines) == 2


def test_logs_are_followed_through_rotations(hub: ControlClient) -> None:
    follower = Following("logs", "-f", "-n", "0", "bad", "good")
    follower.until_it_reads("bad", "good")
    mlxhub("restart-model", "good", "--wait")
    assert follower.until("Starting httpd").startswith("good | ")
    mlxhub("logs", "rotate", "bad", "good")
    mlxhub("start-model", "bad")
    assert follower.until("bad  | run ")
    assert follower.interrupt() == 130


def test_the_log_of_a_single_model_is_followed_as_it_is(hub: ControlClient) -> None:
    follower = Following("logs", "-f", "-n", "0", "bad")
    follower.until_it_reads("bad")
    fail_for_good()
    assert follower.until("run ").startswith("run ")
    assert follower.interrupt() == 130


# start-model --wait, reset


def test_the_wait_for_models_tells_of_each_and_ends_when_all_are_ready_or_have_failed(hub: ControlClient) -> None:
    done = mlxhub("restart-model", "--wait", "good", "bad")
    assert done.returncode == 1
    assert re.fullmatch(r"good: ready in \d\.\d s\n", done.stdout)
    head, *rest = done.stderr.splitlines()
    assert head.startswith("bad: failed (exit code 3 after ")
    assert rest[-2:] == ["  | no such weights", "  `mlxhub explain bad` says more"]


def test_who_waits_for_a_model_that_runs_is_told_at_once(hub: ControlClient) -> None:
    assert re.fullmatch(r"good: ready; it has run for \d+s\n", mlxhub("start-model", "good", "--wait").stdout)


def test_reset_forgets_that_a_model_has_failed_and_does_not_start_it(hub: ControlClient) -> None:
    fail_for_good()
    assert mlxhub("reset", "bad").returncode == 0
    found = model("bad")
    assert (found["state"], found["last_failure"], found["restarts"]) == ("stopped", None, 0)
    done = mlxhub("reset", "good")
    assert (done.returncode, done.stderr) == (
        1,
        "good: is ready, and only a failed one can be reset; stop it first\n",
    )


# All of them.


QUICK = ["status", "explain good", "events", "logs good", "start-model good", "stop-model mute", "reset mute", "reload"]
HEAVY = {
    "asyncio",
    "http",
    "ssl",
    "httpx",
    "pydantic",
    "loguru",
    "starlette",
    "uvicorn",
    "rich",
    "pluggy",
    "psutil",
    "yaml",
}


@pytest.mark.parametrize("command", [*QUICK, "stop"])
def test_a_command_that_asks_imports_nothing_that_takes_long(hub: ControlClient, command: str) -> None:
    program = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['mlxhub', *{command.split()}]\n"
        "from mlxhub_core.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True)
    imported = set(done.stderr.splitlines()[-1].split())
    assert "mlxhub_core.control.wire" in imported
    assert not HEAVY & imported


def test_without_a_hub_only_its_logs_can_be_read(home: Path) -> None:
    mlxhub("stop")
    (home / "logs").mkdir(exist_ok=True)
    (home / "logs" / "mute.log").write_text("hello\n")
    assert mlxhub("logs", "mute").stdout == "hello\n"
    done = mlxhub("logs", "mute", "--previous")
    assert done.returncode == 3
    assert done.stderr.endswith("start one with `mlxhub start`; only it knows where a run began\n")
    for command in ("events", "explain good", "reset good", "start-model good --wait", "events -f"):
        done = mlxhub(*command.split())
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == f"no hub runs for {home}/hub.yaml; start one with `mlxhub start`\n"


def test_a_model_may_be_called_rotate(home: Path) -> None:
    (home / "rotate.yaml").write_text("log_path: others\nmodels: [{name: rotate, command: [x]}]\n")
    (home / "others").mkdir()
    (home / "others" / "rotate.log").write_text("mine\n")
    assert mlxhub("logs", "-c", "rotate.yaml", "--", "rotate").stdout == "mine\n"
    assert mlxhub("logs", "rotate", "-c", "rotate.yaml").returncode == 3


def test_who_follows_events_is_told_when_the_hub_ends(hub: ControlClient) -> None:
    follower = Following("events", "-f")
    follower.line()
    mlxhub("stop")
    out, err = follower.process.communicate(timeout=20)
    assert (follower.process.returncode, err) == (3, b"the hub has ended\n")
    assert b"the hub begins to shut down" in out
