"""Who listens on a port: a process, who descends from it, and who belongs to its session; all of them real."""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mlxhub_core.net import listens
from mlxhub_core.testing import wait_until

SERVER = (
    "import os, pathlib, signal, socket, sys\n"
    "listener = socket.create_server(('127.0.0.1', 0))\n"
    "{act}\n"
    "note = pathlib.Path(sys.argv[1])\n"
    "note.with_suffix('.new').write_text(f'{{os.getpid()}} {{listener.getsockname()[1]}}')\n"
    "note.with_suffix('.new').rename(note)\n"
    "signal.pause()\n"
)

Tree = Callable[..., tuple[int, int, int]]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """Start a shell as a model is started, which starts a server; their ids, and the port."""
    with contextlib.ExitStack() as running:

        def tree(script: str, act: str = "pass") -> tuple[int, int, int]:
            note = tmp_path / "note"
            server = shlex.join([sys.executable, "-I", "-S", "-c", SERVER.format(act=act), str(note)])
            leader = running.enter_context(
                subprocess.Popen(["/bin/sh", "-c", script.format(server=server)], start_new_session=True)
            )
            running.callback(leader.kill)
            wait_until(note.exists)
            pid, port = map(int, note.read_text().split())
            for process in (psutil.Process(pid), *psutil.Process(leader.pid).children(recursive=True)):
                running.callback(_kill, process)
            return leader.pid, pid, port

        yield tree


ORPHAN = "({server} &); sleep 100; :"


def test_a_child_listens_for_its_parent(tree: Tree) -> None:
    leader, server, port = tree("{server} & sleep 100; :")
    assert psutil.Process(server).ppid() == leader
    assert listens(leader, port)


@pytest.mark.parametrize("act", ["pass", "os.setpgid(0, 0)"], ids=["same group", "a group of its own"])
def test_one_whose_parent_is_gone_still_listens_for_its_session(tree: Tree, act: str) -> None:
    leader, server, port = tree(ORPHAN, act)
    wait_until(lambda: psutil.Process(server).ppid() not in {leader, *_descendants(leader)})
    assert listens(leader, port)
    assert not listens(leader, 1)


def test_one_with_a_session_of_its_own_whose_parent_is_gone_is_a_stranger(tree: Tree) -> None:
    leader, server, port = tree(ORPHAN, "os.setsid()")
    wait_until(lambda: server not in _descendants(leader))
    assert not listens(leader, port)


def test_a_child_with_a_session_of_its_own_listens_for_its_parent(tree: Tree) -> None:
    leader, _, port = tree("{server} & sleep 100; :", "os.setsid()")
    assert listens(leader, port)


def test_one_in_the_session_of_somebody_else_is_a_stranger(tree: Tree) -> None:
    # We lead no session of ours, or at least not theirs: only the leader of a session stands for all of it.
    leader, server, port = tree(ORPHAN)
    (sleeper,) = _descendants(leader) - {server}
    assert not listens(sleeper, port)


def test_a_leader_that_has_ended_does_not_listen(tree: Tree) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = subprocess.Popen(["true"], start_new_session=True)
        ended.wait()
        assert not listens(ended.pid, listener.getsockname()[1])


def test_one_who_ends_while_it_is_looked_at_does_not_hide_the_others(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, server, port = tree(ORPHAN)
    look = psutil.Process.net_connections
    gone: list[int] = []

    def end(process: psutil.Process, kind: str) -> list[object]:
        if process.pid not in (leader, server):
            gone.append(process.pid)
            raise psutil.NoSuchProcess(process.pid)
        return list(look(process, kind))

    monkeypatch.setattr(psutil.Process, "net_connections", end)
    assert listens(leader, port)
    assert gone, "the test is about that"


def test_one_that_may_not_be_looked_at_is_believed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    leader, server, port = tree(ORPHAN)
    look = psutil.Process.net_connections

    def refuse(process: psutil.Process, kind: str) -> list[object]:
        if process.pid == server:
            raise psutil.AccessDenied(server)
        return list(look(process, kind))

    monkeypatch.setattr(psutil.Process, "net_connections", refuse)
    assert listens(leader, port)


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def _descendants(pid: int) -> set[int]:
    return {process.pid for process in psutil.Process(pid).children(recursive=True)}
