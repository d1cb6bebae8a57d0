"""The Prometheus sink in a real hub, its page scraped over HTTP and read by Prometheus' own parsers."""

from __future__ import annotations

import gzip
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
from mlxhub_prom_sink import PrometheusSink, Tls
from mlxhub_prom_sink.server import parse_listen
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mlxhub_core import ConfigError, HubEvent, HubManager, LaunchError
from mlxhub_core.metrics import START_DURATION_BUCKETS
from mlxhub_core.testing import wait_until
from mlxhub_core.testing.day import FakeHub

PYTHON = [sys.executable, "-I", "-S", "-c"]
FOREVER = [*PYTHON, "import signal; signal.pause()"]
STATES = {"stopped", "starting", "ready", "unhealthy", "stopping", "backoff", "failed"}

Series = dict[str, float]


def fetch(url: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
        body = answer.read()
        return (gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body).decode()


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

    def load(self, *models: dict[str, Any], **options: Any) -> HubManager:
        config = {
            "log_path": str(self.path.parent / "logs"),
            "sinks": {"loguru": False, "prometheus": {"listen": self.listen, **options}},
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
    hub.load(
        {"name": "qwen", "command": FOREVER},
        {"name": "gemma", "command": FOREVER, "group": "big", "model_path": "org/gemma"},
        process_metrics=False,
    )
    wait_until(lambda: len(hub.page()) > 1)
    page = {name: value for name, value in hub.page().items() if name.startswith("mlxhub_model_")}
    wanted: Series = {}
    for labels, source in ((",qwen", ""), ("big,gemma", "org/gemma")):
        counters = ("started", "stopped", "restarts", "health_checks", "health_checks_failed")
        wanted |= {f"mlxhub_model_{name}_total{{{labels}}}": 0 for name in counters}
        wanted[f"mlxhub_model_failed_total{{,{labels}}}"] = 0
        gauges = ("ready", "up", "start_time_seconds", "last_failure_timestamp_seconds")
        wanted |= {f"mlxhub_model_{name}{{{labels}}}": 0 for name in gauges}
        wanted |= {f"mlxhub_model_state{{{labels},{state}}}": state == "stopped" for state in STATES}
        group, model = labels.split(",")
        duration = "mlxhub_model_start_duration_seconds"
        bounds = [*map(str, START_DURATION_BUCKETS), "+Inf"]
        wanted |= {f"{duration}_bucket{{{group},{bound},{model}}}": 0 for bound in bounds}
        wanted |= {f"{duration}_{what}{{{labels}}}": 0 for what in ("count", "sum")}
        wanted[f"mlxhub_model_info{{command,{labels},,{source}}}"] = 1
    assert page == wanted
    assert before - 10 <= hub.page()["mlxhub_start_time_seconds{}"] <= time.time()
    assert hub.page()["mlxhub_config_last_reload_successful{}"] == 1


def test_it_says_what_became_of_its_own_events_and_whose_it_is(hub: Hub) -> None:
    hub.load({"name": "qwen", "command": FOREVER})
    wait_until(lambda: hub.page().get("mlxhub_sink_up{prometheus}") == 1)
    page = hub.page()
    assert page["mlxhub_sink_events_total{prometheus}"] >= 1
    assert page["mlxhub_sink_queue_capacity{prometheus}"] == 1024
    assert page["mlxhub_sink_info{mlxhub-prom-sink,prometheus,0.1.0}"] == 1


def test_its_real_port_is_in_the_status_of_the_sinks(hub: Hub) -> None:
    hub.listen = "127.0.0.1:0"
    manager = hub.load({"name": "qwen", "command": FOREVER})
    wait_until(lambda: manager.sink_stats()[0].open)
    where = manager.sink_stats()[0].where
    assert where is not None
    assert "mlxhub_model_up" in fetch(where)


def test_the_namespace_of_the_seed_gives_the_seeds_own_names(hub: Hub) -> None:
    manager = hub.load({"name": "qwen", "command": [*PYTHON, "raise SystemExit(3)"], "group": "g"}, namespace="hub")
    manager.start_model("qwen")
    wait_until(lambda: hub.page().get("hub_model_failed_total{3,g,qwen}") == 1)
    assert hub.page()["hub_model_started_total{g,qwen}"] == 1
    assert "hub_model_stopped_total{g,qwen}" in hub.page()
    assert not any(name.startswith("mlxhub") for name in hub.page())


def test_processes_are_measured_meanwhile(hub: Hub) -> None:
    manager = hub.load({"name": "qwen", "command": [*PYTHON, "while True: pass"]}, process_interval=0.1)
    manager.start_model("qwen")
    wait_until(lambda: hub.page().get("mlxhub_model_process_cpu_seconds_total{,qwen}", 0) > 0)
    page = hub.page()
    assert page["mlxhub_model_process_resident_memory_bytes{,qwen}"] > 1e6
    assert page["mlxhub_model_process_threads{,qwen}"] >= 1
    assert page["mlxhub_model_process_open_fds{,qwen}"] >= 3
    manager.stop_model("qwen")
    wait_until(lambda: hub.page()["mlxhub_model_process_resident_memory_bytes{,qwen}"] == 0)


def test_a_model_that_outlived_its_hub_is_shown_as_it_is(tmp_path: Path) -> None:
    first = Hub(tmp_path)
    with first.manager as manager:
        manager_of_first = first.load({"name": "qwen", "command": FOREVER})
        manager_of_first.start_model("qwen")
        first.shows(started_total=1)
        before = first.page()["mlxhub_model_start_time_seconds{,qwen}"]
        manager.shutdown(keep_models=True)
    second = Hub(tmp_path)
    with second.manager:
        second.load({"name": "qwen", "command": FOREVER})
        second.shows(up=1, ready=1, started_total=0)
        assert second.page()["mlxhub_model_start_time_seconds{,qwen}"] == pytest.approx(before, abs=0.5)
        second.manager.stop_model("qwen")
        second.shows(up=0, stopped_total=1, start_time_seconds=0)


def test_after_a_reload_that_changes_the_sink_the_states_are_right_at_once(hub: Hub) -> None:
    manager = hub.load({"name": "qwen", "command": FOREVER})
    manager.start_model("qwen")
    hub.shows(up=1, started_total=1)
    hub.load({"name": "qwen", "command": FOREVER}, process_interval=4)
    hub.shows(up=1, ready=1, started_total=0)


def test_a_hub_yaml_that_cannot_be_used_shows(hub: Hub) -> None:
    hub.load({"name": "qwen", "command": FOREVER})
    wait_until(lambda: hub.page().get("mlxhub_config_last_reload_successful{}") == 1)
    at = hub.page()["mlxhub_config_last_reload_success_timestamp_seconds{}"]
    hub.path.write_text("models: 7\n")
    with pytest.raises(ConfigError):
        hub.manager.reload()
    page = hub.page()
    assert page["mlxhub_config_last_reload_successful{}"] == 0
    assert page["mlxhub_config_last_reload_success_timestamp_seconds{}"] == at > time.time() - 60


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
    page = hub.page()
    assert page["mlxhub_model_stopped_total{,qwen}"] == 0
    assert (page["mlxhub_model_last_exit_code{,qwen}"], page["mlxhub_model_last_exit_code{,bad}"]) == (-9, 3)
    assert page["mlxhub_model_last_failure_timestamp_seconds{,qwen}"] > time.time() - 60


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
def test_listen_is_parsed(text: str, address: tuple[str, int]) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize("text", ["", "9464", ":9464", "host", "host:", "::1:80", "host:65536", "host:-1", "host:1 "])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse_listen(text)


def test_the_port_is_free_again_at_once() -> None:
    first = PrometheusSink(f"127.0.0.1:{free_port()}")
    first.open()
    url = str(first.where)
    fetch(url)
    first.close()
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
    assert str(sink.where).startswith("http://[::1]:")
    assert "mlxhub_model_up" in fetch(str(sink.where))
    sink.close()


def test_a_name_that_no_host_can_have_is_an_os_error() -> None:
    with pytest.raises(OSError, match=r"listen: cannot listen on a\.\.b:1: .*; check the name"):
        PrometheusSink("a..b:1").open()


def test_only_metrics_is_there_and_nothing_is_written_to_stderr(
    sink: PrometheusSink, capfd: pytest.CaptureFixture[str]
) -> None:
    base = str(sink.where).removesuffix("/metrics")
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
    host, port = str(sink.where).split("/")[2].split(":")
    with socket.create_connection((host, int(port))):
        assert "mlxhub_model_up" in fetch(str(sink.where))
        with socket.create_connection((host, int(port))) as rude:
            # Closed like this, the connection is reset in the middle of the request.
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            rude.sendall(b"GET /metrics HT")
        assert "mlxhub_model_up" in fetch(str(sink.where))
    wait_until(lambda: not [thread for thread in threading.enumerate() if "process_request" in thread.name])
    assert capfd.readouterr().err == ""


def test_openmetrics_is_valid_and_says_since_when_each_counter_counts(sink: PrometheusSink) -> None:
    sink.hub_started(hub=FakeHub(), event=HubEvent(seq=0, id="0", time=1234.5))
    text = fetch(str(sink.where), Accept="application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    samples = families["mlxhub_model_failed"].samples
    assert [(sample.name, sample.value) for sample in samples] == [
        ("mlxhub_model_failed_total", 0),
        ("mlxhub_model_failed_created", 1234.5),
    ]
    assert families["mlxhub_model_start_duration_seconds"].samples[-1].value == 1234.5
    assert "_created" not in fetch(str(sink.where)), "the text format has no place for it"


def test_it_is_packed_for_those_who_ask_for_that(sink: PrometheusSink) -> None:
    plain = fetch(str(sink.where))
    request = urllib.request.Request(str(sink.where), headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(answer.read()).decode() == plain


def test_a_scrape_may_ask_for_some_metrics_only(sink: PrometheusSink) -> None:
    sink.hub_started(hub=FakeHub(), event=HubEvent(seq=0, id="0", time=1.0))
    assert series(fetch(f"{sink.where}?name[]=mlxhub_model_up")) == {"mlxhub_model_up{test,mlxhub-test}": 0}


def test_a_scrape_in_which_something_goes_wrong_shows_what_the_last_had(sink: PrometheusSink) -> None:
    class Breakable(FakeHub):
        broken = False

        def status(self) -> Any:
            return 1 / 0 if self.broken else super().status()

    hub = Breakable()
    sink.hub_started(hub=hub, event=HubEvent(seq=0, id="0", time=1.0))
    good = series(fetch(str(sink.where)))
    assert good.pop("mlxhub_exposition_errors_total{}") == 0
    hub.broken = True
    bad = series(fetch(str(sink.where)))
    assert bad.pop("mlxhub_exposition_errors_total{}") == 1
    assert bad == good


def test_a_bucket_counts_all_that_took_no_longer(sink: PrometheusSink) -> None:
    hub = FakeHub()
    sink.hub_started(hub=hub, event=HubEvent(seq=0, id="0", time=1.0))
    for seconds in (3.0, 0.1, 700.0):
        sink.model_ready(hub.ctx, startup_seconds=seconds)
    page = series(fetch(str(sink.where)))
    name = "mlxhub_model_start_duration_seconds"
    counts = {
        bound: page[f"{name}_bucket{{test,{bound},mlxhub-test}}"] for bound in ("0.5", "2.5", "5.0", "600.0", "+Inf")
    }
    assert counts == {"0.5": 1, "2.5": 1, "5.0": 2, "600.0": 2, "+Inf": 3}
    assert (page[f"{name}_count{{test,mlxhub-test}}"], page[f"{name}_sum{{test,mlxhub-test}}"]) == (3, 703.1)


def test_two_hubs_in_one_process_do_not_meet(tmp_path: Path) -> None:
    hubs = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        hubs.append(Hub(tmp_path / name))
    with hubs[0].manager, hubs[1].manager:
        hubs[0].load({"name": "qwen", "command": FOREVER})
        hubs[1].load({"name": "gemma", "command": FOREVER})
        wait_until(lambda: all(len(hub.page()) > 1 for hub in hubs))
        models = [{name for name in hub.page() if name.startswith("mlxhub_model_up")} for hub in hubs]
        assert models == [{"mlxhub_model_up{,qwen}"}, {"mlxhub_model_up{,gemma}"}]


@pytest.mark.usefixtures("sink")
def test_the_registry_of_the_program_around_the_hub_is_left_alone() -> None:
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("mlxhub")]


def test_the_prometheus_library_is_not_imported_with_the_sink() -> None:
    code = "import sys, mlxhub_prom_sink as p; p.PrometheusSink(); sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=20).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"namespace": "a-b"}, "namespace must be letters"),
        ({"namespace": ""}, "namespace must be letters"),
        ({"namespace": "ä"}, "namespace must be letters"),
        ({"textfile": "metrics.txt"}, r"textfile must end in \.prom"),
        ({"tls": {"cert": "c.pem"}}, "tls.key: is required"),
        ({"process_interval": 0}, "must be at least 0.1"),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_mistake_in_hub_yaml(hub: Hub, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"hub\.yaml:1:\d+.*{message}"):
        hub.load({"name": "qwen", "command": FOREVER}, **options)


# A file instead of a port.


def test_https_for_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match="tls is for a port"):
        PrometheusSink(textfile=Path("a.prom"), tls=Tls(Path("c.pem"), Path("k.pem")))


def test_a_textfile_takes_the_place_of_the_port_and_is_gone_with_the_sink(tmp_path: Path) -> None:
    path = tmp_path / "mlxhub.prom"
    sink = PrometheusSink(textfile=path, textfile_interval=0.1)
    assert sink.where == str(path)
    sink.open()
    assert not [thread for thread in threading.enumerate() if thread.name == "prom-http"]
    sink.hub_started(hub=FakeHub(), event=HubEvent(seq=0, id="0", time=1.0))
    wait_until(lambda: "mlxhub_model_up{test,mlxhub-test}" in series(path.read_text()))
    sink.close()
    assert not list(tmp_path.iterdir())


def test_a_textfile_that_cannot_be_written_is_an_os_error_that_names_it(tmp_path: Path) -> None:
    sink = PrometheusSink(textfile=tmp_path / "gone" / "mlxhub.prom")
    with pytest.raises(OSError, match=r"textfile: .*mlxhub\.prom cannot be written \(No such file"):
        sink.open()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prom-")]


def test_a_relative_textfile_is_beside_hub_yaml(hub: Hub) -> None:
    hub.load({"name": "qwen", "command": FOREVER}, textfile="mlxhub.prom")
    wait_until(lambda: (hub.path.parent / "mlxhub.prom").exists())
