"""What users install: wheels in an environment of their own, with nothing of the one that the tests run in."""

from __future__ import annotations

import os
import signal
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 250.0
"""Seconds that a command may take: pip may have to fetch a lot."""


class CleanInstall:
    """A virtual environment with the wheels that were built of some projects, and with what these need.

    To make it takes some ten seconds, and pip asks its index.

    Args:
        directory: where it is made, and where its commands run.
        projects: directories that hold a ``pyproject.toml``.

    Attributes:
        directory: as given.

    Raises:
        AssertionError: they cannot be built or installed; with what pip said.
    """

    def __init__(self, directory: Path, *projects: Path) -> None:
        self.directory = directory
        self._python = directory / "venv" / "bin" / "python"
        # Nothing that would lead it to the packages, or to the hub, of whoever runs the tests.
        self._env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLXHUB"))}
        venv.create(directory / "venv", with_pip=True)
        self.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "wheels", *projects)
        self.run("pip", "install", "--quiet", *sorted((directory / "wheels").iterdir()))

    def run(self, *arguments: str | Path) -> str:
        """Run a module of the environment, as ``run("mlxhub_core", "sinks", "list")``. Returns its standard output.

        Raises:
            AssertionError: it failed; with what it said.
        """
        command = [self._python, "-m", *arguments]
        done = subprocess.run(
            command, cwd=self.directory, env=self._env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if done.returncode:
            raise AssertionError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def packages(self, prefix: str = "mlxhub") -> set[str]:
        """The names of the packages that are in it and begin so."""
        names = (line.split(" @ ")[0].split("==")[0] for line in self.run("pip", "freeze").splitlines())
        return {name for name in names if name.startswith(prefix)}

    @contextmanager
    def hub(self, hub_yaml: str) -> Iterator[None]:
        """Run a hub with this hub.yaml, as long as the context is; what it wrote is printed for pytest to show.

        Raises:
            AssertionError: it did not end well when it was asked to.
        """
        (self.directory / "hub.yaml").write_text(hub_yaml, encoding="utf-8")
        command = [str(self._python), "-m", "mlxhub_core", "start", "--foreground"]
        hub = subprocess.Popen(command, cwd=self.directory, env=self._env, stderr=subprocess.PIPE)
        try:
            yield
        finally:
            hub.send_signal(signal.SIGTERM)
            try:
                _, said = hub.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                hub.kill()
                _, said = hub.communicate()
            print(said.decode())
        if hub.returncode:
            raise AssertionError(f"the hub ended with {hub.returncode}")
