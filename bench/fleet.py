"""The life of a daemon with many programs: its start, what it costs while nothing happens, its end."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.figure import Bound, Figure
from bench.pace import Pace
from bench.peers import Daemon, Setup, Start, daemons
from bench.tools import Lines, cpu_seconds, environment, gone, memory_mib, place, switches, wait

FLOOR = "bare Popen"
PROGRAM = "echo $$ > began; exec sleep 1000"
DEAF = "trap '' TERM; echo $$ > began; exec sleep 1000"
GRACE = 1.0

KEEPERS = (
    "each model has a keeper, a process of its own, so that none can harm the log of another: forked from one interpreter,"
    " but it gets a page of its own for each in which it counts references, 1.5 MiB of heap and 0.6 of libpython's data"
    " (smaps). The hub is 30 to 40 MiB with pydantic, loguru and the server of the control API"
)


def figures(pace: Pace) -> list[Figure]:
    """Measure."""
    sizes = pace.pick((1, 20, 100), (20,))
    made = {number: _figures_of(number) for number in sizes}
    further = Figure(
        "memory per further model",
        "MiB",
        "from the memory with 20 and with 100",
        target=(Bound("median", 0.3),),
        why=KEEPERS,
    )
    deaf = Figure(
        "shutdown of 3 deaf programs",
        "s",
        f"SIGTERM to the daemon until the last has ended, of 3 that ignore SIGTERM; SIGKILL is asked for after {GRACE:g} s",
        target=(Bound("median", GRACE + 0.1),),
    )
    for _ in pace.rounds(3, 1, seconds=150):
        for number in sizes:
            _bare(number, made[number])
            for name, start in daemons().items():
                with _life(start, number, PROGRAM, 10, name, made[number]["start"]) as (daemon, pids):
                    _idle(daemon, name, made[number], pace.pick(6, 1))
                    made[number]["end"].add(name, _ended(daemon, pids) * 1000)
        for name, start in ({} if pace.quick else daemons()).items():
            with _life(start, 3, DEAF, GRACE, name) as (daemon, pids):
                deaf.add(name, _ended(daemon, pids))
    if 100 in made:
        for name in daemons():
            few, many = (made[number]["memory"].samples[name] for number in (20, 100))
            further.add(name, *((b - a) / 80 for a, b in zip(few, many, strict=False)))
    listed = [each for kind in ("start", "wakes", "cpu", "memory") for each in [made[n][kind] for n in sizes]]
    return [*listed, *([further] if further.samples else []), made[20]["end"], *([deaf] if deaf.samples else [])]


def _figures_of(number: int) -> dict[str, Figure]:
    of, beside = f"{number} model{'s' * (number > 1)}", "the daemon's own processes, keepers included"
    return {
        "start": Figure(
            f"start of {of}",
            "ms",
            "cold launch of the daemon until the first instruction of the last program",
            floor=FLOOR,
            # 1.5 ms for each further one.
            target=() if number == 1 else (Bound("median", 200 + 1.5 * (number - 20)),),
            why="most of it passes before the first model runs, with imports: pydantic, which checks hub.yaml, is half of"
            " them (`python -X importtime`). Then each is started when the keeper of the one before has answered, so"
            " that whoever asked for it is told of a start that fails",
        ),
        "wakes": Figure(f"idle switches, {of}", "/min", f"context switches of {beside}", target=(Bound("median", 0),)),
        "cpu": Figure(f"idle CPU, {of}", "ms/min", f"of {beside}"),
        "memory": Figure(
            f"memory, {of}",
            "MiB",
            f"PSS of {beside}",
            target=(Bound("median", 25),) if number == 20 else (),
            why=KEEPERS,
        ),
        "end": Figure(
            f"shutdown of {of}",
            "ms",
            "SIGTERM to the daemon until the last program has ended; each ends at once. supervisord ends one after the"
            " other, and looks for ends once a second unless something else happens: how often it just misses one varies",
            floor=FLOOR,
            target=(Bound("median", 100),),
            why="each keeper tells the end of its model when it has looked, through /proc, that nothing of its session is"
            " left; then the hub closes its sinks and its control socket",
        ),
    }


@contextmanager
def _life(
    start: Start, number: int, program: str, grace: float, name: str, took: Figure | None = None
) -> Iterator[tuple[Daemon, list[int]]]:
    with place() as directory, ExitStack() as stack:
        began = Lines(directory / "began")
        stack.callback(began.close)
        setup = Setup({f"m{each}": program for each in range(number)}, grace=grace)
        launched = time.monotonic()
        daemon = stack.enter_context(start(directory, setup))
        seen = [began.next() for _ in range(number)]
        if took:
            took.add(name, (seen[-1][1] - launched) * 1000)
        # supervisord and circus have to be told of each; and a hub of ours to have read its answers.
        time.sleep(1)
        yield daemon, [int(pid) for pid, _ in seen]


def _idle(daemon: Daemon, name: str, made: dict[str, Figure], seconds: float) -> None:
    parts = daemon.parts()
    woken, used = switches(parts), cpu_seconds(parts)
    time.sleep(seconds)
    made["wakes"].add(name, (switches(parts) - woken) * 60 / seconds)
    made["cpu"].add(name, (cpu_seconds(parts) - used) * 1000 * 60 / seconds)
    made["memory"].add(name, memory_mib(parts))


def _ended(daemon: Daemon, pids: list[int]) -> float:
    all_gone = gone(pids)
    told = time.monotonic()
    daemon.end()
    wait(all_gone, 0.001, timeout=60)
    return time.monotonic() - told


def _bare(number: int, made: dict[str, Figure]) -> None:
    """Nothing but processes that are started, and ended."""
    with place() as directory:
        began = Lines(directory / "began")
        script = directory / "m.sh"
        script.write_text(PROGRAM)
        launched = time.monotonic()
        started = [_popen(directory, script) for _ in range(number)]
        at = [began.next()[1] for _ in range(number)][-1]
        made["start"].add(FLOOR, (at - launched) * 1000)
        time.sleep(0.1)
        told = time.monotonic()
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()
        made["end"].add(FLOOR, (time.monotonic() - told) * 1000)
        began.close()


def _popen(directory: Path, script: Path) -> subprocess.Popen[bytes]:
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(["/bin/sh", str(script)], cwd=directory, env=environment(directory), stdout=log)
