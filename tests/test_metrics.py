"""The catalogue of metrics and the table of their values: what the sinks that show metrics have in common."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mlxhub_core import HubEvent, HubManager, HubModelContext, ModelState, ModelStatus, Reason, SinkStats
from mlxhub_core.events import Failure
from mlxhub_core.metrics import (
    CATALOGUE,
    MAX_EXIT_CODES,
    START_DURATION_BUCKETS,
    Histogram,
    Kind,
    Metric,
    MetricSink,
    otlp_name,
    prometheus_name,
    statsd_name,
)
from mlxhub_core.metrics.usage import UsageMeter
from mlxhub_core.observability import HubInfo
from mlxhub_core.testing import FAKE_SERVER, wait_until
from mlxhub_core.testing.day import MODEL, FakeHub

PYTHON = [sys.executable, "-I", "-S", "-c"]
BY_STEM = {metric.stem: metric for metric in CATALOGUE}
INFO = HubInfo("1.2", "3.11", None, 7, "hub.yaml", 900.0)


class Hub:
    """A hub as a sink sees it, whose models are what a test says."""

    def __init__(self, *models: ModelStatus) -> None:
        self.models = list(models)

    def status(self) -> list[ModelStatus]:
        return self.models

    def sink_stats(self) -> list[SinkStats]:
        return [SinkStats("acme/eu", 9, 5, 1, 2, 1, 1024, True, None, None, 0.0, None, "acme-sinks", "3")]

    def info(self) -> HubInfo:
        return INFO


def event(reason: Reason | None = None) -> HubEvent:
    return HubEvent(seq=1, id="1", time=1000.0, reason=reason)


def sink_of(hub: Hub) -> MetricSink:
    sink = MetricSink()
    sink.hub_started(hub=hub, event=event())
    return sink


def values(sink: MetricSink) -> dict[str, float | Histogram]:
    """As ``stem{value,value}``, or the stem alone."""
    return {
        f"{sample.metric.stem}{{{','.join(sample.labels)}}}" if sample.labels else sample.metric.stem: sample.value
        for sample in sink.samples()
    }


QWEN = HubModelContext("qwen", None, "")


def test_each_protocol_calls_them_what_its_users_expect() -> None:
    named = {
        "model.started": ("mlxhub_model_started_total", "model.started"),
        "model.start.duration": ("mlxhub_model_start_duration_seconds", "model.start_duration"),
        "model.last_failure.timestamp": ("mlxhub_model_last_failure_timestamp_seconds", "model.last_failure_timestamp"),
        "model.health_checks.failed": ("mlxhub_model_health_checks_failed_total", "model.health_checks_failed"),
        "model.process.resident_memory": (
            "mlxhub_model_process_resident_memory_bytes",
            "model.process.resident_memory_bytes",
        ),
        "model.process.cpu": ("mlxhub_model_process_cpu_seconds_total", "model.process.cpu"),
        "model.last_exit_code": ("mlxhub_model_last_exit_code", "model.last_exit_code"),
        "model": ("mlxhub_model_info", "model"),
        "start_time": ("mlxhub_start_time_seconds", "start_time"),
        "sink.events.dropped": ("mlxhub_sink_events_dropped_total", "sink.events_dropped"),
    }
    assert {stem: (prometheus_name(BY_STEM[stem]), statsd_name(BY_STEM[stem])) for stem in named} == named
    assert prometheus_name(BY_STEM["model.failed"], "hub") == "hub_model_failed_total"
    assert otlp_name(BY_STEM["model.start.duration"]) == "mlxhub.model.start.duration"


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.stem)
def test_each_obeys_the_rules_of_prometheus(metric: Metric) -> None:
    name = prometheus_name(metric)
    assert not set(metric.labels) & {"job", "instance", "service", "env", "type", "le", "quantile"}
    assert not set(metric.labels) & set(name.split("_")) - {"model", "sink", "state", "exit_code"}
    assert metric.help.endswith(".")
    assert bool(metric.buckets) is (metric.kind is Kind.HISTOGRAM)
    assert list(metric.buckets) == sorted(metric.buckets)
    assert (metric.unit == "") is (metric.kind is Kind.INFO)


def test_only_gauges_are_said_to_add_up() -> None:
    assert {metric.kind for metric in CATALOGUE if metric.additive} == {Kind.GAUGE}


def test_no_two_have_one_name_in_any_protocol() -> None:
    for name_of in (prometheus_name, otlp_name):
        assert len({name_of(metric) for metric in CATALOGUE}) == len(CATALOGUE)


def test_every_metric_has_its_series_before_anything_happens() -> None:
    hub = Hub(ModelStatus("qwen", ModelState.STOPPED, None, ""), ModelStatus("gemma", ModelState.STOPPED, "big", ""))
    shown = values(sink_of(hub))
    for labels in ("qwen,", "gemma,big"):
        for stem in ("started", "stopped", "restarts", "ready", "up", "start_time", "last_failure.timestamp"):
            assert shown[f"model.{stem}{{{labels}}}"] == 0, stem
        assert shown[f"model.failed{{{labels},}}"] == 0
        assert shown[f"model.start.duration{{{labels}}}"] == Histogram((0,) * (len(START_DURATION_BUCKETS) + 1), 0.0)
        assert f"model.last_exit_code{{{labels}}}" not in shown, "absent until the first exit"
    assert shown["build{1.2,3.11,}"] == 1
    assert shown["start_time"] == 900.0
    assert shown["sink.events{acme/eu}"] == 9
    assert shown["sink{acme/eu,acme-sinks,3}"] == 1
    assert (shown["config.last_reload.successful"], shown["config.last_reload.success.timestamp"]) == (1, 0)
    missing = set(BY_STEM) - {name.partition("{")[0] for name in shown}
    assert missing == {
        "model.last_exit_code",
        "model.process.resident_memory",
        "model.process.cpu",
        "model.process.open_fds",
        "model.process.threads",
    }


def test_a_hub_that_has_not_greeted_it_has_no_series() -> None:
    assert list(MetricSink().samples()) == []


def test_the_day_of_a_model_is_counted() -> None:
    hub = FakeHub()
    sink = MetricSink()
    for hook, arguments in hub.day():
        getattr(sink, hook)(**arguments)
    shown = values(sink)
    labels = f"{MODEL},test"
    assert shown[f"model.started{{{labels}}}"] == 3
    assert shown[f"model.restarts{{{labels}}}"] == 1
    assert shown[f"model.stopped{{{labels}}}"] == 2
    assert shown[f"model.failed{{{labels},-9}}"] == shown[f"model.failed{{{labels},3}}"] == 1
    assert shown[f"model.last_exit_code{{{labels}}}"] == 0
    duration = shown[f"model.start.duration{{{labels}}}"]
    assert isinstance(duration, Histogram)
    assert (duration.sum, dict(zip(START_DURATION_BUCKETS, duration.counts, strict=False))[10.0]) == (15.75, 2)


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (0.5, 0), (0.51, 1), (600.0, 10), (600.1, 11)])
def test_a_duration_falls_into_the_bucket_whose_bound_it_does_not_exceed(seconds: float, bucket: int) -> None:
    sink = sink_of(Hub(ModelStatus("qwen", ModelState.READY, None, "")))
    sink.model_ready(QWEN, startup_seconds=seconds)
    duration = values(sink)["model.start.duration{qwen,}"]
    assert isinstance(duration, Histogram)
    assert duration.counts.index(1) == bucket


def test_what_the_hub_says_is_shown_also_of_models_that_ran_before_the_sink_did() -> None:
    failure = Failure(950.0, Reason.CRASH, 3)
    status = ModelStatus(
        "qwen",
        ModelState.READY,
        None,
        "",
        port=27850,
        pid=4,
        exit_code=3,
        started_at=960.0,
        last_failure=failure,
        health_checks=5,
        health_checks_failed=2,
        source="mlx-community/x",
    )
    shown = values(sink_of(Hub(status)))
    assert shown["model.ready{qwen,}"] == shown["model.up{qwen,}"] == 1
    assert shown["model.start_time{qwen,}"] == 960.0
    assert shown["model.last_failure.timestamp{qwen,}"] == 950.0
    assert shown["model.last_exit_code{qwen,}"] == 3
    assert (shown["model.health_checks{qwen,}"], shown["model.health_checks.failed{qwen,}"]) == (5, 2)
    assert shown["model{qwen,,mlx-community/x,27850,mlx_lm}"] == 1
    states = {state: shown[f"model.state{{qwen,,{state}}}"] for state in ModelState}
    assert states == {state: int(state is ModelState.READY) for state in ModelState}


def test_a_model_without_a_process_has_no_start_time_though_it_had_one() -> None:
    status = ModelStatus("qwen", ModelState.FAILED, None, "", started_at=960.0, stopped_at=961.0, exit_code=1)
    assert values(sink_of(Hub(status)))["model.start_time{qwen,}"] == 0


def test_a_model_that_is_gone_takes_its_counts_with_it_and_the_others_keep_theirs() -> None:
    qwen, gemma = (ModelStatus(name, ModelState.STOPPED, None, "") for name in ("qwen", "gemma"))
    hub = Hub(qwen, gemma)
    sink = sink_of(hub)
    for name in ("qwen", "gemma"):
        sink.model_started(HubModelContext(name, None, ""), event=event())
    hub.models = [gemma]
    sink.config_reloaded()
    assert not any("qwen" in name for name in values(sink))
    hub.models = [qwen, gemma]
    assert (values(sink)["model.started{qwen,}"], values(sink)["model.started{gemma,}"]) == (0, 1)


def test_a_model_has_so_many_exit_codes_and_then_others() -> None:
    sink = sink_of(Hub(ModelStatus("qwen", ModelState.FAILED, None, "")))
    for code in (*range(1, MAX_EXIT_CODES + 11), 1):
        sink.model_failed(QWEN, exit_code=code)
    sink.model_failed(QWEN, exit_code=None)
    prefix = "model.failed{qwen,,"
    failed = {n.removeprefix(prefix)[:-1]: v for n, v in values(sink).items() if n.startswith(prefix)}
    assert failed == {"": 1, "1": 2, **{str(code): 1 for code in range(2, MAX_EXIT_CODES + 1)}, "other": 10}


def test_readers_and_the_sink_do_not_disturb_each_other() -> None:
    names = [f"m{number}" for number in range(30)]
    sink = sink_of(Hub(*(ModelStatus(name, ModelState.FAILED, None, "") for name in names)))
    done = threading.Event()
    errors: list[Exception] = []

    def read() -> None:
        try:
            while not done.is_set():
                list(sink.samples())
        except Exception as error:  # noqa: BLE001  # whatever it is, the test has failed
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for reader in readers:
            reader.start()
        for code in range(MAX_EXIT_CODES):
            for name in names:
                sink.model_failed(HubModelContext(name, None, ""), exit_code=code)
    finally:
        done.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(usual)
    assert errors == []
    counts = [sample.value for sample in sink.samples() if sample.metric.stem == "model.failed"]
    assert sum(count for count in counts if not isinstance(count, Histogram)) == MAX_EXIT_CODES * len(names)


# What the processes of models use.


@pytest.fixture
def parent() -> Iterator[psutil.Popen]:
    """A process with a child, both of which have begun to compute."""
    code = "import subprocess, sys; c = subprocess.Popen([*sys.argv[1:], 'while True: pass'])\nwhile True: pass"
    process = psutil.Popen([*PYTHON, code, *PYTHON])
    wait_until(lambda: len(process.children()) == 1)
    yield process
    for each in (*process.children(recursive=True), process):
        each.kill()
    process.wait()


def measured(meter: UsageMeter, pid: int | None) -> tuple[int, float, int | None, int]:
    usage = meter.measure([ModelStatus("qwen", ModelState.READY, None, "", pid=pid)])["qwen"]
    return usage.resident_memory, usage.cpu_seconds, usage.open_fds, usage.threads


def test_the_whole_tree_counts(parent: psutil.Popen) -> None:
    (child,) = parent.children()
    memory, cpu, fds, threads = measured(UsageMeter(), parent.pid)
    assert memory >= parent.memory_info().rss * 0.9 + child.memory_info().rss * 0.9
    assert cpu > 0
    assert fds == parent.num_fds() + child.num_fds()
    assert threads == 2


def test_time_of_computing_only_grows_though_processes_end(parent: psutil.Popen) -> None:
    meter = UsageMeter()
    (child,) = parent.children()
    wait_until(lambda: child.cpu_times().user >= 0.1)
    measured(meter, parent.pid)
    _, before, _, _ = measured(meter, parent.pid)
    really = sum(sum(process.cpu_times()[:2]) for process in (parent, child))
    assert really - 0.5 <= before <= really + 0.001, "what was counted once does not count again"
    child.kill()
    wait_until(lambda: child.status() == psutil.STATUS_ZOMBIE)
    _, after, _, threads = measured(meter, parent.pid)
    assert after >= before >= 0.1
    assert measured(meter, None)[1] == after, "without a process it keeps its own"
    assert threads <= 2


def test_a_process_that_has_ended_uses_nothing() -> None:
    gone = subprocess.Popen([*PYTHON, "0"])
    gone.wait()
    assert measured(UsageMeter(), gone.pid) == (0, 0.0, 0, 0)


# What the hub tells of itself.


def test_the_hub_tells_what_it_is_and_whether_hub_yaml_could_be_used(tmp_path: Path) -> None:
    config = tmp_path / "hub.yaml"
    config.write_text("log_path: logs\nmodels: [{name: a, command: [x]}]\n")
    with HubManager(config) as hub:
        first = hub.info()
        assert (first.config_path, first.last_reload_successful, first.last_reload_at) == (str(config), True, None)
        hub.reload()
        at = hub.info().last_reload_at
        assert at is not None
        assert first.started_at <= at
        config.write_text("models: 7\n")
        with pytest.raises(Exception, match="models"):
            hub.reload()
        assert (hub.info().last_reload_successful, hub.info().last_reload_at) == (False, at)


def test_where_a_sink_is_and_whose_it_is_shows_in_its_statistics(tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text("log_path: logs\nmodels: [{name: a, command: [x]}]\n")

    class Somewhere:
        where = "nowhere yet"

        def open(self) -> None:
            self.where = "127.0.0.1:5"

        def model_failed(self, ctx: HubModelContext, *, exit_code: int | None) -> None: ...

    with HubManager(tmp_path / "hub.yaml", observability_sink=Somewhere()) as hub:
        hub.reload()
        wait_until(lambda: all(stats.open for stats in hub.sink_stats()))
        passed, loguru = hub.sink_stats()
        assert (passed.where, passed.plugin) == ("127.0.0.1:5", "")
        assert (loguru.where, loguru.plugin, loguru.version) == (None, "mlxhub-core", "0.1.0")


@pytest.mark.parametrize(
    ("fault", "failed"),
    [(["--load-seconds", "0.5", "--unready-status", "503"], False), (["--zombie-after", "0.5"], True)],
)
def test_health_checks_are_counted_once_it_is_ready(tmp_path: Path, fault: list[str], failed: bool) -> None:
    command = [sys.executable, "-I", "-S", FAKE_SERVER, "--port", "{port}", *fault]
    health = {"interval": 0.1, "timeout": 1, "failures": 1000}
    text = {"log_path": "logs", "models": [{"name": "a", "command": command, "health": health, "default": True}]}
    (tmp_path / "hub.yaml").write_text(json.dumps(text))
    with HubManager(tmp_path / "hub.yaml") as hub:
        hub.reload()
        wait_until(lambda: hub.get_status()[0].health_checks >= 2)
        wait_until(lambda: (hub.get_status()[0].health_checks_failed > 0) is failed)
        (model,) = hub.get_status()
        assert model.health_checks > model.health_checks_failed, "those before it was ready do not count"


def test_who_shows_metrics_loads_nothing_heavy_for_it() -> None:
    code = "import sys, mlxhub_core.metrics; sys.exit(bool({'psutil', 'pydantic', 'loguru'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=20).returncode == 0
