"""Real keepers of real processes: what lands in the log, who is left when a model ends, and what outlives a hub."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from mlxhub_core.errors import HubError
from mlxhub_core.keeper import __main__ as program
from mlxhub_core.keeper.session import birth
from mlxhub_core.keepers import Keepers, connection, kept, remains, words, zygote
from mlxhub_core.launch import Launch
from mlxhub_core.place import is_held
from mlxhub_core.process import Exit, Order, Process, Survivor
from mlxhub_core.settings import RotationSettings
from mlxhub_core.testing import wait_until

SMALL = RotationSettings.model_validate({"max_bytes": "64KiB", "backups": 9})
NO_COMPRESSION = SMALL.model_copy(update={"compress": False})


class Ends:
    """Listens to a process."""

    def __init__(self) -> None:
        self._exits: queue.SimpleQueue[Exit] = queue.SimpleQueue()
        self.log: queue.SimpleQueue[str | int] = queue.SimpleQueue()

    def exited(self, outcome: Exit) -> bool:
        self._exits.put(outcome)
        return True

    def log_failing(self, reason: str) -> None:
        self.log.put(reason)

    def log_recovered(self, lost_bytes: int) -> None:
        self.log.put(lost_bytes)

    def exit(self, timeout: float = 10.0) -> Exit:
        return self._exits.get(timeout=timeout)

    def end(self) -> tuple[int | None, bool]:
        """Its exit code, and whether it was forced."""
        outcome = self.exit()
        return outcome.code, outcome.forced

    @property
    def is_told(self) -> bool:
        return not self._exits.empty()


class Child(Ends):
    """One process under test, and what is told of it."""

    def __init__(self, keepers: Keepers, order: Order) -> None:
        super().__init__()
        self.order = order
        self.log_file = order.log
        self.process: Process = keepers.start(order, self)
        self.pid = self.process.pid

    @property
    def keeper(self) -> psutil.Process:
        return psutil.Process(self.pid).parent()  # type: ignore[return-value]

    def text(self) -> str:
        return self.log_file.read_text()

    def until_it_says(self, words: str) -> str:
        wait_until(lambda: words in self.text())
        return self.text()

    def stop(self, grace: float = 10) -> None:
        self.process.stop(grace, "operator")


class Hubs:
    """Hubs that follow one another, of which only the keepers' side is there."""

    def __init__(self) -> None:
        # Sockets have short paths.
        self.directory = Path(tempfile.mkdtemp(dir="/tmp")).resolve()
        self.runs = self.directory / "runs"
        self.reports: list[str] = []
        self._processes: list[Process] = []
        self._hubs: list[Keepers] = []
        self.next()

    def next(self) -> None:
        """Another hub, without a word to the one before."""
        self.keepers = Keepers(self.runs, f"test-{self.directory.name}", self.reports.append)
        self._hubs.append(self.keepers)

    def die(self) -> None:
        """As `kill -9` does: connections are closed, and the zygote's too."""
        self._release()
        self.keepers._zygote.close()
        self.next()

    def _release(self) -> None:
        for process in self._processes:
            process.release()

    def start(self, *argv: str, model: str = "a", env: dict[str, str] | None = None, **order: Any) -> Child:
        launch = Launch(argv, dict(os.environ) if env is None else env, order.pop("cwd", self.directory))
        log = self.directory / "logs" / f"{model}.log"
        child = Child(self.keepers, Order(model, uuid.uuid4().hex, launch, log, **order))
        self._processes.append(child.process)
        return child

    def run(self, text: str, **order: Any) -> Child:
        """Start a Python program."""
        return self.start(sys.executable, "-I", "-S", "-u", "-c", text, **order)

    def found(self) -> tuple[Survivor, Process, Ends]:
        """What the next hub finds, and has begun to listen to."""
        self.die()
        (survivor,) = self.keepers.survivors()
        ends = Ends()
        self._processes.append(survivor.attach(ends))
        return survivor, self._processes[-1], ends

    def file(self, ending: str) -> Path:
        # The hub need not wait for the socket, and is answered before it is there.
        wait_until(lambda: len(list(self.runs.glob(f"*.{ending}"))) == 1)
        return next(self.runs.glob(f"*.{ending}"))

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.file("json").read_text())
        return state

    def zygote(self) -> psutil.Process:
        assert self.keepers._zygote._process is not None
        return psutil.Process(self.keepers._zygote._process.pid)

    def everybody(self) -> Iterator[psutil.Process]:
        """Keepers and zygotes, by their label; and who works in this directory."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mine = f"test-{self.directory.name}" in process.cmdline() or process.cwd() == str(self.directory)
                if mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def clean_up(self) -> None:
        for process in list(self.everybody()):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._release()
        for keepers in self._hubs:
            keepers.close()
        wait_until(lambda: not list(self.everybody()))
        shutil.rmtree(self.directory)


@pytest.fixture
def hub() -> Iterator[Hubs]:
    hubs = Hubs()
    yield hubs
    hubs.clean_up()


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running()


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def rests(process: psutil.Process) -> bool:
    """Whether it does not run at all for a while."""

    def ran() -> tuple[object, object]:
        return process.num_ctx_switches(), process.cpu_times()

    before, until = ran(), time.monotonic() + 0.3
    wait_until(lambda: time.monotonic() > until)
    return ran() == before


def open_files() -> int:
    return psutil.Process().num_fds()


FOREVER = "import signal; signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\nwhile True: signal.pause()"
FIVE = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\nprint('set', flush=True)\nsignal.pause()"
GRANDCHILD = (
    "import subprocess, sys, signal\n"
    "child = subprocess.Popen([sys.executable, '-I', '-S', '-c', {program!r}])\n"
    "print(child.pid, flush=True)\n"
)
# A group of its own, as a shell with job control gives one to its children.
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
OWN_SESSION = OWN_GROUP.replace("setpgid(0, 0)", "setsid()")
IGNORE = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


# How it ends.


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_the_exit_code_is_the_true_one(hub: Hubs, code: int) -> None:
    before = time.time()
    outcome = hub.run(f"raise SystemExit({code})").exit()
    assert replace(outcome, at=None) == Exit(code)
    assert before <= (outcome.at or 0) <= time.time()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGTERM])
def test_a_signal_is_a_negative_exit_code(hub: Hubs, number: signal.Signals) -> None:
    child = hub.run(FOREVER)
    os.kill(child.pid, number)
    assert child.end() == (-number, False)


def test_an_exit_is_told_once_and_within_milliseconds(hub: Hubs) -> None:
    took = []
    for _ in range(5):
        child = hub.run(FOREVER)
        begin = time.monotonic()
        os.kill(child.pid, signal.SIGKILL)
        child.exit()
        took.append(time.monotonic() - begin)
        child.process._thread.join(10)  # type: ignore[attr-defined]
        assert not child.is_told
    assert min(took) < 0.02, "an exit is an event, not something to be polled for"


def test_while_nothing_happens_a_keeper_does_not_run_at_all(hub: Hubs) -> None:
    child = hub.run(FOREVER)
    wait_until(lambda: rests(child.keeper), timeout=5)


def test_a_broken_pipe_kills_a_model_as_it_would_from_a_shell(hub: Hubs) -> None:
    assert hub.start("/bin/sh", "-c", "kill -PIPE $$; echo survived").exit().code == -signal.SIGPIPE


def test_after_the_end_nothing_that_is_asked_does_anything(hub: Hubs) -> None:
    child = hub.run("")
    child.exit()
    answers: list[str | None] = []
    for _ in range(2):
        child.stop(600)
        child.process.kill()
        child.process.note({"x": 1})
        child.process.set_rotation(None)
        child.process.rotate(answers.append)
        child.process._thread.join(10)  # type: ignore[attr-defined]
    assert answers == ["it has ended"] * 2, "and who waits for an answer gets one"
    assert not child.is_told


# Its output.


def test_both_outputs_land_in_the_log_in_order(hub: Hubs) -> None:
    child = hub.run("import os\nfor i in range(200): os.write(1 + i % 2, f'line {i}\\n'.encode())")
    child.exit()
    assert child.text() == "".join(f"line {i}\n" for i in range(200))


def test_a_log_has_what_was_written_byte_for_byte(hub: Hubs) -> None:
    child = hub.run("import os\nfor _ in range(2000): os.write(1, bytes(range(256)) * 4)")
    child.exit()
    assert child.log_file.read_bytes() == bytes(range(256)) * 8000


def test_what_a_native_abort_says_last_is_in_the_log_and_in_the_exit(hub: Hubs) -> None:
    child = hub.run("import os; os.write(2, b'libc++abi: terminating\\n'); os.abort()")
    outcome = child.exit()
    assert (outcome.code, outcome.tail) == (-signal.SIGABRT, ("libc++abi: terminating",))
    assert child.text() == "libc++abi: terminating\n"


def test_a_long_output_has_its_end_in_the_tail(hub: Hubs) -> None:
    child = hub.run("print('x' * 99_999)\nfor i in range(9999): print('line', i)")
    assert child.exit().tail == tuple(f"line {i}" for i in range(9979, 9999))


def test_output_is_there_while_the_process_runs(hub: Hubs) -> None:
    hub.run("print('hello'); import signal; signal.pause()").until_it_says("hello\n")


def test_a_second_run_appends_and_its_tail_is_its_own(hub: Hubs) -> None:
    hub.run("print('first')").exit()
    second = hub.run("print('second')")
    assert second.exit().tail == ("second",)
    assert second.text() == "first\nsecond\n"


def test_who_closes_one_output_is_heard_on_the_other(hub: Hubs) -> None:
    child = hub.run("import os; os.write(1, b'one\\n'); os.close(1); os.write(2, b'two\\n'); os._exit(3)")
    assert (child.exit().code, child.text()) == (3, "one\ntwo\n")


def test_who_closes_both_outputs_lives_on_and_costs_nothing(hub: Hubs) -> None:
    silent = FIVE.replace("print('set', flush=True)", "open('closed', 'w').close()")
    child = hub.run(f"import os; print('bye'); os.close(1); os.close(2)\n{silent}")
    wait_until((hub.directory / "closed").exists)
    wait_until(lambda: rests(child.keeper), timeout=5)
    child.stop()
    assert child.end() == (5, False)


@pytest.mark.parametrize("does", ["signal.pause()", "os.write(1, b'x' * 65536)"], ids=["silent", "flooding"])
def test_a_daemon_that_keeps_the_pipe_does_not_hold_the_end_up(hub: Hubs, does: str) -> None:
    child = hub.run(OWN_SESSION.format(trap="pass").replace("while True: signal.pause()", f"while True: {does}"))
    assert child.exit(timeout=5).code == 0
    if does == "signal.pause()":
        assert is_running(int(child.text())), "the other has nobody to write to any more"


def test_a_log_that_cannot_be_written_is_told_and_what_was_lost_is_in_the_exit(hub: Hubs) -> None:
    (hub.directory / "logs").mkdir()
    (hub.directory / "logs" / "a.log").symlink_to("/dev/full")
    child = hub.run("import os, signal; os.write(1, b'12345'); signal.pause()")
    assert child.log.get(timeout=10) == "cannot be written: No space left on device"
    child.log_file.unlink()
    (hub.directory / "logs" / "a.log").touch()
    child.process.kill()
    assert child.exit().lost_bytes == 5


# What it starts with.


def test_stdin_is_empty_whatever_the_hubs_own_is(hub: Hubs) -> None:
    read, write = os.pipe()
    os.write(write, b"not for the model")
    os.close(write)
    kept = os.dup(0)
    os.dup2(read, 0)
    try:
        child = hub.run("import sys; print(repr(sys.stdin.read()))")
        child.exit()
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(read)
    assert child.text() == "''\n"


def test_a_process_leads_its_own_session_and_group(hub: Hubs) -> None:
    child = hub.run(
        "import os, signal; print(os.getsid(0) == os.getpgid(0) == os.getpid(), flush=True); signal.pause()"
    )
    assert child.until_it_says("\n") == "True\n"


def test_a_model_has_no_open_file_but_the_three(hub: Hubs) -> None:
    hub.run(FOREVER)  # Its keeper, socket and pipe are none of the next one's.
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        child = hub.run("import os; print(sorted(map(int, os.listdir('/dev/fd'))))", model="b")
        child.exit()
    finally:
        os.close(inherited)
    assert child.text() in ("[0, 1, 2, 3]\n", "[0, 1, 2]\n"), "3 is the listing itself"


def test_environment_and_directory_are_those_of_the_order_alone(hub: Hubs) -> None:
    (hub.directory / "sub ✓").mkdir()
    child = hub.start("/usr/bin/env", env={"A": "1 ✓\n2", "EMPTY": ""}, cwd=hub.directory / "sub ✓")
    child.exit()
    assert child.text() == "A=1 ✓\n2\nEMPTY=\n"
    where = hub.run("import os; print(os.getcwd())", cwd=hub.directory / "sub ✓")
    assert where.exit().tail == (str(hub.directory / "sub ✓"),)


def test_twenty_at_once_do_not_get_into_each_others_way(hub: Hubs) -> None:
    children = [hub.run(f"print({number}); raise SystemExit({number})", model=f"m{number}") for number in range(20)]
    outcomes = [child.exit() for child in children]
    assert [(outcome.code, outcome.tail) for outcome in outcomes] == [(n, (str(n),)) for n in range(20)]


def test_when_the_ends_are_forgotten_nothing_of_them_is_left(hub: Hubs) -> None:
    hub.keepers.forget(hub.run("").order.run_id)

    def used() -> tuple[int, int, int]:
        return open_files(), threading.active_count(), hub.zygote().num_fds()

    wait_until(lambda: threading.active_count() == 1 or not any("keeper" in t.name for t in threading.enumerate()))
    before = used()
    for number in range(10):
        child = hub.run("import signal; signal.pause()" if number % 2 else "")
        child.process.kill()
        child.exit()
        hub.keepers.forget(child.order.run_id)
    wait_until(lambda: all(now <= then for now, then in zip(used(), before, strict=True)))
    wait_until(lambda: len(hub.zygote().children()) == 1)  # the one that waits for the next order
    assert list(hub.runs.iterdir()) == []


def test_a_start_makes_the_directory_of_the_runs_anew_that_somebody_has_removed(hub: Hubs) -> None:
    hub.run("").exit()
    shutil.rmtree(hub.runs)
    assert hub.run("print('well')").exit().tail == ("well",)
    assert hub.runs.stat().st_mode & 0o777 == 0o700


def test_a_program_that_is_not_there_is_not_taken_for_that(hub: Hubs) -> None:
    hub.run("").exit()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        hub.start("/nowhere")
    assert hub.zygote().is_running()


def test_what_is_forgotten_before_its_keeper_has_hung_up_stays_forgotten(
    hub: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "HANG_UP", 0)
    for _ in range(30):
        child = hub.run("")
        child.exit()
        hub.keepers.forget(child.order.run_id)
    wait_until(lambda: len(hub.zygote().children()) == 1)  # the one that waits for the next order
    assert list(hub.runs.iterdir()) == []


# What cannot be started.


@pytest.mark.parametrize(
    ("argv", "cwd", "number", "named"),
    [
        (["./none"], ".", errno.ENOENT, "./none"),
        (["./text"], ".", errno.EACCES, "./text"),
        (["true"], "none", errno.ENOENT, "none"),
        (["true", "a\0b"], ".", errno.EINVAL, None),
    ],
    ids=["no program", "not executable", "no directory", "a zero in an argument"],
)
def test_what_cannot_be_started_is_an_error_and_leaves_nothing(
    hub: Hubs, argv: Sequence[str], cwd: str, number: int, named: str | None
) -> None:
    (hub.directory / "text").touch()
    with pytest.raises(OSError) as caught:  # noqa: PT011  # its number tells
        hub.start(*argv, cwd=hub.directory / cwd)
    assert caught.value.errno == number
    assert named is None or str(caught.value.filename).endswith(named)
    assert list(hub.runs.iterdir()) == []
    assert hub.run("print('next')").exit().tail == ("next",)


def test_a_log_that_could_make_the_keeper_wait_is_an_error_and_nothing_is_started(hub: Hubs) -> None:
    (hub.directory / "logs").mkdir()
    os.mkfifo(hub.directory / "logs" / "a.log")
    with pytest.raises(OSError, match=r"a\.log"):
        hub.start("touch", "ran")
    assert not (hub.directory / "ran").exists()


def test_without_a_thread_to_hear_of_its_end_nothing_is_left_running(
    hub: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = open_files()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="can't start new thread") as caught:
            hub.run(FOREVER)
    assert caught.value.errno == errno.EAGAIN
    hub.keepers.close()
    assert open_files() == before
    assert list(hub.runs.iterdir()) == []
    wait_until(lambda: not list(hub.everybody()))


# The ladder of a stop.


def test_a_polite_process_stops_at_sigterm(hub: Hubs) -> None:
    child = hub.run(FOREVER)
    child.stop(30)
    assert child.end() == (-signal.SIGTERM, False)


def test_who_ignores_sigterm_is_killed_after_its_grace_and_the_exit_says_so(hub: Hubs) -> None:
    child = hub.run(DEAF)
    child.until_it_says("deaf")
    begin = time.monotonic()
    child.stop(0.2)
    assert child.end() == (-signal.SIGKILL, True)
    assert time.monotonic() - begin >= 0.2


@pytest.mark.parametrize("impatience", ["kill", "a shorter grace"])
def test_impatience_cuts_the_grace_short_however_long_it_was(hub: Hubs, impatience: str) -> None:
    child = hub.run(DEAF)
    child.until_it_says("deaf")
    child.stop(1e6)  # seconds; what can be waited for at once is less than a month
    if impatience == "kill":
        child.process.kill()
    else:
        child.stop(0.01)
    assert child.end() == (-signal.SIGKILL, True)


def test_a_suspended_process_can_be_stopped(hub: Hubs) -> None:
    child = hub.run(FIVE)
    child.until_it_says("set")
    os.kill(child.pid, signal.SIGSTOP)
    child.stop(30)
    assert child.end() == (5, False)


@pytest.mark.parametrize("end", ["stop", "crash", "exit"])
def test_grandchildren_do_not_outlive_their_model(hub: Hubs, end: str) -> None:
    child = hub.run(GRANDCHILD.format(program=FOREVER) + ("signal.pause()" if end != "exit" else ""))
    grandchild = int(child.until_it_says("\n"))
    if end == "stop":
        child.stop()
    elif end == "crash":
        os.kill(child.pid, signal.SIGKILL)
    child.exit()
    assert not is_running(grandchild), "when the end is told nothing holds the port or the memory any more"


def test_a_grandchild_that_ignores_sigterm_is_killed_when_the_grace_is_over(hub: Hubs) -> None:
    child = hub.run(GRANDCHILD.format(program=DEAF) + "signal.pause()")
    wait_until(lambda: child.text().count("\n") == 2)  # Which of them is the first to write is not known.
    grandchild = int(next(line for line in child.text().split() if line.isdigit()))
    child.stop(0.3)
    assert child.end() == (-signal.SIGTERM, True)
    assert not is_running(grandchild)


SLOW = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(.2), print('saved', flush=True), os._exit(0)))"


@pytest.mark.parametrize("kind", ["grandchild", "group"])
def test_what_a_model_has_started_has_the_same_patience(hub: Hubs, kind: str) -> None:
    slow = f"import os, signal, time; {SLOW}"
    of_its_own = OWN_GROUP.format(trap=SLOW).replace("import os", "import time, os", 1)
    text = of_its_own if kind == "group" else GRANDCHILD.format(program=f"{slow}; print('up'); signal.pause()")
    child = hub.run(text.replace("'-c'", "'-u', '-c'") + "signal.pause()")
    child.until_it_says("\n" if kind == "group" else "up")
    child.stop()
    assert child.end() == (-signal.SIGTERM, False)
    assert "saved" in child.text()


@pytest.mark.parametrize("trap", ["pass", IGNORE], ids=["polite", "deaf"])
@pytest.mark.parametrize("end", ["stop", "kill", "crash", "exit"])
def test_children_in_groups_of_their_own_do_not_outlive_their_model(hub: Hubs, end: str, trap: str) -> None:
    child = hub.run(OWN_GROUP.format(trap=trap) + ("signal.pause()" if end != "exit" else ""))
    pid = int(child.until_it_says("\n"))
    if end == "stop":
        child.stop(0.3)
    elif end == "kill":
        child.process.kill()
    elif end == "crash":
        os.kill(child.pid, signal.SIGKILL)
    assert child.exit().forced == (end == "stop" and trap == IGNORE)
    assert not is_running(pid)


def test_a_suspended_child_in_a_group_of_its_own_is_let_go_on_to_end(hub: Hubs) -> None:
    child = hub.run(OWN_GROUP.format(trap="pass") + "signal.pause()")
    pid = int(child.until_it_says("\n"))
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    child.stop()
    assert not child.exit().forced
    assert not is_running(pid)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("end", ["stop", "kill", "crash"])
def test_jobs_of_a_shell_with_job_control_do_not_outlive_it(hub: Hubs, end: str) -> None:
    shell = hub.start("bash", "-c", "set -m; sleep 600 & (sleep 600; :) & echo $!; wait")
    wait_until(lambda: len(psutil.Process(shell.pid).children(recursive=True)) == 3)
    jobs = psutil.Process(shell.pid).children(recursive=True)
    assert shell.pid not in {os.getpgid(job.pid) for job in jobs}, "the test is about that"
    {"crash": lambda: os.kill(shell.pid, signal.SIGKILL), "stop": shell.stop, "kill": shell.process.kill}[end]()
    assert not shell.exit().forced
    assert [job for job in jobs if is_running(job.pid)] == []


def test_a_session_of_its_own_is_left_alone(hub: Hubs) -> None:
    # Who makes itself a daemon does not belong to the model any more; and the hub's own session never did.
    child = hub.run(OWN_SESSION.format(trap="pass") + "signal.pause()")
    pid = int(child.until_it_says("\n"))
    child.stop()
    child.exit()
    assert is_running(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_who_is_killed_by_somebody_else_during_a_stop_was_not_forced(hub: Hubs, number: signal.Signals) -> None:
    child = hub.run(DEAF)
    child.until_it_says("deaf")
    child.stop(600)
    wait_until(lambda: hub.state()["asked"] == "operator")
    os.kill(child.pid, number)
    assert child.end() == (-number, False)


def test_what_a_crash_leaves_behind_is_killed_but_nobody_was_forced(hub: Hubs) -> None:
    child = hub.run(GRANDCHILD.format(program=DEAF) + "signal.pause()")
    child.until_it_says("deaf")
    os.kill(child.pid, signal.SIGKILL)
    assert child.end() == (-signal.SIGKILL, False)


@pytest.mark.parametrize(("text", "end"), [(FIVE, (5, False)), (DEAF, (-signal.SIGKILL, True))], ids=["polite", "deaf"])
def test_sigterm_to_the_keeper_stops_its_model_with_the_grace_of_the_order(
    hub: Hubs, text: str, end: tuple[int, bool]
) -> None:
    child = hub.run(text, grace=0.3 if text == DEAF else 30.0)
    child.until_it_says("\n")
    child.keeper.terminate()
    assert child.end() == end


# Rotation.


def test_a_log_is_rotated_on_request_while_the_model_runs(hub: Hubs) -> None:
    os.mkfifo(hub.directory / "go")
    child = hub.start("sh", "-c", "echo one; read x < go; echo two; read x < go", rotation=NO_COMPRESSION)
    child.until_it_says("one\n")
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    child.process.rotate(answers.put)
    assert answers.get(timeout=10) is None
    assert (child.text(), Path(f"{child.log_file}.1").read_text()) == ("", "one\n")
    (hub.directory / "go").write_text("\n")
    child.until_it_says("two\n")


def test_why_a_log_cannot_be_rotated_is_answered(hub: Hubs) -> None:
    child = hub.run("print('one'); import signal; signal.pause()", rotation=NO_COMPRESSION)
    child.until_it_says("one\n")
    Path(f"{child.log_file}.9").mkdir()
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    child.process.rotate(answers.put)
    assert answers.get(timeout=10) in ("Is a directory", "Operation not permitted")


TALK = "import sys, time\nwhile True: sys.stdout.write('x' * 999 + '\\n'); time.sleep(.0005)"


def test_a_log_is_rotated_by_size_and_by_new_rules_at_once(hub: Hubs) -> None:
    child = hub.run(TALK, rotation=None)
    wait_until(lambda: child.log_file.exists() and child.log_file.stat().st_size > 200_000)
    assert not Path(f"{child.log_file}.1").exists(), "nobody asked for that"
    child.process.set_rotation(NO_COMPRESSION)
    wait_until(Path(f"{child.log_file}.3").exists)
    assert Path(f"{child.log_file}.1").stat().st_size == 65_000
    child.process.set_rotation(SMALL)
    wait_until(Path(f"{child.log_file}.1.gz").exists)
    child.process.set_rotation(None)
    wait_until(lambda: child.log_file.stat().st_size > 200_000)


# The next hub.


def test_the_next_hub_finds_the_same_process_and_all_that_was_written_down(hub: Hubs) -> None:
    before = time.time()
    hub.run("print('earlier')").exit()
    child = hub.run(FIVE, record={"port": 1, "name": "✓"})
    child.until_it_says("set")
    child.process.note({"ready_at": 3.5})
    wait_until(lambda: [json.loads(file.read_text())["note"] for file in hub.runs.glob("*.json")].count(None) == 1)
    hub.keepers.close()
    survivor, process, ends = hub.found()
    assert before <= survivor.started_at <= time.time()
    assert (survivor.pid, survivor.model, survivor.run_id) == (child.pid, "a", child.order.run_id)
    assert (survivor.log, survivor.log_begin) == (child.log_file, len("earlier\n"))
    assert (survivor.record, survivor.note) == ({"port": 1, "name": "✓"}, {"ready_at": 3.5})
    assert (survivor.asked, survivor.exit, process.pid) == (None, None, child.pid)
    process.stop(10, "operator")
    assert ends.end() == (5, False)
    assert not child.is_told, "a hub that has left is told nothing"
    hub.keepers.forget(survivor.run_id)
    assert list(hub.runs.iterdir()) == []


def test_without_a_hub_model_and_log_go_on(hub: Hubs) -> None:
    child = hub.run(TALK, rotation=NO_COMPRESSION)
    hub.die()
    wait_until(Path(f"{child.log_file}.2").exists)
    assert is_running(child.pid)


@pytest.mark.parametrize("told", [False, True], ids=["nobody was told", "the first hub had been told"])
def test_who_ended_meanwhile_is_found_with_the_true_end_until_that_is_forgotten(hub: Hubs, told: bool) -> None:
    child = hub.run(
        "import signal, sys\nsignal.signal(2, lambda *_: (print('bye'), sys.exit(7)))\nprint('up')\nsignal.pause()"
    )
    child.until_it_says("up\n")
    if not told:
        hub.die()
    os.kill(child.pid, signal.SIGINT)
    if told:
        child.exit()
    wait_until(lambda: hub.state()["exit"] is not None)
    for _ in range(2):
        survivor, process, ends = hub.found()
        assert survivor.exit is not None
        assert replace(survivor.exit, at=None) == Exit(7, tail=("up", "bye"))
        process.stop(1, "operator")
        assert not ends.is_told, "the survivor has said it already"
    hub.keepers.forget(survivor.run_id)
    assert list(hub.runs.iterdir()) == []
    hub.die()
    assert hub.keepers.survivors() == []


def test_a_stop_goes_on_to_its_end_though_the_hub_goes_away_at_once(hub: Hubs) -> None:
    child = hub.run(DEAF)
    child.until_it_says("deaf")
    child.stop(0.3)
    hub.die()
    wait_until(lambda: not is_running(child.pid))
    wait_until(lambda: hub.state()["exit"] is not None)
    (survivor,) = hub.keepers.survivors()
    assert survivor.exit is not None
    assert (survivor.asked, survivor.exit.code, survivor.exit.forced) == ("operator", -signal.SIGKILL, True)


def test_a_hub_that_closes_forgets_the_ends_it_has_been_told(hub: Hubs) -> None:
    hub.run("").exit()
    running = hub.run(FOREVER)
    hub.keepers.close()
    assert [file.stem for file in hub.runs.glob("*.json")] == [f"a-{running.order.run_id[:8]}"]


def test_files_and_socket_of_a_run_are_the_users_alone_whatever_the_umask(hub: Hubs) -> None:
    before = os.umask(0)
    try:
        child = hub.run(FOREVER)
        child.process.note({})
        wait_until(lambda: hub.state()["note"] == {})
    finally:
        os.umask(before)
    hub.file("sock")
    modes = {file.suffix: file.stat().st_mode & 0o777 for file in hub.runs.iterdir()}
    assert modes == {".json": 0o600, ".lock": 0o600, ".sock": 0o600, ".part": 0o600}
    assert hub.runs.stat().st_mode & 0o777 == 0o700


# Trouble.


def test_the_death_of_a_keeper_is_told_at_once_and_nothing_of_its_models_session_is_left(hub: Hubs) -> None:
    child = hub.run(OWN_GROUP.format(trap=IGNORE) + "signal.pause()")
    other = int(child.until_it_says("\n"))
    begin = time.monotonic()
    child.keeper.kill()
    assert child.end() == (None, False)
    assert time.monotonic() - begin < 2
    assert not is_running(child.pid)
    wait_until(lambda: not is_running(other))


def test_a_deaf_model_without_a_keeper_is_killed_after_its_grace(hub: Hubs) -> None:
    child = hub.run(DEAF, grace=0.3)
    child.until_it_says("deaf")
    child.keeper.kill()
    assert child.end() == (None, False), "nobody asked it to end"
    assert not is_running(child.pid)


def test_a_deaf_model_without_a_keeper_can_be_killed_at_once(hub: Hubs) -> None:
    child = hub.run(DEAF, grace=600)
    child.until_it_says("deaf")
    child.keeper.kill()
    wait_until(lambda: child.process._orphaned)  # type: ignore[attr-defined]
    child.stop(600)
    child.process.kill()
    assert child.end() == (None, True)


def test_impatience_outlives_a_keeper_that_did_not_hear_of_it(hub: Hubs) -> None:
    child = hub.run(DEAF, grace=600)
    child.until_it_says("deaf")
    keeper = child.keeper
    keeper.suspend()
    wait_until(lambda: keeper.status() == psutil.STATUS_STOPPED)
    child.process.kill()
    keeper.kill()
    assert child.end() == (None, False)
    assert not is_running(child.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_keepers_and_zygote_do_not_care_for_a_terminal(hub: Hubs, number: signal.Signals) -> None:
    child = hub.run(FIVE)
    child.until_it_says("set")
    zygote = hub.zygote()
    for process in (child.keeper, zygote):
        process.send_signal(number)
    assert hub.run("print('another')", model="b").exit().tail == ("another",)
    assert hub.zygote() == zygote
    child.stop()
    assert child.end() == (5, False)


def test_a_stopped_keeper_does_what_it_was_told_when_it_goes_on(hub: Hubs) -> None:
    child = hub.run(FIVE)
    child.until_it_says("set")
    keeper = child.keeper
    keeper.suspend()
    wait_until(lambda: keeper.status() == psutil.STATUS_STOPPED)
    child.stop()
    assert is_running(child.pid)
    keeper.resume()
    assert child.end() == (5, False)


def test_a_keeper_that_does_not_answer_the_next_hub_is_ended_with_its_model(
    hub: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.3)
    child = hub.run(FOREVER)
    keeper = child.keeper
    keeper.suspend()
    survivor, _, ends = hub.found()
    assert (survivor.pid, survivor.exit) == (child.pid, None)
    assert ends.end() == (None, False)
    assert not is_running(child.pid)
    assert not is_running(keeper.pid)
    assert ["does not answer" in report for report in hub.reports] == [True]


def test_after_the_death_of_the_zygote_models_go_on_and_others_can_be_started(hub: Hubs) -> None:
    first = hub.run(FOREVER)
    hub.zygote().kill()
    assert hub.run("print('second')", model="b").exit().tail == ("second",)
    first.stop()
    assert first.end() == (-signal.SIGTERM, False)


def the_one_that_waits(hub: Hubs) -> psutil.Process:
    wait_until(lambda: len(hub.zygote().children()) == 1)
    (keeper,) = hub.zygote().children()
    return keeper


def test_a_keeper_waits_for_each_order_before_there_is_one(hub: Hubs) -> None:
    hub.run("").exit()
    wait_until(lambda: len(hub.zygote().children()) == 1)
    for _ in range(3):
        waiting = the_one_that_waits(hub)
        child = hub.run(FOREVER)
        assert child.keeper == waiting
        child.process.kill()
        child.exit()
        wait_until(functools.partial(has_ended, waiting))


def test_the_death_of_the_keeper_that_waits_costs_no_start(hub: Hubs) -> None:
    hub.run("").exit()
    the_one_that_waits(hub).kill()
    assert hub.run("print('next')").exit().tail == ("next",)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_keeper_that_waits_is_none_to_the_model_it_gets(hub: Hubs, number: signal.Signals) -> None:
    hub.run("").exit()
    the_one_that_waits(hub).send_signal(number)
    assert hub.run("import time; time.sleep(0.2); print('done')").exit().tail == ("done",)


def test_the_keeper_that_waits_ends_with_its_hub(hub: Hubs) -> None:
    hub.run("").exit()
    waiting = the_one_that_waits(hub)
    hub.die()
    wait_until(lambda: not is_running(waiting.pid))


def test_what_a_hub_has_given_up_is_not_started_after_all(hub: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.run("").exit()
    slow = the_one_that_waits(hub)
    slow.suspend()
    monkeypatch.setattr(connection, "PATIENCE", 0.3)
    with pytest.raises(OSError, match="its keeper does not answer"):
        hub.run("open('began', 'w')")
    slow.resume()
    wait_until(functools.partial(has_ended, slow))
    assert not (hub.directory / "began").exists()


def test_a_zygote_that_hangs_costs_one_start(hub: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.run("").exit()
    the_one_that_waits(hub)
    monkeypatch.setattr(connection, "PATIENCE", 0.3)
    hub.zygote().suspend()
    assert hub.run("print('by the one that waited')").exit().tail == ("by the one that waited",)
    with pytest.raises(OSError, match="its keeper does not answer"):
        hub.run("")
    monkeypatch.undo()
    assert hub.run("print('next')").exit().tail == ("next",)


@pytest.mark.parametrize("ending", ["sock", "lock", "json"])
def test_the_next_hub_finds_a_living_keeper_though_one_of_its_files_was_removed(hub: Hubs, ending: str) -> None:
    child = hub.run(FIVE)
    child.until_it_says("set")
    hub.file(ending).unlink()
    survivor, process, ends = hub.found()
    assert (survivor.pid, survivor.exit, hub.reports) == (child.pid, None, [])
    process.stop(10, "operator")
    assert ends.end() == (5, False)


def test_a_keeper_that_can_have_no_socket_does_without_and_does_not_spin(hub: Hubs) -> None:
    child = hub.run(FOREVER)
    path = hub.file("sock")
    path.unlink()
    path.mkdir()
    child.keeper.send_signal(signal.SIGUSR1)
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for _ in range(2):
        child.process.rotate(answers.put)
        answers.get(timeout=10)
    wait_until(lambda: rests(child.keeper), timeout=5)
    path.rmdir()
    assert hub.found()[0].pid == child.pid


GARBLED = {
    "nothing": b"",
    "half of it": b'{"schema": 1, "run": "',
    "no object": b"[]",
    "bytes": bytes(range(256)),
    "too little": b'{"schema": 1}',
    "another kind": b'{"schema": 1, "run": "x", "model": "a", "pid": "7", "keeper": 1, "started_at": 1.0, "log": "a",'
    b' "log_begin": 0, "grace": 1, "record": {}, "birth": null, "asked": null, "note": null, "exit": null}',
}


@pytest.mark.parametrize("garbled", GARBLED.values(), ids=GARBLED)
def test_a_garbled_state_file_matters_only_when_its_keeper_has_ended(hub: Hubs, garbled: bytes) -> None:
    child = hub.run(FOREVER)
    hub.file("json").write_bytes(garbled)
    assert hub.found()[0].pid == child.pid
    assert hub.reports == []
    hub.die()
    child.keeper.kill()
    hub.file("json").write_bytes(garbled)
    assert hub.keepers.survivors() == []
    assert ["cannot be read" in report for report in hub.reports] == [True]
    assert list(hub.runs.iterdir()) == [], "and it is not told again"


def test_a_keeper_that_speaks_another_language_is_left_alone(hub: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    child = hub.run(FOREVER)
    monkeypatch.setattr(words, "SCHEMA", 2)
    hub.die()
    assert hub.keepers.survivors() == []
    assert "another version" in hub.reports[0]
    assert is_running(child.pid)
    monkeypatch.undo()
    assert hub.found()[0].pid == child.pid


@pytest.mark.parametrize("born", ["of another boot", "before"])
def test_what_a_power_cut_left_is_told_and_no_stranger_with_its_number_is_signalled(hub: Hubs, born: str) -> None:
    child = hub.run(FOREVER)
    state = hub.state()
    hub.die()
    psutil.Process(child.pid).kill()
    wait_until(lambda: hub.state()["exit"] is not None)
    with subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True, cwd=hub.directory) as stranger:
        wait_until(lambda: len(psutil.Process(stranger.pid).children()) == 1)
        boot, _, ticks = str(birth(stranger.pid)).partition(" ")
        state |= {"pid": stranger.pid, "birth": f"{boot} {int(ticks) - 1}" if born == "before" else f"x {ticks}"}
        hub.file("json").write_text(json.dumps(state))
        (survivor,) = hub.keepers.survivors()
        assert survivor.exit == Exit(None)
        ends = Ends()
        process = survivor.attach(ends)
        process.stop(0, "operator")
        process.kill()
        remains.end_session(stranger.pid, state["birth"], 0.0)
        assert stranger.poll() is None
        assert len(psutil.Process(stranger.pid).children()) == 1
        hub.keepers.forget(survivor.run_id)
        assert list(hub.runs.iterdir()) == []
        os.killpg(stranger.pid, signal.SIGKILL)


def test_a_session_that_lost_hub_keeper_and_leader_is_ended_by_the_next_hub(hub: Hubs) -> None:
    child = hub.run(OWN_GROUP.format(trap="pass") + "signal.pause()")
    left = int(child.until_it_says("\n"))
    keeper = child.keeper
    hub.die()
    keeper.suspend()
    wait_until(lambda: keeper.status() == psutil.STATUS_STOPPED)
    os.kill(child.pid, signal.SIGKILL)
    keeper.kill()
    wait_until(lambda: not psutil.pid_exists(child.pid) or not is_running(child.pid))
    (survivor,) = hub.keepers.survivors()
    ends = Ends()
    survivor.attach(ends)
    assert ends.end() == (None, False)
    wait_until(lambda: not is_running(left))


# Who else talks to a keeper.

GARBAGE: dict[str, bytes] = {
    "bytes": bytes(range(256)) + b"\n",
    "a line without an end": b"x" * 400_000,
    "a long line": b'{"note": "' + b"x" * 400_000 + b'"}\n',
    "no object": b"[]\n7\nnull\n",
    "no command": b"{}\n",
    "nothing known": b'{"explode": true}\n',
    "a wrong stop": b'{"stop": "now", "reason": "x"}\n',
    "a stop without a number": b'{"stop": NaN, "reason": "x"}\n',
    "a stop after all time": b'{"stop": Infinity, "reason": "x"}\n',
    "a stop before all time": b'{"stop": -1, "reason": "x"}\n',
    "a note that is none": b'{"note": 7}\n',
    "wrong rules": b'{"rotation": {"max_bytes": "x", "backups": 1, "compress": true}}\n',
    "endless rules": b'{"rotation": {"max_bytes": Infinity, "backups": 1, "compress": true}}\n',
    "backups without end": b'{"rotation": {"max_bytes": 65536, "backups": 1000000000, "compress": true}}\n{"rotate": 1}\n',
    "a note too deep to be written again": b'{"note": ' + b'{"a":' * 400 + b"1" + b"}" * 401 + b"\n",
    "no backups": b'{"rotation": {"max_bytes": 1, "backups": 0, "compress": true}}\n',
    "too deep": b"[" * 100_000 + b"\n",
    "half a command": b'{"kill": tr',
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
}


def connected(hub: Hubs) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(10)
    peer.connect(str(hub.file("sock")))
    return peer


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_hung_up_on_and_harms_nothing(hub: Hubs, garbage: bytes) -> None:
    child = hub.run(FIVE)
    child.until_it_says("set")
    with connected(hub) as peer:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            peer.sendall(garbage)
        with contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while peer.recv(65536):
                pass
    assert (hub.state()["asked"], hub.state()["note"], hub.reports) == (None, None, [])
    child.stop()
    assert child.end() == (5, False)


def test_who_connects_and_never_reads_is_hung_up_on_and_holds_nobody_up(hub: Hubs) -> None:
    child = hub.run(FIVE)
    child.until_it_says("set")
    with connected(hub) as silent:
        answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for _ in range(2000):
            child.process.rotate(answers.put)  # Its answer is told to all who are connected.
            assert answers.get(timeout=10) is None
        said = b"".join(iter(lambda: silent.recv(65536), b""))
    assert 0 < said.count(b"rotated") < 2000
    child.stop()
    assert child.end() == (5, False)


def test_what_is_said_while_a_connection_is_broken_is_said_again_and_nobody_waits_in_vain(hub: Hubs) -> None:
    child = hub.run(FIVE)
    child.until_it_says("set")
    keeper = child.keeper
    keeper.suspend()
    wait_until(lambda: keeper.status() == psutil.STATUS_STOPPED)
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    child.process.rotate(answers.put)
    child.process._connection.hang_up()  # type: ignore[attr-defined]
    assert answers.get(timeout=10) == "its keeper has hung up; whether it was done is not known"
    child.process.rotate(answers.put)
    assert answers.get(timeout=10) == "its keeper does not answer"
    child.stop()
    keeper.resume()
    assert child.end() == (5, False)


def test_a_hub_that_leaves_in_the_moment_in_which_its_log_fails_costs_neither_keeper_nor_model(hub: Hubs) -> None:
    text = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('lost', flush=True)\n"
    text += FIVE.replace("print('set', flush=True)", "open('said', 'w').close()")
    launch = Launch((sys.executable, "-I", "-S", "-c", text), {}, hub.directory)
    child = Child(hub.keepers, Order("a", uuid.uuid4().hex, launch, Path("/dev/full")))
    keeper = child.keeper
    with connected(hub):
        keeper.suspend()
        (hub.directory / "go").touch()
        wait_until((hub.directory / "said").exists)
    keeper.resume()
    assert "No space left" in str(child.log.get(timeout=10))
    child.stop()
    assert child.end() == (5, False)
    assert hub.reports == []


def test_a_keeper_that_hears_nothing_holds_nobody_up_and_is_told_again_what_matters(hub: Hubs) -> None:
    child = hub.run(FIVE)
    child.until_it_says("set")
    keeper = child.keeper
    keeper.suspend()
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    refused = 0
    while not refused:  # until nothing more fits between the two
        child.process.rotate(answers.put)
        refused = answers.qsize()
    child.stop()
    assert answers.get(timeout=10) == "its keeper does not answer"
    keeper.resume()
    assert child.end() == (5, False)


def test_while_no_file_can_be_opened_a_model_does_not_pass_for_dead(hub: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = iter([OSError(errno.EMFILE, "Too many open files")] * 3)
    real = remains.end_session

    def scarce(*args: Any) -> bool:
        if (error := next(tries, None)) is not None:
            raise error
        return real(*args)

    monkeypatch.setattr(kept, "end_session", scarce)
    monkeypatch.setattr(kept, "RETRY", 0.01)
    child = hub.run(FOREVER)
    child.keeper.kill()
    assert child.exit().code is None
    assert next(tries, None) is None
    wait_until(lambda: not is_running(child.pid))


def test_a_lock_of_which_nothing_can_be_known_now_does_not_pass_for_free(
    hub: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = hub.run(FOREVER)
    lock = hub.file("lock")
    hub.die()

    def scarce(*_args: Any, **_more: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", scarce)
        with pytest.raises(OSError, match="Too many"):
            is_held(lock)
    with monkeypatch.context() as patch:
        patch.setattr(connection, "_connect", scarce)
        with pytest.raises(HubError, match="they go on; raise the limit"):
            hub.keepers.survivors()
    survivor, _, _ = hub.found()
    assert (survivor.pid, survivor.exit) == (child.pid, None), "and the next look finds it as it was"


def test_an_end_that_nobody_heard_is_left_for_the_next_hub(hub: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Child, "exited", lambda child, outcome: Ends.exited(child, outcome) and False)
    child = hub.run("raise SystemExit(7)")
    child.exit()
    child.process._thread.join(10)  # type: ignore[attr-defined]
    hub.keepers.close()
    hub.next()
    (survivor,) = hub.keepers.survivors()
    assert survivor.exit is not None
    assert survivor.exit.code == 7


def test_what_a_hub_had_begun_to_remove_is_removed_when_its_end_was_told(hub: Hubs) -> None:
    hub.run("raise SystemExit(7)").exit()
    wait_until(lambda: json.loads(hub.file("json").read_text())["exit"] is not None)
    hub.file("lock").unlink()
    survivor, _, _ = hub.found()
    assert survivor.exit is not None
    hub.keepers.forget(survivor.run_id)
    assert list(hub.runs.iterdir()) == []


def test_a_keeper_needs_nothing_but_the_standard_library(hub: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Path(program.__file__).parent.parent
    alone = hub.directory / "site"
    shutil.copytree(core / "keeper", alone / "mlxhub_core" / "keeper")
    shutil.copy(core / "__init__.py", alone / "mlxhub_core")
    for name in ("psutil", "pydantic", "loguru", "json", "socket", "selectors", "subprocess", "gzip", "signal"):
        (alone / f"{name}.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.setenv("PYTHONPATH", str(alone))
    poisoned = SimpleNamespace(__file__=str(alone / "mlxhub_core" / "keeper" / "__main__.py"))
    monkeypatch.setattr(zygote, "program", poisoned)
    child = hub.run("print('x' * 70_000)", rotation=SMALL)
    assert child.exit().code == 0
    hub.run(TALK, rotation=SMALL)
    wait_until(Path(f"{child.log_file}.1.gz").exists)
