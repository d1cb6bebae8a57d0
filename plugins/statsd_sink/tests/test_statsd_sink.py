"""The StatsD sink in a real hub, its lines read from a real socket."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlxhub_statsd_sink import StatsdSink
from mlxhub_statsd_sink.names import metric, segment

from mlxhub_core import ConfigError, HubEvent, HubManager, HubModelContext, LaunchError

PYTHON = [sys.executable, "-I", "-S", "-c"]
FOREVER = [*PYTHON, "import signal; signal.pause()"]
EVENT = HubEvent(seq=1, id="1", time=0.0)


class Server:
    """A UDP socket that keeps the lines it gets, as a StatsD server would read them."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(10)
        self._socket.bind((host, 0))
        self.port: int = self._socket.getsockname()[1]

    def lines(self, count: int) -> list[str]:
        """The next lines, in the order in which they came; fails if they do not come."""
        lines: list[str] = []
        while len(lines) < count:
            lines += self._socket.recv(65536).decode().splitlines()
        return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def hub_of(tmp_path: Path, server: Server) -> Callable[..., HubManager]:
    """A hub with one model `qwen`, whose sink is found by the name that the package registers."""

    def write(command: list[str], sink: dict[str, Any] | None = None, **model: Any) -> HubManager:
        config = {
            "log_path": str(tmp_path / "logs"),
            "sinks": {"loguru": False, "statsd": {"port": server.port, **(sink or {})}},
            "models": [{"name": "qwen", "command": command, "restart": "never", **model}],
        }
        (tmp_path / "hub.yaml").write_text(json.dumps(config))
        return HubManager(tmp_path / "hub.yaml")

    return write


def test_the_life_of_a_model_is_three_lines_in_order(hub_of: Callable[..., HubManager], server: Server) -> None:
    with hub_of(FOREVER) as hub:
        hub.reload()
        hub.start_model("qwen")
        hub.stop_model("qwen")
        started, duration, stopped = server.lines(3)
    assert started == "mlxhub.model.qwen.started:1|c"
    assert re.fullmatch(r"mlxhub\.model\.qwen\.start_duration:\d+\.\d+\|ms", duration)
    assert stopped == "mlxhub.model.qwen.stopped:1|c"


def test_a_crash_is_counted_in_total_and_by_its_exit_code(hub_of: Callable[..., HubManager], server: Server) -> None:
    with hub_of([*PYTHON, "raise SystemExit(3)"], default=True) as hub:
        hub.reload()
        assert server.lines(4)[2:] == ["mlxhub.model.qwen.failed:1|c", "mlxhub.model.qwen.failed.exit_code.3:1|c"]


def test_the_exit_code_of_a_signal_is_negative(hub_of: Callable[..., HubManager], server: Server) -> None:
    with hub_of(FOREVER, default=True) as hub:
        hub.reload()
        pid = hub.get_status()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert server.lines(4)[3] == "mlxhub.model.qwen.failed.exit_code.-9:1|c"


def test_a_model_that_never_ran_has_no_exit_code(hub_of: Callable[..., HubManager], server: Server) -> None:
    with hub_of(["no-such-program"]) as hub:
        hub.reload()
        with pytest.raises(LaunchError):
            hub.start_model("qwen")
        hub.shutdown()
        # The sink has sent all it had by now: a second line of its own would come before this one.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"end", ("127.0.0.1", server.port))
        assert server.lines(2) == ["mlxhub.model.qwen.failed:1|c", "end"]


def test_only_a_restart_by_the_hub_itself_counts_as_one(
    hub_of: Callable[..., HubManager], server: Server, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    code = (
        f"import os, signal; os.path.exists({str(mark)!r}) or (open({str(mark)!r}, 'w'), os._exit(1)); signal.pause()"
    )
    with hub_of([*PYTHON, code], restart="on-failure") as hub:
        hub.reload()
        hub.start_model("qwen")
        lines = server.lines(7)
        hub.restart_model("qwen")
        lines += server.lines(3)
    names = [line.removeprefix("mlxhub.model.qwen.").partition(":")[0] for line in lines]
    assert names[4:] == ["started", "restarts", "start_duration", "stopped", "started", "start_duration"]


def test_the_duration_of_a_start_is_in_milliseconds(server: Server) -> None:
    sink = StatsdSink(port=server.port)
    sink.open()
    sink.model_ready(HubModelContext("qwen", None, ""), startup_seconds=1.5)
    sink.close()
    assert server.lines(1) == ["mlxhub.model.qwen.start_duration:1500.000000|ms"]


@pytest.mark.parametrize(
    ("text", "safe"),
    [("qwen3-4b_Q", "qwen3-4b_Q"), ("a.b/c d", "a_b_c_d"), ("a:1|c\nb", "a_1_c_b"), ("é\0", "__"), ("a\n", "a_")],
)
def test_a_segment_keeps_ascii_letters_digits_and_hyphens_and_nothing_else(text: str, safe: str) -> None:
    assert segment(text) == safe


@pytest.mark.parametrize(
    ("prefix", "name"), [("mlxhub", "mlxhub.m"), ("eu.studio", "eu.studio.m"), ("", "m"), ("a:1|c\n.", "a_1_c_.m")]
)
def test_the_dots_of_a_prefix_part_it_and_all_else_is_made_safe(prefix: str, name: str) -> None:
    assert metric(prefix, "m") == name


def test_a_hostile_name_cannot_send_a_metric_of_its_own(server: Server) -> None:
    sink = StatsdSink(port=server.port, prefix="x:9|g\ny")
    sink.open()
    sink.model_started(HubModelContext("a:1|c\nevil:666|c\nb", None, ""), event=EVENT)
    sink.model_stopped(HubModelContext("end", None, ""))
    sink.close()
    assert server.lines(2) == ["x_9_g_y.model.a_1_c_evil_666_c_b.started:1|c", "x_9_g_y.model.end.stopped:1|c"]


def test_it_can_be_closed_before_it_was_opened_and_twice() -> None:
    sink = StatsdSink()
    sink.close()
    sink.open()
    sink.close()
    sink.close()


def test_it_speaks_ipv6_where_there_is_nothing_else() -> None:
    server = Server("::1")
    sink = StatsdSink(host="::1", port=server.port)
    sink.open()
    sink.model_stopped(HubModelContext("qwen", None, ""))
    sink.close()
    assert server.lines(1) == ["mlxhub.model.qwen.stopped:1|c"]
    server.close()


def test_a_host_that_cannot_be_found_is_reported_by_its_option_and_stops_no_model(
    hub_of: Callable[..., HubManager],
) -> None:
    with hub_of(FOREVER, sink={"host": "stats..internal"}) as hub:
        hub.reload()
        hub.start_model("qwen")
        assert hub.get_status()[0].pid is not None
        (stats,) = hub.sink_stats()
        deadline = time.monotonic() + 10
        while stats.last_error is None and time.monotonic() < deadline:
            threading.Event().wait(0.01)
            (stats,) = hub.sink_stats()
        assert not stats.open
        assert "host: 'stats..internal' cannot be found" in str(stats.last_error)


@pytest.mark.parametrize("port", [0, 65536])
def test_a_port_that_cannot_be_is_a_mistake_in_hub_yaml(hub_of: Callable[..., HubManager], port: int) -> None:
    with (
        hub_of(FOREVER, sink={"port": port}) as hub,
        pytest.raises(ConfigError, match=r"hub\.yaml:1:\d+.*port must be"),
    ):
        hub.reload()


def test_the_statsd_library_is_not_imported_with_the_sink() -> None:
    code = "import sys, mlxhub_statsd_sink; mlxhub_statsd_sink.StatsdSink(); sys.exit('statsd' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=20).returncode == 0
