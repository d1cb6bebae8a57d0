"""One keeper: a loop over the model's output, its end, hubs that talk to it, and signals."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import selectors
import signal
import socket
import time
from typing import Any

from mlxhub_core.keeper.logfile import Log, last_lines, unlink
from mlxhub_core.keeper.session import Session, birth
from mlxhub_core.keeper.state import StateFile

SCHEMA = 1
"""Version of the lines and of the state file. A hub leaves keepers alone that speak another."""
BUFFER = 256 * 1024
"""Bytes that are read and written at once."""
PIPE = 1024 * 1024
"""Bytes that the pipe should hold, so that a keeper that has other things to do does not hold the model up."""
SMALL = BUFFER // 2
"""Bytes; whoever gives less at once, again and again without a pause, is given a `NAP` to write more in."""
READS = 4
"""Times in a row that a model which writes much is read from before hubs and signals have their turn."""
NAP = 0.0002
"""Seconds; at 2 GB/s less than half of the pipe."""
FLOOD = (8, 0.0002)
"""That many small reads with less than that many seconds between any two reads are a flood."""
TAIL = 16 * 1024
"""Bytes of a run's last output that are kept for its end."""
DRAIN = 1.0
"""Seconds to read on when all of the session has ended: somebody outside of it may hold the pipe, and fill it."""
MOST_BACKUPS = 1000
"""Rotated files at most; each rotation looks for all of them."""
LONGEST_GRACE = 1e6
"""Seconds from SIGTERM to SIGKILL; a selector waits for 24 days at most."""

# Made before the fork, and so shared by all keepers but for the pages that their models fill.
_BUFFER = bytearray(BUFFER)


class Keeper:
    """Keeps one model until its session has ended.

    It is made before there is an order: what needs none is there when one comes, and a start takes less time.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._peers: dict[socket.socket, bytearray] = {}
        self._listener: socket.socket | None = None
        self._tail = bytearray()
        self._flood = 0
        self._read_at = 0.0
        self._pipe, self._output = os.pipe()
        self._naps = _enlarged(self._pipe)
        os.set_blocking(self._pipe, False)
        self._hear_signals()

    def rehearse(self) -> None:
        """Do in vain what a start does, while nobody waits for it.

        A process that was forked copies each page of its parent's memory when it first writes to it. A third of the
        time that a start would take are such copies.
        """
        birth(os.getpid())
        order = json.loads(json.dumps({"argv": ["/"], "cwd": "/", "env": dict(os.environ)}))
        with contextlib.suppress(OSError):  # nobody can execute a directory
            Session(order, self._output)

    def start(self, hub: socket.socket, order: dict[str, Any]) -> None:
        """Start the model.

        Args:
            hub: the connection to the hub that orders it.
            order: ``run``, ``model``, ``argv``, ``env``, ``cwd``, ``log``, ``rotation``, ``place`` (the path of its files,
                without their endings), ``grace`` (seconds, for a SIGTERM to the keeper itself) and ``record`` (what the
                next hub should know).

        Raises:
            OSError: it cannot be started.
        """
        self._place: str = order["place"]
        self._grace: float = order["grace"]
        self._lock = _locked(f"{self._place}.lock")
        self._log = Log(order["log"], order["rotation"], self._on_log)
        begin = self._log.open()
        # Not before: one that waits for its order shall end of it.
        signal.signal(signal.SIGTERM, _heard)
        started_at = time.time()
        self._session = Session(order, self._output)
        os.close(self._output)
        try:
            self._begin(hub, order, begin, started_at)
        except BaseException:
            self._session.abort()  # The hub is told that there is none.
            raise

    def _begin(self, hub: socket.socket, order: dict[str, Any], begin: int, started_at: float) -> None:
        """Keep what was started."""
        self._selector.register(self._pipe, selectors.EVENT_READ, self._pump)
        self._listen()
        self._file = StateFile(f"{self._place}.json")
        self._file.prepare()
        # As late as can be: Linux tells of a process only when its program is loaded.
        self._state: dict[str, Any] = {
            "schema": SCHEMA,
            "run": order["run"],
            "model": order["model"],
            "keeper": os.getpid(),
            "pid": self._session.pid,
            "birth": birth(self._session.pid),
            "started_at": started_at,
            "log": order["log"],
            "log_begin": begin,
            "grace": order["grace"],
            "record": order["record"],
            "asked": None,
            "note": None,
            "exit": None,
        }
        self._save()
        self._welcome(hub)
        self._file.prepare()
        self._log.compress()

    def run(self) -> None:
        """Do what comes, until the session has ended."""
        pause = self._session.look()
        while not self._session.ended:
            for key, _ in self._selector.select(pause):
                key.data()
            pause = self._session.look()
        self._finish()

    def confess(self) -> None:
        """Tell the hubs of a bug of ours; they see to the model."""
        import traceback

        self._tell({"bug": traceback.format_exc()})

    # The model's output.

    def _pump(self) -> None:
        for _ in range(READS):
            length = self._read()
            if length is None:
                self._selector.unregister(self._pipe)
            elif length < SMALL:
                self._nap_in_a_flood()
            else:
                continue
            return

    def _read(self) -> int | None:
        """Take what there is, once. Returns how many bytes; None: the end."""
        try:
            length = os.readv(self._pipe, [_BUFFER])
        except BlockingIOError:
            return 0
        if length == 0:
            return None
        self._log.write(_BUFFER, length)
        self._tail += memoryview(_BUFFER)[max(0, length - TAIL) : length]
        del self._tail[:-TAIL]
        return length

    def _nap_in_a_flood(self) -> None:
        """Who writes little at a time, fast, costs less if we take much at once."""
        calls, seconds = FLOOD
        self._flood = self._flood + 1 if time.monotonic() - self._read_at < seconds else 0
        if self._flood > calls and self._naps:
            time.sleep(NAP)
        self._read_at = time.monotonic()

    def _drain(self) -> None:
        """Read what the session has left in the pipe: to its end, unless somebody outside of it still writes."""
        until = time.monotonic() + DRAIN
        while self._read() and time.monotonic() < until:
            pass

    def _on_log(self, trouble: str | None) -> None:
        self._tell({"log": trouble, "lost": self._log.lost})

    # The end.

    def _finish(self) -> None:
        self._drain()
        self._state["exit"] = {
            "code": self._session.reap(),
            "at": time.time(),
            "forced": self._session.forced,
            "tail": last_lines(bytes(self._tail)),
            "lost": self._log.lost,
        }
        # A hub that hears of it waits until we hang up before it removes the file.
        self._tell({"exit": self._state["exit"]})
        self._save()
        if not os.path.exists(f"{self._place}.lock"):
            unlink(f"{self._place}.json")  # A hub did not wait for us, and has removed all of it, the lock first.
        unlink(f"{self._place}.sock")
        self._log.end()

    def _save(self) -> None:
        self._file.write(self._state)

    # Hubs.

    def _listen(self) -> None:
        """Open the socket, in the place of what was there."""
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
        listener = socket.socket(socket.AF_UNIX)
        try:
            unlink(f"{self._place}.sock")
            umask = os.umask(0o177)
            try:
                listener.bind(f"{self._place}.sock")
            finally:
                os.umask(umask)
            listener.listen()
        except OSError:
            # The hub that started it has its connection; the next one asks for another try, by SIGUSR1.
            listener.close()
            return
        self._listener = listener
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._welcome(listener.accept()[0])

    def _welcome(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        with contextlib.suppress(OSError):  # macOS refuses that for one that has gone
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self._peers[peer] = bytearray()
        self._selector.register(peer, selectors.EVENT_READ, lambda: self._hear(peer))
        self._send(peer, {"state": self._state})

    def _hear(self, peer: socket.socket) -> None:
        if peer not in self._peers:
            return  # It was dropped because of what came in the same moment.
        try:
            said = peer.recv(SMALL)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        inbox = self._peers[peer]
        inbox += said
        if not said or len(inbox) > BUFFER:
            self._drop(peer)
            return
        *lines, rest = bytes(inbox).split(b"\n")
        inbox[:] = rest
        for line in lines:
            try:
                self._obey(json.loads(line))
            except (ValueError, TypeError, ArithmeticError, RecursionError):
                self._drop(peer)  # That is no hub of ours.
                return

    def _obey(self, command: dict[str, Any]) -> None:
        match command:
            case {"stop": float(grace) | int(grace), "reason": str(reason)} if 0 <= grace <= LONGEST_GRACE:
                self._state["asked"] = reason
                self._save()
                self._session.stop(grace)
            case {"kill": _}:
                self._session.kill()
            # Flat: what is too deep to be written again would end us later.
            case {"note": dict(note)} if not any(isinstance(fact, dict | list) for fact in note.values()):
                self._state["note"] = note
                self._save()
                self._file.prepare()
            case {
                "rotation": {"max_bytes": None | int() as limit, "backups": int(backups), "compress": bool(compress)}
            } if (limit is None or limit > 0) and 0 < backups <= MOST_BACKUPS:
                self._log.rotation = {"max_bytes": limit, "backups": backups, "compress": compress}
            case {"rotate": _}:
                self._rotate()
            case _:
                raise ValueError

    def _rotate(self) -> None:
        try:
            self._log.rotate()
        except OSError as error:
            self._tell({"rotated": error.strerror or str(error)})
        else:
            self._tell({"rotated": None})

    def _tell(self, news: dict[str, Any]) -> None:
        for peer in list(self._peers):
            self._send(peer, news)

    def _send(self, peer: socket.socket, news: dict[str, Any]) -> None:
        try:
            peer.sendall(json.dumps(news).encode() + b"\n")
            _let_others_run()
        except OSError:  # It is gone; or it does not listen, and must not hold us up.
            self._drop(peer)

    def _drop(self, peer: socket.socket) -> None:
        if self._peers.pop(peer, None) is not None:
            self._selector.unregister(peer)
            peer.close()

    # Signals.

    def _hear_signals(self) -> None:
        wakeup, ring = os.pipe()
        os.set_blocking(wakeup, False)
        os.set_blocking(ring, False)
        for number in (signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, _heard)
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
        self._selector.register(wakeup, selectors.EVENT_READ, lambda: self._on_signals(os.read(wakeup, 64)))

    def _on_signals(self, numbers: bytes) -> None:
        if signal.SIGCHLD in numbers:
            self._log.see_to_compression()
        if signal.SIGTERM in numbers:
            self._session.stop(self._grace)
        if signal.SIGUSR1 in numbers:
            self._listen()


def keep(hub: socket.socket) -> None:
    """Wait for the order of a hub, and keep a model by it."""
    keeper = Keeper()
    if not select.select([hub], [], [], 0)[0]:
        keeper.rehearse()
    with hub.makefile("rb") as lines:
        line = lines.readline()
    if not line:
        return  # The hub has ended, and wanted nothing.
    if _has_hung_up(hub):
        return  # The hub did not wait for us, and takes it that there is no process.
    order = json.loads(line)
    try:
        keeper.start(hub, order)
    except (OSError, ValueError) as error:  # ValueError: no program can be given such arguments, for they have a zero
        for ending in ("lock", "json", "json.part", "sock"):
            unlink(f"{order['place']}.{ending}")
        code, words = getattr(error, "errno", None) or errno.EINVAL, getattr(error, "strerror", None) or str(error)
        failure = {"errno": code, "strerror": words, "filename": getattr(error, "filename", None)}
        hub.sendall(json.dumps({"failed": failure}).encode() + b"\n")
        return
    try:
        keeper.run()
    except Exception:  # noqa: BLE001  # whatever it is, somebody must hear of it
        keeper.confess()


def _has_hung_up(hub: socket.socket) -> bool:
    return bool(select.select([hub], [], [], 0)[0]) and hub.recv(1, socket.MSG_PEEK) == b""


def _let_others_run() -> None:
    """Let a hub that was just told something go first: the system may have put it to wait for this very processor."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()


def _heard(*_: object) -> None:
    """For signals that come as bytes, too: were there no function for them, they would not."""


def _locked(path: str) -> int:
    """A lock file, with our process id in it. The kernel lets go of it however we end."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _enlarged(pipe: int) -> bool:
    """Make a pipe hold more, where the system can. Whether it does."""
    try:
        return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE) >= PIPE
    except (AttributeError, OSError):
        return False
