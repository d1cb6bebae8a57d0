"""The StatsD sink in a real hub, its lines read from a real socket."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlxhub_statsd_sink import StatsdSink
from mlxhub_statsd_sink.dialects import DIALECTS

from mlxhub_core import (
    ConfigError,
    HubEvent,
    HubManager,
    HubModelContext,
    LaunchError,
    ModelState,
    ModelStatus,
    SinkStats,
)
from mlxhub_core.hooks import hooks_of
from mlxhub_core.metrics import Sample
from mlxhub_core.metrics.catalogue import FAILED, RESTARTS, START_DURATION, STARTED, STOPPED
from mlxhub_core.testing import FakeClock, wait_until
from mlxhub_core.testing.day import FakeHub

PYTHON = [sys.executable, "-I", "-S", "-c"]
FOREVER = [*PYTHON, "import signal; signal.pause()"]
QWEN = "mlxhub.model.qwen"
EVENT = HubEvent(seq=1, id="1", time=0.0)


class Server:
    """A UDP socket that keeps the packets it gets, as a StatsD server would read them."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(10)
        self._socket.bind((host, 0))
        self.port: int = self._socket.getsockname()[1]
        self.gauges: dict[str, str] = {}

    def packet(self) -> list[str]:
        """The lines of the next packet; fails if none comes. What it says of gauges is remembered."""
        lines = self._socket.recv(65536).decode().splitlines()
        self.gauges.update(line.removesuffix("|g").split(":") for line in lines if line.endswith("|g"))  # type: ignore[misc]
        return lines

    def events(self, count: int) -> list[str]:
        """The next counters and timers of the model `qwen`, in the order in which they came."""
        lines: list[str] = []
        while len(lines) < count:
            lines += [line for line in self.packet() if line.startswith(f"{QWEN}.") and not line.endswith("|g")]
        return lines

    def until(self, **gauges: str) -> None:
        """Read until these gauges of `qwen` are so."""
        while not all(self.gauges.get(f"mlxhub.model.qwen.{name}") == value for name, value in gauges.items()):
            self.packet()

    def rest(self) -> list[str]:
        """The lines of all packets that have come by now."""
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as other:
            other.sendto(b"end", self._socket.getsockname())
        lines: list[str] = []
        while (packet := self.packet()) != ["end"]:
            lines += packet
        return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


Write = Callable[..., Path]


@pytest.fixture
def hub_yaml(tmp_path: Path, server: Server) -> Write:
    """Writes a hub.yaml with one model `qwen`, whose sink is found by the name that the package registers."""

    def write(command: list[str], sink: dict[str, Any] | None = None, **model: Any) -> Path:
        config = {
            "log_path": str(tmp_path / "logs"),
            "sinks": {"loguru": False, "statsd": {"port": server.port, **(sink or {})}},
            "models": [{"name": "qwen", "command": command, "restart": "never", **model}],
        }
        (tmp_path / "hub.yaml").write_text(json.dumps(config))
        return tmp_path / "hub.yaml"

    return write


def opened(server: Server, **options: Any) -> StatsdSink:
    sink = StatsdSink(port=server.port, **options)
    sink.open()
    return sink


# What is counted


def test_the_life_of_a_model_is_three_lines_in_order(hub_yaml: Write, server: Server) -> None:
    with HubManager(hub_yaml(FOREVER)) as hub:
        hub.reload()
        hub.start_model("qwen")
        hub.stop_model("qwen")
        started, duration, stopped = server.events(3)
    assert started == "mlxhub.model.qwen.started:1|c"
    assert re.fullmatch(r"mlxhub\.model\.qwen\.start_duration:\d+(\.\d+)?\|ms", duration)
    assert stopped == "mlxhub.model.qwen.stopped:1|c"


def test_a_crash_is_counted_in_total_and_by_its_exit_code(hub_yaml: Write, server: Server) -> None:
    with HubManager(hub_yaml([*PYTHON, "raise SystemExit(3)"], default=True)) as hub:
        hub.reload()
        assert server.events(4)[2:] == ["mlxhub.model.qwen.failed:1|c", "mlxhub.model.qwen.failed.exit_code.3:1|c"]


def test_the_exit_code_of_a_signal_is_negative(hub_yaml: Write, server: Server) -> None:
    with HubManager(hub_yaml(FOREVER, default=True)) as hub:
        hub.reload()
        pid = hub.get_status()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert server.events(4)[3] == "mlxhub.model.qwen.failed.exit_code.-9:1|c"


def test_a_model_that_never_ran_has_no_exit_code(hub_yaml: Write, server: Server) -> None:
    with HubManager(hub_yaml(["no-such-program"])) as hub:
        hub.reload()
        with pytest.raises(LaunchError):
            hub.start_model("qwen")
        hub.shutdown()
    counted = [line for line in server.rest() if line.startswith(f"{QWEN}.") and line.endswith("|c")]
    assert counted == ["mlxhub.model.qwen.failed:1|c"]


def test_only_a_restart_by_the_hub_itself_counts_as_one(hub_yaml: Write, server: Server, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = (
        f"import os, signal; os.path.exists({str(mark)!r}) or (open({str(mark)!r}, 'w'), os._exit(1)); signal.pause()"
    )
    with HubManager(hub_yaml([*PYTHON, code], restart={"policy": "on-failure", "delay": 0.05})) as hub:
        hub.reload()
        hub.start_model("qwen")
        lines = server.events(7)
        hub.restart_model("qwen")
        lines += server.events(3)
    names = [line.removeprefix("mlxhub.model.qwen.").partition(":")[0] for line in lines]
    assert names[4:] == ["started", "restarts", "start_duration", "stopped", "started", "start_duration"]


def test_the_duration_of_a_start_is_in_milliseconds(server: Server) -> None:
    sink = opened(server)
    sink.model_ready(HubModelContext("qwen", None, ""), startup_seconds=1.5, event=EVENT)
    sink.close()
    assert server.packet() == ["mlxhub.model.qwen.start_duration:1500|ms"]


def test_a_failure_in_a_dialect_with_tags_is_one_line(server: Server) -> None:
    sink = opened(server, dialect="dogstatsd", tags={"site": "berlin"})
    sink.model_failed(HubModelContext("qwen", "chat", ""), exit_code=-9, event=EVENT)
    sink.close()
    assert server.packet() == ["mlxhub.model.failed:1|c|#model:qwen,group:chat,exit_code:-9,site:berlin"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_hostile_name_cannot_send_a_metric_of_its_own(server: Server, dialect: str) -> None:
    sink = opened(server, dialect=dialect, prefix="x:9|g\ny")
    sink.model_started(HubModelContext("a:1|c\nevil:666|c\nb", "|#;,", ""), pid=1, event=EVENT)
    sink.model_stopped(HubModelContext("end", None, ""), exit_code=0, event=EVENT)
    sink.close()
    first, second = server.packet()
    assert first.count(":1|c") == second.count(":1|c") == 1
    assert "666|" not in first


# How it is sent


def test_the_events_of_one_burst_share_packets(server: Server) -> None:
    sink = opened(server, max_packet=1432)
    for number in range(100):
        sink.model_stopped(HubModelContext(f"model-{number}", None, ""), exit_code=0, event=EVENT)
    sink.flush()
    packets = [server.packet(), server.packet(), server.packet()]
    assert sum(map(len, packets)) == 100
    assert all(len("\n".join(packet)) <= 1432 for packet in packets)
    assert len("\n".join(packets[0])) > 1400
    sink.close()


def test_what_could_not_be_sent_is_kept_until_it_can(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "s"
    sink = StatsdSink(address=f"unixgram://{path}")
    with pytest.raises(OSError, match="unixgram://"):
        sink.open()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
        agent.bind(str(path))
        sink.open()
    sink.model_stopped(HubModelContext("qwen", None, ""), exit_code=0, event=EVENT)
    for _ in range(2):
        with pytest.raises(OSError, match="unixgram://"):
            sink.flush()
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
        agent.settimeout(10)
        agent.bind(str(path))
        sink.flush()
        assert agent.recv(999) == b"mlxhub.model.qwen.stopped:1|c"
        sink.close()


def test_it_can_be_closed_before_it_was_opened_and_twice() -> None:
    sink = StatsdSink()
    sink.close()
    sink.open()
    sink.close()
    sink.close()


def test_it_speaks_ipv6_where_there_is_nothing_else() -> None:
    server = Server("::1")
    sink = opened(server, host="::1")
    sink.model_stopped(HubModelContext("qwen", None, ""), exit_code=0, event=EVENT)
    sink.close()
    assert server.packet() == ["mlxhub.model.qwen.stopped:1|c"]
    server.close()


def test_a_host_that_cannot_be_found_is_reported_and_stops_no_model(hub_yaml: Write) -> None:
    with HubManager(hub_yaml(FOREVER, {"host": "stats..internal"})) as hub:
        hub.reload()
        hub.start_model("qwen")
        assert hub.get_status()[0].pid is not None
        wait_until(lambda: hub.sink_stats()[0].last_error is not None)
        (stats,) = hub.sink_stats()
        assert not stats.open
        assert "the host 'stats..internal' cannot be found" in str(stats.last_error)


def test_a_unix_agent_that_hangs_stalls_neither_models_nor_the_end_of_the_hub(
    hub_yaml: Write, tmp_path: Path, fill: Callable[[str], int]
) -> None:
    path = str(tmp_path / "s")
    sink = {"address": f"unixgram://{path}", "timeout": 0.2, "max_packet": 128, "gauge_interval": 0.1}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
        agent.bind(path)  # and reads nothing
        fill(path)
        config = hub_yaml(FOREVER)
        text = json.loads(config.read_text()) | {"sinks": {"loguru": False, "statsd": sink}}
        config.write_text(json.dumps(text))
        with HubManager(config) as hub:
            hub.reload()
            wait_until(lambda: "timed out" in str(hub.sink_stats()[0].last_error))
            for _ in range(3):
                hub.start_model("qwen")
                assert hub.get_status()[0].pid is not None
                hub.stop_model("qwen")
            began = time.monotonic()
            assert hub.shutdown()["statsd"] >= 6
            assert time.monotonic() - began < 4


# What a server holds


def test_gauges_follow_the_state_of_a_model(hub_yaml: Write, server: Server) -> None:
    with HubManager(hub_yaml(FOREVER)) as hub:
        hub.reload()
        server.until(up="0", ready="0", **{"state.stopped": "1", "state.ready": "0"})
        hub.start_model("qwen")
        server.until(up="1", ready="1", **{"state.stopped": "0", "state.ready": "1"})
        assert [server.gauges[f"mlxhub.model.qwen.state.{state}"] for state in ModelState].count("1") == 1


def test_gauges_are_sent_again_on_the_interval_without_any_event(hub_yaml: Write, server: Server) -> None:
    with HubManager(hub_yaml(FOREVER, {"gauge_interval": 0.1})) as hub:
        hub.reload()
        times: list[float] = []
        while len(times) < 4:
            if "mlxhub.model.qwen.up:0|g" in server.packet():
                times.append(time.monotonic())
    assert times[-1] - times[0] >= 0.25, "not more often, either"


def test_at_the_end_of_the_hub_all_its_gauges_are_0(hub_yaml: Write, server: Server) -> None:
    with HubManager(hub_yaml(FOREVER)) as hub:
        hub.reload()
        hub.start_model("qwen")
        server.until(ready="1")
    server.rest()
    assert set(server.gauges.values()) == {"0"}


def test_the_gauges_of_a_model_that_left_hub_yaml_are_0_and_are_not_sent_again(hub_yaml: Write, server: Server) -> None:
    config = hub_yaml(FOREVER, {"gauge_interval": 0.1}, default=True)
    with HubManager(config) as hub:
        hub.reload()
        server.until(ready="1")
        config.write_text(config.read_text().replace('"qwen"', '"other"'))
        hub.reload()
        server.until(ready="0", up="0", **{f"state.{state}": "0" for state in ModelState})
        seen: list[str] = []
        while sum("model.other.up" in line for line in seen) < 3:
            seen += server.packet()
        assert not any(".qwen." in line and line.endswith("|g") for line in seen), "what it counted may still come"


def test_a_model_that_moves_to_another_group_has_not_two_series(server: Server) -> None:
    sink = opened(server, dialect="dogstatsd")
    hub = FakeHub(HubModelContext("qwen", "chat", ""))
    sink.hub_started(hub=hub, event=EVENT)
    sink.flush()
    server.packet()
    sink.hub_started(hub=FakeHub(HubModelContext("qwen", "big", "")), event=EVENT)
    sink.flush()
    lines = server.packet()
    assert "mlxhub.model.state:0|g|#model:qwen,group:chat,state:stopped" in lines
    assert "mlxhub.model.state:1|g|#model:qwen,group:big,state:stopped" in lines
    sink.close()


class Hub:
    """A hub without models, and with one sink whose events a test counts."""

    offered = failed = dropped = 0
    info = FakeHub().info

    def status(self) -> list[ModelStatus]:
        return []

    def sink_stats(self) -> list[SinkStats]:
        return [SinkStats("acme/eu", self.offered, 0, self.failed, self.dropped, 3, 1024, True, None, None, 0.0)]


@pytest.mark.parametrize(
    ("dialect", "exit_code", "lines"),
    [
        ("plain", 3, []),
        ("influx", -9, []),
        ("dogstatsd", -9, ["mlxhub.model.last_exit_code:-9|g|#model:qwen"]),
    ],
)
def test_the_last_exit_code_is_told_where_a_gauge_may_be_negative(
    server: Server, dialect: str, exit_code: int, lines: list[str]
) -> None:
    class View(Hub):
        def status(self) -> list[ModelStatus]:
            return [ModelStatus("qwen", ModelState.FAILED, None, "", exit_code=exit_code)]

    sink = opened(server, dialect=dialect)
    sink.hub_started(hub=View(), event=EVENT)
    sink.flush()
    assert [line for line in server.rest() if "exit_code" in line] == lines
    sink.close()


def test_a_count_of_the_hub_that_has_begun_anew_has_grown_from_0(server: Server) -> None:
    hub, clock = Hub(), FakeClock()
    hub.offered = 5
    sink = opened(server, _clock=clock)
    sink.hub_started(hub=hub, event=EVENT)
    hub.offered = 2  # the other sink was exchanged
    sink.flush()
    assert server.packet() == ["mlxhub.sink.acme_eu.events:2|c"]
    sink.close()


def test_what_the_process_of_a_model_uses_is_measured_on_the_interval(hub_yaml: Write, server: Server) -> None:
    with HubManager(hub_yaml(FOREVER, {"gauge_interval": 0.1}, default=True)) as hub:
        hub.reload()
        server.until(up="1")
        wait_until(
            lambda: bool(server.packet()) and int(server.gauges.get(f"{QWEN}.process.resident_memory_bytes", 0)) > 10**6
        )
        assert int(server.gauges[f"{QWEN}.process.threads"]) >= 1
        assert int(server.gauges[f"{QWEN}.process.open_fds"]) >= 3


def test_health_checks_are_counted(server: Server) -> None:
    class View(Hub):
        checks, failed_checks = 7, 1

        def status(self) -> list[ModelStatus]:
            counts = {"health_checks": self.checks, "health_checks_failed": self.failed_checks}
            return [ModelStatus("qwen", ModelState.READY, None, "", **counts)]  # type: ignore[arg-type]

    hub, clock = View(), FakeClock()
    sink = opened(server, _clock=clock)
    sink.hub_started(hub=hub, event=EVENT)
    sink.flush()
    hub.checks, hub.failed_checks = 9, 2
    clock.advance(10)
    sink.flush()
    counted = [line for line in server.rest() if line.endswith("|c")]
    assert counted == [f"{QWEN}.health_checks:2|c", f"{QWEN}.health_checks_failed:1|c"]
    sink.close()


def test_its_table_counts_on_as_that_of_any_sink_of_metrics(server: Server) -> None:
    sink, hub = opened(server), FakeHub()
    hooks = hooks_of(sink)
    for hook, arguments in hub.day():
        if hook in hooks:
            hooks[hook](arguments)
    values = {sample.metric: sample.value for sample in sink.samples() if sample.metric is not FAILED}
    failed = {sample.labels[2]: sample.value for sample in sink.samples() if sample.metric is FAILED}
    assert [values[metric] for metric in (STARTED, STOPPED, RESTARTS)] == [3, 2, 1]
    assert isinstance(duration := values[START_DURATION], tuple)
    assert sum(duration.counts) == 2
    assert failed == {"": 0, "-9": 1, "3": 1}
    sink.close()


def test_what_an_event_has_told_is_not_told_again_on_the_interval(server: Server) -> None:
    clock = FakeClock()
    sink = opened(server, _clock=clock)
    sink.hub_started(hub=FakeHub(HubModelContext("qwen", None, "")), event=EVENT)
    sink.model_failed(HubModelContext("qwen", None, ""), exit_code=3, event=EVENT)
    for _ in range(2):
        sink.flush()
        clock.advance(10)
    counted = [line for line in server.rest() if line.endswith("|c")]
    assert counted == [f"{QWEN}.failed:1|c", f"{QWEN}.failed.exit_code.3:1|c"]
    sink.close()


def test_its_status_says_where_it_sends_to() -> None:
    assert StatsdSink().where == "udp://127.0.0.1:8125"
    assert StatsdSink(address="tcp://[::1]").where == "tcp://[::1]:8125"


def test_a_hub_that_has_not_read_its_models_yet_is_asked_again_soon(server: Server) -> None:
    clock = FakeClock()
    sink = opened(server, _clock=clock)
    sink.hub_started(hub=Hub(), event=EVENT)
    sink.flush()
    assert sink.flush_interval is not None
    assert 0 < sink.flush_interval <= 1
    sink.hub_started(hub=FakeHub(), event=EVENT)
    clock.advance(1)
    sink.flush()
    assert sink.flush_interval == 10
    sink.close()


def test_on_the_interval_it_is_told_how_each_sink_is_and_by_how_much_its_counts_have_grown(server: Server) -> None:
    hub = Hub()
    hub.offered = 5
    clock = FakeClock()
    sink = opened(server, _clock=clock)
    sink.hub_started(hub=hub, event=EVENT)
    sink.flush()
    gauges = ["mlxhub.sink.acme_eu.queue_length:3|g", "mlxhub.sink.acme_eu.queue_capacity:1024|g"]
    gauges += ["mlxhub.sink.acme_eu.up:1|g"]
    assert server.packet() == gauges, "who counted the five is not known"
    hub.offered, hub.dropped = 8, 2
    sink.flush()
    assert not server.rest()
    clock.advance(10)
    sink.flush()
    assert server.packet() == ["mlxhub.sink.acme_eu.events:3|c", "mlxhub.sink.acme_eu.events_dropped:2|c"]
    assert server.packet() == gauges
    sink.close()


def test_in_the_plain_dialect_a_model_that_moves_to_another_group_keeps_its_values(server: Server) -> None:
    sink = opened(server)
    for group in ("chat", "big"):
        sink.hub_started(hub=FakeHub(HubModelContext("qwen", group, "")), event=EVENT)
        sink.flush()
    server.rest()
    assert server.gauges["mlxhub.model.qwen.state.stopped"] == "1"
    sink.close()


def test_gauges_follow_each_event_that_moves_a_model_and_not_only_the_interval(server: Server) -> None:
    sink = opened(server, dialect="dogstatsd")
    hooks, hub = hooks_of(sink), FakeHub()
    moving = {"model_started", "model_ready", "model_unhealthy", "model_recovered", "model_failed", "model_stopped"}
    for hook, arguments in hub.day():
        if hook in hooks:
            hooks[hook](arguments)
            sink.flush()
        (status,) = hub.status()
        lines = server.rest()
        assert hook not in moving or any(f":1|g|#model:mlxhub-test,group:test,state:{status.state}" in x for x in lines)
    assert {"config_reloaded", "model_adopted"} <= hooks.keys(), "models come by these, too"
    sink.close()


def test_after_an_event_only_models_that_have_changed_are_read_and_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [ModelStatus(name, ModelState.READY, None, "") for name in ("qwen", "phi", "gone")]
    hub = FakeHub()
    monkeypatch.setattr(FakeHub, "status", lambda _: tuple(models))
    sink = opened(server)
    sink.hub_started(hub=hub, event=EVENT)
    sink.flush()
    server.rest()
    read: list[str] = []
    look = sink._of_model

    def of_model(model: ModelStatus) -> Iterator[Sample]:
        read.append(model.name)
        return look(model)

    monkeypatch.setattr(sink, "_of_model", of_model)
    models[0] = replace(models[0], state=ModelState.FAILED)
    del models[2]
    sink.flush()
    assert read == ["qwen"]
    changed = {line.partition(":")[0].removeprefix("mlxhub.model.") for line in server.rest()}
    assert {"qwen.state.ready", "qwen.state.failed", "gone.state.ready"} <= changed
    assert not any(name.startswith("phi") for name in changed)
    sink.flush()
    assert read == ["qwen"]
    assert not server.rest()
    sink.close()


# Its options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 0}, r"sinks\.statsd\.port: .*1"),
        ({"port": 65536}, r"sinks\.statsd\.port: .*65535"),
        ({"dialect": "datadog"}, r"sinks\.statsd\.dialect: .*dogstatsd"),
        ({"address": "tcp://a"}, r"address takes the place of host and port; leave these out"),
        ({"address": "http://a", "port": 8125}, r"must be like udp://127\.0\.0\.1:8125"),
        ({"tags": {"a": "b"}}, r"tags: the plain dialect has none"),
        ({"tags": {"model": "b"}, "dialect": "influx"}, r"tags: 'model' is set by the sink itself"),
        ({"tags": {"a b": "x", "a:b": "y"}, "dialect": "influx"}, r"'a b' and 'a:b' would both be written 'a_b'"),
        ({"tags": {f"t{n}": "x" for n in range(21)}, "dialect": "influx"}, r"sinks\.statsd\.tags"),
        ({"prefix": "x" * 201}, r"sinks\.statsd\.prefix"),
        ({"max_packet": 100}, r"sinks\.statsd\.max_packet"),
        ({"gauge_interval": 0}, r"sinks\.statsd\.gauge_interval"),
        ({"timeout": 0}, r"sinks\.statsd\.timeout"),
    ],
)
def test_what_cannot_be_is_a_mistake_in_hub_yaml_told_with_its_place(
    hub_yaml: Write, options: dict[str, Any], message: str
) -> None:
    with (
        HubManager(hub_yaml(FOREVER, options)) as hub,
        pytest.raises(ConfigError, match=rf"hub\.yaml:1:\d+.*{message}"),
    ):
        hub.reload()


@pytest.mark.parametrize("name", ["a b", "a.b", "a:b", "模型"])
def test_a_name_that_would_be_changed_on_the_wire_is_a_mistake_in_hub_yaml_so_no_two_models_share_a_path(
    hub_yaml: Write, name: str
) -> None:
    config = hub_yaml(FOREVER)
    text = json.loads(config.read_text())
    text["models"].append({"name": name, "command": FOREVER})
    config.write_text(json.dumps(text))
    with HubManager(config) as hub, pytest.raises(ConfigError, match=r"models\[1\]\.name"):
        hub.reload()


def test_the_statsd_library_is_not_imported_with_the_sink() -> None:
    code = "import sys, mlxhub_statsd_sink; mlxhub_statsd_sink.StatsdSink(); sys.exit('statsd' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=20).returncode == 0


# What people see


def test_sinks_test_prints_the_lines_so_that_a_wrong_dialect_is_seen(hub_yaml: Write, server: Server) -> None:
    config = hub_yaml(FOREVER, {"dialect": "graphite"})
    mlxhub = Path(sysconfig.get_path("scripts")) / "mlxhub"
    done = subprocess.run(
        [mlxhub, "sinks", "test", "statsd", "-c", config], capture_output=True, text=True, timeout=50, check=True
    )
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("      ")]
    assert "mlxhub.model.failed;model=mlxhub-test;group=test;exit_code=-9:1|c" in lines
    assert "mlxhub.model.start_duration;model=mlxhub-test;group=test:8250|ms" in lines
    assert lines == server.rest(), "just what was sent"
