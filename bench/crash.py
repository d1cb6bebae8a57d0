"""From a SIGKILL until somebody knows, and until the next process runs."""

from __future__ import annotations

import json
import queue
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psutil

from bench.figure import OURS, Bound, Figure
from bench.pace import Pace
from bench.peers import Setup, Start, circus, daemons, supervisord
from bench.tools import Lines, place
from mlxhub_core import HubManager

FLOOR = "Popen.wait in a thread"
SLEEPER = "echo $$ > began; exec sleep 1000"
"""A shell, as it begins in a thousandth of a second: the hub's part is what counts."""
MODELS = 20


def figures(pace: Pace) -> list[Figure]:
    """Measure."""
    told = Figure(
        "crash to a sink's hook",
        "ms",
        f"SIGKILL of one of {MODELS} models until the hook of a third sink runs, beside statsd and Prometheus; no restart"
        " follows. supervisord: an eventlistener; circus: its pub/sub; polled: a loop that looks, as the seed's hub does",
        floor=FLOOR,
        target=(Bound("median", 1.2), Bound("p95", 2)),
        why="it is five threads and processes one after the other, each of which has to be woken: keeper, its "
        "listener in the hub, the loop, and the threads of three sinks, of which this one is the last; see the line "
        "with one model and one sink. By stamps along that way: until the keeper has heard of the SIGCHLD 0.2 ms, its "
        "look for others of the session (through /proc, and so with the number of processes there are) 0.2, until the "
        "hub's loop has heard 0.3, its decision and the picture of all models 0.6, the two other sinks 0.3",
    )
    restarted = Figure(
        "crash to the next process",
        "ms",
        "SIGKILL until the first instruction of the next process; no delay is asked for",
        floor="Popen.wait and Popen",
        target=(Bound("median", 2.4), Bound("p95", 4)),
        why="by stamps along that way: 0.7 ms until the hub's loop knows, 0.7 until it has decided and told, 0.6 until "
        "it has looked what the model needs and has written the order, while the sinks want the interpreter too, 0.8 "
        "until the keeper that waits for it has locked, opened and forked, 0.5 until the shell runs",
    )
    alone = Figure(
        "crash to a sink's hook, 1 model and 1 sink",
        "ms",
        "as above, of a hub with no other model or sink",
        floor=FLOOR,
    )
    alone_again = Figure(
        "crash to the next process, 1 model and 1 sink",
        "ms",
        "as above, while no other model runs, and no other sink is on",
    )
    unkept = Figure(
        "kill -9 of a keeper to a sink's hook",
        "ms",
        "SIGKILL of a model's keeper until a sink's hook runs; the model is ended before that. No peer has the like",
        target=(Bound("median", 2),),
        why="as for the crash of a model; besides, the hub tries the keeper's socket again, and ends the model, before "
        "it tells",
    )
    with ExitStack() as stack:
        sinks = '{loguru: off, statsd: {host: 127.0.0.1, port: 9}, prometheus: {listen: "127.0.0.1:0"}}'
        ours, small = (stack.enter_context(_hub(*hub)) for hub in ((MODELS, sinks), (2, "{loguru: off}")))
        bare = stack.enter_context(_bare())
        slow = [(each, stack.enter_context(_daemon(start))) for each, start in _peers().items()]
        for number in pace.rounds(60, 4, seconds=110):
            ours(told, restarted, unkept)
            small(alone, alone_again, None)
            bare(told, restarted)
            for name, crash in slow:
                if _turn(number, pace, slowest=name == "circus"):
                    crash(name, told, restarted)
            for period in (0.5, 5.0):
                if _turn(number, pace, slowest=period > 1):
                    told.add(f"polled every {period:g} s", _polled(period))
    alone.add(FLOOR, *told.samples[FLOOR])
    return [told, alone, restarted, alone_again, unkept]


def _turn(number: int, pace: Pace, *, slowest: bool) -> bool:
    """Whether this round is for those that take a second, or for those that take some; a quick run is not for these."""
    if pace.quick:
        return number == 0 and not slowest
    return number % (8 if slowest else 4) == 0


class Stamp:
    """A sink that takes the time."""

    def __init__(self) -> None:
        self._times: queue.SimpleQueue[float] = queue.SimpleQueue()

    def model_failed(self) -> None:
        """Now."""
        self._times.put(time.monotonic())

    def after(self, action: Callable[[], object]) -> float:
        """Milliseconds from an action until the hook ran."""
        began = time.monotonic()
        action()
        return (self._times.get(timeout=30) - began) * 1000


@contextmanager
def _hub(number: int, sinks: str) -> Iterator[Callable[[Figure, Figure, Figure | None], None]]:
    """A hub in this process with so many models, and these sinks beside the one that takes the time.

    The hook and the restart are taken from two models: the restart would delay the hook.
    """
    with place() as directory, ExitStack() as stack:
        began = Lines(directory / "began")
        stack.callback(began.close)
        model = {"health": False, "working_directory": str(directory), "command": ["/bin/sh", "-c", SLEEPER]}
        at_once = {"delay": 0, "max_failures": 1000, "jitter": 0}
        models = [{"name": "never", "restart": "never", **model}, {"name": "at-once", "restart": at_once, **model}]
        quiet = {"health": False, "default": True, "command": ["sleep", "1000"]}
        models += [{"name": f"m{n}", **quiet} for n in range(number - len(models))]
        config = directory / "hub.yaml"
        config.write_text(f"log_path: .\nlog_rotation: off\nsinks: {sinks}\nmodels: {json.dumps(models)}\n")
        stamp = Stamp()
        hub = stack.enter_context(HubManager(config, observability_sink=stamp))
        hub.reload()

        def crash(told: Figure, restarted: Figure, unkept: Figure | None) -> None:
            told.add(OURS, stamp.after(_started(hub, "never", began).kill))
            victim = _started(hub, "at-once", began)
            killed = time.monotonic()
            stamp.after(victim.kill)
            restarted.add(OURS, (began.next()[1] - killed) * 1000)
            hub.stop_model("at-once")
            if unkept is None:
                return
            keeper = _started(hub, "never", began).parent()
            assert keeper is not None
            unkept.add(OURS, stamp.after(keeper.kill))

        yield crash


def _started(hub: HubManager, name: str, began: Lines) -> psutil.Process:
    """A model that runs, and has come to rest."""
    hub.start_model(name)
    process = psutil.Process(int(began.next()[0]))
    time.sleep(0.02)
    return process


@contextmanager
def _bare() -> Iterator[Callable[[Figure, Figure], None]]:
    """A process is killed, waited for, and another one started: the least that Python needs."""
    with place() as directory:
        began = Lines(directory / "began")

        def crash(told: Figure, restarted: Figure) -> None:
            with subprocess.Popen(["/bin/sh", "-c", SLEEPER], cwd=directory) as first:
                began.next()
                heard: queue.SimpleQueue[float] = queue.SimpleQueue()
                threading.Thread(target=_wait_for, args=(first, heard)).start()
                time.sleep(0.02)
                killed = time.monotonic()
                first.kill()
                told.add(FLOOR, (heard.get() - killed) * 1000)
                with subprocess.Popen(["/bin/sh", "-c", SLEEPER], cwd=directory) as second:
                    restarted.add("Popen.wait and Popen", (began.next()[1] - killed) * 1000)
                    second.kill()

        yield crash
        began.close()


def _wait_for(process: subprocess.Popen[bytes], heard: queue.SimpleQueue[float]) -> None:
    process.wait()
    heard.put(time.monotonic())


def _peers() -> dict[str, Start]:
    known: dict[str, Start] = {
        "supervisord": supervisord,
        "circus, check_delay 0.05": circus(0.05),
        "circus": circus(),
    }
    return {name: start for name, start in known.items() if name.split(",")[0] in daemons()}


@contextmanager
def _daemon(start: Start) -> Iterator[Callable[[str, Figure, Figure], None]]:
    with place() as directory, ExitStack() as stack:
        began, told_at = Lines(directory / "began"), Lines(directory / "told")
        stack.callback(began.close)
        stack.callback(told_at.close)
        stack.enter_context(start(directory, Setup({"m": SLEEPER}, restart=True, told=told_at)))
        victim = [int(began.next()[0])]
        time.sleep(1)
        told_at.clear()

        def crash(name: str, told: Figure, restarted: Figure) -> None:
            # At any moment of its round, if it has one.
            time.sleep(random.uniform(0, 5 if name == "circus" else 0.2))
            killed = time.monotonic()
            psutil.Process(victim[0]).kill()
            told.add(name, int(told_at.next()[0]) / 1e6 - killed * 1000)
            pid, at = began.next()
            restarted.add(name, (at - killed) * 1000)
            victim[0] = int(pid)

        yield crash


def _polled(period: float) -> float:
    """The seed's way: whoever asks for the status finds out."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        heard: queue.SimpleQueue[float] = queue.SimpleQueue()

        def poll() -> None:
            while process.poll() is None:
                time.sleep(period)
            heard.put(time.monotonic())

        threading.Thread(target=poll, daemon=True).start()
        time.sleep(random.uniform(0, period))
        killed = time.monotonic()
        process.kill()
        return (heard.get() - killed) * 1000
