"""`python -m bench [--quick] [FAMILY]…`: all figures, or those of some families.

A full run of all writes bench/RESULTS.md, bench/results.png and the three ratios in README.md. Every other run writes its
table and plot into bench/last, and leaves those alone.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import machine, peers, report
from bench.figure import Figure
from bench.pace import Pace
from bench.tools import MARK, end_all, marked

FAMILIES = {
    "crash": "a crash until it is told, and until the next process runs; of a keeper, too",
    "output": "throughput and cost of logs, a line's way, a daemon that stands still",
    "rotation": "lines lost in rotation",
    "fleet": "start, idle cost, memory and shutdown with 1, 20 and 100 programs",
    "ends": "kill -9 of the daemon, and the next one",
    "commands": "status, import, --version",
    "publish": "what an event costs the hub",
    "prom_sink": "what a scrape costs",
    "statsd_sink": "what statsd costs",
}
HERE = Path(__file__).parent


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write. Returns the exit code: 1 if a family could not be measured, or left a process behind."""
    known = "\n".join(f"  {name:12} {words}" for name, words in FAMILIES.items())
    parser = argparse.ArgumentParser(
        prog="bench", epilog=f"families:\n{known}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="only these; default: all")
    parser.add_argument("--quick", action="store_true", help="few samples, under a minute")
    wanted = parser.parse_args(argv)
    if unknown := set(wanted.families) - FAMILIES.keys():
        parser.error(f"no such family: {', '.join(sorted(unknown))}; there are {', '.join(FAMILIES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    peers.install()
    try:
        return _run(wanted.families or list(FAMILIES), Pace(wanted.quick), whole=not (wanted.families or wanted.quick))
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130


def _run(families: Sequence[str], pace: Pace, *, whole: bool) -> int:
    # A home of its own, so that a run leaves nothing in the user's. Not below $TMPDIR, which is so long on a Mac that the
    # peers' sockets would not fit.
    home = tempfile.mkdtemp(prefix="bench-", dir="/tmp")
    usual = Path.home()
    os.environ |= {"HOME": home, MARK: home}
    about = machine.about(quick=pace.quick) | {"Load before the run": machine.load()}
    try:
        figures, failed = _measure(families, pace)
    finally:
        end_all(left := marked())
        # matplotlib would make the home anew, for its cache.
        os.environ["HOME"] = str(usual)
        shutil.rmtree(home, ignore_errors=True)
    _write(figures, about, failed, whole=whole)
    if left:
        print(f"{len(left)} processes were left behind, and were killed", file=sys.stderr)
    return 1 if failed or left else 0


def _measure(families: Sequence[str], pace: Pace) -> tuple[list[Figure], dict[str, str]]:
    figures: list[Figure] = []
    failed: dict[str, str] = {}
    for family in families:
        began = time.monotonic()
        print(f"{family} … ", end="", flush=True, file=sys.stderr)
        try:
            figures += importlib.import_module(f"bench.{family}").figures(pace)
        except Exception as error:  # noqa: BLE001  # the others are worth having
            failed[family] = f"{type(error).__name__}: {error}"
        print(failed.get(family, f"{time.monotonic() - began:.0f} s"), file=sys.stderr)
    return figures, failed


def _write(figures: Sequence[Figure], about: dict[str, str], failed: dict[str, str], *, whole: bool) -> None:
    where = HERE if whole and not failed else HERE / "last"
    where.mkdir(exist_ok=True)
    text = report.markdown(figures, about, failed)
    (where / "RESULTS.md").write_text(text, encoding="utf-8")
    report.plot(figures, where / "results.png")
    if where == HERE:
        report.put_into_readme(HERE.parent / "README.md", report.ratios(figures))
    print(text)
    print(f"written to {where}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
