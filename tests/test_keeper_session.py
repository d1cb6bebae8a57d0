"""How a process, and what is left of its session, is told from strangers that have got its number."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxhub_core.keeper import session
from mlxhub_core.keeper.session import birth, is_living, others, session_lives
from mlxhub_core.testing import wait_until

# Leads a session with one child, and ends when it is told to.
LEADER = "import os, signal\nif os.fork() == 0: signal.pause()\nprint(flush=True); input()"

on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux names its boots")


class Leader:
    """The leader of a session, and its child."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", "-c", LEADER]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
        )
        self.pid = self.process.pid
        assert self.process.stdout is not None
        self.process.stdout.readline()
        self.born = birth(self.pid)
        (self.child,) = others(self.pid)

    def end(self, *, reap: bool = True) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        if reap:
            self.process.wait()
        else:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def leader() -> Iterator[Leader]:
    leader = Leader()
    yield leader
    leader.process.kill()
    os.kill(leader.child, signal.SIGKILL)
    leader.process.communicate()


def test_a_process_is_the_one_that_was_born_then(leader: Leader) -> None:
    assert leader.born is not None
    assert birth(leader.pid) == leader.born
    assert is_living(leader.pid, leader.born)
    assert not is_living(leader.pid, f"{leader.born}0")
    assert not is_living(leader.pid, None)
    leader.end(reap=False)
    assert not is_living(leader.pid, leader.born), "a zombie does not live"
    leader.process.wait()
    assert birth(leader.pid) is None
    assert not is_living(leader.pid, leader.born)


@pytest.mark.parametrize("reaped", [pytest.param(True, marks=on_linux), False])
def test_a_session_lives_as_long_as_any_of_it(leader: Leader, reaped: bool) -> None:
    assert session_lives(leader.pid, leader.born)
    leader.end(reap=reaped)
    assert session_lives(leader.pid, leader.born)
    os.kill(leader.child, signal.SIGKILL)
    wait_until(lambda: not any(others(leader.pid)))
    assert not session_lives(leader.pid, leader.born)


@on_linux
@pytest.mark.parametrize("ended", [False, True], ids=["and its leader lives", "and its leader has ended"])
def test_a_session_of_another_boot_is_none_of_ours_whatever_its_number(leader: Leader, ended: bool) -> None:
    if ended:
        leader.end()
    assert leader.born is not None
    assert not session_lives(leader.pid, f"another-boot {leader.born.split()[1]}")
    assert not session_lives(leader.pid, None)


# Where the system can say nothing now: on macOS, where no `ps` can be started; on Linux, where no file can be opened.


def scarce(*_args: object, **_more: object) -> None:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_a_signal_reaches_the_group_of_the_leader_though_nobody_can_say_who_else_is_there(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_pids", scarce)
    session.signal_session(leader.pid, signal.SIGKILL)
    assert leader.process.wait(10) == -signal.SIGKILL


def test_a_session_of_which_nobody_can_say_who_is_left_has_not_ended_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = session.Session({"argv": ["true"], "env": dict(os.environ), "cwd": "/"}, os.open(os.devnull, os.O_WRONLY))
    with monkeypatch.context() as patch:
        patch.setattr(session, "_pids", scarce)
        wait_until(lambda: kept.look() is not None)
        assert not kept.ended
    wait_until(lambda: kept.look() == 0.0)
    assert kept.ended
    assert kept.reap() == 0


@on_linux
def test_a_process_of_which_nothing_can_be_said_now_does_not_pass_for_dead(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "open", scarce, raising=False)
    with pytest.raises(BlockingIOError):
        is_living(leader.pid, leader.born)


def test_a_birth_is_asked_for_in_the_same_time_zone_wherever_the_machine_is(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []
    run = subprocess.run

    def recorded(*args: Any, **more: Any) -> Any:
        asked.append(more["env"])
        return run(*args, **more)

    monkeypatch.setattr(session, "_PROC", "/nowhere")  # as on macOS
    monkeypatch.setattr(subprocess, "run", recorded)
    assert birth(leader.pid)
    assert [env["TZ"] for env in asked] == ["UTC"]


LATE = """
import os, socket, sys, time
from mlxhub_core.keeper import keep

def scarce(pid):
    if pid == os.getpid():
        return "a birth"
    while not os.path.exists(sys.argv[1]) or not os.path.getsize(sys.argv[1]):
        time.sleep(0.01)
    raise BlockingIOError(11, "Resource temporarily unavailable")

keep.birth = scarce
keep.keep(socket.socket(fileno=os.dup(0)))
"""


def test_what_was_started_and_cannot_be_kept_is_ended_and_the_hub_is_told(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        keeper = subprocess.Popen([sys.executable, "-c", LATE, tmp_path / "pid"], stdin=theirs.fileno())
        order = {
            "run": "r",
            "model": "m",
            "env": {},
            "cwd": "/",
            "grace": 1.0,
            "record": {},
            "argv": ["/bin/sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 1000"],
            "log": str(tmp_path / "m.log"),
            "rotation": {"max_bytes": None, "backups": 1, "compress": False},
            "place": str(tmp_path / "m-1"),
        }
        ours.sendall(json.dumps(order).encode() + b"\n")
        ours.settimeout(10)
        assert json.loads(ours.recv(4096))["failed"]["errno"] == errno.EAGAIN
        assert keeper.wait(10) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"m.log", "pid"}
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
