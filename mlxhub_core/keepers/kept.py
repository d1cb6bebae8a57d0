"""One process under a keeper, as the supervisor has it."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mlxhub_core.keeper.session import signal_session
from mlxhub_core.keepers.connection import Connection, meet
from mlxhub_core.keepers.remains import end_session, state_of
from mlxhub_core.keepers.words import exit_from, rules
from mlxhub_core.place import is_scarcity
from mlxhub_core.process import Exit, Listener, Process
from mlxhub_core.settings import RotationSettings

T = TypeVar("T")

RETRY = 0.5
"""Seconds until another try where the system has no more open files, say; what ends that nobody tells."""
HANG_UP = 1.0
"""Seconds that a keeper has to hang up when it has told the end of its model: it only writes that down."""


class Kept:
    """A process under a keeper; see `process.Process`. Without a connection its keeper is gone."""

    def __init__(
        self,
        connection: Connection | None,
        state: Mapping[str, Any],
        place: Path,
        report: Callable[[str], None],
        ended: dict[str, Kept],
    ) -> None:
        self.pid: int = state["pid"]
        self._connection = connection
        self._state = state
        self._place = place
        self._report = report
        self._ended = ended
        self._thread: threading.Thread | None = None
        self._released = False
        self._asked = state["asked"] is not None
        self._grace: float = state["grace"]
        self._killed = self._orphaned = False
        self._rotations: deque[Callable[[str | None], None]] = deque()
        self._over = False
        self._saying = threading.Lock()
        self._wishes: dict[str, bytes] = {}
        self._unsaid = False

    def attached(self, listener: Listener, *, has_ended: bool) -> Process:
        """Itself, having begun to hear, unless there is nothing more to be heard."""
        if not has_ended:
            self.listen(listener)
            return self
        self._ended[self._state["run"]] = self
        if self._connection is not None:
            self._connection.close()
        return self

    def listen(self, listener: Listener) -> None:
        """Begin to hear."""
        name = f"keeper-of-{self.pid}"
        self._thread = threading.Thread(target=self._hear, args=(listener,), name=name, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until its keeper has hung up: then it writes into none of its files any more."""
        if self._thread is not None:
            self._thread.join(HANG_UP)

    def stop(self, grace: float, reason: str) -> None:
        """See `process.Process`."""
        self._asked, self._grace = True, min(grace, self._grace) if self._asked else grace
        self._say(stop=grace, reason=reason)

    def kill(self) -> None:
        """See `process.Process`."""
        self._killed = True
        self._say(kill=True)
        if self._orphaned:
            signal_session(self.pid, signal.SIGKILL)

    def note(self, facts: Mapping[str, Any]) -> None:
        """See `process.Process`."""
        self._say(note=dict(facts))

    def rotate(self, done: Callable[[str | None], None]) -> None:
        """See `process.Process`."""
        self._rotations.append(done)
        if not self._say(rotate=True):
            self._refuse_rotations("it has ended" if self._over else "its keeper does not answer")

    def set_rotation(self, rotation: RotationSettings | None) -> None:
        """See `process.Process`."""
        self._say(rotation=rules(rotation))

    def release(self) -> None:
        """See `process.Process`."""
        self._released = True
        if self._connection is not None:
            self._connection.hang_up()

    def _say(self, **command: Any) -> bool:
        """Tell the keeper. Returns whether there was one to be told.

        One that is gone needs no command: whoever listens finds that out, and sees to the model. One that has hung up
        is told again when it is met again, and one that does not listen when it does; but for rotations, for which
        somebody waits.
        """
        line = json.dumps(command).encode()
        with self._saying:
            if "rotate" not in command:
                self._wishes[next(iter(command))] = line
            return self._sent(line)

    def _sent(self, line: bytes) -> bool:
        if self._connection is not None and not self._over:
            try:
                self._connection.say(line)
            except BlockingIOError:
                self._unsaid = True
            except OSError:
                pass
            else:
                return True
        return False

    def _say_again(self) -> None:
        with self._saying:
            self._unsaid = False
            for line in self._wishes.values():
                self._sent(line)

    def _hear(self, listener: Listener) -> None:
        while self._connection is not None:
            told = self._converse(self._connection, listener)
            self._refuse_rotations("its keeper has hung up; whether it was done is not known")
            if told or self._released:
                return
            met = self._again()
            with self._saying:
                self._connection = met
            self._say_again()
            if self._released and self._connection is not None:
                self._connection.hang_up()
        outcome = _patiently(self._without_keeper)
        if not self._released:
            self._tell_end(listener, outcome)

    def _converse(self, connection: Connection, listener: Listener) -> bool:
        """Hear it until it hangs up. Returns whether it has told the end of the process."""
        told = False
        for news in connection.listen():
            if self._unsaid:
                self._say_again()
            if self._released:
                continue  # Whatever happens from now on is for the next hub to tell.
            if "exit" in news:
                told = True
                self._tell_end(listener, exit_from(news["exit"]))
            else:
                self._pass_on(news, listener)
        connection.close()
        return told

    def _again(self) -> Connection | None:
        """Another connection, should it have hung up on us because we did not listen; None: it is gone."""
        with contextlib.suppress(OSError, EOFError, ValueError):
            if (met := _patiently(lambda: meet(self._place))) is not None:
                return met[0]
        return None

    def _tell_end(self, listener: Listener, outcome: Exit) -> None:
        self._over = True
        self._refuse_rotations("it has ended")
        self._ended[self._state["run"]] = self
        if not listener.exited(outcome):
            del self._ended[self._state["run"]]  # The next hub tells it, and needs the files for that.

    def _refuse_rotations(self, why: str) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._rotations.popleft()(why)

    def _pass_on(self, news: Mapping[str, Any], listener: Listener) -> None:
        match news:
            case {"log": str(trouble)}:
                listener.log_failing(trouble)
            case {"log": None, "lost": int(lost)}:
                listener.log_recovered(lost)
            case {"rotated": outcome} if self._rotations:
                self._rotations.popleft()(outcome)
            case {"bug": text}:
                self._report(f"a bug in the keeper of process {self.pid}; please report it with these lines:\n{text}")

    def _without_keeper(self) -> Exit:
        """The keeper is gone, and nobody reads what the model writes: it must not live on so. Raises OSError."""
        state = state_of(self._place) or {}
        if state.get("exit"):
            return exit_from(state["exit"])
        self._orphaned = True
        forced = end_session(self.pid, self._state["birth"], 0.0 if self._killed else self._grace)
        self._orphaned = False  # Its number may be a stranger's from now on.
        return Exit(None, forced=self._asked and (forced or self._killed))


def _patiently(call: Callable[[], T]) -> T:
    """Do something as soon as the system has what it takes: an open file, say. A model must not pass for dead meanwhile."""
    while True:
        try:
            return call()
        except OSError as error:
            if not is_scarcity(error):
                raise
        time.sleep(RETRY)
