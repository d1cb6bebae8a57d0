"""A log file: appended to, opened anew when it was moved or removed, rotated, and compressed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

LONGEST_LINE = 64 * 1024
"""Bytes by which a log may grow beyond its limit so that a line is not torn; the limit cuts longer ones."""
NOTES = 10
"""Notes a second that writing fails, or works again, at most; the rest are left out."""
TAIL_LINES = (20, 500)
"""Lines of it that are told, and characters of each."""
_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
_NEWLINE = 10


class Log:
    """A log file: opened to append, opened anew when it was moved or removed, rotated by size.

    What cannot be written is lost and counted. Nothing but what is given is ever written, and truncation leaves no hole.

    Args:
        path: the file. Its directory is made, readable only by the user.
        rotation: ``max_bytes`` (None: not by size), ``backups`` (1 or more) and ``compress``.
        told: called with a sentence when something begins to fail, and with None when nothing does any more.
    """

    def __init__(self, path: str, rotation: dict[str, Any], told: Callable[[str | None], None]) -> None:
        self.path = path
        self.rotation = rotation
        self.lost = 0
        self._told = told
        self._troubles: dict[str, str] = {}
        self._told_failing = False
        self._notes, self._noted_at = float(NOTES), time.monotonic()
        self._file = -1
        self._identity: tuple[int, int] | None = None
        self._in_line = False
        self._allowance = 0
        self._compression: _Compression | None = None

    def open(self) -> int:
        """Open the file. Returns its length in bytes.

        Raises:
            OSError: it cannot be opened, or is something that one could be made to wait at, as a named pipe.
        """
        os.makedirs(os.path.dirname(self.path), 0o700, exist_ok=True)
        try:
            # Not blocking, as opening a named pipe would else wait for a reader.
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise self._unfit() if error.errno == errno.ENXIO else error from None
        found = os.fstat(file)
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISCHR(found.st_mode)):
            os.close(file)
            raise self._unfit()
        os.set_blocking(file, True)
        self.close()
        self._file, self._identity, self._in_line = file, (found.st_dev, found.st_ino), False
        return found.st_size

    def close(self) -> None:
        """Close the file. What is written next opens it anew."""
        if self._file >= 0:
            os.close(self._file)
            self._file, self._identity = -1, None

    def write(self, data: bytearray, length: int) -> None:
        """Append the first `length` bytes. Never raises."""
        begin = 0
        while begin < length:
            try:
                size = self._length()
                room = self._room(data, begin, length, size)
                if room == 0:
                    self._make_room()
                    continue
                begin += os.write(self._file, memoryview(data)[begin : begin + room])
            except OSError as error:
                self.lost += length - begin
                self._note("write", f"cannot be written: {error.strerror or error}")
                return
            self._in_line = data[begin - 1] != _NEWLINE
        self._note("write", None)

    def rotate(self) -> None:
        """Move the file out of the way, to ``.1``, and begin a new one. An empty one stays.

        Raises:
            OSError: it cannot be moved.
        """
        if self._length() == 0:
            return
        backups = self.rotation["backups"]
        for ending in ("", ".gz"):
            unlink(f"{self.path}.{backups}{ending}")
        for number in range(backups - 1, 0, -1):
            for ending in ("", ".gz"):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{self.path}.{number}{ending}", f"{self.path}.{number + 1}{ending}")
        os.replace(self.path, f"{self.path}.1")
        with contextlib.suppress(OSError):  # the next line to be written tries again, and tells
            self.open()
        self.compress()

    def compress(self) -> None:
        """Compress the newest rotated file that is not, in a process of its own: the model shall not wait for that."""
        if self._compression is not None or not self.rotation["compress"]:
            return
        for raw in self._rotated():
            with contextlib.suppress(OSError):
                self._compression = _Compression(raw, f"{self.path}.gz.part")
                return

    def see_to_compression(self) -> None:
        """If one has ended, put what it made in the place of the raw file, and go on with the next."""
        if self._compression is None or (ended := self._compression.outcome()) is None:
            return
        compression, self._compression = self._compression, None
        compression.finish(self._rotated())
        if ended == 0:  # Else not before the next rotation: the disk is full, say.
            self.compress()

    def end(self) -> None:
        """Nothing more is written. What is not compressed yet is when the model runs again."""
        if self._compression is not None:
            self._compression.give_up()
            self._compression = None
        self.close()

    def _rotated(self) -> list[str]:
        return [f"{self.path}.{number}" for number in range(1, self.rotation["backups"] + 1)]

    def _length(self) -> int:
        """The length of the file. One that was moved or removed is opened anew."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return self.open()
        if (found.st_dev, found.st_ino) != self._identity:
            return self.open()
        return found.st_size  # 0 for a device

    def _room(self, data: bytearray, begin: int, end: int, size: int) -> int:
        """How many of these bytes belong into a file of this length; 0: it must be rotated first."""
        if self.rotation["max_bytes"] is None:
            return end - begin
        left = self.rotation["max_bytes"] + self._allowance - size
        if end - begin <= left:
            return end - begin
        if (last := data.rfind(b"\n", begin, begin + max(0, left)) + 1) > 0:
            return last - begin
        if size > 0 and not self._in_line:
            return 0
        # Better a little too long than a line in two files; but not for ever.
        reach = min(end, begin + max(0, left + LONGEST_LINE))
        return (data.find(b"\n", begin, reach) + 1 or reach) - begin

    def _make_room(self) -> None:
        try:
            self.rotate()
        except OSError as error:
            # Not to try, and fail, at each write from now on.
            self._allowance += self.rotation["max_bytes"]
            self._note("rotate", f"cannot be rotated: {error.strerror or error}")
        else:
            self._allowance = 0
            self._note("rotate", None)

    def _note(self, what: str, trouble: str | None) -> None:
        if trouble is None:
            self._troubles.pop(what, None)
        else:
            self._troubles[what] = trouble
        if bool(self._troubles) != self._told_failing and self._may_tell():
            self._told_failing = bool(self._troubles)
            self._told(next(iter(self._troubles.values()), None))

    def _may_tell(self) -> bool:
        """A disk that is just about full fails and recovers at every other write: nobody is told of each."""
        now = time.monotonic()
        self._notes = min(NOTES, self._notes + NOTES * (now - self._noted_at))
        self._noted_at = now
        if self._notes < 1:
            return False
        self._notes -= 1
        return True

    def _unfit(self) -> OSError:
        return OSError(errno.ENXIO, "no file that a log could be written to; remove it", self.path)


class _Compression:
    """One rotated file being compressed.

    Its files are handed over open, and stay open here: meanwhile the raw one is moved on, or removed, and its name and
    its number are those of another; and a former keeper's compression may not have ended yet.

    Raises:
        OSError: there is no such file, or no process can be started.
    """

    def __init__(self, raw: str, part: str) -> None:
        self._part = part
        with contextlib.ExitStack() as files:
            self._source = os.open(raw, os.O_RDONLY | os.O_NONBLOCK)
            files.callback(os.close, self._source)
            unlink(part)
            self._target = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            files.callback(os.close, self._target)
            program = [sys.executable, "-I", "-S", _PROGRAM, "compress"]
            self._process = subprocess.Popen(program, stdin=self._source, stdout=self._target)
            self._files = files.pop_all()

    def outcome(self) -> int | None:
        """Its exit code; None: it still runs."""
        return self._process.poll()

    def give_up(self) -> None:
        """End it, and leave the raw file as it is."""
        self._process.kill()
        self._process.wait()
        self.finish([])

    def finish(self, places: list[str]) -> None:
        """Put the result into the place of the raw file, wherever that is by now, or away."""
        with self._files:
            if self._process.returncode == 0:
                for raw in places:
                    if _is_at(self._source, raw) and _is_at(self._target, self._part):
                        with contextlib.suppress(OSError):
                            # When it was last written tells readers which runs may have lines in it.
                            found = os.fstat(self._source)
                            os.utime(self._target, ns=(found.st_atime_ns, found.st_mtime_ns))
                            os.replace(self._part, f"{raw}.gz")
                            unlink(raw)
            if _is_at(self._target, self._part):
                unlink(self._part)


def _is_at(file: int, path: str) -> bool:
    """Whether this open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def last_lines(output: bytes) -> list[str]:
    """The last lines of some output."""
    lines, width = TAIL_LINES
    text = output.decode("utf-8", errors="replace")
    shown = text.rstrip().split("\n") if text.strip() else []
    # A progress bar redraws its line after each carriage return; what it last showed is the line.
    return [line.rstrip("\r").rpartition("\r")[2][:width] for line in shown[-lines:]]


def compress() -> None:
    """Compress standard input into standard output, at leisure; the exit code says whether all of it is on the disk."""
    import gzip
    import shutil

    os.nice(10)
    try:
        with open(0, "rb") as source, open(1, "wb", closefd=False) as file:
            with gzip.GzipFile("", "wb", 6, file) as archive:
                shutil.copyfileobj(source, archive, 1024 * 1024)
            file.flush()
            os.fsync(file.fileno())  # The raw file is removed next.
    except OSError:
        os._exit(1)  # What is still in a buffer must not be tried again.


def unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
