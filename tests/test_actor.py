"""One thread, one inbox, timers: what the supervisor stands on. Where time matters it is a fake clock's."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlxhub_core.actor import Actor, Timer
from mlxhub_core.testing import FakeClock

PATIENCE = 5.0
"""Seconds to wait for what must happen."""


class Play:
    """An actor that writes down what it handles; a message that can be called is called instead."""

    def __init__(self, **arguments: Any) -> None:
        self.handled: list[object] = []
        self.failures: list[BaseException] = []
        self.actor: Actor[Any] = Actor(self._handle, self.failures.append, **arguments)

    def _handle(self, message: object) -> None:
        if callable(message):
            message()
        else:
            self.handled.append(message)

    def tell(self, *messages: object) -> None:
        for message in messages:
            assert self.actor.tell(message)

    def wait_for(self, message: Callable[[], Any]) -> Any:
        """Have the actor call this, and wait for what it returns."""
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.tell(lambda: answers.put(message()))
        return answers.get(timeout=PATIENCE)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def still(clock: FakeClock) -> Play:
    """One whose thread is not started: the test drains its inbox."""
    return Play(clock=clock)


@pytest.fixture
def running() -> Iterator[Play]:
    play = Play(name="the-actor")
    play.actor.start()
    yield play
    play.actor.finish()


def stop(text: str) -> Callable[[], None]:
    """A message whose handling fails."""

    def fail() -> None:
        raise ValueError(text)

    return fail


# Messages.


def test_messages_are_handled_in_the_order_in_which_they_were_told(still: Play) -> None:
    still.tell("a", "b", "c")
    assert still.handled == []
    still.actor.drain()
    assert still.handled == ["a", "b", "c"]


def test_what_a_handler_tells_comes_after_what_waits_already(still: Play) -> None:
    still.tell(lambda: still.tell("later"), "sooner")
    still.actor.drain()
    assert still.handled == ["sooner", "later"]


def test_everything_is_handled_on_the_actors_own_thread(running: Play) -> None:
    first, second = running.wait_for(threading.current_thread), running.wait_for(threading.current_thread)
    assert first is second
    assert first.name == "the-actor"
    assert first.daemon, "it does not keep the program from ending"


def test_the_messages_of_each_teller_stay_in_order(running: Play) -> None:
    def tell_many(who: int) -> None:
        running.tell(*((who, number) for number in range(500)))

    tellers = [threading.Thread(target=tell_many, args=(who,)) for who in range(8)]
    for teller in tellers:
        teller.start()
    for teller in tellers:
        teller.join(PATIENCE)
    running.actor.finish()
    assert len(running.handled) == 8 * 500
    for who in range(8):
        assert [m for m in running.handled if m[0] == who] == [(who, n) for n in range(500)]  # type: ignore[index]


def test_telling_returns_at_once_even_if_the_actor_is_busy(running: Play) -> None:
    release = threading.Event()
    running.tell(lambda: release.wait(PATIENCE), "after")
    assert running.handled == []
    release.set()


def test_a_signal_handler_may_tell_while_its_thread_does(still: Play) -> None:
    class Interrupted(queue.SimpleQueue[Any]):
        """An inbox in which every message meets a signal on its way."""

        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            if item == "by the thread":
                signal.raise_signal(signal.SIGUSR1)
            super().put(item)

    still.actor._inbox = Interrupted()
    old = signal.signal(signal.SIGUSR1, lambda number, frame: still.tell("by the signal"))
    try:
        still.tell("by the thread")
    finally:
        signal.signal(signal.SIGUSR1, old)
    still.actor.drain()
    assert still.handled == ["by the signal", "by the thread"]


# Failures.


def test_a_raising_handler_stops_nothing_and_is_reported(running: Play) -> None:
    running.tell(stop("one"), "between", stop("two"))
    assert running.wait_for(lambda: "alive") == "alive"
    assert running.handled == ["between"]
    assert [str(failure) for failure in running.failures] == ["one", "two"]


def test_a_handler_that_exits_ends_neither_thread_nor_program(running: Play) -> None:
    def leave() -> None:
        raise SystemExit(3)

    running.tell(leave)
    assert running.wait_for(lambda: "alive") == "alive"
    assert [type(failure) for failure in running.failures] == [SystemExit]


def test_a_report_that_fails_stops_nothing(running: Play) -> None:
    def no_report(error: BaseException) -> None:
        raise OSError("the disk is full")

    running.actor._failed = no_report
    running.tell(stop("one"))
    assert running.wait_for(lambda: "alive") == "alive"


def test_a_timer_whose_handling_fails_does_not_come_again(still: Play) -> None:
    still.actor.after(0, stop("one"))
    still.actor.drain()
    still.actor.drain()
    assert [str(failure) for failure in still.failures] == ["one"]


# Timers.


def test_a_timer_comes_when_it_is_due_and_not_before(still: Play, clock: FakeClock) -> None:
    still.actor.after(5, "due")
    clock.advance(4.999)
    still.actor.drain()
    assert still.handled == []
    clock.advance(0.001)
    still.actor.drain()
    still.actor.drain()
    assert still.handled == ["due"], "once"


def test_timers_come_in_the_order_in_which_they_are_due(still: Play, clock: FakeClock) -> None:
    for seconds, message in ((3, "c"), (1, "a"), (2, "b"), (1, "a too"), (9, "not yet")):
        still.actor.after(seconds, message)
    clock.advance(3)
    still.actor.drain()
    assert still.handled == ["a", "a too", "b", "c"]


def test_timers_of_the_same_moment_need_not_be_comparable(still: Play) -> None:
    for message in ({"a": 1}, {"b": 2}, object):
        still.actor.after(0, message)
    still.actor.drain()
    assert still.handled == [{"a": 1}, {"b": 2}]


def test_a_timer_that_is_due_comes_before_the_messages_that_wait(still: Play, clock: FakeClock) -> None:
    still.actor.after(1, "timer")
    still.tell("message")
    clock.advance(1)
    still.actor.drain()
    assert still.handled == ["timer", "message"]


def test_a_timer_that_falls_due_while_a_message_is_handled_comes_next(still: Play, clock: FakeClock) -> None:
    still.actor.after(1, "timer")
    still.tell(lambda: clock.advance(1), "message")
    still.actor.drain()
    assert still.handled == ["timer", "message"]


def test_a_handler_may_set_the_next_timer(still: Play, clock: FakeClock) -> None:
    def tick() -> None:
        still.handled.append(clock.now)
        still.actor.after(10, tick)

    still.actor.after(10, tick)
    for _ in range(3):
        clock.advance(10)
        still.actor.drain()
    assert still.handled == [1010.0, 1020.0, 1030.0]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_cancelled_timer_does_not_come_and_the_others_do(still: Play, clock: FakeClock, which: int) -> None:
    timers = [still.actor.after(number, number) for number in range(3)]
    timers[which].cancel()
    timers[which].cancel()
    clock.advance(3)
    still.actor.drain()
    assert still.handled == [number for number in range(3) if number != which]


def test_a_timer_may_be_cancelled_by_another_of_the_same_moment(still: Play) -> None:
    timers: list[Timer] = []
    timers.append(still.actor.after(0, lambda: timers[1].cancel()))
    timers.append(still.actor.after(0, "second"))
    still.actor.drain()
    assert still.handled == []


def test_a_timer_that_has_come_may_be_cancelled(still: Play) -> None:
    timer = still.actor.after(0, "come")
    still.actor.drain()
    timer.cancel()
    assert still.handled == ["come"]


def test_the_real_clock_wakes_the_thread(running: Play) -> None:
    come = threading.Event()
    begin = time.monotonic()
    running.tell(lambda: running.actor.after(0.02, come.set))
    assert come.wait(PATIENCE)
    assert time.monotonic() - begin >= 0.02


def test_a_message_wakes_the_thread_before_the_timer(running: Play) -> None:
    running.tell(lambda: running.actor.after(1000, "never"))
    assert running.wait_for(lambda: "at once") == "at once"


def test_waiting_costs_nothing() -> None:
    class Counted(queue.SimpleQueue[Any]):
        """An inbox that counts how often it is looked into."""

        looks = 0

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            self.looks += 1
            return super().get(block, timeout)

    play = Play()
    inbox = play.actor._inbox = Counted()
    play.actor.after(0.02, "soon")
    play.actor.after(1000, "never")
    play.actor.after(0.01, "cancelled").cancel()
    play.actor.start()
    cpu = time.process_time()
    threading.Event().wait(0.2)
    assert time.process_time() - cpu < 0.1
    assert play.handled == ["soon"]
    assert inbox.looks <= 3, "one until the timer, perhaps another because it woke a moment early, one until the other"
    play.actor.finish()


# The end.


def test_after_finish_nothing_is_told_and_what_was_told_is_handled(running: Play) -> None:
    running.tell(*range(1000))
    running.actor.finish()
    assert running.handled == list(range(1000))
    assert running.actor.tell("too late") is False
    running.actor.drain()
    assert running.handled == list(range(1000))


def test_whoever_was_told_that_it_was_taken_is_heard(still: Play) -> None:
    ended = threading.Event()
    finisher = threading.Thread(target=still.actor.finish)

    class Late(queue.SimpleQueue[Any]):
        """An inbox in which a message is on its way while somebody else finishes the actor."""

        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            if item == "on its way":
                finisher.start()
                # Long enough for an end that is not held back.
                ended.wait(0.05)
            super().put(item)
            if item is None:
                ended.set()

    still.actor._inbox = Late()
    still.tell("on its way")
    finisher.join(PATIENCE)
    still.actor.drain()
    assert still.handled == ["on its way"]


def test_finish_waits_for_what_is_being_handled(running: Play) -> None:
    release = threading.Event()
    running.tell(lambda: release.wait(PATIENCE), "last")
    threading.Timer(0.02, release.set).start()
    running.actor.finish()
    assert running.handled == ["last"]


def test_finish_does_not_wait_for_timers(running: Play) -> None:
    running.tell(lambda: running.actor.after(1000, "never"))
    running.actor.finish()
    assert running.handled == []


def test_timers_that_are_due_come_before_the_end(still: Play, clock: FakeClock) -> None:
    still.actor.after(1, "due")
    still.actor.after(2, "not due")
    still.tell("message")
    clock.advance(1)
    still.actor.finish()
    still.actor.drain()
    assert still.handled == ["due", "message"]


def test_the_actor_may_finish_itself(running: Play) -> None:
    thread = running.wait_for(threading.current_thread)
    running.tell(running.actor.finish, "told before the end")
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert running.actor.tell("too late") is False
    assert running.failures == []


def test_finishing_twice_does_nothing_more(running: Play) -> None:
    running.actor.finish()
    running.actor.finish()
    assert running.actor.tell("too late") is False


def test_one_that_was_never_started_can_be_finished(still: Play) -> None:
    still.tell("a")
    still.actor.finish()
    assert still.actor.tell("too late") is False
    still.actor.drain()
    assert still.handled == ["a"]
