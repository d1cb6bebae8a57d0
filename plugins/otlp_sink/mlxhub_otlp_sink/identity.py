"""Who sends it: the resource that goes with all metrics and records."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from uuid import UUID, uuid5

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from mlxhub_core import HubInfo

_NAMESPACE = UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")
"""That which OpenTelemetry's conventions give for a `service.instance.id` that must be stable."""


def resource_of(hub: HubInfo, extra: Mapping[str, str]) -> Resource:
    """The hub as a service: the same one after a restart, another one for each hub.yaml and machine.

    Args:
        hub: the hub.
        extra: what hub.yaml adds, which wins over the variables `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`.
    """
    own = {
        "service.name": "mlxhub",
        "service.version": hub.version,
        "service.instance.id": str(uuid5(_NAMESPACE, f"{socket.gethostname()}:{hub.config_path}")),
    }
    return Resource.create({**own, **OTELResourceDetector().detect().attributes, **extra})
