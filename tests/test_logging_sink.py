"""The sink that writes to Loguru: what it binds, how loud it is, and whose handlers it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from loguru import logger

from mlxhub_core import HubEvent, HubModelContext, LoggingHubObservabilitySink, Reason
from mlxhub_core.hooks import hooks_of
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.sinks.loguru_sink import LoguruSink

if TYPE_CHECKING:
    from loguru import Message, Record

CTX = HubModelContext("qwen3-4b", "chat", "/logs/qwen3-4b.log")
ALONE = HubModelContext("{name} <red>%s", None, "/logs/{}.log")
"""A model without a group, with a name that a careless formatter would read as its own."""


AWKWARD = "no answer to '{0} <blue>' within 5 s"
"""A sentence with what a careless formatter would read as its own."""


def envelope(**fields: Any) -> HubEvent:
    return HubEvent(seq=1, id="id", time=0.0, **fields)


@pytest.fixture
def records() -> Iterator[list[Record]]:
    """Every Loguru record, by a handler that is ours and removed afterwards."""
    kept: list[Record] = []

    def keep(message: Message) -> None:
        kept.append(message.record)

    handler = logger.add(keep, level=0, format="{message}", catch=False)
    yield kept
    logger.remove(handler)


def told(sink: object, hook: str, **arguments: Any) -> None:
    """Call a hook as the hub does."""
    known = dict.fromkeys(HOOKS[hook]) | {"event": envelope()} | arguments
    hooks_of(sink)[hook](known)


CALLS: dict[str, tuple[dict[str, Any], str, str, dict[str, Any]]] = {
    "model_started": ({"pid": 42}, "INFO", "{} started (pid 42)", {"hub_pid": 42}),
    "model_adopted": ({"pid": 42}, "INFO", "{} was found running (pid 42), and goes on", {"hub_pid": 42}),
    "model_log_failing": (
        {"reason": AWKWARD},
        "WARNING",
        f"{{}}: the log {AWKWARD}; what the model writes meanwhile is lost",
        {"hub_detail": AWKWARD},
    ),
    "model_log_recovered": (
        {"lost_bytes": 512},
        "INFO",
        "{}: the log is written again; 512 bytes of this run are missing",
        {"hub_lost_bytes": 512},
    ),
    "model_ready": (
        {"startup_seconds": 1.26},
        "INFO",
        "{} is ready after 1.3 s",
        {"hub_startup_seconds": 1.26},
    ),
    "model_unhealthy": (
        {"reason": AWKWARD, "event": envelope(reason=Reason.STARTUP_TIMEOUT)},
        "WARNING",
        f"{{}} is unhealthy: {AWKWARD}",
        {"hub_reason": "startup_timeout", "hub_detail": AWKWARD},
    ),
    "model_recovered": (
        {"unhealthy_seconds": 61.26},
        "INFO",
        "{} answers again after 61.3 s",
        {"hub_unhealthy_seconds": 61.26},
    ),
    "model_stopped": ({"exit_code": 0}, "INFO", "{} stopped (exit code 0)", {"hub_exit_code": 0}),
    "model_failed": (
        {"exit_code": 3, "event": envelope(reason=Reason.UNHEALTHY, detail=AWKWARD, log_tail=("last", "words"))},
        "WARNING",
        f"{{}} failed (exit code 3; {AWKWARD}); its output is in [log]",
        {"hub_exit_code": 3, "hub_reason": "unhealthy", "hub_detail": AWKWARD, "hub_log_tail": ("last", "words")},
    ),
    "model_restarting": (
        {"attempt": 2, "delay_seconds": 0.5},
        "WARNING",
        "{} restarts in 0.5 s (attempt 2)",
        {"hub_attempt": 2, "hub_delay_seconds": 0.5},
    ),
    "model_gave_up": (
        {"failures": 5},
        "ERROR",
        "{} ended 5 times; it stays down until somebody starts it",
        {"hub_failures": 5},
    ),
}


def test_every_hook_about_a_model_is_logged() -> None:
    assert set(CALLS) == {hook for hook in HOOKS if hook.startswith("model_")}
    assert set(CALLS) | {"config_reloaded", "events_lost"} == set(hooks_of(LoggingHubObservabilitySink()))


@pytest.mark.parametrize("ctx", [CTX, ALONE], ids=["in-a-group", "alone-with-an-awkward-name"])
@pytest.mark.parametrize("hook", CALLS)
def test_each_record_has_its_model_group_and_log_bound_and_the_level_and_words_of_its_hook(
    records: list[Record], hook: str, ctx: HubModelContext
) -> None:
    arguments, level, message, extra = CALLS[hook]
    told(LoggingHubObservabilitySink(), hook, ctx=ctx, **arguments)
    (record,) = records
    assert record["level"].name == level
    assert record["message"] == message.replace("{}", ctx.name, 1).replace("[log]", ctx.log_path)
    bound = {"hub_model": ctx.name, "hub_group": ctx.group, "hub_log_path": ctx.log_path, "hub_event": hook}
    assert record["extra"] == bound | extra


@pytest.mark.parametrize(
    ("hook", "arguments", "words"),
    [
        ("model_failed", {"exit_code": -9, "event": envelope(signal="SIGKILL")}, "failed (SIGKILL)"),
        ("model_failed", {"exit_code": -9}, "failed (signal 9)"),
        ("model_failed", {"exit_code": None, "event": envelope(detail="no such file: x")}, "failed (no such file: x)"),
        ("model_failed", {"exit_code": None}, "failed (no exit code)"),
        (
            "model_failed",
            {"exit_code": -9, "event": envelope(signal="SIGKILL", detail="[metal::malloc] x: out of memory")},
            "failed (SIGKILL; [metal::malloc] x: out of memory); its output is in /logs/qwen3-4b.log",
        ),
        (
            "model_failed",
            {"exit_code": -9, "event": envelope(signal="SIGKILL", detail="no answer within 5 s", forced=True)},
            "failed (SIGKILL; no answer within 5 s); the hub had to kill it; its output is in /logs/",
        ),
        ("model_failed", {"exit_code": 0, "event": envelope(detail="no answer")}, "failed (exit code 0; no answer); "),
        ("model_stopped", {"exit_code": -15, "event": envelope(signal="SIGTERM")}, "stopped (SIGTERM)"),
        (
            "model_stopped",
            {"exit_code": -9, "event": envelope(signal="SIGKILL", forced=True)},
            "stopped (SIGKILL); the hub had to kill it",
        ),
    ],
    ids=[
        *("signal", "nameless-signal", "no-process", "nothing-known", "why", "forced-by-the-hub", "deaf-but-polite"),
        *("asked-to-stop", "forced-to-stop"),
    ],
)
def test_the_end_of_a_process_is_told_in_words(
    records: list[Record], hook: str, arguments: dict[str, Any], words: str
) -> None:
    told(LoggingHubObservabilitySink(), hook, ctx=CTX, **arguments)
    assert records[0]["message"].startswith(f"qwen3-4b {words}")


def test_a_process_that_never_was_left_no_output(records: list[Record]) -> None:
    told(LoggingHubObservabilitySink(), "model_failed", ctx=CTX, exit_code=None, event=envelope(detail="no memory"))
    assert records[0]["message"] == "qwen3-4b failed (no memory)"


def test_why_is_bound_as_a_word_for_machines_and_as_a_sentence_for_people(records: list[Record]) -> None:
    sink = LoggingHubObservabilitySink()
    event = envelope(reason=Reason.UNHEALTHY, detail="deaf")
    told(sink, "model_unhealthy", ctx=CTX, reason="deaf", event=event)
    told(sink, "model_failed", ctx=CTX, exit_code=-15, event=event)
    told(sink, "model_failed", ctx=CTX, exit_code=3)
    bound = [(record["extra"]["hub_reason"], record["extra"]["hub_detail"]) for record in records]
    assert bound == [("unhealthy", "deaf"), ("unhealthy", "deaf"), (None, None)]


def test_a_reload_is_told_with_the_names_of_the_models(records: list[Record]) -> None:
    sink = LoggingHubObservabilitySink()
    told(sink, "config_reloaded", started=("a", "b"), stopped=(), unchanged=("c",))
    (record,) = records
    assert record["level"].name == "INFO"
    assert record["message"] == "hub.yaml applied: started a, b, stopped none, unchanged c"
    assert record["extra"] == {"hub_event": "config_reloaded"}


def test_lost_events_are_a_warning(records: list[Record]) -> None:
    told(LoggingHubObservabilitySink(), "events_lost", count=7)
    (record,) = records
    assert (record["level"].name, record["message"]) == ("WARNING", "7 events were dropped before this line")


@pytest.mark.parametrize(
    "call",
    [
        lambda sink: sink.model_started(CTX, pid=42),
        lambda sink: sink.model_stopped(CTX, exit_code=0),
        lambda sink: sink.model_failed(CTX, exit_code=3),
        lambda sink: sink.model_unhealthy(CTX, reason="no answer"),
    ],
    ids=["model_started", "model_stopped", "model_failed", "model_unhealthy"],
)
def test_it_may_be_called_as_the_protocol_of_the_seed_has_it(
    records: list[Record], call: Callable[[LoggingHubObservabilitySink], None]
) -> None:
    call(LoggingHubObservabilitySink())
    assert records[0]["extra"]["hub_model"] == "qwen3-4b"


def test_the_logger_it_is_given_keeps_what_was_bound_to_it(records: list[Record]) -> None:
    LoggingHubObservabilitySink(logger.bind(service="hub")).model_started(CTX, pid=1)
    extra = records[0]["extra"]
    assert (extra["service"], extra["hub_model"]) == ("hub", "qwen3-4b")


def test_what_it_binds_does_not_stick_to_the_logger_of_others(records: list[Record]) -> None:
    LoggingHubObservabilitySink().model_started(CTX, pid=1)
    logger.info("somebody else's line")
    assert records[1]["extra"] == {}


def test_no_handler_is_added_or_removed(records: list[Record]) -> None:
    def handlers() -> list[int]:
        return list(logger._core.handlers)  # type: ignore[attr-defined]

    before = handlers()
    for sink in (LoggingHubObservabilitySink(), LoguruSink()):
        for hook, (arguments, *_) in CALLS.items():
            told(sink, hook, ctx=CTX, **arguments)
    assert handlers() == before
    assert len(records) == 2 * len(CALLS)


def test_the_sink_of_hub_yaml_is_the_one_of_the_library_without_options(records: list[Record]) -> None:
    sink = LoguruSink()
    assert isinstance(sink, LoggingHubObservabilitySink)
    sink.model_started(CTX, pid=1)
    assert records[0]["extra"]["hub_model"] == "qwen3-4b"


def test_loguru_is_imported_only_by_those_who_make_the_sink() -> None:
    program = "import sys, mlxhub_core.observability, mlxhub_core.sinks.loguru_sink; sys.exit('loguru' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0
