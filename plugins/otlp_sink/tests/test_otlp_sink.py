"""What the sink sends: metrics, records, who it says it is, and when."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import trustme
from mlxhub_otlp_sink import OtlpSink, sink
from mlxhub_otlp_sink.names import is_for_otlp
from mlxhub_otlp_sink.records import EVENTS

from mlxhub_core import HubError, ModelState, ModelStatus, Secret, SinkStats
from mlxhub_core.hooks import hooks_of
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.metrics import CATALOGUE, MAX_EXIT_CODES, START_DURATION_BUCKETS, Kind, Metric, Usage, otlp_name
from mlxhub_core.testing import FakeClock
from mlxhub_core.testing.day import MODEL, FakeHub

from .receiver import RECEIVERS, Receiver, http_receiver, plain

ABOUT = {"mlxhub_model_name": MODEL, "mlxhub_model_group": "test"}
CUMULATIVE = 2


class Hub(FakeHub):
    """A hub with a sink; its models can be taken away."""

    gone = False

    def status(self) -> list[ModelStatus]:
        if self.gone:
            return []
        return [replace(model, health_checks=7, health_checks_failed=2) for model in super().status()]

    def sink_stats(self) -> list[SinkStats]:
        return [SinkStats("acme", 9, 5, 1, 2, 1, 64, open=True, last_error=None, last_success=5.0, stuck_seconds=0.0)]


class Told:
    """A sink that was opened, and the hub that tells it what happens."""

    def __init__(self, sink: OtlpSink) -> None:
        self.sink = sink
        self.hub = Hub()
        self.hooks = hooks_of(sink)
        self.day = self.hub.day()
        sink.open()

    def until(self, hook: str) -> None:
        """Tell and flush each event up to one of this hook."""
        for name, arguments in self.day:
            self.hooks[name](arguments)
            self.sink.flush()
            if name == hook:
                return
        assert hook == "the end"


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nobody had set anything for OpenTelemetry."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


pytestmark = pytest.mark.usefixtures("no_variables")


@pytest.fixture(params=list(RECEIVERS))
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    with RECEIVERS[request.param]() as receiver:
        receiver.protocol = request.param  # type: ignore[attr-defined]
        yield receiver


def told(receiver: Receiver, **options: Any) -> Told:
    given = {"endpoint": receiver.url, "protocol": getattr(receiver, "protocol", None), **options}
    return Told(OtlpSink(**given))


def test_a_day_is_counted(receiver: Receiver) -> None:
    here = told(receiver)
    here.until("the end")
    here.sink.close()
    value = receiver.value
    assert [value(f"mlxhub.model.{name}", **ABOUT) for name in ("started", "stopped", "restarts")] == [3, 2, 1]
    failed = [value("mlxhub.model.failed", **ABOUT, process_exit_code=code) for code in (-9, 3)]
    assert failed == [1, 1]
    states = {s: value("mlxhub.model.state", **ABOUT, mlxhub_model_state=s) for s in ("stopped", "ready")}
    assert states == {"stopped": 1, "ready": 0}
    assert value("mlxhub.model.health_checks.failed", **ABOUT) == 2
    assert value("mlxhub.sink.events.dropped", mlxhub_sink_name="acme") == 2


def test_every_metric_of_the_catalogue_arrives_as_it_is_declared(receiver: Receiver) -> None:
    here = told(receiver)
    here.until("the end")
    here.sink.close()
    metrics = receiver.metrics()
    assert metrics.keys() == {otlp_name(metric) for metric in CATALOGUE if is_for_otlp(metric)}
    for metric in filter(is_for_otlp, CATALOGUE):
        sent = metrics[otlp_name(metric)]
        assert (sent.unit, sent.description) == (metric.unit, metric.help)
        assert kind_of(sent) == kind(metric), metric.stem


def kind_of(sent: Any) -> tuple[Any, ...]:
    name = sent.WhichOneof("data")
    data = getattr(sent, name)
    more = (data.is_monotonic,) if name == "sum" else ()
    return name, *((data.aggregation_temporality, *more) if name != "gauge" else ())


def kind(metric: Metric) -> tuple[Any, ...]:
    if metric.kind is Kind.HISTOGRAM:
        return "histogram", CUMULATIVE
    if metric.kind is Kind.GAUGE and not metric.additive:
        return ("gauge",)
    return "sum", CUMULATIVE, metric.kind is Kind.COUNTER


def test_the_time_of_starts_is_in_the_buckets_that_are_advised(receiver: Receiver) -> None:
    here = told(receiver)
    here.until("the end")
    here.sink.close()
    (point,) = receiver.metrics()["mlxhub.model.start.duration"].histogram.data_points
    assert tuple(point.explicit_bounds) == START_DURATION_BUCKETS
    assert (point.count, point.sum) == (2, 8.25 + 7.5)
    assert point.bucket_counts[4] == 2


def test_the_many_exit_codes_of_one_model_are_one_series(receiver: Receiver) -> None:
    here = told(receiver)
    here.until("model_started")
    event = {"ctx": here.hub.ctx, "event": next(iter(Hub().day()))[1]["event"]}
    for code in range(1, MAX_EXIT_CODES + 3):
        here.hooks["model_failed"]({**event, "exit_code": code})
    here.sink.flush()
    here.sink.close()
    assert receiver.value("mlxhub.model.failed", **ABOUT, process_exit_code="other") == 2


def test_a_hub_may_have_many_models() -> None:
    def status(self: Hub) -> list[ModelStatus]:
        (model,) = super(Hub, self).status()
        return [replace(model, name=f"m{number}") for number in range(400)]

    with pytest.MonkeyPatch.context() as patch, http_receiver() as receiver:
        patch.setattr(Hub, "status", status)
        here = told(receiver)
        here.until("model_started")
        here.sink.close()
        assert len(receiver.metrics()["mlxhub.model.state"].sum.data_points) == 400 * len(ModelState)


def test_a_model_that_is_gone_has_no_series_any_more(receiver: Receiver) -> None:
    here = told(receiver)
    here.until("model_ready")
    assert receiver.value("mlxhub.model.up", **ABOUT) == 1
    here.hub.gone = True
    here.until("config_reloaded")
    here.sink.close()
    left = {
        name
        for name, metric in receiver.metrics().items()
        for point in getattr(metric, metric.WhichOneof("data")).data_points
        if "mlxhub.model.name" in plain(point.attributes)
    }
    assert left == set()


def test_events_are_records_with_a_name_only_if_that_is_wanted(receiver: Receiver) -> None:
    silent = told(receiver)
    silent.until("the end")
    silent.sink.close()
    assert receiver.count("logs") == 0
    here = told(receiver, logs=True)
    here.until("the end")
    here.sink.close()
    events = [(hook, arguments) for hook, arguments in Hub().day()]
    assert [record.event_name for record in receiver.records()] == [EVENTS[hook][0] for hook, _ in events]


def test_every_hook_has_an_event() -> None:
    assert EVENTS.keys() == HOOKS.keys()
    assert len({name for name, _, _ in EVENTS.values()}) == len(EVENTS)


def test_a_failure_is_told_with_all_that_is_known(receiver: Receiver) -> None:
    here = told(receiver, logs=True)
    here.until("model_failed")
    here.sink.close()
    record = receiver.records()[-1]
    attributes = plain(record.attributes)
    assert record.event_name == "mlxhub.model.failed"
    assert (record.severity_number, record.severity_text) == (13, "WARN")
    assert record.body.string_value == f"{MODEL} failed"
    assert record.time_unix_nano > 1.7e18
    assert {
        "mlxhub.model.name": MODEL,
        "mlxhub.model.group": "test",
        "mlxhub.model.backend": "mlx_lm",
        "server.port": 27850,
        "process.exit.code": -9,
        "error.type": "signal",
        "mlxhub.event.reason": "signal",
        "mlxhub.model.signal": "SIGKILL",
        "mlxhub.model.uptime": 12.5,
        "mlxhub.model.restart.delay": 1.0,
    }.items() <= attributes.items()
    assert {"mlxhub.event.id", "mlxhub.event.seq", "mlxhub.run.id"} <= attributes.keys()
    assert not any("tail" in name for name in attributes), "what a model writes is nobody's business"


@pytest.mark.parametrize(
    ("hook", "severity", "attributes"),
    [
        ("model_started", 9, {"process.pid": 4101, "mlxhub.event.reason": "hub_start"}),
        ("model_ready", 9, {"mlxhub.model.start.duration": 8.25}),
        ("model_unhealthy", 13, {"error.type": "unhealthy"}),
        ("model_recovered", 9, {"mlxhub.model.unhealthy.duration": 31.0}),
        ("model_restarting", 13, {"mlxhub.model.restart.attempt": 1, "mlxhub.model.restart.delay": 1.0}),
        ("model_gave_up", 17, {"mlxhub.model.failures": 2}),
        ("model_log_recovered", 9, {"mlxhub.model.log.lost_bytes": 512}),
        ("model_stopped", 9, {"process.exit.code": 0}),
        ("config_reloaded", 9, {"mlxhub.config.started": [MODEL], "mlxhub.config.stopped": []}),
        ("events_lost", 13, {"mlxhub.events.count": 2}),
    ],
)
def test_each_event_has_its_severity_and_what_it_is_about(
    hook: str, severity: int, attributes: Mapping[str, Any]
) -> None:
    with http_receiver() as receiver:
        here = told(receiver, logs=True)
        here.until(hook)
        here.sink.close()
        record = receiver.records()[-1]
        assert (record.event_name, record.severity_number) == (EVENTS[hook][0], severity)
        assert attributes.items() <= plain(record.attributes).items()


def test_it_says_who_it_is(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "site=berlin,deployment.environment.name=test")
    here = told(receiver, logs=True, resource={"deployment.environment.name": "home"})
    here.until("model_started")
    here.sink.close()
    who = receiver.resource()
    assert (who["service.name"], who["service.version"]) == ("mlxhub", "0")
    assert (who["site"], who["deployment.environment.name"]) == ("berlin", "home")
    assert receiver.resource("logs") == who


def test_a_hub_is_the_same_one_after_a_restart_and_no_other() -> None:
    with http_receiver() as receiver:

        def instance(path: str) -> str:
            here = told(receiver)
            here.hub._info = replace(here.hub.info(), config_path=path)
            here.until("model_started")
            here.sink.close()
            return str(receiver.resource()["service.instance.id"])

        assert instance("/a/hub.yaml") == instance("/a/hub.yaml") != instance("/b/hub.yaml")


def test_the_variables_of_opentelemetry_are_used_where_hub_yaml_says_nothing(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", receiver.protocol)  # type: ignore[attr-defined]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=theirs,site=berlin")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "models")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "5000")
    clock = FakeClock()
    here = Told(OtlpSink(_clock=clock))
    here.until("model_started")
    assert here.sink.flush_interval == 5
    here.sink.close()
    _, headers = receiver.asked[-1]
    assert (headers["api-key"], headers["site"]) == ("theirs", "berlin")
    assert receiver.resource()["service.name"] == "models"


def test_hub_yaml_wins_over_them(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:9"
    for name in ("ENDPOINT", "METRICS_ENDPOINT", "LOGS_ENDPOINT"):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", nobody)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "nonsense")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=theirs")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "nonsense")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_INSECURE", "false")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "theirs")
    here = told(
        receiver,
        protocol=receiver.protocol,  # type: ignore[attr-defined]
        headers={"API-Key": Secret("ours")},
        compression="none",
        timeout=5.0,
        interval=10.0,
        logs=True,
        resource={"service.name": "ours"},
    )
    here.until("model_started")
    here.sink.close()
    assert receiver.count("logs") == receiver.count("metrics") == 2
    assert {headers["api-key"] for _, headers in receiver.asked} == {"ours"}
    assert {headers.get("content-encoding") for _, headers in receiver.asked} == {None}
    assert receiver.resource()["service.name"] == "ours"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "must be http/protobuf or grpc"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "OTEL_EXPORTER_OTLP_TIMEOUT is 'soon', and must be a number above 0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "must be a number above 0"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318", "OTEL_EXPORTER_OTLP_ENDPOINT: endpoint must begin with"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://me:s3cret@a", "must not hold a user"),
        ("OTEL_SDK_DISABLED", "true", "OTEL_SDK_DISABLED is set"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(HubError) as caught:
        OtlpSink().open()
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"endpoint": "localhost:4318"}, "must begin with http:// or https://"),
        ({"endpoint": "http://s3cret@a"}, "must not hold a user, a password"),
        ({"endpoint": "http://a/?key=s3cret"}, "must not hold a user, a password or a query"),
        ({"endpoint": "http://a:s3cret"}, "endpoint has a port that is none"),
        ({"endpoint": "http://a b"}, "must be ASCII without blanks"),
        ({"headers": {"a b": Secret("x")}}, "'a b' cannot be the name of a header"),
        ({"headers": {"a": Secret("s3cret\nx: y")}}, "the value of a must be ASCII without line breaks"),
        ({"headers": {"a": Secret("1"), "A": Secret("2")}}, "A is there twice"),
        ({"endpoint": "http://a", "certificate": Path("x")}, "certificate is for a server with https://"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_and_no_secret_repeated(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"endpoint|headers|certificate") as caught:
        OtlpSink(**options)
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["", "/", "/v1/metrics", "/v1/metrics/"])
def test_the_url_of_a_signal_is_as_good_as_that_of_the_server(suffix: str) -> None:
    with http_receiver() as receiver:
        here = told(receiver, endpoint=f"{receiver.url}/otlp{suffix}", logs=True)
        here.until("model_started")
        assert here.sink.where == f"{receiver.url}/otlp/v1/metrics"
        here.sink.close()
        assert {signal for signal, _ in receiver.asked} == {"metrics", "logs"}


def test_without_the_extra_grpc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"pip install 'mlxhub-otlp-sink\[grpc\]'"):
        OtlpSink(protocol="grpc")


def test_requests_can_be_compressed(receiver: Receiver) -> None:
    here = told(receiver, compression="gzip")
    here.until("model_started")
    here.sink.close()
    assert receiver.value("mlxhub.model.started", **ABOUT) == 1
    if receiver.protocol == "http/protobuf":  # type: ignore[attr-defined]
        assert receiver.asked[-1][1]["content-encoding"] == "gzip"


def test_a_server_is_believed_by_its_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    # What the environment says of certificates in general does not take its place.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "other.pem"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "other.pem"))
    with http_receiver(context=context) as receiver:
        here = told(receiver, certificate=tmp_path / "ca.pem")
        here.until("model_started")
        here.sink.close()
        assert receiver.value("mlxhub.model.started", **ABOUT) == 1
        stranger = told(receiver, certificate=tmp_path / "other.pem")
        with pytest.raises(HubError, match=r"cannot be reached: .*certificate"):
            stranger.until("model_started")
        stranger.sink.close()


def test_a_certificate_that_is_not_there_is_told_when_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        OtlpSink(endpoint="https://a", certificate=tmp_path / "none.pem").open()


def test_metrics_are_sent_when_something_happened_and_on_the_interval_and_not_else() -> None:
    clock = FakeClock()
    with http_receiver() as receiver:
        here = told(receiver, interval=10.0, _clock=clock)
        here.until("model_started")
        before = receiver.count("metrics")
        here.sink.flush()
        assert receiver.count("metrics") == before
        assert here.sink.flush_interval == 10
        clock.advance(4)
        assert here.sink.flush_interval == 6
        clock.advance(6)
        here.sink.flush()
        assert receiver.count("metrics") == before + 1
        here.sink.close()


def test_events_do_not_put_off_what_is_due_on_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    measured: list[float] = []
    with http_receiver() as receiver:
        here = told(receiver, interval=10.0, _clock=clock)
        here.until("model_started")
        assert here.sink._open is not None

        def measure(_models: object) -> dict[str, Usage]:
            measured.append(clock.now)
            return {}

        monkeypatch.setattr(here.sink._open[2], "measure", measure)
        began = clock.now
        for hook in ("model_ready", "model_unhealthy", "model_recovered", "model_failed"):
            clock.advance(4)
            here.until(hook)
        here.sink.close()
    assert measured == [began + 12]


def test_a_hub_without_models_is_looked_at_soon_but_not_told_of_all_the_time() -> None:
    clock = FakeClock()
    with http_receiver() as receiver:
        here = told(receiver, interval=10.0, _clock=clock)
        here.hub.gone = True
        here.until("hub_started")
        for _ in range(5):
            assert here.sink.flush_interval == sink.SOON
            clock.advance(sink.SOON)
            here.sink.flush()
        assert receiver.count("metrics") == 1
        here.hub.gone = False
        here.sink.flush()
        assert receiver.value("mlxhub.model.up", **ABOUT) == 0
        here.sink.close()


def test_before_the_first_event_there_is_nothing_to_wait_for() -> None:
    with http_receiver() as receiver:
        here = told(receiver)
        assert here.sink.flush_interval is None
        here.sink.flush()
        here.sink.close()
        assert receiver.asked == []


def test_events_of_one_burst_share_a_request() -> None:
    with http_receiver() as receiver:
        here = told(receiver, logs=True)
        for hook, arguments in here.day:
            here.hooks[hook](arguments)
        here.sink.flush()
        here.sink.close()
        assert (receiver.count("metrics"), receiver.count("logs")) == (1, 1)
        assert len(receiver.records()) == len(list(Hub().day()))


def test_a_trace_shows_where_things_go() -> None:
    with http_receiver() as receiver:
        here = told(receiver, logs=True)
        lines: list[str] = []
        here.sink.trace = lines.append
        here.until("model_started")
        here.sink.close()
        assert f"{receiver.url}/v1/logs: mlxhub.model.started" in lines
        assert any(line.startswith(f"{receiver.url}/v1/metrics: 2") for line in lines)


PROGRAM = """\
import sys
import mlxhub_otlp_sink
mlxhub_otlp_sink.OtlpSink(endpoint="http://a", headers={})
print(sorted({name.partition(".")[0] for name in sys.modules} & {"opentelemetry", "grpc", "requests", "google"}))
"""


def test_the_sdk_is_not_imported_before_the_sink_is_opened() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_global_providers_are_left_alone() -> None:
    from opentelemetry import metrics
    from opentelemetry._logs import get_logger_provider

    with http_receiver() as receiver:
        here = told(receiver, logs=True)
        here.until("the end")
        assert "mlxhub" not in repr(vars(metrics.get_meter_provider()))
        assert type(metrics.get_meter_provider()).__name__ == "_ProxyMeterProvider"
        assert type(get_logger_provider()).__name__ == "ProxyLoggerProvider"
        here.sink.close()


def test_what_is_sent_names_the_version_of_the_package() -> None:
    assert version("mlxhub-otlp-sink") == sink.VERSION
