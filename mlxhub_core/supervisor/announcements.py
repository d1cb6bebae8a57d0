"""The events of a model, put into words."""

from __future__ import annotations

import uuid
from typing import Any

from mlxhub_core.events import Failure, HubModelContext, Reason
from mlxhub_core.exits import signal_name
from mlxhub_core.process import Exit
from mlxhub_core.supervisor.run import Run
from mlxhub_core.supervisor.world import Surroundings


class Announcements:
    """Sends the events of one model.

    Args:
        world: what sends them.
    """

    def __init__(self, world: Surroundings) -> None:
        self._announce = world.announce

    def of_run(self, run: Run, hook: str, why: Reason | None, detail: str | None = None, **arguments: Any) -> None:
        """Something happens to a process that goes on."""
        self._announce(hook, {"run_id": run.id, "reason": why, "detail": detail}, ctx=run.ctx, **arguments)

    def stopped(
        self,
        run: Run,
        reason: Reason | None,
        outcome: Exit,
        *,
        at: float | None,
        uptime: float,
        restart_in: float | None = None,
    ) -> None:
        """A process has ended as it should, or as somebody wanted."""
        about = {
            **_end_of(run.id),
            "time": at,
            "reason": reason,
            "uptime_seconds": uptime,
            "signal": signal_name(outcome.code),
            "forced": outcome.forced,
            "restart_in": restart_in,
            "log_tail": outcome.tail,
        }
        self._announce("model_stopped", about, ctx=run.ctx, exit_code=outcome.code)

    def failed(
        self,
        ctx: HubModelContext,
        run_id: str,
        failure: Failure,
        *,
        forced: bool,
        restart_in: float | None,
        first: Failure | None,
    ) -> None:
        """A process has failed, or none could be started."""
        about = {
            **_end_of(run_id),
            "time": failure.time,
            "reason": failure.reason,
            "detail": failure.detail,
            "uptime_seconds": failure.uptime_seconds if failure.reason is not Reason.SPAWN_ERROR else None,
            "signal": failure.signal,
            "forced": forced,
            "restart_in": restart_in,
            "log_tail": failure.log_tail,
            "first_failure": first,
        }
        self._announce("model_failed", about, ctx=ctx, exit_code=failure.exit_code)

    def restarting(self, ctx: HubModelContext, run_id: str, *, attempt: int, delay: float) -> None:
        """It is to be started again in so many seconds."""
        about = {"run_id": run_id, "reason": Reason.RESTART}
        self._announce("model_restarting", about, ctx=ctx, attempt=attempt, delay_seconds=delay)

    def gave_up(
        self, ctx: HubModelContext, run_id: str | None, reason: Reason, *, failures: int, first: Failure | None
    ) -> None:
        """It is not to be started again."""
        about = {"run_id": run_id, "reason": reason, "first_failure": first}
        self._announce("model_gave_up", about, ctx=ctx, failures=failures)


def _end_of(run_id: str) -> dict[str, Any]:
    """What the event that ends a run always has. The next hub, should it tell the same end again, gives it the same id."""
    return {"run_id": run_id, "id": str(uuid.uuid5(uuid.UUID(run_id), "end"))}
