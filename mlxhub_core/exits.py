"""What the exit code of a process means."""

from __future__ import annotations

import signal

_SIGNALS = {
    "SIGKILL": "killed; the system does that when memory runs out",
    "SIGTERM": "asked to end, by somebody other than the hub",
    "SIGINT": "interrupted, as by Ctrl-C",
    "SIGHUP": "told that its terminal is gone",
    "SIGQUIT": "told to quit, as by Ctrl-\\",
    "SIGSEGV": "it used memory that is not its own: a bug in native code",
    "SIGBUS": "it used memory that is not there: a bug in native code, or a file that shrank under it",
    "SIGABRT": "it gave up by itself, as native code does after an error that it cannot handle, out of GPU memory, say",
    "SIGILL": "it met an instruction that this processor does not know: was it built for another machine?",
    "SIGTRAP": "it stopped at a check of its own in native code",
    "SIGFPE": "it computed what cannot be computed: a bug in native code",
    "SIGSYS": "it asked the system for something that is forbidden to it",
    "SIGPIPE": "it wrote to somebody who had gone",
    "SIGXCPU": "it used more CPU time than it is allowed",
    "SIGXFSZ": "it wrote a file that is longer than it is allowed",
}
_OF_HUB = {
    "SIGTERM": "asked to end by the hub",
    "SIGKILL": "killed by the hub, as it did not end when it was asked to",
}
_CODES = {
    126: "the program is there and cannot be run: is it executable?",
    127: "a program was not found, a shell would say",
}
_SHELL = 128
"""What a shell adds to the number of the signal that ended its child."""


def signal_name(code: int | None) -> str | None:
    """The name of the signal that a negative exit code stands for, as ``SIGKILL``."""
    if code is None or code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def exit_in_words(code: int | None, *, by_hub: bool = False) -> str:
    """An exit code and what it means: ``-9 SIGKILL: killed; …``.

    Args:
        code: the code; negative for a signal.
        by_hub: whether it was the hub that ended the process.
    """
    if code is None:
        return "none: there was no process, or nobody saw it end"
    name = signal_name(code)
    if by_hub and name in _OF_HUB:
        return f"{code} {name}: {_OF_HUB[name]}"
    if name:
        return f"{code} {name}" + (f": {_SIGNALS[name]}" if name in _SIGNALS else "")
    if code == 0:
        return "0: it ended by itself, and says that all went well"
    if code > _SHELL and (name := signal_name(_SHELL - code)) in _SIGNALS:
        return f"{code}: what a shell says of a child that {name} ended ({_SIGNALS[name]})"
    return f"{code}: {_CODES.get(code, 'it ended by itself, and says that something went wrong')}"
