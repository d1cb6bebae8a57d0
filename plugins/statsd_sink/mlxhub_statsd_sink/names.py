"""Names that StatsD cannot misread.

A line is ``name:value|type``, lines are parted by newlines, and dots part a name into a path. So a `:`, a `|` or a
newline in a name would send another metric than meant, and a dot would send it elsewhere.
"""

from __future__ import annotations

import re

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


def segment(text: str) -> str:
    """One part of a path: ASCII letters, digits, ``_`` and ``-`` as they are, ``_`` for everything else."""
    return _UNSAFE.sub("_", text)


def metric(prefix: str, *parts: str) -> str:
    """The name ``prefix.part.part``.

    Args:
        prefix: goes first; its dots part it, as in ``mlxhub.studio``; empty for none.
        parts: one segment each, whatever they hold.
    """
    return ".".join(segment(part) for part in (*prefix.split("."), *parts) if part)
