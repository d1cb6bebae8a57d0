"""Hubs die, models live on: what the next hub finds, and what the sinks of all of them together have been told."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import queue
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from mlxhub_core import HubManager
from mlxhub_core.errors import HubStateError
from mlxhub_core.keepers import Keepers
from mlxhub_core.launch import Launch
from mlxhub_core.place import place_of
from mlxhub_core.process import Exit, Order
from mlxhub_core.testing import FAKE_SERVER, RecordingSink, wait_until
from mlxhub_core.testing.tiny_model import TINY_LOOP, write_tiny_model

HUB = """
import json, os, sys
from mlxhub_core import HubError, HubManager

class Recorder:
    file = os.open("events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def tell(self, hook, event, ctx=None, **arguments):
        about = {"model": ctx and ctx.name, "run": event.run_id, "id": event.id, "time": event.time}
        line = {"hub": os.getpid(), "hook": hook, "reason": event.reason, **about, **arguments}
        os.write(self.file, json.dumps(line).encode() + b"\\n")
    def hub_started(self, *, event, hub): self.tell("hub_started", event)
    def config_reloaded(self, *, event): self.tell("config_reloaded", event)
    def model_started(self, ctx, *, pid, event): self.tell("model_started", event, ctx, pid=pid)
    def model_adopted(self, ctx, *, pid, event): self.tell("model_adopted", event, ctx, pid=pid)
    def model_ready(self, ctx, *, event): self.tell("model_ready", event, ctx)
    def model_stopped(self, ctx, *, exit_code, event): self.tell("model_stopped", event, ctx, exit_code=exit_code)
    def model_failed(self, ctx, *, exit_code, event): self.tell("model_failed", event, ctx, exit_code=exit_code)

hub = HubManager("hub.yaml", observability_sink=Recorder())
hub.reload()
print("up", flush=True)
for line in sys.stdin:
    command, *names = line.split()
    try:
        if command == "keep":
            hub.shutdown(keep_models=True)
            break
        getattr(hub, command)(*names)
    except HubError as error:
        print(error, file=sys.stderr)
    print("done", command, flush=True)
hub.shutdown()
"""
"""A hub that does what it is told on standard input, and whose sink writes each event into a file at once."""

SERVER = [sys.executable, "-I", "-S", FAKE_SERVER, "--port", "{port}"]
ENDS = ("model_stopped", "model_failed")


class Hubs:
    """One hub after the other, all for the same hub.yaml."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "hub.yaml"
        self._running: subprocess.Popen[str] | None = None

    def write(self, *models: str, top: str = "") -> None:
        self.config.write_text("\n".join(["log_path: logs", "sinks: {loguru: off}", top, "models:", *models, ""]))

    def start(self) -> subprocess.Popen[str]:
        self._running = subprocess.Popen(
            [sys.executable, "-c", HUB], cwd=self.directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self._running

    def up(self) -> subprocess.Popen[str]:
        hub = self.start()
        assert hub.stdout is not None
        assert hub.stdout.readline() == "up\n"
        return hub

    def tell(self, *command: str, wait: bool = True) -> None:
        hub = self._running
        assert hub is not None
        assert hub.stdin is not None
        assert hub.stdout is not None
        hub.stdin.write(" ".join(command) + "\n")
        hub.stdin.flush()
        if wait:
            assert hub.stdout.readline() == f"done {command[0]}\n"

    def kill(self) -> None:
        assert self._running is not None
        self._running.kill()
        self._end()

    def end(self) -> None:
        """Let it shut down."""
        assert self._running is not None
        self._end()

    def _end(self) -> None:
        hub, self._running = self._running, None
        assert hub is not None
        assert hub.stdin is not None
        assert hub.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            hub.stdin.close()
        hub.wait(60)
        hub.stdout.close()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What all hubs have told so far, the events about models only."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.directory / "events").read_text().splitlines()
            return [event for event in map(json.loads, lines) if event["model"]]
        return []

    def wait_for(self, hook: str, count: int = 1) -> dict[str, Any]:
        """The event of this hook that makes it so many."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [event for event in self.events if event["hook"] == hook]
            return len(found) >= count

        wait_until(there)
        return found[count - 1]

    def clean_up(self) -> None:
        if self._running is not None:
            self.kill()
        for lock in place_of(self.config).runs.glob("*.lock"):
            with contextlib.suppress(OSError, ValueError, psutil.Error):
                keeper = psutil.Process(int(lock.read_text()))
                for process in (keeper, *keeper.children(recursive=True)):
                    process.kill()
        for process in list(in_directory(self.directory)):
            process.kill()


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[Hubs]:
    hubs = Hubs(tmp_path)
    yield hubs
    hubs.clean_up()


def in_directory(directory: Path) -> Iterator[psutil.Process]:
    """Whoever works there, whosever child it is by now."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and Path(process.cwd()) == directory.resolve():
                yield process


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def server(name: str, *flags: str, more: str = "") -> str:
    return f"- {{name: {name}, default: true, command: {json.dumps([*SERVER, *flags])}, {more}}}"


def test_a_killed_hub_hurts_no_model_and_the_next_one_goes_on_with_them(hubs: Hubs) -> None:
    hubs.write(server("a"), server("b"))
    hubs.up()
    hubs.wait_for("model_ready", 2)
    before = {event["model"]: (event["pid"], event["run"]) for event in hubs.events if event["hook"] == "model_started"}
    hubs.kill()
    assert all(runs(pid) for pid, _ in before.values())
    hubs.up()
    hubs.wait_for("model_adopted", 2)
    after = {event["model"]: (event["pid"], event["run"]) for event in hubs.events if event["hook"] == "model_adopted"}
    assert after == before
    pid, run = before["a"]
    os.kill(pid, signal.SIGKILL)
    failed = hubs.wait_for("model_failed")
    assert (failed["model"], failed["run"], failed["exit_code"]) == ("a", run, -signal.SIGKILL)
    hubs.end()
    assert not list(in_directory(hubs.directory))


def test_what_ended_while_no_hub_was_there_is_told_once_with_its_true_end(hubs: Hubs) -> None:
    command = json.dumps(["sh", "-c", "read nothing < fifo; exit 7"])
    os.mkfifo(hubs.directory / "fifo")
    hubs.write(f"- {{name: a, default: true, restart: never, health: off, command: {command}}}")
    hubs.up()
    started = hubs.wait_for("model_started")
    hubs.kill()
    (hubs.directory / "fifo").write_text("\n")
    state = next(place_of(hubs.config).runs.glob("*.json"))
    wait_until(lambda: json.loads(state.read_text())["exit"] is not None)
    ended_at = json.loads(state.read_text())["exit"]["at"]
    hubs.up()
    failed = hubs.wait_for("model_failed")
    assert (failed["run"], failed["exit_code"], failed["time"]) == (started["run"], 7, ended_at)
    hubs.kill()  # within the second in which the end would be told again
    hubs.up()
    hubs.wait_for("model_adopted")
    hubs.end()
    told = {event["id"] for event in hubs.events if event["run"] == started["run"] and event["hook"] in ENDS}
    assert len(told) == 1, "however often it is told, it is one event"


def test_a_stop_goes_on_when_the_hub_is_killed_and_is_a_stop_for_the_next(hubs: Hubs) -> None:
    hubs.write(server("a", "--ignore-sigterm", more="stop_timeout: 1"))
    hubs.up()
    pid = hubs.wait_for("model_ready")["hub"] and hubs.wait_for("model_started")["pid"]
    hubs.tell("stop_model", "a", wait=False)
    state = next(place_of(hubs.config).runs.glob("*.json"))
    wait_until(lambda: json.loads(state.read_text())["asked"] is not None)
    hubs.kill()
    wait_until(lambda: not runs(pid))
    hubs.up()
    stopped = hubs.wait_for("model_stopped")
    assert (stopped["exit_code"], stopped["reason"]) == (-signal.SIGKILL, "operator")
    hubs.end()


def test_a_model_that_hub_yaml_no_longer_has_is_stopped_and_one_that_changed_is_restarted(hubs: Hubs) -> None:
    hubs.write(server("a"), server("b"), server("c"))
    hubs.up()
    hubs.wait_for("model_ready", 3)
    pids = {event["model"]: event["pid"] for event in hubs.events if event["hook"] == "model_started"}
    hubs.kill()
    hubs.write(server("a"), server("b", more="env: {NEW: x}"))
    hubs.up()
    stops = {hubs.wait_for("model_stopped", count)["model"] for count in (1, 2)}
    assert stops == {"b", "c"}
    assert hubs.wait_for("model_started", 4)["model"] == "b"
    assert runs(pids["a"])
    hubs.end()


def test_models_that_are_kept_go_on_without_a_word_and_are_found_again(hubs: Hubs) -> None:
    hubs.write(server("a"))
    hubs.up()
    hubs.wait_for("model_ready")
    hubs.tell("keep", wait=False)
    hubs.end()
    assert not [event for event in hubs.events if event["hook"] in ENDS]
    hubs.up()
    assert hubs.wait_for("model_adopted")["pid"] == hubs.wait_for("model_started")["pid"]
    hubs.end()


def test_two_hubs_neither_share_a_hub_yaml_nor_a_log_path(hubs: Hubs, tmp_path: Path) -> None:
    hubs.write(server("a"))
    first = hubs.up()
    with pytest.raises(HubStateError, match=rf"a hub for {hubs.config} already runs \(pid {first.pid}\)"):
        HubManager(hubs.config)
    other = tmp_path / "other.yaml"
    other.write_text(hubs.config.read_text())
    with HubManager(other) as second:
        words = rf"the hub for {hubs.config} \(pid {first.pid}\) writes its logs to {tmp_path / 'logs'}"
        with pytest.raises(HubStateError, match=words):
            second.reload()
        hubs.kill()
        with pytest.raises(HubStateError, match=rf"models of the hub for {hubs.config}, which has ended, still write"):
            second.reload()
    hubs.up()
    hubs.end()
    with HubManager(other) as second:
        assert second.reload().started == ("a",)


def test_a_model_whose_keeper_was_killed_is_ended_told_and_started_again(tmp_path: Path) -> None:
    config, sink = tmp_path / "hub.yaml", RecordingSink()
    model = server("a", more="restart: {delay: 0}")
    config.write_text(f"log_path: logs\nmodels:\n{model}\n")
    with HubManager(config, observability_sink=sink) as hub:
        hub.reload()
        sink.wait_for("model_ready")
        (before,) = hub.get_status()
        assert before.pid is not None
        psutil.Process(before.pid).parent().kill()  # type: ignore[union-attr]
        failed = sink.wait_for("model_failed")
        assert (failed.arguments["exit_code"], failed.event.reason) == (None, "unsupervised")
        sink.wait_for("model_ready", count=2)
        assert not runs(before.pid)
        (after,) = hub.get_status()
        assert after.pid != before.pid


@pytest.mark.timeout(300)
def test_hubs_killed_at_random_moments_leave_no_orphan_and_tell_each_end_once(hubs: Hubs) -> None:
    chance = random.Random(20261126)
    fragile = json.dumps(["sh", "-c", "sleep 0.4; exit 3"])
    models = [
        server("a"),
        server("b", "--exit-after", "0.3", more="restart: {delay: 0.05, max_failures: 1000}"),
        server("c", "--ignore-sigterm", more="stop_timeout: 0.1"),
        f"- {{name: d, default: true, health: off, restart: {{delay: 0, max_failures: 1000}}, command: {fragile}}}",
    ]
    commands = ["stop_model", "start_model", "restart_model", "rotate_log"]
    hubs.write(*models)
    for number in range(50):
        hubs.start() if chance.random() < 0.3 else hubs.up()
        if chance.random() < 0.3:
            hubs.write(*chance.sample(models, 3), top=f"log_rotation: {{backups: {number + 1}}}")
            hubs.tell("reload", wait=False)
        for _ in range(chance.randrange(4)):
            hubs.tell(chance.choice(commands), chance.choice("abcd"), wait=False)
        time.sleep(chance.uniform(0, 0.3))
        hubs.kill()
    hubs.write(*models)
    hubs.up()
    hubs.end()
    assert not list(in_directory(hubs.directory))
    ends: dict[str, set[str]] = defaultdict(set)
    for event in hubs.events:
        ends[event["run"]] |= {event["id"]} if event["hook"] in ENDS else set()
    wrong = {run: [e for e in hubs.events if e["run"] == run] for run, told in ends.items() if len(told) != 1}
    assert not wrong
    assert len(ends) > 50, "a day worth looking at"
    assert not list(place_of(hubs.config).runs.iterdir()), "files of runs that nobody needs any more"


@pytest.mark.mlx
@pytest.mark.timeout(180)
@pytest.mark.skipif(importlib.util.find_spec("mlx_lm") is None, reason="mlx-lm is not installed")
def test_a_stream_of_the_real_server_ends_normally_though_its_hub_is_killed(hubs: Hubs) -> None:
    write_tiny_model(hubs.directory / "tiny")
    hubs.write("- {name: tiny, default: true, model_path: tiny}")
    hubs.up()
    wait_until(lambda: any(event["hook"] == "model_ready" for event in hubs.events), timeout=120)
    pid = hubs.wait_for("model_started")["pid"]
    port = json.loads(next(place_of(hubs.config).runs.glob("*.json")).read_text())["record"]["port"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = {"prompt": TINY_LOOP, "stream": True, "max_tokens": 500}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    begun = [response.readline() for _ in range(10)]
    hubs.kill()
    assert psutil.Process(pid).is_running()
    rest = response.read()
    connection.close()
    assert (b"".join(begun) + rest).count(b'"text": "~"') == 500
    assert rest.endswith(b"data: [DONE]\n\n")
    hubs.up()
    assert hubs.wait_for("model_adopted")["pid"] == pid
    os.kill(pid, signal.SIGKILL)
    assert hubs.wait_for("model_failed")["exit_code"] == -signal.SIGKILL
    hubs.end()
    assert len([event for event in hubs.events if event["hook"] == "model_failed"]) == 1


def test_a_connection_that_breaks_is_made_again_and_costs_no_model(tmp_path: Path) -> None:
    """As when a hub was stopped for so long that its keepers gave up telling it things."""
    ends: queue.SimpleQueue[Exit] = queue.SimpleQueue()
    listener = SimpleNamespace(exited=ends.put, log_failing=pytest.fail, log_recovered=pytest.fail)
    keepers = Keepers(tmp_path / "runs", "test", pytest.fail)
    launch = Launch(("sleep", "600"), dict(os.environ), tmp_path)
    process = keepers.start(Order("a", uuid.uuid4().hex, launch, tmp_path / "a.log"), listener)
    before = process._connection  # type: ignore[attr-defined]
    before.hang_up()
    wait_until(lambda: process._connection is not before)  # type: ignore[attr-defined]
    assert runs(process.pid)
    process.stop(5, "operator")
    assert ends.get(timeout=10).code == -signal.SIGTERM
    keepers.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process ignores")
def test_a_model_ignores_no_signal_that_its_keeper_does_not_heed(tmp_path: Path) -> None:
    config = tmp_path / "hub.yaml"
    config.write_text("log_path: logs\nmodels: [{name: a, default: true, health: off, command: [sleep, '600']}]\n")
    with HubManager(config) as hub:
        hub.reload()
        (model,) = hub.get_status()
        status = Path(f"/proc/{model.pid}/status").read_text().splitlines()
        (ignored,) = (int(line.split()[1], 16) for line in status if line.startswith("SigIgn:"))
        ours = (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1)
        assert [number for number in ours if ignored & 1 << number - 1] == []
