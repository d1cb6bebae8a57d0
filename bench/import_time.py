"""What `import mlxhub_core` costs, beside `python -c pass` in the same run.

Each figure is the wall time of a whole process; the two commands alternate, so that a busy moment hits both.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 40
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "python -c 'import mlxhub_core'": ["-c", "import mlxhub_core"],
    "python -c 'import mlxhub_core.manager'": ["-c", "import mlxhub_core.manager"],
    "mlxhub --version": ["-m", "mlxhub_core", "--version"],
}


def main() -> None:
    """Measure and print a table."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, arguments in COMMANDS.items():
            times[name].append(_wall_ms(arguments))
    floor = statistics.median(times["python -c pass"])
    print(f"{ROUNDS} rounds, Python {sys.version.split()[0]} on {sys.platform}; milliseconds")
    print(f"{'command':42} {'min':>7} {'median':>7} {'ratio':>6}")
    for name, figures in times.items():
        median = statistics.median(figures)
        print(f"{name:42} {min(figures):7.1f} {median:7.1f} {median / floor:6.2f}")


def _wall_ms(arguments: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1000


if __name__ == "__main__":
    main()
