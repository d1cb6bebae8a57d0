"""`mlxhub sinks status`, asked of a real `mlxhub start`, and the socket that this one has open while it runs."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from mlxhub_core.cli.common import ECHO_SECONDS
from mlxhub_core.control.client import ControlClient
from mlxhub_core.control.server import ControlServer
from mlxhub_core.observability import HubInfo, SinkStats
from mlxhub_core.place import make_private, place_of
from mlxhub_core.testing import FAKE_SERVER, wait_until

MLXHUB = [sys.executable, "-m", "mlxhub_core"]
FOREVER = f"[{sys.executable}, -I, -S, -c, 'import signal; signal.pause()']"
DEAF = f"[{sys.executable}, -I, -S, {FAKE_SERVER}, --port, '{{port}}', --ignore-sigterm]"
RUNS = "Ctrl-C stops everything"

WELL = SinkStats("loguru", 9, 9, 0, 0, 0, 1024, True, None, 0.0, 0.4)
ILL = SinkStats("statsd/eu", 30, 4, 7, 3, 16, 64, False, "open: OSError: [red]no[/] \x1b[2J \ud800", None, 12.6)

Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "200")
    return home


@pytest.fixture
def config(home: Path) -> Path:
    path = home / "hub.yaml"
    path.write_text(f"log_path: logs\nmodels: [{{name: a, default: true, command: {FOREVER}}}]\n")
    return path


@pytest.fixture
def start(config: Path) -> Iterator[Start]:
    """Starts `mlxhub start`; see `until`."""
    running: list[subprocess.Popen[str]] = []

    def run() -> subprocess.Popen[str]:
        running.append(
            subprocess.Popen(
                [*MLXHUB, "start", "--foreground"], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
            )
        )
        return running[-1]

    yield run
    for process in running:
        process.terminate()  # With its models, those of a hub before it among them.
        process.wait(20)
        assert process.stderr is not None
        process.stderr.close()


def until(process: subprocess.Popen[str], *words: str) -> str:
    """What it says until it has said all these words."""
    assert process.stderr is not None
    seen = ""
    while not all(each in seen for each in words):
        line = process.stderr.readline()
        assert line, f"it ended without saying {words!r}:\n{seen}"
        seen += line
    return seen


def mlxhub(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*MLXHUB, *arguments], capture_output=True, text=True, timeout=50, check=False)
    assert "Traceback" not in done.stderr
    return done


# A hub that runs.


def test_a_hub_that_runs_says_what_became_of_the_events(start: Start) -> None:
    until(start(), RUNS)
    done = mlxhub("sinks", "status")
    assert (done.returncode, done.stderr) == (0, "")
    header, line = done.stdout.splitlines()
    assert " ".join(header.split()) == (
        "SINK OPEN QUEUE OFFERED DELIVERED FAILED DROPPED STUCK LAST SUCCESS LAST ERROR"
    )
    name, is_open, queue, offered, delivered, *rest = line.split()
    assert (name, is_open, queue) == ("loguru", "yes", "0/1024")
    assert int(offered) >= int(delivered) >= 1
    assert rest[:3] == ["0", "0", "-"]
    assert re.fullmatch(r"\d+s", rest[3])
    assert rest[4:] == ["-"]


def test_for_programs_there_is_one_json_document_with_all_that_is_known(start: Start) -> None:
    until(start(), RUNS)
    done = mlxhub("sinks", "status", "--json")
    (sink,) = json.loads(done.stdout)
    assert sink["name"] == "loguru"
    assert set(sink) == set(asdict(WELL))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_where_no_hub_runs_the_exit_code_is_3_and_the_way_out_is_told(config: Path, arguments: tuple[str, ...]) -> None:
    done = mlxhub("sinks", "status", *arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"no hub runs for {config}; start one with `mlxhub start`\n"


def test_a_hub_yaml_that_does_not_exist_is_named(config: Path, start: Start) -> None:
    until(start(), RUNS)
    done = mlxhub("sinks", "status", "--config", "other.yaml")
    assert done.returncode == 3
    assert f"no hub runs for {config.with_name('other.yaml')}, which does not exist" in done.stderr


def test_the_socket_is_open_before_the_first_model_starts_and_gone_after_the_last_has_ended(
    config: Path, start: Start
) -> None:
    place = place_of(config)
    program = f"import os, signal; print(os.path.exists({str(place.socket)!r}), flush=True); signal.pause()"
    command = json.dumps([sys.executable, "-I", "-S", "-c", program])
    config.write_text(f"log_path: logs\nmodels: [{{name: a, default: true, command: {command}}}]\n")
    process = start()
    until(process, RUNS)
    wait_until(lambda: Path("logs/a.log").read_text() == "True\n")
    process.terminate()
    assert process.wait(30) == 0
    assert not place.socket.exists()
    assert mlxhub("sinks", "status").returncode == 3


def test_a_hub_that_is_stopping_answers_and_keeps_others_out_until_its_models_have_ended(
    config: Path, start: Start
) -> None:
    config.write_text(f"log_path: logs\nmodels: [{{name: a, default: true, stop_timeout: 600, command: {DEAF}}}]\n")
    process = start()
    until(process, "a is ready", RUNS)
    process.terminate()
    until(process, "Ctrl-C again kills")
    threading.Event().wait(ECHO_SECONDS + 0.1)
    assert mlxhub("sinks", "status").returncode == 0
    assert f"already runs (pid {process.pid})" in mlxhub("start", "--foreground").stderr
    process.terminate()
    assert process.wait(30) == 0


def test_a_second_start_is_refused_before_it_harms_anything(config: Path, start: Start) -> None:
    first = start()
    until(first, RUNS)
    for _ in range(2):
        done = mlxhub("start", "--foreground")
        assert done.returncode == 1
        assert done.stderr == f"a hub for {config} already runs (pid {first.pid}); stop it first\n"
    status = ControlClient(config).get("/hub/status")
    assert (status["pid"], status["config"]) == (first.pid, str(config))
    (model,) = status["models"]
    assert psutil.Process(model["pid"]).is_running()
    assert len(list(place_of(config).runs.glob("*.lock"))) == 1, "only one was started"


def test_what_a_killed_hub_has_left_does_not_keep_the_next_one_from_starting(config: Path, start: Start) -> None:
    first = start()
    until(first, RUNS)
    (model,) = ControlClient(config).get("/hub/status")["models"]
    first.kill()
    first.wait()
    assert place_of(config).socket.is_socket()
    assert mlxhub("sinks", "status").returncode == 3
    second = start()
    until(second, RUNS)
    status = ControlClient(config).get("/hub/status")
    assert (status["pid"], status["models"][0]["pid"]) == (second.pid, model["pid"])
    assert mlxhub("sinks", "status").returncode == 0


@pytest.mark.usefixtures("config")
def test_a_hub_that_has_no_place_for_locks_and_sockets_says_so_in_a_line_and_runs_nothing(home: Path) -> None:
    (home / ".mlxhub").write_text("")
    done = mlxhub("start", "--foreground")
    message = f"{home}/.mlxhub/run cannot be made (File exists); make it with mode 700\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


# What is shown.


class Hub:
    """As much of a hub as is asked."""

    def __init__(self, config_path: Path, *sinks: SinkStats) -> None:
        self.config_path = config_path
        self.sinks = sinks

    def info(self) -> HubInfo:
        return HubInfo("1", "3", None, 1, str(self.config_path), 0.0)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None

    def get_status(self) -> tuple[()]:
        return ()

    def sink_stats(self) -> tuple[SinkStats, ...]:
        return self.sinks


@pytest.fixture
def serve(config: Path) -> Iterator[Callable[..., None]]:
    servers: list[ControlServer] = []

    def run(*sinks: SinkStats) -> None:
        servers.append(ControlServer(cast(Any, Hub(config, *sinks)), place_of(config), lambda _: None))
        make_private(place_of(config).directory)
        servers[-1].start()

    yield run
    for server in servers:
        server.close()


def test_trouble_is_shown_in_plain_words_whatever_a_sink_says_of_it(serve: Callable[..., None]) -> None:
    serve(WELL, ILL)
    _, well, ill = mlxhub("sinks", "status").stdout.splitlines()
    assert well.split()[:8] == ["loguru", "yes", "0/1024", "9", "9", "0", "0", "-"]
    assert re.fullmatch(r"\d{5}d\d\dh", well.split()[8])
    assert " ".join(ill.split()) == r"statsd/eu no 16/64 30 4 7 3 13s - open: OSError: [red]no[/] \x1b[2J \ud800"


@pytest.mark.parametrize(("retried", "words"), [(1, "(tried again once)"), (7, "(tried again 7 times)")])
def test_a_sink_that_had_to_try_again_says_how_often(serve: Callable[..., None], retried: int, words: str) -> None:
    serve(replace(WELL, last_error="flush: OSError: away", retried=retried))
    assert " ".join(mlxhub("sinks", "status").stdout.split()).endswith(f"flush: OSError: away {words}")


def test_an_error_too_long_for_the_line_is_folded_and_not_cut(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    error = "open: ConnectionRefusedError: " + "x" * 100
    serve(replace(ILL, last_error=error))
    lines = mlxhub("sinks", "status").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert all(f"{column} " in lines[1] for column in ("OFFERED", "DELIVERED", "FAILED", "DROPPED", "STUCK"))
    start = lines[1].index("LAST ERROR")
    assert "".join(line[start:].strip() for line in lines[2:]) == error.replace(" ", "")


@pytest.mark.parametrize(
    ("seconds", "words"), [(-5, "0s"), (40, "40s"), (100, "1m40s"), (7500, "2h05m"), (273_700, "3d04h")]
)
def test_the_age_of_the_last_success_is_told_in_the_units_that_matter(
    serve: Callable[..., None], seconds: float, words: str
) -> None:
    serve(SinkStats("a", 1, 1, 0, 0, 0, 1, True, None, time.time() - seconds, 0.0))
    shown = mlxhub("sinks", "status").stdout.splitlines()[1].split()[8]
    # A slow machine may take some seconds to ask.
    assert shown == words or (words.endswith("s") and shown > words and shown.endswith("s"))


def on_a_terminal(*arguments: str) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*MLXHUB, *arguments], stdout=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    seen = b""
    # Linux says EIO where macOS says that this is all.
    try:
        while more := os.read(ours, 10_000):
            seen += more
    except OSError:
        pass
    os.close(ours)
    assert process.wait(30) == 0
    return seen.decode()


def test_colour_is_for_terminals_and_no_color_is_heeded(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(ILL)
    coloured = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in mlxhub("sinks", "status").stdout
    assert coloured.search(on_a_terminal("sinks", "status"))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured.search(on_a_terminal("sinks", "status"))
