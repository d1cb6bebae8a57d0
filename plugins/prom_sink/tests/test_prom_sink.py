"""The Prometheus sink in a real hub, its page scraped over HTTP and read by Prometheus' own parsers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlxhub_prom_sink import PrometheusSink
from mlxhub_prom_sink.server import parse_listen
from mlxhub_prom_sink.table import MAX_EXIT_CODES, Table
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mlxhub_core import ConfigError, HubEvent, HubInfo, HubManager, LaunchError, ModelState, ModelStatus, SinkStats
from mlxhub_core.testing import wait_until

PYTHON = [sys.executable, "-I", "-S", "-c"]
FOREVER = [*PYTHON, "import signal; signal.pause()"]
STATES = {"stopped", "starting", "ready", "unhealthy", "stopping", "backoff", "failed"}

Series = dict[str, float]


def fetch(url: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
        return str(answer.read().decode())


def series(text: str) -> Series:
    """Each sample of a page as ``name{value,value}`` with its labels' values in the order of the labels' names."""
    return {
        f"{sample.name}{{{','.join(value for _, value in sorted(sample.labels.items()))}}}": sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Hub:
    """A hub whose sink is found by the name that the package registers, and the page that it shows."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "hub.yaml"
        self.listen = f"127.0.0.1:{free_port()}"
        self.manager = HubManager(self.path)

    def load(self, *models: dict[str, Any]) -> HubManager:
        config = {
            "log_path": str(self.path.parent / "logs"),
            "sinks": {"loguru": False, "prometheus": {"listen": self.listen}},
            "models": [{"restart": "never", **model} for model in models],
        }
        self.path.write_text(json.dumps(config))
        self.manager.reload()
        return self.manager

    def page(self) -> Series:
        try:
            return series(fetch(f"http://{self.listen}/metrics"))
        except urllib.error.URLError:
            return {}  # It does not listen yet.

    def shows(self, **values: float) -> None:
        """Wait until the page shows these of the model `qwen`, by the name without `mlxhub_model_`."""
        wanted = {f"mlxhub_model_{name}{{,qwen}}": value for name, value in values.items()}
        wait_until(lambda: wanted.items() <= self.page().items())


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path)
    with hub.manager:
        yield hub


@pytest.fixture
def sink() -> Iterator[PrometheusSink]:
    sink = PrometheusSink("127.0.0.1:0")
    sink.open()
    yield sink
    sink.close()


def test_every_model_has_all_its_series_before_anything_happens(hub: Hub) -> None:
    before = time.time()
    hub.load({"name": "qwen", "command": FOREVER}, {"name": "gemma", "command": FOREVER, "group": "big"})
    wait_until(lambda: len(hub.page()) > 1)
    page = hub.page()
    assert before <= page.pop("mlxhub_start_time_seconds{}") <= time.time()
    created = {name: page.pop(name) for name in list(page) if "_created{" in name}
    assert len(created) == 8
    assert all(before <= value <= time.time() for value in created.values())
    wanted: Series = {}
    for exit_code, group, model in (("", "", "qwen"), ("", "big", "gemma")):
        labels = f"{group},{model}"
        wanted |= {f"mlxhub_model_{name}_total{{{labels}}}": 0 for name in ("started", "stopped", "restarts")}
        wanted[f"mlxhub_model_failed_total{{{exit_code},{labels}}}"] = 0
        wanted |= {f"mlxhub_model_{name}{{{labels}}}": 0 for name in ("ready", "up")}
        wanted |= {f"mlxhub_model_state{{{labels},{state}}}": state == "stopped" for state in STATES}
    assert page == wanted


def test_the_page_follows_the_life_of_a_model(hub: Hub) -> None:
    manager = hub.load({"name": "qwen", "command": FOREVER})
    hub.shows(started_total=0, stopped_total=0, ready=0, up=0)
    manager.start_model("qwen")
    hub.shows(started_total=1, stopped_total=0, ready=1, up=1)
    manager.stop_model("qwen")
    hub.shows(started_total=1, stopped_total=1, ready=0, up=0)


def test_exactly_one_state_is_1_and_it_is_the_one_the_hub_says(hub: Hub) -> None:
    def shown() -> set[str]:
        return {name for name, value in hub.page().items() if name.startswith("mlxhub_model_state{") and value}

    # Its port answers nobody, so it is up but never ready.
    deaf = {"name": "qwen", "command": [*PYTHON, "import signal; signal.pause()", "{port}"]}
    manager = hub.load(deaf)
    wait_until(lambda: shown() == {"mlxhub_model_state{,qwen,stopped}"})
    manager.start_model("qwen")
    assert shown() == {"mlxhub_model_state{,qwen,starting}"}
    hub.shows(ready=0, up=1)


def test_a_crash_is_counted_by_its_exit_code_and_a_signal_is_negative(hub: Hub) -> None:
    manager = hub.load(
        {"name": "qwen", "command": FOREVER}, {"name": "bad", "command": [*PYTHON, "raise SystemExit(3)"]}
    )
    manager.start_model("bad")
    manager.start_model("qwen")
    pid = manager.get_status()[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wanted = {"mlxhub_model_failed_total{3,,bad}": 1.0, "mlxhub_model_failed_total{-9,,qwen}": 1.0}
    wait_until(lambda: wanted.items() <= hub.page().items())
    assert hub.page()["mlxhub_model_stopped_total{,qwen}"] == 0


def test_a_model_that_could_not_be_started_failed_with_an_empty_exit_code(hub: Hub) -> None:
    manager = hub.load({"name": "qwen", "command": ["no-such-program"]})
    with pytest.raises(LaunchError):
        manager.start_model("qwen")
    wait_until(lambda: hub.page().get("mlxhub_model_failed_total{,,qwen}") == 1)
    hub.shows(started_total=0, up=0)


def test_only_a_restart_by_the_hub_itself_counts_as_one(hub: Hub, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = (
        f"import os, signal; os.path.exists({str(mark)!r}) or (open({str(mark)!r}, 'w'), os._exit(1)); signal.pause()"
    )
    manager = hub.load({"name": "qwen", "command": [*PYTHON, code], "restart": "on-failure"})
    manager.start_model("qwen")
    hub.shows(started_total=2, restarts_total=1, up=1)
    manager.restart_model("qwen")
    hub.shows(started_total=3, restarts_total=1, up=1)


def test_a_model_that_leaves_hub_yaml_leaves_the_page(hub: Hub) -> None:
    hub.load({"name": "qwen", "command": FOREVER}, {"name": "gemma", "command": FOREVER})
    wait_until(lambda: any("gemma" in name for name in hub.page()))
    hub.load({"name": "qwen", "command": FOREVER})
    assert not any("gemma" in name for name in hub.page())
    hub.shows(started_total=0)


def test_a_taken_port_is_reported_by_its_option_and_taken_over_when_it_is_free(hub: Hub) -> None:
    with socket.create_server(("127.0.0.1", int(hub.listen.rpartition(":")[2]))):
        manager = hub.load({"name": "qwen", "command": FOREVER})
        wait_until(lambda: manager.sink_stats()[0].last_error is not None)
        error = str(manager.sink_stats()[0].last_error)
        assert f"listen: cannot listen on {hub.listen}" in error
        assert "choose another port" in error
    hub.shows(started_total=0)


def test_a_listen_that_cannot_be_is_a_mistake_in_hub_yaml(hub: Hub) -> None:
    hub.listen = "9464"
    with pytest.raises(ConfigError, match=r"hub\.yaml:1:\d+.*listen must be host:port"):
        hub.load({"name": "qwen", "command": FOREVER})


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:9464", ("127.0.0.1", 9464)), ("localhost:0", ("localhost", 0)), ("[::1]:80", ("::1", 80))],
)
def test_listen_is_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize("text", ["", "9464", ":9464", "host", "host:", "::1:80", "host:65536", "host:-1", "host:1 "])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse_listen(text)


def test_the_port_is_free_again_at_once() -> None:
    first = PrometheusSink(f"127.0.0.1:{free_port()}")
    first.open()
    url = str(first.url)
    fetch(url)
    first.close()
    assert first.url is None
    second = PrometheusSink(url.split("/")[2])
    second.open()
    fetch(url)
    second.close()


def test_it_can_be_closed_before_it_was_opened_and_twice() -> None:
    sink = PrometheusSink("127.0.0.1:0")
    sink.close()
    sink.open()
    sink.close()
    sink.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "prom-http"]


def test_it_listens_on_ipv6() -> None:
    sink = PrometheusSink("[::1]:0")
    sink.open()
    assert str(sink.url).startswith("http://[::1]:")
    assert "mlxhub_model_up" in fetch(str(sink.url))
    sink.close()


def test_a_name_that_no_host_can_have_is_an_os_error() -> None:
    with pytest.raises(OSError, match=r"listen: cannot listen on a\.\.b:1: .*; check the name"):
        PrometheusSink("a..b:1").open()


def test_only_metrics_is_there_and_nothing_is_written_to_stderr(
    sink: PrometheusSink, capfd: pytest.CaptureFixture[str]
) -> None:
    base = str(sink.url).removesuffix("/metrics")
    assert "/metrics" in fetch(f"{base}/")
    assert "mlxhub_model_up" in fetch(f"{base}/metrics")
    for path in ("/nope", "/metrics/", "/favicon.ico"):
        with pytest.raises(urllib.error.HTTPError, match="404") as error:
            fetch(base + path)
        error.value.close()
    assert capfd.readouterr().err == ""


def test_a_client_that_is_silent_or_hangs_up_disturbs_nobody(
    sink: PrometheusSink, capfd: pytest.CaptureFixture[str]
) -> None:
    host, port = str(sink.url).split("/")[2].split(":")
    with socket.create_connection((host, int(port))):
        assert "mlxhub_model_up" in fetch(str(sink.url))
        with socket.create_connection((host, int(port))) as rude:
            # Closed like this, the connection is reset in the middle of the request.
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            rude.sendall(b"GET /metrics HT")
        assert "mlxhub_model_up" in fetch(str(sink.url))
    wait_until(lambda: not [thread for thread in threading.enumerate() if "process_request" in thread.name])
    assert capfd.readouterr().err == ""


class OneModel:
    """A hub as far as a sink sees it, for what cannot be had from a real one in a test's time."""

    def status(self) -> list[ModelStatus]:
        return [ModelStatus("qwen", ModelState.STOPPED, None, "")]

    def sink_stats(self) -> list[SinkStats]:
        return []

    def info(self) -> HubInfo:
        return HubInfo("0", "3", None, 0, "hub.yaml", 0.0)


def test_openmetrics_is_valid_and_says_since_when_each_counter_counts(sink: PrometheusSink) -> None:
    sink.hub_started(hub=OneModel(), event=HubEvent(seq=0, id="0", time=1234.5))
    text = fetch(str(sink.url), Accept="application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    samples = families["mlxhub_model_failed"].samples
    assert [(sample.name, sample.value) for sample in samples] == [
        ("mlxhub_model_failed_total", 0),
        ("mlxhub_model_failed_created", 1234.5),
    ]


def test_a_scrape_may_ask_for_some_metrics_only(sink: PrometheusSink) -> None:
    sink.hub_started(hub=OneModel(), event=HubEvent(seq=0, id="0", time=1.0))
    assert series(fetch(f"{sink.url}?name[]=mlxhub_model_up")) == {"mlxhub_model_up{,qwen}": 0}


@pytest.mark.usefixtures("sink")
def test_the_registry_of_the_program_around_the_hub_is_left_alone() -> None:
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("mlxhub")]


def test_a_model_has_so_many_exit_codes_and_then_others() -> None:
    table = Table()
    table.begin(OneModel(), since=0.0)
    for code in range(1, MAX_EXIT_CODES + 11):
        table.fail("qwen", code)
    table.fail("qwen", 1)
    failed = dict(table.snapshot().rows[0].counts.failed)
    assert failed.pop("other") == 10
    assert failed == {"": 0, "1": 2, **{str(code): 1 for code in range(2, MAX_EXIT_CODES + 1)}}


def test_a_snapshot_does_not_change_when_the_counting_goes_on() -> None:
    table = Table()
    table.begin(OneModel(), since=0.0)
    table.fail("qwen", 1)
    before = table.snapshot()
    table.fail("qwen", 1)
    table.start("qwen", again=True)
    table.stop("qwen")
    assert before.rows[0].counts.failed == {"": 0, "1": 1}
    assert (before.rows[0].counts.started, before.rows[0].counts.stopped) == (0, 0)


def test_the_prometheus_library_is_not_imported_with_the_sink() -> None:
    code = "import sys, mlxhub_prom_sink as p; p.PrometheusSink(); sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=20).returncode == 0
