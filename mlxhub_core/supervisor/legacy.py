"""What a hub leaves behind of a process for the next one, and how that reads it. Pure.

The keeper of the process holds it: a `record` from its start on, and a `note` that may change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from mlxhub_core.events import Reason
from mlxhub_core.settings import HubSettings, ModelSettings
from mlxhub_core.supervisor.plan import LIVE_KEYS


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a process when it is started, and stays so.

    Attributes:
        group: of its model.
        host: the address it was told to listen on.
        port: its port, or None.
        mlx_model: what mlx_lm's `--model` was; None for other servers.
        restarts: see `states.ModelStatus`.
        essence: see `essence`.
        stop_timeout: of its model.
    """

    group: str | None = None
    host: str = ""
    port: int | None = None
    mlx_model: str | None = None
    restarts: int = 0
    essence: str = ""
    stop_timeout: float = 30.0

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self:
        """From what a keeper holds; what a hub of another version wrote there, and this one does not know, is left out."""
        return cls(**{key: value for key, value in record.items() if key in cls.__slots__})

    def written(self) -> dict[str, Any]:
        """As a keeper holds it."""
        return asdict(self)


def essence(settings: HubSettings, model: ModelSettings) -> str:
    """What a process of a model can notice of hub.yaml, in brief: as long as that is the same, it need not be restarted.

    A digest, because there may be secrets in its environment. Without defaults: a hub of a later version may have more
    keys, and its first start must not cost a restart of every model.
    """
    heeded = model.model_dump(mode="json", exclude=set(LIVE_KEYS), exclude_defaults=True)
    whole = [heeded, settings.host, str(settings.log_path), str(settings.directory)]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def stand_in(name: str, record: Record) -> ModelSettings:
    """The entry of a model that hub.yaml no longer has, good for stopping it."""
    timeout = record.stop_timeout
    return ModelSettings(name=name, group=record.group, stop_timeout=timeout, command=["no longer in hub.yaml"])


def reason_of(asked: str) -> Reason:
    """Why a former hub asked for an end. One of a later version may have had a reason that this one does not know."""
    try:
        return Reason(asked)
    except ValueError:
        return Reason.OPERATOR
