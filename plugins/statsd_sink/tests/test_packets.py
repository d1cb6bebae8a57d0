"""Lines share packets, and no line is parted."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlxhub_statsd_sink.packets import packed

LINES = st.lists(st.text(alphabet="aé:1|c", min_size=1, max_size=40))


@pytest.mark.parametrize(
    ("sizes", "packets"),
    [
        ([], []),
        ([10], [[10]]),
        ([4, 5], [[4, 5]]),  # 4 + newline + 5 is just 10
        ([5, 5], [[5], [5]]),
        ([3, 3, 2, 1], [[3, 3, 2], [1]]),
        ([2, 30, 2], [[2], [30], [2]]),
    ],
)
def test_a_packet_is_filled_to_its_size_and_a_longer_line_goes_alone(
    sizes: list[int], packets: list[list[int]]
) -> None:
    found = packed(["x" * size for size in sizes], 10)
    assert [[len(line) for line in packet] for packet in found] == packets


@given(LINES, st.integers(1, 100))
def test_nothing_is_lost_doubled_or_moved_and_no_two_packets_could_have_been_one(lines: list[str], size: int) -> None:
    packets = list(packed(lines, size))
    assert [line.decode() for packet in packets for line in packet] == lines
    assert all(len(b"\n".join(packet)) <= size or len(packet) == 1 for packet in packets)
    for packet, following in itertools.pairwise(packets):
        assert len(b"\n".join([*packet, following[0]])) > size
