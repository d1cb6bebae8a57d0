"""Where a hub keeps its sockets and locks, who may see them, and that only one hub runs for a hub.yaml or a log path.

A lock file is locked as long as its hub lives. The kernel lets go of the lock however the hub ends, so a socket without
it is what a dead hub has left behind. The lock file itself stays: if it were removed, two hubs could hold a lock each,
one of them on a file that nobody else can see.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlxhub_core.errors import HubError, HubStateError

LONGEST = 103
"""Bytes that the path of a socket may have: on macOS there is room for 104 with the NUL, on Linux for 108."""
NAMES = 40
"""Bytes that the names of files in `Place.runs` may have, sockets among them."""
LOG_LOCK = ".mlxhub.lock"
"""The name of the lock file in a log path."""
_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})


@dataclass(frozen=True, slots=True)
class Place:
    """Where the hub of one hub.yaml can be asked.

    Attributes:
        config: that hub.yaml, absolute and without symbolic links.
        socket: the path of its control socket.
    """

    config: Path
    socket: Path

    @property
    def directory(self) -> Path:
        """The directory of the socket, which nobody but its owner may use."""
        return self.socket.parent

    @property
    def runs(self) -> Path:
        """The directory of the files of its models' processes. Not made yet where none was started."""
        return self.socket.with_suffix("")

    @property
    def lock(self) -> Path:
        """The file that a hub keeps locked as long as it lives, with its pid as text."""
        return self.socket.with_suffix(".lock")


def place_of(config: Path | str) -> Place:
    """Where the hub of this hub.yaml is, whether it runs or not. Touches nothing.

    Raises:
        HubError: nobody knows where this user's home is, or where this file is.
    """
    try:
        config = Path(config).resolve()
    except RuntimeError:
        raise HubError(f"{config} is a link that leads to itself; name another with --config") from None
    except FileNotFoundError:
        raise HubError("the current directory is not there any more; `cd` to another") from None
    except OSError as error:
        raise HubError(f"{config} cannot be looked for ({error.strerror}); name another with --config") from None
    name = hashlib.sha256(os.fsencode(config)).hexdigest()[:12] + ".sock"
    try:
        path = Path.home() / ".mlxhub" / "run" / name
    except RuntimeError:
        raise HubError("where your home is, is not known; set HOME") from None
    if len(os.fsencode(path)) + NAMES > LONGEST:
        # Not $TMPDIR: a hub that a service manager started may have another one than the shell that asks it.
        path = Path(f"/tmp/mlxhub-{os.geteuid()}") / name  # noqa: S108  # what is in there is checked like the other
    return Place(config, path)


def make_private(directory: Path) -> None:
    """Make a directory that is its owner's alone, if it is not there, and see that it is.

    Raises:
        HubError: it cannot be made, or belongs to somebody else, or others may write to it.
    """
    try:
        # One by one: of those that are missing, `parents=True` would make all but the last with the usual mode.
        for each in (directory.parent, directory):
            each.mkdir(mode=0o700, exist_ok=True)
        check_private(directory)
    except OSError as error:
        raise HubError(f"{directory} cannot be made ({error.strerror}); make it with mode 700") from None


def check_private(directory: Path) -> None:
    """See that a directory is its owner's alone: what others could put there is not to be trusted.

    Raises:
        HubError: it is not, or is no directory.
        OSError: it cannot be looked at, or is not there.
    """
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise HubError(f"{directory} is no directory (nor may it be a symbolic link to one); move it away")
    if found.st_uid != os.geteuid():
        raise HubError(f"{directory} belongs to another user (uid {found.st_uid}); remove it, or have them do that")
    if found.st_mode & 0o022:
        raise HubError(f"others may write to {directory}; run `chmod 700 {directory}`")


def same_hub(config: Path | str) -> str:
    """What to add to a command so that it is about the same hub: nothing, or `` -c other.yaml``."""
    return "" if Path(config) == Path("hub.yaml") else f" -c {shlex.quote(str(config))}"


@contextmanager
def held(place: Place) -> Iterator[None]:
    """Hold the lock of a place; its directory is made. Nobody else can meanwhile, in this process or another.

    Raises:
        HubStateError: another hub runs for this hub.yaml; names its pid.
        HubError: the directory or the lock file cannot be used.
    """
    make_private(place.directory)
    with _locked(place.lock) as found:
        if isinstance(found, _Owner):
            raise HubStateError(f"a hub for {place.config} already runs (pid {found.pid}); stop it first")
        _sign(found, place, place.lock)
        yield


def make_log_directory(directory: Path) -> None:
    """Make a directory of logs, for the user alone, if it is not there, and see that not everybody may write to it.

    Whoever may could put a link into the place of a log, and have models write to any file of the user's. A group may:
    on many systems each user has one of their own.

    Raises:
        HubError: it cannot be made, or everybody may write to it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = directory.stat().st_mode
    except OSError as error:
        raise HubError(f"log_path: {directory} cannot be made ({error.strerror}); name another") from None
    if mode & stat.S_IWOTH:
        raise HubError(
            f"log_path: everybody may write to {directory}, and put links there that lead the logs elsewhere; run"
            f" `chmod o-w {directory}`, or name a directory in it that the hub can make"
        )


@contextmanager
def held_logs(directory: Path, place: Place) -> Iterator[None]:
    """Hold a directory of logs, which is made: two hubs would write into each other's.

    Raises:
        HubStateError: another hub uses it, or models that one has left running.
        HubError: it cannot be used.
    """
    make_log_directory(directory)
    with _locked(directory / LOG_LOCK) as found:
        advice = "stop it first, or give each hub a log_path of its own"
        if isinstance(found, _Owner):
            raise HubStateError(
                f"the hub for {found.config} (pid {found.pid}) writes its logs to {directory}; {advice}"
            )
        before = _owner(found)
        if before.config not in ("", str(place.config)) and runs_of(place_of(before.config)):
            raise HubStateError(
                f"models of the hub for {before.config}, which has ended, still write to {directory}; start that hub"
                " again, which finds them, or give each hub a log_path of its own"
            )
        _sign(found, place, directory / LOG_LOCK)
        yield


def is_scarcity(error: Exception) -> bool:
    """Whether this is what the system says when it has no more of something now: files, processes, memory."""
    return isinstance(error, OSError) and error.errno in _SCARCE


def is_held(lock: Path) -> bool:
    """Whether a process that lives holds this lock file. Raises as `holder_of`."""
    return holder_of(lock) is not None


def holder_of(lock: Path) -> str | None:
    """The process id that the holder of a lock file has written there; None: nobody holds it, or there is none.

    Raises:
        OSError: that cannot be found out now, as no file can be opened.
    """
    try:
        file = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except OSError as error:
        if is_scarcity(error):
            raise
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(file).pid
    except OSError:
        return None  # Nobody can lock it.
    finally:
        os.close(file)
    return None


@dataclass(frozen=True, slots=True)
class _Owner:
    """Who wrote into a lock file last."""

    pid: str
    config: str


@contextmanager
def _locked(path: Path) -> Iterator[int | _Owner]:
    """A lock file's descriptor while we hold it; or who holds it."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o600)
    except OSError as error:
        raise HubError(f"{path} cannot be opened ({error.strerror}); remove it") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield _owner(lock)
        except OSError as error:
            raise HubError(f"{path} cannot be locked ({error.strerror}); is it on a network?") from None
        else:
            yield lock
    finally:
        os.close(lock)


def _owner(lock: int) -> _Owner:
    pid, _, config = os.pread(lock, 4096, 0).decode(errors="replace").partition("\n")
    return _Owner(pid.strip(), config.strip())


def _sign(lock: int, place: Place, path: Path) -> None:
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n{place.config}\n".encode(errors="replace"), 0)
    except OSError as error:
        raise HubError(f"{path} cannot be written ({error.strerror}); make room for it") from None


def runs_of(place: Place) -> int:
    """How many processes of its models run, or end just now. Raises as `holder_of`."""
    return sum(map(is_held, place.runs.glob("*.lock")))
