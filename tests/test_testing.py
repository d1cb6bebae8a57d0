"""What tests are made of: the recording sink, the clock that stands still, the path of the fake server."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mlxhub_core import HubEvent, HubModelContext, HubObservabilitySink
from mlxhub_core.hooks import hooks_of
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.testing import FAKE_SERVER, FakeClock, RecordingSink

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
