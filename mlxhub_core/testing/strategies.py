"""Events and models by the thousand, for tests with Hypothesis, which must be installed: ``pip install hypothesis``.

    from hypothesis import given
    from mlxhub_core.testing.strategies import days

    @given(days())
    def test_it_takes_whatever_comes(day):
        fake_hub(AcmeSink(), day)

Import this module where it is used: nothing else of `mlxhub_core.testing` needs Hypothesis.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from mlxhub_core.events import Failure, HubEvent, HubModelContext, Reason
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.testing.day import FakeHub

Told = tuple[str, Mapping[str, Any]]
"""A hook, and its arguments by name."""

_LATEST = 4e9
"""Seconds since the epoch: the year 2096."""

_words = st.text(min_size=1, max_size=60)
_seconds = st.floats(0, 1e7)
_times = st.floats(0, _LATEST)
_signals = st.sampled_from([signal.SIGKILL, signal.SIGTERM]) | st.sampled_from(sorted(signal.Signals, key=int))
_tails = st.lists(st.text(max_size=80), max_size=5).map(tuple)


def names() -> SearchStrategy[str]:
    """Names of models: mostly such as hub.yaml allows, and now and then any text, as a program may give one."""
    return st.from_regex(r"\A[A-Za-z0-9]+([-_][A-Za-z0-9]+){0,3}\Z").map(lambda name: name[:100]) | _words


def contexts(names: SearchStrategy[str] | None = None) -> SearchStrategy[HubModelContext]:
    """Which model an event is about. `names`: those to choose from; default: `names()`."""
    named = globals()["names"]() if names is None else names
    return st.builds(lambda name, group: HubModelContext(name, group, f"logs/{name}.log"), named, st.none() | named)


def failures() -> SearchStrategy[Failure]:
    """How a model failed once."""

    def failed(code: int | None, **rest: Any) -> Failure:
        return Failure(exit_code=code, signal=_signal_of(code), **rest)

    return st.builds(
        failed,
        _failed_codes(),
        time=_times,
        reason=st.sampled_from(Reason),
        detail=st.none() | _words,
        uptime_seconds=_seconds,
        log_tail=_tails,
    )


def events() -> SearchStrategy[HubEvent]:
    """The envelope of an event. How a process ended is in those of `told` alone, where it agrees with the exit code."""
    return st.builds(
        HubEvent,
        seq=st.integers(1, 10**9),
        id=st.uuids().map(str),
        time=_times,
        run_id=st.none() | st.uuids().map(str),
        reason=st.none() | st.sampled_from(Reason),
        detail=st.none() | _words,
    )


@st.composite
def told(draw: st.DrawFn, contexts: SearchStrategy[HubModelContext] | None = None, *hooks: str) -> Told:
    """A hook and its arguments, as `fake_hub` tells them. `hooks`: those to choose from; default: all."""
    hook = draw(st.sampled_from(hooks or sorted(HOOKS)))
    arguments = {name: draw(_ARGUMENTS[name]) for name in HOOKS[hook] if name in _ARGUMENTS}
    if "ctx" in HOOKS[hook]:
        arguments["ctx"] = draw(globals()["contexts"]() if contexts is None else contexts)
    if hook in ("model_stopped", "model_failed"):
        arguments |= draw(_endings(failed=hook == "model_failed"))
    else:
        arguments["event"] = draw(events())
    return hook, {name: arguments[name] for name in HOOKS[hook]}


@st.composite
def days(draw: st.DrawFn, *, max_size: int = 20) -> Sequence[Told]:
    """What one hub tells: it has started; then whatever comes, about a few models, numbered from 1 without a gap.

    They come in any order, also in one in which no hub would tell them: a sink may be turned on at any time, and events
    may have been lost.
    """
    models = draw(st.lists(contexts(), min_size=1, max_size=3))
    hub, greeting = next(iter(FakeHub(models[0]).day()))
    rest = sorted(set(HOOKS) - {hub})
    day = draw(st.lists(told(st.sampled_from(models), *rest), max_size=max_size))
    numbered = [
        (hook, {**arguments, "event": replace(arguments["event"], seq=number)})
        for number, (hook, arguments) in enumerate(day, start=1)
    ]
    return [(hub, greeting), *numbered]


def _failed_codes() -> SearchStrategy[int | None]:
    return st.none() | st.integers(1, 255) | _signals.map(lambda number: -int(number))


def _signal_of(code: int | None) -> str | None:
    return signal.Signals(-code).name if code is not None and code < 0 else None


@st.composite
def _endings(draw: st.DrawFn, *, failed: bool) -> dict[str, Any]:
    """An exit code, and an envelope that agrees with it."""
    code = draw(_failed_codes() if failed else st.just(0) | _failed_codes())
    envelope = replace(
        draw(events()),
        uptime_seconds=draw(_seconds),
        signal=_signal_of(code),
        forced=code == -signal.SIGKILL and draw(st.booleans()),
        restart_in=draw(st.none() | _seconds) if failed else None,
        log_tail=draw(_tails),
        first_failure=draw(st.none() | failures()) if failed else None,
    )
    return {"exit_code": code, "event": envelope}


_some_names = st.lists(names(), max_size=4).map(tuple)
_ARGUMENTS: Mapping[str, SearchStrategy[Any]] = {
    "hub": st.builds(FakeHub),
    "started": _some_names,
    "stopped": _some_names,
    "unchanged": _some_names,
    "pid": st.integers(2, 2**22),
    "startup_seconds": _seconds,
    "unhealthy_seconds": _seconds,
    "delay_seconds": _seconds,
    "reason": _words,
    "attempt": st.integers(1, 1000),
    "failures": st.integers(1, 1000),
    "lost_bytes": st.integers(1, 2**40),
    "count": st.integers(1, 10**6),
}
"""Values of each argument of a hook, beside those that must agree with another."""
