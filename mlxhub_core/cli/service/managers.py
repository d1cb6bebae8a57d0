"""What is asked of systemd and launchd, and where they want their files."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlxhub_core.cli.programs import ask
from mlxhub_core.cli.service.units import Service, launchd_plist, systemd_unit
from mlxhub_core.errors import HubError

PATIENCE = 20.0
"""Seconds that a service manager may take to answer; it does so in some thousandths."""
SETTLING = 10.0
"""Seconds in which launchd may still say no because it is not done with the job's end, which it does not wait for."""


class Manager(Protocol):
    """Whoever starts services for a user."""

    def file(self, name: str) -> Path:
        """Where the file of the service of this name is."""
        ...

    def text(self, service: Service) -> str:
        """What is in that file."""
        ...

    def enable(self, service: Service) -> None:
        """Have the service, whose file is there, started at each login.

        Raises:
            HubError: the manager cannot be asked; with what to do.
        """
        ...

    def start(self, service: Service) -> list[str]:
        """Start it now; what people should know.

        Raises:
            HubError: it cannot be started; with what to do.
        """
        ...

    def disable(self, name: str) -> None:
        """Stop the service. One that is not there is stopped.

        Raises:
            HubError: the manager cannot be asked.
        """
        ...

    def forget(self) -> None:
        """Look at the files anew: one is gone."""
        ...


@dataclass(frozen=True, slots=True)
class Systemd:
    """The user's systemd."""

    def file(self, name: str) -> Path:
        """See `Manager`."""
        base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
        return Path(base).expanduser() / "systemd" / "user" / f"{name}.service"

    def text(self, service: Service) -> str:
        """See `Manager`."""
        return systemd_unit(service)

    def enable(self, service: Service) -> None:
        """See `Manager`."""
        for words in (["daemon-reload"], ["enable", f"{service.name}.service"]):
            self._tell(words, f"systemctl --user daemon-reload && systemctl --user enable --now {service.name}")

    def start(self, service: Service) -> list[str]:
        """See `Manager`."""
        self._tell(["start", f"{service.name}.service"], f"systemctl --user start {service.name}")
        notes = [f"its log: journalctl --user -u {service.name} -f"]
        if not Path("/var/lib/systemd/linger", _user()).exists():
            notes.append("it ends when you log out; to have it run always: loginctl enable-linger")
        return notes

    def disable(self, name: str) -> None:
        """See `Manager`."""
        self._tell(["disable", "--now", f"{name}.service"], f"systemctl --user disable --now {name}")

    def forget(self) -> None:
        """See `Manager`."""
        self._tell(["daemon-reload"], "systemctl --user daemon-reload")

    def _tell(self, words: Sequence[str], again: str) -> None:
        # A stop takes as long as the models do.
        answer = ask(["systemctl", "--user", *words], seconds=PATIENCE if "--now" not in words else 3600)
        if answer.code == 0:
            return
        why = _last_line(answer.error)
        if "bus" in why:
            why += " (log in as this user, not by su or sudo, or run `sudo loginctl enable-linger` for it first)"
        raise HubError(f"`systemctl --user {' '.join(words)}` failed: {why}; when that is mended, run `{again}`")


@dataclass(frozen=True, slots=True)
class Launchd:
    """The user's launchd."""

    def file(self, name: str) -> Path:
        """See `Manager`."""
        return Path.home() / "Library" / "LaunchAgents" / f"{name}.plist"

    def text(self, service: Service) -> str:
        """See `Manager`."""
        return launchd_plist(service)

    def enable(self, service: Service) -> None:  # noqa: ARG002
        """See `Manager`. To be there is enough; this asks whether there is a session in which it can run now."""
        domain = f"gui/{os.getuid()}"
        answer = ask(["launchctl", "print", domain], seconds=PATIENCE)
        if answer.code != 0:
            raise HubError(
                f"`launchctl print {domain}` failed: {_last_line(answer.error)}; it needs a user who is logged in on the"
                " screen of this Mac. At the next login the hub starts by itself; until then: `mlxhub start`"
            )

    def start(self, service: Service) -> list[str]:
        """See `Manager`."""
        file, domain = self.file(service.name), f"gui/{os.getuid()}"
        service.settings.log_path.mkdir(mode=0o700, parents=True, exist_ok=True)  # launchd does not make it
        ask(["launchctl", "bootout", f"{domain}/{service.name}"], seconds=service.stop_timeout)
        words = ["launchctl", "bootstrap", domain, str(file)]
        deadline = time.monotonic() + SETTLING
        while (answer := ask(words, seconds=PATIENCE)).code != 0 and time.monotonic() < deadline:
            if answer.code != 5:  # "Input/output error", which it says of a label that is not gone yet
                break
            time.sleep(0.2)
        if answer.code != 0:
            raise HubError(
                f"`{' '.join(words)}` failed: {_last_line(answer.error)}; until that is mended: `mlxhub start`"
            )
        return []

    def disable(self, name: str) -> None:
        """See `Manager`."""
        answer = ask(["launchctl", "bootout", f"gui/{os.getuid()}/{name}"], seconds=3600)
        if answer.code not in (0, 3):  # 3: there is no such job
            raise HubError(f"`launchctl bootout` failed: {_last_line(answer.error)}")

    def forget(self) -> None:
        """See `Manager`. launchd keeps no list of files."""


def manager_here() -> Manager:
    """The one of this system."""
    return Launchd() if sys.platform == "darwin" else Systemd()


def _last_line(text: str) -> str:
    return text.splitlines()[-1] if text else "it does not say why"


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
