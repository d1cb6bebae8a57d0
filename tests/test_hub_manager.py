"""`HubManager` with real processes: the whole path from hub.yaml to the sinks, without mlx-lm."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from loguru import logger

from mlxhub_core import (
    ConfigError,
    HubError,
    HubManager,
    HubModelContext,
    HubObservabilitySink,
    HubStateError,
    LaunchError,
    LoggingHubObservabilitySink,
    ModelState,
    ModelStatus,
    Sink,
    SinkError,
    fanout,
)
from mlxhub_core.place import place_of
from mlxhub_core.probes import ProbeResult, Question, ServerProbe, Target
from mlxhub_core.settings import HealthSettings
from mlxhub_core.testing import FAKE_SERVER, RecordingSink, wait_until

SERVER = f"[{sys.executable}, -I, -S, {FAKE_SERVER}, --port, '{{port}}'%s]"
FOREVER = f"[{sys.executable}, -I, -S, -c, 'import signal; signal.pause()']"


def exits(code: int) -> str:
    return f"[{sys.executable}, -I, -S, -c, 'raise SystemExit({code})']"


def entry(name: str, command: str, **keys: object) -> str:
    lines = [f"  - name: {name}", f"    command: {command}", *(f"    {key}: {value}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "hub.yaml"


@pytest.fixture
def hub(config: Path, sink: RecordingSink) -> Iterator[HubManager]:
    before = set(threading.enumerate())
    with HubManager(config, observability_sink=sink) as manager:
        yield manager
    assert not list(place_of(config).runs.glob("*.lock")), "a model, or its keeper, outlived its hub"
    assert [t for t in set(threading.enumerate()) - before if t.name.startswith(("mlxhub", "sink-"))] == []


def write(config: Path, *models: str, top: str = "") -> None:
    config.write_text(f"log_path: logs\n{top}models:\n" + "".join(models))


def status(hub: HubManager, name: str) -> ModelStatus:
    return next(status for status in hub.get_status() if status.name == name)


def test_a_sink_that_is_refused_leaves_hub_yaml_to_the_next(config: Path) -> None:
    class Misspelt:
        def model_start(self, ctx: HubModelContext) -> None: ...

    with pytest.raises(SinkError, match="model_start"):
        HubManager(config, observability_sink=Misspelt())
    with HubManager(config):
        pass


def test_a_sink_for_which_there_is_no_thread_is_tried_again_by_the_next_reload(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(*_args: Any, **_more: Any) -> None:
        raise RuntimeError("can't start new thread")

    write(config, entry("a", FOREVER), top="sinks: {loguru: off}\n")
    with HubManager(config) as hub:
        hub.reload()
        write(config, entry("a", FOREVER))
        with monkeypatch.context() as patch:
            patch.setattr(fanout, "SinkRunner", scarce)
            with pytest.raises(HubError, match="sink loguru: cannot be turned on"):
                hub.reload()
        hub.reload()
        assert [sink.name for sink in hub.sink_stats()] == ["loguru"]


# The seed's own sink, word for word but for the import line, which is the one at the top of this file.


class Counter:
    def __init__(self, counts: dict[str, int], key: str) -> None:
        self.counts, self.key = counts, key

    def inc(self) -> None:
        self.counts[self.key] = self.counts.get(self.key, 0) + 1


class metrics:  # noqa: N801
    counts: dict[str, int] = {}  # noqa: RUF012

    @classmethod
    def counter(cls, name: str, labels: dict[str, Any]) -> Counter:
        return Counter(cls.counts, " ".join([name, *(f"{key}={value}" for key, value in labels.items())]))


# fmt: off
class MetricsSink(HubObservabilitySink):
    def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None:
        metrics.counter("hub_model_started", {"model": ctx.name, "group": ctx.group}).inc()

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        metrics.counter("hub_model_stopped", {"model": ctx.name}).inc()

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        metrics.counter("hub_model_failed", {"model": ctx.name, "exit_code": exit_code}).inc()
# fmt: on


def test_the_sink_of_the_seed_counts_a_stop_by_hand_an_exit_0_an_exit_3_and_a_kill(config: Path) -> None:
    metrics.counts.clear()
    write(
        config,
        entry("by-hand", FOREVER, default="true", group="chat"),
        entry("zero", exits(0), default="true"),
        entry("three", exits(3), default="true", restart="never"),
        entry("killed", FOREVER, default="true", restart="never"),
    )
    with HubManager(config, observability_sink=MetricsSink()) as hub:
        hub.reload()
        hub.stop_model("by-hand")
        pid = status(hub, "killed").pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: all(model.pid is None for model in hub.get_status()))
    assert metrics.counts == {
        "hub_model_started model=by-hand group=chat": 1,
        "hub_model_started model=zero group=None": 1,
        "hub_model_started model=three group=None": 1,
        "hub_model_started model=killed group=None": 1,
        "hub_model_stopped model=by-hand": 1,
        "hub_model_stopped model=zero": 1,
        "hub_model_failed model=three exit_code=3": 1,
        "hub_model_failed model=killed exit_code=-9": 1,
    }


def test_a_passed_sink_is_added_to_the_logging_sink_and_hears_all_in_order(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    records: list[Any] = []
    handler = logger.add(lambda message: records.append(message.record), level="INFO")
    try:
        write(config, entry("a", FOREVER, default="true", group="g"))
        hub.reload()
        hub.stop_model("a")
        sink.wait_for("model_stopped", "a")
        hub.shutdown()
    finally:
        logger.remove(handler)
    assert sink.hooks_of("a") == ["model_started", "model_ready", "model_stopped"]
    assert [(r["extra"]["hub_event"], r["level"].name) for r in records] == [
        ("model_started", "INFO"),
        ("model_ready", "INFO"),
        ("model_stopped", "INFO"),
    ]
    log_path = str(config.parent / "logs" / "a.log")
    bound = {"hub_model": "a", "hub_group": "g", "hub_log_path": log_path}
    assert all(bound.items() <= record["extra"].items() for record in records)


def test_a_passed_logging_sink_takes_the_place_of_the_one_that_is_on(config: Path) -> None:
    write(config, entry("a", exits(0)))
    with HubManager(config, observability_sink=LoggingHubObservabilitySink()) as hub:
        hub.reload()
        assert [sink.name for sink in hub.sink_stats()] == ["observability_sink"]


def test_the_loguru_sink_can_be_turned_off(hub: HubManager, config: Path) -> None:
    write(config, entry("a", exits(0)), top="sinks: {loguru: off}\n")
    hub.reload()
    assert [sink.name for sink in hub.sink_stats()] == ["observability_sink"]


def test_a_crash_is_noticed_told_and_repaired_without_anybody_asking(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    write(config, entry("a", SERVER % "", default="true"))
    hub.reload()
    sink.wait_for("model_ready", "a")
    first = status(hub, "a")
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    failed = sink.wait_for("model_failed", "a")
    assert failed.arguments["exit_code"] == -9
    assert failed.event.signal == "SIGKILL"
    assert 0.5 < (failed.event.restart_in or 0) < 1.5
    sink.wait_for("model_ready", "a", count=2)
    second = status(hub, "a")
    assert (second.state, second.restarts, second.port) == (ModelState.READY, 1, first.port)
    assert second.pid != first.pid


def test_a_model_is_ready_only_when_it_answers(hub: HubManager, config: Path, sink: RecordingSink) -> None:
    write(config, entry("a", SERVER % ", --listen-after, '0.3'", default="true"))
    hub.reload()
    assert status(hub, "a").state is ModelState.STARTING
    ready = sink.wait_for("model_ready", "a")
    assert ready.arguments["startup_seconds"] >= 0.3


def test_a_model_that_says_no_on_its_health_path_is_not_ready(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    flags = ", --load-seconds, '0.4', --unready-status, '503'"
    write(config, entry("a", SERVER % flags, default="true"))
    hub.reload()
    assert sink.wait_for("model_ready", "a").arguments["startup_seconds"] >= 0.4


def answers(port: int, pid: int | None) -> ProbeResult:
    return ServerProbe(Target("127.0.0.1", port, pid=pid)).look(Question.READY, HealthSettings())


def test_an_answer_from_a_stranger_on_its_port_does_not_make_a_model_ready(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    stranger = subprocess.Popen(
        [sys.executable, "-I", "-S", FAKE_SERVER, "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert stranger.stderr is not None
        port = re.search(r"on port (\d+)", stranger.stderr.readline())
        assert port
        # The model never listens, so the port check before its start is passed by: only the answer can tell.
        write(config, entry("a", FOREVER, default="true", port="29998"))
        hub.reload()
        pid = status(hub, "a").pid
        assert answers(int(port[1]), pid=None).ok
        result = answers(int(port[1]), pid)
        assert (result.ok, result.detail) == (False, f"port {port[1]} is answered by another program")
        assert answers(int(port[1]), os.getpid()).ok, "a child of the process may listen for it"
    finally:
        stranger.kill()
        stranger.communicate()


def test_health_off_means_ready_as_soon_as_it_runs(hub: HubManager, config: Path, sink: RecordingSink) -> None:
    write(config, entry("a", SERVER % ", --listen-after, '60'", default="true", health="off"))
    hub.reload()
    assert sink.wait_for("model_ready", "a").arguments["startup_seconds"] < 1


def test_stop_returns_when_the_process_and_its_group_are_gone(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    write(config, entry("a", SERVER % ", --spawn-child, --child-ignores-sigterm", default="true", stop_timeout="0.5"))
    hub.reload()
    sink.wait_for("model_ready", "a")
    family = psutil.Process(status(hub, "a").pid).children(recursive=True)
    assert family
    hub.stop_model("a")
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert sink.wait_for("model_stopped", "a").event.forced


def test_output_is_unbuffered_whatever_the_hubs_own_environment_says(
    hub: HubManager, config: Path, sink: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    write(config, entry("a", f"[{sys.executable}, -S, -c, 'print(1); import os; os.abort()']", default="true"))
    hub.reload()
    assert sink.wait_for("model_failed", "a").event.log_tail == ("1",)


def test_each_log_has_the_words_of_its_own_model_and_restarts_append(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    def says(word: str) -> str:
        # Without -I, which would ignore PYTHONUNBUFFERED: that the hub sets it is what keeps the lines in order.
        return f'[{sys.executable}, -S, -c, \'print("{word}"); import os; os.system("echo child of {word} >&2")\']'

    write(config, entry("a", says("alpha"), default="true"), entry("b", says("beta"), default="true"))
    hub.reload()
    sink.wait_for("model_stopped", "a")
    hub.start_model("a")
    sink.wait_for("model_stopped", "a", count=2)
    sink.wait_for("model_stopped", "b")
    logs = config.parent / "logs"
    assert (logs / "a.log").read_text() == "alpha\nchild of alpha\n" * 2
    assert (logs / "b.log").read_text() == "beta\nchild of beta\n"
    assert logs.stat().st_mode & 0o777 == 0o700
    assert (logs / "a.log").stat().st_mode & 0o777 == 0o600


def test_placeholders_reach_the_process(hub: HubManager, config: Path, sink: RecordingSink) -> None:
    program = 'import os, sys; print(sys.argv[1:], os.environ["WHERE"])'
    command = (
        f"[{sys.executable}, -I, -S, -c, '{program}', '{{name}}', '--url=http://{{host}}:{{port}}/', '{{\"a\": 1}}']"
    )
    write(config, entry("a", command, default="true", port="29999", env="{WHERE: '{host}'}", health="off"))
    hub.reload()
    sink.wait_for("model_stopped", "a")
    text = (config.parent / "logs" / "a.log").read_text()
    assert text == "['a', '--url=http://127.0.0.1:29999/', '{\"a\": 1}'] 127.0.0.1\n"


@pytest.mark.parametrize("text", ["models: [", "models: []", "models:\n  - {name: a, comand: [x]}", ""])
def test_a_wrong_file_leaves_the_running_hub_as_it_was(
    hub: HubManager, config: Path, sink: RecordingSink, text: str
) -> None:
    write(config, entry("a", FOREVER, default="true"))
    hub.reload()
    before = hub.get_status()
    config.write_text(text)
    with pytest.raises(ConfigError):
        hub.reload()
    assert hub.get_status() == before


def test_a_sink_that_is_not_installed_leaves_the_running_hub_as_it_was(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    write(config, entry("a", FOREVER, default="true"))
    hub.reload()
    before = hub.get_status(), [stats.name for stats in hub.sink_stats()]
    write(config, entry("b", FOREVER, default="true"), top="sinks:\n  nosuch:\n    port: 1\n")
    with pytest.raises(ConfigError, match=r"hub\.yaml:3:3: sinks\.nosuch: no installed sink is called 'nosuch'"):
        hub.reload()
    assert (hub.get_status(), [stats.name for stats in hub.sink_stats()]) == before


def test_a_host_that_cannot_be_listened_on_leaves_models_and_sinks_as_they_were(
    hub: HubManager, config: Path, sink: RecordingSink
) -> None:
    write(config, entry("a", SERVER % "", default="true"))
    hub.reload()
    sink.wait_for("model_ready", "a")
    before = hub.get_status(), [stats.name for stats in hub.sink_stats()]
    top = "host: no-such-host.invalid\nsinks: {loguru: off}\n"
    write(config, entry("a", SERVER % "", default="true"), entry("b", SERVER % "", default="true"), top=top)
    with pytest.raises(HubError, match=r"no-such-host\.invalid"):
        hub.reload()
    assert (hub.get_status(), [stats.name for stats in hub.sink_stats()]) == before
    hub.restart_model("a")
    sink.wait_for("model_ready", "a", count=2)


def test_a_model_that_cannot_start_is_told_by_name_and_the_others_run(hub: HubManager, config: Path) -> None:
    write(config, entry("a", "[/no/such/program]", default="true"), entry("b", FOREVER, default="true"))
    result = hub.reload()
    assert result.started == ("b",)
    assert isinstance(result.failed["a"], LaunchError)
    assert "/no/such/program is not there" in str(result.failed["a"])


def test_what_is_asked_too_early_or_too_late_is_refused(config: Path) -> None:
    write(config, entry("a", FOREVER))
    hub = HubManager(config)
    with pytest.raises(HubStateError, match=r"call reload\(\) first"):
        hub.start_model("a")
    hub.shutdown()
    for ask in (hub.reload, lambda: hub.start_model("a"), lambda: hub.stop_model("a")):
        with pytest.raises(HubStateError, match="shut down"):
            ask()
    assert hub.shutdown() == {}


class Meddler(Sink):
    """Calls back into the hub from its own thread, as the README says it may."""

    def __init__(self) -> None:
        self.hub: HubManager | None = None
        self.seen: list[list[ModelState]] = []
        self.done = threading.Event()

    def model_ready(self, ctx: HubModelContext, **_: object) -> None:
        assert self.hub is not None
        self.seen.append([model.state for model in self.hub.get_status()])
        if ctx.name == "a":
            self.hub.start_model("b")
        else:
            self.hub.stop_model("a")
            self.seen.append([model.state for model in self.hub.get_status()])
            self.hub.shutdown()
            self.done.set()


def test_a_sink_may_call_the_hub_even_to_shut_it_down(config: Path) -> None:
    write(config, entry("a", FOREVER, default="true"), entry("b", FOREVER))
    meddler = Meddler()
    hub = meddler.hub = HubManager(config, observability_sink=meddler)
    hub.reload()
    assert meddler.done.wait(10)
    hub.shutdown()
    running = [ModelState.READY, ModelState.STOPPED], [ModelState.READY, ModelState.READY]
    assert meddler.seen == [*running, [ModelState.STOPPED, ModelState.READY]]


def test_a_raising_and_a_hanging_sink_harm_neither_models_nor_shutdown(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxhub_core.fanout.CLOSE_DEADLINE", 0.2)

    class Hanging(Sink):
        def model_started(self, ctx: HubModelContext, **_: object) -> None:
            threading.Event().wait()

    class Raising(Sink):
        def model_started(self, ctx: HubModelContext, **_: object) -> None:
            raise RuntimeError("boom")

    for bad in (Hanging(), Raising()):
        write(config, entry("a", FOREVER, default="true"))
        hub = HubManager(config, observability_sink=bad)
        assert hub.reload().started == ("a",)
        hub.stop_model("a")
        assert status(hub, "a").state is ModelState.STOPPED
        hub.shutdown()


def test_many_threads_may_command_at_once(hub: HubManager, config: Path, sink: RecordingSink) -> None:
    names = [f"m{i}" for i in range(6)]
    write(config, *(entry(name, FOREVER) for name in names))
    hub.reload()

    def work(seed: int) -> None:
        for step in range(8):
            name = names[(seed + step) % len(names)]
            [hub.start_model, hub.restart_model, hub.stop_model][(seed * 7 + step) % 3](name)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    hub.shutdown()
    for name in names:
        hooks = sink.hooks_of(name)
        assert hooks.count("model_started") == hooks.count("model_stopped") + hooks.count("model_failed")
