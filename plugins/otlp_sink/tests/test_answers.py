"""What a server answers, or that it does not, and what the hub then counts: delivered, failed, tried again."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from mlxhub_otlp_sink import OtlpSink
from mlxhub_otlp_sink.answers import LATER, judge
from mlxhub_otlp_sink.hushed import Hushed

from mlxhub_core import DeliveryDelayedError, HubManager, Secret, SinkStats, runner
from mlxhub_core.runner import SinkRunner
from mlxhub_core.testing import wait_until
from mlxhub_core.testing.day import FakeHub

from .receiver import RECEIVERS, http_receiver

PROTOCOLS = list(RECEIVERS)
Start = Callable[..., SinkRunner]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts sinks as the hub does, but for the pauses, which are short."""
    monkeypatch.setattr(runner, "BACKOFF", (0.001, 0.05))
    runners: list[SinkRunner] = []

    def run(url: str, protocol: str, **options: Any) -> SinkRunner:
        sink = OtlpSink(**{"endpoint": url, "protocol": protocol, "timeout": 5.0, "interval": 3600.0, **options})
        runners.append(SinkRunner("otlp", sink, lambda _line: None))
        return runners[-1]

    yield run
    for each in runners:
        each.begin_close()
    for each in runners:
        each.wait(20)


def tell(sink: SinkRunner, count: int, hub: FakeHub | None = None) -> None:
    """Tell the first so many events of a day."""
    for _, (hook, arguments) in zip(range(count), (hub or FakeHub()).day(), strict=False):
        sink.offer(hook, arguments)


def settled(sink: SinkRunner) -> SinkStats:
    """The counts, when every event has been counted."""
    wait_until(lambda: sink.stats().delivered + sink.stats().failed == sink.stats().offered)
    return sink.stats()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_what_is_refused_for_good_has_failed_and_what_comes_after_it_is_delivered(
    protocol: str, status: int, start: Start
) -> None:
    with RECEIVERS[protocol]() as receiver:
        receiver.for_ever["metrics"] = status
        sink = start(receiver.url, protocol)
        hub = FakeHub()
        day = hub.day()
        for _ in range(3):
            sink.offer(*next(day))
        stats = settled(sink)
        assert (stats.delivered, stats.failed, stats.retried, stats.dropped) == (0, 3, 0, 0)
        asked = receiver.count("metrics")
        assert asked <= 3, "nothing was sent twice"
        assert stats.last_error is not None
        assert "DeliveryRefusedError" in stats.last_error
        assert receiver.url in stats.last_error
        receiver.for_ever.clear()
        for _ in range(2):
            sink.offer(*next(day))
        stats = settled(sink)
        assert (stats.delivered, stats.failed) == (2, 3)
        # Of the metrics nothing was lost: the next request has the sums.
        assert receiver.value("mlxhub.model.started", mlxhub_model_name=hub.ctx.name) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("status", [429, 503])
def test_what_may_come_later_is_tried_again_until_it_is_delivered(protocol: str, status: int, start: Start) -> None:
    with RECEIVERS[protocol]() as receiver:
        receiver.answers["metrics"] = [status] * 3
        sink = start(receiver.url, protocol)
        tell(sink, 1)
        stats = settled(sink)
        assert (stats.delivered, stats.failed, stats.retried, stats.dropped) == (1, 0, 3, 0)
        assert receiver.count("metrics") == 4
        assert stats.last_error is not None
        assert receiver.url in stats.last_error


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_while_nobody_listens_events_wait_and_when_the_server_is_there_it_gets_them(
    protocol: str, start: Start
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        sink = start(f"http://127.0.0.1:{port}", protocol, logs=True)
        tell(sink, 4)
        wait_until(lambda: sink.stats().retried >= 3)
        stats = sink.stats()
        assert (stats.offered, stats.delivered, stats.failed, stats.dropped) == (4, 0, 0, 0)
        assert "cannot be reached" in str(stats.last_error)
        if protocol == "http/protobuf":
            assert "Connection refused" in str(stats.last_error)
    with RECEIVERS[protocol](port) as receiver:
        stats = settled(sink)
        assert (stats.delivered, stats.failed) == (4, 0)
        assert receiver.value("mlxhub.model.started", mlxhub_model_name="mlxhub-test") == 1
        names = [record.event_name for record in receiver.records()]
        assert sorted(names) == sorted(set(names)), "no event came twice"
        assert len(names) == 4


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_takes_metrics_and_no_logs_gets_the_metrics_and_the_events_have_failed(
    protocol: str, start: Start
) -> None:
    with RECEIVERS[protocol]() as receiver:
        receiver.for_ever["logs"] = 404
        receiver.answers["metrics"] = [503]
        sink = start(receiver.url, protocol, logs=True)
        tell(sink, 1)
        stats = settled(sink)
        assert (stats.delivered, stats.failed, stats.retried) == (0, 1, 1), "also though the metrics came later"
        assert receiver.count("logs") == 1
        assert receiver.value("mlxhub.start_time") is not None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_records_are_not_sent_again_when_only_the_metrics_were_refused(protocol: str, start: Start) -> None:
    with RECEIVERS[protocol]() as receiver:
        receiver.answers["metrics"] = [503, 503]
        sink = start(receiver.url, protocol, logs=True)
        tell(sink, 1)
        assert settled(sink).delivered == 1
        assert (receiver.count("logs"), receiver.count("metrics")) == (1, 3)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_metrics_do_not_wait_for_records_that_cannot_be_sent_now(protocol: str, start: Start) -> None:
    with RECEIVERS[protocol]() as receiver:
        receiver.for_ever["logs"] = 503
        sink = start(receiver.url, protocol, logs=True)
        tell(sink, 1)
        wait_until(lambda: sink.stats().retried >= 2)
        assert receiver.count("metrics") == 1
        assert receiver.value("mlxhub.start_time") is not None
        assert sink.stats().delivered == 0
        receiver.for_ever.clear()
        assert settled(sink).delivered == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("signal", ["metrics", "logs"])
def test_a_server_that_takes_only_a_part_of_it_has_refused_it(protocol: str, signal: str, start: Start) -> None:
    with RECEIVERS[protocol]() as receiver:
        receiver.rejects = (3, "too\nold")
        receiver.for_ever["logs" if signal == "metrics" else "metrics"] = 400
        sink = start(receiver.url, protocol, logs=signal == "logs")
        tell(sink, 1)
        stats = settled(sink)
        assert (stats.delivered, stats.failed, stats.retried) == (0, 1, 0)
        assert "rejected 3 of what was sent: too old" in str(stats.last_error)


def test_a_server_that_says_when_to_come_again_is_heeded(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "BACKOFF", (0.001, 60.0))
    with http_receiver() as receiver:
        receiver.headers["Retry-After"] = "1"
        receiver.answers["metrics"] = [429]
        sink = start(receiver.url, "http/protobuf")
        began = time.monotonic()
        tell(sink, 1)
        settled(sink)
        assert time.monotonic() - began >= 1


@pytest.mark.parametrize("status", sorted(LATER))
def test_a_date_is_as_good_as_seconds(status: int) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    problem = judge("http://a", status, {"Retry-After": soon})
    assert isinstance(problem, DeliveryDelayedError)
    assert 20 < problem.seconds <= 30
    assert not isinstance(judge("http://a", status, {"Retry-After": "soon"}), DeliveryDelayedError)
    assert not isinstance(judge("http://a", status, {}), DeliveryDelayedError)


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_not_followed_and_not_taken_for_success(status: int, start: Start) -> None:
    with http_receiver() as elsewhere, http_receiver() as receiver:
        receiver.headers["Location"] = f"{elsewhere.url}/v1/metrics"
        receiver.for_ever["metrics"] = status
        sink = start(receiver.url, "http/protobuf", headers={"api-key": Secret("s3cret")})
        tell(sink, 1)
        stats = settled(sink)
        assert (stats.delivered, stats.failed) == (0, 1)
        assert elsewhere.asked == []


def test_a_netrc_does_not_take_the_place_of_our_header(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password theirs\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with http_receiver() as receiver:
        sink = start(receiver.url, "http/protobuf", headers={"Authorization": Secret("Bearer ours")})
        tell(sink, 1)
        settled(sink)
        assert receiver.asked[0][1]["authorization"] == "Bearer ours"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("status", [401, 503])
def test_no_error_repeats_a_secret(protocol: str, status: int, start: Start) -> None:
    with RECEIVERS[protocol]() as receiver:
        receiver.answers["metrics"] = [status]
        sink = start(receiver.url, protocol, headers={"api-key": Secret("s3cret")})
        tell(sink, 1)
        stats = settled(sink)
        assert receiver.asked[0][1]["api-key"] == "s3cret"
        assert stats.last_error is not None
        assert "s3cret" not in stats.last_error


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_hub_whose_server_is_dead_ends_at_once(protocol: str, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        assert seconds_to_end(tmp_path, url, protocol) < runner.CLOSE_DEADLINE


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_hub_whose_server_never_answers_ends_in_time_and_tells_what_was_not_delivered(
    protocol: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert (
            seconds_to_end(tmp_path, url, protocol) < runner.CLOSE_DEADLINE + 10
        )  # on a busy machine; a request may take 5 s, and there is one more


def seconds_to_end(directory: Path, url: str, protocol: str) -> float:
    (directory / "hub.yaml").write_text(
        f"log_path: logs\nsinks:\n  loguru: off\n  otlp: {{endpoint: '{url}', protocol: {protocol}}}\n"
        "models: [{name: a, command: [sleep, '60']}]\n"
    )
    hub = HubManager(directory / "hub.yaml")
    hub.reload()

    def otlp() -> SinkStats:
        return next(sink for sink in hub.sink_stats() if sink.name == "otlp")

    wait_until(lambda: otlp().open and otlp().offered > 0)
    began = time.monotonic()
    undelivered = hub.shutdown()
    assert undelivered["otlp"] > 0
    return time.monotonic() - began


FAILING = """\
import sys, time
from mlxhub_core.hooks import hooks_of
from mlxhub_core.testing.day import FakeHub
from mlxhub_otlp_sink import OtlpSink

sink = OtlpSink(endpoint=sys.argv[1], protocol=sys.argv[2], logs=True, timeout=0.2)
sink.open()
hooks = hooks_of(sink)
failures = 0
for _, (hook, arguments) in zip(range(3), FakeHub().day()):
    hooks[hook](arguments)
    try:
        sink.flush()
    except Exception:
        failures += 1
sink.close()
print(failures)
"""


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("server", ["refuses", "never answers"])
def test_whatever_goes_wrong_the_sdk_writes_nothing_to_stderr(protocol: str, server: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if server == "never answers":
            listener.listen(64)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", FAILING, url, protocol], capture_output=True, text=True, check=True, timeout=50
        )
    assert done.stdout == "3\n"
    assert done.stderr == ""


def test_a_program_that_uses_the_sdk_itself_hears_of_its_own_troubles(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("opentelemetry.exporter.otlp")
    hushed = Hushed()
    hushed.listen()
    try:
        logger.error("ours %d", 1)
        theirs = threading.Thread(target=logger.error, args=("theirs",))
        theirs.start()
        theirs.join()
    finally:
        hushed.close()
    logger.error("later")
    assert hushed.last == "ours 1"
    assert [record.getMessage() for record in caplog.records] == ["theirs", "later"]


def test_what_cannot_even_be_asked_says_why(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_data: Any) -> Any:
        raise ValueError("no such form")

    module = "opentelemetry.exporter.otlp.proto.http.metric_exporter"
    with http_receiver() as receiver:
        sink = start(receiver.url, "http/protobuf")
        wait_until(lambda: sink.stats().open)
        monkeypatch.setattr(sys.modules[module], "encode_metrics", broken)
        tell(sink, 1)
        stats = settled(sink)
        assert (stats.failed, receiver.count("metrics")) == (1, 0)
        assert "was not asked: Failed to encode metrics batch: no such form" in str(stats.last_error)
