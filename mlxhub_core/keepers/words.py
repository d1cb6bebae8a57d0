"""What a hub and a keeper say to each other, as values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from mlxhub_core.keeper.keep import SCHEMA
from mlxhub_core.keeper.session import session_lives
from mlxhub_core.process import Exit, Order
from mlxhub_core.settings import RotationSettings

KINDS = {
    "run": str,
    "model": str,
    "pid": int,
    "keeper": int,
    "started_at": float,
    "log": str,
    "log_begin": int,
    "grace": int | float,
    "record": dict,
}
"""What must be in the state of a run."""


def order_text(order: Order, place: Path) -> bytes:
    """An order, with the path of the files of the run, without their endings."""
    launch = order.launch
    return json.dumps(
        {
            "run": order.run_id,
            "model": order.model,
            "argv": launch.argv,
            "env": dict(launch.env),
            "cwd": str(launch.cwd),
            "log": str(order.log),
            "rotation": rules(order.rotation),
            "place": str(place),
            "grace": order.grace,
            "record": dict(order.record),
        }
    ).encode()


def rules(rotation: RotationSettings | None) -> dict[str, Any]:
    """As a keeper is told them. Who turns rotation off may still ask for it."""
    return RotationSettings().model_dump() | {"max_bytes": None} if rotation is None else rotation.model_dump()


def exit_from(said: Mapping[str, Any]) -> Exit:
    """How a process ended, as its keeper says it."""
    return Exit(said["code"], said["forced"], tuple(said["tail"]), said["lost"], said["at"])


def exit_of(state: Mapping[str, Any], *, is_kept: bool) -> Exit | None:
    """How a process of a former hub ended; None: it runs, or has lost its keeper and is yet to be ended."""
    if state["exit"] is not None:
        return exit_from(state["exit"])
    if is_kept or session_lives(state["pid"], state["birth"]):
        return None
    return Exit(None)


def is_readable(state: Mapping[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    """Whether a state is one of ours, and whole."""
    if state is None or state.get("schema") != SCHEMA:
        return False
    has_kinds = all(isinstance(state.get(key), kind) for key, kind in KINDS.items())
    return has_kinds and {"birth", "asked", "note", "exit"} <= state.keys()
