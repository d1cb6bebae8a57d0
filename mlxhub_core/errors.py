"""Every error mlxhub raises on purpose: one tree, drawn here.

    HubError
    ├── ConfigError            hub.yaml, or a sink's options in it, cannot be used; carries every problem
    ├── HubStateError          the hub cannot do this now (not loaded yet, or already shut down)
    ├── HubNotRunningError     a command wants to ask a hub, and none runs for that hub.yaml
    ├── SinkError              an object cannot serve as a sink: a mistake of its author
    ├── DeliveryRefusedError   raised by a sink: what it has in hand will never be taken
    ├── DeliveryDelayedError   raised by a sink: not now, and not before so many seconds
    ├── IllegalMoveError       a model was asked to make a move that ``states.MOVES`` does not allow: our bug
    └── ModelError             about one model, which it names
        ├── UnknownModelError  no model of that name in hub.yaml
        ├── GroupFullError     the group's ``max_loaded`` is reached
        └── LaunchError        the model's process cannot be started
            └── MemoryShortError  less memory is available than the model requires

Each message names the model, the sink or the key, and what to do next. The command line prints it
without a traceback and leaves with ``exit_code``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EXIT_FAILED = 1
"""Exit code of a command that could not do its work."""
EXIT_USAGE = 2
"""Exit code for a wrong hub.yaml or a wrong command line (as click's own usage errors)."""
EXIT_NOT_RUNNING = 3
"""Exit code of a command that needs a running hub, as of `systemctl status`."""


class HubError(Exception):
    """Root of everything mlxhub raises on purpose."""

    exit_code = EXIT_FAILED


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in hub.yaml, or one thing worth a warning.

    Attributes:
        where: the place, as ``hub.yaml:9:17``: file, line, column, the last two counted from 1.
        path: the key, as ``models[0].port``; empty for the file as a whole.
        message: what is wrong; what to do.
    """

    where: str
    path: str
    message: str

    def __str__(self) -> str:
        line = ": ".join(part for part in (self.where, self.path, self.message) if part)
        # A key may hold anything: one that breaks the line or moves the cursor could hide what is wrong.
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


class ConfigError(HubError):
    """hub.yaml cannot be used. ``problems`` holds every mistake found, in the order of the file."""

    exit_code = EXIT_USAGE

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class HubStateError(HubError):
    """The hub cannot do this now: hub.yaml is not loaded yet, or the hub was shut down."""


class HubNotRunningError(HubError):
    """A command wants to ask a hub, and none runs for that hub.yaml."""

    exit_code = EXIT_NOT_RUNNING


class SinkError(HubError):
    """An object cannot serve as a sink: its hooks or parameters are not what the hub can call. For its author to mend."""


class DeliveryRefusedError(HubError):
    """For a sink's ``flush`` to raise: the server will never take what it has in hand.

    Those events count as failed. After anything else that it raises they are tried again.
    """


class DeliveryDelayedError(HubError):
    """For a sink's ``open`` or ``flush`` to raise: the server asks to be left alone for a while.

    Args:
        message: what the server said.
        seconds: until the next attempt, at least; the hub waits a minute at most.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class IllegalMoveError(HubError):
    """A model was moved between two states that the table does not join. Always a bug of ours."""


class ModelError(HubError):
    """Something about one model; ``name`` says which, ``message`` what, without the name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


class UnknownModelError(ModelError):
    """hub.yaml has no model of this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(name, f"no such model in hub.yaml; it has {listed(names)}{did_you_mean(name, names)}")


class GroupFullError(ModelError):
    """The model's group already runs as many models as its ``max_loaded`` allows."""

    def __init__(self, name: str, group: str, max_loaded: int, running: Sequence[str]) -> None:
        super().__init__(
            name,
            f"group {group!r} is full (max_loaded: {max_loaded}); running: {listed(running)}; stop one of them first",
        )
        self.group = group
        self.running = tuple(running)


class LaunchError(ModelError):
    """The model's process could not be started; the message says why and what to do."""


class MemoryShortError(LaunchError):
    """Less memory is available than the model's ``memory: {required}`` asks for; both in bytes."""

    def __init__(self, name: str, required: int, available: int) -> None:
        wanted, there = in_gigabytes(required), in_gigabytes(available)
        if wanted == there:  # Rounded alike, they would not tell what is wrong.
            wanted, there = f"{required} bytes", f"{available} bytes"
        super().__init__(
            name,
            f"needs {wanted} of memory (memory.required) and only {there} are available;"
            " stop another model or program first, or lower it",
        )
        self.required = required
        self.available = available


def in_gigabytes(size: int) -> str:
    """Bytes as people say them: ``7.5 GB``."""
    return f"{size / 1e9:.1f} GB"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'port'?"`` for the known word nearest to `word`, or an empty string."""
    import difflib  # here: few commands need it, and all import this file

    by_lower = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[nearest[0]]!r}?" if nearest else ""


def listed(words: Iterable[str]) -> str:
    """The words joined by commas, or ``nothing``."""
    return ", ".join(words) or "nothing"
