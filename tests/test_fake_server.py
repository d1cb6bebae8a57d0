"""The fake server does what each of its flags says. Every test runs it as a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from mlxhub_core.testing import fake_server
from mlxhub_core.testing.fake_server import FAKE_REPLY, LAST_WORDS, ZOMBIE_CAUSE, Options

PATIENCE = 5.0
"""Seconds to wait for what must happen."""

IMPATIENCE = 0.05
"""Seconds to wait for what must not happen."""

LONG = "60"
"""Seconds that no test lives to see the end of."""

REAL_FLAGS = ("--temp", "0.7", "--log-level=INFO", "--trust-remote-code")
"""Some that the real server knows and the fake one does not."""

SLOW_MODULES = {"http", "logging", "shutil", "socketserver", "subprocess"}

ISOLATED = ("-I", "-S")
HEEDING_ENVIRONMENT = ("-P", "-S")

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"

T = TypeVar("T")


def wait_for(condition: Callable[[], T | None]) -> T:
    """Poll until `condition` returns something true, and return that."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.005)
    raise AssertionError("it did not happen in time")


class Fake:
    """A running fake server, its output in files.

    Attributes:
        process: the server itself.
        directory: holds the files ``stdout`` and ``stderr``.
        lifeline: end of a pipe that says end-of-file once the server and its children are gone.
    """

    def __init__(self, command: list[str], directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.lifeline, held = os.pipe()
        with (directory / "stdout").open("wb") as out, (directory / "stderr").open("wb") as err:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=err, env=environment, pass_fds=[held], start_new_session=True
            )
        os.close(held)

    @property
    def stdout(self) -> str:
        return (self.directory / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.directory / "stderr").read_text()

    @property
    def port(self) -> int:
        """Waits until it listens."""
        line = wait_for(lambda: re.search(r"Starting httpd at \S+ on port (\d+)\.\.\.\n", self.stderr))
        return int(line[1])

    def get(self, path: str, host: str = "127.0.0.1", timeout: float = PATIENCE) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(host, self.port, timeout=timeout)
        connection.request("GET", path)
        return self._read(connection)

    def post(self, path: str, body: object, timeout: float = PATIENCE) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body))
        return self._read(connection)

    def _read(self, connection: http.client.HTTPConnection) -> tuple[int, Any]:
        try:
            with connection.getresponse() as response:
                return response.status, json.load(response)
        finally:
            connection.close()

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def is_gone(self, within: float) -> bool:
        """Whether the server and its children all end in so many seconds."""
        return bool(select.select([self.lifeline], [], [], within)[0])

    def kill(self) -> None:
        # PermissionError is what macOS says of a group of which only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()
        os.close(self.lifeline)


class Start(Protocol):
    """How a test starts a fake server; `environment` is added to the test's own."""

    def __call__(self, *flags: str, python: tuple[str, ...] = ISOLATED, **environment: str) -> Fake: ...


def launch(directory: Path, *flags: str, python: tuple[str, ...] = ISOLATED, **environment: str) -> Fake:
    command = [sys.executable, *python, fake_server.__file__, "--port", "0", *flags]
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return Fake(command, directory, inherited | environment)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Fake] = []

    def start(*flags: str, python: tuple[str, ...] = ISOLATED, **environment: str) -> Fake:
        started.append(launch(tmp_path, *flags, python=python, **environment))
        return started[-1]

    yield start
    for fake in started:
        fake.kill()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    """One without faults, shared by the tests that only talk to it."""
    fake = launch(tmp_path_factory.mktemp("healthy"), "--model", "/models/tiny", *REAL_FLAGS)
    yield fake
    fake.kill()


class TestServer:
    def test_it_is_healthy_at_once_whatever_flags_of_the_real_server_it_gets(self, healthy: Fake) -> None:
        assert healthy.get("/health") == (200, {"status": "ok"})

    def test_it_completes_a_prompt(self, healthy: Fake) -> None:
        status, reply = healthy.post(TEXT, {"model": "m", "prompt": "hi", "max_tokens": 1})
        assert (status, reply["object"], reply["model"]) == (200, "text_completion", "m")
        assert reply["choices"] == [{"index": 0, "finish_reason": "stop", "text": FAKE_REPLY}]
        assert reply["usage"] == {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}

    @pytest.mark.parametrize("path", [CHAT, "/chat/completions"])
    def test_it_completes_a_chat(self, healthy: Fake, path: str) -> None:
        status, reply = healthy.post(path, {"messages": [{"role": "user", "content": "hi"}]})
        assert (status, reply["object"], reply["model"]) == (200, "chat.completion", "default_model")
        assert reply["choices"][0]["message"] == {"role": "assistant", "content": FAKE_REPLY}

    def test_it_lists_the_model_it_was_given(self, healthy: Fake) -> None:
        status, reply = healthy.get("/v1/models")
        assert (status, reply["object"]) == (200, "list")
        assert [model["id"] for model in reply["data"]] == ["/models/tiny"]

    @pytest.mark.parametrize("body", [b"{half", b"\xff", [1]])
    def test_it_refuses_a_body_that_is_not_a_json_object(self, healthy: Fake, body: object) -> None:
        assert healthy.post(TEXT, body)[0] == 400

    def test_it_does_not_know_other_paths(self, healthy: Fake) -> None:
        assert healthy.get("/health/")[0] == 404
        assert healthy.get(TEXT)[0] == 404
        assert healthy.post("/health", {})[0] == 404

    def test_it_speaks_http_1_0_and_closes_after_one_reply(self, healthy: Fake) -> None:
        with socket.create_connection(("127.0.0.1", healthy.port), PATIENCE) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            reply = b"".join(iter(lambda: connection.recv(4096), b""))
        assert reply.startswith(b"HTTP/1.0 200 ")
        assert reply.endswith(b'\r\n\r\n{"status": "ok"}')

    def test_it_writes_one_access_line_per_request_to_stderr(self, start: Start) -> None:
        fake = start()
        fake.get("/health")
        fake.post(TEXT, {})
        fake.get("/nowhere")
        pattern = r"^127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4} [\d:]{8}\] (.*)$"
        assert re.findall(pattern, fake.stderr, re.MULTILINE) == [
            '"GET /health HTTP/1.1" 200 -',
            f'"POST {TEXT} HTTP/1.1" 200 -',
            '"GET /nowhere HTTP/1.1" 404 -',
        ]
        assert fake.stdout == ""

    def test_a_client_that_only_connects_leaves_no_trace(self, start: Start) -> None:
        fake = start()
        with socket.create_connection(("127.0.0.1", fake.port), PATIENCE) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        assert fake.stderr.count("\n") == 1  # the line that says where it listens

    def test_it_listens_on_the_host_it_was_given(self, start: Start) -> None:
        if not can_bind("::1"):
            pytest.skip("no IPv6 here")
        fake = start("--host", "::1")
        assert fake.get("/health", host="::1")[0] == 200
        assert not connects("127.0.0.1", fake.port)

    def test_it_loads_no_slow_module(self, start: Start) -> None:
        fake = start("--exit-at-start", python=(*ISOLATED, "-X", "importtime"))
        fake.wait()
        loaded = {line.rpartition("|")[2].strip() for line in fake.stderr.splitlines()}
        assert "argparse" in loaded
        assert loaded.isdisjoint(SLOW_MODULES)

    def test_help_names_every_flag(self, start: Start) -> None:
        fake = start("--help")
        assert fake.wait() == 0
        flags = {f"--{name.replace('_', '-')}" for name in Options.__annotations__}
        assert flags | {"--help"} == set(re.findall(r"^ +(?:-h, )?(--[\w-]+)", fake.stdout, re.MULTILINE))


class TestLoading:
    def test_it_is_healthy_but_completes_nothing_while_it_loads(self, start: Start) -> None:
        fake = start("--load-seconds", LONG)
        with pytest.raises(TimeoutError):
            fake.post(TEXT, {}, timeout=IMPATIENCE)
        assert fake.get("/health") == (200, {"status": "ok"})

    def test_a_completion_that_came_too_early_is_answered_once_loaded(self, start: Start) -> None:
        begun = time.monotonic()
        assert start("--load-seconds", "0.15").post(TEXT, {})[0] == 200
        assert time.monotonic() - begun >= 0.15

    def test_it_can_say_that_it_is_not_ready(self, start: Start) -> None:
        fake = start("--load-seconds", LONG, "--unready-status", "503")
        assert fake.get("/health") == (503, {"status": "loading"})

    def test_it_says_when_it_has_become_ready(self, start: Start) -> None:
        fake = start("--load-seconds", "0.1", "--unready-status", "503")
        wait_for(lambda: fake.get("/health") == (200, {"status": "ok"}))

    def test_it_can_listen_late(self, start: Start) -> None:
        port = free_port()
        fake = start("--say", "running", "--listen-after", "0.3", "--port", str(port))
        wait_for(lambda: "running" in fake.stderr)
        assert not connects("127.0.0.1", port)
        assert fake.port == port
        assert connects("127.0.0.1", port)

    def test_its_health_can_be_elsewhere(self, start: Start) -> None:
        fake = start("--health-path", "/ready?deep=1")
        assert fake.get("/ready?deep=1") == (200, {"status": "ok"})
        assert fake.get("/health")[0] == 404


class TestFaults:
    @pytest.mark.parametrize("code", [0, 7])
    def test_it_can_exit_before_it_listens(self, start: Start, code: int) -> None:
        fake = start("--exit-at-start", "--exit-code", str(code))
        assert fake.wait() == code
        assert "Starting httpd" not in fake.stderr

    def test_it_can_exit_while_it_serves(self, start: Start) -> None:
        begun = time.monotonic()
        fake = start("--exit-after", "0.15", "--exit-code", "3")
        assert fake.wait() == 3
        assert time.monotonic() - begun >= 0.15
        assert "Starting httpd" in fake.stderr

    def test_it_can_abort_after_its_last_words(self, start: Start) -> None:
        begun = time.monotonic()
        fake = start("--abort-after", "0.15")
        assert fake.wait() == -signal.SIGABRT
        assert time.monotonic() - begun >= 0.15
        assert fake.stderr.splitlines()[-1] == LAST_WORDS

    def test_it_can_go_deaf(self, start: Start) -> None:
        begun = time.monotonic()
        fake = start("--deaf-after", "0.2")
        wait_for(lambda: not answers(fake))
        assert time.monotonic() - begun >= 0.2
        assert connects("127.0.0.1", fake.port)
        assert not answers(fake)
        assert fake.process.poll() is None

    def test_what_it_heard_before_it_went_deaf_stays_unanswered(self, start: Start) -> None:
        fake = start("--load-seconds", "0.1", "--deaf-after", "0.05")
        with pytest.raises(TimeoutError):
            fake.post(TEXT, {}, timeout=0.1 + IMPATIENCE)

    def test_one_who_was_deaf_answers_also_those_who_still_wait(self, start: Start) -> None:
        begun = time.monotonic()
        fake = start("--deaf-after", "0", "--hear-after", "0.3")
        assert fake.get("/health") == (200, {"status": "ok"})
        assert time.monotonic() - begun >= 0.3
        assert answers(fake)

    def test_it_says_nothing_while_it_is_deaf(self, start: Start) -> None:
        fake = start("--deaf-after", "0", "--hear-after", LONG)
        assert not answers(fake)
        assert "GET" not in fake.stderr, "nor does it log what it did not hear"

    def test_one_who_gave_up_waiting_does_it_no_harm(self, start: Start) -> None:
        fake = start("--deaf-after", "0", "--hear-after", "0.3")
        assert not answers(fake)
        assert fake.get("/health") == (200, {"status": "ok"})
        assert "Traceback" not in fake.stderr

    def test_it_can_live_on_as_a_zombie(self, start: Start) -> None:
        begun = time.monotonic()
        fake = start("--zombie-after", "0.15")
        wait_for(lambda: fake.get("/health") == (503, {"status": "unavailable"}))
        assert time.monotonic() - begun >= 0.15
        assert fake.post(TEXT, {}) == (404, {"error": "generation thread died"})
        assert re.search(rf"^[-\d]+ [:,\d]+ - ERROR - .*{ZOMBIE_CAUSE}$", fake.stderr, re.MULTILINE)
        assert fake.process.poll() is None

    def test_a_zombie_turns_away_who_waited_for_the_model(self, start: Start) -> None:
        fake = start("--load-seconds", LONG, "--zombie-after", "0.05")
        assert fake.post(CHAT, {}) == (404, {"error": "generation thread died"})

    @pytest.mark.parametrize("prompt", ["", "die"], ids=["empty", "words"])
    def test_a_prompt_can_make_it_a_zombie(self, start: Start, prompt: str) -> None:
        fake = start("--die-on-prompt", prompt)
        assert fake.post(TEXT, {"prompt": "hi"})[0] == 200
        assert fake.post(TEXT, {"prompt": prompt}) == (404, {"error": "generation thread died"})
        assert fake.get("/health") == (503, {"status": "unavailable"})
        assert fake.post(TEXT, {"prompt": "hi"})[0] == 404, "for good"
        assert fake.post(TEXT, {"prompt": prompt})[0] == 404
        assert fake.stderr.count(ZOMBIE_CAUSE) == 1, "it dies once"

    def test_without_a_deadly_prompt_every_prompt_and_none_is_answered(self, start: Start) -> None:
        fake = start()
        assert [fake.post(TEXT, body)[0] for body in ({}, {"prompt": None}, {"prompt": ""})] == [200, 200, 200]

    def test_a_deadly_prompt_waits_for_the_model_as_any_other(self, start: Start) -> None:
        fake = start("--die-on-prompt", "die", "--load-seconds", LONG)
        with pytest.raises(TimeoutError):
            fake.post(TEXT, {"prompt": "die"}, timeout=IMPATIENCE)
        assert fake.get("/health")[0] == 200


class TestSignals:
    def test_sigterm_kills_it(self, start: Start) -> None:
        fake = start()
        assert fake.port
        fake.process.terminate()
        assert fake.wait() == -signal.SIGTERM

    def test_it_can_ignore_sigterm(self, start: Start) -> None:
        fake = start("--ignore-sigterm")
        assert fake.port
        fake.process.terminate()
        assert fake.get("/health")[0] == 200
        fake.process.kill()
        assert fake.wait() == -signal.SIGKILL

    def test_it_can_exit_with_a_code_on_sigterm(self, start: Start) -> None:
        fake = start("--term-exit-code", "5")
        assert fake.port
        fake.process.terminate()
        assert fake.wait() == 5

    def test_its_child_is_in_its_process_group_and_dies_with_it(self, start: Start) -> None:
        fake = start("--spawn-child")
        assert os.getpgid(child_pid(fake)) == fake.process.pid
        os.killpg(fake.process.pid, signal.SIGTERM)
        assert fake.is_gone(within=PATIENCE)

    def test_its_child_outlives_it(self, start: Start) -> None:
        fake = start("--spawn-child")
        assert child_pid(fake) != fake.process.pid
        fake.process.terminate()
        assert fake.wait() == -signal.SIGTERM
        assert not fake.is_gone(within=IMPATIENCE)

    def test_its_child_can_ignore_sigterm(self, start: Start) -> None:
        fake = start("--spawn-child", "--child-ignores-sigterm")
        assert child_pid(fake)
        os.killpg(fake.process.pid, signal.SIGTERM)
        assert fake.wait() == -signal.SIGTERM
        assert not fake.is_gone(within=IMPATIENCE)
        os.killpg(fake.process.pid, signal.SIGKILL)
        assert fake.is_gone(within=PATIENCE)


class TestOutput:
    def test_it_floods_stdout_with_numbered_lines(self, start: Start) -> None:
        fake = start("--flood", "0", "--flood-lines", "2500")
        wait_for(lambda: len(fake.stdout) >= 2500 * 19)
        assert fake.stdout == "".join(f"flood {number:012}\n" for number in range(1, 2501))
        assert fake.get("/health")[0] == 200

    def test_it_floods_until_it_is_stopped(self, start: Start) -> None:
        fake = start("--flood", "0")
        wait_for(lambda: fake.stdout.count("\n") > 10_000)

    def test_it_floods_at_the_rate_asked_for(self, start: Start) -> None:
        begun = time.monotonic()
        fake = start("--flood", "19000", "--flood-lines", "200")
        wait_for(lambda: fake.stdout.count("\n") == 200)
        assert time.monotonic() - begun >= 0.18

    def test_a_slow_flood_comes_line_by_line(self, start: Start) -> None:
        fake = start("--flood", "1")
        wait_for(lambda: fake.stdout)
        assert fake.get("/health")[0] == 200
        assert fake.stdout == "flood 000000000001\n"

    def test_what_it_says_stays_in_pythons_buffer(self, start: Start) -> None:
        fake = start("--say", "hello", python=HEEDING_ENVIRONMENT)
        assert fake.port
        assert fake.stderr.startswith("hello\n")
        assert fake.stdout == ""

    def test_what_it_says_comes_at_once_when_python_is_unbuffered(self, start: Start) -> None:
        fake = start("--say", "hello", python=HEEDING_ENVIRONMENT, PYTHONUNBUFFERED="1")
        assert fake.port
        assert fake.stdout == "hello\n"

    @pytest.mark.parametrize("end", [("--exit-at-start",), ("--exit-after", "0")])
    def test_what_it_says_is_not_lost_when_it_exits(self, start: Start, end: tuple[str, ...]) -> None:
        fake = start("--say", "hello", *end)
        assert fake.wait() == 1
        assert fake.stdout == "hello\n"


def answers(fake: Fake) -> bool:
    try:
        return fake.get("/health", timeout=IMPATIENCE)[0] == 200
    except TimeoutError:
        return False


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


def can_bind(host: str) -> bool:
    try:
        socket.create_server((host, 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A free port below every ephemeral range: a connection attempt to it cannot meet itself."""
    for port in range(20_000, 28_000):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise AssertionError("no free port")


def child_pid(fake: Fake) -> int:
    return int(wait_for(lambda: re.search(r"child (\d+)\n", fake.stdout))[1])
