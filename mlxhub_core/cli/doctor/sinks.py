"""What the doctor knows of the sinks: whether they are installed, take their options, and reach whom they tell."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from mlxhub_core.cli.doctor.findings import Finding
from mlxhub_core.cli.doctor.hub import Situation
from mlxhub_core.errors import ConfigError
from mlxhub_core.place import same_hub
from mlxhub_core.runner import described
from mlxhub_core.selection import Selected, select

PATIENCE = 8.0
"""Seconds that a sink may take to open: longer than their own time limits are by default."""


def sinks(situation: Situation) -> Iterator[Finding]:
    """Whether each sink is there and works: as the hub that runs has seen it, or else it is opened and closed.

    A sink that has a method `check` is asked by that instead. It raises, or returns a few words.
    """
    settings = situation.settings
    if settings is None:
        return
    try:
        selection = select(settings, settings.sinks)
    except ConfigError as error:
        yield from (Finding("sinks", "fail", str(problem)) for problem in error.problems)
        return
    yield from (Finding("sinks", "warn", str(warning)) for warning in (*selection.warnings, *selection.deprecations))
    tried = [(sink, _tried(sink, situation)) for sink in selection.sinks]
    for sink, outcome in tried:
        try:
            error_or_words = outcome.get(timeout=PATIENCE)
        except queue.Empty:
            error_or_words = TimeoutError(f"it has not come back for {PATIENCE:g} s")
        yield _finding(sink, error_or_words, same_hub(situation.config))


def _finding(sink: Selected, outcome: BaseException | str, option: str) -> Finding:
    name = f"{sink.key} ({sink.offer})"
    if not isinstance(outcome, BaseException):
        return Finding("sinks", "ok", f"{name} {outcome}")
    # The hub runs all the same, and opens it again and again.
    message = f"{name} does not work now: {described(outcome)}; try it with `mlxhub sinks test{option} {sink.key}`"
    return Finding("sinks", "warn", message)


def _tried(selected: Selected, situation: Situation) -> queue.SimpleQueue[BaseException | str]:
    outcome: queue.SimpleQueue[BaseException | str] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcome.put(_try(selected, situation))
        except BaseException as error:  # noqa: BLE001  # a stranger's code, which may even call sys.exit()
            outcome.put(error)

    threading.Thread(target=work, name=f"doctor-{selected.key}", daemon=True).start()
    return outcome


def _try(selected: Selected, situation: Situation) -> str:
    """Some words. Raises what the sink raises."""
    counted = situation.sinks.get(selected.key)
    if counted is not None:
        if not counted["open"] or counted["stuck_seconds"] >= PATIENCE:
            raise ConnectionError(counted["last_error"] or "it is not open yet")
        return "is open in the hub that runs"
    sink = selected.sink
    if callable(check := getattr(sink, "check", None)):
        words = check()
        return words if isinstance(words, str) else "is well"
    if callable(getattr(sink, "open", None)):
        try:
            sink.open()  # type: ignore[attr-defined]
            where = getattr(sink, "where", None)
        finally:
            if callable(close := getattr(sink, "close", None)):
                close()
        return f"opens at {where}" if isinstance(where, str) else "opens"
    return "needs no connection"
