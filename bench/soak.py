"""A long ordinary day: 20 models, five of them in a crash loop, 3 sinks. What grows?

    python bench/soak.py                  # 15 minutes
    python bench/soak.py --seconds 300

A real hub (``mlxhub start --foreground``) with keepers and fake servers. Every two seconds it is looked at what the hub,
and all keepers together, have: memory (USS where the system tells it), threads, open files. The slope is that of the
straight line through all but the first quarter of the looks, in which caches and heaps fill. Exit code 1: something grows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from mlxhub_core.testing import FAKE_SERVER

MODELS, CRASHING = 20, 5
EVERY = 2.0
"""Seconds from look to look."""
WARM = 0.25
"""The part of the looks that does not count."""
ALLOWED = {"MiB": 8.0, "threads": 4.0, "files": 4.0}
"""Growth over the whole run that is taken for noise, and not for a leak: the hub's events keep a history that is bounded."""


def hub_yaml(port: int) -> str:
    lines = [
        "log_path: logs",
        "log_rotation: {max_bytes: 1MB, backups: 3}",
        "model_starting_port: 23850",
        f"sinks: {{statsd: {{host: 127.0.0.1, port: {port}, gauge_interval: 1}}, prometheus: {{listen: '127.0.0.1:0'}}}}",
        "models:",
    ]
    for number in range(MODELS):
        fault = ["--exit-after", "1"] if number < CRASHING else ["--flood", "2000", "--flood-lines", str(10**9)]
        command = [sys.executable, "-I", "-S", FAKE_SERVER, "--port", "{port}", *fault]
        lines += [
            f"- name: m{number}",
            f"  command: {json.dumps(command)}",
            "  default: true",
            "  restart: {delay: 0.5, max_delay: 1, max_failures: 1000000}",
            "  health: {interval: 1, timeout: 2}",
        ]
    return "\n".join(lines) + "\n"


def look_at(hub: psutil.Process, directory: Path) -> dict[str, dict[str, float]]:
    """What the hub has, and what a keeper has on average."""
    found = {"hub": used(hub)}
    keepers = []
    for lock in directory.rglob(".mlxhub/run/*/*.lock"):
        with contextlib.suppress(OSError, ValueError, psutil.Error):  # it has ended meanwhile
            keepers.append(used(psutil.Process(int(lock.read_text()))))
    if keepers:
        found["a keeper"] = {what: sum(each[what] for each in keepers) / len(keepers) for what in keepers[0]}
    return found


def used(process: psutil.Process) -> dict[str, float]:
    """Memory of its own in MiB, threads, open files."""
    with process.oneshot():
        memory = getattr(process.memory_full_info(), "uss", process.memory_info().rss)
        return {"MiB": memory / 2**20, "threads": process.num_threads(), "files": process.num_fds()}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line of least squares through these points."""
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=900.0)
    seconds = parser.parse_args().seconds
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    environment = {**os.environ, "HOME": str(directory)}
    looks: list[tuple[float, dict[str, dict[str, float]]]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        (directory / "hub.yaml").write_text(hub_yaml(statsd.getsockname()[1]))
        program = [str(Path(sys.executable).with_name("mlxhub")), "start", "--foreground", "--config", "hub.yaml"]
        with (directory / "hub.log").open("wb") as log:
            hub = subprocess.Popen(program, cwd=directory, env=environment, stdout=log, stderr=log)
        try:
            begun = time.monotonic()
            while (passed := time.monotonic() - begun) < seconds:
                time.sleep(EVERY)
                if hub.poll() is not None:
                    raise SystemExit((directory / "hub.log").read_text(errors="replace")[-3000:])
                looks.append((passed, look_at(psutil.Process(hub.pid), directory)))
        finally:
            hub.send_signal(signal.SIGTERM)
            hub.wait(120)
        restarts = (directory / "hub.log").read_text(errors="replace").count(" restarts in ")
    shutil.rmtree(directory)
    return report(looks, restarts)


def report(looks: Sequence[tuple[float, dict[str, dict[str, float]]]], restarts: int) -> int:
    """Print what has grown; 1 if anything has by more than is noise."""
    counted = looks[int(len(looks) * WARM) :]
    length = counted[-1][0] - counted[0][0]
    print(
        f"{MODELS} models, {CRASHING} in a crash loop, {restarts} restarts, {len(looks)} looks; the last {length:.0f} s:"
    )
    grows = False
    for who in ("hub", "a keeper"):
        for what, noise in ALLOWED.items():
            points = [(at, found[who][what]) for at, found in counted if who in found]
            steep = slope(points)
            values = [value for _, value in points]
            print(
                f"{who:9} {what:8} least {min(values):8.2f}  most {max(values):8.2f}"
                f"  first {values[0]:8.2f}  last {values[-1]:8.2f}  slope {steep * 3600:+9.3f} an hour"
            )
            grows = grows or steep * length > noise
    print("something grows" if grows else "nothing grows")
    return int(grows)


if __name__ == "__main__":
    sys.exit(main())
