"""What the hub knows, in plain words: of a failure, a state, an event.

It comes as the JSON of the control socket. `events.Reason` and `states.ModelState` are not imported for it, which would
cost `mlxhub status` a tenth of its time: they are plain text here, and tests see that none is forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mlxhub_core.cli.common import span
from mlxhub_core.exits import signal_name

Fields = Mapping[str, Any]

REASONS = {
    "hub_start": "it starts with the hub",
    "hub_shutdown": "the hub shut down",
    "operator": "somebody asked for it",
    "reload": "hub.yaml was applied",
    "restart": "the hub starts it again by its `restart` rule",
    "exit": "it ended by itself with exit code 0",
    "crash": "it ended by itself with an error",
    "signal": "a signal ended it that the hub did not send",
    "spawn_error": "its process could not be started",
    "startup_timeout": "it was not ready in time",
    "unhealthy": "it no longer answered",
    "unsupervised": "its keeper was killed",
    "suspected_oom": "memory seems to have run out",
}


def failure_in_words(failure: Fields) -> str:
    """How a model failed once, briefly: ``exit code 3 after 0.2 s``."""
    code, detail = failure["exit_code"], failure["detail"]
    if code is None:
        return detail or reason_in_words(failure["reason"])
    end = signal_name(code) or f"exit code {code}"
    return f"{end} after {seconds(failure['uptime_seconds'])}" + (f"; {detail}" if detail else "")


def what_next(model: Fields) -> str:
    """What the hub does after a failure, to be put behind other words; nothing if that is nothing to speak of."""
    if model["state"] == "failed":
        return "; the hub does not try again"
    if model["state"] == "backoff" and model["restart_at"] is not None:
        left = model["restart_at"] - time.time()
        return f"; the hub tries again in {left:.1f} s" if left > 0 else "; the hub tries again"
    return "; the hub has started it again" if model["pid"] is not None else ""


def reason_in_words(reason: str) -> str:
    """Why something happened: one of `Reason` in words, or the sentence that it is."""
    return REASONS.get(reason, reason)


def state_in_words(model: Fields, option: str = "") -> str | None:
    """What there is to say about a model that does not run as it should, with the next step; None if nothing is.

    Args:
        model: its status.
        option: what to add to commands so that they are about the same hub.
    """
    name, state, reason, failure = model["name"], model["state"], model["reason"], model["last_failure"]
    if state == "ready" or reason is None:
        return None
    said = reason_in_words(reason)
    if state in ("backoff", "failed") and failure is not None and reason != "exit":
        said = failure_in_words(failure)
    match state:
        case "backoff" | "failed" | "unhealthy":
            return f"{said}; `mlxhub explain{option} {name}` says more"
        case "stopped" if reason == "operator":
            return f"stopped; `mlxhub start-model{option} {name}` starts it"
    return None if state == "starting" and said != reason else said


def event_in_words(event: Fields) -> str:
    """What happened, without when and to which model: ``ready after 3.2 s``."""
    about: Fields = event.get("event") or {}
    match event["hook"]:
        case "model_started":
            return f"started (pid {event.get('pid')}){_because(about)}"
        case "model_adopted":
            return f"found running (pid {event.get('pid')}), and goes on"
        case "model_ready":
            return f"ready after {event['startup_seconds']:.1f} s"
        case "model_unhealthy":
            return f"unhealthy: {event['reason']}"
        case "model_recovered":
            return about.get("detail") or f"answers again after {event['unhealthy_seconds']:.1f} s"
        case "model_stopped":
            return f"stopped ({end_in_words(event)}){_uptime(about)}{_because(about)}"
        case "model_failed":
            return f"failed ({end_in_words(event)}){_uptime(about)}"
        case "model_restarting":
            return f"restarts in {event['delay_seconds']:.1f} s (attempt {event['attempt']})"
        case "model_gave_up":
            return f"ended {event['failures']} times; stays down until somebody starts it"
        case "model_log_failing":
            return f"its log {event['reason']}; what it writes meanwhile is lost"
        case "model_log_recovered":
            return f"its log is written again; {event['lost_bytes']} bytes of this run are missing"
        case "config_reloaded":
            return "hub.yaml applied: " + ", ".join(
                f"{verb} {', '.join(event[verb]) or 'none'}" for verb in ("started", "stopped", "unchanged")
            )
        case "hub_started":
            return f"the hub started (pid {event['hub']['pid']}, mlxhub {event['hub']['version']})"
        case "events_lost":
            return f"{event['count']} events before this line are no longer known"
        case "hub_stopping":
            return "the hub begins to shut down"
        case hook:  # of a hub that is newer than this command
            return str(hook).replace("_", " ")


def end_in_words(event: Fields) -> str:
    """How a process ended, briefly: ``exit code 3``, ``SIGKILL``; and more, if it is known."""
    about: Fields = event.get("event") or {}
    code, detail = event.get("exit_code"), about.get("detail")
    forced = "; the hub had to kill it" if about.get("forced") else ""
    if code is None:
        return (detail or "no exit code") + forced
    end = signal_name(code) or f"exit code {code}"
    return (f"{end}; {detail}" if detail else end) + forced


def _because(about: Fields) -> str:
    reason = about.get("reason")
    return f": {reason_in_words(reason)}" if reason and reason != "exit" else ""


def _uptime(about: Fields) -> str:
    uptime = about.get("uptime_seconds")
    return "" if uptime is None else f" after {seconds(uptime)}"


def seconds(count: float) -> str:
    """A time span, as `0.2 s` or, from a minute on, `1m40s`."""
    return f"{count:.1f} s" if count < 60 else span(count)
