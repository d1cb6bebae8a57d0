"""What a hub answers. What is asked comes from snapshots, so no question waits for a model or a sink.

An error has the envelope of the OpenAI API: ``{"error": {"type": ..., "message": ..., "code": ...}}``.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mlxhub_core.control import INVALID_CONFIG, streams
from mlxhub_core.control.history import History
from mlxhub_core.control.operations import EVENTS, LINES, OPERATIONS, TEXT, Operation, QueryError, read_query
from mlxhub_core.errors import ConfigError, GroupFullError, HubError, HubStateError, LaunchError, UnknownModelError
from mlxhub_core.log_reader import LogReader, Mark
from mlxhub_core.metrics.usage import memory_of
from mlxhub_core.observability import HubInfo, SinkStats
from mlxhub_core.states import ModelStatus
from mlxhub_core.targets import targets_of

if TYPE_CHECKING:
    from mlxhub_core.settings import SettingsChange
    from mlxhub_core.supervisor import Plan, ReloadResult

Query = Mapping[str, Any]
"""The parameters of a query, checked: see `operations.read_query`."""
Handler = Callable[[Request, Query], Response | Awaitable[Response]]

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

    def heed_settings(self, change: SettingsChange | None) -> None:
        """Have this called at each reload; None: no more."""
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

    async def health(_request: Request, _query: Query) -> Response:
        return _Json({"status": "ok"})

    async def described(_request: Request, _query: Query) -> Response:
        # Imported when somebody asks, which is seldom.
        from mlxhub_core.control.openapi import document

        return _Json(document(hub.info().version))

    async def status(_request: Request, _query: Query) -> Response:
        found, info = hub.get_status(), hub.info()
        # On a thread, and not one of those that may all be waiting for models.
        memory = await asyncio.to_thread(memory_of, found)
        models = [{**asdict(model), "memory_bytes": memory.get(model.name)} for model in found]
        about = {
            "pid": os.getpid(),
            "version": info.version,
            "config": config,
            "started_at": info.started_at,
            "stopping": info.stopping,
        }
        return _Json({**about, "log": None if log is None else str(log), "models": models})

    async def events(request: Request, query: Query) -> Response:
        models, since = frozenset(query["model"]), query["since"]
        for name in models:
            if not history.knows(name):
                _model(name)
        position = history.seq_of(request.headers.get("last-event-id", ""))
        return _stream(streams.events(history, position, since, models, follow=query["follow"]), EVENTS)

    async def output(request: Request, query: Query) -> Response:
        model, lines = _model(request.path_params["name"]), query["lines"]
        begin, end = _run_of(model, query["from"])
        if lines is None and begin is None:
            lines = LINES

        def opened() -> LogReader:
            return LogReader(model.log_path, begin=begin, end=end, lines=lines)

        return _stream(streams.output(history, opened, follow=query["follow"]), TEXT)

    async def sinks(_request: Request, _query: Query) -> Response:
        return _Json({"sinks": [asdict(stats) for stats in hub.sink_stats()]})

    async def discovery(_request: Request, _query: Query) -> Response:
        found = [(stats.name, stats.where) for stats in hub.sink_stats()]
        return _Json(targets_of(found, config, socket.gethostname()))

    async def shutdown(_request: Request, query: Query) -> Response:
        stop(query["keep_models"])
        return _Json({"status": "stopping"}, 202)

    # Those that are not `async` have a thread each, as they wait for models.

    def reload(_request: Request, query: Query) -> Response:
        if query["dry_run"]:
            return _Json(asdict(hub.plan()))
        result = hub.reload()
        failed = {name: str(error) for name, error in result.failed.items()}
        return _Json({**asdict(replace(result, failed={})), "failed": failed})

    def acting(action: Callable[[str], object]) -> Handler:
        def act(request: Request, _query: Query) -> Response:
            action(request.path_params["name"])
            return _Json({"status": "ok"})

        return act

    def _model(name: str) -> ModelStatus:
        found = {model.name: model for model in hub.get_status()}
        if name not in found:
            raise UnknownModelError(name, found)
        return found[name]

    handlers: Mapping[str, Handler] = {
        "health": health,
        "document": described,
        "status": status,
        "sinks": sinks,
        "discovery": discovery,
        "events": events,
        "reload": reload,
        "shutdown": shutdown,
        "log": output,
        "start": acting(hub.start_model),
        "stop": acting(hub.stop_model),
        "restart": acting(hub.restart_model),
        "reset": acting(hub.reset_model),
        "rotate": acting(hub.rotate_log),
    }
    errors = {HTTPException: _refuse, QueryError: _correct, HubError: _report, Exception: _own_up}
    app = Starlette(routes=[_route(each, handlers[each.name]) for each in OPERATIONS], exception_handlers=errors)
    app.router.redirect_slashes = False
    return app


def _route(operation: Operation, handler: Handler) -> Route:
    """A route that checks the query before it asks the handler."""

    def in_a_thread(request: Request) -> Response:
        return cast(Response, handler(request, read_query(operation, request.query_params.multi_items())))

    async def in_the_loop(request: Request) -> Response:
        return await cast(Awaitable[Response], in_a_thread(request))

    endpoint = in_the_loop if inspect.iscoroutinefunction(handler) else in_a_thread
    route = Route(operation.path, endpoint, methods=[operation.method])
    # Starlette adds HEAD to GET, to which some answers would never end.
    route.methods = {operation.method}
    return route


def _run_of(model: ModelStatus, which: str | None) -> tuple[Mark | None, Mark | None]:
    """Where a run of a model begins and ends in its log. Raises HubStateError if it has had none."""
    current = _mark(model.log_begin, model.started_at)
    if which == "start":
        if current is None:
            raise HubStateError(f"{model.name}: this hub knows of no run of it yet; start it first")
        return current, None
    if which == "previous":
        previous = _mark(model.previous_log_begin, model.previous_started_at)
        if previous is None:
            raise HubStateError(f"{model.name}: this hub knows of no run before the current or last one")
        return previous, current
    return None, None


def _mark(byte: int | None, started_at: float | None) -> Mark | None:
    return None if byte is None or started_at is None else Mark(byte, started_at)


def _stream(content: AsyncIterator[bytes], kind: str) -> Response:
    # Whoever stands between may neither keep it nor wait for its end.
    return StreamingResponse(content, media_type=kind, headers={"Cache-Control": "no-store"})


class _Json(JSONResponse):
    """JSON in ASCII: what a sink says of its error, or the name of a file, need not be Unicode that can be encoded."""

    def render(self, content: object) -> bytes:
        return json.dumps(content).encode()


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # Not `request.url`: that is made with what the Host header says.
    path, allowed = request.scope["path"], (error.headers or {}).get("Allow")
    if allowed:
        message = f"{path} is for {allowed}, not for {request.method}"
    else:
        message = f"this hub has no {request.method} {path}; restart it if mlxhub is newer than it"
    code = _CODES.get(error.status_code, "bad_request")
    return error_response(error.status_code, message, code, error.headers)


async def _correct(_request: Request, error: Exception) -> Response:
    return error_response(400, str(error), "bad_request")


async def _report(_request: Request, error: Exception) -> Response:
    """What the hub says to something that it cannot do."""
    if isinstance(error, UnknownModelError):
        return error_response(404, str(error), "model_not_found")
    if isinstance(error, GroupFullError):
        return error_response(429, str(error), "group_full")
    if isinstance(error, LaunchError):
        return error_response(409, str(error), "launch_failed")
    if isinstance(error, HubStateError):
        return error_response(409, str(error), "wrong_state")
    if isinstance(error, ConfigError):
        return error_response(422, str(error), INVALID_CONFIG)
    return error_response(500, str(error), "failed")


async def _own_up(_request: Request, error: Exception) -> Response:
    from loguru import logger

    logger.opt(exception=error).error("a bug in mlxhub; please report it with these lines")
    return error_response(500, "a bug in mlxhub; the log of the hub says more", "internal_error")


def error_response(status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that something is wrong, in the envelope of the OpenAI API."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return _Json({"error": {"type": kind, "message": message, "code": code}}, status, headers)
