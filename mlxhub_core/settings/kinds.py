"""The kinds of values in hub.yaml: what each may be, and how a JSON schema says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from mlxhub_core.checking import refusal
from mlxhub_core.errors import did_you_mean, listed
from mlxhub_core.hookspecs import HOOKS

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
        raise refusal("must be a mapping of keys to values, or off")
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


@dataclass(frozen=True, slots=True, eq=False)
class Also:
    """For the JSON schema: what is taken as well, because a validator makes the real thing of it."""

    schema: Mapping[str, Any]

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [dict(self.schema), handler(core)]}


def _pattern(regex: re.Pattern[str], **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{regex.pattern}$", **more})


Level = Literal["TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL"]

Slug = Annotated[str, AfterValidator(_slug), _pattern(_SLUG, maxLength=MAX_NAME)]
NameElsewhere = Annotated[str, _pattern(_SLUG, maxLength=MAX_NAME)]
"""A name that stands elsewhere in the file. That it does is checked, so its letters need not be."""
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Host = Annotated[str, AfterValidator(_host), _pattern(_HOST)]
HookName = Annotated[str, AfterValidator(_hook_name), WithJsonSchema({"enum": list(HOOKS)})]
VariableName = Annotated[str, AfterValidator(_variable)]
Text = Annotated[str, AfterValidator(_no_nul)]
FilledText = Annotated[str, Field(min_length=1), AfterValidator(_no_nul)]
ExpandablePath = Annotated[FilledText, AfterValidator(_expandable)]
UrlPath = Annotated[str, AfterValidator(_url_path), _pattern(_URL_PATH)]
Word = Annotated[Text, BeforeValidator(_number_as_text), Also({"type": "integer"})]
Words = Annotated[list[Word], Field(min_length=1)]
FlagValue = Annotated[Any, AfterValidator(_flag_value)]
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
Size = Annotated[
    int, BeforeValidator(_size), Field(gt=0), _pattern(re.compile(r"[0-9]+(\.[0-9]+)? ?[KMGTkmgt][iI]?[bB]"))
]
RestartPolicy = Literal["never", "on-failure", "always"]
LogLevel = Annotated[
    Level,
    BeforeValidator(_upper),
    Also({"enum": [level.lower() for level in get_args(Level)]}),
]

AsPolicy = (BeforeValidator(_as_policy), Also({"enum": list(get_args(RestartPolicy))}))
NoneForOff = (BeforeValidator(_none_for_off), Also({"const": False}))
AsOnly = (BeforeValidator(_as_only), Also({"type": "array", "items": {"enum": list(HOOKS)}, "minItems": 1}))
