"""Supervision that tells the truth, with real processes, real signals and servers that misbehave."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxhub_core import HubManager, LaunchError, MemoryShortError, ModelState, ModelStatus
from mlxhub_core.place import place_of
from mlxhub_core.testing import FAKE_SERVER, RecordingSink, wait_until

PORT = 29810
"""Below every ephemeral range; the tests that name a port use those from here on."""
QUICK = "{interval: 0.1, timeout: 0.4, failures: 2}"
AGAIN = "{delay: 0.05, jitter: 0}"


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "hub.yaml"


@pytest.fixture
def hub(config: Path, sink: RecordingSink) -> Iterator[HubManager]:
    with HubManager(config, observability_sink=sink) as manager:
        yield manager
    assert not list(place_of(config).runs.glob("*.lock")), "a model, or its keeper, outlived its hub"


def fake(*flags: str) -> str:
    return f"[{sys.executable}, -I, -S, {FAKE_SERVER}, --port, '{{port}}'{''.join(f', {flag!r}' for flag in flags)}]"


FOREVER = f"[{sys.executable}, -I, -S, -c, 'import signal; signal.pause()']"
STUBBORN = (
    f'[{sys.executable}, -I, -S, -c, \'import signal; signal.signal(15, signal.SIG_IGN); print("up", flush=True);'
    " signal.pause()']"
)


def model(name: str, command: str = FOREVER, **keys: object) -> str:
    lines = [f"  - name: {name}", *(f"    {key}: {value}" for key, value in keys.items())]
    return "\n".join([*lines, f"    command: {command}" if command else ""]) + "\n"


def write(config: Path, *models: str, top: str = "") -> None:
    config.write_text(f"log_path: logs\n{top}models:\n" + "".join(models))


def status(hub: HubManager, name: str) -> ModelStatus:
    return next(status for status in hub.get_status() if status.name == name)


def pid_of(hub: HubManager, name: str) -> int:
    pid = status(hub, name).pid
    assert pid is not None
    return pid


def test_a_model_that_turns_deaf_is_found_told_and_restarted(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    write(config, model("a", fake("--deaf-after", "0.3"), default="true", health=QUICK, restart=AGAIN))
    hub.reload()
    unhealthy = sink.wait_for("model_unhealthy", "a")
    assert unhealthy.arguments["reason"] == "no answer within 0.4 s, 2 times in a row"
    assert unhealthy.event.reason == "unhealthy"
    failed = sink.wait_for("model_failed", "a")
    assert (failed.event.reason, failed.arguments["exit_code"]) == ("unhealthy", -15)
    assert failed.event.detail == unhealthy.arguments["reason"]
    assert failed.event.run_id == unhealthy.event.run_id
    assert failed.event.restart_in == pytest.approx(0.05)
    sink.wait_for("model_ready", "a", count=2)
    assert sink.hooks_of("a")[:7] == [
        "model_started",
        "model_ready",
        "model_unhealthy",
        "model_failed",
        "model_restarting",
        "model_started",
        "model_ready",
    ]


def test_a_frozen_model_that_nobody_restarts_recovers_when_it_thaws(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    write(config, model("a", fake(), default="true", health=QUICK, restart="never"))
    hub.reload()
    sink.wait_for("model_ready", "a")
    pid = pid_of(hub, "a")
    os.kill(pid, signal.SIGSTOP)
    sink.wait_for("model_unhealthy", "a")
    assert status(hub, "a").state is ModelState.UNHEALTHY
    os.kill(pid, signal.SIGCONT)
    assert sink.wait_for("model_recovered", "a").arguments["unhealthy_seconds"] > 0
    assert (status(hub, "a").state, status(hub, "a").pid) == (ModelState.READY, pid)
    hub.stop_model("a")
    sink.wait_for("model_stopped", "a")
    assert sink.hooks_of("a")[-2:] == ["model_recovered", "model_stopped"]


def test_a_stop_by_hand_of_an_unhealthy_model_is_a_stop(hub: HubManager, config: Path, sink: RecordingSink) -> None:
    write(config, model("a", fake("--deaf-after", "0.2"), default="true", health=QUICK, restart="never"))
    hub.reload()
    sink.wait_for("model_unhealthy", "a")
    hub.stop_model("a")
    assert status(hub, "a").state is ModelState.STOPPED
    assert sink.wait_for("model_stopped", "a").event.reason == "operator"
    assert "model_failed" not in sink.hooks_of("a")


@pytest.fixture
def fake_mlx(tmp_path: Path) -> str:
    """An interpreter, as far as `python:` is concerned, whose `mlx_lm server` is the fake one."""
    program = tmp_path / "fake-python"
    program.write_text(f'#!/bin/sh\nshift 3\nexec "{sys.executable}" -I -S "{FAKE_SERVER}" $FAKE_FLAGS "$@"\n')
    program.chmod(0o755)
    (tmp_path / "weights").mkdir()
    return str(program)


def test_a_zombie_that_says_503_is_cured_at_the_first_look_and_its_cause_is_told(
    hub: HubManager, config: Path, sink: RecordingSink, fake_mlx: str
) -> None:
    health, env = "{interval: 0.1, failures: 1000}", "{FAKE_FLAGS: --zombie-after 0.4}"
    keys = {"model_path": "./weights", "python": fake_mlx, "health": health, "env": env, "restart": AGAIN}
    write(config, model("a", "", default="true", **keys))
    hub.reload()
    assert sink.wait_for("model_unhealthy", "a").arguments["reason"] == "generation thread died: fake cause"
    failed = sink.wait_for("model_failed", "a")
    assert (failed.event.reason, failed.event.detail) == ("unhealthy", "generation thread died: fake cause")
    sink.wait_for("model_ready", "a", count=2)
    log = Path(status(hub, "a").log_path).read_text()
    assert log.count("POST /v1/completions") < log.count("GET /health"), "it is asked for a token only until it has one"


def test_a_model_that_never_listens_and_does_nothing_is_ended_after_its_startup_timeout(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    health = "{startup_timeout: 0.3, interval: 0.2, failures: 2}"
    write(config, model("a", fake("--listen-after", "50"), default="true", health=health, restart="{max_failures: 1}"))
    hub.reload()
    unhealthy = sink.wait_for("model_unhealthy", "a")
    assert unhealthy.event.reason == "startup_timeout"
    assert unhealthy.arguments["reason"] == "not ready after 0.3 s: Connection refused"
    assert sink.wait_for("model_failed", "a").event.reason == "startup_timeout"
    sink.wait_for("model_gave_up", "a")
    assert status(hub, "a").state is ModelState.FAILED


def test_a_slow_load_that_makes_progress_is_told_once_and_left_alone(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    health = "{startup_timeout: 0.3, interval: 0.2, timeout: 1, failures: 1}"
    flags = ("--load-seconds", "1.5", "--unready-status", "503", "--flood", "40000")
    write(config, model("a", fake(*flags), default="true", health=health))
    hub.reload()
    ready = sink.wait_for("model_ready", "a")
    assert ready.arguments["startup_seconds"] > 1.4
    assert sink.hooks_of("a") == ["model_started", "model_unhealthy", "model_ready"]


BUSY = """\
import sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        end = time.monotonic() + (2.5 if self.path == "/work" else 0)
        while time.monotonic() < end: pass
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args): pass
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""A server that does one thing at a time, with all its might."""


def test_a_server_that_is_too_busy_to_answer_is_left_alone(
    hub: HubManager, config: Path, sink: RecordingSink, tmp_path: Path
) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    write(config, model("a", f"[{sys.executable}, -I, busy.py, '{{port}}']", default="true", health=QUICK))
    hub.reload()
    sink.wait_for("model_ready", "a")
    url = f"http://127.0.0.1:{status(hub, 'a').port}/work"
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.status == 200
    assert sink.hooks_of("a") == ["model_started", "model_ready"]


def test_a_named_pipe_in_place_of_a_log_holds_nobody_up(hub: HubManager, config: Path) -> None:
    (config.parent / "logs").mkdir()
    os.mkfifo(config.parent / "logs" / "a.log")
    write(config, model("a", default="true"), model("b", default="true"))
    result = hub.reload()
    assert result.started == ("b",)
    assert "a: cannot be started: no file that a log could be written to; remove it: " in str(result.failed["a"])
    hub.stop_model("b")


def test_a_program_whose_first_line_leads_nowhere_is_said_to_be_that(
    hub: HubManager, config: Path, tmp_path: Path
) -> None:
    program = tmp_path / "moved"
    program.write_text("#!/no/such/venv/bin/python\n")
    program.chmod(0o755)
    write(config, model("a", f"[{program}]"))
    hub.reload()
    with pytest.raises(LaunchError, match=r"the program that .*moved names in its first line is not there"):
        hub.start_model("a")


def test_many_stubborn_models_take_one_grace_to_shut_down_and_are_said_to_be_forced(
    config: Path, sink: RecordingSink
) -> None:
    write(config, *(model(f"m{n}", STUBBORN, default="true", stop_timeout=1) for n in range(8)))
    with HubManager(config, observability_sink=sink) as hub:
        hub.reload()
        logs = [Path(model.log_path) for model in hub.get_status()]
        wait_until(lambda: all(log.read_text() for log in logs))
        begin = time.monotonic()
    assert 1.0 <= time.monotonic() - begin < 4.0, "eight graces one after the other would be 8 s"
    stops = [event for event in sink.events if event.hook == "model_stopped"]
    assert [stop.event.forced for stop in stops] == [True] * 8
    assert {stop.arguments["exit_code"] for stop in stops} == {-9}


def test_a_start_that_cannot_happen_is_told_to_the_caller_to_the_reload_and_to_the_sinks(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    top = "groups: [{name: one, max_loaded: 1}]\n"
    with socket.create_server(("127.0.0.1", PORT)):
        write(
            config,
            model("taken", fake(), default="true", port=PORT),
            model("missing", "[no-such-program]", default="true"),
            model("first", group="one", default="true"),
            model("second", group="one"),
            top=top,
        )
        result = hub.reload()
    assert result.started == ("first",)
    assert {name: type(error) for name, error in result.failed.items()} == {
        "taken": LaunchError,
        "missing": LaunchError,
    }
    assert f"port {PORT} is taken by another program" in str(result.failed["taken"])
    with pytest.raises(LaunchError, match="no program 'no-such-program' on the PATH"):
        hub.start_model("missing")
    with pytest.raises(Exception, match=r"group 'one' is full \(max_loaded: 1\); running: first"):
        hub.start_model("second")
    sink.wait_for("model_failed", "second")
    told = [(e.model, e.arguments["exit_code"], e.event.reason) for e in sink.events if e.hook == "model_failed"]
    assert told == [(name, None, "spawn_error") for name in ("taken", "missing", "missing", "second")]
    assert status(hub, "second").state is ModelState.FAILED


def test_a_model_that_needs_more_memory_than_there_is_is_refused_by_size(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    write(config, model("a", memory="{required: 900TB}"), model("b", default="true", memory="{required: 1MB}"))
    assert hub.reload().started == ("b",)
    with pytest.raises(MemoryShortError, match=r"a: needs 900000\.0 GB of memory \(memory\.required\) and only .* GB"):
        hub.start_model("a")
    assert sink.wait_for("model_failed", "a").event.reason == "spawn_error"


def test_a_kill_from_outside_is_a_signal_and_the_first_of_a_series_is_kept(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    write(config, model("a", default="true", restart=AGAIN))
    hub.reload()
    for number, signum in enumerate((signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM), start=1):
        wait_until(lambda: status(hub, "a").state is ModelState.READY)
        os.kill(pid_of(hub, "a"), signum)
        sink.wait_for("model_failed", "a", count=number)
    failures = [event.event for event in sink.of("a", "model_failed")]
    assert [(f.reason, f.signal) for f in failures] == [("signal", n) for n in ("SIGSEGV", "SIGABRT", "SIGTERM")]
    assert [f.first_failure.signal if f.first_failure else None for f in failures] == [None, "SIGSEGV", "SIGSEGV"]
    first, last = status(hub, "a").first_failure, status(hub, "a").last_failure
    assert first is not None
    assert last is not None
    assert (first.signal, last.signal) == ("SIGSEGV", "SIGTERM")


def test_a_plan_says_what_a_reload_would_do_and_does_none_of_it(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    write(config, model("kept", default="true"), model("changed", default="true"), model("gone", default="true"))
    hub.reload()
    sink.wait_for("model_ready", "gone")
    before, events = hub.get_status(), len(sink.events)
    write(
        config, model("kept", default="true"), model("changed", STUBBORN, default="true"), model("new", default="yes")
    )
    config.write_text(config.read_text().replace("default: yes", "default: true"))
    plan = hub.plan()
    assert [(step.name, step.reason) for step in plan.start] == [("new", "new, with default: true")]
    assert [(step.name, step.reason) for step in plan.stop] == [("gone", "no longer in hub.yaml")]
    assert [(step.name, step.reason) for step in plan.restart] == [("changed", "command changed")]
    assert [(step.name, step.reason) for step in plan.unchanged] == [("kept", "is ready")]
    assert hub.get_status() == before
    assert len(sink.events) == events
    result = hub.reload()
    assert (result.started, result.stopped, result.unchanged) == (("changed", "new"), ("gone", "changed"), ("kept",))


def test_reloads_at_once_agree(hub: HubManager, config: Path, sink: RecordingSink) -> None:
    write(config, *(model(f"m{n}", default="true") for n in range(4)))
    results = []
    threads = [threading.Thread(target=lambda: results.append(hub.reload())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = ("m0", "m1", "m2", "m3")
    assert sorted(result.started for result in results) == [(), (), (), names]
    assert sorted(result.unchanged for result in results) == [(), names, names, names]
    assert len([event for event in sink.events if event.hook == "model_started"]) == 4


class Stuck:
    """A sink that never returns."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def model_started(self) -> None:
        self.release.wait()


def test_the_status_waits_for_no_model_no_probe_and_no_sink(config: Path) -> None:
    sink = Stuck()
    write(
        config,
        model("stopping", STUBBORN, default="true", stop_timeout=60),
        model("probed", fake("--deaf-after", "0"), default="true", health="{timeout: 60}"),
    )
    with HubManager(config, observability_sink=sink) as hub:
        hub.reload()
        wait_until(lambda: Path(status(hub, "stopping").log_path).read_text() == "up\n")
        stop = threading.Thread(target=lambda: hub.stop_model("stopping"))
        stop.start()
        wait_until(lambda: status(hub, "stopping").state is ModelState.STOPPING)
        begin = time.monotonic()
        states = [[model.state for model in hub.get_status()] for _ in range(1000)]
        assert time.monotonic() - begin < 1.0
        assert states[-1] == [ModelState.STOPPING, ModelState.STARTING]
        hub.kill()
        stop.join()
        sink.release.set()
