"""How a process ended, and why: from its exit, its last lines and the machine's memory to a `Failure`."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest

from mlxhub_core.events import Failure, Reason
from mlxhub_core.exits import signal_name
from mlxhub_core.process import Exit
from mlxhub_core.supervisor.endings import LAST_WORDS, Shortage, Trouble, failure, shortage
from mlxhub_core.vitals import Vitals

ENOUGH = Shortage(kills=0, low=False)
TOTAL = 32_000_000_000


@dataclass
class FakeMachine:
    """A machine that says what the test wants."""

    kills: int | None = 0

    def available_memory(self) -> int:
        return TOTAL

    def total_memory(self) -> int:
        return TOTAL

    def memory_of(self, pid: int) -> int:
        return 0

    def oom_kills(self) -> int | None:
        return self.kills


def ended(code: int, *tail: str, memory: Shortage = ENOUGH, trouble: Trouble | None = None) -> Failure:
    return failure(Exit(code, tail=tail), time=5.0, uptime=2.5, trouble=trouble, memory=memory)


def test_a_failure_holds_all_that_is_known() -> None:
    tail = ("loading", "Segmentation fault")
    assert ended(-11, *tail) == Failure(5.0, Reason.SIGNAL, -11, "SIGSEGV", None, 2.5, tail)


@pytest.mark.parametrize(
    ("code", "reason", "name"),
    [
        (1, Reason.CRASH, None),
        (255, Reason.CRASH, None),
        (137, Reason.CRASH, None),
        (-1, Reason.SIGNAL, "SIGHUP"),
        (-9, Reason.SIGNAL, "SIGKILL"),
        (-15, Reason.SIGNAL, "SIGTERM"),
    ],
)
def test_an_exit_code_is_a_crash_and_a_signal_is_a_signal(code: int, reason: Reason, name: str | None) -> None:
    ending = ended(code)
    assert (ending.reason, ending.exit_code, ending.signal, ending.detail) == (reason, code, name, None)


@pytest.mark.parametrize("number", list(signal.valid_signals()), ids=int)
def test_every_signal_has_a_name(number: int) -> None:
    assert (signal_name(-number) or "").lower().startswith("sig")


@pytest.mark.parametrize(("code", "name"), [(0, None), (9, None), (-200, "signal 200")])
def test_what_is_no_known_signal_has_no_wrong_name(code: int, name: str | None) -> None:
    assert signal_name(code) == name


# Memory that ran out, in the words of those who met it.

OUT_OF_MEMORY = {
    "metal": (
        "RuntimeError: [METAL] Command buffer execution failed: Insufficient Memory"
        " (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
    ),
    "metal in brief": "[METAL] Command buffer execution failed: Insufficient Memory.",
    "metal's own word alone": "status: kIOGPUCommandBufferCallbackErrorOutOfMemory",
    "metal, one buffer": (
        "[metal::malloc] Attempting to allocate 40000000000 bytes which is greater than the maximum allowed buffer size"
    ),
    "mlx": "[malloc_or_wait] Unable to allocate 8589934592 bytes.",
    "python": "MemoryError",
    "python with words": "MemoryError: (1048576, 1048576)",
    "numpy": "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.28 TiB for an array",
    "c++": "terminate called after throwing an instance of 'std::bad_alloc'",
    "c library": "OSError: [Errno 12] Cannot allocate memory",
    "torch": "torch.cuda.OutOfMemoryError: tried to get 2 GiB",
    "cuda": "CUDA error: CUDA_ERROR_OUT_OF_MEMORY",
    "cuda in words": "cudaMallocAsync failed: out of memory",
    "java": "java.lang.OutOfMemoryError: Java heap space",
    "within a log line": "2026-01-01 12:00:00 ERROR (worker) ValueError('out of memory')",
    "with dashes": "fatal: out-of-memory",
}


@pytest.mark.parametrize("line", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
@pytest.mark.parametrize("code", [1, -6], ids=["exit code", "signal"])
def test_words_about_memory_are_evidence(line: str, code: int) -> None:
    ending = ended(code, "Traceback (most recent call last):", line, "good bye")
    assert (ending.reason, ending.detail, ending.exit_code) == (Reason.SUSPECTED_OOM, line, code)


OTHER_WORDS = {
    "gpu timeout": "[METAL] Command buffer execution failed: Caused GPU Timeout Error (00000002)",
    "how much there is": "memory: 30.1 GB of 32.0 GB in use",
    "limits": "Set wired memory limit to 24 GB",
    "another limit": "[metal::Device] Unable to load kernel",
    "resource limit": "RuntimeError: [metal] Resource limit (499000) exceeded.",
    "names like it": "NotAMemoryErrorAtAll in bad_allocator.py",
    "a file": "FileNotFoundError: memory.json",
    "disk": "OSError: [Errno 28] No space left on device",
    "nothing": "",
}


@pytest.mark.parametrize("line", OTHER_WORDS.values(), ids=OTHER_WORDS)
def test_other_words_are_none(line: str) -> None:
    assert ended(1, line).reason is Reason.CRASH


def test_the_last_words_about_memory_are_the_detail() -> None:
    ending = ended(1, "MemoryError: first", "MemoryError: last", "bye")
    assert ending.detail == "MemoryError: last"
    assert ending.log_tail == ("MemoryError: first", "MemoryError: last", "bye"), "and the tail stays as it was"


@pytest.mark.parametrize("lines", range(8))
def test_only_last_words_are_evidence(lines: int) -> None:
    # A server that went on for long after it had refused somebody a big request died of something else.
    ending = ended(1, "loading", "MemoryError: mine", *["on it goes"] * lines)
    assert (ending.reason is Reason.SUSPECTED_OOM) is (lines < LAST_WORDS)
    assert (ending.detail == "MemoryError: mine") is (lines < LAST_WORDS)


def test_there_are_five_last_words() -> None:
    assert LAST_WORDS == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_no_words_make_a_signal_that_people_send_a_want_of_memory(number: signal.Signals) -> None:
    ending = ended(-number, "MemoryError", memory=Shortage(1, low=True))
    assert (ending.reason, ending.signal, ending.detail) == (Reason.SIGNAL, number.name, None)


@pytest.mark.parametrize("code", [129, 130, 131, 143])
def test_nor_do_they_when_a_shell_tells_of_such_a_signal(code: int) -> None:
    assert ended(code, "MemoryError").reason is Reason.CRASH


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGTRAP, signal.SIGILL]
)
def test_words_before_any_other_signal_are_evidence(number: signal.Signals) -> None:
    ending = ended(-number, "libc++abi: Insufficient Memory", "")
    assert (ending.reason, ending.signal) == (Reason.SUSPECTED_OOM, number.name)


@pytest.mark.parametrize("code", [1, 2, 3, 15])
def test_an_exit_code_with_the_number_of_such_a_signal_is_none(code: int) -> None:
    assert ended(code, "MemoryError").reason is Reason.SUSPECTED_OOM


def test_words_that_are_too_old_do_not_hide_what_the_system_says() -> None:
    ending = ended(-9, "MemoryError: mine", *["on"] * LAST_WORDS, memory=Shortage(1, low=False))
    assert "killed processes for want of memory" in (ending.detail or "")


def test_the_detail_cannot_upset_a_terminal() -> None:
    assert ended(1, "\t\x1b[31mMemoryError:\x1b[2J\x07 \x9bbig\t tensor  ").detail == "MemoryError: big tensor"


def test_words_in_colour_are_read_too() -> None:
    # As Python 3.13 writes a traceback where FORCE_COLOR is set.
    ending = ended(1, "\x1b[1;35mMemoryError\x1b[0m: \x1b[35m(1, 1)\x1b[0m")
    assert (ending.reason, ending.detail) == (Reason.SUSPECTED_OOM, "MemoryError: (1, 1)")


# Memory that ran out, as the system sees it.

KILLS: dict[str, tuple[int, Shortage, bool]] = {
    "killed, and the system killed": (-9, Shortage(kills=1, low=False), True),
    "killed, and it killed more than once": (-9, Shortage(kills=3, low=False), True),
    "killed by somebody else": (-9, Shortage(kills=0, low=False), False),
    "killed by somebody else while memory was low": (-9, Shortage(kills=0, low=True), False),
    "killed where nobody counts": (-9, Shortage(kills=None, low=False), False),
    "killed where nobody counts, and memory was low": (-9, Shortage(kills=None, low=True), True),
    "terminated while others were killed": (-15, Shortage(kills=1, low=True), False),
    "segmentation fault with low memory": (-11, Shortage(kills=None, low=True), False),
    "crashed while others were killed": (1, Shortage(kills=1, low=True), False),
    "exit code 9 is no signal": (9, Shortage(kills=1, low=True), False),
}


@pytest.mark.parametrize(("code", "memory", "suspected"), KILLS.values(), ids=KILLS)
def test_only_a_sigkill_with_evidence_is_suspected(code: int, memory: Shortage, suspected: bool) -> None:
    ending = ended(code, "all was well", memory=memory)
    assert (ending.reason is Reason.SUSPECTED_OOM) is suspected
    assert (ending.detail is not None) is suspected


def test_each_kind_of_evidence_is_said() -> None:
    assert "killed processes for want of memory" in (ended(-9, memory=Shortage(1, low=False)).detail or "")
    assert "hardly any memory was left" in (ended(-9, memory=Shortage(None, low=True)).detail or "")


def test_its_own_words_count_more_than_those_of_the_system() -> None:
    assert ended(-9, "MemoryError: mine", memory=Shortage(1, low=True)).detail == "MemoryError: mine"


# What the machine says.


def vitals(available: int) -> Vitals:
    return Vitals(1.0, 1, 1, available)


@pytest.mark.parametrize(
    ("before", "now", "kills"),
    [(0, 0, 0), (7, 7, 0), (7, 9, 2), (None, 3, None), (3, None, None), (None, None, None)],
    ids=["never", "long ago", "meanwhile", "unknown before", "unknown now", "never known"],
)
def test_only_kills_while_the_process_ran_count(before: int | None, now: int | None, kills: int | None) -> None:
    assert shortage(before, None, FakeMachine(now)).kills == kills


def test_kills_before_the_last_look_at_the_process_were_of_others() -> None:
    # Else one of another program's weeks ago would explain a `kill -9` of today.
    assert shortage(3, Vitals(1.0, 1, 1, 1, oom_kills=7), FakeMachine(7)).kills == 0
    assert shortage(3, Vitals(1.0, 1, 1, 1, oom_kills=7), FakeMachine(8)).kills == 1
    assert shortage(3, Vitals(1.0, 1, 1, 1, oom_kills=None), FakeMachine(7)).kills == 4


def test_a_shell_whose_child_was_killed_says_so_by_its_exit_code() -> None:
    ending = ended(137, memory=Shortage(1, low=False))
    assert (ending.reason, ending.exit_code, ending.signal) == (Reason.SUSPECTED_OOM, 137, None)
    assert ended(137, memory=Shortage(0, low=True)).reason is Reason.CRASH


@pytest.mark.parametrize(
    ("seen", "low"),
    [
        (vitals(int(0.049 * TOTAL)), True),
        (vitals(0), True),
        (vitals(int(0.051 * TOTAL)), False),
        (vitals(TOTAL), False),
        (None, False),
    ],
    ids=["just under a twentieth", "none", "just over a twentieth", "all", "never looked"],
)
def test_memory_is_low_if_it_was_when_the_process_was_last_looked_at(seen: Vitals | None, low: bool) -> None:
    # Not now: with the process its memory has come back.
    assert shortage(0, seen, FakeMachine()).low is low


# Processes that the hub itself ended.


@pytest.mark.parametrize("reason", [Reason.UNHEALTHY, Reason.STARTUP_TIMEOUT])
@pytest.mark.parametrize("code", [0, -15, -9, 1])
def test_a_process_that_the_hub_gave_up_tells_why_and_not_how_it_ended(reason: Reason, code: int) -> None:
    trouble = Trouble(reason, "HTTP 503, 3 times in a row")
    ending = ended(code, "MemoryError", memory=Shortage(1, low=True), trouble=trouble)
    assert (ending.reason, ending.detail) == (reason, "HTTP 503, 3 times in a row")
    assert (ending.exit_code, ending.signal) == (code, signal_name(code)), "which is still there for those who ask"


def test_a_trouble_without_words_has_no_detail() -> None:
    assert ended(-15, trouble=Trouble(Reason.UNHEALTHY, "")).detail is None
