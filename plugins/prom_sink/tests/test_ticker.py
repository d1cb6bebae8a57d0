"""What is done now and then goes on when it fails, and is told once."""

from __future__ import annotations

import logging

import pytest
from mlxhub_prom_sink.ticker import Ticker

from mlxhub_core.testing import wait_until


def test_trouble_is_told_once_until_it_is_over_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        if len(calls) not in (4, 5):
            raise OSError("the disk is full")

    with caplog.at_level(logging.ERROR):
        ticker = Ticker("prom-test", 0.001, call)
        wait_until(lambda: len(calls) >= 9)
        ticker.close()
    assert [record.getMessage() for record in caplog.records] == [
        "prom-test: OSError: the disk is full; it is tried again"
    ] * 2
    at_the_end = len(calls)
    assert at_the_end >= 9


def test_nothing_is_called_after_the_end() -> None:
    calls: list[int] = []
    ticker = Ticker("prom-test", 0.001, lambda: calls.append(1))
    wait_until(lambda: len(calls) > 2)
    ticker.close()
    assert not ticker._thread.is_alive()
