"""A storm: hubs for one hub.yaml, and all that goes wrong around them. What must hold afterwards is in test_chaos.py."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxhub_core.events import HubEvent, HubModelContext, Reason
from mlxhub_core.keeper.session import is_living
from mlxhub_core.place import place_of
from mlxhub_core.testing import FAKE_SERVER, Recorded, wait_until

SITE = Path(__file__).parent / "site"
SINKS = {
    "recorder": "Recorder",
    "raising": "Raising",
    "exiting": "Exiting",
    "hanging": "Hanging",
    "flooding": "Flooding",
}
MODELS: dict[str, tuple[str, ...]] = {
    "steady": (),
    "twin": (),
    "failing": ("--exit-after", "0.8"),
    "hopeless": ("--exit-at-start",),
    "brief": ("--exit-after", "1.5", "--exit-code", "0"),
    "deaf": ("--deaf-after", "2"),
    "late": ("--load-seconds", "3", "--unready-status", "503"),
    "stubborn": ("--ignore-sigterm",),
    "parent": ("--spawn-child", "--child-ignores-sigterm"),
}
DELAYS = "delay: 0.2, max_delay: 1"
CALM_AFTER = 0.6
"""The part of a storm after which its hub is left to live: what leaks should have time to."""
KEEPER_FILES, KEEPER_BYTES = 24, 32_000_000
"""The most files and memory that a keeper may have at any time."""
BROKEN = (b"", b"\xff\xfe\x00", b"models: [", b"modles: []\n", b"models: [{name: ../x}]\n", b"a: &a [*a]\n", b"- - -\n")


@dataclass
class Storm:
    """Hubs for one hub.yaml, and everything that happens to them."""

    directory: Path
    logs: Path
    chance: random.Random
    dead_port: int
    deaf_port: int
    hub: subprocess.Popen[bytes] | None = None
    hubs: list[int] = field(default_factory=list)
    killed: dict[int, float] = field(default_factory=dict)
    """When which hub was killed, by its pid, on the monotonic clock, which all processes share."""
    stopped: list[tuple[float, int, str | None]] = field(default_factory=list)
    askers: list[threading.Thread] = field(default_factory=list)
    bugs: list[str] = field(default_factory=list)
    moved: int = 0

    def __post_init__(self) -> None:
        self.config = self.directory / "hub.yaml"
        self.place = place_of(self.config)
        self.clock = self.directory / "clock"
        self.set_clock(0.0)
        (self.directory / "tallies").mkdir()
        self.lull()

    # hub.yaml.

    def yaml(self, *, calm: bool = False) -> str:
        chance = self.chance
        sinks = {"loguru": "off", "recorder": json.dumps({"path": str(self.directory / "events")})}
        if not calm:
            sinks |= {
                "raising": "{}",
                "exiting": "{}",
                "hanging": json.dumps({"seconds": chance.choice([0.05, 0.5, 2])}),
                "flooding": "{}",
                "statsd/dead": f"{{address: 'tcp://127.0.0.1:{self.dead_port}', timeout: 0.5}}",
                "statsd/deaf": f"{{address: 'tcp://127.0.0.1:{self.deaf_port}', timeout: 0.5, gauge_interval: 0.1}}",
                "prometheus": "{listen: '127.0.0.1:0'}",
            }
            for name in [name for name in sinks if name not in ("loguru", "recorder") and chance.random() < 0.25]:
                del sinks[name]
        lines = [
            f"log_path: {self.logs}",
            "log_rotation: {max_bytes: 64KiB, backups: 1000, compress: %s}"
            % ("true" if chance.random() < 0.5 else "false"),
            "model_starting_port: 21850",
            "groups: [{name: few, max_loaded: 1}]",
            "sinks:",
            *(f"  {name}: {options}" for name, options in sinks.items()),
            "models:",
        ]
        for name, flags in MODELS.items():
            if name != "steady" and (calm or chance.random() < 0.1):
                continue
            command = [sys.executable, "-I", "-S", str(SITE / "talker.py"), str(self.directory / "tallies")]
            command += [sys.executable, "-I", "-S", FAKE_SERVER, "--port", "{port}", *flags]
            lines += [
                f"  - name: {name}",
                f"    command: {json.dumps(command)}",
                f"    default: {'false' if name == 'twin' else 'true'}",
                f"    restart: {{policy: {chance.choice(['always', 'on-failure'])}, max_failures: 10000, {DELAYS}}}",
                "    health: {interval: 0.5, timeout: 1, startup_timeout: 3, failures: 2}",
                "    stop_timeout: 1",
                *([f"    env: {{VARIANT: '{chance.choice('aaaab')}'}}"] if name != "steady" else []),
                *(["    group: few"] if name in ("twin", "late") else []),
            ]
        return "\n".join(lines) + "\n"

    def lull(self) -> None:
        """A hub.yaml with one model and one sink."""
        self.config.write_text(self.yaml(calm=True))

    # Hubs.

    def start_hub(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(self.directory / "site"), "CHAOS_CLOCK": str(self.clock)}
        program = [str(Path(sys.executable).with_name("mlxhub")), "start", "--foreground", "--config", str(self.config)]
        with (self.directory / "output").open("ab") as output:
            self.hub = subprocess.Popen(program, cwd=self.directory, env=environment, stdout=output, stderr=output)
        self.hubs.append(self.hub.pid)

    def end_hub(self, number: int) -> None:
        assert self.hub is not None
        self.hub.send_signal(number)
        self.hub.send_signal(signal.SIGCONT)
        if number == signal.SIGKILL:
            self.killed[self.hub.pid] = time.monotonic()
        code = self.hub.wait(90)
        # A second, or a signal before the hub listens to any, ends it by itself.
        if number != signal.SIGKILL and code < 0:
            self.killed[self.hub.pid] = time.monotonic()
        self.hub = None

    def ask(self, method: str, path: str, timeout: float = 30.0) -> tuple[int, Any]:
        """What the hub answers."""
        connection = http.client.HTTPConnection("mlxhub", timeout=timeout)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(timeout)
            connection.sock.connect(str(self.place.socket))
            connection.request(method, path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def ask_aside(self, method: str, path: str) -> None:
        """Ask, and let what becomes of it be what it may, but for a bug."""

        def asks() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                status, body = self.ask(method, path)
                if status >= 500 and body["error"]["code"] == "internal_error":
                    self.bugs.append(f"{method} {path}: {body}")

        self.askers = [thread for thread in self.askers if thread.is_alive()]
        if len(self.askers) < 8:
            self.askers.append(thread := threading.Thread(target=asks, daemon=True))
            thread.start()

    def until_up(self) -> dict[str, Any]:
        """Wait until the hub has read hub.yaml and steady is ready. Returns its status."""
        found: dict[str, Any] = {}

        def there() -> bool:
            self.see_to_hub()
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                found.update(self.ask("GET", "/hub/status")[1])
                return any(model["name"] == "steady" and model["state"] == "ready" for model in found["models"])
            return False

        wait_until(there, timeout=90)
        return found

    # What goes wrong.

    def blow(self, seconds: float) -> None:
        """The storm itself."""
        begun = time.monotonic()
        looked = 0.0
        self.config.write_text(self.yaml())
        self.ask_aside("POST", "/hub/reload")
        while (passed := time.monotonic() - begun) < seconds:
            disasters = self.disasters(lethal=passed < seconds * CALM_AFTER)
            (disaster,) = self.chance.choices(list(disasters), list(disasters.values()))
            disaster()
            self.see_to_hub()
            self.resume(time.monotonic())
            if passed - looked > 1:
                looked = passed
                self.look_at_keepers()
            time.sleep(self.chance.uniform(0, 0.12))
        self.resume(float("inf"))

    def see_to_hub(self) -> None:
        assert self.hub is not None
        if (code := self.hub.poll()) is not None:
            output = (self.directory / "output").read_text(errors="replace")
            said = [line for line in output.splitlines() if not line.startswith("flood ")]
            raise AssertionError(f"the hub has ended by itself, with {code}: " + "\n".join(said[-30:]))

    def disasters(self, *, lethal: bool) -> dict[Callable[[], None], float]:
        """What may happen, and how often in comparison."""
        return {
            self.signal_model: 20,
            self.signal_keeper: 5,
            self.signal_zygote: 3,
            self.command: 30,
            self.rewrite: 8,
            self.step_clock: 5,
            self.babble: 5,
            self.move_log: 3,
            self.stop_hub_for_a_while: 2,
            self.hang_up_hub: 2,
            self.kill_hub: 4 if lethal else 0,
            self.terminate_hub: 1 if lethal else 0,
        }

    def signal_model(self) -> None:
        state = self.state_of(self.chance.choice(list(MODELS)))
        number = self.chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGSTOP])
        if state is not None:
            self.send(state["pid"], state["birth"], number)

    def signal_keeper(self) -> None:
        state = self.state_of(self.chance.choice(list(MODELS)))
        number = self.chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGSTOP, signal.SIGUSR1])
        if state is not None:
            self.send(state["keeper"], None, number)

    def signal_zygote(self) -> None:
        number = self.chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.hub.pid if self.hub else 0).children():
                self.send(child.pid, None, number)

    def send(self, pid: int, born: str | None, number: int) -> None:
        """A signal to a process of ours. Who is stopped goes on after a while."""
        with contextlib.suppress(ProcessLookupError):
            if born is None or is_living(pid, born):
                os.kill(pid, number)
                if number == signal.SIGSTOP:
                    self.stopped.append((time.monotonic() + self.chance.uniform(0.1, 1.5), pid, born))

    def resume(self, now: float) -> None:
        """Let those go on whose time has come."""
        for entry in [entry for entry in self.stopped if entry[0] <= now]:
            self.stopped.remove(entry)
            with contextlib.suppress(ProcessLookupError):
                if entry[2] is None or is_living(entry[1], entry[2]):
                    os.kill(entry[1], signal.SIGCONT)

    def command(self) -> None:
        action = self.chance.choice(["start", "stop", "restart", "restart", "reset", "log/rotate"])
        self.ask_aside("POST", f"/hub/models/{self.chance.choice([*MODELS, 'nobody'])}/{action}")

    def rewrite(self) -> None:
        """Sometimes to what cannot be used, and not always at one stroke."""
        if not self.has_read():  # a hub that cannot read its first one ends, and should
            return
        text = self.yaml().encode()
        kind = self.chance.random()
        if kind < 0.15:
            text = self.chance.choice(BROKEN)
        elif kind < 0.35:
            place = self.chance.randrange(len(text))
            text = text[:place] + self.chance.randbytes(self.chance.randrange(3)) + text[place + 1 :]
            text = text.replace(b"command", b"comand", 1)
        if self.chance.random() < 0.5:
            self.config.write_bytes(text)
        else:
            (self.directory / "fresh").write_bytes(text)
            (self.directory / "fresh").replace(self.config)
        self.ask_aside("POST", "/hub/reload" + self.chance.choice(["", "", "", "?dry_run=true"]))

    def step_clock(self) -> None:
        self.set_clock(self.chance.choice([0.0, 3600.0, -3600.0, 86400.0 * 400, -86400.0 * 400, -1.0]))

    def set_clock(self, offset: float) -> None:
        if not self.clock.exists():
            self.clock.write_bytes(bytes(8))
        with self.clock.open("r+b") as file:
            file.write(struct.pack("d", offset))

    def babble(self) -> None:
        """Say something that nobody understands, to the hub and to a keeper, and listen to nothing."""
        words = self.chance.choice(
            [b"\n", b"{\n", b"[]\n", b"null\n", b'{"stop": -1}\n', b"GET / HTTP", bytes(300_000)]
        )
        for path in [self.place.socket, *self.place.runs.glob("steady-*.sock")]:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(0.2)
                peer.connect(str(path))
                peer.sendall(words)

    def move_log(self) -> None:
        """As a foreign logrotate would."""
        with contextlib.suppress(FileNotFoundError):
            name = self.chance.choice(list(MODELS))
            (self.logs / f"{name}.log").rename(self.logs / f"{name}.away-{self.moved}")
            self.moved += 1

    def stop_hub_for_a_while(self) -> None:
        if self.hub is not None:
            self.send(self.hub.pid, None, signal.SIGSTOP)

    def hang_up_hub(self) -> None:
        # Before a hub listens to it, this signal would end it.
        if self.hub is not None and self.place.socket.exists():
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                if self.ask("GET", "/health", 1.0)[0] == 200:
                    self.send(self.hub.pid, None, signal.SIGHUP)

    def kill_hub(self) -> None:
        """Often while it tells of an end, which it or the next one must do."""
        if self.chance.random() < 0.7:
            for name in ("steady", "twin", "parent", "stubborn"):
                if (state := self.state_of(name)) is not None:
                    self.send(state["pid"], state["birth"], signal.SIGKILL)
            time.sleep(self.chance.uniform(0, 0.5))
        self.end_hub(signal.SIGKILL)
        self.next_hub()

    def terminate_hub(self) -> None:
        self.resume(float("inf"))
        self.end_hub(signal.SIGTERM)
        self.next_hub()

    def next_hub(self) -> None:
        time.sleep(self.chance.choice([0, 0, 0.3]))
        self.config.write_text(self.yaml())
        self.start_hub()
        if self.chance.random() < 0.7:
            with contextlib.suppress(Exception):
                wait_until(self.answers, timeout=5)

    def has_read(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            return bool(self.ask("GET", "/hub/status", 1.0)[1]["models"])
        return False

    def answers(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            return self.ask("GET", "/health", 1.0)[0] == 200
        return False

    def state_of(self, model: str) -> dict[str, Any] | None:
        """What the keeper of a model has written down, if it runs."""
        for path in sorted(self.place.runs.glob(f"{model}-*.json")):
            with contextlib.suppress(OSError, ValueError):
                state: dict[str, Any] = json.loads(path.read_text())
                if state["exit"] is None and path.with_suffix(".lock").exists():
                    # The number of a dead keeper may be that of a stranger.
                    with contextlib.suppress(psutil.Error):
                        if "zygote" in psutil.Process(state["keeper"]).cmdline():
                            return state
        return None

    def look_at_keepers(self) -> None:
        for state in filter(None, map(self.state_of, MODELS)):
            with contextlib.suppress(psutil.Error):
                keeper = psutil.Process(state["keeper"])
                files, used = keeper.num_fds(), keeper.memory_info().rss
                assert files <= KEEPER_FILES, f"the keeper of {state['model']} has {files} files open"
                assert used <= KEEPER_BYTES, f"the keeper of {state['model']} has {used} bytes"

    # Afterwards.

    def events(self) -> dict[int, list[tuple[float, Recorded, dict[str, Any]]]]:
        """What each hub has told, by its pid."""
        told: dict[int, list[tuple[float, Recorded, dict[str, Any]]]] = defaultdict(list)
        for line in (self.directory / "events").read_text().splitlines():
            said = json.loads(line)
            envelope = {**said.pop("event"), "log_tail": (), "first_failure": None}
            reason = envelope["reason"] and Reason(envelope["reason"])
            arguments = {
                "ctx": said["ctx"] and HubModelContext(**said["ctx"]),
                "event": HubEvent(**envelope | {"reason": reason}),
            }
            told[said["hub"]].append((said["at"], Recorded(said["hook"], arguments), said))
        return told

    def hooks(self) -> set[str]:
        return {recorded.hook for told in self.events().values() for _, recorded, _ in told}

    def orphans(self) -> list[str]:
        """Whoever works here still, whosever child it is by now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                at_home = process.pid != os.getpid() and process.cwd() == str(self.directory.resolve())
                if at_home or ("zygote" in command and str(self.config.resolve()) in command):
                    found.append(f"{process.pid}: {command}")
        return found

    def clean_up(self) -> None:
        if self.hub is not None:
            self.hub.kill()
            self.hub.wait()
        for _ in range(3):
            for orphan in self.orphans():
                with contextlib.suppress(psutil.Error):
                    psutil.Process(int(orphan.partition(":")[0])).kill()


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port where connections are taken and nothing is read."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--chaos-seconds"))


@pytest.fixture
def make_storm(
    tmp_path: Path, deaf_port: int, dead_port: int, request: pytest.FixtureRequest
) -> Iterator[Callable[[Path], Storm]]:
    seed = request.config.getoption("--chaos-seed")
    print(f"\n--chaos-seed {seed} --chaos-seconds {request.config.getoption('--chaos-seconds')}")
    site = tmp_path / "site"
    shutil.copytree(SITE, site)
    info = site / "chaos_sinks-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chaos-sinks\nVersion: 1\n")
    entries = [f"{name} = chaos_sinks:{kind}" for name, kind in SINKS.items()]
    (info / "entry_points.txt").write_text("\n".join(["[mlxhub.sinks]", *entries, ""]))
    storms: list[Storm] = []

    def make(logs: Path) -> Storm:
        storms.append(Storm(tmp_path, logs, random.Random(seed), dead_port, deaf_port))
        return storms[-1]

    yield make
    for storm in storms:
        storm.clean_up()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root on Linux may mount one")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system may be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def pytest_itemcollected(item: pytest.Item) -> None:
    """A storm may take as long as it was asked to, and then some."""
    item.add_marker(pytest.mark.timeout(2 * float(item.config.getoption("--chaos-seconds")) + 240))
