"""What the hub itself says of its models and sinks, as samples. The README tells what each means."""

from __future__ import annotations

from collections.abc import Iterator

from mlxhub_core import HubModelContext, HubView, ModelState, ModelStatus, SinkStats

from .dialects import Sample

Labels = tuple[tuple[str, str], ...]


def labels_of(model: HubModelContext | ModelStatus) -> Labels:
    """The labels of all metrics of a model."""
    return ("model", model.name), ("group", model.group or "")


def gauges_of_models(hub: HubView, *, signed: bool) -> Iterator[Sample]:
    """How each model is; `signed`: also what may be below 0."""
    for model in hub.status():
        labels = labels_of(model)
        yield Sample("model.ready", "g", model.state is ModelState.READY, labels)
        yield Sample("model.up", "g", model.pid is not None, labels)
        for state in ModelState:
            yield Sample("model.state", "g", model.state is state, (*labels, ("state", state.value)))
        if signed and model.exit_code is not None:
            yield Sample("model.last_exit_code", "g", model.exit_code, labels)


def gauges_of_sinks(hub: HubView) -> Iterator[Sample]:
    """How each sink is."""
    for sink in hub.sink_stats():
        labels = _labels_of_sink(sink)
        yield Sample("sink.up", "g", sink.open, labels)
        yield Sample("sink.queue_length", "g", sink.queue_length, labels)
        yield Sample("sink.queue_capacity", "g", sink.queue_capacity, labels)


def totals_of_sinks(hub: HubView) -> Iterator[Sample]:
    """What became of the events of each sink since it was added."""
    for sink in hub.sink_stats():
        labels = _labels_of_sink(sink)
        yield Sample("sink.events", "c", sink.offered, labels)
        yield Sample("sink.events_failed", "c", sink.failed, labels)
        yield Sample("sink.events_dropped", "c", sink.dropped, labels)


def _labels_of_sink(sink: SinkStats) -> Labels:
    return (("sink", sink.name),)
