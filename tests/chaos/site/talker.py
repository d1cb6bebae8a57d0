"""A model that talks: ``talker.py TALLIES PROGRAM ARGUMENT...`` runs the program, and beside it, in the same session and
with the same standard output, a child that writes numbered lines and keeps, in a file of its own, how many."""

import contextlib
import mmap
import os
import struct
import sys
import time

WIDTH = 200


def talk(tally: str, token: str) -> None:
    with open(tally, "w+b") as file:  # noqa: PTH123  # pathlib takes longer to import than all the rest
        file.truncate(8)
        count = mmap.mmap(file.fileno(), 8)
    number = 0
    while True:
        number += 1
        # Shorter than PIPE_BUF, and so never in pieces.
        os.write(1, f"line {token} {number} ".ljust(WIDTH - 1, ".").encode() + b"\n")
        count[:8] = struct.pack("q", number)
        if number % 5 == 0:
            time.sleep(0.02)


def main() -> None:
    token = f"{os.getpid()}-{time.time_ns():x}"
    if os.fork() == 0:
        with contextlib.suppress(OSError):  # nobody reads any more
            talk(os.path.join(sys.argv[1], token), token)
        os._exit(0)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
