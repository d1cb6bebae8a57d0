"""Reads the log of a model as if it were one long file, through all its rotations: its end, since a moment, as it grows.

Standard library only, and quick to import: commands read logs with it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from gzip import GzipFile

CHUNK = 64 * 1024
"""Bytes that are read at once."""
DEPTH = 100
"""Rotated files that are told of, the newest ones: all are open at once, and macOS gives a process 256."""
GRAIN = 0.01
"""Seconds by which a file may say that it was written too early: Linux takes that from a clock of 100 to 1000 ticks a
second."""
POLL = 0.1
"""Seconds between looks at a log that is followed: there is no portable way to be told that a file has grown."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the output of a process began.

    Attributes:
        byte: of the file that was the log then.
        started_at: when the process started, in seconds since the epoch, and not later: tells which file that was.
    """

    byte: int
    started_at: float


class LogReader:
    """One log, read from some moment on. Use it in a `with`.

    The bytes are those that were written. What was compressed is told with the rest; what was removed, or cannot be
    read, is left out.

    Attributes:
        ends: whether nothing can be written to it any more: it has an `end`.

    Args:
        path: the log.
        begin: with the output of which process to begin; None: with the oldest that is kept.
        end: with the output of which process to end; None: with the newest.
        lines: only that many lines of it, the last ones; None: all.
    """

    def __init__(
        self, path: Path | str, *, begin: Mark | None = None, end: Mark | None = None, lines: int | None = None
    ) -> None:
        self._path = str(path)
        self._files = _files(self._path)
        self.ends = end is not None
        self._keep(_between(self._files, begin, end))
        if lines is not None:
            self._keep(_last(self._files, lines))
        self._files.reverse()

    def read(self) -> Iterator[bytes]:
        """What is there now."""
        while self._files:
            file = self._files[0]
            while data := file.read(CHUNK if file.end is None else min(CHUNK, file.end - file.position)):
                yield data
            if len(self._files) == 1:
                return
            self._files.pop(0).close()

    def more(self) -> bytes:
        """What was written since, `CHUNK` bytes at most; empty if nothing was. For after `read`. Returns at once."""
        while self._files or self._go_on():
            if data := self._files[0].read(CHUNK):
                return data
            if not self._go_on():
                break
        return b""

    def follow(self, pause: Callable[[float], object] = time.sleep) -> Iterator[bytes]:
        """What is there now, and then whatever is written, as it comes; without end, also if the log is removed.

        Args:
            pause: waits for so many seconds.
        """
        yield from self.read()
        while not self.ends:
            if data := self.more():
                yield data
            else:
                pause(POLL)

    def close(self) -> None:
        """Close its files."""
        _close(self._files)
        self._files = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _go_on(self) -> bool:
        """At the end of a file: go on to the next, if there is one. Whether there may be more to read now."""
        if len(self._files) > 1:
            self._files.pop(0).close()
            return True
        try:
            found = Path(self._path).stat()
        except OSError:
            return False
        if self._files and self._files[0].is_file(found):
            return False
        # It was rotated, or moved. The next is begun after one more look at the old one, which was written until then.
        before, found_now = self._files, _files(self._path)
        newer = _newer(found_now, before[0]) if before else found_now
        _close(file for file in found_now if file not in newer)
        self._files = [*before, *reversed(newer)]
        return bool(newer)

    def _keep(self, files: list[_File]) -> None:
        _close(file for file in self._files if file not in files)
        self._files = files


class _File:
    """An open file of a log: what is to be read of it begins at `position`, and ends before the byte `end`, if any.

    Args:
        name: its path.
        old: whether it is not the log itself, but what that was before a rotation.
        zipped: whether it was compressed; its length is not known then.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """

    def __init__(self, name: str, *, old: bool, zipped: bool) -> None:
        # Should it be a named pipe by now, nobody shall wait for somebody to write into it.
        self._raw = open(name, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))  # noqa: SIM115
        self.fd = self._raw.fileno()
        self.stat = os.fstat(self.fd)
        if not stat.S_ISREG(self.stat.st_mode):
            self._raw.close()
            raise OSError(f"{name} is no regular file")
        self.position = 0
        self.end = None if zipped else self.stat.st_size
        self.is_old = old
        self.zipped = zipped
        self._content: GzipFile | None = None
        self._over = False

    def is_file(self, other: os.stat_result) -> bool:
        """Whether it is the file that `other` was found to be."""
        return os.path.samestat(self.stat, other)

    def read(self, limit: int) -> bytes:
        """The next bytes; none at its end, or when it cannot be read on."""
        try:
            data = self._read_at(self.position, limit)
            if not data and limit and not self.zipped and os.fstat(self.fd).st_size < self.position:
                self.position = 0  # It was truncated: all of it is new.
                data = self._read_at(0, limit)
        except (OSError, EOFError, zlib.error):
            return b""
        self.position += len(data)
        return data

    def skip(self) -> None:
        """Be at the end."""
        self.position = self.end = self.end or 0
        self._over = self.zipped

    def newlines_from_end(self, count: int) -> tuple[int, int | None]:
        """How many line ends there are, up to `count`, and where the one is that is the `count`-th from the end."""
        return self._newlines_forward(count) if self.zipped else self._newlines_backward(count)

    def close(self) -> None:
        if self._content is not None:
            self._content.close()
        self._raw.close()

    def _read_at(self, position: int, limit: int) -> bytes:
        if not self.zipped:
            return os.pread(self.fd, limit, position)
        if self._over:
            return b""
        if self._content is None:
            from gzip import GzipFile

            self._content = GzipFile(fileobj=self._raw)
        self._content.seek(position)
        return self._content.read1(limit)

    def _newlines_forward(self, count: int) -> tuple[int, int | None]:
        begin, found = self.position, deque[int](maxlen=count)
        while data := self.read(CHUNK if self.end is None else min(CHUNK, self.end - self.position)):
            offset = self.position - len(data)
            index = data.find(b"\n")
            while index >= 0:
                found.append(offset + index)
                index = data.find(b"\n", index + 1)
        self.end, self.position = self.position, begin
        return len(found), found[0] if len(found) == count else None

    def _newlines_backward(self, count: int) -> tuple[int, int | None]:
        assert self.end is not None
        left, here = count, self.end
        while here > self.position:
            begin = max(self.position, here - CHUNK)
            data = os.pread(self.fd, here - begin, begin)
            if (number := data.count(b"\n")) >= left:
                index = len(data)
                for _ in range(left):
                    index = data.rindex(b"\n", 0, index)
                return count, begin + index
            left, here = left - number, begin
        return count - left, None

    def is_terminated(self) -> bool:
        """Whether its last line has an end. A log is rotated between two lines."""
        return self.zipped or self.end is None or os.pread(self.fd, 1, self.end - 1) == b"\n"


def _files(path: str) -> list[_File]:
    """The log, and what it was before each of its rotations, the newest first; all of them open."""
    found: list[_File] = []
    number = holes = 0
    # While it is rotated one of the names is missing, and the files move on to where they are looked for next.
    while holes < 2 and number <= DEPTH:
        file = _rotated(f"{path}.{number}") if number else _opened(path)
        holes = holes + 1 if file is None and number > 0 else 0
        number += 1
        if file is None or any(file.is_file(other.stat) for other in found):
            _close(filter(None, [file]))
        else:
            found.append(file)
    return found


def _rotated(name: str) -> _File | None:
    return _opened(name, old=True) or _opened(f"{name}.gz", old=True, zipped=True)


def _opened(name: str, *, old: bool = False, zipped: bool = False) -> _File | None:
    with contextlib.suppress(OSError):
        return _File(name, old=old, zipped=zipped)
    return None


def _between(files: list[_File], begin: Mark | None, end: Mark | None) -> list[_File]:
    """Of these files, the newest first, those with what was written between two marks."""
    first, start = _place(files, begin) if begin else (len(files) - 1, 0)
    last, stop = _place(files, end) if end else (0, None)
    if first < 0:
        return _none(files)
    files[first].position = start
    if last >= 0 and stop is not None:
        files[last].end = stop
    return files[max(0, last) : first + 1]


def _none(files: list[_File]) -> list[_File]:
    """The newest of these files, with nothing left to read: what is written next follows on it."""
    for file in files[:1]:
        file.skip()
    return files[:1]


def _place(files: list[_File], mark: Mark) -> tuple[int, int]:
    """In which of these files, the newest first, a mark is, and at which byte; -1: after all of them."""
    # What was last written before the process began has nothing of it; but for the log as it is now.
    index = -1 if not files or files[0].is_old else 0
    begun = mark.started_at - GRAIN
    while index + 1 < len(files) and files[index + 1].stat.st_mtime >= begun:
        index += 1
    if index < 0:
        return -1, 0
    file = files[index]
    # Rotated (which its status tells the time of) before the process had written anything; or truncated.
    moved = index == 0 and len(files) > 1 and files[1].stat.st_ctime >= begun
    shorter = not file.zipped and file.stat.st_size < mark.byte
    return index, 0 if moved or shorter else mark.byte


def _last(files: list[_File], lines: int) -> list[_File]:
    """Of these files, the newest first, those with the last so many lines."""
    if lines == 0:
        return _none(files)
    left = 0
    for index, file in enumerate(files):
        if file.end == file.position:
            continue
        if left == 0:
            left = lines + file.is_terminated()
        found, place = file.newlines_from_end(left)
        if place is not None:
            file.position = place + 1
            return files[: index + 1]
        left -= found
    return files


def _newer(files: list[_File], known: _File) -> list[_File]:
    """Of these files, the newest first, those that follow on a known one, which may have been compressed meanwhile."""
    written = os.fstat(known.fd).st_mtime
    same = (index for index, file in enumerate(files) if file.is_file(known.stat))
    older = (index for index, file in enumerate(files) if file.is_old and file.stat.st_mtime <= written)
    return files[: next(same, next(older, len(files)))]


def _close(files: Iterable[_File]) -> None:
    for file in files:
        file.close()
