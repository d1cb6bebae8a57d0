"""What may be asked of a hub: every operation, declared once. The app reads questions by it, the document tells of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from mlxhub_core.errors import did_you_mean, listed
from mlxhub_core.observability import SinkStats
from mlxhub_core.states import ModelStatus
from mlxhub_core.supervisor.plan import Plan

MAX_LINES = 100_000
"""Of a log, at once. More is better read from the file."""
LINES = 100
"""Lines of a log, if nobody says how many, nor of which run."""
TEXT = "text/plain"
EVENTS = "text/event-stream"


class QueryError(Exception):
    """Something in the query of a request is not what it should be; the text says what, and what it should be."""


# What is answered. The rest of it are the values of the hub itself.


@dataclass(frozen=True, slots=True)
class Health:
    """That it answers."""

    status: Literal["ok"]


@dataclass(frozen=True, slots=True)
class Done:
    """That it is done."""

    status: Literal["ok"]


@dataclass(frozen=True, slots=True)
class Stopping:
    """That the hub has begun to end."""

    status: Literal["stopping"]


@dataclass(frozen=True, slots=True)
class ModelReport(ModelStatus):
    """What the hub knows about one model, and the memory that it has now.

    Attributes:
        memory_bytes: of the process and all others of its session; None: it has none, or the system does not say.
    """

    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class HubStatus:
    """The hub and its models.

    Attributes:
        pid: of the hub.
        version: of mlxhub-core.
        config: its hub.yaml.
        started_at: when it started, in seconds since the epoch.
        stopping: whether it is about to end.
        log: the file that the hub itself logs to, or None.
        models: in the order of hub.yaml.
    """

    pid: int
    version: str
    config: str
    started_at: float
    stopping: bool
    log: str | None
    models: list[ModelReport]


@dataclass(frozen=True, slots=True)
class Sinks:
    """The sinks that are on."""

    sinks: list[SinkStats]


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """Where Prometheus finds metrics, in the form of its HTTP service discovery."""

    targets: list[str]
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did, by the names of models. A restarted one is in both `started` and `stopped`.

    Attributes:
        started: models whose process was started.
        stopped: models whose process was ended.
        unchanged: models that are as they were.
        failed: models that should have started, and what kept them from it.
    """

    started: list[str]
    stopped: list[str]
    unchanged: list[str]
    failed: dict[str, str]


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """What is wrong.

    Attributes:
        type: ``invalid_request_error``, or ``server_error``.
        message: for people: what is wrong, and what to do.
        code: for programs.
    """

    type: str
    message: str
    code: str


@dataclass(frozen=True, slots=True)
class Error:
    """An error, in the envelope of the OpenAI API."""

    error: ErrorDetail


# What may be asked.


def _flag(value: Any) -> Any:
    if value not in ("true", "false"):
        raise PydanticCustomError("flag", "must be true or false")
    return value == "true"


Flag = Annotated[bool, BeforeValidator(_flag)]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a query.

    Attributes:
        name: as in the query.
        type: what it is read as.
        about: what it is, for people.
        default: when it is not given.
        many: whether it may be given more than once; its value is a list then.
    """

    name: str
    type: Any
    about: str
    default: Any = None
    many: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One question.

    Attributes:
        name: of the operation.
        route: method and path.
        about: what it does, in a line.
        answer: what the answer is: a type, of which there is JSON; or the type of its content.
        status: of the answer.
        parameters: of its query.
        headers: what headers it heeds, and what they are for.
        errors: what else it may answer than what any may: the status, and when.
    """

    name: str
    route: str
    about: str
    answer: Any
    status: int = 200
    parameters: tuple[Parameter, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """As ``GET``."""
        return self.route.partition(" ")[0]

    @property
    def path(self) -> str:
        """As ``/hub/models/{name}/start``."""
        return self.route.partition(" ")[2]


UNKNOWN = "hub.yaml has no such model; the message has the nearest name"
WRONG_STATE = "the hub, or the model, is in a state in which that cannot be done"
FULL = "the group of the model runs as many as it may; the message says which"
INVALID = "hub.yaml has mistakes, and all goes on as before"
NO_START = f"{WRONG_STATE}; or its process cannot be started (`launch_failed`); the message says why"
COMMON: Mapping[int, str] = {
    400: "something in the request is not as it should be",
    401: "over TCP: the token is missing, or another",
    403: "over TCP: the `Host` header is not an address of the listener, as of a page that a browser was lured to",
    500: "something in the hub, or on its machine, has failed",
}
"""What any operation may answer."""

OPERATIONS: Sequence[Operation] = (
    Operation("health", "GET /health", "Whether the hub answers.", Health),
    Operation("document", "GET /openapi.json", "This document.", dict[str, Any]),
    Operation("status", "GET /hub/status", "The hub and its models, as they are now.", HubStatus),
    Operation("sinks", "GET /hub/sinks", "What became of the events of each sink.", Sinks),
    Operation("discovery", "GET /hub/sd", "Where Prometheus finds the metrics of this hub.", list[TargetGroup]),
    Operation(
        "events",
        "GET /hub/events",
        "What has happened lately, and then what happens, as server-sent events; each has an `Event` as its data.",
        EVENTS,
        parameters=(
            Parameter(
                "since",
                Annotated[float, Field(allow_inf_nan=False)],
                "not what happened before then, in seconds since the epoch",
            ),
            Parameter("model", str, "only what is about this model", many=True),
            Parameter("follow", Flag, "false: end after what is known", default=True),
        ),
        headers={"Last-Event-ID": "the id of the last event that is known: only what came after it"},
        errors={404: UNKNOWN},
    ),
    Operation(
        "reload",
        "POST /hub/reload",
        "Apply hub.yaml.",
        Reloaded | Plan,
        parameters=(Parameter("dry_run", Flag, "only say what would be done, and why", default=False),),
        errors={409: WRONG_STATE, 422: INVALID},
    ),
    Operation(
        "shutdown",
        "POST /hub/shutdown",
        "End the hub.",
        Stopping,
        status=202,
        parameters=(Parameter("keep_models", Flag, "leave the models running, for the next hub", default=False),),
    ),
    Operation(
        "log",
        "GET /hub/models/{name}/log",
        "The log of a model, byte for byte, through its rotations.",
        TEXT,
        parameters=(
            Parameter(
                "lines",
                Annotated[int, Field(ge=0, le=MAX_LINES)],
                f"only the last so many lines; default: {LINES}, or with `from` all",
            ),
            Parameter("from", Literal["start", "previous"], "only the current or last run, or only the one before"),
            Parameter("follow", Flag, "go on with what is written, as it comes", default=False),
        ),
        errors={404: UNKNOWN, 409: "the hub knows of no such run"},
    ),
    Operation(
        "start",
        "POST /hub/models/{name}/start",
        "Start a model; answered when its process runs.",
        Done,
        errors={404: UNKNOWN, 409: NO_START, 429: FULL},
    ),
    Operation(
        "stop",
        "POST /hub/models/{name}/stop",
        "Stop a model; answered when its process has ended.",
        Done,
        errors={404: UNKNOWN, 409: WRONG_STATE},
    ),
    Operation(
        "restart",
        "POST /hub/models/{name}/restart",
        "Stop a model if it runs, and start it; answered when the new process runs.",
        Done,
        errors={404: UNKNOWN, 409: NO_START, 429: FULL},
    ),
    Operation(
        "reset",
        "POST /hub/models/{name}/reset",
        "Forget that a model has failed: one that was given up is stopped again.",
        Done,
        errors={404: UNKNOWN, 409: WRONG_STATE},
    ),
    Operation(
        "rotate",
        "POST /hub/models/{name}/log/rotate",
        "Rotate the log of a model; answered when that is done.",
        Done,
        errors={404: UNKNOWN, 409: WRONG_STATE},
    ),
)
"""All of them."""


def read_query(operation: Operation, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The parameters of a query, checked, with their defaults.

    Raises:
        QueryError: there is one that the operation does not have, or that is not what it should be.
    """
    known = {parameter.name: parameter for parameter in operation.parameters}
    found: dict[str, Any] = {name: [] if each.many else each.default for name, each in known.items()}
    told: set[str] = set()
    for name, text in pairs:
        if name not in known:
            raise QueryError(
                f"no such parameter: {name}{did_you_mean(name, known)}; {operation.route} has {listed(known)}"
            )
        if known[name].many:
            found[name].append(_read(known[name], text))
        elif name in told:
            raise QueryError(f"{name} is given twice; keep one")
        else:
            found[name] = _read(known[name], text)
        told.add(name)
    return found


def _read(parameter: Parameter, text: str) -> Any:
    try:
        return TypeAdapter(parameter.type).validate_python(text)
    except ValidationError as error:
        raise QueryError(f"{parameter.name}: {error.errors()[0]['msg'].lower()}") from None
