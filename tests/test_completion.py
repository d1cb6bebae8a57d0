"""Tab: what real shells make of `mlxhub completion`, and what the names are."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxhub_core.testing import wait_until

SCRIPTS = sysconfig.get_path("scripts")
MLXHUB = str(Path(SCRIPTS) / "mlxhub")
HUB_YAML = """\
sinks:
  statsd/eu: {host: x}
  prometheus:
models:
  - {name: qwen3-4b, model_path: x}
  - {name: qwen3-30b, model_path: x}
  - {name: other, nmae: a mistake}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLXHUB_CONFIG", "MLXHUB_NO_SINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{SCRIPTS}:{os.environ['PATH']}")
    Path("hub.yaml").write_text(HUB_YAML)


def completed(line: str) -> list[str]:
    """What the command answers to a shell that completes the last word of a line."""
    words = f"mlxhub {line}"
    done = subprocess.run(
        [MLXHUB],
        env={
            **os.environ,
            "_MLXHUB_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stderr == ""
    return [item.removeprefix("plain,") for item in done.stdout.splitlines() if item]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("res", ["restart-model", "reset"]),
        ("sinks d", ["describe"]),
        ("status qwen", ["qwen3-4b", "qwen3-30b"]),
        ("start-model ", ["qwen3-4b", "qwen3-30b", "other"]),
        ("stop-model qwen3-4b q", ["qwen3-30b"]),
        ("restart-model oth", ["other"]),
        ("logs -f oth", ["other"]),
        ("logs rotate oth", ["other"]),
        ("explain oth", ["other"]),
        ("sinks test ", ["statsd/eu", "prometheus"]),
        ("sinks describe l", ["loguru"]),
        pytest.param("sinks export prom", ["prometheus"], marks=pytest.mark.sinks("prometheus")),
        ("completion f", ["fish"]),
        ("stop --k", ["--keep-models"]),
        ("--v", ["--version"]),
    ],
)
def test_commands_options_and_names_are_completed(line: str, expected: list[str]) -> None:
    assert completed(line) == expected


def test_the_names_are_those_of_the_hub_yaml_that_the_line_or_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("second.yaml").write_text("models: [{name: second}]")
    assert completed("status -c second.yaml ") == ["second"]
    assert completed("status --config=second.yaml s") == ["second"]
    monkeypatch.setenv("MLXHUB_CONFIG", "second.yaml")
    assert completed("status ") == ["second"]


@pytest.mark.parametrize(
    "text",
    ["", "a", "[", "models: {", "models: 1", "models: [1, {}, {name: [x]}]", "\0", "sinks: no\nmodels:", "a: *b"],
)
def test_a_broken_hub_yaml_gives_no_names_and_no_noise(text: str) -> None:
    Path("hub.yaml").write_text(text)
    assert completed("status ") == completed("sinks test ") == []


def test_where_there_is_no_hub_yaml_there_are_no_names(tmp_path: Path) -> None:
    Path("hub.yaml").unlink()
    assert completed("status ") == []
    Path("hub.yaml").mkdir()
    assert completed("status ") == []


@pytest.mark.parametrize("line", ["", "status q", "sinks d"])
def test_to_complete_imports_nothing_that_takes_its_time(line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mlxhub_core"],
        env={**os.environ, "_MLXHUB_COMPLETE": "bash_complete", "COMP_WORDS": f"mlxhub {line}", "COMP_CWORD": "9"},
        capture_output=True,
        text=True,
        check=False,
    )
    imported = set(re.findall(r"\| +(\w+)$", done.stderr, re.MULTILINE))
    assert "click" in imported
    assert not {"rich", "asyncio", "pydantic", "loguru", "starlette", "psutil"} & imported


# Real shells.


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "dumb", "PS1": "> ", "HISTFILE": "/dev/null"}
            os.execvp(command[0], command)
        self.seen = ""

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def until(self, words: str) -> None:
        wait_until(lambda: words in self._read(), timeout=40)
        self.seen = self.seen.partition(words)[2]

    def _read(self) -> str:
        while select.select([self._terminal], [], [], 0)[0]:
            try:
                self.seen += os.read(self._terminal, 4096).decode(errors="replace")
            except OSError:  # it has ended
                break
        return self.seen

    def close(self) -> None:
        os.close(self._terminal)
        os.waitpid(self.pid, 0)


@pytest.fixture(params=["bash", "zsh"])
def shell(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    terminal = Terminal(name, *{"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}[name])
    terminal.type(f'eval "$(mlxhub completion {name})"; echo rea""dy\n')
    terminal.until("ready")
    yield terminal
    terminal.close()


def test_a_shell_completes_on_tab_what_can_only_mean_one_thing(shell: Terminal) -> None:
    shell.type("mlxhub restart-m\toth\t")
    shell.until("restart-model ")
    shell.until("other")
    shell.type("\x15mlxhub status --js\t")
    shell.until("--json")


def test_fish_completes_names() -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    done = subprocess.run(
        ["fish", "--no-config", "-c", 'mlxhub completion fish | source; complete -C "mlxhub start-model q"'],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stderr, sorted(done.stdout.split())) == ("", ["qwen3-30b", "qwen3-4b"])


@pytest.mark.parametrize(("shell", "head"), [("bash", "_mlxhub"), ("zsh", "#compdef mlxhub\n"), ("fish", "function")])
def test_the_script_begins_as_its_shell_wants_it(shell: str, head: str) -> None:
    done = subprocess.run([MLXHUB, "completion", shell], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.startswith(head)
    assert done.stderr == ""


def test_another_shell_is_refused_with_those_that_there_are() -> None:
    done = subprocess.run([MLXHUB, "completion", "tcsh"], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in done.stderr
