"""Sinks of a bad day, and one that keeps what it is told."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from dataclasses import asdict
from typing import Any

from mlxhub_core import HubEvent, HubModelContext, HubView


class Every:
    """Calls `told` for each hook."""

    def told(self, hook: str, event: HubEvent, ctx: HubModelContext | None = None, **arguments: Any) -> None:
        raise NotImplementedError

    def hub_started(self, hub: HubView, *, event: HubEvent) -> None:
        self.hub = hub
        self.told("hub_started", event)

    def hub_stopping(self, *, event: HubEvent) -> None:
        self.told("hub_stopping", event)

    def config_reloaded(self, *, event: HubEvent) -> None:
        self.told("config_reloaded", event)

    def events_lost(self, count: int, *, event: HubEvent) -> None:
        self.told("events_lost", event, count=count)

    def model_started(self, ctx: HubModelContext, *, pid: int, event: HubEvent) -> None:
        self.told("model_started", event, ctx, pid=pid)

    def model_adopted(self, ctx: HubModelContext, *, pid: int, event: HubEvent) -> None:
        self.told("model_adopted", event, ctx, pid=pid)

    def model_ready(self, ctx: HubModelContext, *, startup_seconds: float, event: HubEvent) -> None:
        self.told("model_ready", event, ctx, startup_seconds=startup_seconds)

    def model_unhealthy(self, ctx: HubModelContext, *, event: HubEvent) -> None:
        self.told("model_unhealthy", event, ctx)

    def model_recovered(self, ctx: HubModelContext, *, event: HubEvent) -> None:
        self.told("model_recovered", event, ctx)

    def model_stopped(self, ctx: HubModelContext, *, exit_code: int | None, event: HubEvent) -> None:
        self.told("model_stopped", event, ctx, exit_code=exit_code)

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None, event: HubEvent) -> None:
        self.told("model_failed", event, ctx, exit_code=exit_code)

    def model_restarting(self, ctx: HubModelContext, *, delay_seconds: float, event: HubEvent) -> None:
        self.told("model_restarting", event, ctx, delay_seconds=delay_seconds)

    def model_gave_up(self, ctx: HubModelContext, *, event: HubEvent) -> None:
        self.told("model_gave_up", event, ctx)

    def model_log_failing(self, ctx: HubModelContext, *, event: HubEvent) -> None:
        self.told("model_log_failing", event, ctx)

    def model_log_recovered(self, ctx: HubModelContext, *, lost_bytes: int, event: HubEvent) -> None:
        self.told("model_log_recovered", event, ctx, lost_bytes=lost_bytes)


class Recorder(Every):
    """Appends a line for each event to a file, at once.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def close(self) -> None:
        os.close(self._file)

    def told(self, hook: str, event: HubEvent, ctx: HubModelContext | None = None, **arguments: Any) -> None:
        about = {"hub": os.getpid(), "at": time.monotonic(), "hook": hook, "ctx": ctx and asdict(ctx)}
        os.write(self._file, json.dumps({**about, "event": asdict(event), **arguments}).encode() + b"\n")


class Raising(Every):
    """Raises what it should not."""

    def told(self, *_: object, **__: object) -> None:
        raise random.choice((ValueError("\n\udcff"), KeyboardInterrupt, GeneratorExit, MemoryError, StopIteration))


class Exiting(Every):
    """Wants the program to end."""

    def told(self, *_: object, **__: object) -> None:
        sys.exit(3)


class Hanging(Every):
    """Takes its time over each event.

    Args:
        seconds: how long.
    """

    def __init__(self, seconds: float = 2.0) -> None:
        self._seconds = seconds

    def told(self, *_: object, **__: object) -> None:
        time.sleep(self._seconds)


class Flooding(Every):
    """Asks the hub, and writes to its standard error, as fast as it can."""

    def told(self, *_: object, **__: object) -> None:
        until = time.monotonic() + 0.005
        while time.monotonic() < until:
            self.hub.status()
            self.hub.sink_stats()
            sys.stderr.write("flood " * 100 + "\n")
