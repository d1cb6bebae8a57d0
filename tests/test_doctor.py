"""`mlxhub doctor`: what it finds, each with what to do about it, and that it always ends."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlxhub_core import Sink, vitals
from mlxhub_core.cli.doctor import hub, machine, models, sinks
from mlxhub_core.cli.doctor.findings import Finding, findings
from mlxhub_core.cli.programs import NOT_RUN, ask
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import HubError
from mlxhub_core.place import make_private, place_of
from mlxhub_core.settings import load_settings
from mlxhub_core.testing import FAKE_SERVER, wait_until

MLXHUB = str(Path(sysconfig.get_path("scripts")) / "mlxhub")
SERVER = json.dumps([sys.executable, "-I", "-S", FAKE_SERVER, "--port", "{port}"])


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def doctor(*arguments: str, **more: Any) -> tuple[int, list[str]]:
    """The exit code, and the lines without the spaces between columns."""
    done = subprocess.run(
        [MLXHUB, "doctor", *arguments], capture_output=True, text=True, timeout=50, check=False, **more
    )
    assert done.stderr == ""
    return done.returncode, [" ".join(line.split()) for line in done.stdout.splitlines()]


def written(text: str) -> None:
    Path("hub.yaml").write_text(f"log_path: logs\n{text}")


def trouble(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("ok ")]


def one(level: str = "true", **more: object) -> str:
    """A hub.yaml with one model."""
    keys = "".join(f", {key}: {value}" for key, value in more.items())
    return f"models: [{{name: a, default: {level}, command: {SERVER}{keys}}}]\n"


def test_without_a_hub_yaml_it_looks_at_the_rest_and_says_how_to_get_one() -> None:
    code, lines = doctor()
    assert code == 0
    assert {line.split()[1] for line in lines[:-1]} == {
        "python", "platform", "mlx", "hub.yaml", "runtime", "memory", "files", "hub"
    }  # fmt: skip
    assert trouble(lines) == [
        "warn hub.yaml there is none here; `mlxhub init` writes one, --config names another",
        "failures: 0, warnings: 1",
    ]
    assert doctor("--config", "other.yaml")[0] == 1


@pytest.mark.sinks("prometheus")
def test_where_all_is_well_each_check_says_so_in_a_line() -> None:
    written("sinks: {prometheus: {listen: '127.0.0.1:0'}}\n" + one())
    code, lines = doctor()
    assert (code, trouble(lines)) == (0, [])
    assert [line.split()[1] for line in lines] == [
        "python", "platform", "mlx", "hub.yaml", "models", "ports", "runtime", "logs", "memory", "files", "sinks",
        "sinks", "hub",
    ]  # fmt: skip
    assert "ok mlx no model needs it" in lines
    assert "ok runtime .mlxhub/run will be made" in lines
    assert "ok sinks prometheus (mlxhub-prom-sink 0.1.0) opens at http://127.0.0.1:" in "\n".join(lines)


def test_programs_get_json() -> None:
    written(one())
    done = subprocess.run([MLXHUB, "doctor", "--json"], capture_output=True, text=True, timeout=50, check=False)
    answer = json.loads(done.stdout)
    assert answer["ok"] is True
    assert {"check": "mlx", "level": "ok", "message": "no model needs it"} in answer["findings"]
    Path("hub.yaml").write_text("models: 1")
    done = subprocess.run([MLXHUB, "doctor", "--json"], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)


def test_every_mistake_in_hub_yaml_is_told_with_its_place() -> None:
    written("models: [{nmae: a}]\nhots: x\n")
    code, lines = doctor()
    assert code == 1
    assert any(line.startswith("fail hub.yaml hub.yaml:2:11: models[0].nmae: unknown key") for line in lines), lines
    assert any("hub.yaml:3:1: hots: unknown key; did you mean 'host'?" in line for line in lines)


def test_a_hub_yaml_that_others_may_write_to_is_told() -> None:
    written(one())
    Path("hub.yaml").chmod(0o666)
    code, lines = doctor()
    assert (code, len(trouble(lines))) == (0, 2)
    assert "`chmod go-w hub.yaml`" in trouble(lines)[0]


def test_a_port_that_is_taken_is_told_with_the_program_that_has_it(taken: int) -> None:
    written(one(port=taken))
    code, lines = doctor()
    assert code == 1
    message = f"{taken} of a is taken by {Path(sys.executable).resolve().name} (pid {os.getpid()})"
    assert message in trouble(lines)[0] or f"(pid {os.getpid()})" in trouble(lines)[0]
    assert trouble(lines)[0].endswith("stop that one, or give a another `port:`")
    written(one("false", port=taken))
    code, lines = doctor()
    assert code == 0, "it does not start with the hub"
    assert f"warn ports {taken} of a is taken" in "\n".join(lines)


def test_a_model_whose_program_is_missing_is_told_and_those_with_the_same_lack_together() -> None:
    written("models: [{name: a, default: true, command: [gone]}, {name: b, default: true, command: [gone]}]")
    code, lines = doctor()
    assert code == 1
    assert trouble(lines)[0].startswith("fail models a, b: command: no program 'gone' on the PATH; install it")
    written("models: [{name: a, command: [gone]}]")
    code, lines = doctor()
    assert code == 0
    assert "warn models none has `default: true`, so that nothing starts with the hub" in lines


INTERPRETERS = {
    "none": ("exit 3", "does not say what it has: it says nothing"),
    "one that fails": ("echo first >&2; echo the last line >&2; exit 1", "does not say what it has: the last line"),
    "without mlx-lm": ('echo \'{"python": "3.12.0", "mlx": null, "mlx_lm": null, "error": null}\'', "-m pip install"),
    "one that is refused": (
        'echo \'{"python": "3.12.0", "mlx": "0.31.2", "mlx_lm": "0.31.3", "error": null}\'',
        "has mlx-lm 0.31.3, whose server says for ever that it is well",
    ),
    "without a backend": (
        'echo \'{"python": "3.12.0", "mlx": "0.32.4", "mlx_lm": "0.32.2", "error": "ImportError: libmlx.so"}\'',
        "cannot be imported (ImportError: libmlx.so); run",
    ),
}


@pytest.mark.parametrize(("script", "words"), INTERPRETERS.values(), ids=INTERPRETERS)
def test_the_interpreter_that_a_model_names_is_asked(home: Path, script: str, words: str) -> None:
    python = home / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    (home / "weights").mkdir()
    written("models: [{name: a, default: true, model_path: ./weights, python: ./python}]")
    code, lines = doctor()
    assert code == 1
    assert trouble(lines)[0].startswith(f"fail mlx {python}")
    assert words in trouble(lines)[0]


def test_the_hubs_own_interpreter_is_asked_for_models_that_name_none(home: Path) -> None:
    (home / "weights").mkdir()
    written("models: [{name: a, default: true, model_path: ./weights}]")
    _, lines = doctor()
    (line,) = [line for line in lines if " mlx " in line]
    assert sys.executable in line
    assert line.startswith("ok mlx mlx 0.") or "pip install" in line


def test_directories_that_may_not_be_written_to_are_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(one())
    settings = load_settings("hub.yaml")
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != home)
    (logs,), (runtime,) = hub.logs(settings), hub.runtime(hub.Situation(Path("hub.yaml")))
    assert logs == Finding(
        "logs", "fail", f"{home}/logs is not there, and you may not write to {home}; create it, owned by you"
    )
    assert (runtime.level, "you may not write to" in runtime.message) == ("fail", True)
    (home / "logs").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != home / "logs")
    (logs,) = hub.logs(settings)
    assert (logs.level, "name another: log_path" in logs.message) == ("fail", True)


def test_a_log_path_that_is_a_file_is_told(home: Path) -> None:
    (home / "logs").write_text("")
    written(one())
    code, lines = doctor()
    assert code == 1
    assert trouble(lines)[0] == f"fail logs {home}/logs is no directory that you may write to; name another: log_path"


@pytest.mark.parametrize(
    ("free", "total", "level", "words"),
    [
        (500, 1000, "ok", "its disk is 50% full, 500.0 GB are left"),
        (40, 1000, "warn", "96% full, 40.0 GB are left; make room"),
        (0.01, 1000, "fail", "make room, or name another log_path"),
        (0.2, 1, "warn", "logs may grow to 0.3 GB; lower log_rotation"),
    ],
)
def test_how_full_the_disk_of_the_logs_is(
    monkeypatch: pytest.MonkeyPatch, free: float, total: float, level: str, words: str
) -> None:
    written(one())
    usage = SimpleNamespace(total=int(total * 1e9), used=int((total - free) * 1e9), free=int(free * 1e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    (finding,) = hub.logs(load_settings("hub.yaml"))
    assert finding.level == level
    assert words in finding.message


def test_a_directory_of_sockets_that_others_may_write_to_is_told(home: Path) -> None:
    (home / ".mlxhub" / "run").mkdir(parents=True)
    (home / ".mlxhub" / "run").chmod(0o777)
    written(one())
    code, lines = doctor()
    assert code == 1
    assert f"fail runtime others may write to {home}/.mlxhub/run; run `chmod 700 {home}/.mlxhub/run`" in lines


def test_too_few_file_descriptors_are_told_with_what_to_run() -> None:
    models = ", ".join(f"{{name: m{n}, command: [sh]}}" for n in range(50))
    written(f"models: [{models}]")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

    code, lines = doctor(preexec_fn=limit)
    assert code == 1
    assert (
        "fail files only 200 files may be open; 50 models need 300; run `ulimit -Hn 1024` before `mlxhub start`, as root if need be"
        in lines
    )


@pytest.mark.parametrize(
    ("available", "runs", "level", "words"),
    [
        (32, False, "ok", "32.0 GB of 64.0 GB available"),
        (8, False, "warn", "the models that start with the hub need 10.0 GB"),
        (8, True, "ok", "8.0 GB"),
    ],
)
def test_the_memory_that_models_want_is_compared_with_what_is_there(
    monkeypatch: pytest.MonkeyPatch, available: int, runs: bool, level: str, words: str
) -> None:
    monkeypatch.setattr(vitals.ThisMachine, "available_memory", lambda _: available * 10**9)
    monkeypatch.setattr(vitals.ThisMachine, "total_memory", lambda _: 64 * 10**9)
    written(one(memory="{required: 10GB}"))
    (finding,) = machine.memory(load_settings("hub.yaml"), runs=runs)
    assert (finding.level, words in finding.message) == (level, True)
    written(one(memory="{required: 100GB}"))
    finding, _ = machine.memory(load_settings("hub.yaml"), runs=runs)
    assert (finding.level, finding.message[:31]) == ("fail", "a needs 100.0 GB (memory.requir")


@pytest.mark.parametrize(
    ("mac", "arch", "libc", "levels"),
    [
        ("15.1", "arm64", ("", ""), ("ok", "ok")),
        ("13.6", "arm64", ("", ""), ("ok", "fail")),
        ("15.1", "x86_64", ("", ""), ("fail", "ok")),
        ("", "x86_64", ("glibc", "2.35"), ("ok", "ok")),
        ("", "x86_64", ("glibc", "2.31"), ("ok", "warn")),
        ("", "aarch64", ("", ""), ("ok", "warn")),
    ],
)
def test_which_systems_mlx_has_wheels_for(
    monkeypatch: pytest.MonkeyPatch, mac: str, arch: str, libc: tuple[str, str], levels: tuple[str, str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin" if mac else "linux")
    monkeypatch.setattr(platform, "mac_ver", lambda: (mac, ("", "", ""), arch))
    monkeypatch.setattr(platform, "machine", lambda: arch)
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    found = [*machine.python(), *machine.operating_system()]
    assert tuple(finding.level for finding in found) == levels


# Sinks.


@pytest.mark.sinks("statsd")
def test_sinks_that_are_not_installed_or_misused_are_told_as_check_tells_them() -> None:
    written("sinks: {nosuch: {}, statsd: {prot: 1}}\n" + one())
    code, lines = doctor()
    assert code == 1
    assert [line.split()[:2] for line in trouble(lines)[:-1]] == [["fail", "sinks"]] * 2
    assert "did you mean 'port'?" in "\n".join(lines)


@pytest.mark.sinks("prometheus", "statsd")
def test_a_sink_that_cannot_reach_whom_it_tells_deserves_a_look(taken: int) -> None:
    written(
        f"sinks: {{statsd: {{address: 'tcp://127.0.0.1:1'}}, prometheus: {{listen: '127.0.0.1:{taken}'}}}}\n" + one()
    )
    code, lines = doctor()
    assert code == 0, "a hub runs all the same"
    assert [line.split()[:3] for line in trouble(lines)[:-1]] == [
        ["warn", "sinks", "statsd"],
        ["warn", "sinks", "prometheus"],
    ]
    assert "try it with `mlxhub sinks test prometheus`" in "\n".join(lines)


class Checked(Sink):
    def open(self) -> None:
        raise AssertionError("it has a check")

    def check(self) -> str:
        return "sees its server"


class Hangs(Sink):
    def open(self) -> None:
        threading.Event().wait()


class Leaves(Sink):
    def open(self) -> None:
        sys.exit(3)


@pytest.mark.parametrize(
    ("sink", "level", "words"),
    [
        (Checked, "ok", "mine (p 1) sees its server"),
        (Sink, "ok", "mine (p 1) opens"),
        (object, "ok", "mine (p 1) needs no connection"),
        (Hangs, "warn", "TimeoutError: it has not come back for 0.1 s"),
        (Leaves, "warn", "SystemExit: 3"),
    ],
)
def test_a_sink_is_asked_by_its_check_or_opened(
    monkeypatch: pytest.MonkeyPatch, sink: Callable[[], object], level: str, words: str
) -> None:
    monkeypatch.setattr(sinks, "PATIENCE", 0.1 if sink is Hangs else 40.0)
    selected = SimpleNamespace(key="mine", offer="p 1", sink=sink())
    monkeypatch.setattr(sinks, "select", lambda *_: SimpleNamespace(sinks=[selected], warnings=(), deprecations=()))
    written(one())
    situation = hub.Situation(Path("hub.yaml"), load_settings("hub.yaml"))
    (finding,) = sinks.sinks(situation)
    assert finding.level == level
    assert words in finding.message


# A hub that runs.


@pytest.mark.sinks("prometheus", "statsd")
def test_of_a_hub_that_runs_it_tells_ports_and_sinks_as_they_are() -> None:
    written(f"sinks: {{prometheus: {{listen: '127.0.0.1:0'}}, statsd: {{address: 'tcp://127.0.0.1:1'}}}}\n{one()}")
    process = subprocess.Popen([MLXHUB, "start", "--foreground"], stderr=subprocess.DEVNULL)
    try:
        client = ControlClient("hub.yaml")
        wait_until(lambda: _states(client) == ["ready"], timeout=40)
        code, lines = doctor()
        port = client.get("/hub/status")["models"][0]["port"]
        assert code == 0
        assert f"ok ports a has {port}" in lines
        assert any(line.startswith("ok hub runs") for line in lines)
        assert "ok sinks prometheus (mlxhub-prom-sink 0.1.0) is open in the hub that runs" in lines
        assert any(line.startswith("warn sinks statsd") and "refused" in line for line in lines), lines
        subprocess.run([MLXHUB, "stop", "--keep-models"], capture_output=True, check=True)
        process.wait(40)
        assert f"ok ports a has {port}" in doctor()[1], "and so it does of models that a hub has left"
    finally:
        process.terminate()
        process.wait(40)
        again = subprocess.Popen([MLXHUB, "start", "--foreground"], stderr=subprocess.DEVNULL)
        wait_until(lambda: _states(ControlClient("hub.yaml")) == ["ready"], timeout=40)
        again.terminate()
        again.wait(40)


def test_models_of_a_hub_that_runs_that_are_not_well_are_told() -> None:
    written("models: [{name: bad, default: true, restart: never, health: false, command: [sh, -c, exit 3]}]\n")
    subprocess.run([MLXHUB, "start"], capture_output=True, check=False)
    try:
        wait_until(lambda: _states(ControlClient("hub.yaml")) == ["failed"])
        code, lines = doctor()
        assert code == 0
        assert "warn hub bad is failed; `mlxhub explain bad` says why, and what to do" in lines
    finally:
        subprocess.run([MLXHUB, "stop"], capture_output=True, check=True)


def _states(client: ControlClient) -> list[str]:
    try:
        return [model["state"] for model in client.get("/hub/status")["models"]]
    except HubError:  # it does not run yet
        return []


def test_a_hub_that_does_not_answer_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    written(one())
    monkeypatch.setattr(ControlClient._ask, "__defaults__", (0.1,))
    place = place_of("hub.yaml")
    make_private(place.directory)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(place.socket))
        deaf.listen()
        (finding,) = hub.hub(hub.Situation(Path("hub.yaml")))
    assert finding.level == "fail"
    assert "has not answered" in finding.message


def test_a_hub_of_another_version_is_told_with_how_to_exchange_it(monkeypatch: pytest.MonkeyPatch) -> None:
    written(one())
    monkeypatch.setattr(ControlClient, "get", lambda *_: {"models": [], "sinks": [], "version": "0.0.1", "pid": 7})
    (finding,) = hub.hub(hub.Situation(Path("hub.yaml")))
    assert finding.level == "warn"
    assert finding.message.startswith("runs mlxhub 0.0.1, installed is ")
    assert "`mlxhub stop --keep-models && mlxhub start`" in finding.message


def test_the_port_of_the_control_api_is_looked_at_too(taken: int, home: Path) -> None:
    control = f"control: {{port: {taken}, token_file: token}}\n"
    written(control + one())
    code, lines = doctor()
    assert code == 1
    assert f"fail ports {taken} of control: is taken by" in "\n".join(lines)
    assert f"(pid {os.getpid()}); stop that one, or name another port" in "\n".join(lines)
    situation = hub.Situation(Path("hub.yaml"), load_settings("hub.yaml"), running={}, pid=os.getpid())
    assert [finding.level for finding in models.ports(situation)] == ["ok"], "it is the hub that has it"


# That it ends.


def test_a_look_that_hangs_or_raises_is_told_and_hides_no_other() -> None:
    def raises() -> list[Finding]:
        raise OSError(5, "Input/output error")

    def hangs() -> list[Finding]:
        threading.Event().wait()
        return []

    began = time.monotonic()
    found = list(
        findings([("a", hangs), ("b", raises), ("c", lambda: [Finding("c", "ok", "well")]), ("d", hangs)], limit=0.2)
    )
    assert time.monotonic() - began < 20
    assert [(each.check, each.level) for each in found] == [("a", "fail"), ("b", "fail"), ("c", "ok"), ("d", "fail")]
    assert found[0].message.startswith("has not come back for 0.2 s")
    assert found[1].message == "cannot be looked at: OSError: [Errno 5] Input/output error"


def test_a_program_that_hangs_is_ended() -> None:
    answer = ask(["/bin/sh", "-c", "exec sleep 600"], seconds=0.2)
    assert (answer.code, answer.error) == (NOT_RUN, "/bin/sh has not answered within 0.2 s")
    assert ask(["/no/such"], seconds=1).error == "/no/such cannot be run (No such file or directory)"
