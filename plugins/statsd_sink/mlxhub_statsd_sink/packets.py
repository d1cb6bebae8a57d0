"""From lines to packets: as many lines in each as its size allows, so that the events of one burst share a packet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def packed(lines: Iterable[str], max_packet: int) -> Iterator[list[bytes]]:
    """The lines of each packet, in order; joined by newlines they are at most `max_packet` bytes.

    A line that is longer than that has a packet to itself: half a line would be another metric.
    """
    packet: list[bytes] = []
    size = 0
    for line in lines:
        data = line.encode()
        if packet and size + 1 + len(data) > max_packet:
            yield packet
            packet, size = [], 0
        size += len(data) + (1 if packet else 0)
        packet.append(data)
    if packet:
        yield packet
