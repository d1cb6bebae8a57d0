"""What the answers of one process mean: tables of answers and verdicts, on a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from mlxhub_core.probes import ProbeResult, Question
from mlxhub_core.settings import HealthSettings
from mlxhub_core.supervisor.health import FIRST_PROBE, MAX_BUSY, MAX_PROBE_INTERVAL, Verdict, Watch
from mlxhub_core.testing import FakeClock
from mlxhub_core.vitals import Vitals

MB = 1024 * 1024
IDLE = Vitals(cpu_seconds=10.0, memory_bytes=500 * MB, log_bytes=5000, available_bytes=0, io_bytes=900 * MB)


def used(*, cpu: float = 0.0, memory: int = 0, log: int = 0, io: int = 0, available: int = 0) -> Vitals:
    """What a process has used that was `IDLE`, and has used so much more since."""
    seconds, memory, log = IDLE.cpu_seconds + cpu, IDLE.memory_bytes + memory, IDLE.log_bytes + log
    return Vitals(seconds, memory, log, available, io_bytes=IDLE.io_bytes + io)


@dataclass
class Asked:
    """A process that is watched, and answers as the test says."""

    health: HealthSettings = field(default_factory=HealthSettings)
    watch: Watch = field(default_factory=Watch)
    clock: FakeClock = field(default_factory=FakeClock)

    def answers(self, vitals: Vitals | None = None) -> Verdict:
        self.watch.see(vitals, self.clock())
        return self.watch.well(self.clock())

    def misses(self, vitals: Vitals | None = None, *, after: float = 30.0, final: bool = False) -> bool:
        return self.gets(ProbeResult(False, "HTTP 503", final=final, vitals=vitals), after)

    def is_silent(self, vitals: Vitals | None = None, *, after: float = 30.0) -> bool:
        return self.gets(ProbeResult(False, "no answer within 5 s", vitals=vitals, silent=True), after)

    def cannot_be_asked(self, vitals: Vitals | None = None, *, after: float = 30.0) -> bool:
        return self.gets(ProbeResult(False, "Too many open files", vitals=vitals, asked=False), after)

    def gets(self, result: ProbeResult, after: float) -> bool:
        self.clock.advance(after)
        return self.watch.missed(result, self.health, self.clock())


def ready(failures: int = 3) -> Asked:
    asked = Asked(HealthSettings(failures=failures))
    asked.answers(IDLE)
    return asked


def late(failures: int = 3, vitals: Vitals | None = IDLE, interval: float = 30.0) -> Asked:
    """One that is not ready yet, and now should be."""
    asked = Asked(HealthSettings(failures=failures, interval=interval, timeout=5))
    asked.misses(vitals)
    asked.watch.late(asked.clock())
    return asked


# Verdicts. `+` is an answer, `-` none, `!` one that says it never will again, `L` the end of `startup_timeout`.

VERDICTS = {
    "the first answer": ("+", ["READY"]),
    "the second changes nothing": ("++", ["READY", "NOTHING"]),
    "not yet, for as long as it takes": ("-" * 50, ["-"] * 50),
    "not yet, and then": ("----+", ["-", "-", "-", "-", "READY"]),
    "misses while it starts are not counted when it is ready": ("--+--", ["-", "-", "READY", "-", "-"]),
    "three in a row": ("+---", ["READY", "-", "-", "lost"]),
    "two in a row": ("+--+--+", ["READY", "-", "-", "NOTHING", "-", "-", "NOTHING"]),
    "an answer forgets the misses": ("+--+---", ["READY", "-", "-", "NOTHING", "-", "-", "lost"]),
    "lost once, lost on each further miss": ("+-----", ["READY", "-", "-", "lost", "lost", "lost"]),
    "back again": ("+---+", ["READY", "-", "-", "lost", "RECOVERED"]),
    "back again is told once": ("+---++", ["READY", "-", "-", "lost", "RECOVERED", "NOTHING"]),
    "back again, it has all its misses before it": (
        "+---+---", ["READY", "-", "-", "lost", "RECOVERED", "-", "-", "lost"],
    ),
    "for good": ("+!", ["READY", "lost"]),
    "for good after a miss": ("+-!", ["READY", "-", "lost"]),
    "for good while it starts": ("-!", ["-", "lost"]),
    "for good at the first question": ("!", ["lost"]),
    "for good when it is late": ("-L!", ["-", "late", "lost"]),
    "late, and then ready": ("-L--+", ["-", "late", "-", "-", "READY"]),
    "late and idle": ("-L---", ["-", "late", "-", "-", "lost"]),
    "late, ready and sick are three things": (
        "-L+---+", ["-", "late", "READY", "-", "-", "lost", "RECOVERED"],
    ),
    "misses while it was late are not counted when it is ready": ("-L--+--", ["-", "late", "-", "-", "READY", "-", "-"]),
}  # fmt: skip


@pytest.mark.parametrize(("answers", "verdicts"), VERDICTS.values(), ids=VERDICTS)
def test_what_answers_mean(answers: str, verdicts: list[str]) -> None:
    asked, heard = Asked(), []
    for answer in answers:
        if answer == "L":
            asked.watch.late(asked.clock())
            heard.append("late")
        elif answer == "+":
            heard.append(asked.answers(IDLE).name)
        else:
            heard.append("lost" if asked.misses(IDLE, final=answer == "!") else "-")
    assert heard == verdicts


@pytest.mark.parametrize("failures", [1, 2, 3, 7])
def test_so_many_misses_in_a_row_are_too_many(failures: int) -> None:
    asked = ready(failures)
    assert [asked.misses() for _ in range(failures)] == [False] * (failures - 1) + [True]
    assert asked.watch.misses == failures


def test_it_is_unhealthy_since_the_miss_that_was_one_too_many() -> None:
    asked = ready(2)
    asked.misses(after=30)
    assert asked.watch.unhealthy_since is None
    asked.misses(after=5)
    since = asked.watch.unhealthy_since
    assert since == asked.clock()
    asked.misses(after=30)
    assert asked.watch.unhealthy_since == since, "and not anew with each further one"
    asked.answers()
    assert asked.watch.unhealthy_since is None


def test_it_is_late_only_once() -> None:
    asked = Asked()
    asked.watch.late(5.0)
    asked.watch.late(9.0)
    assert asked.watch.unhealthy_since == 5.0


def test_it_is_ready_since_its_first_answer_even_if_it_was_sick_since() -> None:
    asked = ready(1)
    since = asked.watch.ready_since
    assert since == asked.clock()
    asked.misses(after=100)
    asked.clock.advance(100)
    assert asked.answers() is Verdict.RECOVERED
    assert asked.watch.ready_since == since


def test_an_answer_that_comes_late_makes_it_ready_and_well() -> None:
    asked = late()
    asked.clock.advance(500)
    assert asked.answers(IDLE) is Verdict.READY
    assert (asked.watch.ready_since, asked.watch.unhealthy_since) == (asked.clock(), None)


def test_settings_that_changed_count_from_the_next_answer_on() -> None:
    asked = ready(3)
    asked.misses()
    asked.health = HealthSettings(failures=2)
    assert asked.misses()


def test_what_it_said_last_is_kept_for_those_who_ask_why() -> None:
    watch, health = Watch(), HealthSettings()
    assert watch.said == "no answer yet"
    watch.missed(ProbeResult(False, "Connection refused"), health, 0.0)
    watch.missed(ProbeResult(False, "HTTP 500 oops"), health, 1.0)
    assert watch.said == "HTTP 500 oops"


def test_readiness_is_asked_for_until_it_is_there_and_never_again() -> None:
    asked = Asked(HealthSettings(failures=1))
    seen = [asked.watch.question]
    asked.misses()
    asked.watch.late(asked.clock())
    seen.append(asked.watch.question)
    asked.answers()
    seen.append(asked.watch.question)
    asked.misses()
    seen.append(asked.watch.question)
    assert seen == [Question.READY, Question.READY, Question.ALIVE, Question.ALIVE]


# Progress of one that is late.

PROGRESS = {
    "none at all": (used(), False),
    "cpu of a server that waits": (used(cpu=0.003 * 30), False),
    "cpu just short of it": (used(cpu=0.05 * 30 - 0.01), False),
    "cpu": (used(cpu=0.05 * 30 + 0.01), True),
    "cpu that became less as a child has ended": (used(cpu=-5), False),
    "memory just short of it": (used(memory=MB - 1), False),
    "memory": (used(memory=MB), True),
    "memory given back": (used(memory=-MB), True),
    "the line of our own question in the log": (used(log=200), False),
    "log just short of it": (used(log=1023), False),
    "log, as of a download": (used(log=1024), True),
    "a log that was emptied meanwhile": (used(log=-5000), False),
    "files just short of it": (used(io=MB - 1), False),
    "files": (used(io=MB), True),
    "files of a child that has ended": (used(io=-500 * MB), False),
    "memory of other programs": (used(available=8000 * MB), False),
    "each a little, and none enough": (used(cpu=1, memory=MB // 2, log=500, io=MB // 2), False),
    "unknown": (None, False),
}


@pytest.mark.parametrize(("vitals", "progress"), PROGRESS.values(), ids=PROGRESS)
def test_when_it_is_late_only_a_question_without_progress_is_a_miss(vitals: Vitals | None, progress: bool) -> None:
    asked = late(failures=1)
    assert asked.misses(vitals) is not progress
    assert asked.watch.misses == (0 if progress else 1)


@pytest.mark.parametrize("seconds", [0.5, 30.0, 600.0], ids=lambda seconds: f"{seconds:g} s")
def test_how_much_cpu_is_progress_depends_on_the_time_since_the_last_look(seconds: float) -> None:
    assert late(1, interval=0.5).misses(used(cpu=0.04 * seconds), after=seconds)
    assert not late(1, interval=0.5).misses(used(cpu=0.06 * seconds), after=seconds)


def test_progress_forgets_the_misses_before_it() -> None:
    asked = late(failures=3)
    seen = (IDLE, IDLE, used(memory=MB), used(memory=MB), used(memory=MB), used(memory=MB))
    assert [asked.misses(vitals) for vitals in seen] == [False, False, False, False, False, True]


def test_progress_is_since_the_last_question_and_not_since_it_was_late() -> None:
    asked = late(failures=1)
    assert not asked.misses(used(log=5000))
    assert asked.misses(used(log=5000)), "what it did before does not count twice"


def test_a_load_that_crawls_may_go_on_for_ever() -> None:
    asked = late(failures=1)
    assert not any(asked.misses(used(memory=n * MB)) for n in range(1, 1000))
    assert asked.answers() is Verdict.READY


def test_the_first_look_at_one_that_is_late_says_nothing_against_it() -> None:
    # A completion is waited for up to a minute, so a shorter `startup_timeout` is over before any answer has come.
    asked = Asked(HealthSettings(failures=1))
    asked.watch.late(asked.clock())
    assert not asked.misses(IDLE)
    assert asked.misses(IDLE)


def test_one_that_the_system_does_not_let_us_look_at_makes_no_progress() -> None:
    asked = late(failures=2, vitals=None)
    assert [asked.misses(None), asked.misses(None)] == [False, True]


def test_a_look_that_failed_does_not_hide_the_progress_since_the_one_before() -> None:
    asked = late(failures=2)
    asked.misses(None)
    assert not asked.misses(used(memory=MB))
    assert asked.watch.misses == 0


def test_after_a_look_that_failed_the_time_still_runs_from_the_one_before() -> None:
    asked = late(failures=2)
    asked.misses(None, after=30)
    assert asked.misses(used(cpu=0.05 * 45), after=30), "enough for 30 seconds, and too little for 60"


# One that is late is asked often, and judged once each `interval`.


def lost_after(asked: Asked, vitals: Iterable[Vitals | None], seconds: float) -> float | None:
    """Seconds from now until it has failed, if it is asked so often and has used that much by then."""
    begun = asked.clock()
    return next((asked.clock() - begun for now in vitals if asked.misses(now, after=seconds)), None)


@pytest.mark.parametrize("failures", [1, 3])
@pytest.mark.parametrize("pause", [2.5, 5.0, 10.0, 30.0, 45.0], ids=lambda pause: f"asked each {pause:g} s")
def test_one_that_is_late_and_idle_has_failures_times_interval_however_often_it_is_asked(
    failures: int, pause: float
) -> None:
    assert lost_after(late(failures), [IDLE] * 200, pause) == failures * max(pause, 30)


def test_the_first_interval_begins_when_it_became_late_and_not_at_the_last_question_before() -> None:
    asked = Asked(HealthSettings(failures=1))
    asked.misses(IDLE)
    asked.clock.advance(25)
    asked.watch.late(asked.clock())
    assert lost_after(asked, [IDLE] * 20, 5) == 30


def test_progress_gives_one_that_is_late_an_interval_anew() -> None:
    asked = late(failures=1)
    for _ in range(5):
        assert not asked.misses(IDLE, after=5)
    assert not asked.misses(used(memory=MB), after=4)
    assert lost_after(asked, [used(memory=MB)] * 20, 5) == 30


CRAWLS: dict[str, Callable[[float], Vitals]] = {
    "memory": lambda seconds: used(memory=int(MB * seconds / 25)),
    "memory that it gives back": lambda seconds: used(memory=-int(MB * seconds / 25)),
    "files": lambda seconds: used(io=int(MB * seconds / 25)),
    "cpu": lambda seconds: used(cpu=0.06 * seconds),
}


@pytest.mark.parametrize("pause", [0.5, 5.0, 29.0], ids=lambda pause: f"asked each {pause:g} s")
@pytest.mark.parametrize("crawl", CRAWLS.values(), ids=CRAWLS)
def test_what_is_progress_within_an_interval_is_so_however_often_it_is_asked(
    crawl: Callable[[float], Vitals], pause: float
) -> None:
    assert lost_after(late(failures=1), [crawl(n * pause) for n in range(1, 2000)], pause) is None


@pytest.mark.parametrize("pause", [0.5, 1.0, 5.0], ids=lambda pause: f"asked each {pause:g} s")
def test_the_lines_that_our_own_questions_cost_it_are_no_progress_however_often_it_is_asked(pause: float) -> None:
    asked = late(failures=2)
    assert lost_after(asked, [used(log=200 * n) for n in range(1, 500)], pause) == 60


def test_less_than_that_within_an_interval_is_none() -> None:
    slow = [used(memory=20_000 * n, io=20_000 * n, cpu=0.04 * n) for n in range(1, 200)]
    assert lost_after(late(failures=2), slow, 1) == 60


def test_a_short_spell_of_computing_is_progress_though_it_idled_before() -> None:
    asked = late(failures=1)
    for _ in range(4):
        assert not asked.misses(IDLE, after=5)
    assert not asked.misses(used(cpu=0.5), after=5)
    assert not asked.misses(used(cpu=0.5), after=5), "30 s since it was late"
    assert lost_after(asked, [used(cpu=0.5)] * 20, 5) == 25


def test_one_that_dies_for_good_while_it_is_late_has_no_interval() -> None:
    assert late(failures=3).misses(IDLE, after=0.1, final=True)


def test_an_interval_that_was_shortened_counts_from_the_next_answer_on() -> None:
    asked = late(failures=1)
    assert not asked.misses(IDLE, after=5)
    asked.health = HealthSettings(failures=1, interval=5)
    assert asked.misses(IDLE, after=1)


# Silence of one that was ready.


def busy(seconds: float) -> Vitals:
    return used(cpu=seconds)


def test_one_that_is_silent_while_it_works_is_not_lost() -> None:
    asked = ready(failures=1)
    assert not any(asked.is_silent(busy(30 * n)) for n in range(1, 20)), "for up to 570 s"
    assert (asked.watch.misses, asked.watch.unhealthy_since) == (0, None)
    assert asked.watch.said == "no answer within 5 s"
    assert asked.answers(busy(600)) is Verdict.NOTHING, "and so nobody hears of a recovery"


def test_it_is_forgiven_only_for_so_long_since_its_last_answer() -> None:
    asked = ready(failures=1)
    assert MAX_BUSY == 600
    asked.clock.advance(1000)
    asked.answers(busy(1000))
    assert not asked.is_silent(busy(1599), after=MAX_BUSY - 1)
    assert asked.is_silent(busy(1600), after=1)


def test_one_that_is_seldom_asked_is_forgiven_for_two_intervals() -> None:
    asked = Asked(HealthSettings(failures=1, interval=3600))
    asked.answers(IDLE)
    assert not asked.is_silent(busy(3600), after=3600)
    assert not asked.is_silent(busy(7199), after=3599)
    assert asked.is_silent(busy(7200), after=1)


def test_each_answer_gives_it_all_that_time_again() -> None:
    asked = ready(failures=1)
    for _ in range(5):
        assert not asked.is_silent(busy(asked.clock() + MAX_BUSY), after=MAX_BUSY - 1)
        asked.answers(busy(asked.clock()))


def test_when_the_time_is_over_its_misses_are_counted_from_one() -> None:
    asked = ready(failures=3)
    heard = [asked.is_silent(busy(100 * n), after=100) for n in range(1, 9)]
    assert heard == [False] * 5 + [False, False, True]


@pytest.mark.parametrize(
    "vitals", [IDLE, used(available=MB), None], ids=["idle", "only others work", "nobody can look"]
)
def test_one_that_is_silent_and_idle_is_not_forgiven(vitals: Vitals | None) -> None:
    asked = ready(failures=3)
    assert [asked.is_silent(vitals) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    "vitals",
    [used(cpu=1.6), used(memory=MB), used(memory=-MB), used(log=1024), used(io=MB)],
    ids=["cpu", "memory", "memory given back", "log", "files"],
)
def test_any_progress_excuses_silence(vitals: Vitals) -> None:
    assert not ready(failures=1).is_silent(vitals)


def test_one_that_was_ready_and_says_no_is_not_excused_by_being_busy() -> None:
    # An error, a refused connection: it is not too busy to speak.
    asked = ready(failures=3)
    working: Iterable[Vitals] = (used(cpu=30 * n, memory=100 * n * MB, log=9000 * n) for n in range(1, 4))
    assert [asked.misses(vitals) for vitals in working] == [False, False, True]


def test_work_that_was_done_before_the_last_question_excuses_nothing() -> None:
    asked = ready(failures=2)
    assert not asked.is_silent(busy(100))
    assert not asked.is_silent(busy(100)), "the first that counts"
    assert asked.is_silent(busy(100))


def test_work_between_two_misses_is_no_answer() -> None:
    asked = ready(failures=2)
    heard = [asked.is_silent(IDLE), asked.is_silent(busy(30)), asked.is_silent(busy(30))]
    assert heard == [False, False, True]


def test_one_that_is_unhealthy_already_is_lost_on_each_miss_but_not_while_it_works() -> None:
    asked = ready(failures=1)
    since = (asked.misses(IDLE), asked.watch.unhealthy_since)
    assert [asked.is_silent(busy(30)), asked.is_silent(busy(30))] == [False, True]
    assert since == (True, asked.watch.unhealthy_since)


def test_silence_of_one_that_is_late_is_a_miss_like_any_other() -> None:
    asked = late(failures=2)
    assert [asked.is_silent(IDLE, after=30), asked.is_silent(IDLE, after=30)] == [False, True]


def test_silence_does_not_excuse_one_that_is_dead_for_good() -> None:
    asked = ready(failures=3)
    assert asked.gets(ProbeResult(False, "dead", final=True, silent=True, vitals=busy(30)), 30)


def test_progress_does_not_excuse_one_that_says_it_is_dead() -> None:
    assert late(failures=3).misses(used(cpu=30, memory=100 * MB, log=9000), final=True)


def test_what_it_used_is_remembered_through_a_look_that_failed() -> None:
    asked = ready()
    asked.misses(used(memory=7 * MB))
    asked.misses(None)
    assert asked.watch.vitals == used(memory=7 * MB)


# Pauses.


def test_while_it_starts_the_pauses_grow_up_to_a_second() -> None:
    watch, health = Watch(), HealthSettings(interval=0.1, timeout=0.1)
    pauses = [watch.pause(health) for _ in range(30)]
    assert pauses[0] == FIRST_PROBE
    assert all(0 < after - before <= before for before, after in pairwise(pauses[:9]))
    assert set(pauses[8:]) == {MAX_PROBE_INTERVAL}, "whatever the interval of one that is ready"


PAUSES = {
    "well": ("+", 30.0),
    "doubtful": ("+-", 5.0),
    "more doubtful": ("+--", 5.0),
    "well again after a doubt": ("+-+", 30.0),
    "unhealthy": ("+---", 30.0),
    "unhealthy for long": ("+------", 30.0),
    "recovered": ("+---+", 30.0),
    "doubtful after it recovered": ("+---+-", 5.0),
    "late": ("-L", 5.0),
    "late and idle": ("-L-", 5.0),
    "late, and lost": ("-L----", 5.0),
    "ready although late": ("-L+", 30.0),
}


@pytest.mark.parametrize(("answers", "pause"), PAUSES.values(), ids=PAUSES)
def test_a_doubt_is_followed_up_soon_and_everything_else_has_its_interval(answers: str, pause: float) -> None:
    asked = Asked(HealthSettings(interval=30, timeout=5, failures=3))
    for answer in answers:
        if answer == "L":
            asked.watch.late(asked.clock())
        elif answer == "+":
            asked.answers(IDLE)
        else:
            asked.misses(IDLE)
    assert [asked.watch.pause(asked.health) for _ in range(3)] == [pause] * 3


def test_one_that_is_late_is_never_asked_later_than_usual() -> None:
    asked = Asked(HealthSettings(interval=2, timeout=60))
    asked.watch.late(asked.clock())
    assert asked.watch.pause(asked.health) == 2


def test_one_that_is_forgiven_its_silence_has_its_interval() -> None:
    asked = ready()
    asked.is_silent(busy(30))
    assert asked.watch.pause(asked.health) == 30


def test_a_doubt_is_never_followed_up_later_than_usual() -> None:
    asked = Asked(HealthSettings(interval=2, timeout=60))
    asked.answers()
    asked.misses()
    assert asked.watch.pause(asked.health) == 2


def test_one_that_dies_with_three_misses_is_found_within_interval_and_timeouts() -> None:
    asked = ready(3)
    seconds = asked.watch.pause(asked.health)
    while not asked.misses():
        seconds += asked.watch.pause(asked.health)
    assert seconds == 30 + 5 + 5


def test_a_question_that_the_hub_could_not_ask_is_no_miss() -> None:
    asked = ready(failures=1)
    assert not asked.cannot_be_asked(IDLE)
    assert asked.watch.misses == 0
    assert asked.misses(IDLE)


def test_a_question_that_the_hub_could_not_ask_does_not_use_up_the_progress_until_then() -> None:
    asked = late(failures=1)
    asked.cannot_be_asked(used(memory=MB), after=29)
    assert not asked.misses(used(memory=MB), after=1)


def test_what_it_used_is_known_even_from_a_question_that_counts_for_nothing() -> None:
    asked = late()
    asked.misses(used(memory=7), after=1)
    assert asked.watch.vitals == used(memory=7)
    asked.cannot_be_asked(used(memory=8), after=1)
    assert asked.watch.vitals == used(memory=8)
