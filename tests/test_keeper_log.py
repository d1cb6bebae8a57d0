"""The log that a keeper writes: no byte lost or out of order, whatever is done to the file, and what is told of trouble."""

from __future__ import annotations

import gzip
import os
import queue
import resource
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxhub_core.keeper import logfile
from mlxhub_core.keeper.logfile import NOTES, TAIL_LINES, Log, last_lines
from mlxhub_core.testing import wait_until


class Written:
    """A log under test, and what it has told."""

    def __init__(self, path: Path, max_bytes: int | None = None, backups: int = 3, *, compress: bool = False) -> None:
        self.path = path
        self.told: list[str | None] = []
        rules = {"max_bytes": max_bytes, "backups": backups, "compress": compress}
        self.log = Log(str(path), rules, self.told.append)
        self.log.open()

    def write(self, *pieces: bytes) -> None:
        for piece in pieces:
            # As in a keeper, whose buffer is longer than what is in it.
            self.log.write(bytearray(piece + b"old\n"), len(piece))

    def compressed(self) -> None:
        """Wait until all is compressed that shall be. A keeper is woken by a signal instead."""

        def idle() -> bool:
            self.log.see_to_compression()
            return self.log._compression is None

        wait_until(idle)

    def files(self) -> dict[str, bytes]:
        """What is beside the log, by what its name ends with."""
        found = {file.name.removeprefix(self.path.name): file.read_bytes() for file in self.path.parent.iterdir()}
        return {name: gzip.decompress(data) if name.endswith(".gz") else data for name, data in found.items()}


Open = Callable[..., Written]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "a.log"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    logs: list[Written] = []

    def start(*rules: Any, **more: Any) -> Written:
        logs.append(Written(path, *rules, **more))
        return logs[-1]

    yield start
    for written in logs:
        written.log.end()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


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


# Opening.


def test_directory_and_log_are_made_for_the_user_alone_whatever_the_umask(path: Path, opened: Open) -> None:
    before = os.umask(0)
    try:
        written = opened(4)
        written.write(b"one\n", b"two\n")
        assert (mode(path.parent), mode(path), mode(path.with_name("a.log.1"))) == (0o700, 0o600, 0o600)
    finally:
        os.umask(before)


def test_what_the_user_has_made_keeps_its_permissions(path: Path, opened: Open) -> None:
    path.parent.mkdir(mode=0o755)
    path.touch(mode=0o644)
    opened().write(b"x")
    assert (mode(path.parent), mode(path)) == (0o755, 0o644)


def test_a_restart_overwrites_nothing_and_knows_where_it_began(path: Path, opened: Open) -> None:
    opened().write(b"first run\n")
    again = opened()
    assert again.log.open() == len(b"first run\n")
    again.write(b"second run\n")
    assert path.read_bytes() == b"first run\nsecond run\n"


@pytest.mark.parametrize("in_the_way", ["logs", "logs/a.log/"], ids=["a file", "a directory"])
def test_what_is_in_the_way_is_named(tmp_path: Path, path: Path, opened: Open, in_the_way: str) -> None:
    if in_the_way.endswith("/"):
        path.mkdir(parents=True)
    else:
        path.parent.write_text("")
    with pytest.raises(OSError, match=str(tmp_path / in_the_way.rstrip("/"))):
        opened()


@pytest.mark.parametrize("is_read", [False, True], ids=["nobody reads", "somebody reads"])
def test_a_named_pipe_is_refused_at_once_as_it_could_make_the_model_wait(
    path: Path, opened: Open, is_read: bool
) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if is_read else None
    before = psutil.Process().num_fds()
    error = at_once(opened)
    assert isinstance(error, OSError)
    assert (error.filename, error.strerror) == (str(path), "no file that a log could be written to; remove it")
    assert psutil.Process().num_fds() == before, "and nothing of it stays open"
    if reader is not None:
        os.close(reader)


def test_no_program_that_is_started_inherits_the_log(opened: Open) -> None:
    written = opened()
    assert not os.get_inheritable(written.log._file)
    assert os.get_blocking(written.log._file), "nor is any write to be tried again"


def test_who_wants_no_log_can_have_it_nowhere(path: Path, opened: Open) -> None:
    path.parent.mkdir()
    path.symlink_to("/dev/null")
    written = opened(5)
    written.write(b"to nobody\n" * 10)
    assert (written.told, written.log.lost, os.listdir(path.parent)) == ([], 0, ["a.log"])


# Rotation by size.

ROTATIONS: dict[str, tuple[list[bytes], list[bytes]]] = {
    "below the limit": ([b"aaaa\n", b"bb\n"], [b"aaaa\nbb\n"]),
    "exactly at the limit": ([b"aaaa\n", b"bbbb\n"], [b"aaaa\nbbbb\n"]),
    "the next line after the limit": ([b"aaaa\nbbbb\n", b"c\n"], [b"aaaa\nbbbb\n", b"c\n"]),
    "several lines at once": ([b"aaaa\nbbbb\ncc\n"], [b"aaaa\nbbbb\n", b"cc\n"]),
    "a line that would cross it": ([b"aaaa\nbbbbbbbb\n"], [b"aaaa\n", b"bbbbbbbb\n"]),
    "a line that crosses it, begun before": ([b"aaaa\nbbb", b"bbb\ncc\n"], [b"aaaa\nbbbbbb\n", b"cc\n"]),
    "a line longer than it": ([b"a\n", b"x" * 25 + b"\ny\n"], [b"a\n", b"x" * 25 + b"\n", b"y\n"]),
    "a line longer than it, in pieces": ([b"x" * 9] * 3 + [b"\ny\n"], [b"x" * 27 + b"\n", b"y\n"]),
    "a line longer than the longest": ([b"x" * 50 + b"\ny\n"], [b"x" * 30, b"x" * 20 + b"\n", b"y\n"]),
    "the same in pieces": ([b"x"] * 50 + [b"\n", b"y\n"], [b"x" * 30, b"x" * 20 + b"\n", b"y\n"]),
    "zeros and no text": ([b"\0\xff\r\0\n\xc3\n\n\n\n\0\n"], [b"\0\xff\r\0\n\xc3\n\n\n\n", b"\0\n"]),
}


@pytest.mark.parametrize(("pieces", "files"), ROTATIONS.values(), ids=ROTATIONS)
def test_a_log_of_ten_bytes_is_rotated_between_two_lines(
    opened: Open, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes], files: list[bytes]
) -> None:
    monkeypatch.setattr(logfile, "LONGEST_LINE", 20)
    written = opened(10)
    written.write(*pieces)
    names = ["", ".1", ".2", ".3"]
    assert written.files() == dict(zip(names, reversed(files), strict=False))
    assert written.told == []


REQUEST = None
"""In a list of writes: a rotation on request."""
pieces = st.one_of(
    st.just(REQUEST),
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"a", b"bcd", b"\n"]), max_size=20).map(b"".join),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=8), st.integers(20, 60), st.integers(0, 30))
def test_all_bytes_are_in_order_over_all_files_and_only_an_endless_line_is_torn(
    said: list[bytes | None], limit: int, longest: int
) -> None:
    before, logfile.LONGEST_LINE = logfile.LONGEST_LINE, longest
    try:
        with tempfile.TemporaryDirectory() as directory:
            # Two neighbours are longer than the limit together, so there are not more than that.
            written = Written(Path(directory, "a.log"), limit, backups=60)
            torn_on_request = set()
            whole = b""
            for piece in said:
                if piece is REQUEST:
                    torn_on_request.add(len(whole))
                    written.log.rotate()
                else:
                    written.write(piece)
                    whole += piece
            files = written.files()
            written.log.close()
    finally:
        logfile.LONGEST_LINE = before
    ordered = [files[name] for name in sorted(files, key=lambda name: -int(name[1:] or 0))]
    assert b"".join(ordered) == whole
    assert max(map(len, ordered)) <= limit + longest
    end = 0
    for file in ordered[:-1]:
        end += len(file)
        if end not in torn_on_request and whole[end - 1 : end] != b"\n":
            assert len(whole[:end].rpartition(b"\n")[2] + whole[end:].partition(b"\n")[0]) > longest


def test_no_more_backups_are_kept_than_asked_for_raw_and_compressed_ones_alike(opened: Open) -> None:
    written = opened(backups=3)
    for number in range(3):
        written.write(b"%d\n" % number)
        written.log.rotate()
    packed = written.path.with_name("a.log.2.gz")
    packed.write_bytes(gzip.compress(b"1\n"))
    packed.with_suffix("").unlink()
    for number in (3, 4):
        written.write(b"%d\n" % number)
        written.log.rotate()
        assert ".3" not in written.files() or ".3.gz" not in written.files()
    assert written.files() == {"": b"", ".1": b"4\n", ".2": b"3\n", ".3": b"2\n"}


def test_a_log_with_nothing_in_it_is_not_rotated(opened: Open) -> None:
    written = opened()
    written.log.rotate()
    assert written.files() == {"": b""}


def test_rules_hold_from_the_next_write_on(opened: Open) -> None:
    written = opened()
    written.write(b"aaaa\n" * 10)
    written.log.rotation = {"max_bytes": 5, "backups": 1, "compress": False}
    written.write(b"b\n")
    assert written.files() == {"": b"b\n", ".1": b"aaaa\n" * 10}


def test_a_rotation_that_fails_loses_nothing_is_told_once_and_made_up_for(opened: Open) -> None:
    written = opened(10, backups=1)
    in_the_way = written.path.with_name("a.log.1")
    in_the_way.mkdir()
    for number in range(30):
        written.write(b"line %02d\n" % number)
    assert len(written.told) == 1
    assert str(written.told[0]).startswith("cannot be rotated: ")
    assert written.path.read_bytes() == b"".join(b"line %02d\n" % number for number in range(30))
    assert written.log.lost == 0
    in_the_way.rmdir()
    whole = written.path.read_bytes()
    written.write(b"more than ten bytes\n")
    assert (written.told[1:], in_the_way.read_bytes()) == ([None], whole)
    assert written.path.read_bytes() == b"more than ten bytes\n"


# Compression.


def test_what_was_rotated_is_compressed_for_the_user_alone_and_the_raw_file_is_gone(opened: Open) -> None:
    written = opened(compress=True)
    written.write(b"one\n" * 1000)
    os.utime(written.path, (1000, 1000))
    written.log.rotate()
    written.compressed()
    assert written.files() == {"": b"", ".1.gz": b"one\n" * 1000}
    packed = written.path.with_name("a.log.1.gz")
    assert mode(packed) == 0o600
    assert packed.stat().st_size < 1000
    assert packed.stat().st_mtime == 1000, "when it was last written, not when it was compressed"


def test_what_is_moved_on_while_it_is_compressed_is_found_where_it_is(opened: Open) -> None:
    written = opened(compress=True)
    for line in (b"1\n", b"2\n", b"3\n"):
        written.write(line)
        written.log.rotate()
    written.compressed()
    assert written.files() == {"": b"", ".1.gz": b"3\n", ".2.gz": b"2\n", ".3.gz": b"1\n"}


def test_what_is_dropped_while_it_is_compressed_stays_away(opened: Open) -> None:
    # Its number on the disk may be that of the next file by then.
    written = opened(backups=1, compress=True)
    for number in range(5):
        written.write(b"%d\n" % number)
        written.log.rotate()
    written.compressed()
    assert written.files() == {"": b"", ".1.gz": b"4\n"}


def test_a_compression_that_fails_leaves_the_raw_file_and_nothing_else_and_is_made_up_for(opened: Open) -> None:
    written = opened(compress=True)
    written.write(os.urandom(100_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # as on a disk that is nearly full
    try:
        written.log.rotate()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    written.compressed()
    raw = written.files()
    assert raw.keys() == {"", ".1"}
    written.write(b"x\n")
    written.log.rotate()
    written.compressed()
    assert written.files() == {"": b"", ".1.gz": b"x\n", ".2.gz": raw[".1"]}


def test_a_place_that_is_taken_keeps_nothing_from_being_compressed_later(opened: Open) -> None:
    written = opened(compress=True)
    taken = written.path.with_name("a.log.gz.part")
    taken.mkdir()
    written.write(b"1\n")
    written.log.rotate()
    written.compressed()
    taken.rmdir()
    assert written.files() == {"": b"", ".1": b"1\n"}
    opened(compress=True).log.compress()
    wait_until(lambda: written.log._compression is None)


def test_leftovers_of_a_keeper_that_was_killed_are_compressed_by_the_next_one(opened: Open) -> None:
    killed = opened(compress=True)
    killed.write(b"x" * 5_000_000 + b"\n")
    killed.log.rotate()  # and it is never seen to: that process may still write when the next one begins
    killed.path.with_name("a.log.2").write_bytes(b"older\n")
    again = opened(compress=True)
    again.log.compress()
    again.compressed()
    assert killed.log._compression is not None
    killed.log._compression._process.wait()
    assert again.files() == {"": b"", ".1.gz": b"x" * 5_000_000 + b"\n", ".2.gz": b"older\n"}


def test_what_another_keeper_has_half_compressed_is_taken_for_nobodys_result(opened: Open) -> None:
    former, latter = opened(compress=True), opened(compress=True)
    former.write(b"one\n")
    former.log.rotate()
    latter.log.compress()
    assert latter.log._compression is not None
    latter.log._compression._process.send_signal(signal.SIGSTOP)
    former.compressed()
    latter.log.end()
    assert latter.files() == {"": b"", ".1.gz": b"one\n"}, "not the empty file of the one that was held up"


def test_compressing_costs_no_descriptor(opened: Open) -> None:
    written = opened(compress=True)
    before = psutil.Process().num_fds()
    for _ in range(2):
        written.write(b"one\n")
        written.log.rotate()
        written.compressed()
    assert psutil.Process().num_fds() == before


def test_at_the_end_nothing_half_done_is_left(opened: Open) -> None:
    written = opened(compress=True)
    written.write(b"x" * 5_000_000 + b"\n")
    written.log.rotate()
    assert written.log._compression is not None
    process = written.log._compression._process
    written.log.end()
    assert process.returncode is not None
    assert written.files().keys() in ({"", ".1"}, {"", ".1.gz"})


def test_who_wants_no_compression_gets_none(opened: Open) -> None:
    written = opened(5)
    written.write(b"aaaa\n", b"b\n")
    assert written.log._compression is None
    assert written.files() == {"": b"b\n", ".1": b"aaaa\n"}


# What others do to the file.


def test_a_log_that_was_moved_away_is_begun_anew(path: Path, opened: Open, tmp_path: Path) -> None:
    written = opened()
    written.write(b"old\n")
    path.rename(tmp_path / "moved")
    written.write(b"new\n")
    assert ((tmp_path / "moved").read_bytes(), path.read_bytes()) == (b"old\n", b"new\n")
    (tmp_path / "other").write_bytes(b"mine\n")
    (tmp_path / "other").replace(path)
    written.write(b"newer\n")
    assert path.read_bytes() == b"mine\nnewer\n"


def test_a_log_that_was_removed_is_begun_anew_with_its_directory(path: Path, opened: Open) -> None:
    written = opened()
    written.write(b"old\n")
    path.unlink()
    written.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    path.unlink()
    path.parent.rmdir()
    written.write(b"newer\n")
    assert (path.read_bytes(), mode(path.parent), written.told) == (b"newer\n", 0o700, [])


def test_a_log_that_was_truncated_has_no_hole(path: Path, opened: Open) -> None:
    written = opened(6000)
    written.write(b"old\n" * 1000)
    os.truncate(path, 0)
    written.write(b"new\n")
    assert written.files() == {"": b"new\n"}


def test_without_a_directory_that_can_be_made_the_log_is_lost_counted_and_heals(path: Path, opened: Open) -> None:
    written = opened()
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way")
    written.write(b"12345", b"678")
    assert written.told == ["cannot be written: Not a directory"]
    path.parent.unlink()
    written.write(b"back\n")
    assert (written.told[1:], written.log.lost, path.read_bytes()) == ([None], 8, b"back\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_on_a_full_disk_what_is_lost_is_counted_and_begin_and_end_are_told_once(path: Path, opened: Open) -> None:
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    written = opened(100)
    written.write(*[b"0123456789"] * 50)
    assert written.told == ["cannot be written: No space left on device"]
    path.unlink()
    written.write(*[b"back\n"] * 3)
    assert (written.told[1:], written.log.lost, path.read_bytes()) == ([None], 500, b"back\n" * 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_trouble_that_comes_and_goes_all_the_time_is_told_a_few_times_and_its_end_for_sure(
    path: Path, opened: Open
) -> None:
    written = opened()
    for _ in range(200):
        path.unlink()
        path.symlink_to("/dev/full")
        written.write(b"lost")
        path.unlink()
        written.write(b"")
        written.write(b"kept")
    assert written.log.lost == 800
    assert 2 <= len(written.told) <= NOTES + 20, "many more in a second would be a flood of events"

    def calm() -> bool:
        written.write(b".")
        return written.told[-1] is None

    wait_until(calm)


def test_a_named_pipe_in_the_place_of_the_log_holds_nobody_up(path: Path, opened: Open) -> None:
    written = opened()
    path.unlink()
    os.mkfifo(path)
    at_once(lambda: written.write(b"lost\n"))
    assert written.told == ["cannot be written: no file that a log could be written to; remove it"]
    path.unlink()
    written.write(b"back\n")
    assert (written.told[1:], written.log.lost, path.read_bytes()) == ([None], 5, b"back\n")


# The last lines.

WIDEST = TAIL_LINES[1]
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
    "a character cut in two": ("é".encode()[1:] + b"t\xc3\xa9\n", ["\ufffdt\xe9"]),
    "zeros": (b"a\0b\n", ["a\0b"]),
    "other separators are none": ("a\x0bb\x0cc\x85d\u2028e\n".encode(), ["a\x0bb\x0cc\x85d\u2028e"]),
    "many": (b"".join(b"%d\n" % number for number in range(100)), [str(number) for number in range(80, 100)]),
    "a huge line": (b"cause: " + b"x" * 5000 + b"\nlast\n", [("cause: " + "x" * 5000)[:WIDEST], "last"]),
}


@pytest.mark.parametrize(("output", "lines"), TAILS.values(), ids=TAILS)
def test_the_last_lines_are_as_they_were_last_seen(output: bytes, lines: list[str]) -> None:
    assert last_lines(output) == lines
