"""The process that all keepers are forked from: it waits for connections, and does nothing else."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
from typing import NoReturn

from mlxhub_core.keeper.keep import keep
from mlxhub_core.keeper.session import birth


def zygote() -> None:
    """Fork a keeper for each connection that the hub sends through standard input, until that ends."""
    hub = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    os.close(nothing)
    os.chdir("/")
    birth(os.getpid())  # What it reads but once is then known to all keepers.
    # What nobody touches after the fork stays shared memory; a collection of garbage would touch all that is there by now.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that nobody has to wait for the keepers
    # Of a keeper that has just been made the next hub may already ask, by SIGUSR1, for a socket.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the models would inherit
    while True:
        message, descriptors, _, _ = socket.recv_fds(hub, 1, 1)
        if not message:
            return
        with contextlib.suppress(OSError):  # no process is left; the hub hears that nobody answers
            if os.fork() == 0:
                _be_keeper(hub, descriptors[0])
        for descriptor in descriptors:
            os.close(descriptor)


def _be_keeper(zygotes: socket.socket, descriptor: int) -> NoReturn:
    try:
        zygotes.close()
        os.setsid()
        keep(socket.socket(fileno=descriptor))
    finally:
        os._exit(0)
