"""The tests that every sink should pass. Needs pytest, which nothing else in mlxhub-core does."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlxhub_core.errors import SinkError
from mlxhub_core.events import HubModelContext, Reason
from mlxhub_core.hooks import hooks_of
from mlxhub_core.options import check_options, options_schema
from mlxhub_core.secret import Secret
from mlxhub_core.testing.conformance import state
from mlxhub_core.testing.conformance.watch import nothing_outside
from mlxhub_core.testing.day import FakeHub
from mlxhub_core.testing.driver import Day, Driver

AWKWARD_NAMES = ("모델", "a b", "x|c\nevil:1|c", "", "x" * 300, 'a"\\{}', "../up", "100% {0} %s")
"""Names of models that have broken sinks: other scripts, the separators of protocols, formats and paths."""

_CANARY = "canary-5e1fab1e-of-the-conformance-tests"
_ROUNDS = 3


class SinkConformance:
    """Tests of a sink. Subclass it in a test module, with a name that begins with ``Test``, and say which sink.

    Most of them make the sink with `options` and tell it a day in the life of a model on a thread, as the hub does. A
    sink that sends needs somewhere to send to: start that in a fixture with ``autouse=True``, and let it set
    ``self.options``.

    Attributes:
        sink_class: the sink.
        options: its options, as they would stand in hub.yaml. One that listens takes a free port, mostly port 0.
        other_options: those of a second one beside it; None: the same.
        patience: seconds after which a call counts as hung. The hub's log complains after 10, too.
        budget: seconds that each event may take with its flush, the fastest of several counted.
        settle: seconds that threads and sockets may take to be gone when the sink was closed.
    """

    sink_class: ClassVar[Callable[..., object]]
    options: Mapping[str, Any] = {}
    other_options: Mapping[str, Any] | None = None
    patience: float = 10.0
    budget: float = 0.1
    settle: float = 2.0

    def options_for(self, host: str, port: int) -> Mapping[str, Any] | None:
        """The options with which the sink sends to a TCP server there; None: it never does.

        Give it short timeouts, if they are options: they are waited for.
        """
        del host, port
        return None

    def test_its_package_declares_it(self) -> None:
        """So that hub.yaml can name it."""
        offered = entry_points(group="mlxhub.sinks")
        package = self._class.__module__.partition(".")[0]
        if not any(_loads(offer, self._class) for offer in offered if offer.module.partition(".")[0] == package):
            raise AssertionError(
                f'no installed package declares {self._name} in [project.entry-points."mlxhub.sinks"]; add it there,'
                " and install the package again: python -m pip install -e ."
            )

    def test_its_options_can_be_written_in_hub_yaml(self) -> None:
        """They have types, a schema and no mistakes."""
        try:
            options_schema(self._class)
        except SinkError as error:
            raise AssertionError(f"{self._name}: {error}") from None
        for options in (self.options, self._others):
            self._arguments(options)

    def test_its_hooks_are_the_hubs(self) -> None:
        """None is misspelt, async, or asks for what there is not."""
        try:
            hooks_of(self._make())
        except SinkError as error:
            raise AssertionError(str(error)) from None

    def test_to_import_it_changes_nothing(self) -> None:
        """Nothing is printed, started or set, as `mlxhub sinks describe` and `mlxhub check` import it too."""
        command = [sys.executable, "-P", state.__file__, self._class.__module__]
        # Bytecode or not, a module must be found where it is found here.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        said, _, last = done.stderr.strip().rpartition("\n")
        if done.returncode:
            raise AssertionError(f"{self._class.__module__} cannot be imported by itself: {last}\n{done.stderr}")
        changed = last.strip("[]").replace('"', "")
        if done.stdout or said.strip():
            raise AssertionError(f"the import of {self._class.__module__} prints {done.stdout + said.strip()!r}")
        if changed:
            raise AssertionError(f"the import of {self._class.__module__} leaves or changes: {changed}")

    def test_its_constructor_only_keeps_what_it_is_given(self) -> None:
        """It runs on the hub's own thread: connections, threads and files belong into `open`."""
        arguments = self._arguments(self.options)
        with nothing_outside() as tried, contextlib.suppress(PermissionError):
            self._class(**arguments)
        if tried:
            raise AssertionError(f"the constructor does what belongs into open(): {tried[0]}")

    def test_it_lives_through_a_day(self) -> None:
        """It takes every event that there is, and changes none."""
        with self._driver() as driver:
            driver.live(FakeHub().day())

    def test_it_takes_awkward_names_and_values(self) -> None:
        """Models are called what people like, and there is not always a pid or an exit code."""
        for name in AWKWARD_NAMES:
            for group in (None, name):
                with self._about(f"a model called {name[:20]!r}, in the group {group and group[:20]!r}"):
                    ctx = HubModelContext(name, group, f"logs/{name}.log")
                    with self._driver() as driver:
                        driver.live(_odd_day(ctx))

    def test_two_can_be_open_at_once(self) -> None:
        """Hub.yaml may turn it on twice, and a reload opens a new one beside another."""
        with self._about("beside another one"), self._driver() as one, self._driver(self._others) as other:
            one.open()
            other.open()
            for (hook, arguments), (_, others) in zip(FakeHub().day(), FakeHub().day(), strict=True):
                one.tell(hook, arguments)
                other.tell(hook, others)
            one.close()
            for hook, arguments in FakeHub().day():
                other.tell(hook, arguments)
            other.close()

    def test_it_can_be_closed_before_it_was_opened_and_twice(self) -> None:
        """The hub closes it also when open() never worked."""
        with self._about("before it was opened"), self._driver() as driver:
            driver.close()
        with self._about("a second time"), self._driver() as driver:
            driver.live(FakeHub().day())
            driver.close()

    def test_attempts_to_open_it_leave_nothing_behind(self) -> None:
        """While its server is away, open() is called again and again, and then close()."""
        # Bound and not listening: connections are refused, and nobody else gets the port.
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            options = self._options_for(nobody)
            before = state.descriptors()
            with self._driver(options, tolerant=True) as driver:
                for _ in range(3):
                    if driver.open():
                        break
                driver.close()
                self._expect_gone("a server that is away makes it leave open", lambda: _kinds(before))

    def test_no_thread_is_left_when_it_is_closed(self) -> None:
        """A reload may exchange it hundreds of times."""
        before = state.threads()
        with self._driver() as driver:
            driver.live(FakeHub().day())
        self._expect_gone(
            "close() leaves threads", lambda: sorted(t.name for t in state.threads() - before if t.is_alive())
        )

    def test_no_socket_or_file_is_left_when_it_is_closed(self) -> None:
        """Not even to the garbage collector: the sink is still there when that is looked at."""
        before = state.descriptors()
        with self._driver() as driver:
            driver.live(FakeHub().day())
            self._expect_gone("close() leaves open", lambda: _kinds(before))

    def test_it_is_quick(self) -> None:
        """Else events are dropped when many come."""
        with self._driver() as driver:
            driver.open()
            for hook, arguments in (event for _ in range(_ROUNDS) for event in FakeHub().day()):
                driver.tell(hook, arguments)
            driver.close()
        for hook, seconds in driver.seconds.items():
            if min(seconds) > self.budget:
                raise AssertionError(
                    f"{hook} takes {min(seconds):.2g} s, and may take {self.budget:g} s; collect, and send in flush()"
                )

    def test_it_takes_a_burst_before_it_is_flushed(self) -> None:
        """Of events that wait, up to 100 come before a flush."""
        with self._driver() as driver:
            driver.open()
            for hook, arguments in [event for _ in range(5) for event in FakeHub().day()]:
                driver.tell(hook, arguments, flush=False)
            driver.flush()
            driver.close()

    def test_it_prints_nothing(self) -> None:
        """Standard output belongs to the command that runs the hub, and may be read by a program."""
        with contextlib.redirect_stdout(io.StringIO()) as said, self._driver() as driver:
            driver.live(FakeHub().day())
        if said.getvalue():
            raise AssertionError(f"it prints {said.getvalue()[:60]!r} to standard output; use loguru's logger")

    def test_it_leaves_the_process_as_it_was(self) -> None:
        """Logging, signals, the environment: they belong to the program that the hub is part of."""
        before = state.shared_state()
        with self._driver() as driver:
            driver.live(FakeHub().day())
        if changed := state.differences(before, state.shared_state()):
            raise AssertionError(f"it has changed {' and '.join(changed)}, and close() has not put that back")

    def test_it_leaves_no_event_loop_set(self) -> None:
        """One that was set is found by whoever uses asyncio on that thread, and is closed or another's."""
        with self._driver() as driver:
            driver.live(FakeHub().day())
            found: list[bool] = []
            driver.do("the search for an event loop", lambda: found.append(_has_loop()))
        if any(found):
            raise AssertionError("an event loop is still set on the sink's thread; use asyncio.run()")

    def test_its_secrets_are_not_shown(self) -> None:
        """Not by repr(), its attributes, its errors, or its trace."""
        secrets = self._secrets()
        shown: dict[str, str] = {}
        with contextlib.redirect_stdout(io.StringIO()) as said:
            options = {**self.options, **dict.fromkeys(secrets.keys() - self.options.keys(), _CANARY)}
            with self._driver(options, tolerant=True) as driver:
                sink, traced = driver.sink, list[str]()
                shown |= _attributes(sink) | {"repr()": repr(sink), "str()": str(sink)}
                if hasattr(sink, "trace"):
                    sink.trace = traced.append
                driver.live(FakeHub().day())
                shown |= {f"{name} later": words for name, words in _attributes(sink).items()}
                shown |= {"where": repr(getattr(sink, "where", None)), "trace": "\n".join(map(str, traced))}
                shown |= {f"what it raises ({type(e).__name__})": f"{e} {e!r}" for e in driver.raised}
        shown["standard output"] = said.getvalue()
        for name, text in secrets.items():
            for place, words in shown.items():
                if text in words:
                    raise AssertionError(f"the secret {name} can be read in {place}; keep the Secret, reveal() it late")

    def test_a_server_that_never_answers_does_not_hold_it_for_ever(self) -> None:
        """It accepts connections, and that is all. The sink may raise, but must come back."""
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            self._about("with a server that never answers"),
            self._driver(self._options_for(silent), tolerant=True) as driver,
        ):
            driver.open()
            for hook, arguments in FakeHub().day():
                driver.tell(hook, arguments)
                if driver.raised:
                    break  # it has noticed; the further events would take as long each
            driver.close()

    @property
    def _class(self) -> Callable[..., object]:
        # Not of self: a function that makes sinks would become a method there.
        return type(self).sink_class

    @property
    def _name(self) -> str:
        return getattr(self._class, "__qualname__", repr(self._class))

    @property
    def _others(self) -> Mapping[str, Any]:
        return self.options if self.other_options is None else self.other_options

    def _arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        arguments, findings = check_options(self._class, options, Path())
        if findings:
            raise AssertionError("; ".join(f"option {'.'.join(map(str, f.keys))}: {f.message}" for f in findings))
        return arguments

    def _make(self, options: Mapping[str, Any] | None = None) -> object:
        return self._class(**self._arguments(self.options if options is None else options))

    def _driver(self, options: Mapping[str, Any] | None = None, *, tolerant: bool = False) -> Driver:
        return Driver(partial(self._make, options), self.patience, tolerant=tolerant)

    def _secrets(self) -> dict[str, str]:
        """The text of each option that is a secret, those that nobody gave too."""
        secrets = {name: s.reveal() for name, s in self._arguments(self.options).items() if isinstance(s, Secret)}
        for name in options_schema(self._class).get("properties", {}).keys() - self.options.keys():
            made, _ = check_options(self._class, {**self.options, name: _CANARY}, Path())
            if isinstance(made.get(name), Secret):
                secrets[name] = _CANARY
        return secrets

    @contextlib.contextmanager
    def _about(self, what: str) -> Iterator[None]:
        """Say in which case it failed."""
        try:
            yield
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from error

    def _options_for(self, server: socket.socket) -> Mapping[str, Any]:
        host, port = server.getsockname()
        if (options := self.options_for(host, port)) is None:
            pytest.skip("it sends to no TCP server; if it does, override options_for()")
        return options

    def _expect_gone(self, words: str, left: Callable[[], Collection[str]]) -> None:
        deadline = time.monotonic() + self.settle
        while what := left():
            if time.monotonic() > deadline:
                raise AssertionError(f"{words}: {', '.join(what)}")
            time.sleep(0.005)


def _odd_day(ctx: HubModelContext) -> Day:
    """A day, and what is rare: no pid, no exit code, nothing in the event but what must be."""
    last = None
    for hook, arguments in FakeHub(ctx).day():
        yield hook, arguments
        last = arguments["event"]
    assert last is not None
    bare = replace(last, seq=last.seq + 1, run_id=None, reason=None, detail=None, uptime_seconds=None)
    yield "model_started", {"ctx": ctx, "pid": None, "event": bare}
    yield "model_stopped", {"ctx": ctx, "exit_code": None, "event": bare}
    yield "model_failed", {"ctx": ctx, "exit_code": None, "event": replace(bare, reason=Reason.SPAWN_ERROR)}


def _loads(offer: EntryPoint, kind: object) -> bool:
    try:
        return bool(offer.load() is kind)
    except Exception:  # noqa: BLE001  # another sink of that package, which has its own test
        return False


def _kinds(before: Collection[tuple[str, int, int]]) -> list[str]:
    return sorted(f"a {kind}" for kind, *_ in state.descriptors() - set(before))


def _has_loop() -> bool:
    try:
        asyncio.get_event_loop()
    except RuntimeError:
        return False
    return True


def _attributes(sink: object) -> dict[str, str]:
    return {f"its attribute {name}": repr(value) for name, value in getattr(sink, "__dict__", {}).items()}
