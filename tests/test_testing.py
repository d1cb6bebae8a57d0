"""What tests are made of: the recording sink, the clock that stands still, the path of the fake server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mlxhub_core import HubEvent, HubModelContext, HubObservabilitySink, Reason, testing
from mlxhub_core.discovery import scan
from mlxhub_core.hooks import hooks_of
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.selection import load
from mlxhub_core.testing import FAKE_SERVER, FakeClock, FakeHub, RecordingSink, fake_hub, strategies, tmp_dist

SINK_DOC = (Path(__file__).parent.parent / "docs" / "writing-a-sink.md").read_text(encoding="utf-8")

T = TypeVar("T")
ENVELOPE = HubEvent(seq=1, id="id", time=0.0)


def tell(sink: RecordingSink, hook: str, model: str | None = "m", **arguments: Any) -> None:
    """Call a hook as the hub does."""
    ctx = HubModelContext(model, None, "log") if model else None
    known = dict.fromkeys(HOOKS[hook]) | {"event": ENVELOPE} | ({"ctx": ctx} if "ctx" in HOOKS[hook] else {})
    hooks_of(sink)[hook](known | arguments)


def test_the_recording_sink_is_a_sink_with_every_hook() -> None:
    assert set(hooks_of(RecordingSink())) == set(HOOKS)
    assert isinstance(RecordingSink(), HubObservabilitySink)


@pytest.mark.parametrize("hook", HOOKS)
def test_it_keeps_all_arguments_of_each_hook(hook: str) -> None:
    sink = RecordingSink()
    arguments = {name: object() for name in HOOKS[hook]}
    hooks_of(sink)[hook](arguments)
    (event,) = sink.events
    assert (event.hook, event.arguments) == (hook, arguments)


def test_two_of_them_do_not_share_their_events() -> None:
    one, other = RecordingSink(), RecordingSink()
    tell(one, "model_ready")
    assert (len(one.events), len(other.events)) == (1, 0)


def test_its_events_know_their_model_and_their_envelope() -> None:
    sink = RecordingSink()
    tell(sink, "model_ready", "m")
    tell(sink, "hub_stopping", None)
    assert [event.model for event in sink.events] == ["m", None]
    assert [event.event for event in sink.events] == [ENVELOPE, ENVELOPE]


def test_the_list_of_events_is_a_copy() -> None:
    sink = RecordingSink()
    sink.events.append("mine")  # type: ignore[arg-type]
    assert sink.events == []


def test_the_events_of_one_model_are_told_apart_and_in_order() -> None:
    sink = RecordingSink()
    tell(sink, "model_started", "a")
    tell(sink, "model_started", "b")
    tell(sink, "model_failed", "a", exit_code=3)
    tell(sink, "hub_stopping", None)
    tell(sink, "model_started", "a")
    assert sink.hooks_of("a") == ["model_started", "model_failed", "model_started"]
    assert [event.hook for event in sink.of("a", "model_failed", "model_ready")] == ["model_failed"]
    assert sink.of("a", "model_failed")[0].arguments["exit_code"] == 3
    assert sink.hooks_of("c") == []


def test_to_wait_for_what_has_come_is_to_get_it_at_once() -> None:
    sink = RecordingSink()
    for model, code in (("a", 1), ("b", 2), ("a", 3)):
        tell(sink, "model_failed", model, exit_code=code)
    assert sink.wait_for("model_failed", timeout=0).arguments["exit_code"] == 1
    assert sink.wait_for("model_failed", count=2, timeout=0).arguments["exit_code"] == 2
    assert sink.wait_for("model_failed", "a", count=2, timeout=0).arguments["exit_code"] == 3


def test_a_wait_ends_when_the_event_comes_from_another_thread() -> None:
    class Announcing(threading.Condition):
        """Says when somebody waits."""

        waited_for = threading.Event()

        def wait(self, timeout: float | None = None) -> bool:
            self.waited_for.set()
            return super().wait(timeout)

    def later() -> None:
        Announcing.waited_for.wait(10)
        tell(sink, "model_ready", "other")
        tell(sink, "model_ready", "m")

    sink = RecordingSink()
    sink._arrived = Announcing()
    thread = threading.Thread(target=later)
    thread.start()
    begun = time.monotonic()
    assert sink.wait_for("model_ready", "m", timeout=10).model == "m"
    assert time.monotonic() - begun < 5
    thread.join()


def test_a_wait_in_vain_tells_what_came_instead() -> None:
    sink = RecordingSink()
    tell(sink, "model_failed", "a")
    tell(sink, "hub_stopping", None)
    with pytest.raises(AssertionError) as caught:
        sink.wait_for("model_ready", "a", count=2, timeout=0.01)
    assert str(caught.value) == (
        "no model_ready number 2 for a within 0.01 s; seen: ['model_failed(a)', 'hub_stopping()']"
    )


class Keeping:
    """Keeps what it is called with, and on which thread."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.threads: set[threading.Thread] = set()

    def _called(self, what: str) -> None:
        self.calls.append(what)
        self.threads.add(threading.current_thread())

    def open(self) -> None:
        self._called("open")

    def model_failed(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
        self._called(f"{ctx.name} {exit_code}")

    def flush(self) -> None:
        self._called("flush")

    def close(self) -> None:
        self._called("close")


def test_a_fake_hub_opens_a_sink_tells_it_a_day_and_closes_it_on_one_thread() -> None:
    sink = Keeping()
    told = fake_hub(sink)
    name = FakeHub().ctx.name
    assert sink.calls == ["open", f"{name} -9", "flush", f"{name} 3", "flush", "flush", "close"]
    assert [event.hook for event in told] == [hook for hook, _ in FakeHub().day()]
    (thread,) = sink.threads
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_a_fake_hub_tells_what_it_is_given() -> None:
    day = [("model_failed", {"ctx": HubModelContext("m", None, "log"), "exit_code": 7, "event": ENVELOPE})]
    sink = Keeping()
    assert [(event.model, event.event) for event in fake_hub(sink, day)] == [("m", ENVELOPE)]
    assert "m 7" in sink.calls


def test_a_fake_hub_does_not_bear_what_a_hub_would() -> None:
    class Raising(Keeping):
        def model_failed(self, ctx: HubModelContext, *, exit_code: int | None) -> None:
            raise OSError("no route")

    with pytest.raises(AssertionError, match="model_failed raised OSError: no route"):
        fake_hub(Raising())


def test_a_package_is_installed_for_as_long_as_a_test_lasts(tmp_path: Path) -> None:
    module = "class Acme:\n    def model_failed(self, ctx): ...\n"
    with tmp_dist(tmp_path, "acme-sinks", {"acme": "acme_of_a_test:Acme"}, {"acme_of_a_test": module}, version="2.1"):
        (offer,) = [offer for offer in scan().offers if offer.type == "acme"]
        assert str(offer) == "acme-sinks 2.1"
        assert list(hooks_of(load(offer)())) == ["model_failed"]
        assert "acme_of_a_test" in sys.modules
    assert "acme" not in [offer.type for offer in scan().offers]
    assert "acme_of_a_test" not in sys.modules
    assert not [entry for entry in sys.path if str(tmp_path) in entry]


def test_another_process_finds_that_package_too(tmp_path: Path) -> None:
    program = "from mlxhub_core.discovery import scan; print([offer.type for offer in scan().offers])"
    with tmp_dist(tmp_path, "acme-sinks", {"acme": "nowhere:Acme"}) as site:
        env = {**os.environ, "PYTHONPATH": str(site)}
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert "'acme'" in done.stdout


def test_two_packages_may_be_there_at_once_and_one_of_the_same_name_again_afterwards(tmp_path: Path) -> None:
    with tmp_dist(tmp_path, "one", {"acme": "a:A"}), tmp_dist(tmp_path, "two", {"acme": "b:B"}):
        assert [offer.distribution for offer in scan().offers if offer.type == "acme"] == ["one", "two"]
    with tmp_dist(tmp_path / "again", "one", {"acme": "a:A"}):
        assert [offer.distribution for offer in scan().offers if offer.type == "acme"] == ["one"]


@settings(max_examples=100, deadline=None)
@given(strategies.told())
def test_every_event_that_is_drawn_is_one_that_a_hub_could_tell(told: strategies.Told) -> None:
    hook, arguments = told
    assert tuple(arguments) == HOOKS[hook]
    event = arguments["event"]
    assert isinstance(event, HubEvent)
    code = arguments.get("exit_code")
    if hook == "model_failed":
        assert code != 0
    assert (event.signal is not None) == (code is not None and code < 0)
    if event.signal and code is not None:
        assert signal.Signals[event.signal] == -code
    if event.forced:
        assert event.signal == "SIGKILL"
    if event.log_tail or event.uptime_seconds is not None:
        assert hook in ("model_stopped", "model_failed")
    if event.restart_in is not None or event.first_failure is not None:
        assert hook == "model_failed"


def drawn(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """So many of them, the same ones each time."""
    found: list[T] = []

    @settings(max_examples=count, phases=[Phase.generate], derandomize=True, database=None)
    @given(strategy)
    def keep(one: T) -> None:
        found.append(one)

    keep()
    return found


def test_what_is_drawn_has_every_reason_and_what_is_rare() -> None:
    contexts = drawn(strategies.contexts(), 50)
    assert any(ctx.group is None and not ctx.name.isascii() for ctx in contexts)
    assert any(ctx.group for ctx in contexts)
    assert {event.reason for event in drawn(strategies.events(), 150)} == {None, *Reason}
    failed = [told for _, told in drawn(strategies.told(None, "model_failed"), 100)]
    assert any(told["exit_code"] is None for told in failed)
    assert any(told["event"].forced for told in failed)
    assert any(told["event"].first_failure and told["event"].restart_in is not None for told in failed)


@pytest.mark.parametrize("hook", HOOKS)
def test_who_wants_events_of_one_hook_gets_no_other(hook: str) -> None:
    @settings(max_examples=3, derandomize=True, database=None)
    @given(strategies.told(None, hook))
    def check(told: strategies.Told) -> None:
        assert told[0] == hook

    check()


@settings(max_examples=50, deadline=None)
@given(strategies.days())
def test_a_day_that_is_drawn_can_be_told_to_a_sink(day: Sequence[strategies.Told]) -> None:
    sink = RecordingSink()
    assert fake_hub(sink, day) == sink.events
    assert sink.events[0].hook == "hub_started"
    assert [event.event.seq for event in sink.events] == list(range(len(day)))


@settings(max_examples=50, deadline=None)
@given(strategies.contexts(st.just("only")))
def test_models_may_be_given_the_names_to_choose_from(ctx: HubModelContext) -> None:
    assert (ctx.name, ctx.log_path) == ("only", "logs/only.log")


@pytest.mark.parametrize("name", testing.__all__)
def test_every_name_of_the_kit_is_there_and_documented(name: str) -> None:
    assert getattr(testing, name) is not None
    assert name in SINK_DOC


@pytest.mark.parametrize("module", ["hypothesis", "pytest"])
def test_the_kit_is_imported_without_what_only_a_part_of_it_needs(module: str) -> None:
    program = f"""
import sys
from mlxhub_core.testing import FakeHub, RecordingSink, fake_hub, tmp_dist
fake_hub(RecordingSink())
sys.exit({module!r} in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0


def test_the_clock_moves_only_when_it_is_told() -> None:
    clock = FakeClock(5.0)
    assert (clock(), clock()) == (5.0, 5.0)
    clock.advance(1.5)
    assert (clock(), clock.now) == (6.5, 6.5)


def test_the_fake_server_is_where_it_is_said_to_be_and_runs_alone() -> None:
    assert Path(FAKE_SERVER).is_file()
    run = subprocess.run(
        [sys.executable, "-I", "-S", FAKE_SERVER, "--help"], capture_output=True, timeout=30, check=False
    )
    assert run.returncode == 0, run.stderr


def test_nothing_that_runs_a_hub_imports_the_kit() -> None:
    program = """
import sys
import mlxhub_core.cli, mlxhub_core.cli.start, mlxhub_core.manager
sys.exit(any(name.startswith("mlxhub_core.testing") for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0
