"""Where a server is, in the words of hub.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlxhub_statsd_sink.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("udp://127.0.0.1:8125", Address("udp", "127.0.0.1", 8125)),
        ("udp://stats", Address("udp", "stats", 8125)),
        ("tcp://stats.internal:18125/", Address("tcp", "stats.internal", 18125)),
        ("udp://[::1]:9", Address("udp", "::1", 9)),
        ("tcp://[fe80::1%eth0]", Address("tcp", "fe80::1%eth0", 8125)),
        ("unix:///run/a b.sock", Address("unix", path="/run/a b.sock")),
        ("unixgram://~/dsd.socket", Address("unixgram", path=str(Path.home() / "dsd.socket"))),
    ],
)
def test_each_form_is_read_and_shown_as_it_would_be_written(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stats:8125",
        "http://stats",
        "udp://",
        "udp://a:b",
        "udp://::1:9",
        "udp://a:1:2",
        "udp://a/b",
        "unix://run/a",
        "unix://",
        "udp://a:123456",
        "udp://a\n",
    ],
)
def test_what_is_none_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"address: .* must be like udp://127\.0\.0\.1:8125"):
        parse_address(text)


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to 65535, not {port}"):
        parse_address(f"udp://a:{port}")
