"""What the statsd sink makes of events, beside a bare `statsd.StatsClient` in the same run.

Events go the whole way, through the sink's queue, thread and encoder, to a UDP server in a process of its own, which
counts. The bare client is called then and there and sends a packet for each event. The ways alternate, so that a busy
moment hits all of them. A round ends when its last event was handed to the system.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlxhub_statsd_sink import StatsdSink
from statsd import StatsClient  # type: ignore[import-untyped]

from mlxhub_core import HubEvent, HubModelContext
from mlxhub_core.runner import SinkRunner

ROUNDS = 15
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


def main() -> None:
    """Measure and print a table."""
    print(f"Python {sys.version.split()[0]} on {sys.platform}; {ROUNDS} rounds of {EVENTS} events over UDP")
    print(f"{'way':38} {'events/s (median)':>18} {'to bare':>8} {'packets/event':>14} {'arrived':>8}")
    ways: dict[str, Callable[[int], Iterator[Way]]] = {"bare statsd.StatsClient": _bare}
    for burst in (1, 10, 100, 1000):
        ways[f"mlxhub sink, {burst} event{'s' * (burst > 1)} at a time"] = lambda port, burst=burst: _sink(port, burst)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    counts: dict[str, list[int]] = {name: [0, 0] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            rate, packets, lines = _round(way)
            rates[name].append(rate)
            counts[name][0] += packets
            counts[name][1] += lines
    bare = statistics.median(rates["bare statsd.StatsClient"])
    for name, figures in rates.items():
        median, (packets, lines) = statistics.median(figures), counts[name]
        arrived = lines / (ROUNDS * EVENTS)
        print(f"{name:38} {median:18,.0f} {median / bare:8.2f} {packets / lines:14.3f} {arrived:8.1%}")


def _round(way: Callable[[int], Iterator[Way]]) -> tuple[float, int, int]:
    """Events per second; packets and events that arrived."""
    with subprocess.Popen([sys.executable, "-c", COUNT], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with contextmanager(way)(port) as send:
            begin = time.perf_counter()
            send()
            seconds = time.perf_counter() - begin
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"end", ("127.0.0.1", port))
        packets, lines = json.loads(server.stdout.readline())
    return EVENTS / seconds, packets, lines


def _bare(port: int) -> Iterator[Way]:
    client = StatsClient("127.0.0.1", port, prefix="mlxhub")

    def send() -> None:
        for _ in range(EVENTS):
            client.incr("model.qwen3-4b.stopped")

    yield send
    client.close()


def _sink(port: int, burst: int) -> Iterator[Way]:
    runner = SinkRunner("statsd", StatsdSink(port=port), print)

    def send() -> None:
        for done in range(burst, EVENTS + 1, burst):
            for _ in range(burst):
                runner.offer("model_stopped", EVENT)
            while runner.stats().delivered < done:
                time.sleep(0)

    yield send
    runner.begin_close()
    runner.end_close(5)


if __name__ == "__main__":
    main()
