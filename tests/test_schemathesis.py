"""Schemathesis asks a hub that runs whatever its own document allows, and what that forbids, over its real socket."""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from mlxhub_core import HubManager
from mlxhub_core.control.operations import OPERATIONS
from mlxhub_core.control.server import ControlServer
from mlxhub_core.place import place_of

EXAMPLES = 25
"""Requests for each operation, of each kind: all of them take a few seconds."""
BASE = "http://hub"
RIGHT, WRONG = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
QUESTIONS = [
    (operation.method, operation.path, mode)
    for operation in OPERATIONS
    # Where there is nothing to choose nothing can be wrong.
    for mode in (RIGHT, WRONG)[: 2 if operation.parameters else 1]
]
NAMES = ["a", "b", "broken", "qwen"]
ENDLESS = {"/hub/events", "/hub/models/{name}/log"}
SLEEPS = f"[{sys.executable}, -I, -S, -c, 'import signal; signal.pause()']"
HUB_YAML = f"""
log_path: logs
groups: [{{name: g, max_loaded: 1}}]
models:
  - {{name: a, group: g, command: {SLEEPS}}}
  - {{name: b, group: g, command: {SLEEPS}}}
  - {{name: broken, command: [/no/such/program]}}
"""


class UnixAdapter(HTTPAdapter):
    """Has requests ask over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        path = self._path

        class Connection(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(20)
                connection.connect(str(path))
                return connection

        class Pool(HTTPConnectionPool):
            ConnectionCls = cast(Any, Connection)

        return Pool("hub")


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))
        patch.setenv("HOME", home)
        config = Path(home) / "hub.yaml"
        config.write_text(HUB_YAML)
        hub = stack.enter_context(HubManager(config))
        server = ControlServer(hub, place_of(config), lambda _keep: None)
        stack.callback(server.close)
        server.start()
        hub.reload()
        found = stack.enter_context(requests.Session())
        found.mount(BASE, UnixAdapter(place_of(config).socket))
        yield found


@pytest.fixture(scope="module")
def schema(session: requests.Session) -> Any:
    return schemathesis.openapi.from_dict(session.get(f"{BASE}/openapi.json").json())


@pytest.mark.parametrize(("method", "path", "mode"), QUESTIONS, ids=lambda value: str(getattr(value, "value", value)))
def test_no_answer_is_a_500_or_another_than_the_document_says(
    session: requests.Session, schema: Any, method: str, path: str, mode: schemathesis.GenerationMode
) -> None:
    cases = schema[path][method].as_strategy(generation_mode=mode)

    @seed(4711)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases, st.sampled_from([*NAMES, None]))
    def ask(case: Any, name: str | None) -> None:
        if name is not None and "{name}" in path and mode is RIGHT:
            case.path_parameters["name"] = name
        if path in ENDLESS and (case.query or {}).get("follow", True) in (True, "true"):
            case.query = {**(case.query or {}), "follow": "false"}
        case.call_and_validate(base_url=BASE, session=session, timeout=20)

    ask()
