"""What hub.yaml holds: every key, its type and its default. What each means is told in docs/hub-yaml.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from mlxhub_core.checking import STRICT, refusal
from mlxhub_core.errors import Problem, did_you_mean, listed
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.restart import RestartRule
from mlxhub_core.yaml_source import Keys, Source

DEFAULT_LOG_PATH = "~/mlx-openai-server/logs"
"""Where the seed's hub keeps its logs, so that those who move over find theirs."""
DEFAULT_HOST = "127.0.0.1"
DEFAULT_STARTING_PORT = 27850
"""Below every ephemeral range (Linux starts at 32768, macOS at 49152): probing a port on which nobody listens yet must
not connect to itself, as a client's own port could be that one."""
MAX_NAME = 100
"""Characters in a name: it becomes a file name, a metric label and part of a StatsD path."""
MAX_SECONDS = 86_400
"""A day. Longer waits are slips of the keyboard."""
MAX_SIZE = 1000 * 1000**4
"""Bytes: 1000TB. No machine has so much memory; TB for GB is soon written."""

_SLUG = re.compile(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9._:%-]*")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT])(i?)B", re.IGNORECASE | re.ASCII)
_URL_PATH = re.compile(r"/[!-~]*")
_RULE = RestartRule()


def _slug(text: str) -> str:
    if len(text) > MAX_NAME:
        raise refusal(f"must be at most {MAX_NAME} characters long")
    if not _SLUG.fullmatch(text):
        raise refusal("must be letters and digits, with single - or _ between them, as qwen3-4b")
    return text


def _host(text: str) -> str:
    # An IPv6 address has more colons than the one before a port.
    if not _HOST.fullmatch(text) or text.count(":") == 1:
        raise refusal("must be an address or a host name, without a port, as 127.0.0.1")
    return text


def _variable(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        raise refusal("must be the name of an environment variable, as HF_HUB_OFFLINE, with `: ` after it")
    return text


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise refusal("must not hold a NUL character")
    return text


def _expandable(text: str) -> str:
    try:
        Path(text).expanduser()
    except RuntimeError:
        raise refusal("begins with a ~ for which this machine knows no home directory; write the whole path") from None
    return text


def _url_path(text: str) -> str:
    if not _URL_PATH.fullmatch(text):
        raise refusal("must begin with / and hold no spaces, as /health")
    return text


def _number_as_text(value: Any) -> Any:
    # `--port, 8080` in a list and `OMP_NUM_THREADS: 4` are what people write; 1.10 would lose its zero, so it stays an error.
    return str(value) if type(value) is int else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _none_for_off(value: Any) -> Any:
    # YAML reads `off` as false.
    if value is False:
        return None
    if not isinstance(value, dict | BaseModel):
        raise refusal("must be a mapping of keys to values, as {interval: 30}, or off")
    return value


def _as_policy(value: Any) -> Any:
    # `restart: on-failure` is short for a mapping with nothing else in it.
    return value if isinstance(value, dict | BaseModel) else {"policy": value}


def _as_only(value: Any) -> Any:
    # `only: [model_failed]` is short for a mapping with nothing else in it.
    return {"events": value} if isinstance(value, list) else value


def _hook_name(text: str) -> str:
    if text not in HOOKS:
        raise refusal(f"no event is called {text!r}{did_you_mean(text, HOOKS)} (known: {listed(HOOKS)})")
    return text


def _size(value: Any) -> int:
    """Bytes."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:  # A number alone would be bytes, which nobody means.
        raise refusal("must be a size with its unit, as 8GB or 512MiB")
    number, unit, binary = match.groups()
    size = int(Decimal(number) * (1024 if binary else 1000) ** ("KMGT".index(unit.upper()) + 1))
    if size > MAX_SIZE:
        raise refusal("must be at most 1000TB; look at its unit")
    return size


def _flag_value(value: Any) -> Any:
    if isinstance(value, list):
        raise refusal("must be one value, not a list; write it as the flag wants it, in quotes")
    return _no_nul(value) if isinstance(value, str) else value


Slug = Annotated[str, AfterValidator(_slug)]
Port = Annotated[int, Field(ge=1, le=65535)]
Host = Annotated[str, AfterValidator(_host)]
HookName = Annotated[str, AfterValidator(_hook_name)]
VariableName = Annotated[str, AfterValidator(_variable)]
Text = Annotated[str, AfterValidator(_no_nul)]
FilledText = Annotated[str, Field(min_length=1), AfterValidator(_no_nul)]
Word = Annotated[Text, BeforeValidator(_number_as_text)]
FlagValue = Annotated[Any, AfterValidator(_flag_value)]
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
RestartPolicy = Literal["never", "on-failure", "always"]
LogLevel = Annotated[
    Literal["TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
]


class GroupSettings(BaseModel):
    """A group of models, and how many of them may run at once (`max_loaded`; None: all)."""

    model_config = STRICT

    name: Slug
    max_loaded: Annotated[int, Field(ge=1)] | None = None


class HealthSettings(BaseModel):
    """How a model is asked whether it can serve, and for how long it may not.

    `mlx_lm server` is asked for one token until it gives one, then now and then on its own health path; other servers
    for HTTP 200 on `path`. A model that was ready is unhealthy after `failures` questions in a row without an answer
    within `timeout` seconds, asked every `interval` seconds. One that is not ready after `startup_timeout` seconds is
    unhealthy too, but goes on for as long as it makes progress.
    """

    model_config = STRICT

    path: Annotated[str, AfterValidator(_url_path)] = "/health"
    interval: Annotated[float, Field(ge=0.1, le=MAX_SECONDS)] = 30.0
    timeout: Seconds = 5.0
    startup_timeout: Seconds = 600.0
    failures: Annotated[int, Field(ge=1, le=1000)] = 3


class RestartSettings(BaseModel):
    """Whether and when a model is started again that has ended; see `restart.RestartRule`."""

    model_config = STRICT

    policy: RestartPolicy = "on-failure"
    delay: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = _RULE.delay
    max_delay: Seconds = _RULE.max_delay
    factor: Annotated[float, Field(ge=1, le=100)] = _RULE.factor
    jitter: Annotated[float, Field(ge=0, le=1)] = _RULE.jitter
    reset_after: Seconds = _RULE.reset_after
    max_failures: Annotated[int, Field(ge=1)] = _RULE.max_failures
    window: Seconds = _RULE.window

    @property
    def rule(self) -> RestartRule:
        """All but the policy."""
        return RestartRule(**self.model_dump(exclude={"policy"}))


class MemorySettings(BaseModel):
    """The memory that must be available before a model is started, in bytes; None: it is not looked at."""

    model_config = STRICT

    required: Size | None = None


class ModelSettings(BaseModel):
    """One entry of `models:`."""

    model_config = STRICT

    name: Slug
    model_path: FilledText | None = None
    default: bool = False
    group: Slug | None = None
    port: Port | None = None
    restart: Annotated[RestartSettings, BeforeValidator(_as_policy)] = RestartSettings()
    stop_timeout: Seconds = 30.0
    options: dict[str, FlagValue] = {}
    args: list[Word] = []
    python: FilledText | None = None
    command: Annotated[list[Word], Field(min_length=1)] | None = None
    health: Annotated[HealthSettings | None, BeforeValidator(_none_for_off)] = HealthSettings()
    memory: MemorySettings = MemorySettings()
    env: Annotated[dict[VariableName, Word], Field(repr=False)] = {}
    working_directory: FilledText | None = None

    @property
    def wants_port(self) -> bool:
        """Whether the hub must find it a port: a server of mlx-lm always; a command that has a place for one."""
        if self.command is None:
            return True
        return any("{port}" in text for text in (*self.command, *self.env.values()))


class OnlySettings(BaseModel):
    """Which events a sink gets: those of these hooks, about these models or about models of these groups. Empty: all."""

    model_config = STRICT

    events: Annotated[list[HookName], Field(min_length=1)] = []
    models: Annotated[list[Slug], Field(min_length=1)] = []
    groups: Annotated[list[Slug], Field(min_length=1)] = []


class DeliverySettings(BaseModel):
    """How events reach one sink: `queue` of them may wait; `required: false` lets the hub run without the sink."""

    model_config = STRICT

    queue: Annotated[int, Field(ge=1, le=100_000)] = 1024
    when_full: Literal["drop_oldest", "drop_newest"] = "drop_oldest"
    only: Annotated[OnlySettings, BeforeValidator(_as_only)] = OnlySettings()
    required: bool = True


class HubFile(BaseModel):
    """The top level of hub.yaml; models, groups and sinks are checked one by one, so that each tells all its mistakes."""

    model_config = STRICT

    log_path: Annotated[FilledText, AfterValidator(_expandable), Field(validate_default=True)] = DEFAULT_LOG_PATH
    log_level: LogLevel = "INFO"
    host: Host = DEFAULT_HOST
    model_starting_port: Annotated[int, Field(ge=1024, le=65535)] = DEFAULT_STARTING_PORT
    models: Annotated[list[Any], Field(min_length=1)]
    groups: list[Any] = []
    sinks: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class SinkSettings:
    """One entry of `sinks:`.

    Attributes:
        key: as written, ``statsd/eu``.
        type: the sink type that a package registers, ``statsd``.
        distribution: the package it must come from, or None for whichever offers it.
        options: what the sink's own parameters are to be. Not shown: there may be secrets among them.
        delivery: how events reach it.
        keys: where it stands in hub.yaml.
    """

    key: str
    type: str
    distribution: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    keys: Keys = ()


@dataclass(frozen=True, slots=True)
class HubSettings:
    """All of hub.yaml.

    Attributes:
        path: the file, absolute.
        log_path: the directory of the logs, `~` expanded, absolute.
        log_level: of the hub's own messages, in Loguru's words.
        host: the address that models are told to listen on.
        model_starting_port: where the search for free ports begins.
        models: in the order of the file.
        groups: by name; empty when the file has no `groups:`, and then any name is a mere label.
        sinks: those that are on, Loguru's among them unless it is off.
        warnings: what works but deserves a word.
        source: to tell where in the file something stands.
    """

    path: Path
    log_path: Path
    log_level: str
    host: str
    model_starting_port: int
    models: tuple[ModelSettings, ...]
    groups: Mapping[str, GroupSettings]
    sinks: tuple[SinkSettings, ...]
    warnings: tuple[Problem, ...]
    source: Source

    @property
    def directory(self) -> Path:
        """The directory of hub.yaml: relative paths in it start there."""
        return self.path.parent
