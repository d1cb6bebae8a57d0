"""A secret of a sink: from where it comes, and that it is shown nowhere."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import pprint
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from loguru import logger

from mlxhub_core import Secret
from mlxhub_core.options import check_options, options_schema

CANARY = "s3cr3t-canary"
"""What nobody may see."""


@dataclass
class Login:
    password: Secret
    user: str = "hub"


def plain(*, token: Secret) -> None: ...
def optional(*, token: Secret | None = None) -> None: ...
def inside(*, logins: list[Login]) -> None: ...
def several(*, tokens: dict[str, Secret]) -> None: ...


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of hub.yaml, which is not the current one. Secrets are there, at home, and in the environment."""
    for directory in ("hub/secrets", "home", "elsewhere"):
        (tmp_path / directory).mkdir(parents=True)
    for name in ("hub/secrets/token", "home/token"):
        (tmp_path / name).write_text(f"{CANARY}\n", encoding="utf-8")
    (tmp_path / "hub/empty").write_text("\n", encoding="utf-8")
    (tmp_path / "hub/binary").write_bytes(f"{CANARY}\xff".encode("latin-1"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ACME_TOKEN", CANARY)
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)
    return tmp_path / "hub"


# From where it comes.

BOTH = pytest.mark.parametrize("sink", [plain, optional])


@BOTH
@pytest.mark.parametrize(
    "written",
    [CANARY, {"env": "ACME_TOKEN"}, {"file": "secrets/token"}, {"file": "~/token"}],
    ids=["text", "environment", "file-beside-hub-yaml", "file-at-home"],
)
def test_a_secret_is_text_or_where_the_text_is(place: Path, sink: Callable[..., object], written: object) -> None:
    arguments, found = check_options(sink, {"token": written}, place)
    assert (arguments["token"].reveal(), found) == (CANARY, [])
    assert CANARY not in f"{arguments} {arguments['token']}"


@pytest.mark.parametrize(
    ("name", "why"),
    [("fifo", "it is none"), ("/dev/zero", "it is none"), ("long", "it is too long for a secret")],
)
def test_no_file_of_a_secret_makes_a_hub_wait_or_takes_its_memory(place: Path, name: str, why: str) -> None:
    os.mkfifo(place / "fifo")
    (place / "long").write_bytes(b"x" * 65537)
    arguments, (finding,) = check_options(plain, {"token": {"file": name}}, place)
    assert (arguments, finding.message) == ({}, f"the file {name} cannot be read: {why}")


def test_a_secret_that_may_be_left_out_may_also_be_empty(place: Path) -> None:
    assert check_options(optional, {}, place) == ({}, [])
    assert check_options(optional, {"token": None}, place) == ({"token": None}, [])


SHAPES = "must be text in quotes, {env: NAME} or {file: path}"
NO_TEXT = "it is no text, or the path is none"


@BOTH
@pytest.mark.parametrize(
    ("written", "message"),
    [
        (5, SHAPES),
        (True, SHAPES),
        ([CANARY], SHAPES),
        ({}, SHAPES),
        ({CANARY: None}, SHAPES),
        ({"v": CANARY}, SHAPES),
        ({"env": 5}, SHAPES),
        ({"file": [CANARY]}, SHAPES),
        ({"env": "ACME_TOKEN", "default": CANARY}, SHAPES),
        ({"file": "secrets/token", "default": CANARY}, SHAPES),
        ("", "must not be empty"),
        ({"env": "UNSET"}, "the environment variable UNSET is not set, or empty; set it where the hub is started"),
        ({"env": "EMPTY"}, "the environment variable EMPTY is not set, or empty; set it where the hub is started"),
        ({"file": "nowhere"}, "the file nowhere cannot be read: No such file or directory"),
        ({"file": "secrets"}, "the file secrets cannot be read: Is a directory"),
        ({"file": "empty"}, "must not be empty"),
        ({"file": "binary"}, f"the file binary cannot be read: {NO_TEXT}"),
        ({"file": "~nobody-at-all/token"}, f"the file ~nobody-at-all/token cannot be read: {NO_TEXT}"),
        ({"file": "a\0b"}, f"the file a\0b cannot be read: {NO_TEXT}"),
    ],
    ids=ascii,
)
def test_a_secret_that_cannot_be_had_is_one_clear_sentence(
    place: Path, sink: Callable[..., object], written: object, message: str
) -> None:
    arguments, (finding,) = check_options(sink, {"token": written}, place)
    assert (arguments, finding.keys, finding.message) == ({}, ("token",), message)
    assert CANARY not in repr(finding)


@pytest.mark.parametrize(
    ("sink", "given", "keys"),
    [
        (plain, {"token": None}, [("token",)]),
        (plain, {"token": CANARY, "tokne": CANARY}, [("tokne",)]),
        (inside, {"logins": [{"password": CANARY}, {"password": {"v": CANARY}}]}, [("logins", 1, "password")]),
        (inside, {"logins": [{"password": CANARY, "user": 5}]}, [("logins", 0, "user")]),
        (inside, {"logins": [CANARY, {}]}, [("logins", 0), ("logins", 1, "password")]),
        (several, {"tokens": {"a": {"env": "UNSET"}, "b": CANARY, "c": 5}}, [("tokens", "a"), ("tokens", "c")]),
        (several, {"tokens": CANARY}, [("tokens",)]),
    ],
    ids=["empty", "unknown-option", "deep-inside", "beside-it", "in-its-place", "in-a-mapping", "instead-of-a-mapping"],
)
def test_a_mistake_near_a_secret_is_found_at_its_place_without_it(
    place: Path, sink: Callable[..., object], given: dict[str, Any], keys: list[tuple[str | int, ...]]
) -> None:
    arguments, found = check_options(sink, given, place)
    assert (arguments, [finding.keys for finding in found]) == ({}, keys)
    assert CANARY not in repr(found)


@pytest.mark.parametrize(
    ("written", "fits"),
    [
        (CANARY, True),
        ({"env": "UNSET"}, True),
        ({"file": "nowhere"}, True),
        ("", False),
        (5, False),
        (None, False),
        ([], False),
        ({}, False),
        ({"v": "x"}, False),
        ({"env": "X", "file": "x"}, False),
        ({"env": 5}, False),
    ],
    ids=str,
)
def test_editors_know_how_a_secret_may_be_written(written: object, fits: bool) -> None:
    assert Draft202012Validator(options_schema(plain)).is_valid({"token": written}) is fits


def test_a_default_that_holds_a_secret_does_no_harm_and_is_not_in_the_schema() -> None:
    def sink(
        *,
        token: Secret = Secret(CANARY),  # noqa: B008  # as authors write
        tokens: list[Secret] = [Secret(CANARY)],  # noqa: B006, B008
        login: Login = Login(Secret(CANARY)),  # noqa: B008
    ) -> None: ...

    assert check_options(sink, {}, Path()) == ({}, [])
    assert CANARY not in json.dumps(options_schema(sink))


# It is shown nowhere.


@dataclass
class Sinklet:
    token: Secret
    more: list[Secret] = field(default_factory=lambda: [Secret(CANARY)])


def logged(secret: Secret) -> list[str]:
    lines: list[str] = []
    number = logger.add(lines.append, format="{message} {extra}", serialize=True)
    logger.bind(token=secret).info("{} {token!r}", secret, token=secret)
    logger.remove(number)
    record = logging.LogRecord("sink", logging.INFO, __file__, 1, "%s %r", (secret, secret), None)
    assert lines
    return [*lines, record.getMessage()]


def raised(secret: Secret) -> list[str]:
    """As loguru shows an exception: with the values of variables."""
    lines: list[str] = []
    number = logger.add(lines.append, backtrace=False, diagnose=True)
    try:
        secret + secret  # type: ignore[operator]
    except TypeError:
        logger.exception("failed")
    logger.remove(number)
    assert "***" in str(lines)
    return lines


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        "{!r:>40}".format,
        "{:>40}".format,
        ascii,
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031
        vars,
        pprint.pformat,
        json.dumps,
        lambda secret: json.dumps({"token": secret}, default=str),
        *(lambda secret, protocol=protocol: pickle.dumps(secret, protocol) for protocol in range(6)),
        lambda secret: pickle.dumps(Sinklet(secret)),
        lambda secret: Sinklet(secret),
        lambda secret: asdict(Sinklet(secret)),
        lambda secret: vars(Sinklet(secret)),
        lambda secret: {secret: [(secret,)]},
        "".join,
        lambda secret: int(secret),
        lambda secret: KeyError(secret),
        logged,
        raised,
    ],
)
def test_nobody_who_shows_a_secret_shows_its_text(show: Callable[[Any], object]) -> None:
    try:
        shown = str(show(Secret(CANARY)))
    except (TypeError, ValueError):
        shown = traceback.format_exc()
    assert shown
    assert CANARY not in shown


def test_it_is_shown_as_stars() -> None:
    secret = Secret(CANARY)
    assert (str(secret), repr(secret), f"{secret}") == ("***", "Secret('***')", "***")


# It is a value like others.


def test_secrets_of_one_text_are_equal_and_no_secret_is_its_text() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert (bool(Secret("a")), bool(Secret(""))) == (True, False)


def test_a_secret_from_the_environment_need_not_be_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_TOKEN", b"\xff".decode(errors="surrogateescape"))
    read = [check_options(plain, {"token": {"env": "ACME_TOKEN"}}, Path())[0]["token"] for _ in range(2)]
    assert read[0] == read[1]
    assert read[0] != Secret(b"\xfe".decode(errors="surrogateescape"))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_of_what_holds_a_secret_holds_it_too(how: Callable[[Any], Any]) -> None:
    secret = Secret(CANARY)
    assert how(secret) is secret
    assert how(Sinklet(secret)) == Sinklet(secret)
