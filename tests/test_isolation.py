"""A hub with real processes beside sinks that do what no sink should: models and other sinks do not notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import psutil
import pytest
from loguru import logger

from mlxhub_core import (
    HubManager,
    HubModelContext,
    HubObservabilitySink,
    HubStateError,
    ModelState,
    Secret,
    Sink,
    hookimpl,
)
from mlxhub_core.discovery import scan
from mlxhub_core.testing import RecordingSink, wait_until

PATIENCE = 20.0
"""Seconds to wait for what must happen."""
AT_ONCE = 0.05
"""Seconds in which the hub answers, whatever its sinks do."""

FOREVER = f"[{sys.executable}, -I, -S, -c, 'import signal; signal.pause()']"

T = TypeVar("T")


class Misbehaving:
    """Does in one of its hooks what no sink should do. It is a sink of hub.yaml, so a test finds it in `made`."""

    made: ClassVar[list[Misbehaving]] = []
    hub: ClassVar[HubManager]

    def __init__(self, *, hook: str, deed: Literal["raise", "exit", "hang", "ask", "flood"]) -> None:
        self.entered = threading.Event()
        self.end = threading.Event()
        self.answered = threading.Event()
        self._do = {"raise": self._raise, "exit": sys.exit, "hang": self._hang, "ask": self._ask, "flood": self._flood}
        self._deed = deed
        setattr(self, hook, self._misbehave)
        self.made.append(self)

    def _misbehave(self, **_: object) -> None:
        self.entered.set()
        self._do[self._deed]()

    def _raise(self) -> None:
        raise RuntimeError("boom")

    def _hang(self) -> None:
        self.end.wait()

    def _ask(self) -> None:
        self.hub.get_status()
        self.hub.sink_stats()
        self.hub.start_model("spare")
        self.hub.stop_model("spare")
        self.answered.set()

    def _flood(self) -> None:
        while not self.end.is_set():
            self.hub.get_status()
            self.hub.sink_stats()


class Good(RecordingSink):
    """A well-behaved sink of hub.yaml, to be found in `made`."""

    made: ClassVar[list[Good]] = []

    def __init__(self) -> None:
        super().__init__()
        self.made.append(self)


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that offers the sinks of this file, as any other package would."""
    info = tmp_path / "site" / "test_sinks-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: test-sinks\nVersion: 1.0\n")
    points = {"bad": Misbehaving, "good": Good, "metrics": MetricsSink, "talkative": Talkative}
    lines = [f"{name} = {__name__}:{kind.__name__}\n" for name, kind in points.items()]
    (info / "entry_points.txt").write_text("[mlxhub.sinks]\n" + "".join(lines))
    monkeypatch.syspath_prepend(info.parent)
    monkeypatch.delenv("MLXHUB_NO_SINKS", raising=False)
    scan.cache_clear()
    yield
    scan.cache_clear()
    for sink in Misbehaving.made:
        sink.end.set()
    Misbehaving.made.clear()
    Good.made.clear()


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    yield (path := tmp_path / "hub.yaml")
    # Only a test that failed has left any.
    for pid in models_left(path):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What the hub logs."""
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(str(message)), level="INFO")
    yield lines
    logger.remove(handler)


def write(config: Path, *models: str, sinks: str = "") -> None:
    config.write_text(
        f"log_path: logs\nsinks:\n  loguru: off\n{sinks}models:\n"
        + "".join(f"  - {{name: {name}, command: {FOREVER}, restart: never}}\n" for name in models)
    )


def in_time(call: Callable[[], T]) -> T:
    """What a call to the hub returns, on a thread of its own: so that a deadlock fails the test and does not hang it."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001  # it is raised where the answer is awaited
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return answer.result(PATIENCE)


def status_comes_at_once(hub: HubManager) -> bool:
    """The quickest of some answers counts: it is the hub that is judged here, not the machine."""

    def seconds() -> float:
        begun = time.monotonic()
        in_time(hub.get_status)
        return time.monotonic() - begun

    return min(seconds() for _ in range(5)) < AT_ONCE


def states(hub: HubManager) -> dict[str, ModelState]:
    return {model.name: model.state for model in in_time(hub.get_status)}


def models_left(config: Path) -> list[int]:
    """The processes of models, found by where they work: whoever lost its parent is no child of ours any more."""
    found = psutil.process_iter(["pid", "cwd", "cmdline"])
    mine = [each.info for each in found if each.info["cwd"] == str(config.parent)]
    return [info["pid"] for info in mine if "signal.pause()" in " ".join(info["cmdline"] or ())]


# The failures of the hub before this one: it called its sink while it held its lock.


@pytest.mark.parametrize("hook", ["model_started", "model_failed", "model_stopped"])
@pytest.mark.parametrize("deed", ["raise", "exit", "hang", "ask", "flood"])
def test_whatever_a_sink_does_in_a_hook_the_models_live_on_the_other_sinks_hear_all_and_the_hub_answers_and_ends(
    config: Path, monkeypatch: pytest.MonkeyPatch, deed: str, hook: str
) -> None:
    monkeypatch.setattr("mlxhub_core.fanout.CLOSE_DEADLINE", 0.2 if deed in ("hang", "flood") else PATIENCE)
    write(config, "a", "b", "c", "spare", sinks=f"  bad: {{hook: {hook}, deed: {deed}}}\n  good:\n")
    # pluggy calls what was added last first: so one good sink is called before the bad one, and one after it.
    passed = RecordingSink()
    hub = Misbehaving.hub = HubManager(config, observability_sink=passed)
    in_time(hub.reload)
    (bad,), goods = Misbehaving.made, [passed, *Good.made]
    assert len(goods) == 2
    for name in "abc":
        in_time(lambda name=name: hub.start_model(name))  # type: ignore[misc]
        passed.wait_for("model_ready", name)
    pids = {model.name: model.pid for model in in_time(hub.get_status)}
    os.kill(pids["c"] or 0, signal.SIGKILL)
    passed.wait_for("model_failed", "c")
    in_time(lambda: hub.stop_model("a"))
    assert bad.entered.wait(PATIENCE)
    assert status_comes_at_once(hub)
    if deed == "ask":
        assert bad.answered.wait(PATIENCE)
    running = {name: state for name, state in states(hub).items() if name != "spare"}
    assert running == {"a": ModelState.STOPPED, "b": ModelState.READY, "c": ModelState.FAILED}
    assert {model.name: model.pid for model in hub.get_status()}["b"] == pids["b"], "it was never started anew"

    assert pids["b"] in models_left(config)
    undelivered = in_time(hub.shutdown)
    assert models_left(config) == []
    assert states(hub)["b"] is ModelState.STOPPED
    for good in goods:
        assert good.hooks_of("a") == good.hooks_of("b") == ["model_started", "model_ready", "model_stopped"]
        assert good.hooks_of("c") == ["model_started", "model_ready", "model_failed"]
        numbers = [event.event.seq for event in good.events if event.hook != "hub_started"]
        assert numbers == list(range(1, len(numbers) + 1)), "each once, and in order"
    missed = len([event for event in passed.events if event.hook == hook])
    assert undelivered == ({"bad": missed} if deed in ("hang", "flood") else {})


def test_a_sink_that_answers_each_start_with_a_restart_keeps_neither_others_from_starting_nor_the_hub_from_ending(
    config: Path,
) -> None:
    class Restless(Sink):
        def model_started(self, ctx: HubModelContext, **_: object) -> None:
            if ctx.name == "a":
                hub.restart_model("a")

    write(config, "a", "b", sinks="  good:\n")
    hub = HubManager(config, observability_sink=Restless())
    in_time(hub.reload)
    (good,) = Good.made
    in_time(lambda: hub.start_model("a"))
    good.wait_for("model_started", "a", count=5)
    assert status_comes_at_once(hub)
    in_time(lambda: hub.start_model("b"))
    good.wait_for("model_ready", "b")
    assert in_time(hub.shutdown) == {}
    assert models_left(config) == []
    hooks = good.hooks_of("a")
    assert hooks.count("model_started") == hooks.count("model_stopped") >= 5
    numbers = [event.event.seq for event in good.events if event.hook != "hub_started"]
    assert numbers == list(range(1, len(numbers) + 1))


# Objects that are registered with pluggy run on the hub's own thread. They can hold it up, and nothing else.


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(1)], ids=repr)
def test_a_registered_object_that_raises_is_logged_and_harms_neither_models_nor_sinks(
    config: Path, log: list[str], error: BaseException
) -> None:
    class Raising:
        @hookimpl(tryfirst=True)
        def model_started(self) -> None:
            raise error

    write(config, "a")
    sink = RecordingSink()
    with HubManager(config, observability_sink=sink) as hub:
        hub.register(Raising())
        in_time(hub.reload)
        in_time(lambda: hub.start_model("a"))
        sink.wait_for("model_ready", "a")
        in_time(lambda: hub.stop_model("a"))
    assert sink.hooks_of("a") == ["model_started", "model_ready", "model_stopped"]
    assert len([line for line in log if "Raising, a registered plug-in, raised in model_started" in line]) == 1
    assert models_left(config) == []


def test_a_registered_object_that_asks_the_hub_to_stop_something_is_refused_and_no_deadlock(config: Path) -> None:
    refused: list[HubStateError] = []
    seen: list[ModelState] = []

    class Asking:
        @hookimpl
        def model_started(self) -> None:
            seen.extend(model.state for model in hub.get_status())
            for ask in (lambda: hub.stop_model("a"), hub.shutdown):
                try:
                    ask()
                except HubStateError as error:
                    refused.append(error)

    write(config, "a")
    with HubManager(config) as hub:
        hub.register(asking := Asking())
        in_time(hub.reload)
        in_time(lambda: hub.start_model("a"))
        assert len(refused) == 2
        assert len(seen) == 1
        hub.unregister(asking)
        in_time(lambda: hub.restart_model("a"))
        assert len(seen) == 1


# Pitfalls of plug-in frameworks that show only in a whole hub or a whole program.


def test_a_program_with_a_hung_sink_stops_its_models_and_ends(config: Path) -> None:
    write(config, "a")
    program = f"""
import threading
from mlxhub_core import HubManager, fanout
fanout.CLOSE_DEADLINE = 0.2
class Hung:
    def model_started(self): entered.set(); threading.Event().wait()
entered = threading.Event()
with HubManager({str(config)!r}, observability_sink=Hung()) as hub:
    hub.reload()
    hub.start_model("a")
    entered.wait()
    print(hub.get_status()[0].pid, flush=True)
print("the end")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE * 2, check=False
    )
    assert done.returncode == 0, done.stderr
    pid, *words = done.stdout.split()
    assert words == ["the", "end"]
    assert not psutil.pid_exists(int(pid))
    assert "sink observability_sink: 1 events were not delivered" in done.stderr


# The seed's own sink, word for word but for the import line, which is the one at the top of this file.


class metrics:  # noqa: N801
    counted: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def __init__(self, name: str, labels: dict[str, Any]) -> None:
        self.what = (name, labels)

    @classmethod
    def counter(cls, name: str, labels: dict[str, Any]) -> metrics:
        return cls(name, labels)

    def inc(self) -> None:
        self.counted.append(self.what)


# fmt: off
class MetricsSink(HubObservabilitySink):
    def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None:
        metrics.counter("hub_model_started", {"model": ctx.name, "group": ctx.group}).inc()

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        metrics.counter("hub_model_stopped", {"model": ctx.name}).inc()

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        metrics.counter("hub_model_failed", {"model": ctx.name, "exit_code": exit_code}).inc()
# fmt: on


def test_the_sink_of_the_seed_is_a_sink_of_hub_yaml_as_it_is_written_and_twice(config: Path) -> None:
    metrics.counted.clear()
    write(config, "a", sinks="  metrics/eu:\n  metrics/us:\n")
    with HubManager(config) as hub:
        in_time(hub.reload)
        hub.start_model("a")
        hub.stop_model("a")
    started, stopped = ("hub_model_started", {"model": "a", "group": None}), ("hub_model_stopped", {"model": "a"})
    assert sorted(metrics.counted, key=str) == [started, started, stopped, stopped]


class Talkative:
    """Says what it was given wherever it can."""

    def __init__(self, *, token: Secret) -> None:
        self.token = token

    def model_started(self) -> None:
        raise ConnectionError(f"refused: {self.token} {self.token!r} {vars(self)}")


def test_a_secret_is_in_no_log_and_no_statistics_even_if_its_sink_says_all_it_knows(
    config: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALKATIVE_TOKEN", "s3cr3t-canary")
    write(config, "a", sinks="  talkative: {token: {env: TALKATIVE_TOKEN}}\n")
    with HubManager(config) as hub:
        in_time(hub.reload)
        hub.start_model("a")
        wait_until(lambda: hub.sink_stats()[0].failed == 1)
        (stats,) = hub.sink_stats()
    assert "model_started: ConnectionError: refused: ***" in (stats.last_error or "")
    assert [line for line in log if "ConnectionError: refused: ***" in line]
    assert "s3cr3t" not in str(stats) + "".join(log)
