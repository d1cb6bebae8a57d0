"""What docs/security.md claims of a whole hub, and that each of its claims names a test that is there."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from starlette.types import Receive, Scope, Send

from mlxhub_core import HubManager
from mlxhub_core.control.guard import Guard
from mlxhub_core.discovery import scan
from mlxhub_core.place import place_of
from mlxhub_core.secret import Secret
from mlxhub_core.testing import RecordingSink, wait_until

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "security.md"
CANARY = "c4nary-t0ken"
TELL = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]), flush=True)"


def named_in(page: str) -> list[tuple[str, str]]:
    return re.findall(r"`([a-z_/]+\.py)::(\w+)`", page)


def test_each_claim_names_a_test_that_there_is() -> None:
    named = named_in(PAGE.read_text())
    assert len(named) > 30
    for file, name in named:
        assert re.search(rf"^ *def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file} has no {name}"


def test_no_claim_is_without_a_test() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| claim")]
    assert rows
    for row in rows:
        assert named_in(row), row


def told(log: Path) -> tuple[list[str], dict[str, str], str]:
    """What a model that says it was started with."""
    wait_until(lambda: log.exists() and log.read_bytes().endswith(b"\n"))
    arguments, environment, directory = json.loads(log.read_text().splitlines()[-1])
    return arguments, environment, directory


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "hub.yaml"


def model(name: str, *arguments: str, **more: object) -> dict[str, object]:
    command = [sys.executable, "-I", "-S", "-c", TELL, *arguments]
    return {"name": name, "default": True, "health": False, "restart": "never", "command": command, **more}


@pytest.fixture
def token_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A sink of the type `token`, which has a secret."""
    site = tmp_path / "site"
    info = site / "sinks_of_a_test-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sinks-of-a-test\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mlxhub.sinks]\ntoken = sinks_of_a_test:Sink\n")
    source = "from mlxhub_core import Secret\nclass Sink:\n    def __init__(self, token: Secret): self.token = token\n"
    (site / "sinks_of_a_test.py").write_text(source + "    def model_started(self, ctx, *, pid): pass\n")
    monkeypatch.syspath_prepend(site)
    scan.cache_clear()
    yield
    scan.cache_clear()
    sys.modules.pop("sinks_of_a_test", None)


@pytest.mark.usefixtures("token_sink")
def test_a_model_does_not_inherit_the_secrets_of_the_sinks(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINKS_TOKEN", CANARY)
    monkeypatch.setenv("HUBS_OWN", "kept")
    models = [model("a"), model("b", env={"SINKS_TOKEN": "its own"})]
    written = {
        "log_path": "logs",
        "sinks": {"loguru": False, "token": {"token": {"env": "SINKS_TOKEN"}}},
        "models": models,
    }
    config.write_text(json.dumps(written))
    with HubManager(config) as hub:
        hub.reload()
        _, environment, _ = told(tmp_path / "logs" / "a.log")
        assert "SINKS_TOKEN" not in environment
        assert environment["HUBS_OWN"] == "kept"
        assert told(tmp_path / "logs" / "b.log")[1]["SINKS_TOKEN"] == "its own"
        (stats,) = [sink for sink in hub.sink_stats() if sink.name == "token"]
        assert CANARY not in repr(stats)


def test_no_shell_ever_reads_what_a_command_is_made_of(config: Path, tmp_path: Path) -> None:
    words = ["$(touch pwned)", "`touch pwned`", "; touch pwned", "a b", "*", "&& touch pwned", "{model_path}"]
    written = model("a", *words, model_path="$(touch pwned); {name}")
    config.write_text(json.dumps({"log_path": "logs", "models": [written]}))
    with HubManager(config) as hub:
        hub.reload()
        arguments, _, _ = told(tmp_path / "logs" / "a.log")
    assert arguments == [*words[:-1], "$(touch pwned); {name}"]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["../a", "..", ".", "/etc/a", "a/b", "a\0b", "a\nb", "-a", "", "a" * 300], ids=ascii)
def test_no_name_of_a_model_is_a_way_out_of_the_directory_of_logs(config: Path, tmp_path: Path, name: str) -> None:
    config.write_text(json.dumps({"log_path": "logs", "models": [model(name)]}))
    with HubManager(config) as hub, pytest.raises(Exception, match=r"models\[0\]\.name"):
        hub.reload()
    assert not (tmp_path / "logs").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["hub.yaml"]


def test_all_that_a_hub_leaves_on_the_disk_is_its_users_alone_whatever_the_umask(config: Path, tmp_path: Path) -> None:
    rotation = {"max_bytes": "64KiB", "backups": 2}
    loud = {
        **model("a"),
        "command": [sys.executable, "-c", "print('x' * 200_000, flush=True); import time; time.sleep(600)"],
    }
    config.write_text(json.dumps({"log_path": "logs", "log_rotation": rotation, "models": [loud]}))
    config.chmod(0o600)
    sink = RecordingSink()
    umask = os.umask(0)
    try:
        with HubManager(config, observability_sink=sink) as hub:
            hub.reload()
            wait_until(lambda: (tmp_path / "logs" / "a.log").stat().st_size > 0)
            hub.rotate_log("a")
            place = place_of(config)
            found = [tmp_path / "logs", *(tmp_path / "logs").rglob("*"), place.lock, place.runs, *place.runs.rglob("*")]
            modes = {str(path): stat.S_IMODE(path.lstat().st_mode) for path in found if path.exists()}
    finally:
        os.umask(umask)
    assert len(modes) > 6
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the function that promises it: to measure it would measure the machine."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, two: bytes) -> bool:
        compared.append((one, two))
        return one == two

    monkeypatch.setattr(hmac, "compare_digest", compare)
    asked: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])

    async def heard(_: object) -> None:
        pass

    guard = Guard(app, "127.0.0.1", Secret(CANARY))
    for token in (CANARY, "wrong", CANARY[:-1]):
        headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {token}".encode())]
        scope = {"type": "http", "method": "GET", "path": f"/{token}", "headers": headers}
        asyncio.run(guard(scope, cast(Receive, None), cast(Send, heard)))
    assert asked == [f"/{CANARY}"]
    assert len(compared) == 3


def test_a_hub_that_runs_in_the_background_refuses_a_log_path_where_a_stranger_has_put_a_link(
    config: Path, tmp_path: Path
) -> None:
    """The link would have the hub, or a model, append to a file of the user's."""
    victim = tmp_path / "profile"
    victim.write_text("mine\n")
    logs = tmp_path / "shared"
    logs.mkdir()
    logs.chmod(0o1777)
    (logs / "_hub.log").symlink_to(victim)
    (logs / "a.log").symlink_to(victim)
    config.write_text(json.dumps({"log_path": "shared", "models": [model("a")]}))
    program = [str(Path(sys.executable).with_name("mlxhub")), "start", "--config", str(config)]
    for more in ([], ["--foreground"]):
        done = subprocess.run([*program, *more], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert "everybody may write to" in done.stderr
        assert "Traceback" not in done.stderr
    assert victim.read_text() == "mine\n"
