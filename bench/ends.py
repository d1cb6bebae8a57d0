"""`kill -9` of the daemon: what becomes of the programs, of what they print, and what the next daemon makes of them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from bench.figure import OURS, Bound, Figure
from bench.pace import Pace
from bench.peers import Daemon, Setup, Start, daemons
from bench.tools import Lines, alive, place, wait
from mlxhub_core import HubError
from mlxhub_core.control.client import ControlClient

MODELS = 20
TALKER = "n=0; echo $$ > began; while :; do echo $n; echo $n > said; n=$((n + 1)); sleep 0.02; done"
"""It cares for no failure of a write; but SIGPIPE ends it where a daemon has not had it ignored."""
UNSAID = 30
"""Lines that it would at least have printed in the second in which it lay dead."""


def figures(pace: Pace) -> list[Figure]:
    """Measure."""
    how = f"of {MODELS} programs, one of which prints a line every 20 ms; the daemon gets SIGKILL"
    live = Figure(
        "programs that live on after kill -9 of the daemon",
        "",
        how,
        better="more",
        target=(Bound("median", MODELS),),
    )
    lost = Figure(
        "lines lost after it",
        "lines",
        how + f"; in the second after that. A program that its own write ends is taken to lose {UNSAID}",
        target=(Bound("max", 0),),
    )
    copies = Figure("second copies after the next start", "", how + ", and is started again", target=(Bound("max", 0),))
    adopted = Figure(
        "adoption of 20 by the next hub",
        "ms",
        "launch of the next daemon until it answers and has all programs; no peer adopts any",
        target=(Bound("median", 250),),
        why="it takes little more than a hub's start without any model, most of which are imports (see the start of 1 "
        "model); a program that has HubManager alone adopts 20 in 206 ms, Python's start included",
    )
    for _ in pace.rounds(3, 1, seconds=40):
        for name, start in daemons().items():
            _killed(name, start, [live, lost, copies, adopted])
    return [live, lost, copies, adopted]


def _killed(name: str, start: Start, made: list[Figure]) -> None:
    live, lost, copies, adopted = made
    with place() as directory, contextlib.ExitStack() as stack:
        began = Lines(directory / "began")
        stack.callback(began.close)
        quiet = {f"m{number}": "echo $$ > began; exec sleep 1000" for number in range(1, MODELS)}
        setup = Setup({"m": f"cd {directory}; {TALKER}"} | quiet, grace=1)
        daemon = stack.enter_context(start(directory, setup))
        pids = [int(began.next()[0]) for _ in range(MODELS)]
        time.sleep(1)
        daemon.process.kill()
        daemon.process.wait()
        said = _said(directory)
        time.sleep(1)
        live.add(name, sum(alive(pid) for pid in pids))
        lost.add(name, _lost(daemon, said))
        old = [pid for pid in pids if alive(pid)]
        launched = time.monotonic()
        stack.enter_context(start(directory, setup))
        if name == OURS:
            wait(lambda: _has_all(directory, set(pids)), 0.005)
            adopted.add(name, (time.monotonic() - launched) * 1000)
        time.sleep(1.5)
        new = len(_drained(began))
        copies.add(name, max(0, len(old) + new - MODELS))


def _lost(daemon: Daemon, at_the_kill: int) -> int:
    """How many of the lines that the talker has printed, or would have, are not in the log."""
    said = _said(daemon.directory)
    time.sleep(0.2)
    logged = {int(line) for line in daemon.log().read_text().splitlines() if line.isdigit()}
    ended = said < at_the_kill + UNSAID // 2
    return len(set(range(said + 1)) - logged) + (UNSAID if ended else 0)


def _said(directory: Path) -> int:
    """The last number that was printed. The file is empty for a moment each time it is written."""
    while not (text := (directory / "said").read_text()):
        time.sleep(0.001)
    return int(text)


def _has_all(directory: Path, pids: set[int]) -> bool:
    try:
        models = ControlClient(directory / "hub.yaml").get("/hub/status")["models"]
    except HubError:
        return False
    return {model["pid"] for model in models} == pids


def _drained(lines: Lines) -> list[str]:
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            found.append(lines.next(0.05)[0])
    return found
