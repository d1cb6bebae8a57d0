"""hub.yaml, checked as a whole and frozen."""

from mlxhub_core.settings.file_schema import file_schema
from mlxhub_core.settings.reader import load_settings, resolve
from mlxhub_core.settings.schema import (
    ControlSettings,
    DeliverySettings,
    GroupSettings,
    HealthSettings,
    HubSettings,
    MemorySettings,
    ModelSettings,
    OnlySettings,
    RestartSettings,
    RotationSettings,
    SettingsChange,
    SinkSettings,
)

__all__ = [
    "ControlSettings",
    "DeliverySettings",
    "GroupSettings",
    "HealthSettings",
    "HubSettings",
    "MemorySettings",
    "ModelSettings",
    "OnlySettings",
    "RestartSettings",
    "RotationSettings",
    "SettingsChange",
    "SinkSettings",
    "file_schema",
    "load_settings",
    "resolve",
]
