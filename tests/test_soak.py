"""Fifty models, started, crashed, deafened, stopped and reloaded at random for a minute; keepers die, logs rotate."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mlxhub_core import HubError, HubManager
from mlxhub_core.place import Place, place_of
from mlxhub_core.testing import FAKE_SERVER, RecordingSink, wait_until
from mlxhub_core.testing.history import check_history

SECONDS = 60.0
MODELS = 50
FAULTS: tuple[tuple[str, ...], ...] = (
    (),
    (),
    ("--exit-at-start",),
    ("--exit-after", "1.5"),
    ("--exit-after", "3", "--exit-code", "0"),
    ("--abort-after", "2"),
    ("--deaf-after", "2"),
    ("--listen-after", "30"),
    ("--load-seconds", "2", "--unready-status", "503"),
    ("--ignore-sigterm",),
    ("--spawn-child", "--child-ignores-sigterm"),
)
"""What goes wrong with each model: the first with the first, and so on, over and over."""


def hub_yaml(chance: random.Random) -> str:
    """Most of the models, each as it always is but for an environment variable that may change."""
    lines = ["log_path: logs", "groups: [{name: few, max_loaded: 5}]", "models:"]
    defaults = 0
    for number in range(MODELS):
        if chance.random() < 0.1:
            continue
        grouped = number % 5 == 0
        default = not grouped or defaults < 5
        defaults += grouped and default
        command = [sys.executable, "-I", "-S", FAKE_SERVER, "--port", "{port}", *FAULTS[number % len(FAULTS)]]
        lines += [
            f"  - name: m{number}",
            f"    command: {command}",
            f"    default: {str(default).lower()}",
            f"    restart: {{policy: {chance.choice(['always', 'on-failure'])}, delay: 0.5, max_delay: 4, max_failures: 8}}",
            "    health: {interval: 0.5, timeout: 2, startup_timeout: 3, failures: 2}",
            "    stop_timeout: 0.5",
            f"    env: {{VARIANT: '{chance.choice('aaaaaaab')}'}}",
            *(["    group: few"] if grouped else []),
        ]
    return "\n".join(lines) + "\n"


@pytest.mark.timeout(240)
def test_a_minute_of_fifty_models_is_a_legal_history_and_leaves_nothing_behind(tmp_path: Path) -> None:
    chance = random.Random(20261124)
    me = psutil.Process()
    threads, files = threading.active_count(), me.num_fds()
    config, sink = tmp_path / "hub.yaml", RecordingSink()
    config.write_text(hub_yaml(chance))
    with HubManager(config, observability_sink=sink) as hub:
        hub.reload()
        disturbers = [threading.Thread(target=_disturb, args=(hub, config, chance.random())) for _ in range(3)]
        for thread in disturbers:
            thread.start()
        for thread in disturbers:
            thread.join()
        assert any(model.pid for model in hub.get_status())
    assert not list(_processes_in(tmp_path)), "a process outlived the hub"
    assert not list(place_of(config).runs.glob("*.lock")), "a keeper outlived the hub"
    # Threads that still ask a dead model end by themselves, at their timeout at the latest.
    wait_until(lambda: threading.active_count() == threads and me.num_fds() == files)
    _check(sink)


def _processes_in(directory: Path) -> Iterator[psutil.Process]:
    """Whoever works there: also a child of a child whose parent is gone, which is nobody's any more."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and Path(process.cwd()) == directory.resolve():
                yield process


def _disturb(hub: HubManager, config: Path, seed: float) -> None:
    chance, deadline = random.Random(seed), time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        model = chance.choice(hub.get_status())
        # A full group, a model that has just left hub.yaml: refusals are part of the day.
        with contextlib.suppress(HubError):
            _disturb_once(hub, config, chance, model.name, model.pid)
        time.sleep(chance.uniform(0, 0.2))


def _disturb_once(hub: HubManager, config: Path, chance: random.Random, name: str, pid: int | None) -> None:
    match chance.randrange(24):
        case 0:
            fresh = config.with_name(f"{chance.random()}.yaml")
            fresh.write_text(hub_yaml(chance))
            fresh.replace(config)
            hub.reload()
        case 1 | 2 | 3 | 4:
            hub.stop_model(name)
        case 5 | 6 | 7:
            hub.restart_model(name)
        case 8 | 9 | 10 | 11 if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGSTOP]))
        case 12 | 13:
            hub.rotate_log(name)
        case 14:
            _kill_a_keeper(place_of(config), chance)
        case _:
            hub.start_model(name)


def _kill_a_keeper(place: Place, chance: random.Random) -> None:
    """Or the process that they are forked from; whoever is in the list by then."""
    locks = list(place.runs.glob("*.lock"))
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(chance.choice(locks).read_text()), signal.SIGKILL)
    if chance.random() < 0.2:
        for child in psutil.Process().children():
            child.kill()


def _check(sink: RecordingSink) -> None:
    events = sink.events
    check_history(events)
    hooks = [event.hook for event in events]
    print(len(events), {hook: hooks.count(hook) for hook in sorted(set(hooks))})
    assert "events_lost" not in hooks
    ends = [e for e in events if e.hook in ("model_stopped", "model_failed") and e.event.reason != "spawn_error"]
    assert hooks.count("model_started") == len(ends)
    # That it was a day worth looking at.
    assert len(ends) > MODELS
    for hook in ("model_ready", "model_unhealthy", "model_restarting", "config_reloaded"):
        assert hook in hooks
    reasons = {event.event.reason for event in ends}
    assert reasons >= {
        "operator",
        "crash",
        "signal",
        "unhealthy",
        "startup_timeout",
        "exit",
        "unsupervised",
        "hub_shutdown",
    }
