"""What the doctor knows of hub.yaml, the hub that runs for it, and the directories of both."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxhub_core import __version__
from mlxhub_core.cli.common import shortened
from mlxhub_core.cli.doctor.findings import Finding
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import ConfigError, HubError, HubNotRunningError, in_gigabytes
from mlxhub_core.place import check_private, place_of, same_hub
from mlxhub_core.selection import problems_of
from mlxhub_core.settings import HubSettings, load_settings

FULL = 0.95
"""The part of a disk from which on it is called nearly full."""
UNWELL = ("unhealthy", "backoff", "failed")
"""The states of a model that deserve a look."""
TOO_LITTLE = 50_000_000
"""Bytes; with less than one log of the usual length left, logs will soon stop."""


@dataclass
class Situation:
    """What the other checks need to know, as far as it could be found out.

    Attributes:
        config: the hub.yaml.
        settings: what is in there, if it is right.
        running: the models of the hub that runs, as its status has them, by name; None if none runs.
        sinks: its sinks, as it counts them, by key.
        pid: of it.
    """

    config: Path
    settings: HubSettings | None = None
    running: Mapping[str, Mapping[str, Any]] | None = None
    sinks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pid: int | None = None


def hub_yaml(situation: Situation) -> Iterator[Finding]:
    """Whether hub.yaml is there and right."""
    config = situation.config
    if not config.exists():
        if config == Path("hub.yaml"):
            yield Finding("hub.yaml", "warn", "there is none here; `mlxhub init` writes one, --config names another")
        else:
            yield Finding("hub.yaml", "fail", f"{config} is not there; name another with --config")
        return
    try:
        situation.settings = settings = load_settings(config, problems_of)
    except ConfigError as error:
        yield from (Finding("hub.yaml", "fail", str(problem)) for problem in error.problems)
        return
    yield from (Finding("hub.yaml", "warn", str(warning)) for warning in settings.warnings)
    if config.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        message = f"others may write to {config}, and what stands in there runs as you; `chmod go-w {config}`"
        yield Finding("hub.yaml", "warn", message)
    models = len(settings.models)
    yield Finding("hub.yaml", "ok", f"{shortened(str(settings.path))}: {models} model{'s' * (models != 1)}")


def hub(situation: Situation) -> Iterator[Finding]:
    """Whether a hub runs for it, and answers."""
    client, option = ControlClient(situation.config), same_hub(situation.config)
    try:
        status = client.get("/hub/status")
        sinks = client.get("/hub/sinks")["sinks"]
    except HubNotRunningError:
        yield Finding("hub", "ok", f"none runs; `mlxhub start{option}` starts it")
        return
    except HubError as error:
        yield Finding("hub", "fail", str(error))
        return
    situation.running = {model["name"]: model for model in status["models"]}
    situation.sinks = {sink["name"]: sink for sink in sinks}
    situation.pid = pid = status.get("pid")
    for model in status["models"]:
        if model["state"] in UNWELL:
            advice = f"`mlxhub explain{option} {model['name']}` says why, and what to do"
            yield Finding("hub", "warn", f"{model['name']} is {model['state']}; {advice}")
    version = status.get("version", __version__)
    if version != __version__:
        advice = f"`mlxhub stop{option} --keep-models && mlxhub start{option}` has the new one go on with the models"
        yield Finding("hub", "warn", f"runs mlxhub {version}, installed is {__version__}; {advice}")
    else:
        yield Finding("hub", "ok", f"runs{f' (pid {pid})' if pid else ''}")


def runtime(situation: Situation) -> Iterator[Finding]:
    """Whether sockets and locks have a directory that nobody else may use."""
    directory = place_of(situation.config).directory
    try:
        check_private(directory)
    except FileNotFoundError:
        yield _can_be_made("runtime", directory)
        return
    except HubError as error:
        yield Finding("runtime", "fail", str(error))
        return
    if os.access(directory, os.W_OK | os.X_OK):
        yield Finding("runtime", "ok", f"{shortened(str(directory))} is yours alone")
    else:
        yield Finding("runtime", "fail", f"{directory} cannot be written to; run `chmod 700 {directory}`")


def logs(settings: HubSettings | None) -> Iterator[Finding]:
    """Whether logs can be written, and whether there is room for them."""
    if settings is None:
        return
    directory = settings.log_path
    if directory.exists() and not (directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)):
        yield Finding("logs", "fail", f"{directory} is no directory that you may write to; name another: log_path")
    elif not directory.exists() and (lack := _can_be_made("logs", directory)).level != "ok":
        yield lack
    else:
        yield _room(settings, _nearest(directory))


def _room(settings: HubSettings, directory: Path) -> Finding:
    disk = shutil.disk_usage(directory)
    # Not of `disk.total`: of what is kept for the administrator nobody else gets any.
    full = disk.used / (disk.used + disk.free or 1)
    there = f"{shortened(str(settings.log_path))}: its disk is {full:.0%} full, {in_gigabytes(disk.free)} are left"
    rotation = settings.log_rotation
    most = len(settings.models) * rotation.max_bytes * (rotation.backups + 1) if rotation else 0
    if disk.free < TOO_LITTLE:
        return Finding("logs", "fail", f"{there}; make room, or name another log_path")
    if full > FULL:
        return Finding("logs", "warn", f"{there}; make room")
    if most > disk.free:
        return Finding("logs", "warn", f"{there}, and logs may grow to {in_gigabytes(most)}; lower log_rotation")
    return Finding("logs", "ok", there)


def _can_be_made(check: str, directory: Path) -> Finding:
    nearest = _nearest(directory)
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return Finding(check, "ok", f"{shortened(str(directory))} will be made")
    return Finding(
        check, "fail", f"{directory} is not there, and you may not write to {nearest}; create it, owned by you"
    )


def _nearest(directory: Path) -> Path:
    """What is there of a path."""
    return next(path for path in (directory, *directory.parents) if path.exists())
