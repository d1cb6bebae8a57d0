"""A wall clock that can be set: eight bytes of a file are added to it, in each hub of the storm. What is monotonic stays so."""

import mmap
import os
import struct
import time
from pathlib import Path

if "CHAOS_CLOCK" in os.environ:
    with Path(os.environ["CHAOS_CLOCK"]).open("rb") as _file:
        _offset = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
    _true_time = time.time

    def _time() -> float:
        return _true_time() + float(struct.unpack("d", _offset)[0])

    time.time = _time
