"""The control socket: whose it is, that there is one for each hub.yaml, what it answers, and that it costs nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, cast

import pytest
from loguru import logger

from mlxhub_core.control import client as client_module
from mlxhub_core.control.answering import CLOSE_SECONDS
from mlxhub_core.control.client import ControlClient
from mlxhub_core.control.server import ControlServer
from mlxhub_core.errors import (
    ConfigError,
    GroupFullError,
    HubError,
    HubNotRunningError,
    HubStateError,
    LaunchError,
    Problem,
    UnknownModelError,
)
from mlxhub_core.events import Failure, Reason
from mlxhub_core.observability import HubInfo, SinkStats
from mlxhub_core.place import Place, held, place_of
from mlxhub_core.states import ModelState, ModelStatus
from mlxhub_core.supervisor import Plan, ReloadResult
from mlxhub_core.supervisor.plan import Step

FAILURE = Failure(time=1.0, reason=Reason.CRASH, exit_code=3, log_tail=("dear me",))
MODEL = ModelStatus("a", ModelState.READY, None, "/logs/a.log", pid=None, last_failure=FAILURE)
SINK = SinkStats("statsd/eu", 9, 5, 1, 2, 1, 1024, True, "open: OSError: \ud800", 1.5, 0.0)
INFO = HubInfo(version="1.2.3", python="3.11", mlx_lm=None, pid=os.getpid(), config_path="/hub.yaml", started_at=9.5)
OTHER_UID = 65534


@dataclass
class Hub:
    """As much of a hub as is asked."""

    config_path: Path
    models: list[ModelStatus] = field(default_factory=lambda: [MODEL])
    sinks: list[SinkStats] = field(default_factory=lambda: [SINK])
    stops: list[bool] = field(default_factory=list)
    done: list[tuple[str, str]] = field(default_factory=list)

    plugins: list[object] = field(default_factory=list)

    def info(self) -> HubInfo:
        return INFO

    def register(self, plugin: object) -> None:
        self.plugins.append(plugin)

    def unregister(self, plugin: object) -> None:
        self.plugins.remove(plugin)

    def heed_settings(self, change: object) -> None:
        pass

    def get_status(self) -> list[ModelStatus]:
        return self.models

    def sink_stats(self) -> list[SinkStats]:
        return self.sinks

    def start_model(self, name: str) -> None:
        self.done.append(("start", name))

    def stop_model(self, name: str) -> None:
        raise UnknownModelError(name, ["a"])

    def restart_model(self, name: str) -> None:
        raise GroupFullError(name, "g", 1, ["a"])

    def reset_model(self, name: str) -> None:
        raise HubStateError(f"{name}: is ready")

    def rotate_log(self, name: str) -> None:
        self.done.append(("rotate", name))

    def plan(self) -> Plan:
        return Plan((Step("a", "new"),), (), (), ())

    def reload(self) -> ReloadResult:
        if not self.models:
            raise ConfigError([Problem("hub.yaml:1:1", "models", "is missing")])
        return ReloadResult(("a",), (), ("b",), {"c": LaunchError("c", "cannot be started")})


class BrokenHub(Hub):
    def sink_stats(self) -> list[SinkStats]:
        raise ZeroDivisionError("t0ken")


class Serving:
    """A place and the control socket there, held as by a hub that runs."""

    def __init__(self, hub: Hub, place: Place) -> None:
        self._server = ControlServer(cast(Any, hub), place, hub.stops.append)
        self._place = place
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(held(self._place))
            self._server.start()
            stack.callback(self._server.close)
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def config(home: Path) -> Path:
    path = home / "hub.yaml"
    path.write_text("models: [{name: a, command: [x]}]\n")
    return path


@pytest.fixture
def place(config: Path) -> Place:
    return place_of(config)


@pytest.fixture
def serve() -> Iterator[Callable[[Hub], Serving]]:
    with contextlib.ExitStack() as stack:

        def start(hub: Hub) -> Serving:
            server = Serving(hub, place_of(hub.config_path))
            server.start()
            stack.callback(server.close)
            return server

        yield start
    assert not control_threads()


def control_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "control"]


def test_a_hub_that_has_just_begun_is_given_the_time_to_listen(config: Path, place: Place) -> None:
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(ControlClient(config).get("/health")))
    with held(place), contextlib.closing(ControlServer(cast(Any, Hub(config)), place, bool)) as server:
        asking.start()
        server.start()
        asking.join(10)
    assert answers == [{"status": "ok"}]


def test_a_hub_that_never_listens_is_told_with_its_pid(
    config: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MOMENT", 0.05)
    with held(place), pytest.raises(HubError, match=rf"\(pid {os.getpid()}\) runs, but nobody listens on .*; SIGTERM"):
        ControlClient(config).get("/health")
    with pytest.raises(HubNotRunningError):
        ControlClient(config).get("/health")


def connected(place: Place) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(place.socket))
    return connection


def ask(place: Place, request: bytes) -> bytes:
    """Everything that comes back."""
    with connected(place) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def exchanged(place: Place, method: str, path: str) -> tuple[int, dict[str, str], Any]:
    connection = HTTPConnection("hub")
    with contextlib.closing(connection):
        connection.sock = connected(place)
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), json.loads(response.read())


# Where it is.


def test_a_hub_with_a_home_too_deep_for_a_socket_is_found_in_tmp(
    monkeypatch: pytest.MonkeyPatch, config: Path, home: Path, serve: Callable[[Hub], Serving]
) -> None:
    monkeypatch.setenv("HOME", f"{home}/{'x' * 100}")
    place = place_of(config)
    try:
        serve(Hub(config))
        assert ControlClient(config).get("/health") == {"status": "ok"}
        assert stat.S_IMODE(place.directory.stat().st_mode) == 0o700
    finally:
        place.lock.unlink()


# Whose it is.


def test_nobody_else_may_use_directory_socket_or_lock_whatever_the_umask(
    config: Path, place: Place, serve: Callable[[Hub], Serving]
) -> None:
    before = os.umask(0)
    try:
        serve(Hub(config))
        assert os.umask(0) == 0, "the umask of the program was changed"
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (place.directory.parent, place.directory)}
    assert set(modes.values()) == {0o700}
    assert stat.S_IMODE(place.socket.lstat().st_mode) == 0o600
    assert stat.S_ISSOCK(place.socket.lstat().st_mode)
    assert stat.S_IMODE(place.lock.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("opened", ["the directory", "the socket"])
def test_another_user_cannot_connect_even_if_one_of_two_doors_were_open(
    home: Path, config: Path, place: Place, serve: Callable[[Hub], Serving], opened: str
) -> None:
    serve(Hub(config))
    home.chmod(0o755)
    if opened == "the directory":
        place.directory.parent.chmod(0o755)
        place.directory.chmod(0o755)
    else:
        place.socket.chmod(0o666)
    program = f"import os, socket; s = socket.socket(1); os.setuid({OTHER_UID}); s.connect({str(place.socket)!r})"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False)
    assert "PermissionError: [Errno 13]" in done.stderr
    assert ControlClient(config).get("/health") == {"status": "ok"}


def make_writable(directory: Path) -> None:
    directory.mkdir(parents=True)
    directory.chmod(0o720)


def make_link(directory: Path) -> None:
    (directory.parent / "real").mkdir(parents=True, mode=0o700)
    directory.symlink_to("real")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(make_writable, "chmod 700 "), (make_link, "symbolic link")],
    ids=["others-may-write", "link"],
)
def test_a_directory_that_others_could_put_things_into_is_refused_by_hub_and_command(
    config: Path, place: Place, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(place.directory)
    for attempt in (Serving(Hub(config), place).start, lambda: ControlClient(config).get("/health")):
        with pytest.raises(HubError, match=words) as caught:
            attempt()
        assert str(place.directory) in str(caught.value)
        assert type(caught.value) is HubError, "as if another hub ran, or none"
    assert not place.socket.exists()


def test_a_directory_of_another_user_is_refused_by_hub_and_command(
    config: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.directory.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for attempt in (Serving(Hub(config), place).start, lambda: ControlClient(config).get("/health")):
        with pytest.raises(HubError, match=f"belongs to another user .uid {os.getuid()}.; remove it"):
            attempt()


def test_a_directory_that_cannot_be_made_is_named_with_the_reason(home: Path, config: Path, place: Place) -> None:
    (home / ".mlxhub").write_text("")
    with pytest.raises(HubError, match=r"/\.mlxhub/run cannot be made \(File exists\)"):
        Serving(Hub(config), place).start()


# One hub for each hub.yaml.


def test_the_lock_file_says_the_pid_while_the_hub_lives(
    config: Path, place: Place, serve: Callable[[Hub], Serving]
) -> None:
    serve(Hub(config))
    assert place.lock.read_text() == f"{os.getpid()}\n{place.config}\n"


def test_a_second_hub_is_refused_each_time_by_the_pid_of_the_first_which_notices_nothing(
    config: Path, place: Place, serve: Callable[[Hub], Serving]
) -> None:
    serve(Hub(config))
    for _ in range(2):
        with pytest.raises(HubStateError, match=rf"hub\.yaml already runs \(pid {os.getpid()}\); stop it first"):
            Serving(Hub(config), place).start()
    assert ControlClient(config).get("/health") == {"status": "ok"}


def test_after_the_end_of_a_hub_there_is_no_socket_and_the_next_one_may_start(
    config: Path, place: Place, serve: Callable[[Hub], Serving]
) -> None:
    first = serve(Hub(config))
    first.close()
    assert not place.socket.exists()
    serve(Hub(config))
    first.close()
    assert ControlClient(config).get("/health") == {"status": "ok"}


def test_a_server_that_was_never_started_or_refused_closes_without_harm(
    config: Path, place: Place, serve: Callable[[Hub], Serving]
) -> None:
    serve(Hub(config))
    second = Serving(Hub(config), place)
    second.close()
    with pytest.raises(HubStateError):
        second.start()
    second.close()
    assert ControlClient(config).get("/health") == {"status": "ok"}


def test_a_socket_without_a_lock_holder_is_what_a_dead_hub_left_and_is_replaced(
    config: Path, place: Place, serve: Callable[[Hub], Serving]
) -> None:
    place.directory.mkdir(parents=True, mode=0o700)
    place.lock.write_text("4711471147114711\n")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place.socket))
    with pytest.raises(HubNotRunningError):
        ControlClient(config).get("/health")
    serve(Hub(config))
    assert ControlClient(config).get("/health") == {"status": "ok"}
    assert place.lock.read_text() == f"{os.getpid()}\n{place.config}\n"


def free(place: Place) -> bool:
    with place.lock.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return not control_threads()


def test_where_no_socket_can_be_made_nothing_is_left_behind(config: Path, place: Place) -> None:
    place.socket.mkdir(parents=True)
    with pytest.raises(HubError, match=rf"no socket can be made at {place.socket} \("):
        Serving(Hub(config), place).start()
    assert free(place)


def test_a_thread_that_cannot_serve_is_told_and_nothing_is_left_behind(
    config: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def startup(*_: object, **__: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr("uvicorn.Server.startup", startup)
    with pytest.raises(HubError, match=r"does not accept \(OSError: too many open files\)"):
        Serving(Hub(config), place).start()
    assert not place.socket.exists()
    assert free(place)


# What it answers.


def test_it_answers_with_models_and_sinks_as_they_are_now(config: Path, serve: Callable[[Hub], Serving]) -> None:
    hub = Hub(config)
    serve(hub)
    client = ControlClient(config)
    assert client.get("/health") == {"status": "ok"}
    failure = {**asdict(FAILURE), "log_tail": ["dear me"]}
    models = [{**asdict(MODEL), "last_failure": failure, "memory_bytes": None}]
    about = {"pid": os.getpid(), "version": "1.2.3", "config": str(config.resolve()), "started_at": 9.5}
    about |= {"log": None, "stopping": False}
    assert client.get("/hub/status") == {**about, "models": models}
    assert client.get("/hub/sinks") == {"sinks": [asdict(SINK)]}
    hub.sinks = []
    assert client.get("/hub/sinks") == {"sinks": []}


@pytest.mark.parametrize(
    ("path", "status", "answer"),
    [
        ("/hub/models/a/start", 200, {"status": "ok"}),
        ("/hub/models/b%20c/log/rotate", 200, {"status": "ok"}),
        ("/hub/models/b/stop", 404, "model_not_found"),
        ("/hub/models/b/restart", 429, "group_full"),
        ("/hub/models/a/reset", 409, "wrong_state"),
        ("/hub/models/b/explode", 404, "not_found"),
        (
            "/hub/reload",
            200,
            {"started": ["a"], "stopped": [], "unchanged": ["b"], "failed": {"c": "c: cannot be started"}},
        ),
        (
            "/hub/reload?dry_run=true",
            200,
            {"start": [{"name": "a", "reason": "new"}], "stop": [], "restart": [], "unchanged": [], "warnings": []},
        ),
        ("/hub/shutdown", 202, {"status": "stopping"}),
    ],
)
def test_it_does_what_it_is_told_and_says_in_the_status_what_became_of_it(
    config: Path, serve: Callable[[Hub], Serving], path: str, status: int, answer: dict[str, Any] | str
) -> None:
    serve(Hub(config))
    found, _, body = exchanged(place_of(config), "POST", path)
    assert found == status
    assert (body["error"]["code"] if isinstance(answer, str) else body) == answer


def test_what_it_is_told_reaches_the_hub(config: Path, serve: Callable[[Hub], Serving]) -> None:
    hub = Hub(config)
    serve(hub)
    for path in (
        "/hub/models/a/start",
        "/hub/models/b%20c/log/rotate",
        "/hub/shutdown",
        "/hub/shutdown?keep_models=true",
    ):
        exchanged(place_of(config), "POST", path)
    assert hub.done == [("start", "a"), ("rotate", "b c")]
    assert hub.stops == [False, True]


def test_mistakes_in_hub_yaml_are_told_with_a_code_of_their_own(config: Path, serve: Callable[[Hub], Serving]) -> None:
    serve(Hub(config, models=[]))
    with pytest.raises(HubError, match=r"hub\.yaml:1:1: models: is missing") as caught:
        ControlClient(config).post("/hub/reload")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/hub/nothing", 404, "not_found"),
        ("GET", "/hub/sinks/", 404, "not_found"),
        ("POST", "/hub/sinks", 405, "method_not_allowed"),
    ],
)
def test_what_there_is_not_is_refused_in_the_envelope_of_openai(
    config: Path, place: Place, serve: Callable[[Hub], Serving], method: str, path: str, status: int, code: str
) -> None:
    serve(Hub(config))
    answer, headers, body = exchanged(place, method, path)
    assert answer == status
    assert headers["content-type"] == "application/json"
    assert body == {"error": {"type": "invalid_request_error", "message": body["error"]["message"], "code": code}}
    if status == 404:
        assert body["error"]["message"] == f"this hub has no {method} {path}; restart it if mlxhub is newer than it"
    else:
        assert body["error"]["message"] == f"{path} is for GET, not for {method}"
        assert headers["allow"] == "GET"


def test_a_bug_of_ours_is_told_without_its_traceback_which_is_in_the_log_and_the_hub_answers_on(
    config: Path, place: Place, serve: Callable[[Hub], Serving]
) -> None:
    serve(BrokenHub(config))
    lines: list[str] = []
    handler = logger.add(lines.append, format="{message}", diagnose=False)
    try:
        status, _, body = exchanged(place, "GET", "/hub/sinks")
    finally:
        logger.remove(handler)
    assert status == 500
    assert (body["error"]["type"], body["error"]["code"]) == ("server_error", "internal_error")
    assert "t0ken" not in str(body)
    assert "Traceback" not in str(body)
    assert len(lines) == 1
    assert "ZeroDivisionError" in lines[0]
    with pytest.raises(HubError, match="a bug in mlxhub; the log of the hub says more"):
        ControlClient(config).get("/hub/sinks")
    assert ControlClient(config).get("/health") == {"status": "ok"}


def test_nothing_is_logged_of_any_request(
    config: Path,
    place: Place,
    serve: Callable[[Hub], Serving],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    serve(Hub(config))
    assert b" 400 " in ask(place, b"GET /health?t0ken HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b" 404 " in ask(place, b"GET /t0ken HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b" 400 " in ask(place, b"t0ken\r\n\r\n")
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_what_the_environment_tells_other_servers_is_no_concern_of_a_hub(
    config: Path, serve: Callable[[Hub], Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "many")
    serve(Hub(config))
    assert ControlClient(config).get("/health") == {"status": "ok"}


# What it costs.


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux counts the switches of a thread")
def test_while_nobody_asks_its_thread_does_not_run_at_all(config: Path, serve: Callable[[Hub], Serving]) -> None:
    serve(Hub(config))
    ControlClient(config).get("/health")
    (thread,) = control_threads()

    def switches() -> list[str]:
        text = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        return [line for line in text.splitlines() if "ctxt_switches" in line]

    threading.Event().wait(0.2)  # it goes back to sleep
    before = switches()
    threading.Event().wait(5)
    assert len(before) == 2
    assert switches() == before


def test_a_command_that_asks_imports_nothing_that_takes_long() -> None:
    program = "import mlxhub_core.control.client, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {
        "asyncio",
        "httpx",
        "pydantic",
        "loguru",
        "starlette",
        "uvicorn",
        "rich",
        "pluggy",
        "psutil",
        "http",
        "ssl",
    }
    assert "socket" in done.stdout.split()
    assert not heavy & set(done.stdout.split())


def test_a_hub_that_ends_late_leaves_the_socket_of_the_next_one_alone(
    config: Path, place: Place, serve: Callable[[Hub], Serving]
) -> None:
    before = serve(Hub(config))
    place.socket.unlink()
    with socket.socket(socket.AF_UNIX) as next_one:
        next_one.bind(str(place.socket))
        before.close()
        assert place.socket.is_socket()
    place.socket.unlink()


@pytest.mark.parametrize(
    "request_",
    [b"", b"GET /hub/st", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /hub/status HTTP/1.1\r\nHost: x\r\n\r\n"],
)
def test_clients_that_never_go_do_not_keep_a_hub_from_its_end(
    config: Path, place: Place, serve: Callable[[Hub], Serving], request_: bytes
) -> None:
    # The answer about so many models does not fit into the buffers of a socket that nobody reads from.
    server = serve(Hub(config, models=[MODEL] * 20_000))
    with connected(place) as connection:
        connection.sendall(request_)
        if b"\r\n\r\n" in request_:
            assert connection.recv(1) == b"H"
        assert ControlClient(config).get("/health"), "who is answered later has come later"
        begin = time.monotonic()
        server.close()
        assert time.monotonic() - begin < CLOSE_SECONDS - 1
    assert not control_threads()
    assert free(place)


# Those who ask.


def test_who_asks_where_no_hub_runs_is_told_how_to_start_one(config: Path) -> None:
    with pytest.raises(HubNotRunningError) as caught:
        ControlClient(config).get("/health")
    assert str(caught.value) == f"no hub runs for {config.resolve()}; start one with `mlxhub start -c {config}`"
    assert caught.value.exit_code == 3


def test_who_asks_about_a_hub_yaml_that_does_not_exist_is_told_so(config: Path) -> None:
    with pytest.raises(HubNotRunningError, match=r"no hub runs for /.*/none\.yaml, which does not exist; .* --config"):
        ControlClient(config.with_name("none.yaml")).get("/health")


@pytest.fixture
def answer(place: Place) -> Iterator[Callable[[bytes | None], None]]:
    """Has somebody give this answer, once, in place of a hub; None: no answer at all."""
    place.directory.mkdir(parents=True, mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(place.socket))
        listener.listen()

        def once(words: bytes) -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(words)

        def start(words: bytes | None) -> None:
            if words is not None:
                thread = threading.Thread(target=once, args=(words,), daemon=True)
                thread.start()
                stack.callback(thread.join)

        yield start


def test_a_hub_that_does_not_answer_is_not_waited_for_for_ever(
    config: Path, answer: Callable[[bytes | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "TIMEOUT", 0.2)
    answer(None)
    with pytest.raises(HubError, match=r"hub\.yaml has not answered for 0\.2 s"):
        ControlClient(config).get("/health")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (b"220 mail\r\n", "cannot be asked: its answer is no HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", "status 200. is none that mlxhub knows; restart the hub"),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", "status 200. is none that mlxhub knows"),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff", "status 200. is none that mlxhub knows"),
        (b"HTTP/1.1 500 No\r\n\r\n{}", "status 500. is none that mlxhub knows"),
        (b"HTTP/1.1 500 No\r\n\r\n[]", "status 500. is none that mlxhub knows"),
        (b'HTTP/1.1 409 No\r\n\r\n{"error": {"message": "the hub was shut down"}}', "^the hub was shut down$"),
    ],
)
def test_an_answer_that_cannot_be_used_is_an_error_in_words(
    config: Path, answer: Callable[[bytes | None], None], words: bytes, said: str
) -> None:
    answer(words)
    with pytest.raises(HubError, match=said) as caught:
        ControlClient(config).get("/health")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}"])
def test_a_hub_that_is_killed_while_it_answers_does_not_run(
    config: Path, answer: Callable[[bytes | None], None], words: bytes
) -> None:
    answer(words)
    with pytest.raises(HubNotRunningError, match="has ended, with its answer not given in full"):
        ControlClient(config).get("/health")
