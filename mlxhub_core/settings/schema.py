"""What hub.yaml holds: every key, its type, its default, and in a line what it is. More is in docs/hub-yaml.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mlxhub_core.checking import STRICT
from mlxhub_core.errors import Problem
from mlxhub_core.restart import RestartRule
from mlxhub_core.settings.kinds import (
    MAX_SECONDS,
    AsOnly,
    AsPolicy,
    Count,
    ExpandablePath,
    FilledText,
    FlagValue,
    HookName,
    Host,
    LogLevel,
    NameElsewhere,
    NoneForOff,
    Port,
    RestartPolicy,
    Seconds,
    Size,
    Slug,
    UrlPath,
    VariableName,
    Word,
    Words,
)
from mlxhub_core.yaml_source import Keys, Source

DEFAULT_LOG_PATH = "~/mlx-openai-server/logs"
"""Where the seed's hub keeps its logs, so that those who move over find theirs."""
DEFAULT_HOST = "127.0.0.1"
DEFAULT_STARTING_PORT = 27850
"""Below every ephemeral range (Linux starts at 32768, macOS at 49152): probing a port on which nobody listens yet must
not connect to itself, as a client's own port could be that one."""

MIN_LOG_BYTES = 65_536
"""A log that is rotated more often would be all rotation."""

_RULE = RestartRule()


class RotationSettings(BaseModel):
    """When a model's log is rotated, and what becomes of the rotated ones."""

    model_config = STRICT

    max_bytes: Annotated[Size, Field(ge=MIN_LOG_BYTES, description="its length when it is rotated, as 50MB")] = (
        50_000_000
    )
    backups: Annotated[int, Field(ge=1, le=1000, description="how many rotated logs of each model are kept")] = 5
    compress: Annotated[bool, Field(description="whether they are compressed")] = True


class ControlSettings(BaseModel):
    """Where the hub can be asked over TCP, beside its Unix socket, and the file with the token that this takes."""

    model_config = STRICT

    host: Annotated[Host, Field(description="the address to listen on")] = DEFAULT_HOST
    port: Annotated[Port, Field(description="the port to listen on")]
    token_file: Annotated[
        ExpandablePath, Field(description="the file with the token, which only you may read; made if it is not there")
    ]


class GroupSettings(BaseModel):
    """A group of models, and how many of them may run at once (`max_loaded`; None: all)."""

    model_config = STRICT

    name: Annotated[Slug, Field(description="as a model's")]
    max_loaded: Annotated[
        Count | None, Field(description="how many models of the group may run at once; default: all")
    ] = None


class HealthSettings(BaseModel):
    """How a model is asked whether it can serve, and for how long it may not.

    `mlx_lm server` is asked for one token until it gives one, then now and then on its own health path; other servers
    for HTTP 200 on `path`. A model that was ready is unhealthy after `failures` questions in a row without an answer
    within `timeout` seconds, asked every `interval` seconds. One that is not ready after `startup_timeout` seconds is
    unhealthy too, but goes on for as long as it makes progress.
    """

    model_config = STRICT

    path: Annotated[UrlPath, Field(description="only for a `command`: it is well when this path answers 200")] = (
        "/health"
    )
    interval: Annotated[
        float,
        Field(ge=0.1, le=MAX_SECONDS, description="seconds from an answer to the next question, once it is ready"),
    ] = 30.0
    timeout: Annotated[Seconds, Field(description="seconds to wait for an answer")] = 5.0
    startup_timeout: Annotated[Seconds, Field(description="seconds in which it should become ready")] = 600.0
    failures: Annotated[
        int, Field(ge=1, le=1000, description="after so many questions in a row without an answer it is unhealthy")
    ] = 3


class RestartSettings(BaseModel):
    """Whether and when a model is started again that has ended; see `restart.RestartRule`."""

    model_config = STRICT

    policy: Annotated[RestartPolicy, Field(description="whether it is started again when it has ended")] = "on-failure"
    delay: Annotated[float, Field(ge=0, le=MAX_SECONDS, description="seconds until the first restart")] = _RULE.delay
    max_delay: Annotated[Seconds, Field(description="seconds; no delay is longer, but for `jitter`")] = _RULE.max_delay
    factor: Annotated[float, Field(ge=1, le=100, description="each further delay is so many times longer")] = (
        _RULE.factor
    )
    jitter: Annotated[
        float, Field(ge=0, le=1, description="each delay is at random up to this part shorter or longer")
    ] = _RULE.jitter
    reset_after: Annotated[
        Seconds, Field(description="after so many seconds in which it was ready, the delays start over")
    ] = _RULE.reset_after
    max_failures: Annotated[int, Field(ge=1, description="after so many failures within `window` the hub gives up")] = (
        _RULE.max_failures
    )
    window: Annotated[Seconds, Field(description="seconds")] = _RULE.window

    @property
    def rule(self) -> RestartRule:
        """All but the policy."""
        return RestartRule(**self.model_dump(exclude={"policy"}))


class MemorySettings(BaseModel):
    """The memory that must be available before a model is started, in bytes; None: it is not looked at."""

    model_config = STRICT

    required: Annotated[Size | None, Field(description="memory that must be available before a start, as 8GB")] = None


class ModelSettings(BaseModel):
    """One entry of `models:`."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["model_path"]}, {"required": ["command"]}]}
    )

    name: Annotated[Slug, Field(description="also the name of its log")]
    model_path: Annotated[FilledText | None, Field(description="a directory, or a name on the Hugging Face hub")] = None
    default: Annotated[bool, Field(description="starts with the hub; others are started on demand")] = False
    group: Annotated[Slug | None, Field(description="a label that goes with every event, or one of `groups:`")] = None
    port: Annotated[Port | None, Field(description="the port to listen on; default: a free one")] = None
    restart: Annotated[
        RestartSettings, *AsPolicy, Field(description="whether and when it is started again when it has ended")
    ] = RestartSettings()
    stop_timeout: Annotated[Seconds, Field(description="seconds from SIGTERM to SIGKILL")] = 30.0
    options: Annotated[
        dict[str, FlagValue], Field(description="flags of `mlx_lm server` without dashes, as max-tokens: 512")
    ] = {}
    args: Annotated[list[Word], Field(description="further words for its command line, verbatim")] = []
    python: Annotated[
        FilledText | None, Field(description="another interpreter that has mlx-lm; default: the hub's")
    ] = None
    command: Annotated[
        Words | None, Field(description="instead of `mlx_lm server`: the program and its arguments; no shell")
    ] = None
    health: Annotated[
        HealthSettings | None, *NoneForOff, Field(description="how it is asked whether it can answer; off: not at all")
    ] = HealthSettings()
    memory: Annotated[MemorySettings, Field(description="what it needs to start")] = MemorySettings()
    env: Annotated[dict[VariableName, Word], Field(repr=False, description="environment variables to add")] = {}
    working_directory: Annotated[
        FilledText | None, Field(description="where the process starts; default: where hub.yaml is")
    ] = None

    @property
    def wants_port(self) -> bool:
        """Whether the hub must find it a port: a server of mlx-lm always; a command that has a place for one."""
        if self.command is None:
            return True
        return any("{port}" in text for text in (*self.command, *self.env.values()))


class OnlySettings(BaseModel):
    """Which events a sink gets: those of these hooks, about these models or about models of these groups. Empty: all."""

    model_config = STRICT

    events: Annotated[list[HookName], Field(min_length=1, description="the events it gets; default: all")] = []
    models: Annotated[
        list[NameElsewhere], Field(min_length=1, description="of these models, or of `groups`; default: all")
    ] = []
    groups: Annotated[
        list[NameElsewhere], Field(min_length=1, description="of models of these groups, or of `models`; default: all")
    ] = []


class DeliverySettings(BaseModel):
    """How events reach one sink: `queue` of them may wait; `required: false` lets the hub run without the sink."""

    model_config = STRICT

    queue: Annotated[int, Field(ge=1, le=100_000, description="events that may wait for it")] = 1024
    when_full: Annotated[
        Literal["drop_oldest", "drop_newest"], Field(description="which event goes when one more comes")
    ] = "drop_oldest"
    only: Annotated[OnlySettings, *AsOnly, Field(description="which events it gets")] = OnlySettings()
    required: Annotated[
        bool, Field(description="false: if it is missing or its options are wrong, the hub runs without it")
    ] = True


class HubFile(BaseModel):
    """The top level of hub.yaml; models, groups and sinks are checked one by one, so that each tells all its mistakes."""

    model_config = STRICT

    log_path: Annotated[ExpandablePath, Field(validate_default=True, description="directory of the models' logs")] = (
        DEFAULT_LOG_PATH
    )
    log_rotation: Annotated[
        RotationSettings | None,
        *NoneForOff,
        Field(description="when their logs are rotated; off: only when somebody asks for it"),
    ] = RotationSettings()
    log_level: Annotated[LogLevel, Field(description="of the hub's own messages")] = "INFO"
    control: Annotated[
        ControlSettings | None,
        *NoneForOff,
        Field(description="where the hub can be asked over TCP; default: nowhere, only over its Unix socket"),
    ] = None
    host: Annotated[Host, Field(description="the address all models listen on")] = DEFAULT_HOST
    model_starting_port: Annotated[
        int, Field(ge=1024, le=65535, description="models without a `port` get the free ports from here on")
    ] = DEFAULT_STARTING_PORT
    models: Annotated[list[Any], Field(min_length=1, description="the models")]
    groups: Annotated[list[Any], Field(description="groups of models")] = []
    sinks: Annotated[dict[str, Any], Field(description="who is told; each key is a sink type, or type/instance")] = {}


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
        log_rotation: of the logs; None: only on request.
        log_level: of the hub's own messages, in Loguru's words.
        control: where it can be asked over TCP, the path of the token file absolute; None: nowhere.
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
    log_rotation: RotationSettings | None
    log_level: str
    control: ControlSettings | None
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

    @property
    def secret_variables(self) -> frozenset[str]:
        """The environment variables that sinks have their secrets from, as ``{env: NAME}``. Models need none of them."""
        return frozenset(_variables_in([sink.options for sink in self.sinks]))


def _variables_in(options: object) -> Iterator[str]:
    match options:
        case {"env": str(name), **rest} if not rest:
            yield name
        case Mapping():
            yield from _variables_in(list(options.values()))
        case list():
            for option in options:
                yield from _variables_in(option)


SettingsChange = Callable[[HubSettings], AbstractContextManager[Callable[[], None]]]
"""Something of a hub that heeds hub.yaml. Called with new settings before anything is changed by them, it prepares what
it has to, or raises HubError. In the context that it returns they are put in force: what that gives does its own part of
it, and cannot fail.
"""
