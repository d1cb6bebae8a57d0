"""What the doctor knows of the models: the interpreters that have mlx-lm, what each start needs, and the ports."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import psutil

from mlxhub_core.cli.doctor.findings import Finding
from mlxhub_core.cli.doctor.hub import Situation
from mlxhub_core.cli.programs import ask
from mlxhub_core.errors import HubError, LaunchError
from mlxhub_core.launch import lacks, mlx_is_missing, mlx_is_unfit, prepare
from mlxhub_core.net import is_free
from mlxhub_core.place import is_held, place_of
from mlxhub_core.ports import PortBook
from mlxhub_core.settings import HubSettings, ModelSettings

PATIENCE = 20.0
"""Seconds that an interpreter may take to say what it has: the first import of mlx reads some 100 MB."""

_PROBE = """
import importlib.metadata, json, sys
def version(package):
    try:
        return importlib.metadata.version(package)
    except Exception:
        return None
found = {"python": "%d.%d.%d" % sys.version_info[:3], "mlx": version("mlx"), "mlx_lm": version("mlx-lm"), "error": None}
try:
    import mlx.core
except BaseException as error:
    found["error"] = "%s: %s" % (type(error).__name__, error)
print(json.dumps(found))
"""


def mlx(settings: HubSettings | None) -> Iterator[Finding]:
    """Whether the interpreters of the models can run `mlx_lm server`. Each is asked; nothing is imported here."""
    needed = [model for model in settings.models if model.command is None] if settings else []
    if settings and not needed:
        yield Finding("mlx", "ok", "no model needs it")
        return
    for python in sorted(_interpreters(settings, needed) if settings else {sys.executable}):
        yield _mlx_of(python, needed=bool(needed))


def _interpreters(settings: HubSettings, models: list[ModelSettings]) -> Iterator[str]:
    found = {sys.executable} if any(model.python is None for model in models) else set()
    for model in models:
        if model.python is not None:
            with contextlib.suppress(LaunchError):  # which `starts` tells
                launch = prepare(model, host=settings.host, port=model.port or 1, directory=settings.directory)
                found.add(launch.argv[0])
    yield from found


def _mlx_of(python: str, *, needed: bool) -> Finding:
    answer = ask([python, "-c", _PROBE], seconds=PATIENCE)
    try:
        found: dict[str, Any] = json.loads(answer.out.splitlines()[-1])
    except (ValueError, LookupError):
        last = (answer.error or "it says nothing").splitlines()[-1]
        return Finding("mlx", "fail" if needed else "warn", f"{python} does not say what it has: {last}")
    versions = f"mlx {found['mlx']}, mlx-lm {found['mlx_lm']} in {python} (Python {found['python']})"
    if found["mlx_lm"] is None:
        own = mlx_is_missing() if python == sys.executable else None
        need = (
            own or f'mlx-lm, which is not installed there; run `{shlex.quote(python)} -m pip install "mlx-lm>=0.32.2"`'
        )
        return Finding("mlx", "fail" if needed else "warn", f"{python}: models of `mlx_lm server` need {need}")
    if advice := mlx_is_unfit(found["mlx_lm"], python):
        return Finding("mlx", "fail" if needed else "warn", f"{python} has {advice}")
    if found["error"]:
        extra = "mlx-lm[cpu]" if sys.platform == "linux" else "mlx"
        advice = f'run `{shlex.quote(python)} -m pip install --force-reinstall "{extra}"`'
        return Finding(
            "mlx",
            "fail" if needed else "warn",
            f"{python} has mlx, which cannot be imported ({found['error']}); {advice}",
        )
    return Finding("mlx", "ok", versions)


def starts(settings: HubSettings | None) -> Iterator[Finding]:
    """Whether the program, the weights and the directory of each model are there."""
    if settings is None:
        return
    found: dict[tuple[bool, str], list[str]] = {}
    for index, error in lacks(settings):
        found.setdefault((settings.models[index].default, error.message), []).append(error.name)
    for (default, message), names in found.items():
        yield Finding("models", "fail" if default else "warn", f"{', '.join(names)}: {message}")
    if not any(model.default for model in settings.models):
        yield Finding("models", "warn", "none has `default: true`, so that nothing starts with the hub")
    if whole := len(settings.models) - sum(map(len, found.values())):
        yield Finding("models", "ok", f"{whole} of {len(settings.models)} have all that they need to start")


def ports(situation: Situation) -> Iterator[Finding]:
    """Whether each model's port is free, or whose it is."""
    settings = situation.settings
    if settings is None:
        return
    pids, known = _runs(situation)
    book = PortBook(settings.host, settings.model_starting_port, known)
    try:
        book.assign(settings.models)
        taken = {name for name, port in book.ports.items() if not is_free(settings.host, port)}
    except HubError as error:
        yield Finding("ports", "fail", str(error))
        return
    defaults = {model.name for model in settings.models if model.default}
    well = []
    for name, port in book.ports.items():
        if name not in taken:
            well.append(f"{port} is free for {name}")
            continue
        holder = _holder(port)
        if name in pids and (holder is None or pids[name] in _family(holder)):
            well.append(f"{name} has {port}")
        else:
            whom = f"{holder.name()} (pid {holder.pid})" if holder else "a program of another user"
            message = f"{port} of {name} is taken by {whom}; stop that one, or give {name} another `port:`"
            yield Finding("ports", "fail" if name in defaults else "warn", message)
    if control := settings.control:
        yield from _control_port(control.host, control.port, situation.pid)
    if well or not book.ports:
        yield Finding("ports", "ok", ", ".join(well) or "no model has one")


def _control_port(host: str, port: int, hub: int | None) -> Iterator[Finding]:
    """Whether the control API has its port, if hub.yaml gives it one."""
    if is_free(host, port):
        if hub is not None:
            yield Finding("ports", "warn", f"{port} of control: is not in use; look at the hub's log")
        return
    holder = _holder(port)
    if hub is None or (holder is not None and hub not in _family(holder)):
        whom = f"{holder.name()} (pid {holder.pid})" if holder else "a program of another user"
        yield Finding("ports", "fail", f"{port} of control: is taken by {whom}; stop that one, or name another port")


def _runs(situation: Situation) -> tuple[dict[str, int], dict[str, int]]:
    """The pids and the ports of the models that run, of a hub or left by one."""
    if situation.running is not None:
        models = situation.running.items()
        pids = {name: model["pid"] for name, model in models if model["pid"]}
        return pids, {name: model["port"] for name, model in models if model["port"]}
    pids, known = {}, {}
    for lock in place_of(situation.config).runs.glob("*.lock"):
        if is_held(lock):
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                state = json.loads(lock.with_suffix(".json").read_bytes())
                pids[state["model"]] = state["pid"]
                known[state["model"]] = state["record"]["port"]
    return pids, {name: port for name, port in known.items() if isinstance(port, int)}


def _holder(port: int) -> psutil.Process | None:
    """Who listens there; None if the system does not tell."""
    with contextlib.suppress(psutil.Error):
        pids = (c.pid for c in psutil.net_connections(kind="tcp") if _is_listener(c, port))
        return next((psutil.Process(pid) for pid in pids if pid), None)
    # macOS tells it of all processes only to the administrator.
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(_is_listener(connection, port) for connection in process.net_connections(kind="tcp")):
                return process
    return None


def _is_listener(connection: Any, port: int) -> bool:
    return bool(connection.status == psutil.CONN_LISTEN and connection.laddr.port == port)


def _family(process: psutil.Process) -> set[int]:
    """The process and all that it descends from."""
    with contextlib.suppress(psutil.Error):
        return {process.pid, *(parent.pid for parent in process.parents())}
    return {process.pid}
