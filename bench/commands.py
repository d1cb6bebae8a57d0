"""How long commands take, from their launch to their end."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from bench.figure import OURS, Bound, Figure
from bench.pace import Pace
from bench.peers import Setup, daemons
from bench.tools import Lines, place

FLOOR = "python -c pass"
MODELS = 20
PASS = [sys.executable, "-c", "pass"]


def figures(pace: Pace) -> list[Figure]:
    """Measure."""
    status = Figure(
        f"status of {MODELS} models",
        "ms",
        "wall time of `mlxhub status`, `supervisorctl status` and `circusctl status`, of daemons that run side by side",
        FLOOR,
        target=(Bound("median", 45),),
        why="a Python that does nothing takes 10 ms, and the import of click, which all commands are made with, 20 more"
        " (`python -X importtime`); the hub answers in less than 5",
    )
    imported = Figure("import mlxhub_core", "ms", "wall time of `python -c 'import mlxhub_core'`", FLOOR)
    version = Figure("mlxhub --version", "ms", "wall time", FLOOR)
    with ExitStack() as stack:
        asked = {name: _asked(stack, name) for name in daemons()}
        for _ in pace.rounds(20, 3, seconds=40):
            for name, (directory, argv) in ({FLOOR: (Path.cwd(), PASS)} | asked).items():
                status.add(name, _wall(argv, directory))
            for figure, argv in (
                (imported, [sys.executable, "-c", "import mlxhub_core"]),
                (version, [str(Path(sys.executable).with_name("mlxhub")), "--version"]),
            ):
                figure.add(FLOOR, _wall(PASS, Path.cwd()))
                figure.add(OURS, _wall(argv, Path.cwd()))
    return [status, imported, version]


def _asked(stack: ExitStack, name: str) -> tuple[Path, list[str]]:
    """A daemon with so many programs, and the command that asks for them."""
    directory = stack.enter_context(place())
    began = Lines(directory / "began")
    stack.callback(began.close)
    programs = {f"m{number}": "echo $$ > began; exec sleep 1000" for number in range(MODELS)}
    daemon = stack.enter_context(daemons()[name](directory, Setup(programs)))
    for _ in programs:
        began.next()
    time.sleep(1)
    return directory, daemon.status


def _wall(argv: list[str], directory: Path) -> float:
    begin = time.perf_counter()
    # The code that it ends with is not looked at: supervisorctl's tells how the programs are.
    done = subprocess.run(argv, check=False, cwd=directory, capture_output=True)
    took = (time.perf_counter() - begin) * 1000
    if "status" in argv and done.stdout.count(b"\n") < MODELS:
        raise RuntimeError(f"{argv[0]} does not show all models: {(done.stdout + done.stderr).decode()[-300:]}")
    return took
