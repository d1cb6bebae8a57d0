"""When a failed model is started again, and when the hub gives up. Only arithmetic: nothing here waits."""

from __future__ import annotations

import pytest

from mlxhub_core.restart import Failures, RestartRule

RULE = RestartRule(delay=1, factor=2, max_delay=10, jitter=0.1, reset_after=60, max_failures=5, window=600)
PATIENT = RestartRule(delay=1, factor=2, max_delay=10, jitter=0.1, reset_after=60, max_failures=1000, window=600)

CRASH = 0.5
"""Seconds for which a run was ready that was not stable."""
GIVES_UP = None

History = list[tuple[float, float]]
"""When each failure happened, and how long the run before it had been ready."""


def delays(rule: RestartRule, history: History, jitter: float = 0.0) -> list[float | None]:
    """What the rule says after each failure."""
    failures, said = Failures(), []
    for now, ready_for in history:
        failures = failures.another(rule, now, ready_for)
        said.append(failures.delay(rule, jitter))
    return said


HISTORIES: dict[str, tuple[RestartRule, History, list[float | None]]] = {
    "the first failure waits the shortest": (RULE, [(0, CRASH)], [1]),
    "each further one waits twice as long": (RULE, [(t, CRASH) for t in range(4)], [1, 2, 4, 8]),
    "but never longer than max_delay": (PATIENT, [(t, CRASH) for t in range(6)], [1, 2, 4, 8, 10, 10]),
    "the fifth within the window is one too many": (RULE, [(t, CRASH) for t in range(5)], [1, 2, 4, 8, GIVES_UP]),
    "and so is any after it": (RULE, [(t, CRASH) for t in range(6)], [1, 2, 4, 8, GIVES_UP, GIVES_UP]),
    "after a stable run the delays start over": (RULE, [(0, CRASH), (1, CRASH), (70, 60), (71, CRASH)], [1, 2, 1, 2]),
    "a run that is a moment too short is not stable": (RULE, [(0, CRASH), (70, 59.999)], [1, 2]),
    "a first failure after a stable run is a first failure": (RULE, [(100, 100)], [1]),
    "stable runs do not hide that it fails again and again": (
        RULE, [(t * 70, 69) for t in range(5)], [1, 1, 1, 1, GIVES_UP],
    ),
    "failures older than the window do not count": (RULE, [(t * 151, 150) for t in range(20)], [1] * 20),
    "one that is exactly as old as the window is forgotten": (
        RULE, [(0, 61), (1, 61), (2, 61), (3, 61), (600, 61)], [1, 1, 1, 1, 1],
    ),
    "one that is a moment younger is not": (
        RULE, [(0.001, 61), (1, 61), (2, 61), (3, 61), (600, 61)], [1, 1, 1, 1, GIVES_UP],
    ),
    "short runs that are far apart wait longer and longer but are never given up": (
        RULE, [(t * 200, CRASH) for t in range(7)], [1, 2, 4, 8, 10, 10, 10],
    ),
    "one failure may be enough": (RestartRule(max_failures=1), [(0, CRASH)], [GIVES_UP]),
    "a factor of 1 keeps the delay": (RestartRule(delay=3, factor=1), [(t, CRASH) for t in range(4)], [3] * 4),
    "a first delay above max_delay is cut": (RestartRule(delay=90, max_delay=20), [(0, CRASH)], [20]),
    "a delay of 0 stays 0": (RestartRule(delay=0, factor=100), [(t, CRASH) for t in range(4)], [0] * 4),
    "a run that was never ready is not stable however long it took": (
        PATIENT, [(t * 599, 0.0) for t in range(4)], [1, 2, 4, 8],
    ),
    "a shorter reset_after makes shorter runs stable": (
        RestartRule(reset_after=0.25), [(0, CRASH), (1, CRASH), (2, 0.2)], [1, 1, 2],
    ),
    "a shorter window forgets sooner": (
        RestartRule(max_failures=2, window=10), [(t * 10, CRASH) for t in range(3)], [1, 2, 4],
    ),
    "a small factor takes longer": (
        RestartRule(factor=1.5, max_delay=3), [(t, CRASH) for t in range(4)], [1, 1.5, 2.25, 3],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "history", "expected"), HISTORIES.values(), ids=HISTORIES)
def test_a_history_of_failures(rule: RestartRule, history: History, expected: list[float | None]) -> None:
    assert delays(rule, history) == expected


@pytest.mark.parametrize(("jitter", "expected"), [(-1.0, [0.9, 1.8]), (0.5, [1.05, 2.1]), (1.0, [1.1, 2.2])])
def test_jitter_spreads_every_delay_to_both_sides(jitter: float, expected: list[float]) -> None:
    assert delays(RULE, [(0, CRASH), (1, CRASH)], jitter) == pytest.approx(expected)


def test_jitter_spreads_the_longest_delay_too_so_that_models_do_not_load_in_step() -> None:
    *_, shortest = delays(PATIENT, [(t, CRASH) for t in range(9)], -1)
    *_, longest = delays(PATIENT, [(t, CRASH) for t in range(9)], 1)
    assert [shortest, longest] == pytest.approx([9, 11])


def test_a_rule_without_jitter_is_exact() -> None:
    assert delays(RestartRule(jitter=0), [(0, CRASH)], 1) == [1]


def test_a_model_that_failed_ten_thousand_times_in_a_row_waits_max_delay() -> None:
    rule = RestartRule(max_failures=10**6)
    failures = Failures(in_a_row=10_000).another(rule, 0, CRASH)
    assert failures.delay(rule, 0) == rule.max_delay


@pytest.mark.parametrize(
    ("delay", "factor", "waits"),
    [(0.1, 1.01, 60), (1e-6, 1.1, 60), (1, 100, 60), (0, 100, 0), (3, 1, 3)],
    ids=["small-factor", "tiny-delay", "large-factor", "no-delay", "factor-1"],
)
@pytest.mark.parametrize("in_a_row", [1_000, 10**6], ids=str)
def test_delays_grow_to_max_delay_whatever_the_factor_and_never_without_end(
    delay: float, factor: float, waits: float, in_a_row: int
) -> None:
    rule = RestartRule(delay=delay, factor=factor, max_delay=60, max_failures=10**9)
    assert Failures(in_a_row, (0,)).delay(rule, 0) == waits


def test_only_the_failures_within_the_window_are_kept() -> None:
    failures = Failures()
    for now in range(10_000):
        failures = failures.another(RestartRule(window=10), now, CRASH)
    assert failures.times == tuple(range(9_990, 10_000))


def test_failures_are_values() -> None:
    none = Failures()
    one = none.another(RULE, 7, CRASH)
    assert (none, one) == (Failures(), Failures(1, (7,)))
    assert len({none, one}) == 2


def test_by_default_the_hub_gives_up_after_five_failures_in_ten_minutes() -> None:
    assert delays(RestartRule(), [(t, CRASH) for t in range(5)]) == [1, 2, 4, 8, GIVES_UP]
    assert RestartRule().window == 600
    assert RestartRule().delay > 0, "hard restarts in a row leave memory wired on Apple silicon"


@pytest.mark.parametrize("jitter", [-1.0, 1.0])
def test_by_default_no_delay_is_zero_or_much_longer_than_max_delay(jitter: float) -> None:
    rule = RestartRule(max_failures=100)
    said = [delay for delay in delays(rule, [(t, CRASH) for t in range(50)], jitter) if delay is not None]
    assert len(said) == 50
    assert min(said) > 0
    assert max(said) <= rule.max_delay * (1 + rule.jitter)
