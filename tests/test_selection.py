"""From `sinks:` in hub.yaml to sink objects: what is installed is found, what is wrong is told with its place."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
from click.testing import CliRunner

from mlxhub_core import ConfigError, LoggingHubObservabilitySink, Problem, discovery
from mlxhub_core.cli import cli
from mlxhub_core.discovery import scan
from mlxhub_core.hookspecs import DEPRECATED
from mlxhub_core.manager import HubManager
from mlxhub_core.selection import Selected, Selection, select
from mlxhub_core.settings import load_settings

SINK = """
    class AcmeSink:
        def __init__(self, *, host: str = "localhost", port: int = 9464, token: str | None = None) -> None:
            self.given = (host, port)
        def model_failed(self, ctx): ...
    """

Choose = Callable[[str], list[Selected]]
SelectFrom = Callable[..., Selection]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of installed packages. What is imported from there is forgotten afterwards."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delenv("MLXHUB_NO_SINKS", raising=False)
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
def select_from(tmp_path: Path, site: Path) -> SelectFrom:
    """Select the sinks of a hub.yaml, given what stands under its `sinks:`, which begins at 3:3, and what runs."""

    def from_text(sinks: str, running: Iterable[Selected] = ()) -> Selection:
        config = tmp_path / "hub.yaml"
        config.write_text("models: [{name: m, command: [x]}]\nsinks:\n" + indent(dedent(sinks), "  ") + "\n")
        settings = load_settings(config)
        return select(settings, settings.sinks, {one.key: one for one in running})

    return from_text


@pytest.fixture
def choose(select_from: SelectFrom) -> Choose:
    """The sinks of a hub.yaml but for Loguru's, when nothing is to be warned of."""

    def chosen(sinks: str) -> list[Selected]:
        selection = select_from(sinks)
        assert selection.warnings == ()
        return [one for one in selection.sinks if one.key != "loguru"]

    return chosen


def problems(choose: Choose, sinks: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        choose(sinks)
    assert len(str(caught.value).splitlines()) == len(caught.value.problems), "one line each"
    return caught.value.problems


def problem(choose: Choose, sinks: str) -> str:
    (only,) = problems(choose, sinks)
    return str(only)


# What is right.


def test_loguru_is_on_by_itself_and_found_like_any_other(select_from: SelectFrom) -> None:
    (chosen,) = select_from("").sinks
    assert chosen.key == "loguru"
    assert isinstance(chosen.sink, LoggingHubObservabilitySink)


def test_loguru_may_be_off(select_from: SelectFrom) -> None:
    assert select_from("loguru: off") == Selection((), ())


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


def test_in_safe_mode_no_package_of_a_sink_is_imported(
    site: Path, select_from: SelectFrom, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme(site, "raise SystemExit(3)")
    monkeypatch.setenv("MLXHUB_NO_SINKS", "1")
    assert select_from("acme: {prot: 1}\nnowhere:") == Selection((), ())


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


@pytest.mark.parametrize("key", ["acme-sinks", "Acme.Sinks", "acme_sinks/eu"])
def test_the_name_of_a_package_in_the_place_of_a_type_comes_with_the_types_that_it_offers(
    site: Path, choose: Choose, key: str
) -> None:
    install(site, "acme-sinks", {"mqtt": "acme_sinks:AcmeSink", "kafka": "acme_sinks:AcmeSink"})
    message = problem(choose, f"{key}: {{port: 1}}")
    assert f"called {key.partition('/')[0]!r}; that is a package, which offers kafka, mqtt (installed: " in message


def test_a_package_that_cannot_be_read_may_be_the_one_that_is_missed(site: Path, choose: Choose) -> None:
    install(site, "acme-sinks", {"acme": "acme_sinks:AcmeSink"})
    (site / "acme_sinks-1.0.dist-info" / "METADATA").unlink()
    message = problem(choose, "acme:")
    assert "no installed sink is called 'acme'" in message
    assert f"; {site / 'acme_sinks-1.0.dist-info'} cannot be read (" in message


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


@pytest.mark.parametrize(
    ("package", "advised"), [("mlxhub-later-sink", True), ("MLXHub_Later.Sink", True), ("acme-sinks", False)]
)
def test_a_package_of_ours_is_advised_unless_the_type_shall_come_from_another(
    choose: Choose, monkeypatch: pytest.MonkeyPatch, package: str, *, advised: bool
) -> None:
    monkeypatch.setitem(discovery.PACKAGES, "later", "mlxhub-later-sink")
    assert ("-m pip install mlxhub-later-sink`" in problem(choose, f"{package}:later:")) is advised


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
        "acme-sinks 1.0 refused its options: ValueError: no such host",
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


def test_mistakes_in_models_and_in_the_options_of_sinks_are_told_together(site: Path, tmp_path: Path) -> None:
    acme(site)
    config = tmp_path / "hub.yaml"
    config.write_text(
        "models: [{nmae: m, command: [x]}]\n"
        "sinks:\n  acme: {prot: 1}\n  nosuch: {}\n  acme/b: {port: x, delivery: {required: false}}\n"
    )
    with HubManager(config) as hub, pytest.raises(ConfigError) as caught:
        hub.reload()
    assert [(each.where, each.path) for each in caught.value.problems] == [
        ("hub.yaml:1:10", "models[0].name"),
        ("hub.yaml:1:11", "models[0].nmae"),
        ("hub.yaml:3:10", "sinks.acme.prot"),
        ("hub.yaml:4:3", "sinks.nosuch"),
    ]


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


# What the hub can do without.

NEEDLESS = [
    ("nowhere: {%s}", "3:3", "no installed sink is called 'nowhere'"),
    ("broken: {%s}", "3:3", "broken-sinks 1.0 cannot be imported: SystemExit: 3"),
    ("acme: {port: x, %s}", "3:10", "must be a whole number"),
    ("kafka: {%s}", "3:3", "is offered by a-sinks 1.0 and b-sinks 1.0"),
]


@pytest.mark.parametrize(("entry", "place", "words"), NEEDLESS, ids=["missing", "broken", "wrong", "ambiguous"])
def test_a_sink_that_is_not_required_is_a_warning_and_the_others_are_on(
    site: Path, select_from: SelectFrom, entry: str, place: str, words: str
) -> None:
    acme(site)
    install(site, "broken-sinks", {"broken": "broken_sinks:Sink"}, "raise SystemExit(3)")
    for package in ("a-sinks", "b-sinks"):
        install(site, package, {"kafka": "acme_sinks:AcmeSink"}, None)
    selection = select_from(entry % "delivery: {required: false}" + "\nacme/ok:")
    assert [one.key for one in selection.sinks] == ["loguru", "acme/ok"]
    (warning,) = selection.warnings
    assert warning.where == f"hub.yaml:{place}"
    assert words in warning.message
    assert len(str(warning).splitlines()) == 1
    assert words in problem(lambda text: [*select_from(text).sinks], entry % "delivery: {required: true}")


def test_what_is_wrong_with_sinks_that_are_not_required_is_all_told_in_the_order_of_the_file(
    site: Path, select_from: SelectFrom
) -> None:
    acme(site)
    needless = "delivery: {required: false}"
    selection = select_from(f"acme: {{prot: 1, port: x, host: 2, {needless}}}\nnowhere: {{{needless}}}")
    places = [warning.path for warning in selection.warnings]
    assert places == ["sinks.acme.prot", "sinks.acme.port", "sinks.acme.host", "sinks.nowhere"]


def test_a_sink_that_is_required_stops_the_hub_whatever_is_wrong_with_one_that_is_not(
    site: Path, choose: Choose
) -> None:
    line = problem(choose, "nowhere: {delivery: {required: false}}\nelsewhere:")
    assert line.startswith("hub.yaml:4:3: sinks.elsewhere: ")


# What a reload does to the sinks that run.

CHANGEABLE = """
    from __future__ import annotations
    from dataclasses import dataclass
    from mlxhub_core import Secret
    @dataclass
    class Login:
        password: Secret | None = None
    class AcmeSink:
        def __init__(
            self, *, host: str = "h", tags: dict = {}, flag: int | bool = 1, token: Secret | None = None,
            logins: list[Login] = [],
        ) -> None:
            tags["more"] = "than it was given"
        def model_failed(self, ctx): ...
    """


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("acme: {host: x, flag: 2}", "# A comment.\nacme:\n  flag: 2\n  host: x"),
        ("acme: {host: x}", "loguru: off\nacme/other:\nacme: {host: x}"),
        ("acme: on", "acme: {delivery: {queue: 1024, required: true}}"),
        ("acme: {tags: {a: 1, 2: b}}", "acme: {tags: {a: 1, 2: b}}"),
        ("acme: {token: {file: token}}", "acme: {token: {file: token}}"),
        ("acme: {token: {env: ACME_TOKEN}}", "acme: {token: {env: ACME_TOKEN}}"),
    ],
    ids=["written-otherwise", "moved", "defaults-spelt-out", "keys-of-all-sorts", "secret-in-a-file", "no-utf-8"],
)
def test_a_sink_for_which_nothing_has_changed_runs_on(
    site: Path, select_from: SelectFrom, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    acme(site, CHANGEABLE)
    (site.parent / "token").write_text("s3cr3t")
    monkeypatch.setenv("ACME_TOKEN", os.fsdecode(b"\xff"))
    running = select_from("loguru: off\n" + before).sinks
    assert next(one for one in select_from(after, running).sinks if one.key == "acme") is running[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{host: x}", "{host: y}"),
        ("{host: x}", "{}"),
        ("{flag: 1}", "{flag: true}"),
        ("{tags: {a: 1}}", "{tags: {a: 1.0}}"),
        ("{}", "{delivery: {queue: 5}}"),
        ("{delivery: {only: [model_failed]}}", "{delivery: {only: [model_failed, model_ready]}}"),
        ("{}", "{token: s3cr3t}"),
        ("{token: {env: ACME_TOKEN}}", "{token: {file: token}}"),
    ],
    ids=str,
)
def test_a_sink_whose_options_or_delivery_have_changed_is_made_anew(
    site: Path, select_from: SelectFrom, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    acme(site, CHANGEABLE)
    (site.parent / "token").write_text("s3cr3t")
    monkeypatch.setenv("ACME_TOKEN", "s3cr3t")
    running = select_from(f"acme/x: {{}}\nacme: {before}").sinks
    now = select_from(f"acme/x: {{}}\nacme: {after}", running).sinks
    assert [one is other for one, other in zip(running, now, strict=True)] == [True, True, False]
    assert now[2].sink is not running[2].sink


@pytest.mark.parametrize("secret", ["{file: token}", "{env: ACME_TOKEN}"])
@pytest.mark.parametrize("options", ["token: %s", "logins: [{}, {password: %s}]"], ids=["option", "deep-inside"])
def test_a_sink_is_made_anew_when_a_secret_has_changed_where_it_is_kept(
    site: Path, select_from: SelectFrom, monkeypatch: pytest.MonkeyPatch, options: str, secret: str
) -> None:
    acme(site, CHANGEABLE)

    def select_when_it_is(text: str, running: Iterable[Selected] = ()) -> Selected:
        (site.parent / "token").write_text(text + "\n")
        monkeypatch.setenv("ACME_TOKEN", text)
        (_, chosen) = select_from(f"acme: {{{options % secret}}}", running).sinks
        assert text not in repr(chosen)
        assert repr(chosen.digest) not in repr(chosen), "a short secret could be guessed from it"
        return chosen

    running = select_when_it_is("s3cr3t")
    assert select_when_it_is("s3cr3t", [running]) is running
    assert select_when_it_is("an0ther", [running]) is not running


def test_a_sink_that_runs_and_now_is_wrong_is_told_and_goes_only_if_it_is_not_required(
    site: Path, select_from: SelectFrom
) -> None:
    acme(site)
    running = select_from("acme: {port: 1}").sinks
    with pytest.raises(ConfigError, match=r"hub\.yaml:3:10: sinks\.acme\.port: must be a whole number"):
        select_from("acme: {port: x}", running)
    selection = select_from("acme: {port: x, delivery: {required: false}}", running)
    assert selection.sinks == running[:1], "Loguru's"
    assert [warning.path for warning in selection.warnings] == ["sinks.acme.port"]


# What a later hub will not have, and what an older one does not.


def test_a_sink_of_a_later_api_is_refused_with_one_sentence_before_anything_else_of_it(
    site: Path, choose: Choose
) -> None:
    acme(
        site,
        "class AcmeSink:\n    sink_api = 2\n    def __init__(self, *untyped): ...\n    def model_slept(self): ...\n",
    )
    assert problem(choose, "acme: {host: h}") == (
        "hub.yaml:3:3: sinks.acme: acme-sinks 1.0: AcmeSink needs sink API 2, and this hub has 1; upgrade mlxhub-core"
    )


def test_one_that_only_the_object_can_tell_is_asked_of_the_object(site: Path, choose: Choose) -> None:
    acme(
        site,
        """
        class AcmeSink:
            @property
            def sink_api(self): return 3
            def model_failed(self): ...
        """,
    )
    assert "needs sink API 3, and this hub has 1" in problem(choose, "acme:")


def test_what_a_sink_uses_that_is_deprecated_is_told_with_the_sink_and_its_place_and_the_sink_is_on(
    site: Path, select_from: SelectFrom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(DEPRECATED, "model_failed.exit_code", "use event.end")
    acme(site, "class AcmeSink:\n    def model_failed(self, ctx, exit_code): ...\n")
    words = (
        "hub.yaml:4:3: sinks.acme: acme-sinks 1.0: AcmeSink.model_failed asks for 'exit_code', which is deprecated: "
        "use event.end; tell its author"
    )
    selection = select_from("loguru: off\nacme:")
    assert [str(each) for each in selection.deprecations] == [words]
    assert [each.key for each in selection.sinks] == ["acme"]
    again = select_from("loguru: off\nacme:", selection.sinks)
    assert again == selection, "one that runs already is told of again"
    with HubManager(tmp_path / "hub.yaml") as hub:
        assert hub.plan().warnings == (words,)
    checked = CliRunner().invoke(cli, ["check", str(tmp_path / "hub.yaml")])
    assert checked.exit_code == 0
    assert f"warning: {words}\n" in checked.stderr


def test_a_plan_tells_every_warning_there_is(site: Path, tmp_path: Path) -> None:
    acme(site, "raise OSError")
    (tmp_path / "hub.yaml").write_text(
        "models: [{name: m, command: [x]}]\nhost: 0.0.0.0\nsinks:\n  acme: {delivery: {required: false}}\n"
    )
    with HubManager(tmp_path / "hub.yaml") as hub:
        unsafe, missing = hub.plan().warnings
    assert unsafe.startswith("hub.yaml:2:1: host")
    assert missing.startswith("hub.yaml:4:3: sinks.acme: acme-sinks 1.0 cannot be imported: OSError")
