"""The sink `metrics` for mlxhub: a sink of the hub that came before, as it was written for that one."""

from mlxhub_metrics_client import metrics

from mlxhub_core.observability import HubModelContext, HubObservabilitySink


class MetricsSink(HubObservabilitySink):
    def model_started(self, ctx: HubModelContext, *, pid: int | None) -> None:
        metrics.counter("hub_model_started", {"model": ctx.name, "group": ctx.group}).inc()

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        metrics.counter("hub_model_stopped", {"model": ctx.name}).inc()

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        metrics.counter("hub_model_failed", {"model": ctx.name, "exit_code": exit_code}).inc()
