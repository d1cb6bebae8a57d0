"""Whatever hub.yaml and the options of its sinks hold, what comes of it is settings or a list of mistakes in words."""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxhub_core.errors import ConfigError
from mlxhub_core.logs import log_file
from mlxhub_core.selection import select
from mlxhub_core.settings import HubSettings, load_settings

LONGEST = 5.0
"""Seconds that a file of a few kilobytes may take, on a busy machine."""
CANARY = "canary-5ecret"
EXAMPLE = """\
log_path: ~/logs
log_rotation: {max_bytes: 50MB, backups: 5, compress: true}
host: 127.0.0.1
model_starting_port: 27850
log_level: INFO
sinks:
  loguru: off
  prometheus: {listen: "127.0.0.1:9464", tls: {cert: a.pem, key: b.pem}}
  statsd/eu: &eu
    host: stats.eu.internal
    dialect: dogstatsd
    tags: {site: berlin}
    delivery: {queue: 4096, only: [model_failed], required: false}
groups:
  - {name: big, max_loaded: 1}
models:
  - name: qwen3-4b
    model_path: mlx-community/Qwen3-4B-4bit
    default: true
    group: big
    restart: {policy: on-failure, delay: 1, max_delay: 60, factor: 2, jitter: 0.1, max_failures: 5, window: 600}
    health: {interval: 30, timeout: 5, startup_timeout: 600, failures: 3}
    options: {max-tokens: 2048, chat-template-args: {enable_thinking: false}}
    memory: {required: 4GB}
    env: {A: "b"}
  - {name: other, command: [my-server, --port, "{port}", "{model_path}"], model_path: anything, working_directory: .}
"""
TOKENS = [
    "*eu",
    "&a",
    "<<: ",
    "!!python/object/apply:os.system [x]",
    "|",
    ">",
    "? ",
    "- ",
    "~",
    "0x7f",
    ".nan",
    "1e999",
]
TOKENS += [
    "..",
    "../../x",
    "\x00",
    "\u2028",
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    "{",
    "]",
    "'",
]
TOKENS += ["{name}", "{port}", "{{", "%s", "99999999999999999999999", "-1", "true", "off", "\t", "#", "---\n", "...\n"]
patient = settings(deadline=None, suppress_health_check=list(HealthCheck))

keys = st.sampled_from(sorted(set(re.findall(r"[a-z_-]{3,}(?=:)", EXAMPLE)))) | st.text(max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(
        ["../../etc/x", "/etc/passwd", "a/b", "..", "", "on-failure", "50MB", "{port}", CANARY, "\x00", "~no"]
    )
    | st.text(max_size=12)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=12
)


def check_words(error: ConfigError) -> None:
    """Each mistake is a line with its place."""
    assert error.problems
    for problem in error.problems:
        assert "hub.yaml" in problem.where, problem
        assert "\n" not in str(problem)
        assert "Traceback" not in str(problem)


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], HubSettings | ConfigError]:
    path = tmp_path_factory.mktemp("hub") / "hub.yaml"

    def read(content: bytes) -> HubSettings | ConfigError:
        path.write_bytes(content)
        begun = time.monotonic()
        found: HubSettings | ConfigError
        try:
            found = load_settings(path)
        except ConfigError as error:
            found = error
        assert time.monotonic() - begun < LONGEST
        if isinstance(found, ConfigError):
            check_words(found)
            return found
        for model in found.models:
            log = log_file(found.log_path, model.name)
            assert log.parent == found.log_path
            assert log.name == f"{model.name}.log"
            assert not set("/\\\0") & set(model.name)
        return found

    return read


Read = Callable[[bytes], HubSettings | ConfigError]


def test_the_example_that_all_mutants_come_from_is_good(read: Read) -> None:
    assert isinstance(read(EXAMPLE.encode()), HubSettings)


@patient
@given(st.binary(max_size=300))
def test_any_bytes_at_all(read: Read, content: bytes) -> None:
    read(content)


def test_bytes_of_a_good_file_changed_moved_doubled_and_lost(read: Read, pytestconfig: pytest.Config) -> None:
    chance = random.Random(pytestconfig.getoption("--chaos-seed"))
    for _ in range(600):
        read(mutant(EXAMPLE.encode(), chance))


def mutant(content: bytes, chance: random.Random) -> bytes:
    """As a byte fuzzer makes them: a few changes in any place."""
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        place = chance.randrange(len(content) + 1)
        end = min(len(content), place + chance.choice([0, 1, 1, 4, 40]))
        piece = chance.choice(
            [
                b"",
                chance.randbytes(1),
                bytes([content[place % len(content)] ^ 1 << chance.randrange(8)]) if content else b"",
                content[place:end] * chance.choice([2, 50]),
                chance.choice(TOKENS).encode("utf-8", "surrogatepass"),
                chance.choice(content.splitlines(keepends=True) or [b""]),
            ]
        )
        content = content[:place] + piece + content[end:]
    return content


@patient
@given(st.dictionaries(keys, values, max_size=6))
def test_any_structure_with_keys_of_ours(read: Read, content: dict[str, Any]) -> None:
    read(json.dumps(content).encode())


@patient
@given(
    st.lists(
        st.fixed_dictionaries(
            {"name": scalars | st.just("a"), "command": st.just(["x"])},
            optional={
                "env": values,
                "restart": values,
                "health": values,
                "group": scalars,
                "port": scalars,
                "working_directory": scalars,
                "memory": values,
                "options": values,
                "args": values,
            },
        ),
        max_size=3,
    )
)
def test_models_whose_values_are_of_any_kind(read: Read, models: list[dict[str, Any]]) -> None:
    read(json.dumps({"models": models}).encode())


SINKS = [pytest.param(name, marks=pytest.mark.sinks(name)) for name in ("loguru", "statsd", "prometheus", "otlp")]
OPTIONS = """host port address prefix dialect tags max_packet gauge_interval timeout listen namespace tls textfile
process_metrics process_interval level delivery cert key env file"""
options = st.sampled_from(OPTIONS.split()) | st.text(max_size=6)


@pytest.mark.parametrize("sink", SINKS)
@settings(patient, max_examples=60)
@given(st.dictionaries(options, values, max_size=5))
def test_options_of_any_kind_make_a_sink_or_are_told_to_be_wrong(read: Read, sink: str, given: dict[str, Any]) -> None:
    found = read(json.dumps({"sinks": {sink: given}, "models": [{"name": "a", "command": ["x"]}]}).encode())
    if isinstance(found, HubSettings):
        begun = time.monotonic()
        with contextlib.suppress(ConfigError):
            select(found, found.sinks)
        assert time.monotonic() - begun < LONGEST
