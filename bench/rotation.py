"""Lines that are lost, doubled or torn while a log is rotated under load."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench.figure import OURS, Bound, Figure
from bench.output import FILE, child_to_file
from bench.pace import Pace
from bench.peers import Daemon, Setup, Start, daemons, mlxhub, python
from bench.tools import place, wait

LIMIT = 1_000_000
NUMBERED = """
import os, time
n, end = 0, %d
pad = b"x" * 90
next_at = time.monotonic()
while n < end:
    for _ in range(200):
        os.write(1, b"%%08d %%s\\n" %% (n, pad))
        n += 1
    next_at += 200 / %d
    time.sleep(max(0, next_at - time.monotonic()))
open("done.new", "w").write("x"); os.rename("done.new", "done")
time.sleep(1000)
"""
LINE = re.compile(rb"\d{8} x{90}\Z")
RATE = 50_000
"""Lines in a second."""


def figures(pace: Pace) -> list[Figure]:
    """Measure."""
    count = pace.pick(200_000, 40_000)
    how = f"of {count} numbered lines, {RATE} a second, in logs of 1 MB"
    harmed = Figure(
        "lines lost, doubled or torn in rotation",
        "lines",
        how + "; the last is what copytruncate does to a program that writes its log itself",
        target=(Bound("max", 0),),
    )
    size = Figure("largest log beside its limit", "times", how, target=(Bound("max", 1.0),))
    for _ in pace.rounds(2, 1, seconds=70):
        for name, (start, limit, meanwhile) in _ways().items():
            with place() as directory:
                script = f"cd {directory}; " + python(directory, "code.py", NUMBERED % (count, RATE))
                with start(directory, Setup({"m": script}, limit=limit)) as daemon:
                    largest = _watched(daemon, meanwhile)
                    harmed.add(name, _harm(daemon.directory, count))
                    if limit:
                        size.add(name, largest / LIMIT)
    return [harmed, size]


Meanwhile = Callable[[Daemon, threading.Event], None]


def _ways() -> dict[str, tuple[Start, int, Meanwhile]]:
    ways: dict[str, tuple[Start, int, Meanwhile]] = {
        OURS: (mlxhub, LIMIT, _nothing),
        f"{OURS}, its hub killed meanwhile": (mlxhub, LIMIT, _kill),
    }
    ways |= {name: (start, LIMIT, _nothing) for name, start in daemons().items() if name != OURS}
    if shutil.which("logrotate"):
        ways[f"{OURS}, logrotate renames"] = (mlxhub, 0, _logrotate("create"))
        ways[f"{FILE}, logrotate copytruncate"] = (child_to_file, 0, _logrotate("copytruncate"))
    return ways


def _nothing(_daemon: Daemon, over: threading.Event) -> None:
    over.wait()


def _kill(daemon: Daemon, over: threading.Event) -> None:
    # When one log has been rotated: the model is in full flow.
    while not (daemon.directory / "m.log.1").exists() and not over.wait(0.005):
        pass
    daemon.process.kill()


def _logrotate(manner: str) -> Meanwhile:
    def rotate(daemon: Daemon, over: threading.Event) -> None:
        directory = daemon.directory
        config = directory / "logrotate.conf"
        config.write_text(f"{directory}/m.log {{\n size 1M\n rotate 1000\n missingok\n {manner}\n}}\n")
        config.chmod(0o600)
        while not over.wait(0.1):
            subprocess.run(["logrotate", "-s", directory / "state", config], check=False, capture_output=True)

    return rotate


def _watched(daemon: Daemon, meanwhile: Meanwhile) -> int:
    """Wait until all is written. Returns the length of the largest log."""
    over = threading.Event()
    thread = threading.Thread(target=meanwhile, args=(daemon, over))
    thread.start()
    try:
        wait((daemon.directory / "done").exists, timeout=60)
        time.sleep(0.5)
    finally:
        over.set()
        thread.join()
    return max(path.stat().st_size for path in daemon.directory.glob("m.log*"))


def _harm(directory: Path, count: int) -> int:
    seen: Counter[int] = Counter()
    torn = 0
    for path in directory.glob("m.log*"):
        for line in path.read_bytes().splitlines():
            if LINE.match(line):
                seen[int(line[:8])] += 1
            else:
                torn += 1
    return count - len(seen) + seen.total() - len(seen) + torn
