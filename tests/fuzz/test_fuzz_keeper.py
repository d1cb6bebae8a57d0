"""What is said to a keeper's socket, byte for byte at random: it neither dies, nor hangs, nor does what nobody said."""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlxhub_core.keepers import Keepers
from mlxhub_core.launch import Launch
from mlxhub_core.process import Exit, Order
from mlxhub_core.testing import wait_until

PATIENCE = 10
COMMANDS = (
    {"stop": 5.0, "reason": "operator"},
    {"kill": True},
    {"note": {"ready_at": 1.5}},
    {"rotation": {"max_bytes": 65536, "backups": 5, "compress": True}},
    {"rotate": True},
)
WORDS = sorted({word for command in COMMANDS for word in (*command, "max_bytes", "backups", "compress", "reason")})

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([10**9, -1, 1e308])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)
rules = st.fixed_dictionaries({"max_bytes": values, "backups": values, "compress": values})
lines = (
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(WORDS), values, max_size=3).map(lambda value: json.dumps(value).encode())
    | rules.map(lambda value: json.dumps({"rotation": value}).encode())
    | st.tuples(values, values).map(lambda pair: json.dumps({"stop": pair[0], "reason": pair[1]}).encode())
    | st.builds(
        lambda command, place, piece: (
            (text := json.dumps(command).encode())[:place] + piece + text[place + len(piece) :]
        ),
        st.sampled_from(COMMANDS),
        st.integers(0, 60),
        st.binary(max_size=3),
    )
)


def is_an_order(line: bytes) -> bool:
    """Whether it would be right to end the model for it. By other means than the keeper's own."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(said, dict):
        return False
    grace = said.get("stop")
    return "kill" in said or (
        isinstance(grace, int | float) and math.isfinite(grace) and grace >= 0 and isinstance(said.get("reason"), str)
    )


class Kept:
    """A model that writes now and then, under a real keeper."""

    def __init__(self, directory: Path) -> None:
        self.ends: queue.SimpleQueue[Exit] = queue.SimpleQueue()
        self.reports: list[str] = []
        self.runs = directory / "runs"
        self.log = directory / "a.log"
        self.keepers = Keepers(self.runs, "fuzz", self.reports.append)
        heard = SimpleNamespace(exited=self.ends.put, log_failing=lambda _: None, log_recovered=lambda _: None)
        program = ("/bin/sh", "-c", "while :; do echo line; sleep 0.01; done")
        launch = Launch(program, {"PATH": os.environ["PATH"]}, directory)
        self.process = self.keepers.start(Order("a", uuid.uuid4().hex, launch, self.log), heard)
        wait_until(lambda: any(self.runs.glob("*.sock")))
        (self.socket,) = self.runs.glob("*.sock")

    def hear(self) -> dict[str, Any]:
        """What the keeper says to somebody who has just come."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(PATIENCE)
            peer.connect(str(self.socket))
            with peer.makefile("rb") as said:
                state: dict[str, Any] = json.loads(said.readline())["state"]
                return state


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    kept = Kept(tmp_path_factory.mktemp("fuzz"))
    yield kept
    kept.process.stop(5, "operator")
    wait_until(lambda: not psutil.pid_exists(kept.process.pid))
    kept.keepers.close()


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(lines, min_size=1, max_size=4))
@example([b'{"rotation": {"max_bytes": [], "backups": 1, "compress": true}}', b'{"rotate": true}'])
@example([b'{"rotation": {"max_bytes": -1, "backups": 1, "compress": true}}'])
@example([b'{"rotation": {"max_bytes": 65536, "backups": 1000000000, "compress": true}}', b'{"rotate": true}'])
@example([b'{"note": ' + b'{"a":' * 4000 + b"1" + b"}" * 4000 + b"}"])
def test_whatever_is_said_the_keeper_answers_the_next_and_the_model_lives(kept: Kept, said: list[bytes]) -> None:
    said = [line for line in said if not is_an_order(line)]
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(str(kept.socket))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            peer.sendall(b"\n".join([*said, b""]))
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass
    state = kept.hear()
    assert (state["pid"], state["asked"], state["exit"]) == (kept.process.pid, None, None)
    assert kept.ends.empty()
    assert kept.reports == []


def test_afterwards_its_log_goes_on_and_its_end_is_the_true_one(kept: Kept) -> None:
    size = sum(path.stat().st_size for path in kept.log.parent.glob("a.log*"))
    wait_until(lambda: sum(path.stat().st_size for path in kept.log.parent.glob("a.log*")) != size)
    kept.process.stop(5, "operator")
    assert kept.ends.get(timeout=20).code is not None
