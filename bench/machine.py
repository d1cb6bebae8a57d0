"""What the figures were taken on, and with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

import psutil

from bench import peers
from mlxhub_core import __version__


def about(*, quick: bool) -> dict[str, str]:
    """For the head of the table."""
    ours = {name: importlib.metadata.version(name) for name in ("pluggy", "psutil", "statsd", "prometheus-client")}
    others = peers.versions() | _logrotate()
    return {
        "Kind of run": "**quick, with few samples: good for trying the harness, not for quoting**" if quick else "full",
        "Machine": f"{_processor()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "System": platform.platform(),
        "Python": f"{platform.python_version()} ({platform.python_implementation()}), for all",
        "mlxhub": f"{__version__}{_commit()}; " + ", ".join(f"{name} {version}" for name, version in ours.items()),
        "Peers": ", ".join(f"{name} {version}" for name, version in others.items()) or "none could be installed",
    }


def load() -> str:
    """How busy the machine is with other things, looked at for a second."""
    time.sleep(1)
    average = os.getloadavg()[0]
    return f"{psutil.cpu_percent(1) / 100 * (os.cpu_count() or 1):.2f} cores busy, load average {average:.2f}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        return names[0] if names else platform.machine()
    return _said(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()


def _commit() -> str:
    found = _said(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"])
    return f" ({found})" if found else ""


def _logrotate() -> dict[str, str]:
    return {"logrotate": _said(["logrotate", "--version"]).split()[1]} if shutil.which("logrotate") else {}


def _said(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (done.stdout or done.stderr).strip() if done.returncode == 0 else ""
