"""All that can go wrong at once, in real hubs with real keepers, and what must hold all the same.

It storms for ``--chaos-seconds``, and what goes wrong is drawn from ``--chaos-seed``, which is printed: with the same
seed the same things are done in the same order, while the system is as free as ever to be quicker or slower.

    python -m pytest tests/chaos --chaos-seconds 600 --chaos-seed 7
"""

from __future__ import annotations

import contextlib
import gzip
import re
import signal
import struct
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from mlxhub_core.events import Reason
from mlxhub_core.testing import Recorded, wait_until
from mlxhub_core.testing.history import check_history

if TYPE_CHECKING:
    from tests.chaos.conftest import Storm

pytestmark = pytest.mark.sinks("statsd", "prometheus")

ENDS = ("model_stopped", "model_failed")
WITHIN = 6.0
"""Seconds between an end's being told and the kill of its hub, if the next hub tells it too: one, and what a stopped or
busy hub takes longer for it."""
MORE_THREADS, MORE_FILES, MORE_BYTES = 8, 10, 60_000_000
"""What a hub may have more of after a storm than a fresh one: pools of threads do not shrink, nor does a heap."""


def test_after_a_storm_nothing_is_lost_left_or_told_wrongly(
    make_storm: Callable[[Path], Storm], tmp_path: Path, seconds: float
) -> None:
    storm = make_storm(tmp_path / "logs")
    storm.start_hub()
    fresh = used_by(storm.until_up()["pid"])
    storm.kill_hub()
    storm.blow(seconds)
    storm.lull()
    check_calm(storm, fresh)
    storm.end_hub(signal.SIGTERM)
    check_told(storm)
    check_nothing_left(storm)
    check_output(storm)
    check_logs(storm)
    assert "model_adopted" in storm.hooks(), "a day worth looking at"


def test_a_storm_on_a_disk_that_is_full_now_and_then(
    make_storm: Callable[[Path], Storm], small_disk: Path, seconds: float
) -> None:
    storm = make_storm(small_disk)
    plain = storm.disasters

    def fill() -> None:
        with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(65536))

    def free() -> None:
        for path in [small_disk / "ballast", *small_disk.glob("*.log.*")]:
            path.unlink(missing_ok=True)

    storm.disasters = lambda *, lethal: {**plain(lethal=lethal), fill: 6, free: 6}  # type: ignore[method-assign]
    storm.start_hub()
    fresh = used_by(storm.until_up()["pid"])
    storm.blow(seconds / 2)
    free()
    storm.lull()
    check_calm(storm, fresh)
    size = sum(path.stat().st_size for path in small_disk.glob("steady.log*"))
    wait_until(lambda: sum(path.stat().st_size for path in small_disk.glob("steady.log*")) != size)
    storm.end_hub(signal.SIGTERM)
    check_told(storm)
    check_nothing_left(storm)
    check_output(storm)
    assert "model_log_failing" in storm.hooks(), "a day worth looking at"


def used_by(pid: int) -> tuple[int, int, int]:
    """The threads, open files and bytes of a process."""
    process = psutil.Process(pid)
    return process.num_threads(), process.num_fds(), process.memory_info().rss


def check_calm(storm: Storm, fresh: tuple[int, int, int]) -> None:
    """The hub that has lived through it does what it is told, and has no more of anything than a fresh one."""
    for thread in storm.askers:
        thread.join(90)
        assert not thread.is_alive(), "a request was never answered"
    wait_until(lambda: storm.see_to_hub() or storm.answers(), timeout=60)  # type: ignore[func-returns-value]
    assert storm.ask("POST", "/hub/reload", 90)[0] == 200
    storm.ask("POST", "/hub/models/steady/start")
    status = storm.until_up()
    assert [model["name"] for model in status["models"]] == ["steady"]
    found = fresh

    def settled() -> bool:
        nonlocal found
        # A pool ends its idle threads when it is used.
        storm.ask("POST", "/hub/models/steady/log/rotate")
        found = used_by(status["pid"])
        time.sleep(0.2)
        return all(now <= then + more for now, then, more in zip(found, fresh, allowed, strict=True))

    allowed = (MORE_THREADS, MORE_FILES, MORE_BYTES)
    with contextlib.suppress(AssertionError, TimeoutError):
        wait_until(settled, timeout=45)
    for what, now, then, more in zip(("threads", "files", "bytes"), found, fresh, allowed, strict=True):
        print(f"{what}: fresh {then}, after the storm {now}")
        assert now <= then + more, f"the hub has {now} {what}, a fresh one {then}"
    (stats,) = [sink for sink in storm.ask("GET", "/hub/sinks")[1]["sinks"] if sink["name"] == "recorder"]
    assert (stats["dropped"], stats["failed"]) == (0, 0), "a healthy sink has lost events"


def check_nothing_left(storm: Storm) -> None:
    """No process, and no file that tells of one."""
    assert not storm.orphans()
    assert not list(storm.place.runs.iterdir()), "files of runs that nobody needs any more"


def check_output(storm: Storm) -> None:
    """No hub has had a bug, as far as it knows, nor raised what it should have explained."""
    output = (storm.directory / "output").read_text(errors="replace")
    ours = "\n".join(line for line in output.splitlines() if not line.startswith("flood "))
    assert "a bug in" not in ours, ours[-5000:]
    assert "Traceback" not in ours, ours[-5000:]
    assert not storm.bugs


def check_told(storm: Storm) -> None:
    """Each hub's history could be; each run has one end, by its id, which two hubs tell only if the first was killed."""
    told = storm.events()
    runs, ends = set[str | None](), defaultdict[str | None, set[str]](set)
    first: dict[str, tuple[int, float]] = {}
    for hub in storm.hubs:
        check_history(recorded for _, recorded, _ in told.get(hub, []))
        own = set[str | None]()
        for at, recorded, said in told.get(hub, []):
            event = recorded.event
            assert recorded.hook != "events_lost"
            if recorded.hook == "model_started":
                own.add(event.run_id)
            check_lengths(recorded, said, own)
            if recorded.hook in ("model_started", "model_adopted"):
                runs.add(event.run_id)
            if recorded.hook in ENDS and event.reason is not Reason.SPAWN_ERROR:
                ends[event.run_id].add(event.id)
                teller, when = first.setdefault(event.id, (hub, at))
                if teller != hub:
                    killed = storm.killed.get(teller)
                    assert killed is not None, f"{said} was told by a hub that had not been killed, too"
                    assert killed - when < WITHIN, f"{said} was told again {killed - when} s later"
                    first[event.id] = (hub, at)
    hooks = [recorded.hook for each in told.values() for _, recorded, _ in each]
    print(len(storm.hubs), "hubs,", len(runs), "runs,", {hook: hooks.count(hook) for hook in sorted(set(hooks))})
    wrong = {run: ids for run, ids in ends.items() if len(ids) != 1}
    assert not wrong, "ends told under more than one id"
    assert not runs - ends.keys(), "runs whose end nobody was told"
    assert len(runs) > 20, "a day worth looking at"


def check_lengths(recorded: Recorded, said: dict[str, Any], own: set[str | None]) -> None:
    """No step of the clock is in the length of anything. How old a former hub's process is, only the time of day tells."""
    event = recorded.event
    lengths = {
        "restart_in": event.restart_in,
        "uptime_seconds": event.uptime_seconds,
        **{what: said.get(what) for what in ("startup_seconds", "delay_seconds")},
    }
    for what, length in lengths.items():
        assert length is None or length >= 0, f"{what} {length}: {said}"
        if event.run_id in own:
            assert length is None or length < 3600, f"a step of the clock is in {what} {length}: {said}"


LINE = re.compile(rb"line (\S+) (\d+) \.*")


def check_logs(storm: Storm) -> None:
    """Each line that a model has written is in its log, once, whole, and in its place; but for the last of those whose
    keeper was killed, which nobody can have read."""
    found: dict[str, list[int]] = defaultdict(list)
    for path in sorted(storm.logs.iterdir(), key=lambda path: path.name):
        if not re.fullmatch(r"[a-z]+\.(log(\.\d+(\.gz)?)?|away-\d+)", path.name):
            continue
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for line in content.splitlines():
            if match := LINE.fullmatch(line):
                found[match[1].decode()].append(int(match[2]))
            else:
                assert not line.startswith(b"line "), f"{path.name} has a line in pieces: {line!r}"
    unread = unread_pids(storm)
    tallies = list((storm.directory / "tallies").iterdir())
    total = 0
    for tally in tallies:
        (written,) = struct.unpack("q", tally.read_bytes()) if tally.stat().st_size else (0,)
        numbers = sorted(found.pop(tally.name, []))
        total += len(numbers)
        assert numbers == list(range(1, len(numbers) + 1)), f"lines of {tally.name} are missing, or there twice"
        if int(tally.name.partition("-")[0]) not in unread:
            # It may have been killed between a line and its count.
            assert written <= len(numbers) <= written + 1, f"{tally.name}: {written} written, {len(numbers)} in the log"
    assert not found
    print(total, "lines of", len(tallies), "runs")
    assert total > 1000, "a day worth looking at"


def unread_pids(storm: Storm) -> set[int]:
    """The processes whose keeper was killed."""
    pids: dict[str | None, int] = {}
    unsupervised = set[str | None]()
    for told in storm.events().values():
        for _, recorded, said in told:
            if said.get("pid"):
                pids[recorded.event.run_id] = said["pid"]
            if recorded.event.reason is Reason.UNSUPERVISED:
                unsupervised.add(recorded.event.run_id)
    # One whose start was never told, as its hub was killed meanwhile, is of no run that we know.
    known = set(pids.values())
    strangers = {int(tally.name.partition("-")[0]) for tally in (storm.directory / "tallies").iterdir()} - known
    return {pids[run] for run in unsupervised if run in pids} | strangers
