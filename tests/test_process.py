"""Real processes, killed with real signals: what lands in the log, and who is left when a model ends."""

from __future__ import annotations

import errno
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxhub_core.launch import Launch
from mlxhub_core.process import Exit, Process, spawn
from mlxhub_core.testing import wait_until


class Child:
    """One real process under test, running the Python program it is given."""

    def __init__(self, directory: Path, program: str, **env: str) -> None:
        self.log = directory / "model.log"
        self._exits: queue.SimpleQueue[Exit] = queue.SimpleQueue()
        environ = {**os.environ, "PYTHONUNBUFFERED": "1", **env}
        launch = Launch((sys.executable, "-I", "-S", "-u", "-c", program), environ, directory)
        self.process: Process = spawn(launch, self.log, self._exits.put)

    def exit(self, timeout: float = 10.0) -> Exit:
        return self._exits.get(timeout=timeout)

    def told_twice(self) -> bool:
        return not self._exits.empty()

    def text(self) -> str:
        return self.log.read_text()

    def until_it_says(self, words: str) -> str:
        wait_until(lambda: words in self.text())
        return self.text()


Start = Callable[..., Child]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Start]:
    children: list[Child] = []

    def start(program: str, **env: str) -> Child:
        children.append(Child(tmp_path, program, **env))
        return children[-1]

    yield start
    for child in children:
        child.process.kill()


FOREVER = "import signal; signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\nwhile True: signal.pause()"


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_the_exit_code_is_the_true_one(run: Start, code: int) -> None:
    assert run(f"raise SystemExit({code})").exit() == Exit(code)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGTERM])
def test_a_signal_is_a_negative_exit_code(run: Start, number: signal.Signals) -> None:
    child = run(FOREVER)
    os.kill(child.process.pid, number)
    assert child.exit().code == -number


def test_an_exit_is_told_once_and_at_once(run: Start) -> None:
    child = run(FOREVER)
    begin = time.monotonic()
    os.kill(child.process.pid, signal.SIGKILL)
    child.exit()
    assert time.monotonic() - begin < 1.0, "an exit is an event, not something to be polled for every second"
    assert not child.told_twice()


def test_both_outputs_land_in_the_log_in_order(run: Start) -> None:
    program = "import os\nfor i in range(200): os.write(1 + i % 2, f'line {i}\\n'.encode())"
    child = run(program)
    child.exit()
    assert child.text() == "".join(f"line {i}\n" for i in range(200))


def test_what_a_native_abort_says_last_is_in_the_log_and_in_the_exit(run: Start) -> None:
    child = run("import os; os.write(2, b'libc++abi: terminating\\n'); os.abort()")
    outcome = child.exit()
    assert outcome.code == -signal.SIGABRT
    assert outcome.tail == ("libc++abi: terminating",)
    assert child.text() == "libc++abi: terminating\n"


def test_output_is_there_while_the_process_runs(run: Start) -> None:
    child = run("print('hello'); import signal; signal.pause()")
    child.until_it_says("hello\n")


def test_a_second_run_appends_and_its_tail_is_its_own(run: Start) -> None:
    run("print('first')").exit()
    second = run("print('second')")
    assert second.exit().tail == ("second",)
    assert second.text() == "first\nsecond\n"


def test_truncating_a_log_leaves_no_hole(run: Start) -> None:
    child = run(
        "import sys\nprint('x' * 5000)\nfor _ in iter(lambda: not print('more') and __import__('time').sleep(.01), 1): pass"
    )
    child.until_it_says("more")
    os.truncate(child.log, 0)
    assert "\0" not in child.until_it_says("more")


def test_stdin_is_empty_whatever_the_hubs_own_is(run: Start) -> None:
    read, write = os.pipe()
    os.write(write, b"not for the model")
    os.close(write)
    kept = os.dup(0)
    os.dup2(read, 0)
    try:
        child = run("import sys; print(repr(sys.stdin.read()))")
        child.exit()
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(read)
    assert child.text() == "''\n"


def test_a_stop_after_the_end_leaves_no_timer_behind(run: Start) -> None:
    child = run("")
    child.exit()
    child.process.stop(grace=600)
    wait_until(lambda: not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)])


def test_a_process_leads_its_own_session_and_group(run: Start) -> None:
    child = run("import os, signal; print(os.getsid(0) == os.getpgid(0) == os.getpid(), flush=True); signal.pause()")
    assert child.until_it_says("\n") == "True\n"


def test_no_file_of_the_hub_is_inherited(run: Start) -> None:
    with socket_pair() as left:
        child = run(f"import os\ntry: os.fstat({left}); print('open')\nexcept OSError: print('closed')")
        child.exit()
    assert child.text() == "closed\n"


class socket_pair:  # noqa: N801  # used as a context manager
    def __enter__(self) -> int:
        self._ends = os.pipe()
        return self._ends[0]

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            os.close(end)


def test_a_broken_pipe_kills_a_model_as_it_would_from_a_shell(tmp_path: Path) -> None:
    exits: queue.SimpleQueue[Exit] = queue.SimpleQueue()
    launch = Launch(("/bin/sh", "-c", "kill -PIPE $$; echo survived"), dict(os.environ), tmp_path)
    spawn(launch, tmp_path / "a.log", exits.put)
    assert exits.get(timeout=10).code == -signal.SIGPIPE


def test_a_polite_process_stops_at_sigterm(run: Start) -> None:
    child = run(FOREVER)
    child.process.stop(grace=30)
    assert child.exit() == Exit(-signal.SIGTERM)


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace_and_the_exit_says_so(run: Start) -> None:
    child = run(DEAF)
    child.until_it_says("deaf")
    child.process.stop(grace=0.2)
    outcome = child.exit()
    assert (outcome.code, outcome.forced) == (-signal.SIGKILL, True)


def test_impatience_cuts_the_grace_short(run: Start) -> None:
    child = run(DEAF)
    child.until_it_says("deaf")
    child.process.stop(grace=600)
    child.process.kill()
    assert child.exit().forced


def test_a_suspended_process_can_be_stopped(run: Start) -> None:
    child = run(
        "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\nprint('set', flush=True)\nsignal.pause()"
    )
    child.until_it_says("set")
    os.kill(child.process.pid, signal.SIGSTOP)
    child.process.stop(grace=30)
    assert child.exit().code == 5


GRANDCHILD = (
    "import subprocess, sys, signal\n"
    "child = subprocess.Popen([sys.executable, '-I', '-S', '-c', {program!r}])\n"
    "print(child.pid, flush=True)\n"
)


@pytest.mark.parametrize("end", ["stop", "crash", "exit"])
def test_grandchildren_do_not_outlive_their_model(run: Start, end: str) -> None:
    after = "signal.pause()" if end != "exit" else ""
    child = run(GRANDCHILD.format(program=FOREVER) + after)
    grandchild = int(child.until_it_says("\n"))
    if end == "stop":
        child.process.stop(grace=10)
    elif end == "crash":
        os.kill(child.process.pid, signal.SIGKILL)
    child.exit()
    wait_until(lambda: not is_running(grandchild))


def test_a_grandchild_that_ignores_sigterm_is_killed_when_the_grace_is_over(run: Start) -> None:
    child = run(GRANDCHILD.format(program=DEAF) + "signal.pause()")
    text = child.until_it_says("deaf")
    grandchild = int(next(line for line in text.split() if line.isdigit()))
    child.process.stop(grace=0.3)
    outcome = child.exit()
    assert (outcome.code, outcome.forced) == (-signal.SIGTERM, True)
    wait_until(lambda: not is_running(grandchild))


def test_a_grandchild_has_the_same_patience_as_its_model(run: Start) -> None:
    slow = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (time.sleep(.2), print('saved', flush=True), sys.exit()))\nprint('up', flush=True)\nsignal.pause()"
    child = run(GRANDCHILD.format(program=slow) + "signal.pause()")
    child.until_it_says("up")
    child.process.stop(grace=10)
    outcome = child.exit()
    assert not outcome.forced
    assert "saved" in child.text()


# Groups of their own, as a shell with job control gives them to its children.

OWN_GROUP = (
    "import os, signal, sys\n"
    "read, write = os.pipe()\n"
    "if (pid := os.fork()) == 0:\n"
    "    os.setpgid(0, 0)\n"
    "    {trap}\n"
    "    os.write(write, b'x')\n"
    "    while True: signal.pause()\n"
    "os.read(read, 1)\n"
    "print(pid, flush=True)\n"
)
IGNORE = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.mark.parametrize("trap", ["pass", IGNORE], ids=["polite", "deaf"])
@pytest.mark.parametrize("end", ["stop", "kill", "crash", "exit"])
def test_children_in_groups_of_their_own_do_not_outlive_their_model(run: Start, end: str, trap: str) -> None:
    child = run(OWN_GROUP.format(trap=trap) + ("signal.pause()" if end != "exit" else ""))
    pid = int(child.until_it_says("\n"))
    if end == "stop":
        child.process.stop(grace=0.3)
    elif end == "kill":
        child.process.kill()
    elif end == "crash":
        os.kill(child.process.pid, signal.SIGKILL)
    outcome = child.exit()
    assert not is_running(pid), "when the end is told nothing holds the port or the memory any more"
    assert outcome.forced == (end == "stop" and trap == IGNORE)


def test_a_child_in_a_group_of_its_own_is_asked_first_and_has_the_same_patience(run: Start) -> None:
    slow = "signal.signal(signal.SIGTERM, lambda *_: (__import__('time').sleep(.2), print('saved', flush=True), os._exit(0)))"
    child = run(OWN_GROUP.format(trap=slow) + "signal.pause()")
    child.until_it_says("\n")
    child.process.stop(grace=10)
    assert child.exit() == Exit(-signal.SIGTERM, forced=False, tail=tuple(child.text().splitlines()))
    assert "saved" in child.text()


def test_a_suspended_child_in_a_group_of_its_own_is_let_go_on_to_end(run: Start) -> None:
    child = run(OWN_GROUP.format(trap="pass") + "signal.pause()")
    pid = int(child.until_it_says("\n"))
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    child.process.stop(grace=10)
    assert not child.exit().forced
    assert not is_running(pid)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("end", ["stop", "kill", "crash"])
def test_jobs_of_a_shell_with_job_control_do_not_outlive_it(tmp_path: Path, end: str) -> None:
    exits: queue.SimpleQueue[Exit] = queue.SimpleQueue()
    script = "set -m; sleep 600 & (sleep 600; :) & echo $!; wait"
    shell = spawn(Launch(("bash", "-c", script), dict(os.environ), tmp_path), tmp_path / "a.log", exits.put)
    try:
        wait_until(lambda: len(psutil.Process(shell.pid).children(recursive=True)) == 3)
        jobs = psutil.Process(shell.pid).children(recursive=True)
        assert shell.pid not in {os.getpgid(job.pid) for job in jobs}, "the test is about that"
        if end == "crash":
            os.kill(shell.pid, signal.SIGKILL)
        else:
            getattr(shell, end)(*([10] if end == "stop" else []))
        assert not exits.get(timeout=10).forced
        assert [job for job in jobs if is_running(job.pid)] == []
    finally:
        shell.kill()


def test_a_session_of_its_own_is_left_alone(run: Start) -> None:
    # Who makes itself a daemon does not belong to the model any more; and the hub's own session never did.
    child = run(OWN_GROUP.format(trap="pass").replace("setpgid(0, 0)", "setsid()") + "signal.pause()")
    pid = int(child.until_it_says("\n"))
    try:
        child.process.stop(grace=10)
        child.exit()
        assert is_running(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


# Who killed it.


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_who_is_killed_by_somebody_else_during_a_stop_was_not_forced(run: Start, number: signal.Signals) -> None:
    child = run(DEAF)
    child.until_it_says("deaf")
    child.process.stop(grace=600)
    os.kill(child.process.pid, number)
    outcome = child.exit()
    assert (outcome.code, outcome.forced) == (-number, False)


def test_what_is_left_behind_by_a_crash_is_killed_but_the_stop_that_nobody_asked_for_was_not_forced(run: Start) -> None:
    child = run(GRANDCHILD.format(program=DEAF) + "os = __import__('os'); signal.pause()")
    child.until_it_says("deaf")
    os.kill(child.process.pid, signal.SIGKILL)
    assert not child.exit().forced


# When the system has no thread left.


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[threading.Thread]], None]:
    """From then on no thread of this kind can be started."""

    def refuse(kind: type[threading.Thread]) -> None:
        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(kind, "start", start)

    return refuse


NoThread = Callable[[type[threading.Thread]], None]


def test_without_a_thread_to_wait_for_it_nothing_is_started(
    tmp_path: Path, no_thread: NoThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: queue.SimpleQueue[Exit] = queue.SimpleQueue()
    started: list[int] = []
    popen = subprocess.Popen

    def watched(*args: Any, **options: Any) -> Any:
        process = popen(*args, **options)
        started.append(process.pid)
        return process

    monkeypatch.setattr(subprocess, "Popen", watched)
    no_thread(threading.Thread)
    with pytest.raises(OSError, match="can't start new thread") as error:
        spawn(Launch(("sleep", "600"), dict(os.environ), tmp_path), tmp_path / "a.log", exits.put)
    assert error.value.errno == errno.EAGAIN
    assert len(started) == 1
    assert not psutil.pid_exists(started[0]), "and it is waited for, so nothing of it is left"
    assert exits.empty()


def test_without_a_thread_to_count_its_grace_a_process_is_killed_rather_than_left(
    run: Start, no_thread: NoThread
) -> None:
    child = run(DEAF)
    child.until_it_says("deaf")
    no_thread(threading.Timer)
    child.process.stop(grace=600)
    assert (child.exit().code, child.told_twice()) == (-signal.SIGKILL, False)


def test_a_log_that_could_make_the_hub_wait_is_an_error_and_nothing_is_started(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.log")
    exits: queue.SimpleQueue[Exit] = queue.SimpleQueue()
    with pytest.raises(OSError, match=r"a\.log"):
        spawn(Launch(("touch", "ran"), dict(os.environ), tmp_path), tmp_path / "a.log", exits.put)
    assert exits.empty()
    assert not (tmp_path / "ran").exists()


def test_signals_after_the_end_go_nowhere(run: Start) -> None:
    child = run("")
    child.exit()
    child.process.stop(grace=0.01)
    child.process.kill()


def test_a_program_that_is_not_there_is_an_error_and_no_exit(tmp_path: Path) -> None:
    exits: queue.SimpleQueue[Exit] = queue.SimpleQueue()
    with pytest.raises(FileNotFoundError):
        spawn(Launch((str(tmp_path / "none"),), {}, tmp_path), tmp_path / "a.log", exits.put)
    assert exits.empty()


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
