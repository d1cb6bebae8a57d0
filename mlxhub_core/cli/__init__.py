"""The command `mlxhub`. Each command is a file of its own, imported when it is called: starting up stays quick.

Exit codes: 0 ok; 1 it could not be done; 2 hub.yaml or the command line is wrong; 3 no hub runs; 130 interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys

import click

from mlxhub_core import __version__
from mlxhub_core.cli.lazy import LazyGroup
from mlxhub_core.errors import EXIT_FAILED, HubError
from mlxhub_core.waits import heed_signals

EXIT_INTERRUPTED = 130
"""What shells give a command that Ctrl-C ended: 128 + SIGINT."""

_COMMANDS = {
    "start": "Start the hub, and its models, in the background.",
    "status": "How the models are.",
    "watch": "Watch the models, the sinks and what happens, live.",
    "events": "What has happened, and what happens.",
    "explain": "What happened to a model, and what you can do.",
    "logs": "What models have written; rotate it.",
    "start-model": "Start models.",
    "stop-model": "Stop models.",
    "restart-model": "Restart models.",
    "reset": "Forget that models have failed.",
    "reload": "Apply hub.yaml to the hub that runs.",
    "stop": "Stop the hub that runs, and its models or not.",
    "init": "Write a hub.yaml to start from.",
    "check": "Say what is wrong with a hub.yaml.",
    "schema": "Print the JSON schema of hub.yaml, for editors.",
    "sinks": "See and try the sinks: list, check, test, status and more.",
    "new-sink": "Write a package of a sink to start from.",
    "sd": "Tell Prometheus where the hubs are.",
    "demo": "See it all work, with two tiny real models.",
    "doctor": "Look at all that a hub needs, and say what to do.",
    "service": "Start the hub when you log in: launchd, systemd.",
    "completion": "Complete commands and names with Tab.",
    "version": "Which versions are here.",
}


@click.group(
    cls=LazyGroup,
    package=__name__,
    commands=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok; 1 it could not be done; 2 hub.yaml or the command line is wrong; 3 no hub runs; 130"
    " interrupted.",
)
@click.version_option(__version__, prog_name="mlxhub", message="%(prog)s %(version)s")
def cli() -> None:
    """Run several local models at once, and tell your monitoring what happens to them.

    \b
      mlxhub demo      # see it all work, with two tiny real models
      mlxhub init      # write a hub.yaml; put your models in
      mlxhub start     # start them
      mlxhub status    # how they are
      mlxhub doctor    # what is in the way, should something not work
    """  # noqa: D301  # click needs the character, to leave the lines as they are


def main() -> None:
    """The entry point of the command."""
    heed_signals()
    for stream in (sys.stdout, sys.stderr):
        # None where it was closed. What cannot be written in the language of the terminal is no reason to end.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    try:
        code = cli.main(prog_name="mlxhub", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except SystemExit as end:
        code = end.code
    except HubError as error:
        _show(error)
        code = error.exit_code
    except OSError as error:
        # Of the machine: a disk that is full, a file that nobody may open. What can be foreseen has a better sentence.
        where = f": {error.filename}" if error.filename else ""
        _show(HubError(f"it cannot be done ({error.strerror or type(error).__name__}{where})"))
        code = EXIT_FAILED
    except UnicodeEncodeError:
        _show(HubError("a name cannot be written in the language of this terminal; set LC_ALL=C.UTF-8"))
        code = EXIT_FAILED
    _leave(code if isinstance(code, int) else 0)


def _leave(code: int) -> None:
    """End at once.

    The interpreter's own way to end waits for threads that a sink may have left, and takes all modules apart, which is
    a tenth of the time of `mlxhub status`.
    """
    atexit._run_exitfuncs()  # noqa: SLF001  # as multiprocessing does before it ends a process so
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _show(error: HubError) -> None:
    from mlxhub_core.cli.common import say

    for line in str(error).splitlines():
        say(line, "red")
