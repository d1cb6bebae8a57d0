"""Every hook, as pluggy sees it. The parameters are positional, because pluggy drops keyword-only ones.

A sink need not care: the hub calls each hook of a sink by keyword, with just the arguments that the sink names
(see ``hooks.py``). `mlxhub_core.Sink` mirrors this file; a test keeps the two in step.

When a hook is called and with what is told in `mlxhub_core.observability.Sink`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pluggy

from mlxhub_core.events import HubEvent, HubModelContext
from mlxhub_core.observability import HubView

PROJECT = "mlxhub"
"""The name under which pluggy keeps our hooks."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def hub_started(hub: HubView, event: HubEvent) -> None:
    """The hub runs."""


@hookspec
def hub_stopping(event: HubEvent) -> None:
    """The hub begins to shut down."""


@hookspec
def config_reloaded(started: Sequence[str], stopped: Sequence[str], unchanged: Sequence[str], event: HubEvent) -> None:
    """hub.yaml was read and applied."""


@hookspec
def model_started(ctx: HubModelContext, pid: int | None, event: HubEvent) -> None:
    """The process of a model was started."""


@hookspec
def model_adopted(ctx: HubModelContext, pid: int, event: HubEvent) -> None:
    """A process that a former hub had started was found running, and is this hub's now."""


@hookspec
def model_ready(ctx: HubModelContext, startup_seconds: float, event: HubEvent) -> None:
    """The model answered its readiness probe."""


@hookspec
def model_unhealthy(ctx: HubModelContext, reason: str, event: HubEvent) -> None:
    """The model does not answer though its process runs."""


@hookspec
def model_recovered(ctx: HubModelContext, unhealthy_seconds: float, event: HubEvent) -> None:
    """A model that was unhealthy answers again."""


@hookspec
def model_stopped(ctx: HubModelContext, exit_code: int | None, event: HubEvent) -> None:
    """A process ended because it was asked to, or by itself with exit code 0."""


@hookspec
def model_failed(ctx: HubModelContext, exit_code: int | None, event: HubEvent) -> None:
    """A process ended unasked, was ended because it did not answer, or could not be started."""


@hookspec
def model_restarting(ctx: HubModelContext, attempt: int, delay_seconds: float, event: HubEvent) -> None:
    """The hub will start the model again after the delay."""


@hookspec
def model_gave_up(ctx: HubModelContext, failures: int, event: HubEvent) -> None:
    """The hub will not restart the model any more."""


@hookspec
def model_log_failing(ctx: HubModelContext, reason: str, event: HubEvent) -> None:
    """What the model writes cannot be written to its log any more, and is lost."""


@hookspec
def model_log_recovered(ctx: HubModelContext, lost_bytes: int, event: HubEvent) -> None:
    """What the model writes reaches its log again."""


@hookspec
def events_lost(count: int, event: HubEvent) -> None:
    """Events before this one were dropped. Given to the sink that lost them, and to no other."""


HOOKS: Mapping[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(spec).parameters)
    for name, spec in list(globals().items())
    if inspect.isfunction(spec) and spec.__module__ == __name__
}
"""Every hook and the names of its arguments."""

DEPRECATED: dict[str, str] = {}
"""What the next sink API will not have any more, and what to use instead: ``{"model_failed.exit_code": "use …"}``.

The keys are hooks, or arguments of one behind a dot. Whose sink uses one is told by `HubManager.plan`, each reload and
`mlxhub check`; it works all the same. Nothing of sink API 1 is deprecated.
"""


def forwarder(hook: str, take: Callable[[str, dict[str, Any]], object]) -> Callable[..., None]:
    """An implementation of a hook, for pluggy to call, that hands on its name and its arguments by their names."""
    names = HOOKS[hook]

    # pluggy looks through `wraps` for the names of the arguments, and passes them by position in that order.
    @hookimpl
    @functools.wraps(globals()[hook])
    def forward(*values: Any) -> None:
        take(hook, dict(zip(names, values, strict=True)))

    return forward
