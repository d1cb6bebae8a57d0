"""mlxhub: runs several local models at once and tells every lifecycle event to the monitoring you already have.

This is the whole surface for programs and for sinks. Names are loaded when first used, so that importing the package
takes a millisecond.
"""

# Type checkers take a variable of this name for true. Importing `typing` for it would cost ten times what this file does.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from mlxhub_core.errors import (
        ConfigError,
        DeliveryDelayedError,
        DeliveryRefusedError,
        GroupFullError,
        HubError,
        HubNotRunningError,
        HubStateError,
        LaunchError,
        MemoryShortError,
        ModelError,
        Problem,
        SinkError,
        UnknownModelError,
    )
    from mlxhub_core.events import Failure, HubEvent, HubModelContext, Reason
    from mlxhub_core.hookspecs import hookimpl, hookspec
    from mlxhub_core.manager import HubManager
    from mlxhub_core.observability import (
        SINK_API,
        HubInfo,
        HubObservabilitySink,
        HubView,
        LoggingHubObservabilitySink,
        Sink,
        SinkStats,
    )
    from mlxhub_core.secret import Secret
    from mlxhub_core.states import ModelState, ModelStatus
    from mlxhub_core.supervisor import Plan, ReloadResult, Step

__version__ = "0.1.0"

_HOMES = {
    "errors": "ConfigError DeliveryDelayedError DeliveryRefusedError GroupFullError HubError HubNotRunningError"
    " HubStateError LaunchError MemoryShortError ModelError Problem SinkError UnknownModelError",
    "events": "Failure HubEvent HubModelContext Reason",
    "hookspecs": "hookimpl hookspec",
    "manager": "HubManager",
    "observability": "SINK_API HubInfo HubObservabilitySink HubView LoggingHubObservabilitySink Sink SinkStats",
    "secret": "Secret",
    "states": "ModelState ModelStatus",
    "supervisor": "Plan ReloadResult Step",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "SINK_API",
    "ConfigError",
    "DeliveryDelayedError",
    "DeliveryRefusedError",
    "Failure",
    "GroupFullError",
    "HubError",
    "HubEvent",
    "HubInfo",
    "HubManager",
    "HubModelContext",
    "HubNotRunningError",
    "HubObservabilitySink",
    "HubStateError",
    "HubView",
    "LaunchError",
    "LoggingHubObservabilitySink",
    "MemoryShortError",
    "ModelError",
    "ModelState",
    "ModelStatus",
    "Plan",
    "Problem",
    "Reason",
    "ReloadResult",
    "Secret",
    "Sink",
    "SinkError",
    "SinkStats",
    "Step",
    "UnknownModelError",
    "hookimpl",
    "hookspec",
]


def __getattr__(name: str) -> object:
    if home := _HOME_OF.get(name):
        import importlib

        return getattr(importlib.import_module(f"mlxhub_core.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
