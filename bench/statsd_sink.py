"""What the statsd sink makes of events, beside a bare `statsd.StatsClient` in the same run.

Events go the whole way, through the sink's queue, thread and encoder, to a UDP server in a process of its own, which
counts. The bare client is called then and there and sends a packet for each event. The ways alternate, so that a busy
moment hits all of them. A round ends when its last event was handed to the system.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlxhub_statsd_sink import StatsdSink
from statsd import StatsClient  # type: ignore[import-untyped]

from bench.figure import OURS, Figure
from bench.pace import Pace
from mlxhub_core import HubEvent, HubModelContext
from mlxhub_core.runner import SinkRunner

FLOOR = "bare statsd.StatsClient"
BURST = 100
EVENTS = 2000
"""Events in a round."""

EVENT = {"ctx": HubModelContext("qwen3-4b", "chat", ""), "exit_code": 0, "event": HubEvent(seq=1, id="1", time=0.0)}

COUNT = """
import json, socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
server.bind(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
packets = lines = 0
while (packet := server.recv(65536)) != b"end":
    packets += 1
    lines += packet.count(b":1|c")
print(json.dumps([packets, lines]), flush=True)
"""

Way = Callable[[], None]


def figures(pace: Pace) -> list[Figure]:
    """Measure."""
    figure = Figure(
        "events sent by the statsd sink",
        "events/s",
        f"{BURST} at a time, through the sink's queue, thread and encoder, to a UDP server of its own; the floor sends a"
        " packet for each, then and there",
        FLOOR,
        better="more",
    )
    ways: dict[str, Callable[[int], Iterator[Way]]] = {FLOOR: _bare, OURS: _sink}
    for _ in pace.rounds(15, 3, seconds=20):
        for name, way in ways.items():
            figure.add(name, _round(way))
    return [figure]


def _round(way: Callable[[int], Iterator[Way]]) -> float:
    """Events per second."""
    with subprocess.Popen([sys.executable, "-c", COUNT], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with contextmanager(way)(port) as send:
            begin = time.perf_counter()
            send()
            seconds = time.perf_counter() - begin
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"end", ("127.0.0.1", port))
        _, lines = json.loads(server.stdout.readline())
    if lines < EVENTS:
        raise RuntimeError(f"only {lines} of {EVENTS} events arrived")
    return EVENTS / seconds


def _bare(port: int) -> Iterator[Way]:
    client = StatsClient("127.0.0.1", port, prefix="mlxhub")

    def send() -> None:
        for _ in range(EVENTS):
            client.incr("model.qwen3-4b.stopped")

    yield send
    client.close()


def _sink(port: int) -> Iterator[Way]:
    runner = SinkRunner("statsd", StatsdSink(port=port), print)

    def send() -> None:
        for done in range(BURST, EVENTS + 1, BURST):
            for _ in range(BURST):
                runner.offer("model_stopped", EVENT)
            while runner.stats().delivered < done:
                time.sleep(0)

    yield send
    runner.begin_close()
    runner.end_close(5)
