"""The hub's side of the keepers: orders them, hears what they say, and finds those that a former hub has left.

What a keeper is, and what it says, is told in ``mlxhub_core.keeper``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from mlxhub_core.keeper import __main__ as program
from mlxhub_core.keeper.keep import SCHEMA
from mlxhub_core.keeper.session import birth, is_living, others, session_lives, signal_session
from mlxhub_core.place import is_held, make_private
from mlxhub_core.process import Exit, Listener, Order, Process, Survivor
from mlxhub_core.settings import RotationSettings

PATIENCE = 10.0
"""Seconds that a keeper has to answer when it is started or met again: it does so in a few thousandths."""
STEM = 20
"""Characters of a model's name in the names of a run's files: the path of a socket must be short."""
POLL = 0.02
"""Seconds between looks at what no event tells: a socket that a keeper makes anew; on macOS, the end of an orphan."""
HANG_UP = 1.0
"""Seconds that a keeper has to hang up when it has told the end of its model: it only writes that down."""
KILL_WAIT = 2.0
"""Seconds to wait for such a one after SIGKILL."""
KINDS = {
    "run": str,
    "model": str,
    "pid": int,
    "keeper": int,
    "started_at": float,
    "log": str,
    "log_begin": int,
    "grace": int | float,
    "record": dict,
}
"""What must be in the state of a run."""


class Keepers:
    """Starts processes under keepers; see `process.ProcessFactory`.

    Args:
        directory: where the files of the runs are; made when it is needed. Two hubs must not share it.
        label: what `ps` shows of the keepers, beside their program.
        report: gets one line when something is wrong with a keeper.
    """

    def __init__(self, directory: Path, label: str, report: Callable[[str], None]) -> None:
        self._directory = directory
        self._zygote = _Zygote(label)
        self._report = report
        self._ended: dict[str, _Kept] = {}

    def start(self, order: Order, listener: Listener) -> Process:
        """See `process.ProcessFactory`."""
        make_private(self._directory)
        place = self._directory / f"{order.model[:STEM]}-{order.run_id[:8]}"
        connection, state = self._ordered(order, place)
        with contextlib.suppress(OSError):  # Else the next start tries again, and tells.
            self._zygote.prepare()
        kept = _Kept(connection, state, place, self._report, self._ended)
        try:
            kept.listen(listener)
        except RuntimeError as error:  # no thread can be started: nobody would hear of its end
            connection.close()
            _abandon(place)
            raise OSError(errno.EAGAIN, str(error)) from None
        return kept

    def survivors(self) -> Sequence[Survivor]:
        """See `process.ProcessFactory`. Removes what was left by those of which nothing more can be told."""
        self._zygote.prepare()
        places = sorted(
            {file.with_suffix("") for ending in ("lock", "json") for file in self._directory.glob(f"*.{ending}")}
        )
        found = map(self._survivor, places)
        return [survivor for survivor in found if survivor is not None]

    def forget(self, run_id: str) -> None:
        """See `process.ProcessFactory`."""
        if (kept := self._ended.pop(run_id, None)) is not None:
            kept.wait()
        for lock in self._directory.glob(f"*-{run_id[:8]}.lock"):
            _remove(lock.with_suffix(""))

    def close(self) -> None:
        """See `process.ProcessFactory`. All ends that were told are taken to have been heard."""
        for run_id in list(self._ended):
            self.forget(run_id)
        self._zygote.close()

    def _ordered(self, order: Order, place: Path) -> tuple[_Connection, dict[str, Any]]:
        text = _order_text(order, place)
        for _ in range(2):  # The zygote may have been killed, and that shows only now.
            with contextlib.suppress(ConnectionError, EOFError):
                connection = _Connection(self._zygote.keeper())
                try:
                    return connection, _answer(connection, text)
                except TimeoutError:
                    connection.close()
                    self._zygote.close()
                    _abandon(place)
                    raise OSError(errno.ETIMEDOUT, "its keeper does not answer") from None
                except (ConnectionError, EOFError):
                    connection.close()
                    self._zygote.close()  # If that is what has ended, it may look as if it had not for a moment.
                    _abandon(place)  # It may have ended just after it had started the process.
                    raise
                except BaseException:
                    connection.close()
                    raise
        raise OSError(errno.ECHILD, "its keeper ended at once")

    def _survivor(self, place: Path) -> Survivor | None:
        try:
            met = _meet(place)
        except (OSError, EOFError, ValueError) as error:
            self._report(f"{place}: a keeper of a former hub does not answer ({error}); its model is ended")
            met = None
        connection, state = met or (None, _end_keeper(place))
        if not _is_readable(state):
            if connection is None:
                self._report(f"{place}.json cannot be read; what a former hub ran there is not known")
                _remove(place)
            else:
                connection.close()
                self._report(f"{place}: a keeper of another version of mlxhub is left alone; to end its model, end it")
            return None
        kept = _Kept(connection, state, place, self._report, self._ended)
        ended = _exit_of(state, is_kept=connection is not None)
        return Survivor(
            model=state["model"],
            run_id=state["run"],
            pid=state["pid"],
            started_at=state["started_at"],
            log=Path(state["log"]),
            log_begin=state["log_begin"],
            record=state["record"],
            asked=state["asked"],
            note=state["note"] or {},
            exit=ended,
            attach=lambda listener: kept.attached(listener, has_ended=ended is not None),
        )


class _Zygote:
    """The process that keepers are forked from. Started when it is first needed, and again when it has ended.

    One keeper waits for its order while nothing is started: a crash is followed by a start, which then needs no fork.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None
        self._spare: socket.socket | None = None

    def prepare(self) -> None:
        """Have it run and a keeper wait, and do not wait until they do. Raises OSError."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        if self._spare is None:
            self._spare = self._forked()

    def keeper(self) -> socket.socket:
        """The connection to a keeper that has no order yet. Raises OSError."""
        self.prepare()
        assert self._spare is not None
        spare, self._spare = self._spare, None
        return spare

    def close(self) -> None:
        """Have it end, and the keeper that waits; they have nothing to finish."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            argv = [sys.executable, "-I", "-S", program.__file__, "zygote", self._label]
            self._process = subprocess.Popen(argv, stdin=theirs.fileno(), start_new_session=True)
        self._orders = ours

    def _forked(self) -> socket.socket:
        assert self._orders is not None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._orders, [b"k"], [theirs.fileno()])
            except OSError:
                ours.close()
                self.close()
                raise
        return ours


class _Connection:
    """Lines of JSON to and from one keeper."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._inbox = b""
        peer.settimeout(PATIENCE)

    def send(self, line: bytes) -> None:
        """Say something. Raises OSError if it is gone."""
        self._peer.sendall(line + b"\n")

    def receive(self) -> dict[str, Any]:
        """What it says next; within `PATIENCE`, unless `listen` was called.

        Raises:
            EOFError: nothing, for it has hung up.
            OSError: it does not answer.
            ValueError: no keeper of ours says this.
        """
        while b"\n" not in self._inbox:
            said = self._peer.recv(65536)
            if not said:
                raise EOFError("it has hung up")
            self._inbox += said
        line, _, self._inbox = self._inbox.partition(b"\n")
        news = json.loads(line)
        if not isinstance(news, dict):
            raise ValueError("no keeper of ours says this")  # noqa: TRY004  # as json does
        return news

    def listen(self) -> Iterator[dict[str, Any]]:
        """All that it says, until it hangs up."""
        self._peer.settimeout(None)
        with contextlib.suppress(OSError, EOFError, ValueError):
            while True:
                yield self.receive()

    def hang_up(self) -> None:
        """End the connection, also under somebody who listens to it."""
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free what it took."""
        self._peer.close()


class _Kept:
    """A process under a keeper; see `process.Process`. Without a connection its keeper is gone."""

    def __init__(
        self,
        connection: _Connection | None,
        state: Mapping[str, Any],
        place: Path,
        report: Callable[[str], None],
        ended: dict[str, _Kept],
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
        self._say(rotation=_rules(rotation))

    def release(self) -> None:
        """See `process.Process`."""
        self._released = True
        if self._connection is not None:
            self._connection.hang_up()

    def _say(self, **command: Any) -> bool:
        """Tell the keeper. Returns whether there was one to be told.

        One that is gone needs no command: whoever listens finds that out, and sees to the model. One that has hung up
        is told again when it is met again, but for rotations, for which somebody waits.
        """
        line = json.dumps(command).encode()
        with self._saying:
            if "rotate" not in command:
                self._wishes[next(iter(command))] = line
            return self._sent(line)

    def _sent(self, line: bytes) -> bool:
        if self._connection is not None and not self._over:
            with contextlib.suppress(OSError):
                self._connection.send(line)
                return True
        return False

    def _hear(self, listener: Listener) -> None:
        while self._connection is not None:
            told = self._converse(self._connection, listener)
            self._refuse_rotations("its keeper has hung up; whether it was done is not known")
            if told or self._released:
                return
            met = self._again()
            with self._saying:
                self._connection = met
                for line in self._wishes.values():
                    self._sent(line)
            if self._released and self._connection is not None:
                self._connection.hang_up()
        self._tell_end(listener, self._without_keeper())

    def _converse(self, connection: _Connection, listener: Listener) -> bool:
        """Hear it until it hangs up. Returns whether it has told the end of the process."""
        told = False
        for news in connection.listen():
            if self._released:
                continue  # Whatever happens from now on is for the next hub to tell.
            if "exit" in news:
                told = True
                self._tell_end(listener, _exit(news["exit"]))
            else:
                self._pass_on(news, listener)
        connection.close()
        return told

    def _again(self) -> _Connection | None:
        """Another connection, should it have hung up on us because we did not listen; None: it is gone."""
        with contextlib.suppress(OSError, EOFError, ValueError):
            if (met := _meet(self._place)) is not None:
                return met[0]
        return None

    def _tell_end(self, listener: Listener, outcome: Exit) -> None:
        self._over = True
        self._refuse_rotations("it has ended")
        self._ended[self._state["run"]] = self
        listener.exited(outcome)

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
        """The keeper is gone, and nobody reads what the model writes: it must not live on so."""
        state = _state_of(self._place) or {}
        if state.get("exit"):
            return _exit(state["exit"])
        self._orphaned = True
        forced = _end_session(self.pid, self._state["birth"], 0.0 if self._killed else self._grace)
        self._orphaned = False  # Its number may be a stranger's from now on.
        return Exit(None, forced=self._asked and (forced or self._killed))


def _order_text(order: Order, place: Path) -> bytes:
    launch = order.launch
    return json.dumps(
        {
            "run": order.run_id,
            "model": order.model,
            "argv": launch.argv,
            "env": dict(launch.env),
            "cwd": str(launch.cwd),
            "log": str(order.log),
            "rotation": _rules(order.rotation),
            "place": str(place),
            "grace": order.grace,
            "record": dict(order.record),
        }
    ).encode()


def _rules(rotation: RotationSettings | None) -> dict[str, Any]:
    """As a keeper is told them. Who turns rotation off may still ask for it."""
    return RotationSettings().model_dump() | {"max_bytes": None} if rotation is None else rotation.model_dump()


def _answer(connection: _Connection, order: bytes) -> dict[str, Any]:
    """The state of a process that was just ordered. Raises OSError if it cannot be started."""
    connection.send(order)
    answer = connection.receive()
    if failed := answer.get("failed"):
        raise OSError(failed["errno"], failed["strerror"], failed["filename"])
    state: dict[str, Any] = answer["state"]
    return state


def _exit(said: Mapping[str, Any]) -> Exit:
    return Exit(said["code"], said["forced"], tuple(said["tail"]), said["lost"], said["at"])


def _exit_of(state: Mapping[str, Any], *, is_kept: bool) -> Exit | None:
    """How a process of a former hub ended; None: it runs, or has lost its keeper and is yet to be ended."""
    if state["exit"] is not None:
        return _exit(state["exit"])
    if is_kept or session_lives(state["pid"], state["birth"]):
        return None
    return Exit(None)


def _meet(place: Path) -> tuple[_Connection, dict[str, Any]] | None:
    """Connect to a keeper that a former hub has left. None: it has ended.

    Raises:
        OSError, EOFError, ValueError: it lives and cannot be spoken to.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        # The socket before the lock: somebody may have removed either.
        try:
            return _greeted(place)
        except (FileNotFoundError, ConnectionError, EOFError):
            if not is_held(_lock_of(place)):
                return None
            if time.monotonic() > deadline:
                raise
            with contextlib.suppress(ProcessLookupError):  # It has just ended.
                os.kill(_keeper_of(place), signal.SIGUSR1)  # Have it make another socket.
            time.sleep(POLL)


def _greeted(place: Path) -> tuple[_Connection, dict[str, Any]]:
    """A connection to the keeper that is there, and its state. Raises OSError, EOFError, ValueError."""
    connection = _connect(place)
    try:
        state = connection.receive().get("state")
        if not isinstance(state, dict):
            raise ValueError("no keeper of ours says this")  # noqa: TRY004  # as json does
    except BaseException:
        connection.close()
        raise
    return connection, state


def _connect(place: Path) -> _Connection:
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.settimeout(PATIENCE)
        peer.connect(f"{place}.sock")
    except OSError:
        peer.close()
        raise
    return _Connection(peer)


def _lock_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.lock")


def _keeper_of(place: Path) -> int:
    """The process id that the holder of a lock has written there. Raises ValueError if it has not."""
    return int(_lock_of(place).read_text(encoding="ascii"))


def _end_keeper(place: Path) -> dict[str, Any] | None:
    """See that a keeper has ended that cannot be spoken to. Returns what its file says."""
    with contextlib.suppress(OSError, ValueError):
        if is_held(_lock_of(place)):
            os.kill(_keeper_of(place), signal.SIGKILL)
    return _state_of(place)


def _abandon(place: Path) -> None:
    """Leave nothing of a start that was not answered in time."""
    state = _end_keeper(place)
    if state is not None:
        _end_session(state["pid"], state["birth"], 0.0)
    _remove(place)


def _state_of(place: Path) -> dict[str, Any] | None:
    """What the file of a run says; None if it cannot be read."""
    try:
        state = json.loads(Path(f"{place}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _is_readable(state: Mapping[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    """Whether a state is one of ours, and whole."""
    if state is None or state.get("schema") != SCHEMA:
        return False
    has_kinds = all(isinstance(state.get(key), kind) for key, kind in KINDS.items())
    return has_kinds and {"birth", "asked", "note", "exit"} <= state.keys()


def _end_session(pid: int, born: str | None, grace: float) -> bool:
    """End a session that has no keeper, and wait for it. Returns whether that took a SIGKILL."""
    forced = False
    if is_living(pid, born):
        for number in (signal.SIGTERM, signal.SIGCONT):
            signal_session(pid, number)
        if not _has_ended(pid, born, grace):
            forced = True
            signal_session(pid, signal.SIGKILL)
            _has_ended(pid, born, KILL_WAIT)
    if birth(pid) in (None, born) and any(others(pid)):
        signal_session(pid, signal.SIGKILL)
    return forced


def _has_ended(pid: int, born: str | None, seconds: float) -> bool:
    """Whether a process, which is no child of ours, ends within so many seconds."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):  # It has ended; or the system is too old for that after all.
            file = os.pidfd_open(pid)
            poll = select.poll()
            poll.register(file, select.POLLIN)
            try:
                return bool(poll.poll(seconds * 1000))
            finally:
                os.close(file)
    until = time.monotonic() + seconds
    while is_living(pid, born):
        if time.monotonic() > until:
            return False
        time.sleep(POLL)
    return True


def _remove(place: Path) -> None:
    # The lock first: a keeper that has not hung up yet writes the state, and then looks whether the lock is there.
    for ending in (".lock", ".json", ".json.part", ".sock"):
        with contextlib.suppress(OSError):
            Path(f"{place}{ending}").unlink(missing_ok=True)
