"""The story of one model: how it is, how it failed, what comes next, and what a person can do. Pure."""

from __future__ import annotations

import time as clock
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mlxhub_core.cli.common import size_of, span
from mlxhub_core.cli.words import REASONS, Fields, failure_in_words, reason_in_words, seconds
from mlxhub_core.events import Reason
from mlxhub_core.exits import exit_in_words
from mlxhub_core.states import ModelState

WORTH_STOPPING = 1_000_000_000
"""Bytes: to stop a model that has less makes no room for another."""
_DAY = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Advice:
    """Something that a person can do.

    Attributes:
        command: to type; None where it is something else.
        why: what it is good for, or what else to do.
    """

    command: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Story:
    """What there is to say about a model.

    Attributes:
        headline: a sentence.
        facts: what each is, and it.
        next: what the hub does next, in sentences.
        failures: what each is, and it: the first of the last series, and the last.
        advice: what can be done, the most promising first.
    """

    headline: str
    facts: list[tuple[str, str]]
    next: str
    failures: list[tuple[str, Fields]]
    advice: list[Advice]


def story_of(model: Fields, others: Iterable[Fields], option: str, now: float) -> Story:
    """The story of a model.

    Args:
        model: its status.
        others: that of the other models.
        option: what to add to commands so that they are about the same hub, as `` -c other.yaml``.
        now: seconds since the epoch.
    """
    return Story(
        _headline(model),
        list(_facts(model, now)),
        _next(model, now),
        _failures(model),
        list(_advice(model, others, option)),
    )


def when(time: float, now: float) -> str:
    """A moment, as `18:40:12 (2m05s ago)`, with its date if that is not within a day."""
    form = "%H:%M:%S" if abs(now - time) < _DAY else "%Y-%m-%d %H:%M:%S"
    away = f"in {seconds(time - now)}" if time > now else f"{span(now - time)} ago"
    return f"{clock.strftime(form, clock.localtime(time))} ({away})"


def _headline(model: Fields) -> str:
    name, reason, failure = model["name"], model["reason"], model["last_failure"]
    said = reason_in_words(reason) if reason else "nobody has started it since the hub was started"
    match model["state"]:
        case ModelState.READY:
            return f"{name} is ready, and nothing is wrong."
        case ModelState.STARTING:
            waits = "" if reason is None or reason in REASONS else f": {said}"
            return f"{name} is starting{waits}."
        case ModelState.UNHEALTHY:
            return f"{name} runs, but does not answer: {said}."
        case ModelState.STOPPING:
            return f"{name} was asked to end, and has not yet: {said}."
        case ModelState.BACKOFF if failure is None or reason == Reason.EXIT:
            return f"{name} ended, and the hub is about to start it again: {said}."
        case ModelState.BACKOFF if model["restart_at"] is None or reason != (failure["detail"] or failure["reason"]):
            return f"{name} has failed ({failure_in_words(failure)}), and waits to be started again: {said}."
        case ModelState.BACKOFF:
            return f"{name} has failed ({failure_in_words(failure)}), and the hub is about to start it again."
        case ModelState.FAILED if failure is not None:
            return f"{name} has failed ({failure_in_words(failure)}), and stays down."
        case ModelState.FAILED:
            return f"{name} stays down: {said}."
    return f"{name} is stopped: {said}."


def _facts(model: Fields, now: float) -> Iterator[tuple[str, str]]:
    began, ended = model["started_at"], model["stopped_at"]
    if model["pid"] is not None:
        memory = model.get("memory_bytes")
        port = "" if model["port"] is None else f", port {model['port']}"
        yield "process", f"pid {model['pid']}{port}" + ("" if memory is None else f", {size_of(memory)} of memory")
    if began is not None:
        yield "started", when(began, now)
    if model["pid"] is not None and model["ready_at"] is not None and began is not None:
        yield "ready", f"{when(model['ready_at'], now)}, after {seconds(model['ready_at'] - began)}"
    if model["pid"] is None and ended is not None:
        ran = "" if began is None or ended < began else f", after {seconds(ended - began)}"
        yield "ended", when(ended, now) + ran
    if model["exit_code"] is not None and not _is_told(model):
        # By the hub, if it was a signal: one that the hub did not send is a failure, which is told elsewhere.
        yield ("exit" if model["pid"] is None else "last exit"), exit_in_words(model["exit_code"], by_hub=True)
    yield "restarts", f"{model['restarts']} (automatic)"
    if model["health_checks"]:
        yield "health", f"{model['health_checks']} checks; {model['health_checks_failed']} without an answer"
    if model["log_lost_bytes"]:
        yield "log", f"{model['log_path']}; {model['log_lost_bytes']} bytes of this run could not be written"
    else:
        yield "log", model["log_path"]


def _is_told(model: Fields) -> bool:
    """Whether its last exit code is that of the failure that is told anyway."""
    return model["last_failure"] is not None and model["last_failure"]["exit_code"] == model["exit_code"]


def _next(model: Fields, now: float) -> str:
    failure = model["last_failure"]
    match model["state"]:
        case ModelState.READY:
            return "The hub watches it. Should it fail, its `restart:` rule in hub.yaml says what happens."
        case ModelState.STARTING:
            return (
                "The hub calls it ready once it answers. If that takes longer than its `startup_timeout`, the hub says"
                " so, and ends it only if it makes no progress."
            )
        case ModelState.UNHEALTHY:
            return (
                "The hub asks it again. If it does not recover, it is ended and started again by its `restart:` rule;"
                " with `restart: never` the hub only waits."
            )
        case ModelState.STOPPING:
            return "The hub waits for its end, and kills it after its `stop_timeout`."
        case ModelState.BACKOFF:
            due = model["restart_at"]
            if due is not None and due > now:
                return f"The hub starts it again at {when(due, now)}; after each failure in a row it waits longer."
            return f"The hub starts it again as soon as it can: {reason_in_words(model['reason'] or Reason.RESTART)}."
        case ModelState.FAILED if failure is not None and failure["reason"] == Reason.SPAWN_ERROR:
            return "Nothing by itself: a process that cannot be started is not tried again until somebody asks for it."
        case ModelState.FAILED:
            return "Nothing by itself: its `restart:` rule allows no further try until somebody starts it."
    return "Nothing: it stays stopped until somebody starts it."


def _failures(model: Fields) -> list[tuple[str, Fields]]:
    first, last = model["first_failure"], model["last_failure"]
    if last is None:
        return []
    if first is None or first == last:
        return [("the failure", last)]
    return [("the first failure in a row", first), ("the last failure", last)]


def _advice(model: Fields, others: Iterable[Fields], option: str) -> Iterator[Advice]:
    name, state, failure = model["name"], model["state"], model["last_failure"]
    if failure is not None and state != ModelState.READY:
        yield from _remedies(failure["reason"], failure["exit_code"], others, option)
    if state in (ModelState.STARTING, ModelState.READY, ModelState.UNHEALTHY, ModelState.STOPPING):
        yield Advice(f"mlxhub logs{option} -f {name}", "follow what it writes")
    elif model["started_at"] is not None:
        yield Advice(f"mlxhub logs{option} {name} --since-start", "see all that its last run wrote")
    if model["restarts"]:
        yield Advice(f"mlxhub logs{option} {name} --previous", "see what the run before wrote")
    match state:
        case ModelState.STOPPED:
            yield Advice(f"mlxhub start-model{option} {name} --wait", "start it")
        case ModelState.FAILED:
            yield Advice(f"mlxhub start-model{option} {name} --wait", "start it again, with its failures forgotten")
        case ModelState.BACKOFF:
            yield Advice(f"mlxhub start-model{option} {name} --wait", "start it at once")
            yield Advice(f"mlxhub stop-model{option} {name}", "have the hub not try again")
        case ModelState.READY | ModelState.UNHEALTHY:
            yield Advice(f"mlxhub restart-model{option} {name} --wait", "start it anew")
    yield Advice(f"mlxhub events{option} --since 1h {name}", "see what happened to it, in order")


def _remedies(reason: str, code: int | None, others: Iterable[Fields], option: str) -> Iterator[Advice]:
    if reason == Reason.SUSPECTED_OOM or code in (-9, 137):
        big = max(others, key=lambda other: other.get("memory_bytes") or 0, default=None)
        if big is not None and (big.get("memory_bytes") or 0) >= WORTH_STOPPING:
            yield Advice(f"mlxhub stop-model{option} {big['name']}", f"free the {size_of(big['memory_bytes'])} it has")
        yield Advice(
            None,
            "use a smaller model or a shorter context; `memory: {required: …}` in hub.yaml keeps it from being started"
            " into too little memory",
        )
    elif reason == Reason.SPAWN_ERROR or code in (126, 127):
        yield Advice(
            f"mlxhub check{option} && mlxhub reload{option}", "apply hub.yaml, once what it says above is mended"
        )
    elif reason == Reason.STARTUP_TIMEOUT:
        yield Advice(None, "give it more time: `health: {startup_timeout: …}` in hub.yaml, in seconds")
