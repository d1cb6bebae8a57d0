"""Real processes, killed with real signals: what lands in the log, and who is left when a model ends."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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
