"""`mlxhub sinks`: what is installed, what it takes and whether it works, as people and programs see it."""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
from click.testing import CliRunner

from mlxhub_core import discovery
from mlxhub_core.cli import cli
from mlxhub_core.discovery import scan
from mlxhub_core.errors import HubError
from mlxhub_core.hookspecs import HOOKS
from mlxhub_core.testing.day import FakeHub

MLXHUB = str(Path(sysconfig.get_path("scripts")) / "mlxhub")
"""The command itself, as pip has written it."""

BOMB = "from pathlib import Path\nPath(__file__).with_suffix('.imported').touch()\nraise SystemExit(9)\n"
"""A module that ends the program which imports it, and leaves a trace."""

SINK = """\
class AcmeSink:
    \"\"\"Sends failures to Acme.

    Args:
        host: where Acme is.
    \"\"\"
    def __init__(self, *, host: str = "localhost", port: int = 8125) -> None:
        self.given = (host, port)
    def model_failed(self, ctx): ...
"""

MODELS = "models: [{name: a, command: [x]}]\n"


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Mlxhub = Callable[..., Done]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty directory, on a wide and colourless screen."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLXHUB_CONFIG", "MLXHUB_NO_SINKS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "250")
    # As if all sinks of ours were installed, of which people are told else.
    for name in set(discovery.PACKAGES) - {offer.type for offer in scan().offers}:
        monkeypatch.delitem(discovery.PACKAGES, name)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of installed packages, for this process and its children. What is imported from there is forgotten."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH")))))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    scan.cache_clear()
    yield directory
    scan.cache_clear()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(directory)):
            del sys.modules[name]


def install(site: Path, name: str, points: dict[str, str], code: str | None = SINK, version: str = "1.0") -> None:
    """Install a package of one module; `points` are its entry points."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{type_} = {value}\n" for type_, value in points.items()]
    (info / "entry_points.txt").write_text("[mlxhub.sinks]\n" + "".join(lines))
    if code is not None:
        (site / f"{name.replace('-', '_')}.py").write_text(dedent(code))
    importlib.invalidate_caches()


def acme(site: Path, code: str = SINK) -> None:
    install(site, "acme-sinks", {"acme": "acme_sinks:AcmeSink"}, code)


def hooks(body: str) -> str:
    """The code of a sink class with these methods."""
    return "class AcmeSink:\n" + indent(dedent(body).strip(), "    ") + "\n"


def hub_yaml(sinks: str, name: str = "hub.yaml") -> None:
    Path(name).write_text(MODELS + "sinks:\n" + indent(dedent(sinks), "  ") + "\n")


@pytest.fixture
def mlxhub(monkeypatch: pytest.MonkeyPatch) -> Mlxhub:
    """The command within this process, whose log it must leave alone."""
    monkeypatch.setattr("mlxhub_core.cli.sinks.test_.log_to", lambda **_: None)

    def run(*arguments: str) -> Done:
        result = CliRunner().invoke(cli, arguments, prog_name="mlxhub")
        if isinstance(result.exception, HubError):
            return Done(result.exception.exit_code, result.stdout, f"{result.stderr}{result.exception}\n")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return Done(result.exit_code, result.stdout, result.stderr)

    return run


def run_command(*arguments: str, **environ: str) -> Done:
    """The command as people call it, in a process of its own."""
    env = {**os.environ, **environ}
    done = subprocess.run([MLXHUB, *arguments], env=env, capture_output=True, text=True, timeout=50, check=False)
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def on_a_terminal(*arguments: str, **environ: str) -> str:
    """All that the command writes to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [MLXHUB, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **environ}
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 10_000):
            seen += chunk
    except OSError:  # how Linux tells that nobody holds the other end any more
        pass
    finally:
        os.close(ours)
    process.wait(30)
    return seen.decode()


def rows(text: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell; the last one of those that share it."""
    cells = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    return {first: rest for first, *rest in cells}


# list


def test_the_list_imports_no_sink_and_tells_what_each_package_declares(site: Path) -> None:
    install(site, "acme-sinks", {"acme": "acme_sinks:AcmeSink", "mqtt": "acme_sinks:Mqtt"}, BOMB, version="2.1")
    hub_yaml("acme/eu: {host: eu}\nacme/us:\nmqtt: off\nnowhere:")
    done = run_command("sinks", "list")
    assert done.code == 0
    assert not list(site.glob("*.imported"))
    assert done.out.splitlines()[0].split() == ["TYPE", "PACKAGE", "VERSION", "ON", "AS", "PROBLEM"]
    table = rows(done.out)
    assert table["acme"] == ["acme-sinks", "2.1", "acme/eu, acme/us"]
    assert table["mqtt"] == ["acme-sinks", "2.1", "-"]
    assert table["loguru"][-1] == "loguru"
    assert table["nowhere"][:3] == ["-", "-", "nowhere"]
    assert "\x1b" not in done.out + done.err, "colour is for terminals"
    assert not re.search(" +$", done.out, re.MULTILINE)


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_sink_that_is_on_and_not_there_is_red_on_a_terminal_unless_no_color_is_set(
    site: Path, environ: dict[str, str], coloured: bool
) -> None:
    acme(site)
    for name in ("a-sinks", "b-sinks"):
        install(site, name, {"kafka": f"{name[0]}_sinks:AcmeSink"})
    hub_yaml("acme:\nnowhere:")
    lines = on_a_terminal("sinks", "list", **environ).splitlines()
    (wrong,) = [line for line in lines if "nowhere" in line]
    assert wrong.startswith("\x1b[31m") is coloured
    others = [line for line in lines if "a-sinks" in line or "acme-sinks" in line]
    assert len(others) == 3
    assert not any("\x1b" in line for line in others), "what is off, or right, is not red"
    assert coloured or not any("\x1b" in line for line in lines)


def test_a_type_of_ours_that_is_on_and_not_installed_comes_with_the_line_that_installs_it(
    mlxhub: Mlxhub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(discovery.PACKAGES, "later", "mlxhub-later-sink")
    pip = f"{shlex.quote(sys.executable)} -m pip install"
    done = mlxhub("sinks", "list")
    assert f"There are more: later (mlxhub-later-sink). Install one with `{pip} PACKAGE`." in done.err
    assert "later" not in done.out
    hub_yaml("later/eu:")
    done = mlxhub("sinks", "list")
    assert rows(done.out)["later"][:3] == ["-", "-", "later/eu"]
    assert f"install it with `{pip} mlxhub-later-sink`" in done.out
    assert "There are more" not in done.err


def test_a_missing_hub_yaml_is_no_reason_to_complain(site: Path, mlxhub: Mlxhub) -> None:
    acme(site)
    done = mlxhub("sinks", "list")
    assert (done.code, done.err) == (0, "")
    assert rows(done.out)["acme"] == ["acme-sinks", "1.0", "-"]


def test_a_file_that_was_named_and_is_missing_is_a_warning_with_its_name(mlxhub: Mlxhub) -> None:
    done = mlxhub("sinks", "list", "-c", "nosuch.yaml")
    assert done.code == 0
    assert re.fullmatch(
        r"warning: which sinks are on is not known: \S+/nosuch\.yaml: no such file; .*; see `mlxhub check`\n", done.err
    )
    assert rows(done.out)["loguru"][-1] == "-"


def test_a_wrong_hub_yaml_is_one_line_of_warning_and_the_list_comes_all_the_same(
    mlxhub: Mlxhub,
) -> None:
    Path("hub.yaml").write_text("models: 1\nhots: x\nsinks: {loguru: 7}\n")
    done = mlxhub("sinks", "list")
    assert done.code == 0
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("warning: which sinks are on is not known: hub.yaml:1:1: models: must be a list")
    assert "loguru" in rows(done.out)
    assert json.loads(mlxhub("sinks", "list", "--json").out)[0]["enabled"] == []


def test_another_file_may_say_what_is_on(site: Path, mlxhub: Mlxhub, monkeypatch: pytest.MonkeyPatch) -> None:
    acme(site)
    hub_yaml("acme/other:", "other.yaml")
    assert rows(mlxhub("sinks", "list", "--config", "other.yaml").out)["acme"][-1] == "acme/other"
    monkeypatch.setenv("MLXHUB_CONFIG", "other.yaml")
    assert rows(mlxhub("sinks", "list").out)["acme"][-1] == "acme/other"


def test_nothing_is_cut_off_however_narrow_the_screen(
    site: Path, mlxhub: Mlxhub, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = "a-package-with-a-name-that-fills-half-of-the-screen"
    install(site, package, {"acme": "acme:AcmeSink"})
    instances = [f"acme/instance-number-{number}" for number in range(9)]
    hub_yaml("\n".join(f"{key}:" for key in [*instances, "nowhere"]))
    monkeypatch.setenv("COLUMNS", "40")
    table = rows(mlxhub("sinks", "list").out)
    assert table["acme"] == [package, "1.0", ", ".join(instances)]
    assert table["nowhere"][-1].startswith("no installed sink is called 'nowhere'")


def test_two_packages_with_one_type_each_say_how_to_choose_them(site: Path, mlxhub: Mlxhub) -> None:
    for name in ("a-sinks", "b-sinks"):
        install(site, name, {"kafka": f"{name[0]}_sinks:AcmeSink"}, BOMB)
    lines = [line for line in mlxhub("sinks", "list").out.splitlines() if line.startswith("kafka")]
    assert [line.rpartition("  ")[2] for line in lines] == [
        "also offered by b-sinks 1.0; write 'a-sinks:kafka' to choose this one",
        "also offered by a-sinks 1.0; write 'b-sinks:kafka' to choose this one",
    ]


def test_the_one_of_two_that_hub_yaml_has_chosen_is_on_and_no_problem(site: Path, mlxhub: Mlxhub) -> None:
    for name in ("a-sinks", "b-sinks"):
        install(site, name, {"kafka": f"{name[0]}_sinks:AcmeSink"}, BOMB)
    hub_yaml("b-sinks:kafka/x:")
    found = {line["package"]: line for line in json.loads(mlxhub("sinks", "list", "--json").out)}
    assert (found["b-sinks"]["enabled"], found["b-sinks"]["problem"]) == (["b-sinks:kafka/x"], None)
    assert found["a-sinks"]["enabled"] == []
    assert "also offered by b-sinks" in found["a-sinks"]["problem"]


def test_a_type_of_two_packages_that_hub_yaml_does_not_choose_between_is_on_from_none(
    site: Path, mlxhub: Mlxhub
) -> None:
    for name in ("a-sinks", "b-sinks"):
        install(site, name, {"kafka": f"{name[0]}_sinks:AcmeSink"}, BOMB)
    hub_yaml("kafka/x:")
    lines = [line for line in json.loads(mlxhub("sinks", "list", "--json").out) if line["type"] == "kafka"]
    assert [(line["package"], line["enabled"]) for line in lines] == [
        ("a-sinks", []),
        ("b-sinks", []),
        (None, ["kafka/x"]),
    ]
    assert "write 'a-sinks:kafka/x' (or the other) to choose" in lines[2]["problem"]


def test_a_package_in_ruins_is_a_warning_with_its_place(site: Path, mlxhub: Mlxhub) -> None:
    acme(site)
    ruin = site / "ruin-1.0.dist-info"
    ruin.mkdir()
    (ruin / "entry_points.txt").write_bytes(b"[mlxhub.sinks]\n\xff = a:B\n")
    done = mlxhub("sinks", "list")
    assert done.code == 0
    assert re.fullmatch(rf"warning: {re.escape(str(ruin))} cannot be read \(\w+\); install .*\n", done.err)
    assert "acme" in rows(done.out)


def test_json_is_one_document_whatever_there_is_to_warn_of(site: Path) -> None:
    install(site, "acme-sinks", {"acme": "acme_sinks:AcmeSink"}, BOMB, version="2.1")
    (site / "ruin-1.0.dist-info").mkdir()
    (site / "ruin-1.0.dist-info" / "entry_points.txt").write_text("[mlxhub.sinks]\nruin = a:B\n")
    hub_yaml("acme/eu:\nacme/us:\nnowhere: {delivery: {required: false}}")
    done = run_command("sinks", "list", "--json")
    assert done.err.startswith("warning: ")
    found = {line["type"]: line for line in json.loads(done.out)}
    assert found["acme"] == {
        "type": "acme",
        "package": "acme-sinks",
        "version": "2.1",
        "value": "acme_sinks:AcmeSink",
        "enabled": ["acme/eu", "acme/us"],
        "problem": None,
    }
    assert list(found["nowhere"]) == list(found["acme"])
    assert found["nowhere"]["enabled"] == ["nowhere"]
    assert found["nowhere"]["package"] is None
    assert found["nowhere"]["problem"].startswith("no installed sink is called 'nowhere'")
    assert not list(site.glob("*.imported"))


# describe


def described_option(site: Path, mlxhub: Mlxhub, annotation: str, default: str) -> tuple[str, str]:
    """What is shown of an option of that type: what it is, and its default."""
    code = f"""\
        from dataclasses import dataclass, field
        from enum import Enum
        from math import inf
        from pathlib import Path
        from typing import Annotated, Any, Literal
        from annotated_types import Ge, Gt, Interval, Le, Lt
        from mlxhub_core import Secret

        class Flavor(Enum):
            PLAIN = "plain"
            FANCY = "fancy"

        @dataclass(frozen=True)
        class Retry:
            attempts: int = 3
            pause: float = 0.5

        @dataclass
        class AcmeSink:
            x: {annotation} {default and "= " + default}
            def model_failed(self): ...
        """
    acme(site, code)
    text = mlxhub("sinks", "describe", "acme").out
    cells = rows(text[text.index("OPTION") :])["x"]
    return cells[0], cells[1]


@pytest.mark.parametrize(
    ("annotation", "default", "words", "shown"),
    [
        ("str", "", "text", "required"),
        ("str", "'localhost'", "text", "localhost"),
        ("str", "''", "text", '""'),
        ("int", "5", "whole number", "5"),
        ("float", "0.5", "number", "0.5"),
        ("float", "inf", "number", "Infinity"),
        ("bool", "True", "true or false", "true"),
        ("bool", "False", "true or false", "false"),
        ("int | None", "None", "whole number", "none"),
        ("int | str", "3", "whole number or text", "3"),
        ("Annotated[int, Interval(ge=1, le=65535)]", "8125", "whole number, at least 1 and at most 65535", "8125"),
        ("Annotated[float, Gt(0)]", "1.5", "number, more than 0", "1.5"),
        ("Annotated[float, Interval(gt=0, lt=0.25)]", "0.1", "number, more than 0 and less than 0.25", "0.1"),
        ("Annotated[int, Le(1000000)] | None", "None", "whole number, at most 1000000", "none"),
        ("Literal['plain', 'fancy']", "'plain'", "plain or fancy", "plain"),
        ("Literal['plain', 1, True, None]", "None", "plain or 1 or true or null", "none"),
        ("Literal['plain']", "'plain'", "plain", "plain"),
        ("Flavor", "Flavor.FANCY", "plain or fancy", "fancy"),
        ("Path", "Path('/var/log')", "text", "/var/log"),
        ("Path | None", "None", "text", "none"),
        ("tuple[str, ...]", "()", "list of text", "[]"),
        ("tuple[str, int]", "('a', 1)", "list", '["a", 1]'),
        ("list[Path] | None", "None", "list of text", "none"),
        ("list[str]", "field(default_factory=list)", "list of text", "the sink's own"),
        ("frozenset[int]", "frozenset()", "list of whole number", "[]"),
        ("dict[str, int]", "field(default_factory=dict)", "mapping", "the sink's own"),
        ("Retry", "Retry()", "mapping with attempts, pause", '{"attempts": 3, "pause": 0.5}'),
        ("list[Retry]", "", "list of mapping with attempts, pause", "required"),
        ("Secret", "", "secret: text, {env: NAME} or {file: path}", "required"),
        ("Secret | None", "None", "secret: text, {env: NAME} or {file: path}", "none"),
        ("Secret", "Secret('canary')", "secret: text, {env: NAME} or {file: path}", "the sink's own"),
        ("list[Secret]", "field(default_factory=list)", "list of secret: text, {env: NAME} or {file: path}", "the sink's own"),
        ("Any", "None", "anything", "none"),
        ("object", "object()", "anything", "the sink's own"),
    ],
)  # fmt: skip
def test_an_option_is_told_in_words_with_its_default(
    site: Path, mlxhub: Mlxhub, annotation: str, default: str, words: str, shown: str
) -> None:
    assert described_option(site, mlxhub, annotation, default) == (words, shown)


@pytest.mark.parametrize(
    "docstring",
    [
        "Args:\n    host: where Acme\n        is.\n    port: its port.",
        "Parameters\n----------\nhost : str\n    where Acme\n    is.\nport : int\n    its port.",
        ":param host: where Acme\n    is.\n:param port: its port.",
    ],
    ids=["google", "numpy", "rest"],
)
@pytest.mark.parametrize("place", ["class", "constructor"])
def test_the_docstring_says_what_it_does_and_what_its_options_mean(
    site: Path, mlxhub: Mlxhub, docstring: str, place: str
) -> None:
    about = "Sends failures to Acme [tm].\n\nAnd more.\n\n"
    inside = f'"""Keep them.\n\n{docstring if place == "constructor" else ""}\n"""'
    body = f'"""{about}{docstring if place == "class" else ""}\n"""'
    body += "\ndef __init__(self, host: str = 'localhost', port: int = 1):\n" + indent(inside, "    ")
    acme(
        site, hooks(body + "\ndef model_failed(self): ...\ndef config_reloaded(self): ...\ndef hub_stopping(self): ...")
    )
    done = mlxhub("sinks", "describe", "acme")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "acme: Sends failures to Acme [tm]."
    assert lines[1] == f"from acme-sinks 1.0 (acme_sinks:AcmeSink), {site}/acme_sinks.py"
    assert lines[2] == "events: hub_stopping, config_reloaded, model_failed"
    assert rows(done.out)["host"] == ["text", "localhost", "where Acme is."]
    assert rows(done.out)["port"] == ["whole number", "1", "its port."]
    schema = json.loads(mlxhub("sinks", "describe", "acme", "--json-schema").out)
    assert schema["properties"]["host"]["description"] == "where Acme is."
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    "code",
    [
        "from mlxhub_core import Sink\nclass AcmeSink(Sink):\n    def model_failed(self, **_): ...\n",
        "from dataclasses import dataclass\n@dataclass\nclass AcmeSink:\n    key: str = 'x'\n    def model_failed(self): ...\n",
    ],
    ids=["a-base-class", "a-decorator"],
)
def test_what_a_base_class_or_a_decorator_says_is_not_said_of_the_sink(site: Path, mlxhub: Mlxhub, code: str) -> None:
    acme(site, code)
    lines = mlxhub("sinks", "describe", "acme").out.splitlines()
    assert lines[0] == "acme: its author says nothing about it"
    assert lines[2] == "events: model_failed", "and the hooks of the base class are none of its own"


def test_a_sink_without_options_says_so_and_names_what_each_sink_has(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, hooks("def model_failed(self): ..."))
    out = mlxhub("sinks", "describe", "acme").out
    assert "It takes no options of its own." in out
    assert "`delivery:`" in out


def test_a_sink_that_is_in_no_file_can_be_described(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, hooks("__module__ = 'compiled'\ndef model_failed(self): ..."))
    assert mlxhub("sinks", "describe", "acme").out.splitlines()[1].endswith("(acme_sinks:AcmeSink), built in")


def test_a_function_that_makes_sinks_can_be_described(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, 'def AcmeSink(*, port: int = 1):\n    """Makes one."""\n')
    out = mlxhub("sinks", "describe", "acme").out
    assert out.startswith("acme: Makes one.\n")
    assert "events: known only when it is made" in out
    assert rows(out)["port"] == ["whole number", "1"]


@pytest.mark.parametrize("form", [[], ["--json-schema"]])
def test_the_default_of_a_secret_is_never_shown(site: Path, mlxhub: Mlxhub, form: list[str]) -> None:
    code = """\
        from dataclasses import dataclass, field
        from mlxhub_core import Secret

        @dataclass(frozen=True)
        class Login:
            token: Secret = Secret("canary")

        @dataclass
        class AcmeSink:
            plain: Secret = Secret("canary")
            perhaps: Secret | None = Secret("canary")
            several: tuple[Secret, ...] = (Secret("canary"),)
            named: dict[str, Secret] = field(default_factory=lambda: {"a": Secret("canary")})
            login: Login = Login()
            logins: tuple[Login, ...] = (Login(),)
            def model_failed(self): ...
        """
    acme(site, code)
    done = mlxhub("sinks", "describe", "acme", *form)
    assert done.code == 0
    assert "logins" in done.out
    assert "canary" not in done.out + done.err
    assert "***" not in done.out


def test_the_schema_alone_is_printed_even_if_the_module_prints_when_it_is_imported(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, "print('hello')\n" + SINK)
    done = mlxhub("sinks", "describe", "acme", "--json-schema")
    assert list(json.loads(done.out)["properties"]) == ["host", "port"]
    assert done.err == "hello\n"


@pytest.mark.parametrize("name", ["acme", "acme/eu", "acme-sinks:acme", "Acme_Sinks:acme/eu"])
def test_a_sink_may_be_named_as_in_hub_yaml(site: Path, mlxhub: Mlxhub, name: str) -> None:
    acme(site)
    assert mlxhub("sinks", "describe", name).out.startswith("acme: Sends failures to Acme.")


def test_of_two_packages_with_one_type_only_the_one_that_is_named_is_imported(site: Path, mlxhub: Mlxhub) -> None:
    install(site, "a-sinks", {"kafka": "a_sinks:AcmeSink"}, BOMB)
    install(site, "b-sinks", {"kafka": "b_sinks:AcmeSink"})
    assert mlxhub("sinks", "describe", "b-sinks:kafka").out.startswith("kafka: Sends failures to Acme.")
    done = mlxhub("sinks", "describe", "kafka")
    assert (done.code, done.out) == (1, "")
    assert "sink type 'kafka' is offered by a-sinks 1.0 and b-sinks 1.0; write 'a-sinks:kafka'" in done.err
    assert not list(site.glob("*.imported"))


@pytest.mark.parametrize("command", ["describe", "test"])
def test_an_unknown_type_comes_with_the_nearest(site: Path, mlxhub: Mlxhub, command: str) -> None:
    acme(site)
    done = mlxhub("sinks", command, "acne")
    assert (done.code, done.out) == (1, "")
    assert "no installed sink is called 'acne'; did you mean 'acme'?" in done.err
    assert done.err.startswith("there is no hub.yaml, and ") is (command == "test")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            hooks("def __init__(self, port=1): ..."),
            "acme-sinks 1.0 cannot be used: parameter 'port' has no type; tell ",
        ),
        (hooks("def __init__(self, *hosts: str): ..."), "cannot be used: parameter *hosts"),
        ("raise SystemExit(3)", "acme-sinks 1.0 cannot be imported: SystemExit: 3"),
        ("AcmeSink = 7", "acme-sinks 1.0 does not register a class"),
    ],
    ids=["no-type", "star-args", "exits", "no-class"],
)
def test_a_sink_that_cannot_be_described_is_told_with_its_package(
    site: Path, mlxhub: Mlxhub, code: str, reason: str
) -> None:
    acme(site, code)
    done = mlxhub("sinks", "describe", "acme")
    assert (done.code, done.out) == (1, "")
    assert reason in done.err


# test


RECORDING = """\
    import threading
    from mlxhub_core.hookspecs import HOOKS
    class AcmeSink:
        made, calls, threads = [], [], set()
        def __init__(self, *, host: str = "localhost", port: int = 8125) -> None:
            self.made.append((host, port))
        def open(self):
            self._note("open")
        def close(self):
            self._note("close")
        def _note(self, hook, **arguments):
            self.calls.append((hook, arguments))
            self.threads.add(threading.get_ident())
    def recorder(hook):
        return lambda self, **arguments: self._note(hook, **arguments)
    for hook in HOOKS:
        setattr(AcmeSink, hook, recorder(hook))
    """


def made() -> Any:
    """The class of the sink that was tested."""
    return sys.modules["acme_sinks"].AcmeSink


def timed(text: str) -> list[str]:
    """The calls that came back, each listed with its time."""
    return re.findall(r"^  (\w+) +\d+\.\d ms", text, re.MULTILINE)


def test_a_sink_gets_the_whole_day_between_open_and_close_and_each_call_is_listed_with_its_time(
    site: Path, mlxhub: Mlxhub
) -> None:
    acme(site, RECORDING)
    done = mlxhub("sinks", "test", "acme")
    assert done.code == 0
    day = [hook for hook, _ in FakeHub().day()]
    assert timed(done.out) == [hook for hook, _ in made().calls] == ["open", *day, "close"]
    assert done.out.splitlines()[-1] == "acme took them all; look for 'mlxhub-test' in your monitoring"
    for hook, arguments in made().calls[1:-1]:
        assert sorted(arguments) == sorted(HOOKS[hook])


TRACING = """
class AcmeSink:
    trace = None
    def __init__(self): self.lines = []
    def model_ready(self, ctx): self.lines.append(f"{ctx.name} is ready\\x1b[2J")
    def flush(self):
        for line in self.lines: self.trace(line)
        self.lines.clear()
    def close(self): self.trace("bye")
"""


def test_what_a_sink_says_that_it_sent_stands_below_the_event_and_moves_no_cursor(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, TRACING)
    lines = mlxhub("sinks", "test", "acme").out.splitlines()
    ready = next(number for number, line in enumerate(lines) if line.startswith("  model_ready"))
    assert lines[ready + 1] == r"      mlxhub-test is ready\x1b[2J"
    assert lines[ready + 2].startswith("  model_ready"), "the second of the day, with its own line below"
    assert lines[-2] == "      bye"


def test_a_trace_that_is_a_method_of_the_sinks_own_is_left_alone(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, hooks("def model_ready(self): self.trace()\ndef trace(self): pass"))
    assert mlxhub("sinks", "test", "acme").code == 0


def test_a_flush_that_raises_is_told_with_the_event_before_it(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, hooks("def model_ready(self): ...\ndef flush(self): raise OSError('no route')"))
    done = mlxhub("sinks", "test", "acme")
    assert (done.code, "model_ready" in done.err, "OSError: no route" in done.out) == (1, True, True)


def test_all_calls_are_on_one_thread_which_is_the_sinks_own_as_in_a_hub(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, RECORDING)
    mlxhub("sinks", "test", "acme")
    assert len(made().threads) == 1
    assert threading.get_ident() not in made().threads


def test_a_sink_that_asks_the_hub_hears_how_the_model_is_at_that_moment(site: Path, mlxhub: Mlxhub) -> None:
    body = """\
        def hub_started(self, hub): self.hub = hub
        def _check(self, state): assert [s.state for s in self.hub.status()] == [state], self.hub.status()
        def model_ready(self): self._check("ready")
        def model_unhealthy(self): self._check("unhealthy")
        def model_gave_up(self): self._check("failed")
        def model_stopped(self): self._check("stopped")
        """
    acme(site, hooks(body))
    done = mlxhub("sinks", "test", "acme")
    assert (done.code, done.err.count("failed")) == (0, 0)


def test_only_the_hooks_that_it_has_are_called_and_what_is_no_method_is_not(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, hooks("open = close = True\ndef model_gave_up(self): ...\ndef model_stopped(self, exit_code): ..."))
    done = mlxhub("sinks", "test", "acme")
    assert done.code == 0
    assert timed(done.out) == ["model_gave_up", "model_stopped", "model_stopped"]


@pytest.mark.parametrize("key", ["acme", "acme/eu", "acme-sinks:acme/x"])
def test_it_is_made_with_the_options_that_hub_yaml_has_for_that_key(site: Path, mlxhub: Mlxhub, key: str) -> None:
    acme(site, RECORDING)
    hub_yaml("acme: {port: 1}\nacme/eu: {port: 2}\nacme-sinks:acme/x: {port: 3}\nnowhere:")
    done = mlxhub("sinks", "test", key)
    assert (done.code, done.err) == (0, "")
    assert made().made == [("localhost", {"acme": 1, "acme/eu": 2, "acme-sinks:acme/x": 3}[key])]


def test_one_that_is_installed_and_not_on_is_tried_with_its_defaults_and_that_is_said(
    site: Path, mlxhub: Mlxhub
) -> None:
    acme(site, RECORDING)
    done = mlxhub("sinks", "test", "acme")
    assert done.err == "there is no hub.yaml; it is tried with its defaults\n"
    hub_yaml("acme/eu: {port: 2}")
    done = mlxhub("sinks", "test", "acme/us")
    assert done.code == 0
    assert done.err == (
        "'acme/us' is not on in hub.yaml; did you mean 'acme/eu'? (on: loguru, acme/eu); it is tried with its defaults\n"
    )
    assert made().made == [("localhost", 8125)] * 2


def test_one_that_needs_options_and_has_none_says_so(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, hooks("def __init__(self, *, host: str): ...\ndef model_failed(self): ..."))
    done = mlxhub("sinks", "test", "acme")
    assert (done.code, done.out) == (1, "")
    assert "acme cannot be made without options (TypeError: " in done.err
    assert "'host'" in done.err
    assert done.err.endswith("; write it into hub.yaml\n")
    hub_yaml("acme:")
    assert mlxhub("sinks", "test", "acme").err == "hub.yaml:3:3: sinks.acme.host: is required\n"


def test_one_in_another_file_is_found_there_and_a_wrong_file_is_told_in_full(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, RECORDING)
    hub_yaml("acme: {port: 4}", "other.yaml")
    assert mlxhub("sinks", "test", "acme", "-c", "other.yaml").err == ""
    assert made().made == [("localhost", 4)]
    Path("wrong.yaml").write_text("models: 1\nhots: x\n")
    done = mlxhub("sinks", "test", "acme", "-c", "wrong.yaml")
    assert (done.code, len(done.err.splitlines())) == (2, 2)
    done = mlxhub("sinks", "test", "acme", "-c", "nosuch.yaml")
    assert done.code == 2
    assert "nosuch.yaml: no such file" in done.err


def test_a_sink_that_the_hub_could_do_without_cannot_be_wrong_here(site: Path, mlxhub: Mlxhub) -> None:
    acme(site)
    hub_yaml("acme: {prot: 1, host: 1.5, delivery: {required: false}}\nnowhere: {delivery: {required: false}}")
    done = mlxhub("sinks", "test", "acme")
    assert (done.code, done.out) == (2, "")
    assert [line.partition(": ")[2].partition(":")[0] for line in done.err.splitlines()] == [
        "sinks.acme.prot",
        "sinks.acme.host",
    ]
    done = mlxhub("sinks", "test", "nowhere")
    assert done.code == 2
    assert "no installed sink is called 'nowhere'" in done.err


def test_a_hook_that_raises_is_named_once_and_the_others_are_tried_all_the_same(site: Path, mlxhub: Mlxhub) -> None:
    body = """\
        calls = []
        def model_failed(self, ctx): raise RuntimeError("no  such\\nhost")
        def model_ready(self, ctx): raise SystemExit(3)
        def model_stopped(self, ctx): self.calls.append("stopped")
        def close(self): self.calls.append("close")
        """
    acme(site, hooks(body))
    done = mlxhub("sinks", "test", "acme")
    assert done.code == 1
    assert done.err.splitlines()[-1] == "acme failed in model_ready, model_failed"
    assert (
        re.findall(r"^  model_failed +\d+\.\d ms  (.*)$", done.out, re.MULTILINE) == ["RuntimeError: no such host"] * 2
    )
    assert re.findall(r"^  model_ready +\d+\.\d ms  (.*)$", done.out, re.MULTILINE) == ["SystemExit: 3"] * 2
    assert made().calls == ["stopped", "stopped", "close"]
    assert "took them all" not in done.out


def test_one_that_does_not_open_is_spared_the_events_and_closed_as_in_a_hub(site: Path, mlxhub: Mlxhub) -> None:
    body = """\
        calls = []
        def open(self): raise ConnectionRefusedError("nobody listens")
        def model_failed(self, ctx): self.calls.append("failed")
        def close(self): self.calls.append("close")
        """
    acme(site, hooks(body))
    done = mlxhub("sinks", "test", "acme")
    assert done.code == 1
    assert "ConnectionRefusedError: nobody listens" in done.out
    assert done.err.splitlines()[-1] == "acme failed in open"
    assert made().calls == ["close"]


def test_one_that_does_not_close_has_failed(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, hooks("def model_failed(self): ...\ndef close(self): raise OSError('the disk is full')"))
    done = mlxhub("sinks", "test", "acme")
    assert (done.code, done.err.splitlines()[-1]) == (1, "acme failed in close")


@pytest.mark.parametrize("hanging", ["open", "model_failed", "close"])
def test_one_that_hangs_is_given_up_after_the_timeout(site: Path, mlxhub: Mlxhub, hanging: str) -> None:
    code = "import threading\nAcmeSink = type('AcmeSink', (), {'model_failed': lambda self: None, %r: lambda self: end.wait()})"
    acme(site, code % hanging + "\nend = threading.Event()\n")
    done = mlxhub("sinks", "test", "acme", "--timeout", "0.1")
    sys.modules["acme_sinks"].end.set()
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"acme: {hanging} has not come back for 0.1 s; ")
    assert hanging not in timed(done.out)
    assert "took them all" not in done.out


def test_a_timeout_is_some_time(mlxhub: Mlxhub) -> None:
    for wrong in ("0", "-1", "601", "soon"):
        assert mlxhub("sinks", "test", "loguru", "--timeout", wrong).code == 2


@pytest.mark.parametrize("on", [True, False], ids=["on", "not-on"])
def test_a_constructor_that_ends_the_program_is_a_sink_that_cannot_be_made(
    site: Path, mlxhub: Mlxhub, *, on: bool
) -> None:
    acme(site, hooks("def __init__(self): raise SystemExit(0)\ndef model_failed(self): ..."))
    if on:
        hub_yaml("acme:")
    done = mlxhub("sinks", "test", "acme")
    assert (done.code, done.out) == (2 if on else 1, "")
    assert "SystemExit: 0" in done.err


def test_a_ctrl_c_while_it_is_made_is_not_its_fault(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, hooks("def __init__(self): raise KeyboardInterrupt\ndef model_failed(self): ..."))
    done = mlxhub("sinks", "test", "acme")
    assert done.code == 1
    assert done.err.endswith("Aborted!\n")
    assert "cannot be made" not in done.err


def test_an_object_without_hooks_is_no_sink_to_test(site: Path, mlxhub: Mlxhub) -> None:
    acme(site, hooks("def failed(self): ..."))
    done = mlxhub("sinks", "test", "acme")
    assert (done.code, done.out) == (1, "")
    assert "AcmeSink has no hook" in done.err


def test_a_good_sink_ends_the_command_with_0_even_if_it_leaves_a_thread_behind_and_its_log_is_seen(site: Path) -> None:
    body = """\
        def open(self):
            import threading
            threading.Thread(target=threading.Event().wait).start()
        def model_failed(self):
            from loguru import logger
            logger.debug("a word of the sink")
        """
    acme(site, hooks(body))
    done = run_command("sinks", "test", "acme")
    assert done.code == 0
    assert timed(done.out) == ["open", "model_failed", "model_failed"]
    assert re.search(r"DEBUG +a word of the sink", done.err)
    assert "\x1b" not in done.out + done.err


def test_a_sink_that_hangs_does_not_keep_the_command(site: Path) -> None:
    acme(site, hooks("def model_ready(self): __import__('threading').Event().wait()"))
    began = time.monotonic()
    done = run_command("sinks", "test", "acme", "--timeout", "0.2")
    assert time.monotonic() - began < 10, "it waited for the thread of the sink"
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("acme: model_ready has not come back for 0.2 s")


# check, and the group itself


def test_check_is_the_check_of_the_whole_file(site: Path, mlxhub: Mlxhub) -> None:
    acme(site)
    hub_yaml("acme: {prot: 1}", "other.yaml")
    for command in (["check"], ["sinks", "check"]):
        done = mlxhub(*command, "other.yaml")
        assert done.code == 2
        assert done.err.startswith("other.yaml:3:10: sinks.acme.prot: unknown key; did you mean 'port'?")


def test_help_shows_each_command_with_a_whole_line_and_imports_none(mlxhub: Mlxhub) -> None:
    before = set(sys.modules)
    out = mlxhub("sinks", "--help").out
    for command in ("list", "describe", "check", "test", "status"):
        (line,) = re.findall(rf"^  {command} +(.*)$", out, re.MULTILINE)
        assert line.endswith("."), "a line that is cut off"
    assert not {name for name in set(sys.modules) - before if name.startswith("mlxhub_core.cli.sinks.")}


@pytest.mark.parametrize("command", ["list", "describe", "check", "test", "status"])
def test_each_command_has_a_help_of_its_own(mlxhub: Mlxhub, command: str) -> None:
    done = mlxhub("sinks", command, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: mlxhub sinks {command} [OPTIONS]")
