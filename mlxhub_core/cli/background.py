"""The hub as a process of its own, which outlives the command and the terminal that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mlxhub_core.cli.common import printable
from mlxhub_core.errors import EXIT_FAILED, EXIT_USAGE, HubError
from mlxhub_core.logs import read_from, size
from mlxhub_core.place import is_held, make_log_directory
from mlxhub_core.waits import until_readable

LAST_BYTES = 64 * 1024
"""Of the log of a hub that has ended while it started, so much is looked at."""
LAST_LINES = 20
"""And so many lines of it are shown."""
POLL = 0.02
"""Seconds between looks whether it has its lock: nothing tells."""
ENDING = 2.0
"""Seconds that one which cannot be asked any more may take to end."""


class HubEndedError(HubError):
    """A hub that was started has ended."""


@dataclass(frozen=True, slots=True)
class Background:
    """A hub that was started.

    Attributes:
        process: it.
        began: when it was started, in seconds since the epoch.
        log: its own log.
        since: the length of that log before it was started.
        ready: is readable once hub.yaml is applied, or it has ended.
    """

    process: subprocess.Popen[bytes]
    began: float
    log: Path
    since: int
    ready: int

    def until_applied(self, timeout: float | None) -> bool:
        """Wait until it has applied hub.yaml: its models run, or could not be started. False if the time is over first.

        Raises:
            HubError: it has ended; with the last lines of its log.
        """
        if not until_readable(self.ready, timeout=timeout):
            return False
        if os.read(self.ready, 1) == b"":
            raise self.trouble()
        return True

    def until_known(self, lock: Path) -> None:
        """Wait until others can know of it, which takes some tenths of a second, or it has ended."""
        while self.process.poll() is None and not is_held(lock):
            # Not `until_readable`, which would see the very signal because of which this is asked.
            time.sleep(POLL)

    def trouble(self) -> HubError:
        """Why it cannot be asked, with the last lines of its log: it has ended, or is about to, or has no socket."""
        try:
            code: int | None = self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            code, what = None, f"the hub runs (pid {self.process.pid}), but cannot be asked"
        else:
            what = f"the hub has ended while it started (exit code {code})"
        lines = read_from(self.log, self.since, LAST_BYTES).decode(errors="replace").splitlines()[-LAST_LINES:]
        said = "\n".join(f"  {printable(line)}" for line in lines) or "  (nothing)"
        if code is not None and code < 0:
            said += "\nModels that it had started go on; the next `mlxhub start` finds them."
        error = (HubError if code is None else HubEndedError)(f"{what}; it said in {self.log}:\n{said}")
        error.exit_code = EXIT_USAGE if code == EXIT_USAGE else EXIT_FAILED
        return error


def start_hub(config: Path, log: Path) -> Background:
    """Start a hub for this hub.yaml that writes to this log of its own.

    Raises:
        HubError: the log cannot be written.
    """
    ready, done = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, done)
        try:
            make_log_directory(log.parent)
            output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise HubError(f"the hub's log {log} cannot be written ({error.strerror}); change log_path") from None
        stack.callback(os.close, output)
        since = size(log)
        # -P: what happens to lie in the current directory is no module of ours.
        program = [sys.executable, "-P", "-m", "mlxhub_core", "start", "--foreground"]
        began = time.time()
        process = subprocess.Popen(
            [*program, "--config", str(config), "--log-file", str(log), "--ready-fd", str(done)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[done],
            start_new_session=True,
        )
        return Background(process, began, log, since, ready)
