"""What a hub answers. What is asked comes from snapshots, so no question waits for a model or a sink.

An error has the envelope of the OpenAI API: ``{"error": {"type": ..., "message": ..., "code": ...}}``.
"""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from mlxhub_core.control import INVALID_CONFIG, streams
from mlxhub_core.control.history import Entry, History
from mlxhub_core.errors import ConfigError, GroupFullError, HubError, HubStateError, UnknownModelError
from mlxhub_core.metrics.usage import memory_of
from mlxhub_core.observability import HubInfo, SinkStats
from mlxhub_core.states import ModelStatus
from mlxhub_core.targets import targets_of

if TYPE_CHECKING:
    from mlxhub_core.supervisor import Plan, ReloadResult

_CODES = {404: "not_found", 405: "method_not_allowed"}


class Hub(Protocol):
    """The part of `HubManager` that is used here, from any thread."""

    @property
    def config_path(self) -> Path:
        """Its hub.yaml."""
        ...

    def info(self) -> HubInfo:
        """The hub itself."""
        ...

    def get_status(self) -> Sequence[ModelStatus]:
        """Every model of hub.yaml."""
        ...

    def sink_stats(self) -> Sequence[SinkStats]:
        """Every sink that is on. Returns at once."""
        ...

    def start_model(self, name: str) -> None:
        """Start a model; returns when its process runs."""
        ...

    def stop_model(self, name: str) -> None:
        """Stop a model; returns when its process has ended."""
        ...

    def restart_model(self, name: str) -> None:
        """Stop a model if it runs and start it; returns when the new process runs."""
        ...

    def reset_model(self, name: str) -> None:
        """Forget that a model has failed."""
        ...

    def rotate_log(self, name: str) -> None:
        """Rotate the log of a model; returns when that is done."""
        ...

    def reload(self) -> ReloadResult:
        """Apply hub.yaml; returns when that is done."""
        ...

    def plan(self) -> Plan:
        """What `reload` would do."""
        ...

    def register(self, plugin: object) -> None:
        """Have an object's hooks called for each event."""
        ...

    def unregister(self, plugin: object) -> None:
        """End what `register` began."""
        ...


def make_app(hub: Hub, stop: Callable[[bool], object], history: History, log: Path | None = None) -> Starlette:
    """The routes of the control socket.

    Args:
        hub: answers.
        stop: called when somebody asks for the hub's end, with whether the models are to be kept; returns at once.
        history: of the hub.
        log: the file that the hub itself logs to, if it does.
    """
    config = str(hub.config_path.resolve())

    async def health(_request: Request) -> JSONResponse:
        return _Json({"status": "ok"})

    async def events(request: Request) -> StreamingResponse:
        query = request.query_params
        models, since = frozenset(query.getlist("model")), _epoch(query.get("since", "-inf"))
        _refuse_unknown(models)

        def wanted(entry: Entry) -> bool:
            return (not models or entry.model in models) and entry.event.time >= since

        position = history.seq_of(request.headers.get("last-event-id", ""))
        found = streams.events(history, position, wanted, follow=query.get("follow") != "false")
        return StreamingResponse(found, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    def _refuse_unknown(models: Iterable[str]) -> None:
        known = [model.name for model in hub.get_status()]
        for name in models:
            if name not in known and not history.knows(name):
                raise UnknownModelError(name, known)

    async def sinks(_request: Request) -> JSONResponse:
        return _Json({"sinks": [asdict(stats) for stats in hub.sink_stats()]})

    async def discovery(_request: Request) -> JSONResponse:
        found = [(stats.name, stats.where) for stats in hub.sink_stats()]
        return _Json(targets_of(found, config, socket.gethostname()))

    async def shutdown(request: Request) -> JSONResponse:
        stop(request.query_params.get("keep_models") == "true")
        return _Json({"status": "stopping"}, 202)

    # Those that are not `async` have a thread each, as they wait for models, or look at processes.

    def status(_request: Request) -> JSONResponse:
        found, info = hub.get_status(), hub.info()
        memory = memory_of(found)
        models = [{**asdict(model), "memory_bytes": memory.get(model.name)} for model in found]
        about = {"pid": os.getpid(), "version": info.version, "config": config, "started_at": info.started_at}
        return _Json({**about, "log": None if log is None else str(log), "models": models})

    def reload(request: Request) -> JSONResponse:
        if request.query_params.get("dry_run") == "true":
            return _Json(asdict(hub.plan()))
        result = hub.reload()
        failed = {name: str(error) for name, error in result.failed.items()}
        return _Json({**asdict(replace(result, failed={})), "failed": failed})

    def act(request: Request) -> JSONResponse:
        actions = {
            "start": hub.start_model,
            "stop": hub.stop_model,
            "restart": hub.restart_model,
            "reset": hub.reset_model,
            "log/rotate": hub.rotate_log,
        }
        action = request.path_params["action"]
        if action not in actions:
            raise HTTPException(404)
        actions[action](request.path_params["name"])
        return _Json({"status": "ok"})

    routes = [
        Route("/health", health),
        Route("/hub/status", status),
        Route("/hub/events", events),
        Route("/hub/sinks", sinks),
        Route("/hub/sd", discovery),
        Route("/hub/shutdown", shutdown, methods=["POST"]),
        Route("/hub/reload", reload, methods=["POST"]),
        Route("/hub/models/{name}/{action:path}", act, methods=["POST"]),
    ]
    handlers = {HTTPException: _refuse, HubError: _report, Exception: _own_up}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


def _epoch(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise HTTPException(400, "since must be in seconds since the epoch, as 1780000000.5")
    return seconds


class _Json(JSONResponse):
    """JSON in ASCII: what a sink says of its error, or the name of a file, need not be Unicode that can be encoded."""

    def render(self, content: object) -> bytes:
        return json.dumps(content).encode()


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        return _error(400, "invalid_request_error", error.detail, "bad_request")
    message = f"this hub has no {request.method} {request.url.path}; restart it if mlxhub is newer than it"
    code = _CODES.get(error.status_code, "bad_request")
    return _error(error.status_code, "invalid_request_error", message, code, error.headers)


async def _report(_request: Request, error: Exception) -> JSONResponse:
    """What the hub says to something that it cannot do."""
    if isinstance(error, UnknownModelError):
        return _error(404, "invalid_request_error", str(error), "model_not_found")
    if isinstance(error, GroupFullError):
        return _error(429, "invalid_request_error", str(error), "group_full")
    if isinstance(error, HubStateError):
        return _error(409, "invalid_request_error", str(error), "wrong_state")
    if isinstance(error, ConfigError):
        return _error(422, "invalid_request_error", str(error), INVALID_CONFIG)
    return _error(500, "server_error", str(error), "failed")


async def _own_up(_request: Request, error: Exception) -> JSONResponse:
    from loguru import logger

    logger.opt(exception=error).error("a bug in mlxhub; please report it with these lines")
    return _error(500, "server_error", "a bug in mlxhub; the log of the hub says more", "internal_error")


def _error(status: int, kind: str, message: str, code: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return _Json({"error": {"type": kind, "message": message, "code": code}}, status, headers)
