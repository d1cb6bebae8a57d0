"""What processes and the machine say of themselves: asked of real processes."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from mlxhub_core import vitals
from mlxhub_core.testing import wait_until
from mlxhub_core.vitals import ThisMachine, Vitals, vitals_of

MB = 1024 * 1024
SLACK = 8 * MB
"""Memory that a process may get or lose besides what a test is about."""
PATIENCE = 10.0
"""Seconds to wait for what must happen."""

Run = Callable[[str], subprocess.Popen[str]]

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@pytest.fixture
def run() -> Iterator[Run]:
    """Start a Python program that prints a line for each step and then waits for one."""
    with contextlib.ExitStack() as running:

        def run(program: str) -> subprocess.Popen[str]:
            process = running.enter_context(
                subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", program],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            running.callback(process.kill)
            return process

        yield run


def step(process: subprocess.Popen[str], go: bool = True) -> str:
    """Let it go on, unless it does already; what it says when it waits again."""
    assert process.stdin is not None
    assert process.stdout is not None
    if go:
        process.stdin.write("\n")
        process.stdin.flush()
    line = process.stdout.readline()
    assert line, "it has ended"
    return line.strip()


def of(pid: int) -> Vitals:
    found = vitals_of(pid, None)
    assert found is not None
    return found


# Time.

BURN = """
import time
def burn():
    end = time.process_time() + 0.3
    while time.process_time() < end: pass
"""


def test_a_process_that_computes_uses_time_and_one_that_waits_does_not(run: Run) -> None:
    process = run(BURN + "print('begun', flush=True); input(); burn(); print('done', flush=True); input()")
    step(process, go=False)
    before = of(process.pid).cpu_seconds
    step(process)
    after = of(process.pid).cpu_seconds
    assert 0.25 <= after - before <= 0.5
    assert of(process.pid).cpu_seconds - after < 0.05


def test_time_in_the_kernel_counts_too(run: Run) -> None:
    program = (
        "import os, time\nprint(1, flush=True); input()\nend = time.process_time() + 0.3\n"
        "while time.process_time() < end: os.stat('/')\nprint(os.times().system, flush=True); input()"
    )
    process = run(program)
    step(process, go=False)
    before = of(process.pid).cpu_seconds
    in_kernel = float(step(process))
    assert in_kernel > 0.02, "the test is about that"
    assert of(process.pid).cpu_seconds - before >= 0.25


# Memory.


def test_what_a_process_allocates_is_its_memory_until_it_gives_it_back(run: Run) -> None:
    process = run(
        "import mmap\n"
        "print(1, flush=True); input()\n"
        f"held = mmap.mmap(-1, {64 * MB}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON); held.write(b'x' * {64 * MB})\n"
        "print(2, flush=True); input()\n"
        "held.close(); print(3, flush=True); input()"
    )
    step(process, go=False)
    before = of(process.pid).memory_bytes
    step(process)
    assert abs(of(process.pid).memory_bytes - before - 64 * MB) < SLACK
    step(process)
    assert abs(of(process.pid).memory_bytes - before) < SLACK


def test_memory_that_was_only_reserved_is_not_used(run: Run) -> None:
    process = run(f"import mmap; held = mmap.mmap(-1, {1 << 32}); print(1, flush=True); input()")
    step(process, go=False)
    assert of(process.pid).memory_bytes < 64 * MB


@on_linux
def test_mapped_files_do_not_count_as_the_system_can_drop_them(run: Run, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"x" * (64 * MB))
    process = run(
        "import mmap\n"
        "print(1, flush=True); input()\n"
        f"file = open({str(weights)!r}, 'rb'); held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        f"print(sum(held[i] for i in range(0, {64 * MB}, {mmap.PAGESIZE})), flush=True); input()"
    )
    step(process, go=False)
    before, resident = of(process.pid).memory_bytes, psutil.Process(process.pid).memory_info().rss
    step(process)
    assert psutil.Process(process.pid).memory_info().rss - resident > 60 * MB, "they are in memory"
    assert abs(of(process.pid).memory_bytes - before) < SLACK


# Files.


@on_linux
def test_what_is_read_from_files_and_written_to_them_is_told(run: Run, tmp_path: Path) -> None:
    process = run(
        "print(1, flush=True); input()\n"
        f"file = open({str(tmp_path / 'file')!r}, 'w+b', buffering=0); file.write(bytes({8 * MB}))\n"
        "print(2, flush=True); input()\n"
        f"file.seek(0); file.read({8 * MB}); print(3, flush=True); input()"
    )
    seen = []
    for go in (False, True, True):
        step(process, go)
        seen.append(of(process.pid).io_bytes)
    # What reaches the disk may be counted once more.
    assert [8 * MB <= after - before < 17 * MB for before, after in itertools.pairwise(seen)] == [True, True], seen
    assert of(process.pid).io_bytes == seen[-1], "one that waits reads and writes nothing"


@on_linux
def test_what_its_children_read_counts_too(run: Run) -> None:
    process = run(
        "import os, time\nread, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        f"    open('/dev/zero', 'rb', buffering=0).read({8 * MB}); os.write(write, b'1'); time.sleep(60); os._exit(0)\n"
        "os.read(read, 1); print(1, flush=True); input()"
    )
    step(process, go=False)
    (child,) = psutil.Process(process.pid).children()
    try:
        assert vitals_of(process.pid, None, children=()).io_bytes < MB  # type: ignore[union-attr]
        assert of(process.pid).io_bytes >= 8 * MB
    finally:
        child.kill()


@pytest.mark.parametrize("counter", ["read_chars", "write_chars", "read_bytes", "write_bytes"])
def test_data_that_moves_in_any_way_is_seen_whatever_moved_before(
    monkeypatch: pytest.MonkeyPatch, counter: str
) -> None:
    # Weights are often mapped: then only `read_bytes` tells of a load from a slow disk.
    counters = SimpleNamespace(read_chars=5000 * MB, write_chars=300 * MB, read_bytes=7 * MB, write_bytes=0)
    monkeypatch.setattr(psutil.Process, "io_counters", lambda _: counters, raising=False)
    before = of(os.getpid()).io_bytes
    setattr(counters, counter, getattr(counters, counter) + 9)
    assert of(os.getpid()).io_bytes == before + 9


def test_where_files_are_not_counted_there_are_none_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil.Process, "io_counters", raising=False)
    assert of(os.getpid()).io_bytes == 0
    assert of(os.getpid()).memory_bytes > 0


@pytest.mark.parametrize(
    "error",
    [psutil.AccessDenied(1), psutil.NoSuchProcess(1), RuntimeError("/proc/1/io file was empty")],
    ids=["not ours", "gone", "empty"],
)
def test_files_that_cannot_be_counted_do_not_hide_the_rest(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(_: psutil.Process) -> None:
        raise error

    monkeypatch.setattr(psutil.Process, "io_counters", refuse, raising=False)
    assert of(os.getpid()).io_bytes == 0
    assert of(os.getpid()).memory_bytes > 0


# Children.

FAMILY = (
    "import os, sys, time\n"
    "def wait_for_the_end(): time.sleep(60); os._exit(0)\n"
    "read, write = os.pipe()\n"
    "if os.fork() == 0:\n"
    "    if os.fork() == 0:\n"
    f"        held = b'x' * {48 * MB}\n"
    "        end = time.process_time() + 0.3\n"
    "        while time.process_time() < end: pass\n"
    "        os.write(write, b'%d' % os.getpid()); wait_for_the_end()\n"
    "    wait_for_the_end()\n"
    "print(os.read(read, 9).decode(), flush=True); input()"
)


def test_what_its_children_and_theirs_use_counts_until_they_end(run: Run) -> None:
    process = run(FAMILY)
    grandchild = psutil.Process(int(step(process, go=False)))
    child = grandchild.parent()
    assert child is not None
    assert child.pid != process.pid
    try:
        whole = of(process.pid)
        assert whole.memory_bytes >= 48 * MB
        assert whole.cpu_seconds >= 0.25
        assert of(grandchild.pid).memory_bytes >= 48 * MB
        grandchild.kill()
        wait_until(lambda: of(process.pid).memory_bytes < whole.memory_bytes - 40 * MB)
        assert of(process.pid).cpu_seconds <= whole.cpu_seconds - 0.25
        child.kill()
        wait_until(lambda: child.status() == psutil.STATUS_ZOMBIE)
        assert of(process.pid).memory_bytes > 0, "a child that nobody has waited for yet takes nothing away from it"
    finally:
        for relative in (grandchild, child):
            with contextlib.suppress(psutil.NoSuchProcess):
                relative.kill()


def test_the_memory_of_a_process_alone_is_told_without_its_children(run: Run) -> None:
    process = run(FAMILY)
    grandchild = psutil.Process(int(step(process, go=False)))
    child = grandchild.parent()
    assert child is not None
    try:
        assert 0 < ThisMachine().memory_of(process.pid) < 48 * MB <= of(process.pid).memory_bytes
        assert ThisMachine().memory_of(grandchild.pid) >= 48 * MB
    finally:
        grandchild.kill()
        child.kill()
    process.kill()
    process.wait(PATIENCE)
    assert ThisMachine().memory_of(process.pid) == 0, "it has ended"


def test_strangers_do_not_count(run: Run) -> None:
    process = run(f"held = b'x' * {64 * MB}; print(1, flush=True); input()")
    other = run("print(1, flush=True); input()")
    step(process, go=False)
    step(other, go=False)
    assert of(other.pid).memory_bytes < 64 * MB <= of(process.pid).memory_bytes


def test_a_child_that_may_not_be_looked_at_does_not_hide_the_rest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    process = run(FAMILY)
    grandchild = psutil.Process(int(step(process, go=False)))
    child, look = grandchild.parent(), psutil.Process.oneshot
    assert child is not None

    def refuse(self: psutil.Process) -> contextlib.AbstractContextManager[None]:
        if self.pid == grandchild.pid:
            raise psutil.AccessDenied(self.pid)
        return look(self)

    try:
        monkeypatch.setattr(psutil.Process, "oneshot", refuse)
        assert 0 < of(process.pid).memory_bytes < 48 * MB
    finally:
        grandchild.kill()
        child.kill()


# Those who cannot be looked at.


def test_of_a_process_that_has_ended_nothing_is_known(run: Run) -> None:
    process = run("pass")
    process.wait(PATIENCE)
    assert vitals_of(process.pid, None) is None


def test_nor_of_one_that_nobody_has_waited_for_yet(run: Run) -> None:
    # Else its last known memory would be forgotten: it has none any more.
    process = run(f"held = b'x' * {64 * MB}; print(1, flush=True); input()")
    step(process, go=False)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.pid_exists(process.pid)
    assert vitals_of(process.pid, None) is None


def test_a_process_on_its_way_out_is_never_seen_without_its_memory(run: Run) -> None:
    # It gives its memory back some time before it counts as ended.
    process = run(f"held = b'x' * {256 * MB}; print(1, flush=True); input()")
    step(process, go=False)
    process.kill()
    seen = []
    deadline = time.monotonic() + PATIENCE
    while (found := vitals_of(process.pid, None)) is not None:
        assert time.monotonic() < deadline
        seen.append(found.memory_bytes)
    assert all(memory > 0 for memory in seen)


def test_a_process_that_is_none_of_ours_to_look_at_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: psutil.Process) -> None:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "oneshot", refuse)
    assert vitals_of(os.getpid(), None) is None


def test_a_process_that_cannot_be_is_unknown() -> None:
    assert vitals_of(1 << 30, None) is None


@on_linux
def test_a_hub_without_a_file_descriptor_left_knows_nothing_but_does_not_fall_over() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        assert vitals_of(os.getpid(), None) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert vitals_of(os.getpid(), None) is not None


# The log, and the machine.


def test_the_length_of_the_log_is_told_along(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 123)
    lengths = [vitals_of(os.getpid(), path) for path in (log, tmp_path / "none", None)]
    assert [found.log_bytes for found in lengths if found] == [123, 0, 0]


def test_the_machine_has_memory_and_some_of_it_is_available() -> None:
    machine = ThisMachine()
    assert 0 < machine.available_memory() < machine.total_memory()
    assert 0 < of(os.getpid()).available_bytes < machine.total_memory()


def test_available_is_what_could_be_had_and_not_only_what_lies_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(total=9, available=5, free=1, used=4)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert ThisMachine().available_memory() == 5
    assert of(os.getpid()).available_bytes == 5


VMSTAT: dict[str, tuple[str, int | None]] = {
    "none yet": ("nr_free_pages 5\noom_kill 0\nnuma_hit 7\n", 0),
    "some": ("oom_kill 12\n", 12),
    "the last line": ("nr_free_pages 5\noom_kill 3", 3),
    "not another counter": ("oom_kill_x 9\nx_oom_kill 8\nnr_oom_kill 7\noom_kill 2\n", 2),
    "only other counters": ("xoom_kill 8\noom_kills 1\n", None),
    "an old kernel": ("nr_free_pages 5\n", None),
    "no number": ("oom_kill many\n", None),
    "nothing": ("", None),
}


@pytest.mark.parametrize(("text", "kills"), VMSTAT.values(), ids=VMSTAT)
def test_the_kernel_counts_whom_it_killed_for_want_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, kills: int | None
) -> None:
    (tmp_path / "vmstat").write_text(text)
    monkeypatch.setattr(vitals, "_VMSTAT", tmp_path / "vmstat")
    assert ThisMachine().oom_kills() == kills


def test_where_the_kernel_does_not_count_them_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "gone", tmp_path):
        monkeypatch.setattr(vitals, "_VMSTAT", path)
        assert ThisMachine().oom_kills() is None


@on_linux
def test_this_kernel_counts_them() -> None:
    assert ThisMachine().oom_kills() is not None
