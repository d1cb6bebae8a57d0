"""How a process, and what is left of its session, is told from strangers that have got its number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
