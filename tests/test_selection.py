"""From `sinks:` in hub.yaml to sink objects: what is installed is found, what is wrong is told with its place."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest

from mlxhub_core import ConfigError, LoggingHubObservabilitySink, Problem, discovery
from mlxhub_core.discovery import scan
from mlxhub_core.selection import Selected, select
from mlxhub_core.settings import load_settings

SINK = """
    class AcmeSink:
        def __init__(self, *, host: str = "localhost", port: int = 9464, token: str | None = None) -> None:
            self.given = (host, port)
        def model_failed(self, ctx): ...
    """

Choose = Callable[[str], list[Selected]]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of installed packages. What is imported from there is forgotten afterwards."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
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


def acme(site: Path, code: str = SINK) -> None:
    install(site, "acme-sinks", {"acme": "acme_sinks:AcmeSink"}, code)


@pytest.fixture
def choose(tmp_path: Path, site: Path) -> Choose:
    """Select the sinks of a hub.yaml, given what stands under its `sinks:`, which begins at 3:3."""

    def select_from(sinks: str) -> list[Selected]:
        config = tmp_path / "hub.yaml"
        config.write_text("models: [{name: m, command: [x]}]\nsinks:\n" + indent(dedent(sinks), "  ") + "\n")
        settings = load_settings(config)
        return [chosen for chosen in select(settings, settings.sinks) if chosen.key != "loguru"]

    return select_from


def problems(choose: Choose, sinks: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        choose(sinks)
    assert len(str(caught.value).splitlines()) == len(caught.value.problems), "one line each"
    return caught.value.problems


def problem(choose: Choose, sinks: str) -> str:
    (only,) = problems(choose, sinks)
    return str(only)


# What is right.


def test_loguru_is_on_by_itself_and_found_like_any_other(tmp_path: Path) -> None:
    config = tmp_path / "hub.yaml"
    config.write_text("models: [{name: m, command: [x]}]\n")
    settings = load_settings(config)
    (chosen,) = select(settings, settings.sinks)
    assert chosen.key == "loguru"
    assert isinstance(chosen.sink, LoggingHubObservabilitySink)


def test_loguru_may_be_off(tmp_path: Path) -> None:
    config = tmp_path / "hub.yaml"
    config.write_text("models: [{name: m, command: [x]}]\nsinks: {loguru: off}\n")
    settings = load_settings(config)
    assert select(settings, settings.sinks) == []


def test_the_options_of_an_entry_are_the_arguments_of_its_sink(site: Path, choose: Choose) -> None:
    acme(site)
    (chosen,) = choose("acme: {port: 1234}")
    assert chosen.key == "acme"
    assert chosen.settings.options == {"port": 1234}
    assert vars(chosen.sink) == {"given": ("localhost", 1234)}


@pytest.mark.parametrize("value", ["", " on", " {}"])
def test_an_entry_with_nothing_to_say_is_a_sink_with_its_defaults(site: Path, choose: Choose, value: str) -> None:
    acme(site)
    (chosen,) = choose(f"acme:{value}")
    assert vars(chosen.sink) == {"given": ("localhost", 9464)}


def test_two_instances_of_one_type_are_two_sinks(site: Path, choose: Choose) -> None:
    acme(site)
    eu, us = choose("acme/eu: {host: eu}\nacme/us: {host: us}")
    assert [(s.key, vars(s.sink)["given"][0]) for s in (eu, us)] == [("acme/eu", "eu"), ("acme/us", "us")]


def test_a_function_may_make_the_sink(site: Path, choose: Choose) -> None:
    code = """
        class _Sink:
            def model_failed(self, ctx): ...
        def make(*, port: int = 1):
            sink = _Sink()
            sink.port = port
            return sink
        """
    install(site, "acme-sinks", {"acme": "acme_sinks:make"}, code)
    (chosen,) = choose("acme: {port: 5}")
    assert vars(chosen.sink) == {"port": 5}


# What is installed and what is not.


def test_a_type_that_is_misspelt_comes_with_the_nearest_and_with_all_that_there_are(site: Path, choose: Choose) -> None:
    acme(site)
    message = problem(choose, "acne: {port: 1}")
    assert message.startswith("hub.yaml:3:3: sinks.acne: no installed sink is called 'acne'; did you mean 'acme'?")
    assert "(installed: acme, loguru" in message


def test_a_type_that_nobody_knows_gets_no_guess_of_a_package(site: Path, choose: Choose) -> None:
    message = problem(choose, "zzzz:")
    assert "no installed sink is called 'zzzz' (installed: " in message
    assert "pip" not in message


def test_a_type_of_a_package_of_ours_comes_with_the_line_that_installs_it(
    choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(discovery.PACKAGES, "later", "mlxhub-later-sink")
    assert f"; install it with `{shlex.quote(sys.executable)} -m pip install mlxhub-later-sink` (inst" in problem(
        choose, "later:"
    )
    monkeypatch.setattr(sys, "executable", "/Users/me/My Hub/bin/python")
    command = problem(choose, "later/eu: {port: 1}").split("`")[1]
    assert shlex.split(command) == ["/Users/me/My Hub/bin/python", "-m", "pip", "install", "mlxhub-later-sink"]


def test_a_type_of_ours_that_is_misspelt_is_recognised_though_it_is_not_installed(
    choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(discovery.PACKAGES, "later", "mlxhub-later-sink")
    assert "did you mean 'later'?" in problem(choose, "latter:")


def test_two_packages_with_one_type_are_a_mistake_only_if_it_is_used(site: Path, choose: Choose) -> None:
    acme(site)
    install(site, "b-sinks", {"kafka": "b_sinks:AcmeSink"}, version="0.2")
    install(site, "a-sinks", {"kafka": "a_sinks:AcmeSink"}, version="3.1")
    assert [chosen.key for chosen in choose("acme:")] == ["acme"]
    assert problem(choose, "kafka:") == (
        "hub.yaml:3:3: sinks.kafka: sink type 'kafka' is offered by a-sinks 3.1 and b-sinks 0.2; "
        "write 'a-sinks:kafka' (or the other) to choose"
    )
    assert "write 'a-sinks:kafka/eu' (or" in problem(choose, "kafka/eu:")
    assert "installed: acme, kafka, loguru" in problem(choose, "zzzz:"), "each type once"


@pytest.mark.parametrize("key", ["b-sinks:kafka", "b_sinks:kafka", "B.Sinks:kafka/eu"])
def test_the_name_of_a_package_chooses_between_two(site: Path, choose: Choose, key: str) -> None:
    for name in ("a-sinks", "b-sinks"):
        install(site, name, {"kafka": f"{name.replace('-', '_')}:AcmeSink"})
    (chosen,) = choose(f"{key}: {{port: 1}}")
    assert chosen.key == key
    assert type(chosen.sink).__module__ == "b_sinks"


def test_a_package_that_does_not_offer_the_type_is_told_with_those_that_do(site: Path, choose: Choose) -> None:
    acme(site)
    assert problem(choose, "other-sinks:acme:") == (
        "hub.yaml:3:3: sinks.other-sinks:acme: no installed 'other-sinks' offers 'acme'; "
        "it is offered by acme-sinks 1.0"
    )


def test_only_what_hub_yaml_turns_on_is_imported(site: Path, choose: Choose) -> None:
    acme(site)
    for name in ("unused", "turned-off", "rival"):
        install(site, name, {name.replace("-", "_"): f"{name.replace('-', '_')}:AcmeSink"})
    (site / "rival-1.0.dist-info" / "entry_points.txt").write_text("[mlxhub.sinks]\nacme = rival:AcmeSink\n")
    choose("acme-sinks:acme: {}\nturned_off: off")
    assert "acme_sinks" in sys.modules
    assert not {"unused", "turned_off", "rival"} & set(sys.modules)


# What packages do wrong.

BROKEN = [
    ("raise SystemExit(3)", "acme_sinks:AcmeSink", "cannot be imported: SystemExit: 3"),
    ("import sys; sys.exit()", "acme_sinks:AcmeSink", "cannot be imported: SystemExit"),
    ("import no_such_module", "acme_sinks:AcmeSink", "cannot be imported: ModuleNotFoundError: No module named 'no_s"),
    ("raise RuntimeError('two\\n\\n   lines')", "acme_sinks:AcmeSink", "cannot be imported: RuntimeError: two lines"),
    ("this is no Python", "acme_sinks:AcmeSink", "cannot be imported: SyntaxError: "),
    (None, "acme_sinks:AcmeSink", "cannot be imported: ModuleNotFoundError: No module named 'acme_sinks'"),
    ("", "acme_sinks:AcmeSink", "cannot be imported: AttributeError: module 'acme_sinks' has no attribute 'AcmeSink'"),
    ("", "", "cannot be imported: ValueError: "),
    ("", "not a reference", "cannot be imported: ValueError: "),
    ("", "acme_sinks", "does not register a class: acme_sinks; tell its author"),
    ("AcmeSink = None", "acme_sinks:AcmeSink", "does not register a class: acme_sinks:AcmeSink; tell its author"),
    ("AcmeSink = 'text'", "acme_sinks:AcmeSink", "does not register a class: acme_sinks:AcmeSink; tell its author"),
]
BROKEN_IDS = [
    "exits-when-imported",
    "exits-without-a-word",
    "imports-what-is-not-there",
    "raises-two-lines",
    "does-not-compile",
    "is-not-there",
    "lacks-the-class",
    "names-nothing",
    "names-nonsense",
    "names-a-module",
    "names-none",
    "names-a-text",
]


@pytest.mark.parametrize(("code", "value", "reason"), BROKEN, ids=BROKEN_IDS)
def test_a_package_that_cannot_be_used_is_one_line_with_its_place_and_its_name(
    site: Path, choose: Choose, code: str | None, value: str, reason: str
) -> None:
    install(site, "acme-sinks", {"acme": value}, code, version="2.1")
    message = problem(choose, "loguru:\nacme: {port: 1}")
    assert message.startswith("hub.yaml:4:3: sinks.acme: acme-sinks 2.1 ")
    assert reason in message


def sink_class(body: str) -> str:
    return "class AcmeSink:\n" + indent(dedent(body).strip(), "    ") + "\n"


USELESS = [
    (
        "def __init__(self, *, port): ...",
        "acme-sinks 1.0 cannot be used: parameter 'port' has no type; tell its author",
    ),
    ("def __init__(self, *hosts: str): ...", "cannot be used: parameter *hosts: "),
    ("def __init__(self, *, x: Nope = 1): ...", "cannot be used: its types cannot be read: name 'Nope' is not defined"),
    ("def __init__(self, *, x: type(iter(())) = None): ...", "cannot be used: one of its types cannot be checked: "),
    ("pass", "acme-sinks 1.0: AcmeSink has no hook"),
    ("def __new__(cls): return None", "acme-sinks 1.0: NoneType has no hook"),
    ("def model_failed(self, ctx, *, host): ...", "acme-sinks 1.0: AcmeSink.model_failed asks for 'host', which sink"),
    ("async def model_failed(self, ctx): ...", "acme-sinks 1.0: AcmeSink.model_failed is async"),
    (
        "def __init__(self): raise ValueError('no  such\\nhost')",
        "acme-sinks 1.0 refused its options: ValueError: no su",
    ),
    ("def __init__(self): raise SystemExit(1)", "acme-sinks 1.0 refused its options: SystemExit: 1"),
]


@pytest.mark.parametrize(
    ("body", "reason"),
    USELESS,
    ids=[
        "an-option-without-a-type",
        "star-args",
        "a-type-that-is-not-there",
        "a-type-nobody-can-write",
        "no-hook",
        "no-sink-comes-out",
        "a-hook-that-asks-too-much",
        "an-async-hook",
        "a-constructor-that-raises",
        "a-constructor-that-exits",
    ],
)
def test_a_sink_that_cannot_be_used_is_one_line_with_its_place(
    site: Path, choose: Choose, body: str, reason: str
) -> None:
    # Types as text, as with the import from __future__: so that one that is missing does not fail the import.
    acme(site, "from __future__ import annotations\n" + sink_class(body))
    message = problem(choose, "acme:")
    assert message.startswith("hub.yaml:3:3: sinks.acme: ")
    assert reason in message


@pytest.mark.parametrize(
    "code",
    ["raise KeyboardInterrupt", sink_class("def __init__(self): raise KeyboardInterrupt")],
    ids=["import", "make"],
)
def test_a_ctrl_c_while_a_sink_is_made_is_not_its_fault(site: Path, choose: Choose, code: str) -> None:
    acme(site, code)
    with pytest.raises(KeyboardInterrupt):
        choose("acme:")


def test_an_error_of_mlxhub_that_a_constructor_raises_is_told_in_its_own_words(site: Path, choose: Choose) -> None:
    body = "def __init__(self): raise HubError('host and socket exclude each other')"
    acme(site, "from mlxhub_core import HubError\n" + sink_class(body))
    assert problem(choose, "acme:") == "hub.yaml:3:3: sinks.acme: acme-sinks 1.0: host and socket exclude each other"


# What users do wrong.


def test_every_mistake_in_every_sink_is_told_at_once_with_its_own_place(site: Path, choose: Choose) -> None:
    acme(site)
    found = problems(
        choose,
        """\
        acme/eu:
          prot: 8126
          port: yes
        nowhere:
        acme/us: {host: 10.1, port: "1"}
        acme/ok: {port: 1}
        """,
    )
    assert [(each.where, each.path) for each in found] == [
        ("hub.yaml:4:5", "sinks.acme/eu.prot"),
        ("hub.yaml:5:5", "sinks.acme/eu.port"),
        ("hub.yaml:6:3", "sinks.nowhere"),
        ("hub.yaml:7:13", "sinks.acme/us.host"),
        ("hub.yaml:7:25", "sinks.acme/us.port"),
    ]
    messages = {each.path: each.message for each in found}
    assert messages["sinks.acme/eu.prot"] == "unknown key; did you mean 'port'? (known: host, port, token)"
    assert messages["sinks.acme/eu.port"] == "must be a whole number, not yes/no"
    assert messages["sinks.acme/us.host"] == "must be text, not a number; put it in quotes"


def test_an_option_that_must_be_given_is_missed_at_its_sink(site: Path, choose: Choose) -> None:
    acme(site, sink_class("def __init__(self, *, host: str): ...\ndef model_failed(self): ..."))
    assert problem(choose, "acme: on") == "hub.yaml:3:3: sinks.acme.host: is required"


@pytest.mark.parametrize("value", ["{v: s3cr3t-canary}", "[s3cr3t-canary]"])
def test_no_message_repeats_an_option_for_it_may_be_a_secret(site: Path, choose: Choose, value: str) -> None:
    acme(site)
    assert "s3cr3t" not in problem(choose, f"acme: {{token: {value}}}")


def test_loguru_has_no_options(choose: Choose) -> None:
    message = problem(choose, "loguru: {level: DEBUG}")
    assert message.startswith("hub.yaml:3:12: sinks.loguru.level: unknown key")


def test_to_select_a_sink_is_not_to_open_it(site: Path, choose: Choose) -> None:
    acme(site, sink_class("calls = 0\ndef open(self): self.calls += 1\ndef model_failed(self): ..."))
    (chosen,) = choose("acme:")
    made: Any = chosen.sink
    assert made.calls == 0
    made.open()
    assert made.calls == 1
