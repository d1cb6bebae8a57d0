"""Programs of the system that a command asks something, never through a shell and never for longer than they may take."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

NOT_RUN = 127
"""What shells give a command that is not there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program has said.

    Attributes:
        code: its exit code; `NOT_RUN` if it could not be started or has not come back.
        out: its standard output.
        error: its standard error, or why it said nothing.
    """

    code: int
    out: str
    error: str


def ask(argv: Sequence[str], *, seconds: float) -> Answer:
    """Run a program in `/`, where nothing that lies about can get in its way, with nothing to read."""
    try:
        done = subprocess.run(
            argv,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(NOT_RUN, "", f"{argv[0]} has not answered within {seconds:g} s")
    except OSError as error:
        return Answer(NOT_RUN, "", f"{argv[0]} cannot be run ({error.strerror})")
    return Answer(done.returncode, done.stdout.strip(), done.stderr.strip())
