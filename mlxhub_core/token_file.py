"""A file that holds a token, which nobody but its owner may read."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

from mlxhub_core.errors import HubError
from mlxhub_core.secret import Secret

LEAST = 16
"""Characters of a token; ours have 43, which is 256 bits."""
MOST = 1024
"""Characters of a token: a header must hold it."""


def read_token(path: Path) -> Secret:
    """The token in a file. No message repeats any of it.

    Raises:
        FileNotFoundError: there is none.
        HubError: it cannot be read, others can, or it holds something else; the message does not name the file.
    """
    try:
        # Should it be a named pipe, nobody shall wait for somebody to write into it.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise HubError("is no file that holds a token; name another")
            if found.st_uid != os.geteuid():
                raise HubError(f"belongs to another user (uid {found.st_uid}); name a file of your own")
            if found.st_mode & 0o077:
                raise HubError(f"can be read or written by others (mode {stat.S_IMODE(found.st_mode):o}); chmod 600")
            text = file.read(MOST + 3).decode(errors="replace").strip()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise HubError(f"cannot be read ({error.strerror}); name another file") from None
    if not (re.fullmatch("[!-~]*", text) and LEAST <= len(text) <= MOST):
        raise HubError(
            f"must hold one line of {LEAST} to {MOST} letters, digits and signs, without spaces;"
            " remove it, and the hub makes one"
        )
    return Secret(text)


def make_token(path: Path) -> None:
    """Write a file with a new token, unless there is one. Its directories are made, for the user alone.

    Raises:
        HubError: it cannot be written; the message does not name the file.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w", encoding="ascii") as token:
                token.write(f"{secrets.token_urlsafe(32)}\n")
    except OSError as error:
        raise HubError(f"cannot be written ({error.strerror}); name another file") from None
