"""The life of a real model, told by a real hub to the real daemons of npm statsd, Graphite, collectd and VictoriaMetrics.

One hub tells all of them at once; each test then looks into one. Those that are not installed are skipped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlxhub_core import HubManager, ModelState, SinkStats
from mlxhub_core.testing import RecordingSink, wait_until
from mlxhub_core.testing.tiny_model import write_tiny_model

PROGRAMS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", f"{sys.prefix}/npm/node_modules/.bin"])
"""Debian has collectd where only root looks; what npm has brought is in .venv (see .ci/run)."""

LIFE = {"started": 2, "stopped": 1, "failed": 1, "failed.exit_code.-9": 1, "restarts": 1}
"""What is to be counted: a start, a SIGKILL, the restart and a stop."""


def program(name: str) -> str:
    """The path of a program; the test is skipped where there is none."""
    path = shutil.which(name, path=PROGRAMS)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts daemons, which write to a file in the directory they are given, and ends them."""
    running: list[subprocess.Popen[bytes]] = []

    def run(directory: Path, *command: str) -> subprocess.Popen[bytes]:
        with (directory / "output").open("ab") as output:
            running.append(subprocess.Popen(command, cwd=directory, stdout=output, stderr=output))
        return running[-1]

    yield run
    for process in running:
        process.terminate()
    for process in running:
        process.wait(20)


@dataclass
class NpmStatsd:
    """The StatsD daemon of npm; it flushes once an hour, unless told otherwise, so that its counters only grow.

    Attributes:
        directory: has its configuration and its output.
        port: for UDP and TCP.
    """

    directory: Path
    config: dict[str, Any] = field(default_factory=dict)
    port: int = 0
    admin: int = 0

    def __post_init__(self) -> None:
        self.directory.mkdir()
        self.port, self.admin = free_port(), free_port()
        where = {"address": "127.0.0.1", "port": self.port}
        config = {
            "servers": [
                {"server": "./servers/udp", **where},
                {"server": "./servers/tcp", **where},
                {"server": "./servers/tcp", "socket": self.socket},
            ],
            "mgmt_address": "127.0.0.1",
            "mgmt_port": self.admin,
            "flushInterval": 3_600_000,
            "automaticConfigReload": False,
            "backends": ["./backends/console"],
        }
        (self.directory / "config.js").write_text(json.dumps(config | self.config))

    @property
    def socket(self) -> str:
        return str(self.directory / "s")

    def start(self, start: Start) -> subprocess.Popen[bytes]:
        """Start it, again perhaps; returns when it takes metrics."""
        Path(self.socket).unlink(missing_ok=True)
        process = start(self.directory, program("statsd"), "config.js")
        wait_until(lambda: answers(self.admin) and answers(self.port) and Path(self.socket).exists())
        return process

    def ask(self, command: str) -> str:
        with socket.create_connection(("127.0.0.1", self.admin), 10) as admin:
            admin.sendall(f"{command}\n".encode())
            answer = b""
            while not answer.endswith(b"END\n\n"):
                answer += admin.recv(65536)
        return answer.decode()

    def values(self, command: str) -> dict[str, float]:
        """What `counters` or `gauges` shows."""
        return {name: float(value) for name, value in re.findall(r"'?([\w.-]+)'?: (-?[\d.]+)", self.ask(command))}


@dataclass
class Daemons:
    """All that could be started; None for what is not installed."""

    statsd: NpmStatsd | None = None
    whisper: Path | None = None
    collectd_csv: Path | None = None
    victoria: int | None = None
    sinks: dict[str, dict[str, Any]] = field(default_factory=dict)


def installed(*names: str) -> bool:
    return all(shutil.which(name, path=PROGRAMS) for name in names)


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Daemons:
    directory = tmp_path_factory.mktemp("daemons")
    found = Daemons()
    if installed("statsd"):
        found.statsd = NpmStatsd(directory / "plain")
        found.statsd.start(start)
        udp = {"port": found.statsd.port}
        found.sinks["statsd/udp"] = {**udp, "prefix": "udp"}
        found.sinks["statsd/tcp"] = {"address": f"tcp://127.0.0.1:{found.statsd.port}", "prefix": "tcp"}
        found.sinks["statsd/unix"] = {"address": f"unix://{found.statsd.socket}", "prefix": "unix"}
    if installed("statsd", "carbon-cache"):
        found.whisper = _graphite(directory, start, found)
    if installed("collectd"):
        found.collectd_csv = _collectd(directory, start, found)
    if installed("statsd", "victoria-metrics"):
        found.victoria = _victoria(directory, start, found)
    return found


def _to_graphite(directory: Path, start: Start, port: int) -> NpmStatsd:
    # Two seconds, as whisper keeps one value for each second, and a second one in the same would take its place.
    graphite = {"graphiteHost": "127.0.0.1", "graphitePort": port, "graphite": {"legacyNamespace": False}}
    daemon = NpmStatsd(directory, {"flushInterval": 2000, "backends": ["./backends/graphite"], **graphite})
    daemon.start(start)
    return daemon


def _graphite(directory: Path, start: Start, found: Daemons) -> Path:
    carbon = directory / "carbon"
    carbon.mkdir()
    port = free_port()
    (carbon / "storage-schemas.conf").write_text("[all]\npattern = .*\nretentions = 1s:10m\n")
    (carbon / "carbon.conf").write_text(
        f"[cache]\nSTORAGE_DIR = {carbon}\nCONF_DIR = {carbon}\nLOG_DIR = {carbon}\nPID_DIR = {carbon}\nUSER =\n"
        f"LOCAL_DATA_DIR = {carbon}/whisper\nENABLE_LOGROTATION = False\nWHISPER_AUTOFLUSH = True\n"
        f"LINE_RECEIVER_INTERFACE = 127.0.0.1\nLINE_RECEIVER_PORT = {port}\n"
        f"PICKLE_RECEIVER_INTERFACE = 127.0.0.1\nPICKLE_RECEIVER_PORT = {free_port()}\n"
        f"CACHE_QUERY_INTERFACE = 127.0.0.1\nCACHE_QUERY_PORT = {free_port()}\nMAX_CREATES_PER_MINUTE = inf\n"
    )
    start(carbon, program("carbon-cache"), "--config=carbon.conf", "--nodaemon", "--debug", "start")
    wait_until(lambda: answers(port))
    found.sinks["statsd/graphite"] = {"port": _to_graphite(directory / "to_carbon", start, port).port}
    return carbon / "whisper"


def _collectd(directory: Path, start: Start, found: Daemons) -> Path:
    home = directory / "collectd"
    home.mkdir()
    port = free_port(socket.SOCK_DGRAM)
    (home / "collectd.conf").write_text(
        f'Hostname "here"\nBaseDir "{home}"\nPIDFile "{home}/pid"\nInterval 1\n'
        'LoadPlugin logfile\n<Plugin logfile>\n  LogLevel "info"\n  File STDOUT\n</Plugin>\n'
        f'LoadPlugin csv\n<Plugin csv>\n  DataDir "{home}/csv"\n</Plugin>\n'
        f'LoadPlugin statsd\n<Plugin statsd>\n  Host "127.0.0.1"\n  Port "{port}"\n</Plugin>\n'
    )
    start(home, program("collectd"), "-f", "-C", "collectd.conf")
    wait_until(lambda: "Initialization complete" in (home / "output").read_text())
    found.sinks["statsd/collectd"] = {"port": port}
    return home / "csv" / "here" / "statsd"


def _victoria(directory: Path, start: Start, found: Daemons) -> int:
    home = directory / "victoria"
    home.mkdir()
    http, graphite = free_port(), free_port()
    start(
        home,
        program("victoria-metrics"),
        f"-storageDataPath={home}/data",
        f"-httpListenAddr=127.0.0.1:{http}",
        f"-graphiteListenAddr=127.0.0.1:{graphite}",
        "-retentionPeriod=1d",
        "-search.latencyOffset=0s",
    )
    wait_until(lambda: answers(http) and answers(graphite))
    port = _to_graphite(directory / "to_victoria", start, graphite).port
    for dialect in ("dogstatsd", "graphite"):
        found.sinks[f"statsd/{dialect}_tags"] = {
            "port": port,
            "dialect": dialect,
            "prefix": f"mlxhub.{dialect}",
            "tags": {"site": "berlin"},
        }
    return http


@pytest.fixture(scope="module")
def lived(daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Daemons:
    """The daemons, after a model of the real `mlx_lm server` has started, crashed, restarted and stopped."""
    if importlib.util.find_spec("mlx_lm") is None:
        pytest.skip("mlx-lm is not installed")
    directory = tmp_path_factory.mktemp("hub")
    write_tiny_model(directory / "model", "mlxhub!")
    model = {"name": "tiny", "model_path": "model", "group": "chat", "default": True, "restart": {"delay": 0}}
    config = {"log_path": "logs", "sinks": {"loguru": False, **daemons.sinks}, "models": [model]}
    (directory / "hub.yaml").write_text(json.dumps(config))
    sink = RecordingSink()
    with HubManager(directory / "hub.yaml", observability_sink=sink) as hub:
        hub.reload()
        sink.wait_for("model_ready", "tiny", timeout=120)
        (status,) = hub.get_status()
        assert status.pid is not None
        os.kill(status.pid, signal.SIGKILL)
        sink.wait_for("model_ready", "tiny", count=2, timeout=120)
        if (statsd := daemons.statsd) is not None:
            names = [f"{transport}.model.tiny.ready" for transport in ("udp", "tcp", "unix")]
            wait_until(lambda: [statsd.values("gauges").get(name) for name in names] == [1, 1, 1])
        if (victoria := daemons.victoria) is not None:  # which is told every two seconds
            ready = f'{{__name__=~"stats.gauges.mlxhub.*.model.ready",{TAGS}}}'
            wait_until(lambda: promql(victoria, ready) == [1, 1])
        hub.stop_model("tiny")
        undelivered = hub.shutdown()
    assert undelivered == {}
    return daemons


pytestmark = [pytest.mark.mlx, pytest.mark.timeout(300)]


@pytest.mark.parametrize("transport", ["udp", "tcp", "unix"])
def test_npm_statsd_counts_the_life_of_a_model(lived: Daemons, transport: str) -> None:
    if lived.statsd is None:
        pytest.skip("statsd is not installed")
    statsd = lived.statsd

    def counted() -> dict[str, float]:
        start = f"{transport}.model.tiny."
        return {key.removeprefix(start): n for key, n in statsd.values("counters").items() if key.startswith(start)}

    wait_until(lambda: LIFE.items() <= counted().items())
    assert re.search(rf"'{transport}\.model\.tiny\.start_duration': \[ *[\d.]+, *[\d.]+ *\]", statsd.ask("timers"))
    gauges = {key: n for key, n in statsd.values("gauges").items() if key.startswith(f"{transport}.model.")}
    assert len(gauges) >= len(ModelState) + 2
    assert set(gauges.values()) == {0}, "the hub is gone"


def test_npm_statsd_saw_no_bad_line(lived: Daemons) -> None:
    if lived.statsd is None:
        pytest.skip("statsd is not installed")
    assert "messages.bad_lines_seen: 0\n" in lived.statsd.ask("stats")


@pytest.mark.parametrize(("name", "count"), LIFE.items())
def test_graphite_keeps_each_count_in_a_whisper_file(lived: Daemons, name: str, count: int) -> None:
    if lived.whisper is None:
        pytest.skip("statsd or carbon-cache is not installed")
    path = lived.whisper.joinpath("stats", "counters", "mlxhub", "model", "tiny", *name.split("."), "count.wsp")

    def total() -> float:
        if not path.exists():
            return 0
        points = subprocess.run(
            [program("whisper-fetch"), "--json", path], capture_output=True, text=True, timeout=20, check=True
        )
        return float(sum(filter(None, json.loads(points.stdout)["values"])))

    wait_until(lambda: total() == count)


@pytest.mark.parametrize(("name", "count"), LIFE.items())
def test_collectd_understands_the_plain_dialect(lived: Daemons, name: str, count: int) -> None:
    csv = lived.collectd_csv
    if csv is None:
        pytest.skip("collectd is not installed")

    def last() -> str:
        files = list(csv.glob(f"derive-mlxhub.model.tiny.{name}-2*"))
        return files[0].read_text().splitlines()[-1].partition(",")[2] if files else ""

    wait_until(lambda: last() == str(count))
    said = [line for line in (csv.parents[2] / "output").read_text().splitlines() if "statsd plugin" in line]
    assert [line for line in said if "Listening on" not in line] == [], "it complains of no line"


TAGS = 'model="tiny",group="chat",site="berlin"'


def promql(port: int, query: str) -> list[float]:
    """The values that VictoriaMetrics finds."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/internal/force_flush", timeout=10):
        pass  # what has just come is not to be seen before that
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return [float(series["value"][1]) for series in json.load(answer)["data"]["result"]]


@pytest.mark.parametrize("dialect", ["dogstatsd", "graphite"])
def test_victoria_metrics_answers_by_tag_in_promql(lived: Daemons, dialect: str) -> None:
    port = lived.victoria
    if port is None:
        pytest.skip("statsd or victoria-metrics is not installed")

    def count(name: str, more: str = "") -> list[float]:
        metric = f"stats.counters.mlxhub.{dialect}.model.{name}.count"
        return promql(port, f'sum_over_time({{__name__="{metric}",{TAGS}{more}}}[10m])')

    wait_until(lambda: count("stopped") == [1])
    assert (count("started"), count("failed", ',exit_code="-9"'), count("restarts")) == ([2], [1], [1])
    ready = f'{{__name__="stats.gauges.mlxhub.{dialect}.model.state",{TAGS},state="ready"}}'
    assert promql(port, f"max_over_time({ready}[10m])") == [1]
    wait_until(lambda: promql(port, ready) == [0])


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_a_daemon_stopped_and_started_under_load_gets_all_but_what_is_counted_as_lost(
    transport: str, start: Start, tmp_path: Path
) -> None:
    program("statsd")
    daemon = NpmStatsd(tmp_path / "statsd")
    address = f"tcp://127.0.0.1:{daemon.port}" if transport == "tcp" else f"unix://{daemon.socket}"
    delivery = {"queue": 20, "only": ["model_started", "model_failed"]}
    restart = {"delay": 0.02, "max_delay": 0.02, "max_failures": 1_000_000}
    crashing = {"command": ["/bin/sh", "-c", "exit 3"], "default": True, "restart": restart}
    config = {
        "log_path": str(tmp_path / "logs"),
        "sinks": {"loguru": False, "statsd": {"address": address, "delivery": delivery}},
        "models": [{"name": f"m{number}", **crashing} for number in range(3)],
    }
    (tmp_path / "hub.yaml").write_text(json.dumps(config))
    sink = RecordingSink()
    with HubManager(tmp_path / "hub.yaml", observability_sink=sink) as hub:
        hub.reload()
        wait_until(lambda: str(_stats(hub).last_error).startswith("open: OSError: "))
        first = daemon.start(start)
        wait_until(lambda: _events_in(daemon.ask("counters")) > 30)
        asked_to_end = time.time()
        first.terminate()
        first.wait(20)
        ended = time.time()
        wait_until(lambda: _stats(hub).dropped > 50)
        second = daemon.start(start)
        wait_until(lambda: _events_in(daemon.ask("counters")) > 30)
        for number in range(3):
            hub.stop_model(f"m{number}")
        wait_until(lambda: _stats(hub).delivered + _stats(hub).dropped == _stats(hub).offered)
        stats = _stats(hub)
    second.terminate()
    second.wait(20)
    # At its end each daemon prints what it has counted.
    counted = sum(map(_events_in, (daemon.directory / "output").read_text().split("Flushing stats")))
    assert stats.failed == 0
    lines = stats.delivered - 1  # hub_started is no line
    # What its system still took for a daemon that read no more, nobody can know of: there is no acknowledgement.
    dying = [e for e in sink.events if e.model and asked_to_end - 0.02 <= e.event.time <= ended]
    assert counted <= lines <= counted + len(dying)
    assert len(dying) < stats.dropped, "or else nothing was shown"


def _stats(hub: HubManager) -> SinkStats:
    return next(stats for stats in hub.sink_stats() if stats.name == "statsd")


def _events_in(text: str) -> int:
    """How many starts and failures there are in what a daemon prints of its counters."""
    return sum(int(count) for count in re.findall(r"'mlxhub\.model\.m\d\.(?:started|failed)': (\d+)", text))
