"""What the doctor knows of the machine: Python, the system, memory, file descriptors."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator

from mlxhub_core.cli.doctor.findings import Finding
from mlxhub_core.cli.foreground import most_files
from mlxhub_core.cli.version import system
from mlxhub_core.errors import in_gigabytes
from mlxhub_core.settings import HubSettings
from mlxhub_core.vitals import ThisMachine

OLDEST_MACOS = 14
"""mlx has no wheels for an older one, as the page of mlx on PyPI says."""
OLDEST_GLIBC = (2, 35)
"""Nor for an older one: its wheels for Linux are manylinux_2_35."""
FILES_OF_HUB, FILES_OF_MODEL = 100, 4
"""File descriptors that a hub has open, with its sinks, and for each model: its keeper, its log, its probe."""


def python() -> Iterator[Finding]:
    """Which Python runs the hub."""
    where = f"{platform.python_version()} ({sys.executable})"
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        yield Finding("python", "fail", f"{where} is one for Intel, for which there is no mlx; install one for arm64")
    else:
        yield Finding("python", "ok", where)


def operating_system() -> Iterator[Finding]:
    """Whether mlx runs on this system."""
    macos = platform.mac_ver()[0]
    libc, version = platform.libc_ver()
    glibc = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if macos and int(macos.partition(".")[0]) < OLDEST_MACOS:
        yield Finding("platform", "fail", f"{system()}: mlx needs macOS {OLDEST_MACOS} or newer; upgrade it")
    elif not macos and libc != "glibc":
        yield Finding("platform", "warn", f"{system()}: pip finds mlx only for glibc; models need another interpreter")
    elif not macos and glibc < OLDEST_GLIBC:
        yield Finding("platform", "warn", f"{system()}: pip finds mlx only for glibc 2.35 or newer, this is {version}")
    else:
        yield Finding("platform", "ok", f"{system()}{'' if macos else f', glibc {version}'}")


def memory(settings: HubSettings | None, *, runs: bool) -> Iterator[Finding]:
    """Whether there is as much memory as the models say that they need."""
    machine = ThisMachine()
    total, available = machine.total_memory(), machine.available_memory()
    there = f"{in_gigabytes(available)} of {in_gigabytes(total)} available"
    models = settings.models if settings else ()
    needs = {model.name: model.memory.required or 0 for model in models}
    for name in (name for name, need in needs.items() if need > total):
        yield Finding(
            "memory", "fail", f"{name} needs {in_gigabytes(needs[name])} (memory.required), {there}; lower it"
        )
    wanted = sum(needs[model.name] for model in models if model.default)
    if available < wanted <= total and not runs:
        message = f"the models that start with the hub need {in_gigabytes(wanted)}, {there}; end another program"
        yield Finding("memory", "warn", message)
    else:
        yield Finding("memory", "ok", there)


def files(settings: HubSettings | None) -> Iterator[Finding]:
    """Whether a hub that is started from this shell may open as many files as it will."""
    most = most_files()
    models = len(settings.models) if settings else 0
    need = FILES_OF_HUB + FILES_OF_MODEL * models
    if most < need:
        advice = f"run `ulimit -Hn {max(1024, need)}` before `mlxhub start`, as root if need be"
        yield Finding("files", "fail", f"only {most} files may be open; {models} models need {need}; {advice}")
    else:
        yield Finding("files", "ok", f"{most} files may be open")
