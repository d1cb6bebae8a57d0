"""hub.yaml, checked as a whole and frozen."""

from mlxhub_core.settings.reader import load_settings, resolve
from mlxhub_core.settings.schema import (
    GroupSettings,
    HealthSettings,
    HubSettings,
    MemorySettings,
    ModelSettings,
    RestartSettings,
    SinkSettings,
)

__all__ = [
    "GroupSettings",
    "HealthSettings",
    "HubSettings",
    "MemorySettings",
    "ModelSettings",
    "RestartSettings",
    "SinkSettings",
    "load_settings",
    "resolve",
]
