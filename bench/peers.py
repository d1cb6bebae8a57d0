"""The daemons that are compared: mlxhub itself, supervisord and circus, each told to do the same.

Peers are installed into environments of their own below `.venv`; without a network they are left out.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.figure import OURS
from bench.tools import Lines, end_all, environment, free_port, marked

INSTALLED = Path(sys.prefix) / "bench-peers"
PACKAGES = {"supervisord": "supervisor", "circus": "circus"}
# What they need and do not say: supervisor imports pkg_resources, which newer setuptools do not have.
BESIDES = "setuptools<81"


@dataclass(frozen=True, slots=True)
class Setup:
    """What a daemon is to run.

    Attributes:
        programs: names, and a shell script for each, which is in the directory as `<name>.sh`.
        restart: at once, whatever comes.
        grace: seconds between SIGTERM and SIGKILL.
        limit: bytes, in whole megabytes, at which a log is rotated; 0: never.
        told: where the time of each end that a listener hears of is written, as nanoseconds of the monotonic clock.
    """

    programs: dict[str, str]
    restart: bool = False
    grace: float = 10
    limit: int = 0
    told: Lines | None = None


@dataclass(slots=True)
class Daemon:
    """One that runs.

    Attributes:
        directory: where its programs run, and their logs are: `<name>.log`.
        status: the command that shows how the programs are.
    """

    process: psutil.Process
    directory: Path
    status: list[str] = field(default_factory=list)

    def parts(self) -> list[psutil.Process]:
        """All of its processes, without the programs."""
        return [each for each in marked(str(self.directory)) if not self._is_program(each)]

    def _is_program(self, process: psutil.Process) -> bool:
        try:
            argv = process.cmdline()
        except psutil.Error:
            return True
        scripts = (str(each) for each in self.directory.glob("*.[sp][hy]"))
        return bool({*scripts, "sleep", "awk"} & set(argv))

    def end(self) -> None:
        """Ask it to stop all and end; does not wait."""
        self.process.send_signal(signal.SIGTERM)

    def log(self, name: str = "m") -> Path:
        """The log of a program."""
        return self.directory / f"{name}.log"


Start = Callable[[Path, Setup], AbstractContextManager[Daemon]]


@contextmanager
def mlxhub(directory: Path, setup: Setup) -> Iterator[Daemon]:
    """`mlxhub start`, as people run it, without a sink."""
    models = [
        {
            "name": name,
            "default": True,
            "health": False,
            "command": ["/bin/sh", str(script)],
            "working_directory": str(directory),
            "stop_timeout": setup.grace,
            "restart": {"delay": 0, "max_failures": 1000, "jitter": 0} if setup.restart else "never",
        }
        for name, script in _scripts(directory, setup)
    ]
    rotation = (
        json.dumps({"max_bytes": f"{setup.limit // 10**6}MB", "backups": 1000, "compress": False})
        if setup.limit
        else "off"
    )
    listed = "".join(f"- {json.dumps(model)}\n" for model in models)
    config = directory / "hub.yaml"
    config.write_text(f"log_path: .\nlog_rotation: {rotation}\nsinks: {{loguru: off}}\nmodels:\n{listed}")
    command = str(Path(sys.executable).with_name("mlxhub"))
    with _running(directory, [command, "start", "--foreground", "--config", str(config)]) as process:
        yield Daemon(process, directory, [command, "status", "--config", str(config)])


@contextmanager
def supervisord(directory: Path, setup: Setup) -> Iterator[Daemon]:
    """supervisord, with its control socket."""
    # Not `redirect_stderr`: with one pipe instead of two it often hears of an end a second later.
    log = f"stderr_logfile=NONE\nstdout_logfile_maxbytes={setup.limit}\nstdout_logfile_backups=1000\n"
    rules = f"startsecs=0\nstopwaitsecs={max(1, round(setup.grace))}\nautorestart={str(setup.restart).lower()}\n"
    programs = "".join(
        f"[program:{name}]\ncommand=/bin/sh {script}\nstdout_logfile={directory}/{name}.log\n{log}{rules}"
        for name, script in _scripts(directory, setup)
    )
    if setup.told:
        listener = _script(directory, "listener.py", SUPERVISORD_LISTENER)
        programs += f"[eventlistener:told]\ncommand={sys.executable} -I -S {listener} {setup.told.path}\n"
        programs += "events=PROCESS_STATE_EXITED\n"
    config = directory / "supervisord.conf"
    config.write_text(
        "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile=pid\n"
        "[unix_http_server]\nfile=ctl.sock\n[supervisorctl]\nserverurl=unix://ctl.sock\n[rpcinterface:supervisor]\n"
        f"supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n{programs}"
    )
    where = INSTALLED / "supervisord" / "bin"
    with _running(directory, [str(where / "supervisord"), "-c", str(config)]) as process:
        yield Daemon(process, directory, [str(where / "supervisorctl"), "-c", str(config), "status"])


def circus(check_delay: float = 5) -> Start:
    """circusd; `check_delay` is how often, in seconds, it looks after its programs. 5 is its default."""

    @contextmanager
    def start(directory: Path, setup: Setup) -> Iterator[Daemon]:
        ends = {name: f"tcp://127.0.0.1:{free_port()}" for name in ("endpoint", "pubsub_endpoint")}
        log = (
            f"stdout_stream.class=FileStream\nstdout_stream.max_bytes={setup.limit}\nstdout_stream.backup_count=1000\n"
        )
        rules = f"copy_env=true\ngraceful_timeout={setup.grace}\nrespawn={str(setup.restart).lower()}\nmax_retry=-1\n"
        programs = "".join(
            f"[watcher:{name}]\ncmd=/bin/sh {script}\nworking_dir={directory}\n{log}{rules}"
            f"stdout_stream.filename={directory}/{name}.log\n"
            for name, script in _scripts(directory, setup)
        )
        top = "".join(f"{name}={end}\n" for name, end in ends.items())
        config = directory / "circus.ini"
        config.write_text(f"[circus]\ncheck_delay={check_delay:g}\n{top}{programs}")
        where = INSTALLED / "circus" / "bin"
        with contextlib.ExitStack() as stack:
            if setup.told:
                listener = _script(directory, "listener.py", CIRCUS_LISTENER)
                argv = [str(where / "python"), str(listener), ends["pubsub_endpoint"], str(setup.told.path)]
                stack.enter_context(_running(directory, argv))
            process = stack.enter_context(_running(directory, [str(where / "circusd"), str(config)]))
            yield Daemon(process, directory, [str(where / "circusctl"), "--endpoint", ends["endpoint"], "status"])

    return start


SUPERVISORD_LISTENER = """
import os, sys, time
told = os.open(sys.argv[1], os.O_RDWR)
while True:
    os.write(1, b"READY\\n")
    words = dict(word.split(":") for word in sys.stdin.readline().split())
    now = time.monotonic_ns()
    sys.stdin.read(int(words["len"]))
    os.write(told, b"%d\\n" % now)
    os.write(1, b"RESULT 2\\nOK")
"""

CIRCUS_LISTENER = """
import os, sys, time, zmq
told = os.open(sys.argv[2], os.O_RDWR)
socket = zmq.Context().socket(zmq.SUB)
socket.setsockopt(zmq.SUBSCRIBE, b"watcher.")
socket.connect(sys.argv[1])
while True:
    topic = socket.recv_multipart()[0]
    now = time.monotonic_ns()
    if topic.endswith(b".reap"):
        os.write(told, b"%d\\n" % now)
"""


def daemons() -> dict[str, Start]:
    """mlxhub, and the peers that are installed."""
    peers: dict[str, Start] = {"supervisord": supervisord, "circus": circus()}
    return {OURS: mlxhub} | {name: start for name, start in peers.items() if (INSTALLED / name / "ready").exists()}


def install() -> None:
    """Install the peers that are missing. One that cannot be is told, and left out."""
    for name, package in PACKAGES.items():
        where = INSTALLED / name
        if (where / "ready").exists():
            continue
        print(f"installing {package} into {where}", file=sys.stderr)
        venv.create(where, with_pip=True, clear=True)
        argv = [str(where / "bin" / "python"), "-m", "pip", "install", "--quiet", package, BESIDES]
        if subprocess.run(argv, check=False).returncode:
            print(f"{name} cannot be installed, and is left out", file=sys.stderr)
            shutil.rmtree(where)
        else:
            (where / "ready").touch()


def versions() -> dict[str, str]:
    """Of the peers that are installed."""
    found = {}
    for name, package in PACKAGES.items():
        if (INSTALLED / name / "ready").exists():
            code = f"import importlib.metadata as m; print(m.version({package!r}))"
            argv = [str(INSTALLED / name / "bin" / "python"), "-c", code]
            found[name] = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    return found


def _scripts(directory: Path, setup: Setup) -> Iterator[tuple[str, Path]]:
    for name, text in setup.programs.items():
        yield name, _script(directory, f"{name}.sh", text + "\n")


def _script(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text)
    return path


@contextmanager
def _running(directory: Path, argv: list[str]) -> Iterator[psutil.Process]:
    """A process of ours; ended afterwards, with all that was started for its directory, if it has not ended itself."""
    with (directory / "daemon.out").open("ab") as out:
        process = subprocess.Popen(
            argv, cwd=directory, env=environment(directory), stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()
        end_all(marked(str(directory)))


def python(directory: Path, name: str, code: str) -> str:
    """The shell's command for a program in Python, which takes no longer to start than it must."""
    return f"exec {shlex.join([sys.executable, '-I', '-S', str(_script(directory, name, code))])}"
