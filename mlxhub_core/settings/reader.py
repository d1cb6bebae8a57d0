"""From the text of hub.yaml to `HubSettings`, or to every mistake in it at once."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from mlxhub_core.checking import Finding, check
from mlxhub_core.errors import ConfigError, HubError, Problem
from mlxhub_core.settings import crosscheck, seed_keys
from mlxhub_core.settings.schema import (
    ControlSettings,
    DeliverySettings,
    GroupSettings,
    HubFile,
    HubSettings,
    ModelSettings,
    SinkSettings,
)
from mlxhub_core.token_file import read_token
from mlxhub_core.yaml_source import Keys, Source

M = TypeVar("M", bound=BaseModel)

_SECTIONS = ("restart", "health", "memory")
"""The keys of a model that hold keys of ours."""

_SINK_KEY = re.compile(
    r"(?:(?P<distribution>[A-Za-z0-9][A-Za-z0-9._-]*):)?(?P<type>[A-Za-z][A-Za-z0-9._-]*)(?:/(?P<instance>[A-Za-z0-9_-]+))?"
)

NO_SINKS = "MLXHUB_NO_SINKS"
"""The environment variable with which the hub runs without any sink of hub.yaml: for when one is in the way."""


SinksCheck = Callable[[Source, Path, Sequence[SinkSettings]], Iterable[Problem]]
"""Says what is wrong with sinks of a hub.yaml, given also where they stand in it and its directory."""


def load_settings(path: Path | str, check_sinks: SinksCheck | None = None) -> HubSettings:
    """Read and check hub.yaml. Nothing is created or started.

    Args:
        path: the file.
        check_sinks: asked about its sinks if anything else is wrong with it, so that all is told at once; default:
            what only a sink itself knows, as which options it takes, is not looked at.

    Raises:
        ConfigError: with every mistake in the file.
    """
    try:
        path = Path(path).expanduser().absolute()
    except RuntimeError:
        message = "begins with a ~ for which this machine knows no home directory; write the whole path"
        raise ConfigError([Problem(str(path), "", message)]) from None
    return _Reader(path, Source.read(path), check_sinks).read()


def resolve(base: Path, text: str) -> Path:
    """A path from hub.yaml: `~` expanded, a relative one taken from the directory of hub.yaml."""
    return (base / Path(text).expanduser()).absolute()


class _Reader:
    """Reads one file and collects what is wrong with it."""

    def __init__(self, path: Path, source: Source, check_sinks: SinksCheck | None) -> None:
        self._path = path
        self._source = source
        self._check_sinks = check_sinks
        self._problems = list(source.problems)
        self._warnings: list[Problem] = []

    def read(self) -> HubSettings:
        raw = self._source.value
        if not isinstance(raw, dict):
            what = "is empty" if raw is None else "must be a mapping of keys to values"
            raise ConfigError([self._source.problem((), f"{what}; `mlxhub init OTHER.yaml` writes one to start from")])
        raw = self._written((), raw, seed_keys.HUB_KEYS)
        if _without_sinks():
            self._warn(("sinks",), f"all are off, because {NO_SINKS} is set in the environment")
            # What stands there is not looked at: a mistake in it must not be in the way either.
            raw["sinks"] = {"loguru": False}
        for key in ("log_rotation", "control"):
            if isinstance(raw.get(key), dict):
                raw[key] = self._written((key,), raw[key], {})
        top = self._checked(HubFile, (), raw)
        models = [self._model(index, entry) for index, entry in crosscheck.entries(raw, "models")]
        groups = [self._checked(GroupSettings, ("groups", i), entry) for i, entry in crosscheck.entries(raw, "groups")]
        sinks = list(self._sinks(raw.get("sinks")))
        self._blame((), crosscheck.between_entries(raw))
        control = self._control(top.control) if top and top.control else None
        if top is None or self._problems:
            if self._check_sinks is not None:
                self._problems += self._check_sinks(self._source, self._path.parent, sinks)
            raise ConfigError(sorted(dict.fromkeys(self._problems), key=self._source.position))
        self._warn_if_exposed(top)
        return HubSettings(
            path=self._path,
            log_path=resolve(self._path.parent, top.log_path),
            log_rotation=top.log_rotation,
            log_level=top.log_level,
            control=control,
            host=top.host,
            model_starting_port=top.model_starting_port,
            models=tuple(model for model in models if model),
            groups={group.name: group for group in groups if group},
            sinks=tuple(sinks),
            warnings=tuple(sorted(self._warnings, key=self._source.position)),
            source=self._source,
        )

    def _blame(self, base: Keys, findings: Iterator[Finding] | list[Finding]) -> None:
        self._problems += [self._source.problem((*base, *finding.keys), finding.message) for finding in findings]

    def _warn(self, keys: Keys, message: str) -> None:
        self._warnings.append(self._source.problem(keys, message))

    def _checked(self, model: type[M], keys: Keys, raw: Any) -> M | None:
        value, findings = check(model, raw)
        self._blame(keys, findings)
        return value

    def _written(self, base: Keys, raw: Mapping[str, Any], foreign: Mapping[str, str]) -> dict[str, Any]:
        """The keys that say something: without those with nothing after them, and without the seed's own."""
        for key in raw:
            if key in foreign:
                self._warn((*base, key), f"is not used; {foreign[key]}")
        return {key: value for key, value in raw.items() if value is not None and key not in foreign}

    def _model(self, index: int, raw: Any) -> ModelSettings | None:
        keys: Keys = ("models", index)
        if isinstance(raw, dict):
            raw = self._written(keys, raw, seed_keys.MODEL_KEYS)
            for key in _SECTIONS:
                if isinstance(raw.get(key), dict):
                    raw[key] = self._written((*keys, key), raw[key], {})
            self._blame(keys, crosscheck.within_model(raw))
        return self._checked(ModelSettings, keys, raw)

    def _sinks(self, raw: Any) -> Iterator[SinkSettings]:
        entries = raw if isinstance(raw, dict) else {}
        matches = {key: _SINK_KEY.fullmatch(str(key)) for key in entries}
        # An instance beside it, as `loguru/x`, leaves it on.
        if not any(match and match["type"] == "loguru" and not match["instance"] for match in matches.values()):
            yield SinkSettings("loguru", "loguru")
        for key, match in matches.items():
            # What is no text the schema complains about.
            if isinstance(key, str) and (entry := self._sink(key, match, entries[key])):
                yield entry

    def _sink(self, key: str, match: re.Match[str] | None, value: Any) -> SinkSettings | None:
        keys: Keys = ("sinks", key)
        if match is None:
            message = "must be a sink type, as statsd, or type/instance, as statsd/eu"
            self._blame(keys, [Finding((), message)])
            return None
        if not (value is None or isinstance(value, bool | dict)):
            self._blame(keys, [Finding((), "must be a mapping of the sink's options, or on, or off")])
            return None
        if value is False:
            return None
        options = dict(value) if isinstance(value, dict) else {}
        delivery = self._delivery(keys, options.pop("delivery", None))
        return SinkSettings(key, match["type"], match["distribution"], options, delivery, keys)

    def _delivery(self, keys: Keys, raw: Any) -> DeliverySettings:
        if raw is None:
            return DeliverySettings()
        if isinstance(raw, dict):
            raw = self._written((*keys, "delivery"), raw, {})
            if isinstance(raw.get("only"), dict):
                raw["only"] = self._written((*keys, "delivery", "only"), raw["only"], {})
        return self._checked(DeliverySettings, (*keys, "delivery"), raw) or DeliverySettings()

    def _control(self, written: ControlSettings) -> ControlSettings:
        path = resolve(self._path.parent, written.token_file)
        try:
            read_token(path)
        except FileNotFoundError:
            pass  # It is made when the hub listens.
        except HubError as error:
            self._blame(("control", "token_file"), [Finding((), str(error))])
        if not _is_loopback(written.host):
            self._warn(("control", "host"), "lets others on the network see the token as it passes by; use a tunnel")
        return written.model_copy(update={"token_file": str(path)})

    def _warn_if_exposed(self, top: HubFile) -> None:
        if not _is_loopback(top.host):
            self._warn(("host",), "lets others on the network use the models, which ask for no password")


def _without_sinks() -> bool:
    return os.environ.get(NO_SINKS, "") not in ("", "0")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
