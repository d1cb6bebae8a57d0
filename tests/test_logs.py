"""A model's log: how it is opened, its length, what was written since, and its last lines."""

from __future__ import annotations

import os
import queue
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxhub_core.logs import LINE_LENGTH, TAIL_BYTES, TAIL_LINES, log_file, open_log, read_from, size, tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return log_file(tmp_path / "logs", "qwen")


@pytest.fixture
def no_umask() -> Iterator[None]:
    """As for a user who by default lets everybody read and write."""
    old = os.umask(0)
    yield
    os.umask(old)


def write(log: Path, data: bytes) -> None:
    """One run of a model that writes this."""
    output = open_log(log)
    os.write(output, data)
    os.close(output)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Opening.


def test_the_log_is_named_after_the_model(tmp_path: Path) -> None:
    assert log_file(tmp_path, "qwen3-4b") == tmp_path / "qwen3-4b.log"


def test_directories_are_made_and_only_the_user_may_read_the_log(tmp_path: Path, no_umask: None) -> None:
    log = log_file(tmp_path / "deep" / "logs", "qwen")
    write(log, b"a prompt, perhaps")
    assert (mode(log.parent), mode(log)) == (0o700, 0o600)


def test_what_the_user_has_made_keeps_its_permissions(log: Path, no_umask: None) -> None:
    log.parent.mkdir(mode=0o755)
    log.touch(mode=0o644)
    write(log, b"x")
    assert (mode(log.parent), mode(log)) == (0o755, 0o644)


def test_a_restart_overwrites_nothing(log: Path) -> None:
    write(log, b"first run\n")
    write(log, b"second run\n")
    assert log.read_bytes() == b"first run\nsecond run\n"


def test_what_several_write_at_once_follows_one_another(log: Path) -> None:
    first, second = open_log(log), open_log(log)
    for output, line in ((first, b"1\n"), (second, b"2\n"), (first, b"3\n")):
        os.write(output, line)
    os.close(first)
    os.close(second)
    assert log.read_bytes() == b"1\n2\n3\n"


def test_truncating_a_log_leaves_no_hole(log: Path) -> None:
    output = open_log(log)
    os.write(output, b"old\n" * 1000)
    os.truncate(log, 0)
    os.write(output, b"new\n")
    os.close(output)
    assert log.read_bytes() == b"new\n"


def test_the_log_of_one_model_is_not_inherited_by_another(log: Path) -> None:
    output = open_log(log)
    program = f"import os; os.fstat({output})"
    child = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(child, check=False, close_fds=False, capture_output=True, text=True)
    os.close(output)
    assert "Bad file descriptor" in done.stderr


@pytest.mark.parametrize("in_the_way", ["logs", "logs/qwen.log/"], ids=["a file", "a directory"])
def test_what_is_in_the_way_is_named(tmp_path: Path, log: Path, in_the_way: str) -> None:
    if in_the_way.endswith("/"):
        log.mkdir(parents=True)
    else:
        log.parent.write_text("")
    with pytest.raises(OSError, match=str(tmp_path / in_the_way.rstrip("/"))):
        open_log(log)


# What is no file.


def at_once(call: Callable[[], Any]) -> Any:
    """What it returns or raises; that it does so, and waits for nobody."""
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            ended.put(call())
        except OSError as error:
            ended.put(error)

    threading.Thread(target=run, daemon=True).start()
    return ended.get(timeout=5)


@pytest.fixture
def pipe(log: Path) -> Path:
    log.parent.mkdir()
    os.mkfifo(log)
    return log


@pytest.fixture(params=[False, True], ids=["nobody reads", "somebody reads"])
def read_pipe(pipe: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) if request.param else None
    yield pipe
    if reader is not None:
        os.close(reader)


def next_descriptor() -> int:
    lowest = os.dup(0)
    os.close(lowest)
    return lowest


def test_a_named_pipe_is_refused_as_it_could_make_the_hub_or_the_model_wait(read_pipe: Path) -> None:
    before = next_descriptor()
    error = at_once(lambda: open_log(read_pipe))
    assert isinstance(error, OSError)
    assert error.filename == str(read_pipe)
    assert "no file that a log could be written to; remove it" in str(error)
    assert next_descriptor() == before, "and nothing of it stays open"


def test_a_socket_is_refused(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.parent.mkdir()
    monkeypatch.chdir(log.parent)  # The name of a socket must be short.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(log.name)
        listener.listen()
        assert isinstance(at_once(lambda: open_log(log)), OSError)


def test_a_named_pipe_has_nothing_to_read_and_nobody_waits_for_it(pipe: Path) -> None:
    assert at_once(lambda: read_from(pipe, 0, 100)) == b""
    assert at_once(lambda: tail(pipe)) == ()
    both = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(both, b"for somebody else\n")
        assert at_once(lambda: read_from(pipe, 0, 100)) == b""
        assert os.read(both, 100) == b"for somebody else\n", "and nothing is taken from whoever reads it"
    finally:
        os.close(both)
    assert size(pipe) == 0


def test_who_wants_no_log_can_have_it_nowhere(log: Path) -> None:
    log.parent.mkdir()
    log.symlink_to("/dev/null")
    write(log, b"to nobody")
    assert (size(log), read_from(log, 0, 100), tail(log)) == (0, b"", ())


def test_nothing_is_read_from_a_device_without_an_end(log: Path) -> None:
    log.parent.mkdir()
    log.symlink_to("/dev/zero")
    assert at_once(lambda: read_from(log, 0, 100)) == b""


@pytest.mark.parametrize("target", [None, "/dev/null"], ids=["a file", "nowhere"])
def test_who_writes_a_log_never_hears_that_it_must_try_again(log: Path, target: str | None) -> None:
    log.parent.mkdir()
    if target is not None:
        log.symlink_to(target)
    output = open_log(log)
    assert os.get_blocking(output)
    os.close(output)


# Its length.


def test_the_size_of_a_log_is_what_was_written(log: Path) -> None:
    write(log, "✓\n".encode())
    assert size(log) == 4
    write(log, b"more")
    assert size(log) == 8
    os.truncate(log, 1)
    assert size(log) == 1


def test_a_log_that_is_not_there_has_no_size(log: Path) -> None:
    assert size(log) == 0
    log.parent.mkdir()
    log.symlink_to(log)
    assert size(log) == 0, "nor has one that only points to itself"
    log.unlink()
    log.parent.rmdir()
    log.parent.write_text("a file in the place of its directory")
    assert size(log) == 0


# What was written since.


ALPHABET = b"abcdefghij"

READINGS: dict[str, tuple[int, int, bytes]] = {
    "all": (0, 100, ALPHABET),
    "exactly all": (0, 10, ALPHABET),
    "from a byte on": (7, 100, b"hij"),
    "the last byte": (9, 100, b"j"),
    "nothing new": (10, 100, b""),
    "only the end": (0, 3, b"hij"),
    "the end of what is new": (2, 3, b"hij"),
    "less than the limit": (8, 3, b"ij"),
    "none": (0, 0, b""),
    "shorter than it was": (11, 100, ALPHABET),
    "shorter, and only the end": (1_000_000, 4, b"ghij"),
}


@pytest.mark.parametrize(("since", "limit", "read"), READINGS.values(), ids=READINGS)
def test_what_was_written_since_is_read_and_if_it_is_much_its_end(
    log: Path, since: int, limit: int, read: bytes
) -> None:
    write(log, ALPHABET)
    assert read_from(log, since, limit) == read


def test_reading_since_the_size_finds_exactly_what_follows(log: Path) -> None:
    for text in (b"one\n", b"\xff\0", "✓".encode(), b""):
        since = size(log)
        write(log, text)
        assert read_from(log, since, 1000) == text


def test_of_a_log_beyond_all_memory_only_the_end_is_read(log: Path) -> None:
    write(log, b"first\n")
    os.truncate(log, 1 << 38)
    write(log, b"last\n")
    assert size(log) == (1 << 38) + 5
    assert read_from(log, 0, 6) == b"\0last\n"


def test_a_log_that_was_replaced_is_read_where_it_is_now(log: Path, tmp_path: Path) -> None:
    write(log, b"old and long\n")
    since = size(log)
    (tmp_path / "other").write_bytes(b"new\n")
    (tmp_path / "other").replace(log)
    assert read_from(log, since, 1000) == b"new\n"


def test_a_log_that_cannot_be_read_has_nothing_new(log: Path) -> None:
    assert read_from(log, 0, 1000) == b"", "it is not there"
    log.mkdir(parents=True)
    assert read_from(log, 0, 1000) == b"", "it is a directory"


# The last lines.


TAILS: dict[str, tuple[bytes, list[str]]] = {
    "no lines": (b"", []),
    "nothing but space": (b"\n \r\n\t\n", []),
    "one line": (b"one\n", ["one"]),
    "a line that has not ended": (b"one\ntw", ["one", "tw"]),
    "empty lines at the end": (b"one\n\n\n", ["one"]),
    "empty lines between": (b"one\n\ntwo\n", ["one", "", "two"]),
    "indentation": (b"Traceback:\n  File x\n", ["Traceback:", "  File x"]),
    "a progress bar": (b"\r10%\r55%\r99%\ndone\n", ["99%", "done"]),
    "a progress bar that goes on": (b"loading\n\r10%\r55%", ["loading", "55%"]),
    "a progress bar that ends its lines with a return": (b"10%\r55%\r", ["55%"]),
    "lines as on Windows": (b"one\r\ntwo\r\n", ["one", "two"]),
    "a progress bar as on Windows": (b"10%\r99%\r\ndone\r\n", ["99%", "done"]),
    "UTF-8": ("Modèle prêt ✓\n".encode(), ["Modèle prêt ✓"]),
    "no UTF-8": (b"caf\xe9 \xff\n", ["caf\ufffd \ufffd"]),
    "zeros": (b"a\0b\n", ["a\0b"]),
    "other separators are none": ("a\x0bb\x0cc\x85d\u2028e\n".encode(), ["a\x0bb\x0cc\x85d\u2028e"]),
}


@pytest.mark.parametrize(("data", "lines"), TAILS.values(), ids=TAILS)
def test_the_tail_has_the_lines_as_they_were_last_seen(log: Path, data: bytes, lines: list[str]) -> None:
    write(log, data)
    assert tail(log) == tuple(lines)


def test_the_tail_is_short(log: Path) -> None:
    write(log, b"".join(b"line %d\n" % number for number in range(100_000)))
    assert tail(log) == tuple(f"line {number}" for number in range(100_000 - TAIL_LINES, 100_000))


@pytest.mark.parametrize("lines", [0, 1, 2, 3, 100])
def test_the_tail_has_as_many_lines_as_asked_for(log: Path, lines: int) -> None:
    write(log, b"1\n2\n3\n")
    assert tail(log, lines=lines) == ("1", "2", "3")[max(0, 3 - lines) :]


def test_a_huge_line_is_cut(log: Path) -> None:
    write(log, b"cause: " + b"x" * (TAIL_BYTES - 100) + b"\nlast\n")
    cut, last = tail(log)
    assert (len(cut), last) == (LINE_LENGTH, "last")
    assert cut.startswith("cause: xxx")


def test_of_a_line_without_an_end_only_the_end_is_read(log: Path) -> None:
    write(log, b"x" * (10 * TAIL_BYTES) + b"\nlast\n")
    assert [len(line) for line in tail(log)] == [LINE_LENGTH, len("last")]


def test_a_character_that_is_cut_in_two_is_no_error(log: Path) -> None:
    write(log, "é".encode() * TAIL_BYTES + b"\n")
    (line,) = tail(log)
    assert line.strip("\ufffd") == "é" * len(line.strip("\ufffd"))


def test_binary_output_is_no_error(log: Path) -> None:
    write(log, bytes(range(256)) * 1000)
    assert all(len(line) <= LINE_LENGTH for line in tail(log))


def test_the_tail_of_a_run_has_nothing_of_the_runs_before(log: Path) -> None:
    write(log, b"old\nold, and not ended")
    begin = log.stat().st_size
    assert tail(log, since=begin) == ()
    write(log, b"new\n")
    assert tail(log, since=begin) == ("new",)


def test_a_log_that_was_truncated_meanwhile_is_all_new(log: Path) -> None:
    write(log, b"old\n" * 10)
    begin = log.stat().st_size
    os.truncate(log, 0)
    write(log, b"new\n")
    assert tail(log, since=begin) == ("new",)


def test_of_a_long_run_only_the_end_is_read(log: Path) -> None:
    write(log, b"old\n")
    begin = log.stat().st_size
    write(log, b"x" * 99 + b"\n" + b"y\n" * TAIL_BYTES)
    assert tail(log, since=begin) == ("y",) * TAIL_LINES


def test_the_size_of_a_log_does_not_matter(log: Path) -> None:
    write(log, b"first\n")
    # Mostly a hole, and far too big for the memory.
    os.truncate(log, 1 << 38)
    write(log, b"\nlast\n")
    assert tail(log) == ("\0" * LINE_LENGTH, "last")


def test_a_log_that_is_not_there_has_no_lines(log: Path) -> None:
    assert tail(log) == ()
    log.mkdir(parents=True)
    assert tail(log) == (), "nor has a directory"
