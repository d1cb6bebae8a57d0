"""`mlxhub demo`: the whole of mlxhub in a minute, on two tiny but real models."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mlxhub_core.cli.common import END_SIGNALS, closing, log_to
from mlxhub_core.cli.table import status_table
from mlxhub_core.errors import HubError
from mlxhub_core.launch import mlx_is_missing
from mlxhub_core.manager import HubManager
from mlxhub_core.metrics.usage import memory_of
from mlxhub_core.states import ModelStatus
from mlxhub_core.testing import RecordingSink
from mlxhub_core.testing.tiny_model import write_tiny_model

REPLIES = {"alpha": "mlxhub!", "beta": "works."}
"""What each model is made to say. The letters of a reply must differ: the model is a chain of them."""
READY_TIMEOUT = 180.0
"""Seconds a model may take to answer. The first start on a machine compiles and reads some 300 MB of Python."""
PLAIN_WIDTH = 120
"""Columns of tables and rules where the output is no terminal."""
ANSWER_TIMEOUT = 60.0
"""Seconds a completion of these few tokens may take."""

HUB_YAML = """\
# Written by `mlxhub demo`, anew at each run: copy it somewhere else before you change it.
# Run it yourself with: mlxhub start --config hub.yaml

log_path: logs                  # each model's output, in a file of its own; default: ~/mlx-openai-server/logs
log_level: INFO                 # of the hub's own messages
host: 127.0.0.1                 # where the models listen; others on the network cannot reach them
model_starting_port: 27850      # models without a `port:` get the free ports from here on

sinks:                          # who is told when a model starts, is ready, stops, fails, restarts
  loguru:                       # the hub's log; on by itself, `loguru: off` turns it off
  # prometheus:                 # pip install mlxhub-prom-sink
  #   listen: 127.0.0.1:9464
  # statsd:                     # pip install mlxhub-statsd-sink
  #   host: 127.0.0.1

models:
  - name: alpha                 # its log is logs/alpha.log
    model_path: models/alpha    # a directory as here, or a name such as mlx-community/Qwen3-4B-4bit
    default: true               # starts with the hub
    restart: on-failure         # or: never, always
    options:                    # any flag of `mlx_lm server`, without its dashes
      max-tokens: 64
  - name: beta
    model_path: models/beta
    default: true
    group: small                # a label that goes along with every event
"""


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("mlxhub-demo"),
    show_default=True,
    help="Where to put the models, the hub.yaml and the logs.",
)
@click.option("--once", is_flag=True, help="End when all was shown, also on a terminal.")
def demo(directory: Path, once: bool) -> None:
    """See it all work: two tiny real models, a question to each, a crash, and the recovery.

    Needs mlx-lm and no network; leaves a hub.yaml to start from. On a terminal it then stays up until Ctrl-C.

    \b
      mlxhub demo
      mlxhub demo --once --dir /tmp/mlxhub-demo
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    # Where nobody looks on, nothing is folded: whoever greps the output wants whole lines.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    if advice := mlx_is_missing():
        raise HubError(f"the demo runs real models and needs {advice}")
    log_to(lambda line: console.print(Text.from_ansi(line.rstrip("\n")), soft_wrap=True), colour=console.is_terminal)
    config = _write_files(directory)
    console.print(Text.assemble("Wrote two models of 26 KB and ", (str(config), "bold"), "."))
    watcher = RecordingSink()
    stay = console.is_terminal and sys.stdin.isatty() and not once
    for number in (*END_SIGNALS, signal.SIGHUP):
        signal.signal(number, _interrupt)
    started = time.monotonic()
    try:
        hub = HubManager(config, observability_sink=watcher)
        with closing(hub):
            show = _Show(console, hub, watcher)
            show.play()
            if stay:
                show.stay()
    except KeyboardInterrupt:
        if not stay:
            raise
    console.print(Text(_summary(watcher, time.monotonic() - started, config)))


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _write_files(directory: Path) -> Path:
    config = directory / "hub.yaml"
    try:
        if config.exists() and not config.read_bytes().startswith(HUB_YAML.partition("\n")[0].encode()):
            raise HubError(f"{config} is not from the demo, which would write its own there; name another with --dir")
        for name, reply in REPLIES.items():
            write_tiny_model(directory / "models" / name, reply)
        config.write_text(HUB_YAML, encoding="utf-8")
    except OSError as error:
        raise HubError(f"cannot write to {directory} ({error.strerror}); name another with --dir") from None
    return config


class _Show:
    """The acts of the demo."""

    def __init__(self, console: Console, hub: HubManager, watcher: RecordingSink) -> None:
        self._console = console
        self._hub = hub
        self._watcher = watcher

    def play(self) -> None:
        """All acts, in order. Raises HubError when one does not go as it should."""
        self._act("Two models start, each in a process of its own")
        failed = self._hub.reload().failed
        for error in failed.values():
            raise error
        for name in REPLIES:
            self._await("model_ready", name, f"waiting until {name} really answers a completion")
        for name in REPLIES:
            self._chat(name)
        self._console.print(_table_of(self._hub))
        self._crash("alpha")
        self._chat("alpha")
        self._console.print(_table_of(self._hub))

    def stay(self) -> None:
        """Show the table, as it changes, until Ctrl-C."""
        self._console.print("The hub stays up: try `kill -9` on a pid below. Ctrl-C ends it.")
        with self._live_table(transient=False):
            signal.pause()

    def _live_table(self, *, transient: bool = True) -> AbstractContextManager[object]:
        """The table, drawn anew each second, below whatever is printed meanwhile; nothing where it could not move."""
        if not self._console.is_terminal:
            return nullcontext()
        table = _Table(self._hub)
        return Live(table, console=self._console, refresh_per_second=1, transient=transient)

    def _act(self, title: str) -> None:
        self._console.rule(f"[bold]{title}", align="left")

    def _await(self, hook: str, name: str, what: str, count: int = 1) -> None:
        self._console.print(f"[dim]{what} …[/]")
        with self._live_table():
            try:
                self._watcher.wait_for(hook, name, count=count, timeout=READY_TIMEOUT)
            except AssertionError:
                status = self._status(name)
                message = f"{name} did not get there within {READY_TIMEOUT:.0f} s ({status.state}: {status.reason})"
                raise HubError(f"{message}; its output is in {status.log_path}") from None

    def _chat(self, name: str) -> None:
        answer = _ask(self._status(name), "Hello, who is there?")
        if answer != REPLIES[name]:
            raise HubError(f"{name} answered {answer!r} instead of {REPLIES[name]!r}")
        self._console.print(
            Text.assemble(f"{name} was asked «Hello, who is there?» and said: ", (answer, "bold green"))
        )

    def _crash(self, name: str) -> None:
        victim = self._status(name)
        self._act(f"{name} is killed: kill -9 {victim.pid}")
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        failure = self._watcher.wait_for("model_failed", name, timeout=READY_TIMEOUT)
        event = failure.event
        self._console.print(
            Panel(
                Text("\n".join(event.log_tail[-5:]), style="dim"),
                title=Text(
                    f"event model_failed: {name}, exit code {failure.arguments['exit_code']} ({event.signal}), "
                    f"up {event.uptime_seconds:.1f} s, restart in {event.restart_in:.1f} s"
                ),
                subtitle=Text(f"the end of {victim.log_path}"),
                title_align="left",
                subtitle_align="left",
            )
        )
        self._await("model_ready", name, f"waiting until {name} answers again", count=2)

    def _status(self, name: str) -> ModelStatus:
        return next(status for status in self._hub.get_status() if status.name == name)


class _Table:
    """The table of models as it is whenever it is drawn."""

    def __init__(self, hub: HubManager) -> None:
        self._hub = hub

    def __rich__(self) -> Table:
        return _table_of(self._hub)


def _table_of(hub: HubManager) -> Table:
    models = hub.get_status()
    memory = memory_of(models)
    return status_table({**asdict(model), "memory_bytes": memory.get(model.name)} for model in models)


def _ask(status: ModelStatus, question: str) -> str:
    """One chat completion, as any OpenAI client would ask for it."""
    connection = http.client.HTTPConnection(status.host or "127.0.0.1", status.port, timeout=ANSWER_TIMEOUT)
    try:
        body = json.dumps({"messages": [{"role": "user", "content": question}]})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = json.load(connection.getresponse())
        return str(answer["choices"][0]["message"]["content"])
    except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
        raise HubError(f"{status.name} did not answer: {error}; its output is in {status.log_path}") from None
    finally:
        connection.close()


def _summary(watcher: RecordingSink, seconds: float, config: Path) -> str:
    hooks = [event.hook for event in watcher.events]
    counts = ", ".join(f"{hooks.count(hook)} {hook}" for hook in dict.fromkeys(hooks))
    return (
        f"Seen in {seconds:.0f} s: {counts}.\nNow your own: copy {config}, put your models in, and run `mlxhub start`."
    )
