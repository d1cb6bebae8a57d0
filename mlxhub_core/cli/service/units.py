"""What launchd and systemd are told of a hub, as the text of their files. Touches nothing.

What happens to the models is decided here. The hub's own process is all that a stop may signal: it then ends its models
with their own grace. Should it crash, or be killed, they go on, as everywhere, and the hub that is started again goes on
with them. systemd would end them with the hub (systemd.kill(5): only `KillMode=process` spares the other processes of the
unit), and would even stop the hub, and so all other models, when the kernel kills one for want of memory (systemd.service(5):
`OOMPolicy` is `stop` by default). launchd ends what is left of the job's process group (launchd.plist(5):
`AbandonProcessGroup`).
"""

from __future__ import annotations

import os
import plistlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxhub_core.logs import hub_log_file
from mlxhub_core.place import place_of
from mlxhub_core.settings import HubSettings

MARK = "Written by `mlxhub service install`, which may write it again"
"""What says that a file is ours."""
MARGIN = 30
"""Seconds from the end of the longest grace of a model to the end of the hub: for SIGKILL, and for the sinks."""
FILES = 4096
"""File descriptors. launchd gives 256, which is too few for a hub of 50 models."""
KEPT = ("PATH", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT")
"""What of the environment a hub and its models need: programs, and where models are. Others are the shell's own affair,
or secrets, which have no place in a file that everybody may read."""
_SECRET = re.compile(r"TOKEN|SECRET|PASS|KEY|CREDENTIAL", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Service:
    """A hub as a service.

    Attributes:
        name: by which the system knows it; another one for each hub.yaml.
        settings: of that hub.yaml.
        environ: what is kept of the environment.
    """

    name: str
    settings: HubSettings
    environ: Mapping[str, str]

    @property
    def config(self) -> Path:
        """Its hub.yaml, absolute."""
        return self.settings.path.resolve()

    @property
    def stop_timeout(self) -> int:
        """Seconds that it may take to stop."""
        return round(max(model.stop_timeout for model in self.settings.models)) + MARGIN

    def command(self, *words: str) -> list[str]:
        """A command of mlxhub for it. `-P`: what lies where the process starts is no module of ours."""
        return [sys.executable, "-P", "-m", "mlxhub_core", *words, "--config", str(self.config)]


def service_of(settings: HubSettings, environ: Mapping[str, str]) -> Service:
    """The service for a hub.yaml."""
    return Service(name_of(settings.path), settings, dict(_kept(environ)))


def name_of(config: Path) -> str:
    """The name of its service: readable, and different for each hub.yaml."""
    config = config.resolve()
    stem = "" if config.stem == "hub" else f"-{config.stem}"
    words = re.sub("[^a-z0-9]+", "-", f"{config.parent.name}{stem}".lower()).strip("-")[:40]
    return "-".join(filter(None, ("mlxhub", words, place_of(config).socket.stem[:6])))


def _kept(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in environ.items():
        ours = name.startswith("MLXHUB_") and name != "MLXHUB_CONFIG" and not _SECRET.search(name)
        if name == "PATH":
            value = os.pathsep.join(entry for entry in value.split(os.pathsep) if Path(entry).is_absolute())
        # An address may hold a password.
        if (ours or name in KEPT) and value and "@" not in value:
            yield name, value


def missing_secrets(settings: HubSettings, environ: Mapping[str, str]) -> Iterator[str]:
    """The environment variables from which hub.yaml takes a secret, and which the service will not have."""
    for sink in settings.sinks:
        yield from (name for name in _variables(sink.options) if name not in environ)


def _variables(options: object) -> Iterator[str]:
    match options:
        case {"env": str(name), **others} if not others:
            yield name
        case Mapping():
            for value in options.values():
                yield from _variables(value)
        case list():
            for value in options:
                yield from _variables(value)


def systemd_unit(service: Service) -> str:
    """The unit for the user's systemd."""
    environment = [f"Environment={_quoted(f'{name}={value}')}" for name, value in service.environ.items()]
    lines = [
        f"# {MARK}.",
        f"# What you want otherwise: systemctl --user edit {service.name}",
        "[Unit]",
        f"Description=mlxhub: the models of {_escaped(str(service.config))}",
        "StartLimitIntervalSec=300",
        "StartLimitBurst=5",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={_line(service.command('start', '--foreground'))}",
        "# Unlike SIGHUP it waits until that is done, and fails if hub.yaml is wrong.",
        f"ExecReload={_line(service.command('reload'))}",
        "# A stop signals the hub alone, which stops its models; should it crash, they go on, and the next one finds them.",
        "KillMode=process",
        "# `systemctl --user restart`, as for an upgrade: the hub leaves its models to the next one.",
        "RestartKillSignal=SIGUSR2",
        f"TimeoutStopSec={service.stop_timeout}",
        "Restart=on-failure",
        "RestartSec=5",
        "# 2: hub.yaml is wrong. Nothing would be better the next time.",
        "RestartPreventExitStatus=2",
        "# A model that the kernel kills for want of memory is the hub's affair.",
        "OOMPolicy=continue",
        *environment,
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def _line(words: Iterable[str]) -> str:
    """A command line as systemd reads it; a `$` would begin a variable there."""
    return " ".join(_quoted(word).replace("$", "$$") for word in words)


def _quoted(word: str) -> str:
    return f'"{_escaped(word)}"' if re.search(r"[^A-Za-z0-9_@%+=:,./-]", word) else _escaped(word)


def _escaped(text: str) -> str:
    """Without what systemd takes for a specifier, an escape or the end of something."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")


def launchd_plist(service: Service) -> str:
    """The property list for the user's launchd."""
    log = str(hub_log_file(service.settings.log_path))
    job: dict[str, Any] = {
        "Label": service.name,
        "ProgramArguments": service.command("start", "--foreground", "--log-file", log),
        "EnvironmentVariables": dict(service.environ),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": service.stop_timeout,
        "AbandonProcessGroup": True,
        # By default launchd throttles the processor and the disk of a job, and so of the models.
        "ProcessType": "Interactive",
        "SoftResourceLimits": {"NumberOfFiles": FILES},
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    text = plistlib.dumps(job, sort_keys=False).decode()
    head, begin, rest = text.partition("<plist")
    return f"{head}<!-- {MARK}. -->\n{begin}{rest}"
