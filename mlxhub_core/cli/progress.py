"""The wait until models are ready or have failed, and what is seen of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from mlxhub_core.cli.common import printable, say, span
from mlxhub_core.cli.words import Fields, failure_in_words, reason_in_words, what_next
from mlxhub_core.control.client import ControlClient
from mlxhub_core.states import ModelState

if TYPE_CHECKING:
    from mlxhub_core.cli.picture import Picture

TAIL = 5
"""Lines that are shown of what a model said before it failed; `mlxhub explain` shows all that are kept."""
SILENT = 0.5
"""Seconds without an event after which the hub is asked all the same: a model that was ready before this hub found it is so
again without one."""
_UNWELL = (ModelState.UNHEALTHY, ModelState.FAILED, ModelState.STOPPED, ModelState.BACKOFF)


def until_ready(
    client: ControlClient,
    models: Sequence[str],
    since: float,
    timeout: float | None,
    option: str,
    failures_since: float | None = None,
) -> list[str]:
    """Wait until each of these models is ready or has failed, and say so of each. Returns those that are ready.

    Args:
        client: asks the hub.
        models: their names.
        since: when they were asked for, in seconds since the epoch; one that was started before that has run all along.
        timeout: seconds; None: for as long as it takes. That is `startup_timeout`, after which a model is unhealthy.
        option: what to add to commands so that they are about the same hub.
        failures_since: a failure before that does not count; default: `since`.

    Raises:
        HubNotRunningError: the hub has ended.
        KeyboardInterrupt: at Ctrl-C.
    """
    end = None if timeout is None else time.monotonic() + timeout
    wait = _Wait(models, since, option, failures_since)
    with client.events(since=time.time()) as events, wait.seen():
        while wait.look(client.get("/hub/status")["models"]):
            left = SILENT if end is None else min(SILENT, max(0.0, end - time.monotonic()))
            if not events.wait(left) and end is not None and time.monotonic() >= end:
                break
        wait.give_up()
    return wait.ready


class _Wait:
    """Some models, and what has become of each.

    Args:
        models: their names.
        since: when they were asked for.
        option: what to add to commands so that they are about the same hub.
    """

    def __init__(self, models: Sequence[str], since: float, option: str, failures_since: float | None = None) -> None:
        self.ready: list[str] = []
        self._since = since
        self._failures_since = since if failures_since is None else failures_since
        self._option = option
        self._pending: dict[str, Fields | None] = dict.fromkeys(models)
        self._picture: Picture | None = None

    @contextmanager
    def seen(self) -> Iterator[None]:
        """Meanwhile those that are not there yet are shown, on a terminal."""
        if not self._pending or sys.stdout is None or not sys.stdout.isatty():
            yield
            return
        # On a terminal only: what draws takes a tenth of a second to import.
        from mlxhub_core.cli.picture import Picture

        with Picture(self._pending) as self._picture:
            yield
        self._picture = None

    def look(self, models: Iterable[Fields]) -> bool:
        """Take note of how they are. Whether any is still to be waited for."""
        known = {model["name"]: model for model in models}
        for name in [*self._pending, *self.ready]:
            model = known.get(name)
            well = model is not None and self._judge(model)
            if name in self._pending:
                self._pending[name] = model
            if well is None or (well and name not in self._pending):
                continue  # As before. One that was ready may have failed meanwhile.
            self._pending.pop(name, None)
            self.ready = [*self.ready, name] if well else [each for each in self.ready if each != name]
            self._tell(self._outcome(name, model, well=well), well=well)
        return bool(self._pending)

    def _outcome(self, name: str, model: Fields | None, *, well: bool) -> list[str]:
        if model is None:
            return [f"{name}: is no longer in hub.yaml"]
        return _ready_line(model, self._since) if well else _failure_lines(model, self._failures_since, self._option)

    def give_up(self) -> None:
        """The time is over."""
        for name, model in self._pending.items():
            state = model["state"] if model else "not there yet"
            self._tell([f"{name}: not ready in time ({state}); the hub goes on with it"], well=False)

    def _judge(self, model: Fields) -> bool | None:
        """Whether it is ready (True) or has failed (False)."""
        if model["state"] == ModelState.READY:
            return True
        failure = model["last_failure"]
        if model["state"] in _UNWELL or (failure and failure["time"] >= self._failures_since):
            return False
        return None

    def _tell(self, lines: Sequence[str], *, well: bool) -> None:
        head, *rest = lines
        if self._picture is not None:
            self._picture.print(head, "green" if well else "red")
            for line in rest:
                self._picture.print(line)
        elif well:
            click.echo(head)
        else:
            say(head, "red")
            for line in rest:
                say(line)


def _ready_line(model: Fields, since: float) -> list[str]:
    name, began, ready_at = model["name"], model["started_at"], model["ready_at"]
    if began is None or ready_at is None:
        return [f"{name}: ready"]
    if began < since:
        return [f"{name}: ready; it has run for {span(time.time() - began)}"]
    return [f"{name}: ready in {ready_at - began:.1f} s"]


def _failure_lines(model: Fields, since: float, option: str) -> list[str]:
    """Why a model is not ready, what it last said, and the next step."""
    name, failure = model["name"], model["last_failure"]
    more = f"  `mlxhub explain{option} {name}` says more"
    if failure is None or (failure["time"] < since and model["state"] not in (ModelState.BACKOFF, ModelState.FAILED)):
        why = f": {reason_in_words(model['reason'])}" if model["reason"] else ""
        return [printable(f"{name}: {model['state']}{why}"), more]
    tail = [f"  | {printable(line)}" for line in failure["log_tail"][-TAIL:]]
    return [printable(f"{name}: failed ({failure_in_words(failure)}){what_next(model)}"), *tail, more]
