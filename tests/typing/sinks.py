"""What people may write, as type checkers see it: mypy and pyright read this file; it is never run.

A comment `error:` says that the line must be refused; every other one must be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_type

from mlxhub_core import (
    Failure,
    HubEvent,
    HubInfo,
    HubManager,
    HubModelContext,
    HubObservabilitySink,
    HubView,
    LoggingHubObservabilitySink,
    ModelState,
    ModelStatus,
    Plan,
    Reason,
    ReloadResult,
    Secret,
    Sink,
    SinkStats,
    Step,
    hookimpl,
)
from mlxhub_core.metrics import Histogram, MetricSink
from mlxhub_core.testing import FakeClock, FakeHub, Recorded, RecordingSink, SinkConformance, fake_hub, tmp_dist
from mlxhub_core.testing.strategies import contexts, days


class OfTheSeed(HubObservabilitySink):
    def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None:
        assert_type(ctx.name, str)
        assert_type(ctx.group, str | None)
        assert_type(ctx.log_path, str)

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None) -> None: ...

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None) -> None: ...


class NoBase:
    def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None: ...

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None) -> None: ...

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None) -> None: ...


class Half:
    def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None: ...


a_sink: HubObservabilitySink = OfTheSeed()
another: HubObservabilitySink = NoBase()
recording: HubObservabilitySink = RecordingSink()
logging: HubObservabilitySink = LoggingHubObservabilitySink()
half: HubObservabilitySink = Half()  # error: two of the three are missing


class Some(Sink):
    def __init__(self, token: Secret | None = None) -> None:
        self._token = token
        self._seconds = 0.0

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None, **_: object) -> None:
        assert_type(exit_code, int | None)

    def model_ready(self, ctx: HubModelContext, *, startup_seconds: float, event: HubEvent) -> None:
        self._seconds += startup_seconds
        assert_type(event.reason, Reason | None)
        assert_type(event.log_tail, tuple[str, ...])
        assert_type(event.first_failure, Failure | None)

    def hub_started(self, *, hub: HubView, event: HubEvent) -> None:
        assert_type(hub.status(), Sequence[ModelStatus])
        assert_type(hub.sink_stats(), Sequence[SinkStats])
        assert_type(hub.info(), HubInfo)

    def flush(self) -> None:
        if self.trace is not None:
            self.trace("a line")
        assert_type(self.where, str | None)
        if self._token is not None:
            assert_type(self._token.reveal(), str)


class Wrong(Sink):
    def model_failed(self, ctx: HubModelContext, *, exit_code: str, **_: object) -> None: ...  # error: no text

    def model_ready(self, ctx: HubModelContext) -> None: ...  # error: what it leaves out goes into `**_`

    def open(self, host: str) -> None: ...  # error: the hub passes nothing


def changes(event: HubEvent, ctx: HubModelContext) -> None:
    event.seq = 1  # error: frozen
    ctx.name = "other"  # error: frozen


class Native:
    @hookimpl
    def model_failed(self, ctx: HubModelContext, exit_code: int | None) -> None: ...

    @hookimpl(tryfirst=True)
    def model_started(self, ctx: HubModelContext) -> None: ...


def a_program(path: Path) -> None:
    with HubManager(path, observability_sink=Some()) as hub:
        assert_type(hub, HubManager)
        result = hub.reload()
        assert_type(result, ReloadResult)
        assert_type(result.started, tuple[str, ...])
        plan = hub.plan()
        assert_type(plan, Plan)
        assert_type(plan.start, tuple[Step, ...])
        assert_type(plan.warnings, tuple[str, ...])
        for model in hub.get_status():
            assert_type(model.state, ModelState)
            assert_type(model.pid, int | None)
        assert_type(hub.shutdown(), dict[str, int])
        hub.register(Native())
        hub.start_model(3)  # error: models have names


class Page(MetricSink):
    def page(self) -> Iterator[tuple[str, float | Histogram]]:
        for sample in self.samples():
            yield sample.metric.stem, sample.value


class TestSome(SinkConformance):
    sink_class = Some
    options = {"token": "given"}

    def options_for(self, host: str, port: int) -> Mapping[str, Any] | None:
        return {"host": host, "port": port}


def the_kit(directory: Path, make: Callable[[], Some]) -> None:
    assert_type(fake_hub(make()), list[Recorded])
    assert_type(fake_hub(make(), FakeHub().day()), list[Recorded])
    assert_type(RecordingSink().wait_for("model_failed").event, HubEvent)
    assert_type(FakeClock()(), float)
    with tmp_dist(directory, "acme-sinks", {"acme": "acme:Acme"}) as site:
        assert_type(site, Path)
    assert_type(contexts().example(), HubModelContext)
    fake_hub(make(), days().example())
    fake_hub(make(), timeout="soon")  # error: seconds
