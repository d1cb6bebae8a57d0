"""From lifecycle events to log records with an event name. The only place that knows the SDK's part for logs.

That part is not declared stable yet, and so is imported only if it is wanted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from mlxhub_core import HubEvent, HubModelContext, ModelStatus

from .names import EXIT_CODE, GROUP, MODEL

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadableLogRecord

_INFO, _WARN, _ERROR = SeverityNumber.INFO, SeverityNumber.WARN, SeverityNumber.ERROR

EVENTS: Mapping[str, tuple[str, SeverityNumber, str]] = {
    "hub_started": ("mlxhub.hub.started", _INFO, "the hub runs"),
    "hub_stopping": ("mlxhub.hub.stopping", _INFO, "the hub shuts down"),
    "config_reloaded": ("mlxhub.config.reloaded", _INFO, "hub.yaml applied"),
    "model_started": ("mlxhub.model.started", _INFO, "started"),
    "model_adopted": ("mlxhub.model.adopted", _INFO, "was found running, and goes on"),
    "model_ready": ("mlxhub.model.ready", _INFO, "is ready"),
    "model_unhealthy": ("mlxhub.model.unhealthy", _WARN, "is unhealthy"),
    "model_recovered": ("mlxhub.model.recovered", _INFO, "answers again"),
    "model_stopped": ("mlxhub.model.stopped", _INFO, "stopped"),
    "model_failed": ("mlxhub.model.failed", _WARN, "failed"),
    "model_restarting": ("mlxhub.model.restarting", _WARN, "will be restarted"),
    "model_gave_up": ("mlxhub.model.gave_up", _ERROR, "stays down until somebody starts it"),
    "model_log_failing": ("mlxhub.model.log_failing", _WARN, "cannot write its log"),
    "model_log_recovered": ("mlxhub.model.log_recovered", _INFO, "writes its log again"),
    "events_lost": ("mlxhub.events.lost", _WARN, "events were dropped before this one"),
}
"""For each hook the name of its event, how bad it is, and the beginning of a sentence for people."""

ARGUMENTS: Mapping[str, str] = {
    "pid": "process.pid",
    "exit_code": EXIT_CODE,
    "startup_seconds": "mlxhub.model.start.duration",
    "unhealthy_seconds": "mlxhub.model.unhealthy.duration",
    "attempt": "mlxhub.model.restart.attempt",
    "delay_seconds": "mlxhub.model.restart.delay",
    "failures": "mlxhub.model.failures",
    "lost_bytes": "mlxhub.model.log.lost_bytes",
    "count": "mlxhub.events.count",
    "started": "mlxhub.config.started",
    "stopped": "mlxhub.config.stopped",
    "unchanged": "mlxhub.config.unchanged",
}
"""The arguments of hooks that become attributes. A reason that is a sentence is in the body."""

FIELDS: Mapping[str, str] = {
    "id": "mlxhub.event.id",
    "seq": "mlxhub.event.seq",
    "run_id": "mlxhub.run.id",
    "reason": "mlxhub.event.reason",
    "uptime_seconds": "mlxhub.model.uptime",
    "signal": "mlxhub.model.signal",
    "forced": "mlxhub.model.forced",
    "restart_in": "mlxhub.model.restart.delay",
}
"""The fields of the envelope that become attributes. What the model last wrote is none: it may be anything."""

_FAILURES = frozenset({"model_failed", "model_unhealthy", "model_gave_up"})


class Records:
    """The records that were not sent yet.

    Args:
        resource: who sends them.
        version: of this package.
    """

    def __init__(self, resource: Resource, version: str) -> None:
        self._kept = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        self._provider = LoggerProvider(resource, shutdown_on_exit=False)
        self._provider.add_log_record_processor(SimpleLogRecordProcessor(self._kept))
        self._logger = self._provider.get_logger("mlxhub", version)

    def add(
        self,
        hook: str,
        event: HubEvent,
        ctx: HubModelContext | None,
        model: ModelStatus | None,
        arguments: Mapping[str, Any],
    ) -> None:
        """Make a record of an event."""
        name, severity, words = EVENTS[hook]
        self._logger.emit(
            LogRecord(
                timestamp=int(event.time * 1e9),
                observed_timestamp=time.time_ns(),
                severity_number=severity,
                severity_text=severity.name,
                body=_sentence(words, event, ctx),
                attributes=_attributes(hook, event, ctx, model, arguments),
                event_name=name,
            )
        )

    def waiting(self) -> Sequence[ReadableLogRecord]:
        """Those that were not sent yet, in their order."""
        return self._kept.get_finished_logs()

    def sent(self) -> None:
        """Forget them: they were sent, or will never be taken."""
        self._kept.clear()

    def close(self) -> None:
        """Let go of them."""
        self._provider.shutdown()


def _sentence(words: str, event: HubEvent, ctx: HubModelContext | None) -> str:
    about = f"{ctx.name} {words}" if ctx is not None else words
    return f"{about}: {event.detail}" if event.detail else about


def _attributes(
    hook: str,
    event: HubEvent,
    ctx: HubModelContext | None,
    model: ModelStatus | None,
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(event, field) for field, name in FIELDS.items()}
    found |= {name: arguments[key] for key, name in ARGUMENTS.items() if key in arguments}
    if ctx is not None:
        found |= {MODEL: ctx.name, GROUP: ctx.group, "mlxhub.model.log_path": ctx.log_path}
    if model is not None:
        found |= {"mlxhub.model.source": model.source, "mlxhub.model.backend": model.backend}
        found |= {"server.port": model.port}
    if hook in _FAILURES:
        found["error.type"] = event.reason
    if not event.forced:
        del found["mlxhub.model.forced"]
    return {name: _plain(value) for name, value in found.items() if value is not None}


def _plain(value: Any) -> Any:
    """As the SDK takes it: an enum's text, a sequence of texts."""
    if isinstance(value, str):
        return str(value)
    return tuple(map(str, value)) if isinstance(value, Sequence) else value
