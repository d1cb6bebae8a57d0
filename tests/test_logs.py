"""A model's log as the hub sees it: where it is, its length, what was written since, and its rotation while nobody writes."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxhub_core.logs import log_file, read_from, rotate, size


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return log_file(tmp_path / "logs", "qwen")


def write(log: Path, data: bytes) -> None:
    """One run of a model that writes this."""
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as file:
        file.write(data)


def test_the_log_is_named_after_the_model(tmp_path: Path) -> None:
    assert log_file(tmp_path, "qwen3-4b") == tmp_path / "qwen3-4b.log"


# What is no file.


def at_once(call: Callable[[], Any]) -> Any:
    """What it returns; that it does so, and waits for nobody."""
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=lambda: ended.put(call()), daemon=True).start()
    return ended.get(timeout=5)


def test_a_named_pipe_has_nothing_to_read_and_nobody_waits_for_it(log: Path) -> None:
    log.parent.mkdir()
    os.mkfifo(log)
    assert at_once(lambda: read_from(log, 0, 100)) == b""
    both = os.open(log, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(both, b"for somebody else\n")
        assert at_once(lambda: read_from(log, 0, 100)) == b""
        assert os.read(both, 100) == b"for somebody else\n", "and nothing is taken from whoever reads it"
    finally:
        os.close(both)
    assert size(log) == 0


def test_a_socket_has_nothing_to_read(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.parent.mkdir()
    monkeypatch.chdir(log.parent)  # The name of a socket must be short.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(log.name)
        assert at_once(lambda: read_from(log, 0, 100)) == b""


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_nothing_is_read_from_a_device(log: Path, device: str) -> None:
    log.parent.mkdir()
    log.symlink_to(device)
    assert (size(log), at_once(lambda: read_from(log, 0, 100))) == (0, b"")


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


# Rotation while nobody writes.


def test_a_log_that_nobody_writes_is_moved_on_and_begun_anew_for_the_user_alone(log: Path) -> None:
    for number in range(4):
        write(log, b"%d\n" % number)
        assert rotate(log, backups=2) is None
    found = {file.name: file.read_bytes() for file in log.parent.iterdir()}
    assert found == {"qwen.log": b"", "qwen.log.1": b"3\n", "qwen.log.2": b"2\n"}
    assert log.stat().st_mode & 0o777 == 0o600


def test_why_a_log_cannot_be_rotated_is_said(log: Path) -> None:
    write(log, b"x\n")
    log.with_name("qwen.log.1").mkdir()
    assert rotate(log, backups=1) in ("Is a directory", "Operation not permitted"), "as Linux or macOS has it"
    assert log.read_bytes() == b"x\n"


def test_rotating_costs_no_descriptor(log: Path) -> None:
    before = psutil.Process().num_fds()
    write(log, b"x\n")
    rotate(log, backups=1)
    assert psutil.Process().num_fds() == before
