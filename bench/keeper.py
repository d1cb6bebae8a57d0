"""What a keeper costs and how quick it is, beside `cat`, supervisord and circus, all in turns in one run.

Peers are installed into environments of their own below `.venv`; without a network they are left out. Ratios tell more
than the figures, which are those of this machine and this moment. `--quick` takes fewer and shorter rounds.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import queue
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import venv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil

from mlxhub_core import HubManager
from mlxhub_core.keepers import Keepers
from mlxhub_core.launch import Launch
from mlxhub_core.place import place_of
from mlxhub_core.process import Exit, Order

QUICK = "--quick" in sys.argv
ROUNDS = 3 if QUICK else 7
BULK = (200 if QUICK else 1000) * 10**6
LINES = (300_000 if QUICK else 2_000_000) * 100
MANY = 20
PEERS = Path(sys.prefix) / "bench-peers"

FLOOD = {
    # Both stamp the moment at which they begin, and stay when they have written all, so that their pump can be looked at.
    "bulk": f"import os, time, signal\nb = (b'x' * 99 + b'\\n') * 655\nopen('began', 'w').write(str(time.time()))\n"
    f"for _ in range({BULK} // len(b)): os.write(1, b)\nsignal.pause()",
    "line": f"import os, time\nopen('began', 'w').write(str(time.time()))\nos.execvp('awk', ['awk', 'BEGIN {{ s = "
    f'sprintf("%99s", "x"); for (i = 0; i < {LINES // 100}; i++) {{ print s; fflush() }} system("exec sleep 1000") }}\'])',
}
SIZE = {"bulk": BULK // 65500 * 65500, "line": LINES}
TICK = "import os, sys, time\nfor line in sys.stdin: os.write(1, b'%d\\n' % time.time_ns())"

Pump = AbstractContextManager[tuple[psutil.Process, Path]]
"""While it is open a program runs in a directory, and what it writes is pumped into a log: by this process, there."""


def main() -> None:
    """Print all figures."""
    pumps = {"cat >> log": cat, "mlxhub": keeper} | peers()
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}; {ROUNDS} rounds, medians\n"
    )
    floods(pumps)
    line_to_file(pumps)
    stopped_supervisor(pumps)
    crashes()
    starts()
    many()


# Pumps.


@contextmanager
def cat(directory: Path, argv: list[str]) -> Iterator[tuple[psutil.Process, Path]]:
    """The floor: `argv | cat >> log`."""
    log = directory / "log"
    with (
        log.open("ab") as file,
        subprocess.Popen(argv, cwd=directory, stdout=subprocess.PIPE) as child,
        subprocess.Popen(["cat"], stdin=child.stdout, stdout=file) as pump,
    ):
        try:
            yield psutil.Process(pump.pid), log
        finally:
            end(child.pid)
            pump.kill()


@contextmanager
def keeper(directory: Path, argv: list[str]) -> Iterator[tuple[psutil.Process, Path]]:
    """A hub with one model."""
    config = directory / "hub.yaml"
    model = {"name": "m", "default": True, "health": "off", "command": argv, "stop_timeout": 0.2}
    config.write_text(
        f"log_path: .\nlog_rotation: off\nsinks: {{loguru: off}}\nmodels: [{json.dumps(model)}]\n".replace(
            '"off"', "off"
        )
    )
    with HubManager(config) as hub:
        hub.reload()
        (status,) = hub.get_status()
        parent = psutil.Process(status.pid).parent()
        assert parent is not None
        yield parent, directory / "m.log"


@contextmanager
def supervisord(directory: Path, argv: list[str]) -> Iterator[tuple[psutil.Process, Path]]:
    """supervisord with one program."""
    command = " ".join(f'"{word}"' if " " not in word else word for word in ["sh", "run.sh"])
    run_script(directory, argv)
    (directory / "supervisord.conf").write_text(
        "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile=pid\n"
        f"[program:m]\ncommand={command}\nredirect_stderr=true\nstdout_logfile=log\nstdout_logfile_maxbytes=0\n"
    )
    yield from daemon(directory, [str(PEERS / "supervisor/bin/supervisord"), "-c", "supervisord.conf"])


@contextmanager
def circus(directory: Path, argv: list[str]) -> Iterator[tuple[psutil.Process, Path]]:
    """circusd with one watcher."""
    run_script(directory, argv)
    ports = [free_port() for _ in range(3)]
    names = ("endpoint", "pubsub_endpoint", "stats_endpoint")
    ends = "".join(f"{name}=tcp://127.0.0.1:{port}\n" for name, port in zip(names, ports, strict=True))
    (directory / "circus.ini").write_text(
        f"[circus]\n{ends}[watcher:m]\ncmd=sh run.sh\nworking_dir={directory}\n"
        f"stdout_stream.class=FileStream\nstdout_stream.filename={directory}/log\n"
    )
    yield from daemon(directory, [str(PEERS / "circus/bin/circusd"), "circus.ini"])


def run_script(directory: Path, argv: list[str]) -> None:
    (directory / "argv.json").write_text(json.dumps(argv))
    code = "import json, os; a = json.load(open('argv.json')); os.execvp(a[0], a)"
    (directory / "run.sh").write_text(f'exec {sys.executable} -I -S -c "{code}"\n')


def daemon(directory: Path, argv: list[str]) -> Iterator[tuple[psutil.Process, Path]]:
    with subprocess.Popen(argv, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield psutil.Process(process.pid), directory / "log"
        finally:
            end(process.pid)


def peers() -> dict[str, Callable[[Path, list[str]], Pump]]:
    """Those that can be installed."""
    found: dict[str, Callable[[Path, list[str]], Pump]] = {}
    for name, package, pump in (("supervisord", "supervisor", supervisord), ("circus", "circus", circus)):
        place = PEERS / package
        if not (place / "bin" / "pip").exists():
            venv.create(place, with_pip=True)
        done = subprocess.run(
            [place / "bin" / "pip", "install", "--quiet", package, "setuptools<81"], capture_output=True, check=False
        )
        if done.returncode == 0:
            found[name] = pump
        else:
            print(f"{name} cannot be installed, and is left out")
    return found


# Figures.


def floods(pumps: dict[str, Callable[[Path, list[str]], Pump]]) -> None:
    """Throughput, and the CPU time of the pump."""
    for kind, title in (("bulk", "in writes of 65.5 kB"), ("line", "a write for each line of 100 bytes")):
        rates: dict[str, list[float]] = {name: [] for name in pumps}
        costs: dict[str, list[float]] = {name: [] for name in pumps}
        for _ in range(ROUNDS):
            for name, pump in pumps.items():
                rate, cost = flood(pump, kind)
                rates[name].append(rate)
                costs[name].append(cost)
        print(f"output {title}:")
        for name in pumps:
            rate, cost = statistics.median(rates[name]), statistics.median(costs[name])
            beside = ", ".join(
                f"{rate / statistics.median(rates[other]):.2f} of {other}" for other in pumps if other != name
            )
            print(f"  {name:<12} {rate / 1e6:7.0f} MB/s  {cost:5.2f} s of CPU per GB   {beside}")
    print()


def flood(pump: Callable[[Path, list[str]], Pump], kind: str) -> tuple[float, float]:
    with place() as directory, pump(directory, [sys.executable, "-I", "-S", "-c", FLOOD[kind]]) as (process, log):
        wait(lambda: log.exists() and log.stat().st_size >= SIZE[kind], 0.0005)
        seconds = time.time() - float((directory / "began").read_text())
        times = process.cpu_times()
        return SIZE[kind] / seconds, (times.user + times.system) / SIZE[kind] * 1e9


def line_to_file(pumps: dict[str, Callable[[Path, list[str]], Pump]]) -> None:
    """From the write of one line to its sight in the file."""
    print("a line's way into the file, in a quiet stream:")
    took: dict[str, list[float]] = {name: [] for name in pumps}
    program = "import os, time\ntime.sleep(1)\nfor _ in range(30):\n time.sleep(0.03)\n os.write(1, b'%d\\n' % time.time_ns())\ntime.sleep(9)"
    for name, pump in pumps.items():
        with place() as directory, pump(directory, [sys.executable, "-I", "-S", "-c", program]) as (_, log):
            seen, deadline = 0, time.monotonic() + 20
            while len(took[name]) < 30 and time.monotonic() < deadline:
                size = log.stat().st_size if log.exists() else 0
                if size > seen:
                    now = time.time_ns()
                    took[name].append((now - int(log.read_bytes().splitlines()[-1])) / 1e6)
                    seen = size
    for name in pumps:
        print(f"  {name:<12} {statistics.median(took[name]):6.2f} ms")
    print()


def stopped_supervisor(pumps: dict[str, Callable[[Path, list[str]], Pump]]) -> None:
    """The supervisor stands still for 4 seconds while the model writes 100 kB/s: does the model?"""
    program = (
        "import os, time\nworst = 0.0\nend = time.monotonic() + 6\nwhile time.monotonic() < end:\n time.sleep(0.01)\n"
        " t = time.monotonic()\n os.write(1, b'x' * 999 + b'\\n')\n worst = max(worst, time.monotonic() - t)\n"
        "open('worst', 'w').write(str(worst))\ntime.sleep(99)"
    )
    print("the supervisor is stopped for 4 s; the model's longest write:")
    for name, pump in pumps.items():
        if name == "cat >> log":
            continue
        with place() as directory:
            if name == "mlxhub":
                worst = stopped_hub(directory, program)
            else:
                with pump(directory, [sys.executable, "-I", "-S", "-c", program]) as (process, log):
                    wait(lambda log=log: log.exists() and log.stat().st_size > 1000)
                    process.suspend()
                    time.sleep(4)
                    process.resume()
                    wait((directory / "worst").exists)
                    worst = float((directory / "worst").read_text())
        print(f"  {name:<12} {worst * 1000:7.1f} ms")
    print()


def stopped_hub(directory: Path, program: str) -> float:
    argv = [sys.executable, "-I", "-S", "-c", program]
    with hub_process(directory, [{"name": "m", "default": True, "health": False, "command": argv}]) as hub:
        log = directory / "m.log"
        wait(lambda: log.exists() and log.stat().st_size > 1000)
        hub.suspend()
        time.sleep(4)
        hub.resume()
        wait((directory / "worst").exists)
        return float((directory / "worst").read_text())


def crashes() -> None:
    """SIGKILL of a model until a sink's hook runs, until the next process runs; of a keeper until a sink's hook runs."""
    told, told_floor, restarted, restarted_floor, unkept = ([] for _ in range(5))
    stamp = Stamp()
    with place() as directory, fifo(directory) as began:
        # A shell, as it begins in a thousandth of a second: the hub's part is what counts.
        argv = ["sh", "-c", "echo > began; exec sleep 1000"]
        model = {"health": False, "working_directory": str(directory), "command": argv}
        at_once = {"delay": 0, "max_failures": 1000, "jitter": 0}
        models = [{"name": "never", "restart": "never", **model}, {"name": "at-once", "restart": at_once, **model}]
        config = directory / "hub.yaml"
        config.write_text(f"log_path: .\nlog_rotation: off\nsinks: {{loguru: off}}\nmodels: {json.dumps(models)}\n")
        with HubManager(config, observability_sink=stamp) as hub:
            hub.reload()
            for _ in range(15 * ROUNDS):
                told.append(stamp.after(started(hub, "never", began).kill))
                victim = started(hub, "at-once", began)
                killed = time.monotonic()
                stamp.after(victim.kill)
                restarted.append(began() - killed)
                hub.stop_model("at-once")
                keeper = started(hub, "never", began).parent()
                assert keeper is not None
                unkept.append(stamp.after(keeper.kill))
                bare_told, bare_restarted = bare_crash(directory, argv, began)
                told_floor.append(bare_told)
                restarted_floor.append(bare_restarted)
    print("after a SIGKILL; the floor is a thread in `Popen.wait` and another Popen:")
    print(f"  model -> a sink's hook runs      {spread(told)}   floor {spread(told_floor)}")
    print(
        f"  model -> the next process runs   {spread(restarted)}   floor {spread(restarted_floor)}   (no delay is asked for)"
    )
    print(f"  keeper -> a sink's hook runs     {spread(unkept)}   (the model is ended before)\n")


def started(hub: HubManager, name: str, began: Callable[[], float]) -> psutil.Process:
    """A model that runs, and has come to rest."""
    hub.start_model(name)
    began()
    time.sleep(0.02)
    return next(psutil.Process(model.pid) for model in hub.get_status() if model.name == name)


def starts() -> None:
    """From the order until the model runs, beside the start of a bare interpreter."""
    ordered, bare = [], []
    with place() as directory:
        keepers = Keepers(directory / "runs", "bench", print)
        launch = Launch(("sleep", "1000"), dict(os.environ), directory)
        for _ in range(5 * ROUNDS):
            began = time.monotonic()
            process = keepers.start(Order("m", uuid.uuid4().hex, launch, directory / "m.log"), Deaf())
            ordered.append(time.monotonic() - began)
            process.kill()
            began = time.monotonic()
            subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
            bare.append(time.monotonic() - began)
        keepers.close()
    print(f"a keeper and its model are started in {spread(ordered)}; `python -I -S -c pass` takes {spread(bare)}\n")


class Stamp:
    """A sink that takes the time."""

    def __init__(self) -> None:
        self._times: queue.SimpleQueue[float] = queue.SimpleQueue()

    def model_failed(self) -> None:
        """Now."""
        self._times.put(time.monotonic())

    def after(self, action: Callable[[], object]) -> float:
        """Seconds from an action until the hook ran."""
        began = time.monotonic()
        action()
        return self._times.get(timeout=30) - began


class Deaf:
    """Listens to a process, and does not care."""

    def exited(self, outcome: Exit) -> None:
        """Nothing."""

    def log_failing(self, reason: str) -> None:
        """Nothing."""

    def log_recovered(self, lost_bytes: int) -> None:
        """Nothing."""


@contextmanager
def fifo(directory: Path) -> Iterator[Callable[[], float]]:
    """A named pipe `began`; waits for the next line that is written into it, and gives the time."""
    os.mkfifo(directory / "began")
    end = os.open(directory / "began", os.O_RDWR)

    def wait_for_line() -> float:
        os.read(end, 1)
        return time.monotonic()

    yield wait_for_line
    os.close(end)


def bare_crash(directory: Path, argv: list[str], began: Callable[[], float]) -> tuple[float, float]:
    """A process is killed, waited for, and another one started: the least that Python needs."""
    with subprocess.Popen(argv, cwd=directory) as first:
        began()
        told: queue.SimpleQueue[float] = queue.SimpleQueue()
        threading.Thread(target=lambda: (first.wait(), told.put(time.monotonic()))).start()
        time.sleep(0.01)
        killed = time.monotonic()
        first.kill()
        heard = told.get()
        with subprocess.Popen(argv, cwd=directory) as second:
            restarted = began()
            second.kill()
    return heard - killed, restarted - killed


def many() -> None:
    """Idle cost of a hub with many models, and their adoption by the next one."""
    quiet = [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"]
    models = [{"name": f"m{n}", "default": True, "health": False, "command": quiet} for n in range(MANY)]
    bare = subprocess.Popen(quiet)
    with place() as directory, hub_process(directory, models) as hub:
        keepers = keepers_of(directory)
        ours = [hub, *hub.children(), *keepers]
        time.sleep(1)
        before = [switches(process) for process in ours]
        time.sleep(5 if QUICK else 20)
        woken = sum(switches(process) for process in ours) - sum(before)
        memory = {p: p.memory_full_info().pss / 2**20 for p in ours}
        floor = psutil.Process(bare.pid).memory_full_info().pss / 2**20
        each = sum(memory[keeper] for keeper in keepers) / MANY
        print(f"a hub with {MANY} idle models, no probes:")
        print(f"  context switches in {5 if QUICK else 20} s: {woken}")
        print(
            f"  memory (PSS): hub {memory[hub]:.1f} MiB, zygote {memory[hub.children()[0]]:.1f}, each keeper {each:.2f}"
        )
        print(f"  all together {sum(memory.values()):.1f} MiB; one `python -I -S` that waits: {floor:.1f} MiB")
        hub.kill()
        hub.wait()
        began = time.monotonic()
        with hub_process(directory, models, count=MANY, hook="adopted"):
            took = time.monotonic() - began
        print(f"  kill -9 of the hub -> all {MANY} adopted by the next: {took * 1000:.0f} ms, Python's start included")
    bare.kill()
    bare.wait()


# Tools.


@contextmanager
def hub_process(
    directory: Path, models: list[dict[str, object]], count: int | None = None, hook: str = "started"
) -> Iterator[psutil.Process]:
    """A hub in a process of its own; all its models run, or are adopted, when this begins."""
    config = directory / "hub.yaml"
    config.write_text(
        "log_path: .\nlog_rotation: off\nsinks: {loguru: off}\nmodels:\n"
        + "".join(f"- {json.dumps(m)}\n" for m in models)
    )
    program = (
        "import sys, threading\nfrom mlxhub_core import HubManager\nclass Count:\n left = threading.Semaphore(0)\n"
        f" def model_{hook}(self): self.left.release()\n"
        "with HubManager('hub.yaml', observability_sink=Count()) as hub:\n hub.reload()\n"
        f" for _ in range({count or len(models)}): Count.left.acquire()\n"
        " print('up', flush=True)\n sys.stdin.read()"
    )
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(argv, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "up\n"
        yield psutil.Process(process.pid)
        with contextlib.suppress(OSError):
            process.stdin.close()


def keepers_of(directory: Path) -> list[psutil.Process]:
    locks = place_of(directory / "hub.yaml").runs.glob("*.lock")
    return [psutil.Process(int(lock.read_text())) for lock in locks]


def switches(process: psutil.Process) -> int:
    return int(sum(process.num_ctx_switches()))


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def end(pid: int) -> None:
    """A process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(condition: Callable[[], bool], pause: float = 0.01) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("a figure could not be taken")
        time.sleep(pause)


def spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{statistics.median(ordered) * 1000:6.2f} ms (p95 {ordered[int(len(ordered) * 0.95)] * 1000:.2f})"


if __name__ == "__main__":
    main()
