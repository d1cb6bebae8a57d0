"""Prints the oldest version of each dependency of some projects, as pip takes it: `make oldest`."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path


def pins(projects: Iterable[str]) -> Iterator[str]:
    """``click>=8.3`` as ``click==8.3``; our own packages are left out."""
    for project in projects:
        for wanted in tomllib.loads(Path(project).read_text(encoding="utf-8"))["project"]["dependencies"]:
            if not wanted.startswith("mlxhub-"):
                yield re.sub(r">=([0-9.]+)[^;]*", r"==\1", wanted)


if __name__ == "__main__":
    print(*sorted(set(pins(sys.argv[1:]))))
