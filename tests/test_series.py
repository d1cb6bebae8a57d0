"""The failures of one model, in a row."""

from __future__ import annotations

from mlxhub_core.events import Failure, Reason
from mlxhub_core.restart import RestartRule
from mlxhub_core.supervisor.series import Series

RULE = RestartRule(delay=1, factor=2, jitter=0.5, reset_after=60, max_failures=3, window=600)


def failure(number: int) -> Failure:
    return Failure(float(number), Reason.CRASH, exit_code=number)


def delay(series: Series, now: float, ready_for: float = 0.0, jitter: float = 0.0) -> float | None:
    return series.next_delay(RULE, now=now, ready_for=ready_for, jitter=jitter)


def test_before_any_failure_there_is_nothing_to_tell() -> None:
    series = Series()
    assert (series.first, series.last, series.in_a_row, series.in_window) == (None, None, 0, 0)


def test_the_first_of_a_series_is_kept_beside_the_last() -> None:
    series, failures = Series(), [failure(n) for n in range(1, 4)]
    told = []
    for now, one in enumerate(failures):
        delay(series, now)
        told.append(series.add(one))
    assert told == [None, failures[0], failures[0]], "the first has no other before it"
    assert (series.first, series.last) == (failures[0], failures[2])


def test_the_delays_are_the_rules_and_the_jitter_is_heeded() -> None:
    series = Series()
    assert delay(series, 0) == 1
    assert delay(series, 1, jitter=1.0) == 3
    assert delay(series, 2) is None, "the third is one too many"
    assert (series.in_a_row, series.in_window) == (3, 3)


def test_a_stable_run_begins_a_new_series() -> None:
    series, later = Series(), failure(2)
    delay(series, 0)
    series.add(failure(1))
    assert delay(series, 100, ready_for=60) == 1
    assert series.add(later) is None
    assert series.first is later


def test_a_start_by_hand_begins_a_new_one_and_the_old_is_told_until_then() -> None:
    series, first, second = Series(), failure(1), failure(2)
    delay(series, 0)
    series.add(first)
    series.begin_anew()
    assert (series.first, series.in_a_row, series.in_window) == (first, 0, 0)
    assert delay(series, 1) == 1
    assert series.add(second) is None
    assert (series.first, series.last) == (second, second)


def test_a_series_that_began_with_good_ends_has_its_first_failure_later() -> None:
    series, old, new = Series(), failure(1), failure(2)
    delay(series, 0)
    series.add(old)
    delay(series, 100, ready_for=60)  # exit code 0, with restart: always
    delay(series, 101)
    assert series.add(new) is None
    assert series.first is new
