"""docs/first-hub.md, typed in: each command prints what the page shows, but for numbers, times and paths."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxhub_core.control.client import ControlClient
from mlxhub_core.testing import wait_until
from mlxhub_core.testing.tiny_model import write_tiny_model

PAGE = (Path(__file__).parent.parent / "docs" / "first-hub.md").read_text(encoding="utf-8")
GOOD, BROKEN = "mlx-community/Qwen3-0.6B-4bit", Path("models", "coder")
FAILED = {"mlxhub start": 1, "mlxhub check": 2}
"""The exit codes of those that fail, the first time they are typed."""

RACES = {"mlxhub start", "mlxhub events"}


def steps() -> Iterator[tuple[str, str]]:
    """A file to write, or a command and what it prints."""
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        if language == "yaml":
            yield "hub.yaml", text
        elif language == "console":
            yield from re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)


@pytest.fixture
def home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    (home / "hub").mkdir()
    monkeypatch.chdir(home / "hub")
    yield home
    typed("mlxhub stop")


def typed(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )


def shape(text: str) -> str:
    """Without what differs each time, and however it is folded into lines."""
    text = re.sub(r"\S*/(?=modles|models|logs)", "", text)
    text = re.sub(r"[0-9a-f]{12}\.sock", "SOCKET", text)
    text = re.sub(r"\d{4}-\d\d-\d\d", "DATE", text)
    text = re.sub(r"(?<![\w-])(\d+[dhm])*\d+(\.\d+)?(s|m|h|MB|GB|%)?(?!\w)", "N", text)
    return " ".join(text.split())


def looks_like(printed: str, shown: str) -> bool:
    """Whether it has the same shape, with anything in place of each `…`."""
    return re.fullmatch(_pattern(shown), shape(printed)) is not None


def has_lines_like(printed: str, shown: str) -> bool:
    """The same, in any order: two models race, and each has the right to be the first."""
    return all(re.search(_pattern(line), shape(printed)) for line in shown.splitlines())


def _pattern(shown: str) -> str:
    return ".*".join(re.escape(shape(part)) for part in shown.split("…"))


@pytest.mark.mlx
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_all_that_the_page_types_prints_what_it_shows(home: Path) -> None:
    repository = home / ".cache" / "huggingface" / "hub" / f"models--{GOOD.replace('/', '--')}"
    write_tiny_model(repository / "snapshots" / "c0ffee")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    weights = write_tiny_model(BROKEN) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-300])
    ports = 12_000 + os.getpid() % 12_000  # not those of another hub on this machine
    failed = dict(FAILED)
    typed_so_far = []
    for command, shown in steps():
        if command == "hub.yaml":
            Path("hub.yaml").write_text(f"{shown}model_starting_port: {ports}\n")
            continue
        if command.startswith("mlxhub restart-model"):
            weights.write_bytes(whole)  # somebody has downloaded them again
        if command == "mlxhub explain coder":
            wait_until(lambda: _failures("coder") > 0, timeout=100)
        port = str(_models()["qwen3"]["port"]) if command.startswith("curl") else ""
        done = typed(command.replace("27850", port))
        typed_so_far.append(command)
        alike = has_lines_like if command in RACES else looks_like
        assert alike(done.stdout, shown), f"$ {command}\n{done.stdout}\nand the page shows\n{shown}"
        assert done.returncode == failed.pop(command, 0), f"$ {command}\n{done.stdout}"
    assert not failed
    assert len(typed_so_far) >= 12


def _models() -> dict[str, dict[str, int]]:
    return {model["name"]: model for model in ControlClient("hub.yaml").get("/hub/status")["models"]}


def _failures(name: str) -> int:
    return int(_models()[name]["last_failure"] is not None)


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("a: ready in 1.2 s", "a: ready in 3.4 s", True),
        ("a: ready in 1.2 s", "b: ready in 3.4 s", False),
        ("pid 123, 2m05s", "pid 9, 3s", True),
        ("one two three", "one … three", True),
        ("one two", "one … three", False),
        ("x /tmp/a b/models/y is", "x …/models/y is", True),
        ("folded\n   line", "folded line", True),
        ("more than is shown", "more than", False),
        ("", "something", False),
    ],
)
def test_what_counts_as_the_same(printed: str, shown: str, same: bool) -> None:
    assert looks_like(printed, shown) is same
