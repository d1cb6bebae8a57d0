"""What the models print: how fast it gets into the log, what that costs, and whether it holds a model up."""

from __future__ import annotations

import functools
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.figure import Bound, Figure
from bench.pace import Pace
from bench.peers import Daemon, Setup, Start, daemons, python
from bench.tools import cpu_seconds, environment, place, wait

FILE, CAT = "child >> log", "child | cat >> log"

# Both leave a file `began` with the time at which they begin, and `wrote` with the bytes they wrote.
BULK = """
import os, sys, time
b = (b"x" * 99 + b"\\n") * 655
limit, end, done = %d, time.monotonic() + %g, 0
open("began", "w").write(str(time.time()))
while done < limit and time.monotonic() < end: done += os.write(1, b)
open("wrote.new", "w").write(str(done)); os.rename("wrote.new", "wrote")
time.sleep(1000)
"""
LINES = """
import os, time
open("began", "w").write(str(time.time()))
os.execvp("awk", ["awk", 'BEGIN { s = sprintf("%%99s", "x"); for (i = 0; i < %d; i++) { print s; fflush() } '
    'print %d > "wrote.new"; close("wrote.new"); system("mv wrote.new wrote; exec sleep 1000") }'])
"""
TICK = """
import os, time
time.sleep(0.3)
for _ in range(%d):
    time.sleep(0.03)
    os.write(1, b"%%d\\n" %% time.time_ns())
time.sleep(1000)
"""
STEADY = """
import os, time
worst, end = 0.0, time.monotonic() + %g
while time.monotonic() < end:
    time.sleep(0.01)
    t = time.monotonic()
    os.write(1, b"x" * 999 + b"\\n")
    worst = max(worst, time.monotonic() - t)
open("worst.new", "w").write(str(worst)); os.rename("worst.new", "worst")
time.sleep(1000)
"""

TWO_CORES = "it differs from round to round: the model, its keeper and the harness share two cores"
WARM = 2 * 10**9
"""Bytes that are written before each flood and removed again: so nobody has to wait until the host of a virtual machine
gives back the memory that its guest did not use for a while, which halves the speed of whoever comes first."""


def figures(pace: Pace) -> list[Figure]:
    """Measure."""
    return [*_floods(pace), _line(pace), _stopped(pace)]


def _floods(pace: Pace) -> Iterator[Figure]:
    count = pace.pick(2_000_000, 200_000)
    kinds = {
        "bulk": (BULK % (10**9, pace.pick(1.0, 0.4)), "writes of 65.5 kB", 75),
        "a write a line": (LINES % (count, count * 100), "a write for each line of 100 bytes", 45),
    }
    targets = {
        "bulk": ((Bound("median", 1.5, "supervisord"), Bound("median", 1, CAT)), 0.6),
        "a write a line": ((Bound("median", 0.95, "supervisord"), Bound("median", 1, FILE)), 4),
    }
    for kind, (code, how, seconds) in kinds.items():
        rates, cost = targets[kind]
        rate = Figure(
            f"log throughput, {kind}",
            "MB/s",
            f"{how}, until all is in the log; before each, {WARM / 1e9:g} GB go into a file and away",
            FILE,
            "more",
            rates,
            why=TWO_CORES,
        )
        used = Figure(
            f"CPU of the log, {kind}",
            "s/GB",
            f"{how}; of the pump's side alone, from the first write on",
            CAT,
            target=(Bound("median", cost),),
            why=TWO_CORES,
        )
        for _ in pace.rounds(9, 1, seconds=seconds):
            for name, start in ({FILE: child_to_file, CAT: _cat} | daemons()).items():
                _warm_up()
                with _run(start, code) as daemon:
                    _flood(daemon, name, rate, used)
        yield from (rate, used)


def _flood(daemon: Daemon, name: str, rate: Figure, used: Figure) -> None:
    wait((daemon.directory / "began").exists, 0.001)
    before = cpu_seconds(daemon.parts())
    wait((daemon.directory / "wrote").exists, 0.0005)
    size = int((daemon.directory / "wrote").read_text())
    wait(functools.partial(_longer, daemon.log(), size), 0.0005)
    seconds = time.time() - float((daemon.directory / "began").read_text())
    rate.add(name, size / seconds / 1e6)
    if name != FILE:
        used.add(name, (cpu_seconds(daemon.parts()) - before) / size * 1e9)


def _warm_up() -> None:
    with place() as directory, (directory / "warm").open("wb") as file:
        for _ in range(WARM // 10**6):
            file.write(b"x" * 10**6)


def _line(pace: Pace) -> Figure:
    figure = Figure(
        "a line's way into the log",
        "ms",
        "from the write of one line into a quiet stream until it can be read in the file",
        FILE,
        target=(Bound("median", 0.5),),
    )
    count = pace.pick(20, 10)
    for _ in pace.rounds(3, 1, seconds=30):
        for name, start in ({FILE: child_to_file, CAT: _cat} | daemons()).items():
            with _run(start, TICK % count) as daemon:
                figure.add(name, *_seen(daemon.log(), count))
    return figure


def _seen(log: Path, count: int) -> list[float]:
    took: list[float] = []
    seen, end = 0, time.monotonic() + 20
    while len(took) < count and time.monotonic() < end:
        size = log.stat().st_size if log.exists() else 0
        if size > seen:
            now = time.time_ns()
            took.append((now - int(log.read_bytes().splitlines()[-1])) / 1e6)
            seen = size
    return took


def _stopped(pace: Pace) -> Figure:
    seconds = pace.pick(4, 1)
    figure = Figure(
        "longest write while the daemon is stopped",
        "ms",
        f"the daemon gets SIGSTOP for {seconds:g} s while the model writes 100 kB/s",
        target=(Bound("max", 10),),
    )
    for _ in pace.rounds(2, 1, seconds=50):
        for name, start in daemons().items():
            with _run(start, STEADY % (seconds + 0.5)) as daemon:
                wait(functools.partial(_longer, daemon.log(), 1000))
                daemon.process.suspend()
                time.sleep(seconds)
                daemon.process.resume()
                wait((daemon.directory / "worst").exists)
                figure.add(name, float((daemon.directory / "worst").read_text()) * 1000)
    return figure


def _longer(log: Path, size: int) -> bool:
    return log.exists() and log.stat().st_size >= size


@contextmanager
def _run(start: Start, code: str) -> Iterator[Daemon]:
    with (
        place() as directory,
        start(directory, Setup({"m": f"cd {directory}; " + python(directory, "code.py", code)})) as daemon,
    ):
        yield daemon


@contextmanager
def child_to_file(directory: Path, setup: Setup) -> Iterator[Daemon]:
    with (directory / "m.log").open("ab") as log, _child(directory, setup, log.fileno()) as child:
        yield Daemon(psutil.Process(child.pid), directory)


@contextmanager
def _cat(directory: Path, setup: Setup) -> Iterator[Daemon]:
    with (
        (directory / "m.log").open("ab") as log,
        _child(directory, setup, subprocess.PIPE) as child,
        subprocess.Popen(["cat"], env=environment(directory), stdin=child.stdout, stdout=log) as pump,
    ):
        try:
            yield Daemon(psutil.Process(pump.pid), directory)
        finally:
            pump.kill()


@contextmanager
def _child(directory: Path, setup: Setup, out: int) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sh", "-c", setup.programs["m"]], env=environment(directory), stdout=out) as child:
        try:
            yield child
        finally:
            child.kill()
