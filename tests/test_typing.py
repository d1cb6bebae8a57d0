"""What type checkers make of a sink, of events and of the kit: mypy and pyright agree with typing/sinks.py."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mlxhub_core
from mlxhub_core import testing

ROOT = Path(__file__).parent.parent
FILE = ROOT / "tests" / "typing" / "sinks.py"
PYRIGHT = ROOT / ".venv" / "npm" / "node_modules" / "pyright" / "index.js"
LINES = FILE.read_text(encoding="utf-8").splitlines()
REFUSED = {number for number, line in enumerate(LINES, start=1) if "# error: " in line}


def test_mypy_takes_what_is_right_and_refuses_what_is_wrong() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--output", "json", FILE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    here = {
        message["line"]
        for message in found
        if message["severity"] == "error" and Path(message["file"]).name == FILE.name
    }
    assert here == REFUSED, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("node") is None or not PYRIGHT.exists(), reason="pyright is not installed")
def test_pyright_takes_what_is_right_and_refuses_what_is_wrong() -> None:
    done = subprocess.run(
        ["node", PYRIGHT, "--outputjson", "--pythonpath", sys.executable, FILE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    lines = {message["range"]["start"]["line"] + 1 for message in found if message["severity"] == "error"}
    assert lines == REFUSED, [f"{m['range']['start']['line'] + 1}: {m['message']}" for m in found]


def test_the_packages_say_that_they_are_typed() -> None:
    assert (Path(mlxhub_core.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("name", sorted({*mlxhub_core.__all__, *testing.__all__}))
def test_the_file_uses_the_surface(name: str) -> None:
    plain = {"SINK_API", "hookspec", "Problem", "FAKE_SERVER", "wait_until"}
    if name.endswith("Error") or name in plain:
        return
    assert any(re.search(rf"\b{name}\b", line) for line in LINES), f"{name} is not in {FILE.name}"
