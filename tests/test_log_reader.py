"""Reading a log through its rotations: no byte is missing, none comes twice."""

from __future__ import annotations

import gzip
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxhub_core.keeper.logfile import Log
from mlxhub_core.log_reader import CHUNK, LogReader, Mark
from mlxhub_core.testing import wait_until


class Files:
    """A log and its rotated files, made by hand: the oldest first, each an hour after the one before."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self, *contents: bytes, zipped: int = 0) -> None:
        for number, content in zip(range(len(contents) - 1, -1, -1), contents, strict=True):
            name = self.path if number == 0 else Path(f"{self.path}.{number}")
            if number and number >= len(contents) - zipped:
                name = Path(f"{name}.gz")
                name.write_bytes(gzip.compress(content))
            else:
                name.write_bytes(content)
            self.written_at(name, self.hour(len(contents) - 1 - number))

    @staticmethod
    def hour(number: int) -> float:
        return 1_000_000.0 + 3600 * number

    @staticmethod
    def written_at(name: Path, time: float) -> None:
        os.utime(name, (time, time))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "a.log")


def read(path: Path, begin: Mark | None = None, end: Mark | None = None, lines: int | None = None) -> bytes:
    with LogReader(path, begin=begin, end=end, lines=lines) as reader:
        return b"".join(reader.read())


# What is there.


@pytest.mark.parametrize("zipped", [0, 1, 2])
def test_the_whole_log_is_told_from_the_oldest_rotated_file_on(files: Files, zipped: int) -> None:
    files.make(b"one\n", b"two\n\xff\x00\n", b"three\nfo", zipped=zipped)
    assert read(files.path) == b"one\ntwo\n\xff\x00\nthree\nfo"


@pytest.mark.parametrize("zipped", [0, 1, 2])
@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_the_last_lines_are_those_that_tail_would_show_of_one_long_file(
    files: Files, zipped: int, ending: bytes
) -> None:
    files.make(b"1\n2\n3\n", b"4\n\n6\n", b"7\n8" + ending, zipped=zipped)
    whole = [b"1\n", b"2\n", b"3\n", b"4\n", b"\n", b"6\n", b"7\n", b"8" + ending]
    for count in range(10):
        assert read(files.path, lines=count) == b"".join(whole[len(whole) - count if count < 8 else 0 :]), count


def test_an_empty_log_after_a_rotation_shows_the_lines_before_it(files: Files) -> None:
    files.make(b"1\n2\n", b"")
    assert read(files.path, lines=1) == b"2\n"


@pytest.mark.parametrize("zipped", [0, 1])
def test_lines_longer_than_what_is_read_at_once_are_whole(files: Files, zipped: int) -> None:
    rows = [bytes([97 + index]) * (CHUNK // 2 * index + 7) + b"\n" for index in range(6)]
    files.make(b"".join(rows[:4]), b"".join(rows[4:]), zipped=zipped)
    for count in range(7):
        assert read(files.path, lines=count) == b"".join(rows[6 - count :])


@pytest.mark.parametrize("make", [lambda path: None, os.mkdir, os.mkfifo], ids=["nothing", "directory", "pipe"])
def test_a_log_that_cannot_be_read_is_empty(files: Files, make: Callable[[Path], None]) -> None:
    make(files.path)
    for lines in (None, 0, 5):
        assert read(files.path, lines=lines) == b""


def test_a_compressed_file_that_is_broken_is_told_as_far_as_it_goes(files: Files) -> None:
    files.make(b"one\n", b"two\n", b"three\n", zipped=2)
    broken = Path(f"{files.path}.1.gz")
    broken.write_bytes(broken.read_bytes()[:-9])
    assert read(files.path) == b"one\ntwo\nthree\n"
    broken.write_bytes(b"no such thing")
    assert read(files.path) == b"one\nthree\n"


def test_a_name_that_is_missing_while_the_log_is_rotated_hides_nothing_and_a_file_met_twice_is_told_once(
    files: Files,
) -> None:
    files.make(b"1\n", b"2\n", b"3\n", b"4\n")
    Path(f"{files.path}.1").unlink()
    Path(f"{files.path}.4").hardlink_to(f"{files.path}.3")
    assert read(files.path) == b"1\n2\n4\n"


def test_of_very_many_rotated_files_only_the_newest_are_opened(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxhub_core.log_reader.DEPTH", 2)
    files.make(b"1\n", b"2\n", b"3\n", b"4\n")
    assert read(files.path) == b"2\n3\n4\n"


# Since a run began.


def test_the_output_of_a_run_and_of_the_one_before_end_and_begin_where_they_should(files: Files) -> None:
    files.make(b"first\nsecond\nthird\n")
    first, second, third = (Mark(byte, files.hour(0) - 10 + byte / 10) for byte in (0, 6, 13))
    assert read(files.path, third) == b"third\n"
    assert read(files.path, second, third) == b"second\n"
    assert read(files.path, first, second) == b"first\n"
    assert read(files.path, first, third, lines=1) == b"second\n"
    assert read(files.path, Mark(19, files.hour(1))) == b"", "one that has not written yet"


@pytest.mark.parametrize("zipped", [0, 1, 2])
def test_a_run_whose_log_was_rotated_is_told_from_the_rotated_file_on(files: Files, zipped: int) -> None:
    files.make(b"older\nrun A\n", b"A\nrun B\n", b"B\n", zipped=zipped)
    a, b = Mark(6, files.hour(0) - 60), Mark(2, files.hour(1) - 60)
    assert read(files.path, a) == b"run A\nA\nrun B\nB\n"
    assert read(files.path, a, b) == b"run A\nA\n"
    assert read(files.path, b) == b"run B\nB\n"
    assert read(files.path, b, lines=1) == b"B\n"


def test_a_run_that_wrote_at_once_is_told_though_the_clock_of_files_is_behind(files: Files) -> None:
    files.make(b"older\nrun A\n", b"")
    assert read(files.path, Mark(6, files.hour(0) + 0.009)) == b"run A\n"
    assert read(files.path, Mark(6, files.hour(0) + 0.011)) == b""


def test_a_run_that_was_silent_until_its_log_was_rotated_is_told_from_the_beginning_of_the_new_file(
    files: Files,
) -> None:
    files.make(b"of others\n", b"its first line\n")
    now = Path(f"{files.path}.1").stat().st_ctime
    assert read(files.path, Mark(3, now - 60)) == b"its first line\n"
    assert read(files.path, Mark(4, now + 60)) == b"first line\n", "it was rotated before that one began"


def test_a_log_that_was_truncated_is_all_of_the_run(files: Files) -> None:
    files.make(b"short\n")
    assert read(files.path, Mark(1000, files.hour(0) - 60)) == b"short\n"


def test_a_log_that_was_removed_has_nothing_of_a_run_that_began_after_its_last_rotation(files: Files) -> None:
    files.make(b"of others\n", b"x\n")
    files.path.unlink()
    assert read(files.path, Mark(0, files.hour(1))) == b""
    assert read(files.path, Mark(3, files.hour(0) - 1)) == b"others\n"


# As it grows.


@pytest.fixture
def log(files: Files) -> Log:
    return Log(str(files.path), {"max_bytes": 1000, "backups": 5, "compress": False}, lambda _: None)


def write(log: Log, data: bytes) -> None:
    log.write(bytearray(data), len(data))


def rest(reader: LogReader) -> bytes:
    return b"".join(iter(reader.more, b""))


def test_a_follower_gets_what_is_written_after_what_was_there_and_each_byte_once(files: Files, log: Log) -> None:
    write(log, b"before\n")
    with LogReader(files.path) as reader:
        assert b"".join(reader.read()) == b"before\n"
        assert reader.more() == b""
        write(log, b"half a ")
        assert reader.more() == b"half a "
        write(log, b"line\n\xff")
        assert rest(reader) == b"line\n\xff"


def test_a_follower_that_wants_no_line_of_before_gets_only_the_new_ones(files: Files, log: Log) -> None:
    write(log, b"before\n")
    with LogReader(files.path, lines=0) as reader:
        assert b"".join(reader.read()) == b""
        write(log, b"after\n")
        assert rest(reader) == b"after\n"


def test_a_follower_goes_on_through_rotations_also_several_between_two_looks(files: Files, log: Log) -> None:
    with LogReader(files.path) as reader:
        assert b"".join(reader.read()) == b""
        for rotations in (1, 2, 4):
            sent = b""
            for number in range(rotations + 1):
                sent += (line := b"%d of %d\n" % (number, rotations))
                write(log, line)
                if number < rotations:
                    log.rotate()
            assert rest(reader) == sent


def test_files_that_were_written_within_one_tick_of_the_clock_are_told_apart(files: Files, log: Log) -> None:
    with LogReader(files.path) as reader:
        for line in (b"a\n", b"b\n", b"c\n"):
            write(log, line)
            files.written_at(files.path, files.hour(1))
            if line == b"a\n":
                assert rest(reader) == line
            if line != b"c\n":
                log.rotate()
        assert rest(reader) == b"b\nc\n"


def test_what_was_written_before_a_rotation_and_not_read_yet_is_not_lost(files: Files, log: Log) -> None:
    with LogReader(files.path) as reader:
        write(log, b"a\n")
        assert rest(reader) == b"a\n"
        write(log, b"b\n")
        log.rotate()
        assert rest(reader) == b"b\n"
        write(log, b"c\n")
        assert rest(reader) == b"c\n"


def test_a_file_that_was_compressed_before_the_follower_got_to_its_end_is_not_lost(files: Files, log: Log) -> None:
    write(log, b"a\n")
    with LogReader(files.path, lines=0) as reader:
        write(log, b"b\n")
        log.rotate()
        os.utime(f"{files.path}.1", (files.hour(0), files.hour(0)))
        packed = Path(f"{files.path}.1.gz")
        packed.write_bytes(gzip.compress(Path(f"{files.path}.1").read_bytes()))
        files.written_at(packed, files.hour(0))
        Path(f"{files.path}.1").unlink()
        write(log, b"c\n")
        log.rotate()
        Path(f"{files.path}.1.gz").write_bytes(gzip.compress(Path(f"{files.path}.1").read_bytes()))
        Path(f"{files.path}.1").unlink()
        write(log, b"d\n")
        assert rest(reader) == b"b\nc\nd\n"


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_log_that_is_moved_away_or_removed_goes_on_in_the_next_file_of_its_name(
    files: Files, log: Log, how: str
) -> None:
    with LogReader(files.path) as reader:
        write(log, b"a\n")
        assert rest(reader) == b"a\n"
        write(log, b"b\n")
        files.path.rename(f"{files.path}-20261126") if how == "moved" else files.path.unlink()
        assert rest(reader) == b"b\n"
        write(log, b"c\n")
        assert rest(reader) == b"c\n"


def test_a_log_that_is_truncated_is_read_from_its_new_beginning(files: Files, log: Log) -> None:
    with LogReader(files.path) as reader:
        write(log, b"a long line\n")
        assert rest(reader) == b"a long line\n"
        os.truncate(files.path, 0)
        assert rest(reader) == b""
        write(log, b"new\n")
        assert rest(reader) == b"new\n"


def test_a_log_that_is_not_there_yet_is_waited_for(files: Files, log: Log) -> None:
    with LogReader(files.path, lines=5) as reader:
        assert b"".join(reader.read()) == b""
        assert rest(reader) == b""
        write(log, b"here\n")
        assert rest(reader) == b"here\n"


def test_a_run_that_has_not_written_yet_is_followed_without_what_others_wrote_though_the_log_was_removed(
    files: Files, log: Log
) -> None:
    files.make(b"of others\n", b"of others, too\n", zipped=1)
    files.path.unlink()
    with LogReader(files.path, begin=Mark(0, files.hour(5))) as reader:
        assert b"".join(reader.read()) == b""
        assert rest(reader) == b""
        write(log, b"mine\n")
        assert rest(reader) == b"mine\n"


def test_a_follower_beside_a_writer_that_floods_and_rotates_loses_nothing(files: Files, log: Log) -> None:
    log.rotation["max_bytes"] = 20_000
    sent = bytearray()
    got = bytearray()
    done = threading.Event()

    def flood() -> None:
        rows = random.Random(4711)
        for number in range(4000):
            line = b"%d %s\n" % (number, b"x" * rows.randrange(60))
            sent.extend(line)
            write(log, line)
            # Files that are gone before they were read cannot be told: so it stays within sight.
            wait_until(lambda: len(sent) - len(got) < 50_000)
        done.set()

    writer = threading.Thread(target=flood)
    with LogReader(files.path) as reader:
        writer.start()
        while not done.is_set() or len(got) < len(sent):
            got += reader.more()
    writer.join()
    assert got == sent


def test_follow_gives_what_was_there_and_pauses_only_when_there_is_nothing(files: Files, log: Log) -> None:
    write(log, b"a\n")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        write(log, b"b\n")

    with LogReader(files.path) as reader:
        found = reader.follow(pause)
        assert [next(found), next(found)] == [b"a\n", b"b\n"]
    assert len(pauses) == 1


def test_files_are_closed_at_the_end(files: Files) -> None:
    files.make(b"1\n", b"2\n", b"3\n", zipped=1)
    before = len(os.listdir("/dev/fd"))
    for lines in (None, 0, 1, 3):
        for _ in range(2):
            with LogReader(files.path, lines=lines) as reader:
                next(reader.read(), b"")
    assert len(os.listdir("/dev/fd")) == before
