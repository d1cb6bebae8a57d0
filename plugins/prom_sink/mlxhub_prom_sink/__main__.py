"""`python -m mlxhub_prom_sink export DIR`: write alerts, rules and dashboard into a directory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .export import SHIPPED, export


def main() -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m mlxhub_prom_sink", description=__doc__)
    command = parser.add_subparsers(required=True).add_parser("export", help=", ".join(SHIPPED))
    command.add_argument("directory", type=Path, metavar="DIR")
    command.add_argument("--namespace", default="mlxhub", help="as the option of the sink (default: mlxhub)")
    command.add_argument("--job", default="mlxhub", help="the job in Prometheus' configuration (default: mlxhub)")
    asked = parser.parse_args()
    try:
        written = export(asked.directory, namespace=asked.namespace, job=asked.job)
    except OSError as error:
        print(f"{asked.directory} cannot be written to ({error.strerror}); name another", file=sys.stderr)
        return 1
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
