"""A wait that Ctrl-C ends, also when it comes a moment too early for Python to notice."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mlxhub_core import waits

LOSES_IT = """
import fcntl, os, signal, sys, tempfile
from mlxhub_core import waits

waits.heed_signals()
try:
    os.kill(os.getpid(), signal.SIGINT)
    while True:
        pass
except KeyboardInterrupt:
    pass  # As in a destructor, or between Python's last look and the system call: nobody has heeded it.
print("waits", flush=True)
"""
WAITS = {
    "for a descriptor": "waits.until_readable(os.pipe()[0])",
    "for a call": "waits.until_done(lambda: os.read(os.pipe()[0], 1))",
    "for a lock": (
        "file = tempfile.NamedTemporaryFile(); fcntl.flock(file, fcntl.LOCK_EX);"
        " other = os.open(file.name, os.O_RDONLY);"
        " waits.until_done(lambda: fcntl.flock(other, fcntl.LOCK_SH))"
    ),
}


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_an_interrupt_that_got_lost_before_it_ends_the_wait(wait: str) -> None:
    done = run(LOSES_IT + wait)
    assert done.stdout == "waits\n"
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_an_interrupt_that_is_ignored_or_that_another_heeds_does_not() -> None:
    for handler in ("signal.SIG_IGN", "lambda *_: None"):
        program = (
            "import os, signal; from mlxhub_core import waits; waits.heed_signals()\n"
            f"signal.signal(signal.SIGINT, {handler}); os.kill(os.getpid(), signal.SIGINT)\n"
            "print(waits.until_readable(os.pipe()[0], timeout=0.01))"
        )
        assert run(program).stdout == "[]\n"


def test_any_other_signal_only_wakes_it() -> None:
    program = (
        "import os, signal; from mlxhub_core import waits; waits.heed_signals()\n"
        "signal.signal(signal.SIGWINCH, lambda *_: None); os.kill(os.getpid(), signal.SIGWINCH)\n"
        "print(waits.until_readable(os.pipe()[0]))"
    )
    assert run(program).stdout == "[]\n"


def test_what_can_be_read_is_told_and_else_the_time_is_over() -> None:
    read, write = os.pipe()
    assert waits.until_readable(read, timeout=0) == []
    os.write(write, b"x")
    assert waits.until_readable(read) == [read]
    os.close(read)
    os.close(write)


def test_a_call_that_is_done_ends_the_wait_for_it() -> None:
    seen: list[int] = []
    waits.until_done(lambda: seen.append(1))
    assert seen == [1]
