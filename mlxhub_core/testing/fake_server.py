"""A stand-in for ``python -m mlx_lm server`` that starts in a blink and misbehaves on request.

Run it as a script: ``python -I -S fake_server.py --port 18000 --deaf-after 0.5``. ``--help`` lists all flags.
It stands alone: standard library only, and only the parts of it that load quickly (no http.server).

As far as a hub can see it is the real one: HTTP/1.0 with one request per connection, the same paths, statuses
and log lines, everything on stderr, flags it does not know ignored, dead at once on SIGTERM.

``-I`` makes Python ignore PYTHONUNBUFFERED. A test of that variable (see ``--say``) runs it with ``-P -S``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

FAKE_REPLY = "fake!"
"""The text of every completion."""

LAST_WORDS = "libc++abi: terminating: [METAL] Command buffer execution failed: Insufficient Memory (fake)"
"""The last line on stderr before ``--abort-after`` aborts: what Metal says when memory runs out."""

ZOMBIE_CAUSE = "generation thread died: fake cause"
"""Part of the line on stderr that tells of ``--zombie-after``."""

CHILD_LIFETIME = 60.0
"""Seconds after which a spawned child ends by itself, so that a failing test leaves nothing behind."""

_BACKLOG = 5
"""Connections the system keeps waiting; the real server has the same."""

_FLOOD_LINE = b"flood %012d\n"
_FLOOD_LINE_BYTES = 19
_FLOOD_BURST = 1000
"""Most lines written at once."""
_FLOOD_BURSTS_PER_SECOND = 50
"""A rate is kept by this many writes a second, or by single lines if it is low."""


class Options(argparse.Namespace):
    """The command line; see `_parser` for meanings and defaults."""

    host: str
    port: int
    model: str | None
    health_path: str
    unready_status: int
    listen_after: float
    load_seconds: float
    exit_at_start: bool
    exit_after: float | None
    exit_code: int
    abort_after: float | None
    deaf_after: float | None
    hear_after: float | None
    zombie_after: float | None
    die_on_prompt: str | None
    ignore_sigterm: bool
    term_exit_code: int | None
    spawn_child: bool
    child_ignores_sigterm: bool
    say: str | None
    flood: int | None
    flood_lines: int


class Request:
    """One HTTP request."""

    def __init__(self, line: str, body: bytes) -> None:
        self.line = line
        self.method, self.path, *_ = [*line.split(), "", ""]
        self.body = body


class FakeServer:
    """Listens, answers, and lets the faults asked for happen."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.loaded = threading.Event()
        self.hears = threading.Event()
        self.hears.set()
        self.zombie = threading.Event()

    def run(self) -> None:
        """Never returns: the process ends by a signal or by a fault."""
        self._arm()
        time.sleep(self.options.listen_after)
        host = self.options.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, self.options.port), family=family, backlog=_BACKLOG) as listener:
            _log("INFO", f"Starting httpd at {host} on port {listener.getsockname()[1]}...")
            while True:
                connection, address = listener.accept()
                _in_background(self._serve, connection, address[0])

    def _arm(self) -> None:
        options = self.options
        _after(options.load_seconds, self.loaded.set)
        _after(options.deaf_after, self.hears.clear)
        _after(options.hear_after, self.hears.set)
        _after(options.zombie_after, self._become_zombie)
        _after(options.exit_after, _leave, options.exit_code)
        _after(options.abort_after, _abort)
        if options.flood is not None:
            _in_background(_flood, options.flood, options.flood_lines)

    def _become_zombie(self) -> None:
        self.zombie.set()
        self.loaded.set()  # whoever waits for the model learns now that it is dead
        _log("ERROR", f"mlx_lm.server {ZOMBIE_CAUSE}")

    def _serve(self, connection: socket.socket, client: str) -> None:
        try:
            with connection:
                request = _read_request(connection)
                if request is not None:
                    self._reply(connection, client, request)
        except OSError:
            pass  # the client is gone

    def _reply(self, connection: socket.socket, client: str, request: Request) -> None:
        status, content = self._answer(request)
        self.hears.wait()  # perhaps for ever, with the connection open
        moment = time.strftime("%d/%b/%Y %H:%M:%S")
        _write(2, f'{client} - - [{moment}] "{request.line}" {status} -\n'.encode())
        connection.sendall(_response(status, content))

    def _answer(self, request: Request) -> tuple[int, object]:
        match request.method, request.path:
            case "GET", self.options.health_path:
                return self._health()
            case "GET", "/v1/models":
                return 200, self._models()
            case "POST", "/v1/completions":
                return self._completion(request, "text_completion", {"text": FAKE_REPLY})
            case "POST", "/v1/chat/completions" | "/chat/completions":
                message = {"role": "assistant", "content": FAKE_REPLY}
                return self._completion(request, "chat.completion", {"message": message})
        return 404, {"error": "Not Found"}

    def _health(self) -> tuple[int, object]:
        if self.zombie.is_set():
            return 503, {"status": "unavailable"}
        if self.loaded.is_set() or self.options.unready_status == 200:
            return 200, {"status": "ok"}
        return self.options.unready_status, {"status": "loading"}

    def _models(self) -> object:
        ids = [self.options.model] if self.options.model else []
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0} for name in ids]}

    def _completion(self, request: Request, kind: str, said: dict[str, object]) -> tuple[int, object]:
        try:
            asked = json.loads(request.body)
            model, prompt = asked.get("model", "default_model"), asked.get("prompt")
        except (ValueError, AttributeError) as error:
            return 400, {"error": f"Invalid JSON in request body: {error}"}
        self.loaded.wait()
        if prompt is not None and prompt == self.options.die_on_prompt and not self.zombie.is_set():
            self._become_zombie()
        if self.zombie.is_set():
            return 404, {"error": "generation thread died"}
        return 200, {
            "id": "fake-1",
            "object": kind,
            "model": model,
            "created": 0,
            "choices": [{"index": 0, "finish_reason": "stop", **said}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }


def main() -> None:
    """Do what the command line says."""
    options = _parser().parse_known_args(namespace=Options())[0]
    # A process may only fork safely while it has one thread, so the child comes first.
    if options.spawn_child:
        _spawn_child(options.child_ignores_sigterm)
    _prepare_for_sigterm(options)
    if options.say is not None:
        print(options.say)  # not flushed: that is the point
        print(options.say, file=sys.stderr)
    if options.exit_at_start:
        sys.exit(options.exit_code)
    FakeServer(options).run()


def _spawn_child(ignores_sigterm: bool) -> None:
    if os.fork() == 0:
        if ignores_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # The child says it, not its parent: whoever reads the line knows that the child is prepared.
        _write(1, f"child {os.getpid()}\n".encode())
        time.sleep(CHILD_LIFETIME)
        os._exit(0)


def _prepare_for_sigterm(options: Options) -> None:
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif options.term_exit_code is not None:
        # A Python handler would wait for the main thread to wake up from accept(). Threads inherit the mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        _in_background(_leave_on_sigterm, options.term_exit_code)


def _leave_on_sigterm(code: int) -> None:
    signal.sigwait({signal.SIGTERM})
    _leave(code)


def _leave(code: int) -> None:
    """Exit from any thread; `sys.exit` would only end that thread."""
    sys.stdout.flush()
    os._exit(code)


def _abort() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core file in the user's directory
    _write(2, f"{LAST_WORDS}\n".encode())
    os.abort()


def _flood(bytes_per_second: int, lines: int) -> None:
    burst = _FLOOD_BURST
    if bytes_per_second:
        burst = min(burst, bytes_per_second // (_FLOOD_LINE_BYTES * _FLOOD_BURSTS_PER_SECOND) or 1)
    begun = time.monotonic()
    for done in range(0, lines, burst):
        upto = min(done + burst, lines)
        _write(1, b"".join(_FLOOD_LINE % number for number in range(done + 1, upto + 1)))
        if bytes_per_second:
            due = begun + upto * _FLOOD_LINE_BYTES / bytes_per_second
            time.sleep(max(0.0, due - time.monotonic()))


def _read_request(connection: socket.socket) -> Request | None:
    """The next request, or None if the client only looked whether somebody listens."""
    with connection.makefile("rb") as stream:
        line = stream.readline()
        if not line.endswith(b"\n"):
            return None
        length = 0
        while header := stream.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return Request(line.decode("latin-1").strip(), stream.read(length))


def _response(status: int, content: object) -> bytes:
    body = json.dumps(content).encode()
    lines = [
        f"HTTP/1.0 {status} {'OK' if status < 400 else 'Error'}",
        "Content-type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _log(level: str, message: str) -> None:
    moment = time.strftime("%Y-%m-%d %H:%M:%S")
    milliseconds = time.time_ns() // 1_000_000 % 1000
    _write(2, f"{moment},{milliseconds:03} - {level} - {message}\n".encode())


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it, past Python's buffers: lines of different threads never mix."""
    while data:
        data = data[os.write(descriptor, data) :]


def _after(seconds: float | None, action: Callable[..., None], *args: object) -> None:
    """Do it in so many seconds: now if 0, never if None."""
    if seconds is None:
        return
    if seconds <= 0:
        action(*args)
    else:
        timer = threading.Timer(seconds, action, args)
        timer.daemon = True
        timer.start()


def _in_background(action: Callable[..., None], *args: object) -> None:
    threading.Thread(target=action, args=args, daemon=True).start()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="A model server that misbehaves. S is in seconds since its start, fractions allowed.",
        epilog="Flags it does not know, such as the real server's, are ignored.",
        # Without a width argparse imports shutil and a row of compressors to ask for the terminal's.
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=100),
        allow_abbrev=False,
    )
    _add_server_flags(parser.add_argument_group("server").add_argument)
    _add_fault_flags(parser.add_argument_group("faults").add_argument)
    _add_signal_flags(parser.add_argument_group("signals and children").add_argument)
    _add_output_flags(parser.add_argument_group("output").add_argument)
    return parser


def _add_server_flags(add: Callable[..., object]) -> None:
    add("--port", type=int, required=True, help="0: any free one, named in the line 'Starting httpd'")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--model", metavar="NAME", help="listed by /v1/models, otherwise without effect")
    add("--health-path", metavar="PATH", default="/health", help="where health is (default: %(default)s)")
    unready = "HTTP status of health while loading (default: %(default)s, as mlx_lm)"
    add("--unready-status", metavar="CODE", type=int, default=200, help=unready)
    loading = "listens at once, but completions wait until then (default: 0)"
    add("--load-seconds", metavar="S", type=float, default=0.0, help=loading)
    add("--listen-after", metavar="S", type=float, default=0.0, help="listens only from then (default: 0)")


def _add_fault_flags(add: Callable[..., object]) -> None:
    add("--exit-at-start", action="store_true", help="exits before it listens, with --exit-code")
    add("--exit-after", metavar="S", type=float, help="exits then, with --exit-code")
    add("--exit-code", metavar="N", type=int, default=1, help="0 to 255 (default: %(default)s)")
    add("--abort-after", metavar="S", type=float, help="last words to stderr, then SIGABRT (exit code -6)")
    add("--deaf-after", metavar="S", type=float, help="still accepts connections then, but answers none")
    add("--hear-after", metavar="S", type=float, help="deaf no more then: answers also those who still wait")
    zombie = "lives on, but from then health is 503, completions are 404, and stderr says why"
    add("--zombie-after", metavar="S", type=float, help=zombie)
    death = "a completion of this prompt makes it such a zombie, as an empty one does to the real server"
    add("--die-on-prompt", metavar="TEXT", help=death)


def _add_signal_flags(add: Callable[..., object]) -> None:
    add("--ignore-sigterm", action="store_true", help="only SIGKILL ends it")
    term = "exits with this code on SIGTERM (default: dies of the signal, exit code -15)"
    add("--term-exit-code", metavar="N", type=int, help=term)
    child = f"forks a child that says 'child PID' on stdout and ends after {CHILD_LIFETIME:.0f} seconds"
    add("--spawn-child", action="store_true", help=child)
    add("--child-ignores-sigterm", action="store_true", help="only SIGKILL ends that child earlier")


def _add_output_flags(add: Callable[..., object]) -> None:
    add("--say", metavar="TEXT", help="printed at the start, to stdout without flushing, then to stderr")
    flood = f"numbered lines of {_FLOOD_LINE_BYTES} bytes to stdout; 0: as fast as possible"
    add("--flood", metavar="BYTES_PER_SECOND", type=int, help=flood)
    lines = "the flood ends after N lines (default: never)"
    add("--flood-lines", metavar="N", type=int, default=sys.maxsize, help=lines)


if __name__ == "__main__":
    main()
