"""The command `mlxhub`, as a person calls it: a process of its own, its output, its exit code."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click
import psutil
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from mlxhub_core import __version__
from mlxhub_core.cli import cli
from mlxhub_core.cli.common import ECHO_SECONDS
from mlxhub_core.testing import FAKE_SERVER, wait_until

MLXHUB = [sys.executable, "-m", "mlxhub_core"]
FOREVER = f"[{sys.executable}, -I, -S, -c, 'import signal; signal.pause()']"
DEAF = f"[{sys.executable}, -I, -S, {FAKE_SERVER}, --port, '{{port}}', --ignore-sigterm]"

Mlxhub = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def mlxhub(tmp_path: Path) -> Mlxhub:
    """Runs the command in an empty directory and returns when it has ended."""

    def run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **(env or {})}
        done = subprocess.run(
            [*MLXHUB, *arguments], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=50, check=False
        )
        assert "Traceback" not in done.stderr
        return done

    return run


class Running:
    """The command, running, with its standard error to read from."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [*MLXHUB, *arguments],
            cwd=directory,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            process_group=0,
        )
        self.seen = ""

    def until(self, words: str) -> None:
        assert self.process.stderr is not None
        while words not in self.seen:
            line = self.process.stderr.readline()
            assert line, f"it ended without saying {words!r}:\n{self.seen}"
            self.seen += line

    def end(self) -> int:
        assert self.process.stderr is not None
        self.seen += self.process.stderr.read()
        return self.process.wait(30)


def model_of(hub: int) -> psutil.Process:
    """The only model of a hub: between the two are its zygote and the model's keeper."""
    (model,) = (child for child in psutil.Process(hub).children(recursive=True) if not in_between(child))
    return model


def in_between(process: psutil.Process) -> bool:
    try:
        return "zygote" in process.cmdline()
    except psutil.NoSuchProcess:  # A keeper has tried how it starts a process.
        return True


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def run(text: str) -> Running:
        (tmp_path / "hub.yaml").write_text(text)
        running.append(Running(tmp_path, "start", "--foreground"))
        return running[-1]

    yield run
    for command in running:
        for process in (
            [*psutil.Process(command.process.pid).children(recursive=True)] if command.process.poll() is None else []
        ):
            process.kill()
        command.process.kill()
        command.process.wait()
        assert command.process.stderr is not None
        command.process.stderr.close()


def test_help_lists_every_command_with_a_line_of_its_own(mlxhub: Mlxhub) -> None:
    done = mlxhub("--help")
    assert done.returncode == 0
    names = cli.list_commands(click.Context(cli))
    assert set(names) >= {"start", "init", "check", "schema", "sinks", "demo"}
    for command in names:
        (line,) = re.findall(rf"^  {command} +(.*)$", done.stdout, re.MULTILINE)
        assert line.endswith("."), "a line that is cut off"


@pytest.mark.parametrize("command", cli.list_commands(click.Context(cli)))
def test_each_command_has_a_help_of_its_own(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"], prog_name="mlxhub")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: mlxhub {command} [OPTIONS]")


def test_to_list_the_commands_is_to_import_none_of_them(tmp_path: Path) -> None:
    program = (
        "import atexit, sys\natexit.register(lambda: print(*sys.modules))\nfrom mlxhub_core.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    imported = done.stdout.splitlines()[-1].split()
    assert [name for name in imported if name.startswith("mlxhub_core.cli.")] == ["mlxhub_core.cli.lazy"]
    assert not {"rich", "pydantic", "loguru"} & set(imported)


def test_version(mlxhub: Mlxhub) -> None:
    assert mlxhub("--version").stdout == f"mlxhub {__version__}\n"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("stat", "no such command 'stat'; did you mean 'start'?"),
        ("sinks lst", "no such command 'lst'; did you mean 'list'?"),
        ("xyzzy", "no such command 'xyzzy'"),
    ],
)
def test_an_unknown_command_is_a_usage_error_with_the_nearest_name(words: str, error: str) -> None:
    result = CliRunner().invoke(cli, words.split(), prog_name="mlxhub")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"Error: {error}"


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("mlxhub s", ["start", "stop", "schema", "sinks"]),
        ("mlxhub sinks l", ["list"]),
        ("mlxhub stat x", []),
        ("mlxhub sinks describe --j", ["--json-schema"]),
    ],
)
def test_a_line_is_completed_with_tab_and_a_slip_in_it_is_no_error_there(line: str, completed: list[str]) -> None:
    *words, begun = line.split()
    completion = ShellComplete(cli, {}, "mlxhub", "_MLXHUB_COMPLETE")
    found = {item.value: item.help for item in completion.get_completions(words[1:], begun)}
    assert [word for word in found if word in completed] == completed
    assert bool(found) is bool(completed)
    assert not any(str(found[word]).endswith("...") for word in completed), "a line of help that is cut off"


def test_a_good_file_is_ok(mlxhub: Mlxhub, tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text("models: [{name: a, command: [x]}]\n")
    done = mlxhub("check")
    assert (done.returncode, done.stdout) == (0, "hub.yaml: ok (1 model; sinks: loguru)\n")


def test_every_mistake_is_told_with_its_place_and_exit_code_2(mlxhub: Mlxhub, tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text("hots: x\nmodels:\n  - {name: a b, comand: [x]}\nsinks: {nosuch: {}}\n")
    for command in ("check", "start"):
        done = mlxhub(command)
        assert done.returncode == 2
        lines = done.stderr.splitlines()
        assert lines[0].startswith("hub.yaml:1:1: hots: unknown key; did you mean 'host'?")
        assert [line.partition(" ")[0] for line in lines] == [
            "hub.yaml:1:1:",
            "hub.yaml:3:5:",
            "hub.yaml:3:6:",
            "hub.yaml:3:17:",
            "hub.yaml:4:9:",
        ]


def test_check_warns_of_what_models_lack_here(mlxhub: Mlxhub, tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text("models:\n  - {name: a, command: [gone]}\n  - {name: b, model_path: ./typo}\n")
    done = mlxhub("check")
    assert (done.returncode, done.stdout) == (0, "hub.yaml: ok (2 models; sinks: loguru)\n")
    first, second = done.stderr.splitlines()
    assert first.startswith("warning: hub.yaml:2:5: models[0]: command: no program 'gone' on the PATH; install it")
    assert second.startswith(f"warning: hub.yaml:3:5: models[1]: model_path: {tmp_path}/typo is not there; name")


def test_a_missing_file_says_how_to_name_another(mlxhub: Mlxhub) -> None:
    done = mlxhub("start", "--config", "none.yaml")
    assert done.returncode == 2
    assert "none.yaml: no such file" in done.stderr
    assert "--config" in done.stderr


def test_the_file_can_be_named_by_the_environment(mlxhub: Mlxhub, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("models: [{name: a, command: [x]}]\n")
    assert mlxhub("check", env={"MLXHUB_CONFIG": "mine.yaml"}).returncode == 0


@pytest.mark.parametrize("arguments", ["other.yaml", "-c other.yaml"])
def test_another_file_may_be_named_with_or_without_the_option(mlxhub: Mlxhub, tmp_path: Path, arguments: str) -> None:
    (tmp_path / "other.yaml").write_text("models: [{name: a, command: [x]}]\n")
    (tmp_path / "hub.yaml").write_text("models: wrong\n")
    done = mlxhub("check", *arguments.split(), env={"MLXHUB_CONFIG": "hub.yaml"})
    assert (done.returncode, done.stdout) == (0, "other.yaml: ok (1 model; sinks: loguru)\n")


def test_keys_of_the_seeds_hub_are_one_warning_each(mlxhub: Mlxhub, tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text("port: 8000\nmodels: [{name: a, model_path: x, model_type: lm}]\n")
    done = mlxhub("check")
    assert done.returncode == 0
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ["warning", "warning"]


def test_nothing_is_coloured_where_nobody_sees_it(mlxhub: Mlxhub) -> None:
    assert "\x1b" not in mlxhub("start").stderr


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_is_for_terminals_and_no_color_is_heeded(
    tmp_path: Path, environ: dict[str, str], coloured: bool
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*MLXHUB, "start", "--foreground"], cwd=tmp_path, stderr=theirs, env={**os.environ, **environ}
    )
    os.close(theirs)
    process.wait(30)
    seen = os.read(ours, 10_000)
    os.close(ours)
    assert (b"\x1b[31m" in seen) is coloured


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("command: [x]", "no model runs yet; `mlxhub start-model NAME` starts one"),
        ("command: [no-such-program], default: true", "a: command: no program 'no-such-program' on the PATH"),
    ],
)
def test_a_hub_of_which_no_model_runs_says_so_and_waits_for_one(
    start: Callable[[str], Running], model: str, said: str
) -> None:
    command = start(f"log_path: logs\nmodels: [{{name: a, {model}}}]\n")
    command.until("Ctrl-C stops everything")
    assert said in command.seen
    command.process.terminate()
    assert command.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_start_runs_until_it_is_told_to_stop_and_takes_the_models_along(
    start: Callable[[str], Running], number: signal.Signals
) -> None:
    command = start(f"log_path: logs\nmodels: [{{name: a, default: true, command: {FOREVER}}}]\n")
    command.until("Ctrl-C stops everything")
    model = model_of(command.process.pid)
    # As a terminal does, to all of the group: neither keeper nor model may be in it, or they would end by themselves.
    os.killpg(command.process.pid, number)
    assert command.end() == 0
    assert "a stopped (SIGTERM)" in command.seen
    assert not model.is_running()


def test_a_terminal_that_is_gone_keeps_nobody_from_stopping_the_models(tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text(f"log_path: logs\nmodels: [{{name: a, default: true, command: {FOREVER}}}]\n")
    process = subprocess.Popen(
        [*MLXHUB, "start", "--foreground"], cwd=tmp_path, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert process.stderr is not None
    process.stderr.readline()
    model = model_of(process.pid)
    process.stderr.close()
    process.terminate()
    process.wait(20)
    assert not model.is_running()


def test_a_pipe_that_takes_no_more_words_keeps_nobody_from_stopping_the_models(tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text(f"log_path: logs\nmodels: [{{name: a, default: true, command: {FOREVER}}}]\n")
    read, write = os.pipe()
    process = subprocess.Popen([*MLXHUB, "start", "--foreground"], cwd=tmp_path, stderr=write, stdin=subprocess.DEVNULL)
    os.read(read, 1)
    model = model_of(process.pid)
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x")
    os.set_blocking(write, True)
    process.terminate()
    wait_until(lambda: not model.is_running())
    os.close(read)
    os.close(write)
    process.wait(20)


def test_ctrl_c_ends_the_wait_for_a_reload(start: Callable[[str], Running], tmp_path: Path) -> None:
    text = (
        f"log_path: logs\nmodels: [{{name: a, default: true, stop_timeout: 600, command: {DEAF}, env: {{A: '%s'}}}}]\n"
    )
    command = start(text % 1)
    command.until("a is ready")
    command.until("Ctrl-C stops everything")
    (tmp_path / "hub.yaml").write_text(text % 2)
    command.process.send_signal(signal.SIGHUP)
    command.process.send_signal(signal.SIGINT)
    command.until("Ctrl-C again kills")
    threading.Event().wait(ECHO_SECONDS + 0.1)
    command.process.send_signal(signal.SIGINT)
    assert command.end() == 0
    assert command.seen.count("a started") == 1


def test_a_signal_that_comes_twice_at_once_is_no_impatience(start: Callable[[str], Running]) -> None:
    slow = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), sys.exit(7)))\nprint(1)\nsignal.pause()"
    model = f"name: a, default: true, command: [{sys.executable}, -I, -S, -u, -c, {json.dumps(slow)}]"
    command = start(f"log_path: logs\nmodels: [{{{model}}}]\n")
    command.until("Ctrl-C stops everything")
    wait_until(lambda: (command.directory / "logs" / "a.log").read_text() == "1\n")
    for _ in range(2):
        command.process.send_signal(signal.SIGINT)
    command.until("Ctrl-C again kills")
    command.process.send_signal(signal.SIGINT)
    assert command.end() == 0
    assert "a stopped (exit code 7)" in command.seen


def test_a_second_ctrl_c_kills_a_model_that_takes_its_time(start: Callable[[str], Running]) -> None:
    command = start(f"log_path: logs\nmodels: [{{name: a, default: true, stop_timeout: 600, command: {DEAF}}}]\n")
    command.until("a is ready")
    command.until("Ctrl-C stops everything")
    command.process.send_signal(signal.SIGINT)
    model = model_of(command.process.pid)
    command.until("Ctrl-C again kills")
    threading.Event().wait(ECHO_SECONDS + 0.1)
    command.process.send_signal(signal.SIGINT)
    assert command.end() == 0
    assert "killing what still runs" in command.seen
    assert "the hub had to kill it" in command.seen
    assert not model.is_running()


def test_sighup_reads_the_file_again_and_a_wrong_one_changes_nothing(
    start: Callable[[str], Running], tmp_path: Path
) -> None:
    text = f"log_path: logs\nmodels:\n - {{name: a, default: true, command: {FOREVER}}}\n"
    command = start(text)
    command.until("Ctrl-C stops everything")
    (tmp_path / "hub.yaml").write_text("models: 1\n")
    command.process.send_signal(signal.SIGHUP)
    command.until("hub.yaml was not applied")
    (tmp_path / "hub.yaml").write_text(text + f" - {{name: b, default: true, command: {FOREVER}}}\n")
    command.process.send_signal(signal.SIGHUP)
    command.until("b started")
    command.process.send_signal(signal.SIGTERM)
    assert command.end() == 0
    assert command.seen.count("a started") == 1
