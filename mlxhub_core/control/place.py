"""Where the control socket of a hub is, who may see it, and that only one hub runs for a hub.yaml.

Next to each socket is a lock file that a hub keeps locked as long as it lives. The kernel lets go of the lock however
the hub ends, so a socket without it is what a dead hub has left behind. The lock file itself stays: if it were removed,
two hubs could hold a lock each, one of them on a file that nobody else can see.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlxhub_core.errors import HubError, HubStateError

LONGEST = 103
"""Bytes that the path of a socket may have: on macOS there is room for 104 with the NUL, on Linux for 108."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the hub of one hub.yaml can be asked.

    Attributes:
        config: that hub.yaml, absolute and without symbolic links.
        socket: the path of its socket.
    """

    config: Path
    socket: Path

    @property
    def directory(self) -> Path:
        """The directory of the socket, which nobody but its owner may use."""
        return self.socket.parent

    @property
    def lock(self) -> Path:
        """The file that a hub keeps locked as long as it lives, with its pid as text."""
        return self.socket.with_suffix(".lock")


def place_of(config: Path | str) -> Place:
    """Where the hub of this hub.yaml is, whether it runs or not. Touches nothing.

    Raises:
        HubError: nobody knows where this user's home is.
    """
    config = Path(config).resolve()
    name = hashlib.sha256(os.fsencode(config)).hexdigest()[:12] + ".sock"
    try:
        path = Path.home() / ".mlxhub" / "run" / name
    except RuntimeError:
        raise HubError("where your home is, is not known; set HOME") from None
    if len(os.fsencode(path)) > LONGEST:
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


@contextmanager
def held(place: Place) -> Iterator[None]:
    """Hold the lock of a place, whose directory must be there. Nobody else can meanwhile, in this process or another.

    Raises:
        HubStateError: another hub runs for this hub.yaml; names its pid.
        HubError: the lock file cannot be used.
    """
    try:
        lock = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HubError(f"{place.lock} cannot be opened ({error.strerror}); remove it") from None
    try:
        _take(lock, place)
        yield
    finally:
        os.close(lock)


def _take(lock: int, place: Place) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    except BlockingIOError:
        pid = os.read(lock, 20).decode(errors="replace").strip()
        raise HubStateError(f"a hub for {place.config} already runs (pid {pid}); stop it first") from None
    except OSError as error:
        raise HubError(f"{place.lock} cannot be locked ({error.strerror}); is your home on a network?") from None
