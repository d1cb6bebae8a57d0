"""A day in the life of a model that does not exist: every event that a sink may get, in an order that can happen."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlxhub_core.events import Failure, HubEvent, HubModelContext, Reason
from mlxhub_core.observability import HubInfo, SinkStats
from mlxhub_core.states import ModelState, ModelStatus

MODEL = "mlxhub-test"
"""The name of the model."""

_CRASH = Failure(0.0, Reason.CRASH, 3, None, None, 40.0, ("ValueError: a line that a model could have written",))
_KILLED = Failure(0.0, Reason.SIGNAL, -9, "SIGKILL", None, 12.5)


@dataclass
class FakeHub:
    """A hub with one model, which lives through a day. It is the `HubView` that the sink gets.

    Attributes:
        ctx: the model.
    """

    ctx: HubModelContext = field(default_factory=lambda: HubModelContext(MODEL, "test", f"/tmp/{MODEL}.log"))  # noqa: S108  # never opened
    _status: ModelStatus | None = None
    _seq: int = 0
    _run: str | None = None
    _info: HubInfo = field(default_factory=lambda: HubInfo("0", "3", None, 0, "hub.yaml", time.time()))

    def status(self) -> Sequence[ModelStatus]:
        """The one model, as it is after the last event."""
        return (self._now(),)

    def sink_stats(self) -> Sequence[SinkStats]:
        """None: nobody queues anything here."""
        return ()

    def info(self) -> HubInfo:
        """It has just started."""
        return self._info

    def day(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Each hook and its arguments. The status is that of the moment, if the events are taken one by one."""
        yield "hub_started", {"hub": self, "event": HubEvent(seq=0, id=str(uuid.uuid4()), time=time.time())}
        yield self._started(4101, Reason.HUB_START)
        yield self._ready(8.25)
        yield self._unhealthy("no answer within 5 s")
        yield self._moved("model_recovered", ModelState.READY, self._event(), unhealthy_seconds=31.0)
        yield self._failed(_KILLED, restart_in=1.0)
        yield self._about("model_restarting", self._event(Reason.RESTART), attempt=1, delay_seconds=1.0)
        yield self._started(4102, Reason.RESTART)
        yield self._failed(_CRASH, restart_in=None)
        yield self._about("model_gave_up", self._event(Reason.RESTART, **self._first_failure()), failures=2)
        yield self._adopted(4104)
        full = "cannot be written: No space left on device"
        yield self._about("model_log_failing", self._event(detail=full), reason=full)
        self._status = replace(self._now(), log_lost_bytes=512)
        yield self._about("model_log_recovered", self._event(), lost_bytes=512)
        yield self._stopped(0)
        yield self._started(4103, Reason.RELOAD)
        reloaded = self._event(Reason.RELOAD, run_id=None)
        yield "config_reloaded", {"started": (MODEL,), "stopped": (), "unchanged": (), "event": reloaded}
        yield self._ready(7.5)
        yield "events_lost", {"count": 2, "event": self._event(run_id=None, detail="the queue was full")}
        yield "hub_stopping", {"event": self._event(Reason.HUB_SHUTDOWN, run_id=None)}
        yield self._stopped(0)

    def _started(self, pid: int, reason: Reason) -> tuple[str, Mapping[str, Any]]:
        self._run = str(uuid.uuid4())
        restarts = self._now().restarts + 1 if reason is Reason.RESTART else 0
        now = replace(self._now(), started_at=time.time(), ready_at=None, stopped_at=None)
        self._status = replace(now, pid=pid, restarts=restarts)
        return self._moved("model_started", ModelState.STARTING, self._event(reason), pid=pid)

    def _adopted(self, pid: int) -> tuple[str, Mapping[str, Any]]:
        self._run = str(uuid.uuid4())
        self._status = replace(self._now(), started_at=time.time() - 3600, ready_at=None, stopped_at=None, pid=pid)
        return self._moved("model_adopted", ModelState.STARTING, self._event(), pid=pid)

    def _ready(self, seconds: float) -> tuple[str, Mapping[str, Any]]:
        self._status = replace(self._now(), ready_at=time.time())
        return self._moved("model_ready", ModelState.READY, self._event(), startup_seconds=seconds)

    def _unhealthy(self, sentence: str) -> tuple[str, Mapping[str, Any]]:
        event = self._event(Reason.UNHEALTHY, detail=sentence)
        return self._moved("model_unhealthy", ModelState.UNHEALTHY, event, reason=sentence)

    def _stopped(self, exit_code: int) -> tuple[str, Mapping[str, Any]]:
        self._ended(exit_code)
        event = self._event(Reason.HUB_SHUTDOWN, uptime_seconds=60.0)
        return self._moved("model_stopped", ModelState.STOPPED, event, exit_code=exit_code)

    def _failed(self, how: Failure, restart_in: float | None) -> tuple[str, Mapping[str, Any]]:
        self._ended(how.exit_code)
        how = replace(how, time=time.time())
        event = self._event(
            how.reason,
            uptime_seconds=how.uptime_seconds,
            signal=how.signal,
            restart_in=restart_in,
            log_tail=how.log_tail,
            **self._first_failure(),
        )
        self._status = replace(self._now(), first_failure=self._now().first_failure or how, last_failure=how)
        state = ModelState.FAILED if restart_in is None else ModelState.BACKOFF
        return self._moved("model_failed", state, event, exit_code=how.exit_code)

    def _ended(self, exit_code: int | None) -> None:
        self._status = replace(self._now(), pid=None, exit_code=exit_code, stopped_at=time.time(), ready_at=None)

    def _moved(self, hook: str, state: ModelState, event: HubEvent, **arguments: Any) -> tuple[str, Mapping[str, Any]]:
        self._status = replace(self._now(), state=state, reason=event.detail or event.reason)
        return self._about(hook, event, **arguments)

    def _about(self, hook: str, event: HubEvent, **arguments: Any) -> tuple[str, Mapping[str, Any]]:
        return hook, {"ctx": self.ctx, **arguments, "event": event}

    def _event(self, reason: Reason | None = None, **more: Any) -> HubEvent:
        """The next one, about the run of the moment unless it says otherwise."""
        self._seq += 1
        about = {"run_id": self._run, **more}
        return HubEvent(seq=self._seq, id=str(uuid.uuid4()), time=time.time(), reason=reason, **about)

    def _first_failure(self) -> dict[str, Failure | None]:
        return {"first_failure": self._now().first_failure}

    def _now(self) -> ModelStatus:
        return self._status or ModelStatus(
            self.ctx.name, ModelState.STOPPED, self.ctx.group, self.ctx.log_path, host="127.0.0.1", port=27850
        )
