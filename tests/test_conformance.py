"""The tests that sinks should pass: the built-in one does, and each bad one is caught for what is bad about it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from loguru import logger

from mlxhub_core import HubModelContext, Secret, Sink
from mlxhub_core.sinks.loguru_sink import LoguruSink
from mlxhub_core.testing import SinkConformance

ROOT = Path(__file__).parent.parent
CHECKS = sorted(name.removeprefix("test_") for name in vars(SinkConformance) if name.startswith("test_"))
TOKEN = "t0ken-of-a-test"


class TestLoguru(SinkConformance):
    sink_class = LoguruSink


class Started(Sink):
    """The base of those that are bad: it has a hook, and does nothing."""

    def model_started(self, ctx: HubModelContext, **_: object) -> None: ...


# What follows is bad on purpose, each in one way.


class Deaf:
    pass


class Misspelt(Started):
    def model_start(self, ctx: HubModelContext) -> None: ...


class Asynchronous:
    async def model_started(self) -> None: ...


class Curious:
    def model_started(self, ctx: HubModelContext, hostname: str) -> None: ...


class Untyped(Started):
    def __init__(self, host="localhost") -> None: ...  # type: ignore[no-untyped-def]


class CatchAll(Started):
    def __init__(self, **options: str) -> None: ...


class Schemaless(Started):
    def __init__(
        self, stream: type[threading.Thread] = threading.Thread, lock: threading.Event | None = None
    ) -> None: ...


class Resolving(Started):
    def __init__(self) -> None:
        with contextlib.suppress(OSError):  # which hides it, but not from the audit
            socket.getaddrinfo("localhost", 80)


class Threaded(Started):
    def __init__(self) -> None:
        threading.Thread(target=print, daemon=True).start()


class Writing(Started):
    def __init__(self) -> None:
        Path(os.devnull).write_text("")


class Counting:
    def model_failed(self, ctx: HubModelContext, *, exit_code: int) -> None:
        self.died = exit_code < 0


class Ascii:
    def model_started(self, ctx: HubModelContext) -> None:
        ctx.name.encode("ascii")


class FilePerModel:
    def model_started(self, ctx: HubModelContext) -> None:
        (ROOT / ctx.name).exists()


class Grouped:
    def model_started(self, ctx: HubModelContext) -> None:
        assert ctx.group is not None
        ctx.group.upper()


class Splitting:
    def model_started(self, ctx: HubModelContext) -> None:
        (self.line,) = f"{ctx.name}:1|c".splitlines()


class Tidying:
    def model_started(self, ctx: HubModelContext) -> None:
        ctx.name = ctx.name.strip()  # type: ignore[misc]


class Forging:
    def model_started(self, ctx: HubModelContext) -> None:
        object.__setattr__(ctx, "name", "another")


class Exiting:
    def model_gave_up(self) -> None:
        sys.exit(3)


class Hanging:
    def model_ready(self) -> None:
        threading.Event().wait()


class Registered(Started):
    registry: ClassVar[set[str]] = set()

    def open(self) -> None:
        if "started" in self.registry:
            raise ValueError("Duplicated timeseries: started")
        self.registry.add("started")

    def close(self) -> None:
        self.registry.discard("started")


class Shared(Started):
    """Its objects share a connection."""

    client: ClassVar[list[object]] = []

    def open(self) -> None:
        self.client[:] = [self]

    def model_started(self, ctx: HubModelContext, **_: object) -> None:
        assert self.client[0]

    def close(self) -> None:
        self.client.clear()


class Impatient(Started):
    client: threading.Event

    def open(self) -> None:
        self.client = threading.Event()

    def close(self) -> None:
        self.client.set()


class ClosedOnce(Started):
    client: list[int] | None = None

    def open(self) -> None:
        self.client = []

    def close(self) -> None:
        if hasattr(self, "over"):
            raise ValueError("already closed")
        self.over = True


class LeftThread(Started):
    def open(self) -> None:
        threading.Thread(target=threading.Event().wait, name="left", daemon=True).start()


class LeftSocket(Started):
    def open(self) -> None:
        self.socket = socket.socket()


class LeftFile(Started):
    def open(self) -> None:
        self.file = Path(__file__).open()  # noqa: SIM115


class LeftAttempt(Started):
    def __init__(self, host: str, port: int) -> None:
        self.sockets: list[socket.socket] = []
        self.address = host, port

    def open(self) -> None:
        self.sockets.append(socket.socket())
        self.sockets[-1].connect(self.address)

    def close(self) -> None:
        for one in self.sockets[-1:]:
            one.close()


class Slow:
    def model_restarting(self) -> None:
        threading.Event().wait(0.05)


class SlowFlush(Started):
    def flush(self) -> None:
        threading.Event().wait(0.05)


class SmallQueue(Started):
    def __init__(self) -> None:
        self.waiting: queue.Queue[str] = queue.Queue(maxsize=10)

    def model_started(self, ctx: HubModelContext, **_: object) -> None:
        self.waiting.put_nowait(ctx.name)

    def flush(self) -> None:
        while not self.waiting.empty():
            self.waiting.get()


class Printing:
    def model_failed(self, ctx: HubModelContext) -> None:
        print("oh no")


class RootLogger(Started):
    def open(self) -> None:
        logging.getLogger().setLevel(logging.DEBUG)


class LoguruHandler(Started):
    def open(self) -> None:
        logger.add(lambda _: None)


class Environment(Started):
    def open(self) -> None:
        os.environ["ACME_HOST"] = "localhost"


class Timeouts(Started):
    def open(self) -> None:
        socket.setdefaulttimeout(5)


class Looping(Started):
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)

    def close(self) -> None:
        self.loop.close()


class SecretInRepr(Started):
    def __init__(self, token: Secret | None = None) -> None:
        self._token = token

    def __repr__(self) -> str:
        return f"SecretInRepr({self._token.reveal() if self._token else None})"


class SecretInAttribute(Started):
    def __init__(self, token: Secret | None = None) -> None:
        self._headers = {"Authorization": f"Bearer {token.reveal() if token else None}"}


class SecretInAttributeLater(Started):
    def __init__(self, token: Secret) -> None:
        self._token = token

    def open(self) -> None:
        self._headers = {"Authorization": f"Bearer {self._token.reveal()}"}


class SecretInError(Started):
    def __init__(self, token: Secret | None = None) -> None:
        self._token = token

    def open(self) -> None:
        if self._token:
            raise ConnectionError(f"http://user:{self._token.reveal()}@host/ does not answer")


class SecretInTrace(Started):
    def __init__(self, token: Secret | None = None) -> None:
        self._token = token

    def model_started(self, ctx: HubModelContext, **_: object) -> None:
        if self.trace is not None and self._token:
            self.trace(f"GET /?key={self._token.reveal()}")


class SecretInWhere(Started):
    def __init__(self, token: Secret | None = None) -> None:
        self._token = token

    @property
    def where(self) -> str:  # type: ignore[override]
        return f"http://host/{self._token.reveal() if self._token else ''}"


class Trusting(Started):
    """Waits for an answer without a timeout."""

    def __init__(self, host: str = "", port: int = 0) -> None:
        self.address = host, port

    def model_started(self, ctx: HubModelContext, **_: object) -> None:
        with socket.create_connection(self.address) as connection:
            connection.recv(1)


BAD: list[tuple[type, Mapping[str, Any], str, str]] = [
    (Started, {}, "its_package_declares_it", "no installed package declares Started"),
    (Untyped, {}, "its_options_can_be_written_in_hub_yaml", "parameter 'host' has no type"),
    (CatchAll, {}, "its_options_can_be_written_in_hub_yaml", "has no name that hub.yaml could use"),
    (Schemaless, {}, "its_options_can_be_written_in_hub_yaml", "cannot be checked"),
    (LeftAttempt, {"host": "h", "prot": 1}, "its_options_can_be_written_in_hub_yaml", "did you mean 'port'?"),
    (Deaf, {}, "its_hooks_are_the_hubs", "has no hook"),
    (Misspelt, {}, "its_hooks_are_the_hubs", "did you mean 'model_started'?"),
    (Asynchronous, {}, "its_hooks_are_the_hubs", "is async"),
    (Curious, {}, "its_hooks_are_the_hubs", "asks for 'hostname'"),
    (Resolving, {}, "its_constructor_only_keeps_what_it_is_given", "socket.getaddrinfo was called"),
    (Threaded, {}, "its_constructor_only_keeps_what_it_is_given", "a thread was started"),
    (Writing, {}, "its_constructor_only_keeps_what_it_is_given", "/dev/null was opened for writing"),
    (Tidying, {}, "it_lives_through_a_day", "model_started raised FrozenInstanceError"),
    (Forging, {}, "it_lives_through_a_day", "model_started changed the ctx"),
    (Exiting, {}, "it_lives_through_a_day", "model_gave_up raised SystemExit: 3"),
    (Hanging, {}, "it_lives_through_a_day", "model_ready had not come back after 0.2 s"),
    (Counting, {}, "it_takes_awkward_names_and_values", "model_failed raised TypeError: '<' not supported"),
    (Ascii, {}, "it_takes_awkward_names_and_values", "a model called '모델', in the group None: model_started raised"),
    (FilePerModel, {}, "it_takes_awkward_names_and_values", "File name too long"),
    (Grouped, {}, "it_takes_awkward_names_and_values", "in the group None: model_started raised AssertionError"),
    (Splitting, {}, "it_takes_awkward_names_and_values", "too many values to unpack"),
    (Registered, {}, "two_can_be_open_at_once", "beside another one: open raised ValueError: Duplicated timeseries"),
    (Shared, {}, "two_can_be_open_at_once", "beside another one: model_started raised IndexError"),
    (Impatient, {}, "it_can_be_closed_before_it_was_opened_and_twice", "before it was opened: close raised Attribute"),
    (ClosedOnce, {}, "it_can_be_closed_before_it_was_opened_and_twice", "a second time: close raised ValueError"),
    (
        LeftAttempt,
        {},
        "attempts_to_open_it_leave_nothing_behind",
        "a server that is away makes it leave open: a socket",
    ),
    (LeftThread, {}, "no_thread_is_left_when_it_is_closed", "close() leaves threads: left"),
    (LeftSocket, {}, "no_socket_or_file_is_left_when_it_is_closed", "close() leaves open: a socket"),
    (LeftFile, {}, "no_socket_or_file_is_left_when_it_is_closed", "close() leaves open: a file"),
    (Slow, {}, "it_is_quick", "model_restarting takes 0.05"),
    (SlowFlush, {}, "it_is_quick", "model_started takes 0.05"),
    (SmallQueue, {}, "it_takes_a_burst_before_it_is_flushed", "model_started raised Full"),
    (Printing, {}, "it_prints_nothing", "it prints 'oh no\\noh no\\n' to standard output"),
    (RootLogger, {}, "it_leaves_the_process_as_it_was", "it has changed the root logger"),
    (LoguruHandler, {}, "it_leaves_the_process_as_it_was", "it has changed Loguru's handlers"),
    (Environment, {}, "it_leaves_the_process_as_it_was", "it has changed the environment"),
    (Timeouts, {}, "it_leaves_the_process_as_it_was", "it has changed the default timeout of sockets"),
    (Looping, {}, "it_leaves_no_event_loop_set", "an event loop is still set"),
    (SecretInRepr, {}, "its_secrets_are_not_shown", "the secret token can be read in repr()"),
    (SecretInRepr, {"token": TOKEN}, "its_secrets_are_not_shown", "the secret token can be read in repr()"),
    (SecretInAttribute, {}, "its_secrets_are_not_shown", "the secret token can be read in its attribute _headers;"),
    (SecretInAttributeLater, {"token": TOKEN}, "its_secrets_are_not_shown", "in its attribute _headers later"),
    (SecretInError, {}, "its_secrets_are_not_shown", "in what it raises (ConnectionError)"),
    (SecretInTrace, {}, "its_secrets_are_not_shown", "the secret token can be read in trace"),
    (SecretInWhere, {}, "its_secrets_are_not_shown", "the secret token can be read in where"),
    (
        Trusting,
        {},
        "a_server_that_never_answers_does_not_hold_it_for_ever",
        "model_started had not come back after 0.2 s",
    ),
]
"""A bad sink, its options, the check that must fail, and words of what it must say."""

LOUD_MODULES = [
    ("print('hello')", r"prints 'hello\n'"),
    ("import sys; sys.stderr.write('hello')", "prints 'hello'"),
    ("import os; os.environ['ACME'] = '1'", "changes: the environment"),
    ("import os; os.chdir('/')", "changes: the current directory"),
    ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", "changes: the signal handlers"),
    ("import logging; logging.basicConfig()", "changes: the root logger"),
    ("from loguru import logger; logger.remove()", "changes: Loguru's handlers"),
    (
        "import threading; threading.Thread(target=threading.Event().wait, name='x', daemon=True).start()",
        "a thread (x)",
    ),
    ("import socket; kept = socket.socket()", "leaves or changes: an open socket"),
    ("raise ImportError('no acme')", "cannot be imported by itself: ImportError: no acme"),
]

GOOD = '''
import socket
from mlxhub_core import Secret, Sink

class GoodSink(Sink):
    """Sends lines to a server over TCP."""

    _socket = None

    def __init__(self, host: str, port: int, token: Secret | None = None, timeout: float = 0.1) -> None:
        self._address, self._token, self._timeout, self._lines = (host, port), token, timeout, []

    def open(self):
        self._socket = socket.create_connection(self._address, self._timeout)

    def model_failed(self, ctx, *, exit_code, event):
        self._lines.append(f"{ctx.name!r} {exit_code}\\n".encode())

    def flush(self):
        self._socket.sendall(b"".join(self._lines))
        self._lines.clear()

    def close(self):
        if self._socket is not None:
            self._socket.close()
'''


def conformance_of(sink_class: object, options: Mapping[str, Any], **more: Any) -> SinkConformance:
    """The tests of a sink, as quick as they can be."""

    def options_for(_: object, host: str, port: int) -> Mapping[str, Any]:
        return {"host": host, "port": port}

    quick = {"patience": 0.2, "settle": 0.05, "budget": 0.02, "options_for": options_for}
    made = type("TestIt", (SinkConformance,), {**quick, "sink_class": sink_class, "options": options, **more})()
    assert isinstance(made, SinkConformance)
    return made


def run(check: str, conformance: SinkConformance) -> None:
    getattr(conformance, f"test_{check}")()


@pytest.fixture
def put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What bad sinks change is as it was when their test is over."""
    level, handlers, timeout = logging.getLogger().level, set(_handlers()), socket.getdefaulttimeout()
    monkeypatch.setenv("ACME_HOST", "")
    yield
    logging.getLogger().setLevel(level)
    socket.setdefaulttimeout(timeout)
    for added in set(_handlers()) - handlers:
        logger.remove(added)
    gc.collect()  # or else the next test is told of what this one's sink has left


def _handlers() -> list[int]:
    return list(logger._core.handlers)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("put_back")
# Some leave sockets and files to the garbage collector, which is what is bad about them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("sink_class", "options", "check", "words"), BAD, ids=[f"{sink.__name__}-{check}" for sink, _, check, _ in BAD]
)
def test_a_bad_sink_is_caught_for_what_is_bad_about_it(
    sink_class: type, options: Mapping[str, Any], check: str, words: str
) -> None:
    with pytest.raises(AssertionError) as caught:
        run(check, conformance_of(sink_class, options))
    assert words in str(caught.value)


@pytest.mark.parametrize(("source", "words"), LOUD_MODULES, ids=[words for _, words in LOUD_MODULES])
def test_a_module_that_does_something_when_it_is_imported_is_caught(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loud_sink.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    sink_class = type("LoudSink", (Started,), {"__module__": "loud_sink"})
    with pytest.raises(AssertionError) as caught:
        run("to_import_it_changes_nothing", conformance_of(sink_class, {}))
    assert words in str(caught.value)


def test_every_check_catches_something() -> None:
    assert {check for _, _, check, _ in BAD} | {"to_import_it_changes_nothing"} == set(CHECKS)


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SinkConformance]:
    """The tests of a good sink, which is installed, as far as Python can tell, and has a server."""
    (tmp_path / "good_sink.py").write_text(GOOD)
    metadata = tmp_path / "good_sink-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: good-sink\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[mlxhub.sinks]\ngood = good_sink:GoodSink\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "good_sink", raising=False)
    good_sink = __import__("good_sink")
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        yield conformance_of(good_sink.GoodSink, {"host": host, "port": port}, patience=5.0)


@pytest.mark.parametrize("check", CHECKS)
def test_a_good_sink_passes(check: str, good: SinkConformance) -> None:
    run(check, good)


def test_a_sink_that_sends_nowhere_is_not_asked_about_servers() -> None:
    with pytest.raises(pytest.skip.Exception, match="override options_for"):
        run(
            "a_server_that_never_answers_does_not_hold_it_for_ever",
            conformance_of(Started, {}, options_for=SinkConformance.options_for),
        )


def test_two_that_cannot_share_their_options_get_some_each() -> None:
    class Exclusive(Started):
        taken: ClassVar[set[str]] = set()

        def __init__(self, name: str) -> None:
            self.name = name

        def open(self) -> None:
            assert self.name not in self.taken
            self.taken.add(self.name)

        def close(self) -> None:
            self.taken.discard(self.name)

    with pytest.raises(AssertionError):
        run("two_can_be_open_at_once", conformance_of(Exclusive, {"name": "a"}))
    Exclusive.taken.clear()
    run("two_can_be_open_at_once", conformance_of(Exclusive, {"name": "a"}, other_options={"name": "b"}))


def test_the_sink_is_called_in_the_order_and_on_the_one_thread_that_the_hub_uses() -> None:
    calls: list[tuple[str, threading.Thread]] = []

    class Noting:
        def _note(self, what: str) -> None:
            calls.append((what, threading.current_thread()))

        def __init__(self) -> None: ...

        def open(self) -> None:
            self._note("open")

        def model_gave_up(self) -> None:
            self._note("event")

        def flush(self) -> None:
            self._note("flush")

        def close(self) -> None:
            self._note("close")

    run("it_lives_through_a_day", conformance_of(Noting, {}))
    assert [what for what, _ in calls] == ["open", "event", "flush", "flush", "close"]
    (thread,) = {thread for _, thread in calls}
    assert thread is not threading.current_thread()


def test_a_thread_that_is_about_to_end_is_not_one_that_is_left() -> None:
    class Ending(Started):
        def close(self) -> None:
            threading.Timer(0.05, time.time).start()

    run("no_thread_is_left_when_it_is_closed", conformance_of(Ending, {}, settle=5.0))


def test_who_uses_the_rest_of_the_kit_needs_no_pytest() -> None:
    program = "import sys, mlxhub_core.testing.day; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_example_passes_as_its_author_runs_it(tmp_path: Path) -> None:
    """With pytest alone, and the package installed, as far as Python can tell."""
    example = ROOT / "examples" / "webhook_sink"
    metadata = tmp_path / "mlxhub_webhook_sink-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mlxhub-webhook-sink\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[mlxhub.sinks]\nwebhook = mlxhub_webhook_sink:WebhookSink\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_conformance.py"],
        cwd=example,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(example), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{len(CHECKS)} passed" in done.stdout, done.stdout + done.stderr
