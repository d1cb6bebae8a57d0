"""A moment as people write it: how long ago, a date and time, or seconds since the epoch."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AGO = re.compile(r"(\d{1,9}[smhd])+")


class Since(click.ParamType[float]):
    """Seconds since the epoch, from `10m`, `1h30m`, `2026-11-26T18:40`, `18:40` or `1780000000.5`."""

    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The moment. One without a time zone is in that of the machine."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        if _AGO.fullmatch(text):
            return time.time() - sum(int(part[:-1]) * _UNITS[part[-1]] for part in re.findall(r"\d+[smhd]", text))
        moment = _epoch(text)
        if moment is None:
            self.fail(
                f"{text!r} is no moment; write 10m, 1h30m, 2026-11-26T18:40, 18:40 or seconds since 1970", param, ctx
            )
        return moment


def _epoch(text: str) -> float | None:
    from datetime import datetime

    try:
        moment = float(text)
    except ValueError:
        today = time.strftime("%Y-%m-%dT") if re.fullmatch(r"\d\d?:\d\d(:\d\d)?", text) else ""
        try:
            moment = datetime.fromisoformat(today + text).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
    return moment if math.isfinite(moment) else None
