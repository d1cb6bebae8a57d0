"""What a person sees on a terminal of 80 by 24, and on one of 200 by 50: captured from a pseudo-terminal."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import pyte
import pytest

from mlxhub_core.cli.screen import picture
from mlxhub_core.cli.watch import View, _changes
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import HubError
from mlxhub_core.testing import FAKE_SERVER, wait_until

MLXHUB = str(Path(sys.executable).with_name("mlxhub"))
SERVER = [sys.executable, "-I", "-S", FAKE_SERVER, "--port", "{port}"]
PATIENCE = 30.0
SIZES = [(80, 24), (200, 50)]


class Terminal:
    """A terminal of this size in which `mlxhub` runs."""

    def __init__(self, columns: int, lines: int, *arguments: str, **environ: str) -> None:
        self._ours, self._theirs = pty.openpty()
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self._theirs)
        self.process = subprocess.Popen(
            [MLXHUB, *arguments],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", **environ},
        )

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, seen: Callable[[str], bool]) -> None:
        """Look on until this is seen."""
        end = time.monotonic() + PATIENCE
        while not seen(self.text):
            assert time.monotonic() < end, f"not seen:\n{self.text}"
            self._look(0.1)

    def end(self) -> int:
        """Look on until the command has ended. Returns its exit code."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it does not end:\n{self.text}"
            self._look(0.1)
        while self._look(0.0):
            pass
        assert termios.tcgetattr(self._theirs) == self.before, "the terminal is as it was"
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def _look(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        data = os.read(self._ours, 65536)
        self.written += data
        self._stream.feed(data)
        return True


@pytest.fixture(scope="module")
def home(module_home: Path) -> Iterator[Path]:
    models = [
        {"name": "good", "default": True, "group": "small", "command": SERVER},
        {"name": "bad", "restart": "never", "command": ["sh", "-c", "echo boo; exit 3", "sh", "{port}"]},
        {"name": "late", "command": [*SERVER, "--listen-after", "600"]},
    ]
    Path("hub.yaml").write_text(f"log_path: the-logs-of-models\nmodels: {json.dumps(models)}\n")
    yield module_home
    mlxhub("stop")


@pytest.fixture
def hub(home: Path) -> None:
    """A hub in which good is ready and bad has failed."""
    mlxhub("start")
    mlxhub("start-model", "good", "--wait")
    mlxhub("stop-model", "late")
    mlxhub("start-model", "bad")
    wait_until(lambda: model("bad")["state"] == "failed")


@pytest.fixture
def open_terminal() -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def open_(columns: int, lines: int, *arguments: str, **environ: str) -> Terminal:
        terminals.append(Terminal(columns, lines, *arguments, **environ))
        return terminals[-1]

    yield open_
    for terminal in terminals:
        terminal.close()


OpenTerminal = Callable[..., Terminal]


def mlxhub(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MLXHUB, *arguments], capture_output=True, text=True, timeout=50, check=False)


def model(name: str) -> dict[str, Any]:
    return next(each for each in ControlClient("hub.yaml").get("/hub/status")["models"] if each["name"] == name)


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_watch_shows_models_sinks_and_events(hub: None, open_terminal: OpenTerminal, columns: int, lines: int) -> None:
    terminal = open_terminal(columns, lines, "watch")
    terminal.until(lambda text: "EVENTS" in text and "failed (exit code 3)" in text)
    status = ControlClient("hub.yaml").get("/hub/status")
    assert terminal.lines[0].startswith(f"mlxhub {status['version']}  hub.yaml  pid {status['pid']}  up ")
    rows = {line.split()[0]: line.split() for line in terminal.lines[2:] if line}
    assert rows["NAME"][:4] == ["NAME", "STATE", "GROUP", "PID"]
    assert rows["good"][1:4] == ["ready", "small", str(model("good")["pid"])]
    assert rows["bad"][1] == "failed"
    assert rows["late"][1] == "stopped"
    assert rows["SINK"] == ["SINK", "OPEN", "DELIVERED", "FAILED", "DROPPED", "WAITING", "WHERE"]
    assert rows["loguru"][1] == "yes"
    assert ("the-logs-of-models/good.log" in terminal.text) is (columns == 200), (
        "what does not fit is left out, not folded"
    )
    states = {cell.data: cell.fg for row in (3, 4) for cell in terminal.screen.buffer[row].values()}
    assert {"green", "red"} <= set(states.values())


def test_watch_shows_what_happens_when_it_happens(hub: None, open_terminal: OpenTerminal) -> None:
    terminal = open_terminal(80, 24, "watch", "--interval", "3600")
    terminal.until(lambda text: "good  ready" in text)
    os.kill(model("good")["pid"], signal.SIGKILL)
    terminal.until(lambda text: "good  failed (SIGKILL) after " in text)
    terminal.until(lambda text: "  SIGKILL" in text.split("SINK")[0])


def test_watch_tells_that_the_hub_is_away_and_when_it_is_back(hub: None, open_terminal: OpenTerminal) -> None:
    terminal = open_terminal(80, 24, "watch", "--interval", "0.2")
    terminal.until(lambda text: "good  ready" in text)
    mlxhub("stop")
    terminal.until(lambda text: " THE HUB IS AWAY: no hub runs for" in text)
    assert terminal.screen.buffer[1][1].bg == "red"
    mlxhub("start", "--no-wait")
    terminal.until(lambda text: "AWAY" not in text and "the hub started" in text)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)],
)
def test_watch_leaves_the_terminal_as_it_was(
    hub: None, open_terminal: OpenTerminal, number: signal.Signals, code: int
) -> None:
    terminal = open_terminal(80, 24, "watch")
    terminal.until(lambda text: "EVENTS" in text)
    terminal.process.send_signal(number)
    assert terminal.end() == code
    enter, leave, hide, show = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25l", b"\x1b[?25h"
    assert terminal.written.count(enter) == terminal.written.count(leave) == 1
    assert terminal.written.rindex(show) > terminal.written.rindex(hide)
    assert terminal.written.endswith(leave), "and says nothing after that"


def test_watch_fits_a_terminal_that_becomes_smaller(hub: None, open_terminal: OpenTerminal) -> None:
    terminal = open_terminal(200, 50, "watch", "--interval", "3600")
    terminal.until(lambda text: "the-logs-of-models/good.log" in text)
    terminal.resize(60, 12)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.until(lambda text: "good  ready" in text and "the-logs-of-models/good.log" not in text)


def test_watch_of_a_file_that_is_not_there_does_not_wait_for_it(home: Path) -> None:
    done = mlxhub("watch", "-c", "none.yaml")
    assert done.returncode == 3
    assert "none.yaml, which does not exist; `mlxhub init` writes one" in done.stderr


def test_watch_is_a_line_for_each_change_where_nobody_looks_on(hub: None) -> None:
    watching = subprocess.Popen([MLXHUB, "watch", "--interval", "0.2"], stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    seen = [watching.stdout.readline() for _ in range(3)]
    assert seen[0].endswith("  good  ready\n")
    assert seen[1].endswith("  bad  failed: exit code 3 after 0.0 s; `mlxhub explain bad` says more\n")
    mlxhub("stop-model", "good")
    seen.append(watching.stdout.readline())
    assert "  good  stopped (SIGTERM) after " in seen[-1]
    mlxhub("stop")
    while "the hub is away: " not in seen[-1]:
        seen.append(watching.stdout.readline())
    mlxhub("start")
    seen += [watching.stdout.readline() for _ in range(2)]
    assert seen[-2].endswith("  the hub is back\n")
    assert "  -  the hub started (pid " in seen[-1]
    watching.send_signal(signal.SIGINT)
    rest, _ = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert "\x1b" not in "".join(seen) + rest


def test_a_hub_that_was_silent_for_a_while_is_not_heard_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        """Has three events, and hangs when it is asked after the second."""

        asked: ClassVar[list[str | None]] = []
        hangs = iter([False, False, True, False, False])

        def events(self, since: float | None, last_id: str | None) -> Hub:
            self.asked.append(last_id)
            return self

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def wait(self, _interval: float) -> list[dict[str, Any]]:
            return [{"id": f"hub:{len(self.asked)}"}]

        def get(self, path: str) -> dict[str, Any]:
            if path == "/hub/status" and next(self.hangs):
                raise HubError("has not answered for 5 s")
            return {"sinks": []}

    view = View()
    changes = _changes(Hub(), view, 0.1, None)  # type: ignore[arg-type]
    assert [next(changes) for _ in range(2)] == [[], [{"id": "hub:1"}]]
    assert next(changes) == []
    assert view.away == "has not answered for 5 s"
    monkeypatch.setattr("mlxhub_core.cli.watch.until_readable", lambda **_: [])
    assert next(changes) == []
    assert view.away is None
    assert Hub.asked == [None, "hub:1"]


def many(state: str = "ready") -> list[dict[str, Any]]:
    empty = dict.fromkeys(("group", "port", "exit_code", "memory_bytes", "reason", "last_failure"))
    return [
        {"name": f"m{number}", "state": state, **empty, "pid": 1, "started_at": 0.0, "restarts": 0, "log_path": "/x"}
        for number in range(100)
    ]


@pytest.mark.parametrize(("columns", "lines"), [*SIZES, (40, 10)])
def test_a_hub_of_many_models_shows_those_in_trouble_and_fits(columns: int, lines: int) -> None:
    from rich.console import Console

    models = many()
    models[90]["state"] = "unhealthy"
    sink = {
        "name": "s", "open": True, "delivered": 1, "failed": 0, "dropped": 0, "queue_length": 0, "where": "x" * 300,
        "last_error": None,
    }  # fmt: skip
    event = {"hook": "model_gave_up", "time": 0.0, "model": "m90", "failures": 5}
    view = View(
        {"version": "1", "config": "/a/hub.yaml", "pid": 1, "started_at": 0.0, "models": models}, [sink] * 30,
        away="x" * 300,
    )  # fmt: skip
    view.events.extend([event] * 150)
    console = Console(width=columns, height=lines, record=True, file=io.StringIO())
    console.print(picture(view, columns, lines))
    shown = console.export_text().splitlines()
    assert len(shown) <= lines
    assert max(map(len, shown)) <= columns
    text = "\n".join(shown)
    assert "m90 " in text
    assert "unhealthy" in text
    assert " more models: mlxhub status" in text
    assert " more sinks: mlxhub sinks status" in text
    assert "stays down until" in text or lines == 10


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_status_has_no_folded_lines(hub: None, open_terminal: OpenTerminal, columns: int, lines: int) -> None:
    terminal = open_terminal(columns, lines, "status")
    assert terminal.end() == 0
    assert [line.split()[0] for line in terminal.lines[:5]] == ["NAME", "good", "bad", "late", "bad:"]
    assert terminal.lines[4].startswith("bad: exit code 3 after 0.0 s; `mlxhub explain bad` says more")
    assert ("the-logs-of-models/good.log" in terminal.text) is (columns == 200)


def test_colours_of_the_status_can_be_turned_off(hub: None, open_terminal: OpenTerminal) -> None:
    for no_color, coloured in (("", True), ("1", False)):
        terminal = open_terminal(80, 24, "status", NO_COLOR=no_color)
        assert terminal.end() == 0
        assert (b"\x1b[32m" in terminal.written) is coloured


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_explain_is_told_in_lines_that_fit(hub: None, open_terminal: OpenTerminal, columns: int, lines: int) -> None:
    terminal = open_terminal(columns, lines, "explain", "bad")
    assert terminal.end() == 0
    assert terminal.lines[0] == "bad has failed (exit code 3 after 0.0 s), and stays down."
    seen = [line for line in terminal.lines if line]
    assert seen.index("What the hub does next") < seen.index("What you can do")
    assert "  | boo" in seen
    assert seen[-1].split("  ")[1] == "mlxhub events --since 1h bad"
    assert all(line.startswith("  ") or not line.startswith(" ") for line in seen)


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_start_shows_what_it_waits_for_and_then_only_what_came_of_it(
    home: Path, open_terminal: OpenTerminal, columns: int, lines: int
) -> None:
    entries = [
        {"name": "good", "default": True, "command": SERVER},
        {"name": "late", "default": True, "command": [*SERVER, "--listen-after", "600"]},
        {"name": "bad", "default": True, "restart": "never", "command": ["sh", "-c", "echo boo; exit 3", "", "{port}"]},
    ]
    (home / "start.yaml").write_text(f"log_path: other\nmodels: {json.dumps(entries)}\n")
    terminal = open_terminal(columns, lines, "start", "-c", "start.yaml")
    try:
        terminal.until(lambda text: "late  starting" in text and "good: ready in" in text and "bad: failed" in text)
        assert "  | boo" in terminal.lines
        terminal.until(lambda text: "not ready yet: Connection refused" in text)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
        assert "starting" not in terminal.text
        assert "not waiting any more; the hub goes on: `mlxhub status -c start.yaml`" in terminal.text
    finally:
        mlxhub("stop", "-c", "start.yaml")
