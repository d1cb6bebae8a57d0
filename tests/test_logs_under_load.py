"""Logs while a model writes as fast as it can: rotated, moved away, truncated, removed, with no room left."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import os
import queue
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlxhub_core import HubManager
from mlxhub_core.keepers import Keepers
from mlxhub_core.launch import Launch
from mlxhub_core.process import Exit, Order
from mlxhub_core.settings import RotationSettings
from mlxhub_core.testing import RecordingSink, wait_until

LINES = 10_000_000
"""Numbered lines."""
IN_BULK = ("seq", str(LINES))
ONE_BY_ONE = ("awk", f"BEGIN {{ for (i = 1; i <= {LINES}; i++) {{ print i; fflush() }} }}")
"""The same with a write for each line: ten times as slow, which is time for `logrotate` to come by."""

needs_logrotate = pytest.mark.skipif(shutil.which("logrotate") is None, reason="logrotate is not installed")


class Ends:
    """Listens to a process."""

    def __init__(self) -> None:
        self.exits: queue.SimpleQueue[Exit] = queue.SimpleQueue()

    def exited(self, outcome: Exit) -> bool:
        self.exits.put(outcome)
        return True

    def log_failing(self, reason: str) -> None:
        raise AssertionError(reason)

    def log_recovered(self, lost_bytes: int) -> None:
        raise AssertionError(lost_bytes)


@pytest.fixture(scope="module")
def digest() -> str:
    """Of all lines."""
    return hashlib.sha256(subprocess.run(IN_BULK, stdout=subprocess.PIPE, check=True).stdout).hexdigest()


@pytest.fixture
def write_lines(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Has a process write all the lines, and meanwhile does something to its log, over and over."""
    keepers = Keepers(tmp_path / "runs", "test", print)

    def run(
        program: tuple[str, ...],
        log: Path,
        meanwhile: Callable[[], object] | None = None,
        rotation: RotationSettings | None = None,
    ) -> None:
        listener = Ends()
        launch = Launch(program, dict(os.environ), tmp_path)
        keepers.start(Order("a", uuid.uuid4().hex, launch, log, rotation), listener)
        while meanwhile and listener.exits.empty():
            meanwhile()
        outcome = listener.exits.get()
        assert replace(outcome, at=None) == Exit(0, tail=tuple(str(n) for n in range(LINES - 19, LINES + 1)))

    yield run
    keepers.close()


def rules(**how: object) -> RotationSettings:
    return RotationSettings.model_validate({"backups": 1000, **how})


def oldest_first(log: Path) -> list[Path]:
    def number(path: Path) -> int:
        found = re.search(r"\.log\.(\d+)", path.name)
        return int(found[1]) if found else 0

    return sorted(log.parent.glob("a.log*"), key=number, reverse=True)


def first_number(path: Path) -> int:
    first, newline, _ = content(path).partition(b"\n")
    return int(first) if newline else LINES + 1


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def digest_of(files: list[Path]) -> str:
    whole = hashlib.sha256()
    for file in files:
        whole.update(content(file))
    return whole.hexdigest()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("program", [IN_BULK, ONE_BY_ONE], ids=["in bulk", "one by one"])
def test_rotation_by_size_loses_doubles_and_tears_no_line(
    tmp_path: Path, write_lines: Callable[..., None], digest: str, program: tuple[str, ...]
) -> None:
    log = tmp_path / "logs" / "a.log"
    write_lines(program, log, rotation=rules(max_bytes="1MB", compress=False))
    files = oldest_first(log)
    assert len(files) > 70
    assert digest_of(files) == digest
    assert max(file.stat().st_size for file in files) <= 1_000_000
    assert all(content(file).endswith(b"\n") for file in files)


@pytest.mark.timeout(120)
def test_compression_of_rotated_logs_loses_nothing_and_does_not_hold_up_the_model(
    tmp_path: Path, write_lines: Callable[..., None], digest: str
) -> None:
    log = tmp_path / "logs" / "a.log"
    write_lines(ONE_BY_ONE, log, rotation=rules(max_bytes="8MB", compress=True))
    # The last ones may be compressed only when the model is started the next time.
    files = [file for file in oldest_first(log) if not file.name.endswith(".part")]
    assert any(file.suffix == ".gz" for file in files)
    assert digest_of(files) == digest


def logrotate(tmp_path: Path, *directives: str) -> Callable[[], object]:
    config = tmp_path / "logrotate.conf"
    lines = ["rotate 100000", "nocompress", "missingok", *directives]
    config.write_text(f"{tmp_path}/logs/a.log {{\n" + "\n".join(lines) + "\n}\n")
    config.chmod(0o644)
    command = ["logrotate", "--force", "--state", str(tmp_path / "state"), str(config)]
    (tmp_path / "logs").mkdir(mode=0o700)
    return lambda: subprocess.run(command, check=True)


@needs_logrotate
@pytest.mark.timeout(120)
@pytest.mark.parametrize("directive", ["create 0600", "nocreate"])
def test_logrotate_that_moves_the_file_away_loses_doubles_and_tears_nothing(
    tmp_path: Path, write_lines: Callable[..., None], digest: str, directive: str
) -> None:
    log = tmp_path / "logs" / "a.log"
    rotate, aside = logrotate(tmp_path, directive), itertools.count()

    def rotate_and_keep_all() -> None:
        rotate()
        # With `create`, where the keeper was faster, it moves the keeper's new file away as well, to this name, and
        # within the same hour would do so with another one.
        for backup in log.parent.glob("*.backup"):
            backup.rename(f"{backup}.{next(aside)}")

    write_lines(ONE_BY_ONE, log, rotate_and_keep_all)
    files = sorted(log.parent.iterdir(), key=first_number)
    assert len(files) > 3
    assert digest_of(files) == digest


@needs_logrotate
@pytest.mark.timeout(120)
def test_logrotate_that_truncates_loses_only_what_it_says_it_may_and_leaves_no_hole(
    tmp_path: Path, write_lines: Callable[..., None]
) -> None:
    log = tmp_path / "logs" / "a.log"
    write_lines(ONE_BY_ONE, log, logrotate(tmp_path, "copytruncate"))
    whole = b"".join(map(content, oldest_first(log)))
    assert b"\0" not in whole
    # Between the copy and the truncation lines are lost, and the two around them run together.
    numbers = [int(line) for line in whole.split(b"\n") if line and int(line) <= LINES]
    assert numbers[0] == 1
    assert numbers[-1] == LINES
    gaps = sum(b != a + 1 for a, b in itertools.pairwise(numbers))
    assert gaps <= 2 * len(oldest_first(log))


@pytest.mark.timeout(120)
def test_a_log_that_is_removed_is_begun_anew(tmp_path: Path, write_lines: Callable[..., None]) -> None:
    log = tmp_path / "logs" / "a.log"

    def remove() -> None:
        # Not at once, so that there is something in it; and when all is written it need not grow any more.
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > 1_000_000:
                log.unlink()

    write_lines(ONE_BY_ONE, log, remove)
    # What the last removal left: from somewhere within a line on, and nothing is missing after that.
    _, _, rest = log.read_bytes().partition(b"\n") if log.exists() else (b"", b"", b"")
    numbers = [int(line) for line in rest.splitlines()]
    assert len(numbers) < LINES, "it was removed at least once"
    assert numbers == list(range(LINES - len(numbers) + 1, LINES + 1))


# No room, no directory.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root on Linux may mount one")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def hub_yaml(tmp_path: Path, logs: Path) -> Path:
    """One model that writes as many bytes as it reads from a fifo, line by line."""
    os.mkfifo(tmp_path / "fifo")
    program = (
        "import os\nfor line in open('fifo'): os.write(1, b'x' * int(line) + b'\\n')\nimport signal; signal.pause()"
    )
    command = f"[{sys.executable}, -I, -S, -c, {program!r}]"
    path = tmp_path / "hub.yaml"
    path.write_text(f"log_path: {logs}\nmodels: [{{name: a, default: true, health: off, command: {command}}}]\n")
    return path


def test_a_full_disk_loses_what_does_not_fit_is_told_and_heals_by_itself(tmp_path: Path, small_disk: Path) -> None:
    sink, log = RecordingSink(), small_disk / "a.log"
    (small_disk / "filler").write_bytes(b"f" * 800_000)
    with HubManager(hub_yaml(tmp_path, small_disk), observability_sink=sink) as hub:
        hub.reload()
        with (tmp_path / "fifo").open("w", buffering=1) as model:
            model.write("400000\n400000\n")
            failing = sink.wait_for("model_log_failing")
            assert failing.arguments["reason"] == "cannot be written: No space left on device"
            (small_disk / "filler").unlink()
            model.write("10\n")
            assert sink.wait_for("model_log_recovered").arguments["lost_bytes"] > 0
            # Some of the output may still have been in the pipe when there was room again: what counts is the sum.
            wait_until(lambda: log.stat().st_size + hub.get_status()[0].log_lost_bytes == 800_002 + 11)
            assert log.read_bytes().endswith(b"xxxxxxxxxx\n")
            assert hub.get_status()[0].pid is not None


def test_a_log_directory_that_vanishes_comes_back_with_the_next_line(tmp_path: Path) -> None:
    sink, logs = RecordingSink(), tmp_path / "logs"
    with HubManager(hub_yaml(tmp_path, logs), observability_sink=sink) as hub:
        hub.reload()
        with (tmp_path / "fifo").open("w", buffering=1) as model:
            model.write("5\n")
            wait_until(lambda: (logs / "a.log").read_bytes() == b"xxxxx\n")
            shutil.rmtree(logs)
            model.write("3\n")
            wait_until(lambda: (logs / "a.log").exists() and (logs / "a.log").read_bytes() == b"xxx\n")
            shutil.rmtree(logs)
            logs.write_text("a file in its place")
            model.write("4\n")
            assert "cannot be written" in sink.wait_for("model_log_failing").arguments["reason"]
            logs.unlink()
            model.write("2\n")
            assert sink.wait_for("model_log_recovered").arguments["lost_bytes"] == 5
            assert (logs / "a.log").read_bytes() == b"xx\n"
    assert hub.get_status()[0].exit_code == -15
