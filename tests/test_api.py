"""The control API of a hub that runs, over its real socket: what has happened, logs, its document, and TCP."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator

from mlxhub_core import ConfigError, HubManager
from mlxhub_core.control import answering, door
from mlxhub_core.control.client import ControlClient
from mlxhub_core.control.history import History
from mlxhub_core.control.openapi import document
from mlxhub_core.control.server import ControlServer
from mlxhub_core.errors import HubError
from mlxhub_core.events import HubEvent, HubModelContext
from mlxhub_core.observability import HubInfo
from mlxhub_core.place import place_of
from mlxhub_core.testing import RecordingSink, wait_until

OTHER_UID = 65534
LOOPBACK = "127.0.0.1"


class Hub:
    """A hub that runs, and those who ask it."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.sink = RecordingSink()
        self.stops: list[bool] = []
        self.manager = HubManager(config, observability_sink=self.sink)
        self.server = ControlServer(self.manager, place_of(config), self.stops.append, config.with_name("hub.log"))
        self.server.start()
        self.client = ControlClient(config)

    def write(self, *models: str, top: str = "") -> None:
        lines = "".join(f"  - {model}\n" for model in models)
        self.config.write_text(f"log_path: logs\n{top}models:\n{lines}")

    def run(self, *models: str, top: str = "") -> None:
        self.write(*models, top=top)
        self.manager.reload()

    def start(self, model: str) -> None:
        """Start a model, and wait until all events of its start are there."""
        self.manager.start_model(model)
        wait_until(lambda: self.events(models=[model])[-1]["hook"] == "model_ready")

    def log_of(self, model: str) -> Path:
        return self.config.parent / "logs" / f"{model}.log"

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        with self.asked(method, path, headers) as response:
            return response.status, dict(response.getheaders()), response.read()

    @contextlib.contextmanager
    def asked(self, method: str, path: str, headers: dict[str, str] | None = None) -> Iterator[HTTPResponse]:
        """Ask, and read what comes as it comes."""
        connection = HTTPConnection("hub", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.settimeout(20)
            connection.sock.connect(str(place_of(self.config).socket))
            connection.request(method, path, headers=headers or {})
            with connection.getresponse() as response:
                yield response

    def events(self, **about: Any) -> list[dict[str, Any]]:
        with self.client.events(follow=False, **about) as found:
            return list(found)

    def close(self) -> None:
        self.manager.shutdown()
        self.server.close()


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        monkeypatch.setenv("HOME", home)
        yield Path(home) / "hub.yaml"


@pytest.fixture
def hub(config: Path) -> Iterator[Hub]:
    found = Hub(config)
    yield found
    found.close()
    wait_until(lambda: not [each for each in threading.enumerate() if each.name.startswith("control")])


def sleeper(name: str, **keys: str) -> str:
    return says(name, "pass", **keys)


def says(name: str, code: str, **keys: str) -> str:
    """A model that runs this, and then does nothing."""
    program = f"import signal, os, sys, time\n{code}\nsignal.pause()"
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"{{name: {name}, command: [{sys.executable}, -I, -S, -u, -c, {json.dumps(program)}]{more}}}"


def fails(name: str, **keys: str) -> str:
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"{{name: {name}, command: [{sys.executable}, -I, -S, -c, 'raise SystemExit(3)']{more}}}"


# What has happened.


def test_a_hub_tells_all_that_has_happened_since_its_start_in_order(hub: Hub) -> None:
    hub.run(sleeper("a", group="g"))
    hub.start("a")
    hub.manager.stop_model("a")
    told = hub.events()
    assert [event["hook"] for event in told] == ["hub_started", "model_started", "model_ready", "model_stopped"]
    assert [event["seq"] for event in told] == [0, 1, 2, 3]
    assert told[0]["hub"]["pid"] == os.getpid()
    started, *_, stopped = told[1:]
    recorded = hub.sink.of("a", "model_started")[0]
    assert (started["model"], started["group"]) == ("a", "g")
    assert started["pid"] == recorded.arguments["pid"]
    assert started["event"]["id"] == recorded.event.id
    assert (stopped["exit_code"], stopped["event"]["signal"]) == (-signal.SIGTERM, "SIGTERM")


def test_each_is_a_server_sent_event_with_an_id_a_name_and_one_line_of_json(hub: Hub) -> None:
    hub.run(sleeper("a"))
    hub.start("a")
    status, headers, body = hub.ask("GET", "/hub/events?follow=false")
    assert status == 200
    assert headers["content-type"].partition(";")[0] == "text/event-stream"
    assert body.isascii()
    *blocks, last = body.decode().split("\n\n")
    assert last == ""
    for block in blocks:
        match = re.fullmatch(r"id: ([0-9a-f]+:\d+)\nevent: (\w+)\ndata: (.*)", block)
        assert match, block
        told = json.loads(match[3])
        assert (told["id"], told["hook"]) == (match[1], match[2])


def test_who_comes_back_gets_what_came_after_the_last_event_that_it_knows_and_nothing_twice(hub: Hub) -> None:
    hub.run(sleeper("a"))
    hub.start("a")
    known = hub.events()[-1]["id"]
    assert hub.events(last_id=known) == []
    hub.manager.stop_model("a")
    assert [event["hook"] for event in hub.events(last_id=known)] == ["model_stopped"]


@pytest.mark.parametrize("last_id", ["0badcafe:3", "nonsense", "", ":", "0badcafe:" + "9" * 30])
def test_who_comes_back_to_another_hub_gets_all_that_this_one_knows(hub: Hub, last_id: str) -> None:
    hub.run(sleeper("a"))
    assert [event["hook"] for event in hub.events(last_id=last_id)] == ["hub_started"]


def test_events_may_be_asked_for_by_time_and_by_model(hub: Hub) -> None:
    hub.run(sleeper("a"), sleeper("b"), sleeper("c"))
    for name in ("a", "b", "c"):
        hub.start(name)
    moment = hub.events(models=["c"])[0]["time"]
    assert {event["model"] for event in hub.events(models=["a", "b"])} == {"a", "b"}
    assert [event["model"] for event in hub.events(since=moment)] == ["c", "c"]
    assert hub.events(since=moment, models=["a"]) == []


def test_a_model_that_nobody_knows_is_told_with_the_nearest_name_but_one_that_was_is_known(hub: Hub) -> None:
    hub.run(sleeper("qwen", default="true"), sleeper("b"))
    with pytest.raises(HubError, match="did you mean 'qwen'"):
        hub.client.events(models=["qwem"])
    hub.run(sleeper("b"))
    assert hub.events(models=["qwen"])[-1]["hook"] == "model_stopped"


def test_a_follower_hears_of_each_event_as_it_comes_and_of_the_last_ones_before_the_end(hub: Hub) -> None:
    hub.run(sleeper("a"))
    got: list[str] = []
    arrived = threading.Condition()

    def follow() -> None:
        with hub.client.events() as events:
            for event in events:
                with arrived:
                    got.append(event["hook"])
                    arrived.notify()

    thread = threading.Thread(target=follow)
    thread.start()
    hub.start("a")
    with arrived:
        assert arrived.wait_for(lambda: got == ["hub_started", "model_started", "model_ready"], 20)
    hub.close()
    thread.join(20)
    assert not thread.is_alive()
    assert got[3:] == ["hub_stopping", "model_stopped"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux counts the switches of a thread")
def test_while_nothing_happens_a_follower_of_events_costs_nothing(hub: Hub) -> None:
    hub.run(sleeper("a"))
    (thread,) = (each for each in threading.enumerate() if each.name == "control")

    def switches() -> list[str]:
        text = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        return [line for line in text.splitlines() if "ctxt_switches" in line]

    with hub.client.events() as events:
        assert next(iter(events))["hook"] == "hub_started"
        threading.Event().wait(0.2)  # it goes back to sleep
        before = switches()
        threading.Event().wait(2)
        assert len(before) == 2
        assert switches() == before


def test_the_end_of_the_hub_is_the_proper_end_of_the_stream(hub: Hub) -> None:
    with hub.asked("GET", "/hub/events") as response:
        assert response.readline().startswith(b"id: ")
        closing = threading.Thread(target=hub.close)
        closing.start()
        assert b"hub_stopping" in response.read(), "it would raise if the last chunk was missing"
        closing.join()


def test_who_closes_its_events_in_another_thread_ends_the_wait_for_the_next_one(hub: Hub) -> None:
    hub.run(sleeper("a"))
    events = hub.client.events()
    first = threading.Event()
    ended = threading.Event()

    def follow() -> None:
        for _ in events:
            first.set()
        ended.set()

    threading.Thread(target=follow).start()
    assert first.wait(20)
    assert not ended.is_set()
    events.close()
    assert ended.wait(20)


def test_followers_that_hang_up_are_forgotten_at_once_though_nothing_happens(hub: Hub) -> None:
    (plugin,) = (each for each, _ in hub.manager._fanout._registered)
    history = cast(History, plugin)
    with hub.asked("GET", "/hub/events") as one, hub.asked("GET", "/hub/events") as other:
        assert one.readline() == other.readline()
        assert len(history._followers) == 2
    wait_until(lambda: history._followers == [])


def test_since_is_about_what_was_and_keeps_nothing_new_from_a_follower_whatever_the_clock_says(hub: Hub) -> None:
    hub.run(sleeper("a"))
    with hub.client.events(since=time.time() + 3600) as events:
        hub.manager.start_model("a")
        assert next(iter(events))["hook"] == "model_started"


def test_a_follower_that_reads_nothing_holds_up_nobody_and_is_told_of_its_gap(hub: Hub) -> None:
    hub.run(sleeper("a"))
    (plugin,) = (each for each, _ in hub.manager._fanout._registered)
    history = cast(History, plugin)
    number = 3 * 1000
    with hub.asked("GET", "/hub/events") as response:
        for _ in range(4):
            response.readline()
        begin = time.monotonic()
        # Far more than what the buffers of a socket hold.
        for seq in range(1, number + 1):
            event = HubEvent(seq=seq, id=str(seq), time=1.0, log_tail=("x" * 400,) * 5)
            cast(Any, history).model_started(HubModelContext("a", None, "/a.log"), seq, event)
        assert time.monotonic() - begin < 10
        told: list[dict[str, Any]] = []
        while not told or told[-1]["seq"] < number:
            line = response.readline()
            if line.startswith(b"data: "):
                told.append(json.loads(line[6:]))
    (gap,) = (event for event in told if event["hook"] == "events_lost")
    assert len(told) - 1 + gap["count"] == number, "each was told, or counted as lost"
    seqs = [event["seq"] for event in told]
    assert seqs == sorted(seqs)
    assert gap["count"] > 0


def info() -> HubInfo:
    return HubInfo(version="1", python="3", mlx_lm=None, pid=1, config_path="/hub.yaml", started_at=1.0)


def heard(history: History, *seqs: int) -> None:
    for seq in seqs:
        cast(Any, history).hub_stopping(HubEvent(seq=seq, id=str(seq), time=float(seq)))


def kept(history: History, after: int | None) -> list[tuple[str, int]]:
    return [(entry.hook, entry.event.seq) for entry in history.after(after)]


def test_only_the_last_events_are_kept_and_who_missed_some_is_told_how_many() -> None:
    history = History(info(), kept=3)
    heard(history, 1, 2, 3, 4, 5)
    assert kept(history, None) == [("hub_stopping", 3), ("hub_stopping", 4), ("hub_stopping", 5)]
    assert kept(history, 3) == [("hub_stopping", 4), ("hub_stopping", 5)]
    assert kept(history, 2) == [("hub_stopping", 3), ("hub_stopping", 4), ("hub_stopping", 5)]
    assert kept(history, 0) == [("events_lost", 2), *kept(history, None)]
    assert history.after(0)[0].arguments == {"count": 2}
    assert kept(history, 5) == []
    assert kept(history, 99) == []


def test_a_follower_whose_loop_has_ended_keeps_no_event_from_the_others() -> None:
    history = History(info())
    woken: list[int] = []

    def dead() -> None:
        raise RuntimeError("Event loop is closed")

    with history.waking(dead), history.waking(lambda: woken.append(1)):
        heard(history, 1)
    assert kept(history, 0) == [("hub_stopping", 1)]
    assert woken == [1]


# The status.


def test_the_status_tells_of_the_hub_and_of_the_memory_of_each_model(hub: Hub) -> None:
    # The parent in between ends: what is of a session is of it, also without a parent there.
    spawns = """
if os.fork() == 0:
    if os.fork() == 0:
        x = bytearray(50_000_000)
        signal.pause()
    os._exit(0)
os.wait()
"""
    hub.run(says("tree", spawns, default="true"), sleeper("idle"), sleeper("small", default="true"))
    wait_until(lambda: hub.client.get("/hub/status")["models"][0]["memory_bytes"] > 50_000_000)
    status = hub.client.get("/hub/status")
    tree, idle, small = status["models"]
    assert 1_000_000 < small["memory_bytes"] < 40_000_000
    assert idle["memory_bytes"] is None
    assert status["log"] == str(hub.config.with_name("hub.log"))
    assert status["started_at"] == hub.manager.info().started_at
    assert status["version"] == hub.manager.info().version
    assert tree["log_begin"] == 0


def test_the_status_says_when_a_model_will_be_started_again_and_where_its_runs_begin(hub: Hub) -> None:
    code = "print('x' * 9); sys.exit(3)"
    hub.run(says("a", code, restart="{delay: 60, jitter: 0}"))
    hub.manager.start_model("a")
    hub.sink.wait_for("model_restarting", "a")
    (model,) = hub.client.get("/hub/status")["models"]
    assert model["restart_at"] == pytest.approx(model["stopped_at"] + 60, abs=20)
    assert (model["log_begin"], model["previous_log_begin"]) == (0, None)
    first = model["started_at"]
    hub.manager.start_model("a")
    hub.sink.wait_for("model_restarting", "a", count=2)
    (model,) = hub.client.get("/hub/status")["models"]
    assert (model["log_begin"], model["previous_log_begin"], model["previous_started_at"]) == (10, 0, first)
    hub.manager.stop_model("a")
    assert hub.client.get("/hub/status")["models"][0]["restart_at"] is None


def test_where_runs_began_in_another_log_is_forgotten(hub: Hub) -> None:
    hub.run(says("a", "print(1)", default="true"))
    hub.manager.restart_model("a")
    assert hub.client.get("/hub/status")["models"][0]["previous_log_begin"] == 0
    hub.config.write_text(hub.config.read_text().replace("log_path: logs", "log_path: others"))
    hub.manager.reload()
    (model,) = hub.client.get("/hub/status")["models"]
    assert (model["log_begin"], model["previous_log_begin"], model["previous_started_at"]) == (0, None, None)


# Reset.


def test_a_model_that_was_given_up_is_stopped_after_a_reset_with_nothing_held_against_it(hub: Hub) -> None:
    hub.run(fails("a", restart="{delay: 0, max_failures: 2}"))
    hub.manager.start_model("a")
    hub.sink.wait_for("model_gave_up", "a")
    assert hub.client.post("/hub/models/a/reset") == {"status": "ok"}
    (model,) = hub.client.get("/hub/status")["models"]
    assert (model["state"], model["restarts"], model["first_failure"], model["last_failure"]) == (
        "stopped",
        0,
        None,
        None,
    )
    assert hub.client.post("/hub/models/a/reset") == {"status": "ok"}, "it may be asked for twice"


def test_a_model_that_runs_or_will_is_not_reset(hub: Hub) -> None:
    hub.run(sleeper("a", default="true"), fails("b", restart="{delay: 60}"))
    hub.manager.start_model("b")
    hub.sink.wait_for("model_restarting", "b")
    for name, state in (("a", "ready"), ("b", "backoff")):
        status, _, body = hub.ask("POST", f"/hub/models/{name}/reset")
        assert (status, json.loads(body)["error"]["code"]) == (409, "wrong_state")
        assert f"{name}: is {state}" in body.decode()
    assert hub.ask("POST", "/hub/models/c/reset")[0] == 404


# Logs.


def lines_of(hub: Hub, query: str = "") -> bytes:
    status, headers, body = hub.ask("GET", f"/hub/models/a/log{query}")
    assert status == 200, body
    assert headers["content-type"].startswith("text/plain")
    return body


def test_a_log_is_told_byte_for_byte_its_last_lines_first_of_all(hub: Hub) -> None:
    hub.run(sleeper("a"))
    rows = [b"%d\xff\0\r\n" % number for number in range(150)]
    hub.log_of("a").write_bytes(b"".join(rows))
    assert lines_of(hub) == b"".join(rows[-100:])
    assert lines_of(hub, "?lines=2") == b"".join(rows[-2:])
    assert lines_of(hub, "?lines=0") == b""
    assert lines_of(hub, "?lines=1000") == b"".join(rows)


def test_a_log_is_told_from_the_start_of_this_run_or_of_the_one_before_through_a_rotation(hub: Hub) -> None:
    hub.run(says("a", "print(os.environ['N']); print('end')", env="{N: one}"))
    for path in ("start", "previous"):
        assert hub.ask("GET", f"/hub/models/a/log?from={path}")[0] == 409
    hub.manager.start_model("a")
    wait_until(lambda: lines_of(hub, "?from=start") == b"one\nend\n")
    assert hub.ask("GET", "/hub/models/a/log?from=previous")[0] == 409
    hub.manager.stop_model("a")
    hub.run(says("a", "print(os.environ['N']); print('end')", env="{N: two}"))
    hub.manager.start_model("a")
    wait_until(lambda: lines_of(hub, "?from=start") == b"two\nend\n")
    assert lines_of(hub, "?from=previous") == b"one\nend\n"
    assert lines_of(hub, "?from=previous&lines=1&follow=true") == b"end\n", "nothing is added to it, so it ends"
    hub.manager.rotate_log("a")
    assert lines_of(hub, "?from=start") == b"two\nend\n"
    assert lines_of(hub, "?from=previous") == b"one\nend\n"


def test_a_log_is_followed_through_a_rotation_until_the_hub_ends(hub: Hub) -> None:
    asked = hub.config.with_name("asked")
    code = f"""
for number in range(9):
    while not os.path.exists({str(asked)!r} + str(number)): time.sleep(0.01)
    print(number, flush=True)
"""
    hub.run(says("a", code, default="true"))
    with hub.asked("GET", "/hub/models/a/log?follow=true&lines=0") as response:
        for number in range(5):
            Path(f"{asked}{number}").touch()
            assert response.readline() == b"%d\n" % number
            hub.manager.rotate_log("a")
        closing = threading.Thread(target=hub.close)
        closing.start()
        assert response.read() == b""
        closing.join()


def test_a_log_that_is_not_there_is_empty_and_one_of_nobody_is_not_found(hub: Hub) -> None:
    hub.run(sleeper("a"))
    assert lines_of(hub) == b""
    status, _, body = hub.ask("GET", "/hub/models/b/log")
    assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")


def test_followers_of_a_log_that_hang_up_leave_no_file_open(hub: Hub) -> None:
    hub.run(says("a", "print(1)", default="true"))
    wait_until(lambda: lines_of(hub) == b"1\n")

    def opened() -> int:
        return sum(
            str(hub.log_of("a")) in os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
        )

    if not Path("/proc/self/fd").exists():
        pytest.skip("only Linux tells which files are open")
    with hub.asked("GET", "/hub/models/a/log?follow=true") as response:
        assert response.readline() == b"1\n"
        assert opened() == 1
    wait_until(lambda: opened() == 0)


# What is asked wrongly.


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/hub/events?folow=false", "no such parameter: folow; did you mean 'follow'?"),
        ("/hub/events?follow=no", "follow: must be true or false"),
        ("/hub/events?since=yesterday", "since: input should be a valid number"),
        ("/hub/events?since=nan", "since: "),
        ("/hub/events?since=1&since=2", "since is given twice"),
        ("/hub/models/a/log?lines=-1", "lines: input should be greater than or equal to 0"),
        ("/hub/models/a/log?lines=100001", "lines: "),
        ("/hub/models/a/log?from=end", "from: input should be 'start' or 'previous'"),
        ("/hub/status?x", "no such parameter: x"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_in_words(hub: Hub, path: str, words: str) -> None:
    hub.run(sleeper("a"))
    status, _, body = hub.ask("GET", path)
    error = json.loads(body)["error"]
    assert (status, error["type"], error["code"]) == (400, "invalid_request_error", "bad_request")
    assert words in error["message"]


@pytest.mark.parametrize("path", ["/hub/events", "/hub/models/a/log?follow=true", "/hub/status"])
def test_a_wrong_method_is_refused_with_the_right_one_and_head_does_not_hang(hub: Hub, path: str) -> None:
    hub.run(sleeper("a"))
    for method in ("HEAD", "POST", "DELETE"):
        status, headers, _ = hub.ask(method, path)
        assert (status, headers["allow"]) == (405, "GET")


def test_a_host_header_that_is_none_is_no_failure_of_the_hub(hub: Hub) -> None:
    status, _, body = hub.ask("GET", "/nothing", {"Host": "[::1"})
    assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")


def test_a_model_that_cannot_be_started_is_no_failure_of_the_hub(hub: Hub) -> None:
    hub.run("{name: a, command: [/no/such/program]}")
    status, _, body = hub.ask("POST", "/hub/models/a/start")
    assert (status, json.loads(body)["error"]["code"]) == (409, "launch_failed")
    assert "/no/such/program" in body.decode()


# The document.


def schema_of(name: str) -> Draft202012Validator:
    whole = json.loads(json.dumps(document("1")))
    components = whole["components"]["schemas"]
    for schema in components.values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    for each in components["Event"]["oneOf"]:
        each["additionalProperties"] = False
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": components}})


def test_what_is_answered_is_what_the_document_says_key_for_key(hub: Hub) -> None:
    hub.run(sleeper("a", default="true"), fails("b", restart="{delay: 0, max_failures: 2}"))
    hub.manager.start_model("b")
    hub.sink.wait_for("model_gave_up", "b")
    hub.write(sleeper("a"))
    schema_of("Plan").validate(hub.client.post("/hub/reload?dry_run=true"))
    schema_of("Reloaded").validate(hub.client.post("/hub/reload", patient=True))
    schema_of("HubStatus").validate(hub.client.get("/hub/status"))
    schema_of("Sinks").validate(hub.client.get("/hub/sinks"))
    schema_of("Error").validate(json.loads(hub.ask("GET", "/nothing")[2]))
    events = hub.events()
    for event in events:
        schema_of("Event").validate(event)
    hooks = {event["hook"] for event in events}
    assert hooks >= {"hub_started", "model_started", "model_failed", "model_gave_up", "config_reloaded"}
    served = hub.client.get("/openapi.json")
    assert served == json.loads(json.dumps(document(hub.manager.info().version)))


def test_every_key_and_answer_in_the_document_is_described() -> None:
    whole = document("1")
    for name, schema in whole["components"]["schemas"].items():
        assert "description" in schema, name
    for path, methods in whole["paths"].items():
        for operation in methods.values():
            assert {"400", "401", "403", "500"} < set(operation["responses"]), path
            for each in (*operation["parameters"], *operation["responses"].values()):
                assert each["description"], path
    status = whole["components"]["schemas"]["ModelReport"]["properties"]
    assert [name for name, schema in status.items() if "description" not in schema] == []


# Over TCP.


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def control(port: int, **keys: str) -> str:
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"control: {{port: {port}, token_file: token{more}}}\n"


def over_tcp(
    port: int,
    path: str = "/health",
    *,
    token: str | None = None,
    host: str | None = None,
    method: str = "GET",
    scheme: str = "Bearer",
) -> tuple[int, dict[str, str], Any]:
    headers = {} if token is None else {"Authorization": f"{scheme} {token}"}
    with contextlib.closing(HTTPConnection(LOOPBACK, port, timeout=20)) as connection:
        connection.request(method, path, headers=headers | ({} if host is None else {"Host": host}))
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), json.loads(response.read())


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


@pytest.fixture
def port(hub: Hub) -> int:
    found = free_port()
    hub.run(sleeper("a"), top=control(found))
    return found


@pytest.fixture
def token(hub: Hub, port: int) -> str:
    return hub.config.with_name("token").read_text().strip()


def test_a_hub_makes_a_long_token_for_its_owner_alone_and_keeps_the_one_that_there_is(hub: Hub, port: int) -> None:
    path = hub.config.with_name("token")
    made = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(made.strip()) >= 43
    hub.manager.reload()
    assert path.read_text() == made


def test_who_has_the_token_may_ask_all_that_may_be_asked(hub: Hub, port: int, token: str) -> None:
    assert over_tcp(port, token=token)[::2] == (200, {"status": "ok"})
    assert over_tcp(port, "/hub/models/a/start", token=token, method="POST")[0] == 200
    wait_until(lambda: over_tcp(port, "/hub/status", token=token)[2]["models"][0]["state"] == "ready")


@pytest.mark.parametrize("path", ["/health", "/hub/status", "/openapi.json", "/nothing"])
def test_who_has_not_the_token_learns_nothing(port: int, token: str, path: str) -> None:
    for wrong in (None, "", token[:-1], token + "x", token.swapcase(), "\xff"):
        status, headers, body = over_tcp(port, path, token=wrong)
        assert status == 401
        assert headers["www-authenticate"].startswith("Bearer")
        assert body["error"]["code"] == "unauthorized"
        assert token not in str(body)
    assert over_tcp(port, path, token=token, scheme="Basic")[0] == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:1", "[::1", ""])
def test_a_page_that_makes_its_own_name_lead_here_is_refused_even_with_the_token(
    port: int, token: str, host: str
) -> None:
    status, _, body = over_tcp(port, token=token, host=host)
    assert (status, body["error"]["code"]) == (403, "forbidden_host")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:80", "192.168.1.7", socket.gethostname()]
)
def test_names_and_addresses_of_the_machine_are_right(port: int, token: str, host: str) -> None:
    assert over_tcp(port, token=token, host=host)[0] == 200


def test_a_reload_moves_the_listener_also_when_it_was_asked_for_through_it(hub: Hub, port: int, token: str) -> None:
    other = free_port()
    hub.write(sleeper("a"), top=control(other))
    assert over_tcp(port, "/hub/reload", token=token, method="POST")[::2] == (
        200,
        {"started": [], "stopped": [], "unchanged": ["a"], "failed": {}},
    )
    assert over_tcp(other, token=token)[0] == 200
    wait_until(lambda: not listens(port))
    hub.run(sleeper("a"))
    wait_until(lambda: not listens(other))


def test_who_asks_for_a_reload_that_moves_the_listener_is_answered_however_long_it_takes(
    hub: Hub, port: int, token: str
) -> None:
    slow = says("slow", "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1.5), sys.exit()))", default="true")
    hub.run(slow, top=control(port))
    hub.sink.wait_for("model_ready", "slow")
    hub.write(sleeper("a"), top=control(free_port()))
    assert over_tcp(port, "/hub/reload", token=token, method="POST")[2]["stopped"] == ["slow"]
    wait_until(lambda: not listens(port))


def connected(port: int, said: bytes = b"") -> socket.socket:
    connection = socket.create_connection((LOOPBACK, port), timeout=10)
    connection.sendall(said)
    return connection


@pytest.mark.parametrize("said", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"], ids=["nothing", "half of it"])
def test_who_connects_and_does_not_ask_is_hung_up_on_and_who_listens_is_not(
    hub: Hub, port: int, token: str, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(answering, "QUESTION_SECONDS", 0.3)
    ask = f"GET /hub/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    with connected(port, ask.encode()) as follower, connected(port, said) as silent:
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""
        hub.manager.start_model("a")
        heard = b""
        while b"model_started" not in heard:
            heard += follower.recv(65536)


def test_however_many_connect_over_tcp_the_hub_has_files_left_for_others(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 3)
    port = free_port()
    hub.run(sleeper("a"), top=control(port))
    with contextlib.ExitStack() as stack:
        first, *_ = (stack.enter_context(connected(port)) for _ in range(3))
        with contextlib.suppress(ConnectionResetError), connected(port) as one_too_many:
            assert one_too_many.recv(1) == b""
        assert hub.ask("GET", "/health")[0] == 200, "the socket is another door"
        first.close()
        token = hub.config.with_name("token").read_text().strip()

        def answered() -> bool:
            with contextlib.suppress(OSError, HTTPException):
                return over_tcp(port, token=token)[0] == 200
            return False

        wait_until(answered)


def test_a_reload_takes_the_new_token_and_the_listener_stays(hub: Hub, port: int, token: str) -> None:
    with contextlib.closing(HTTPConnection(LOOPBACK, port, timeout=20)) as connection:
        for given, status in ((token, 200), ("another-token-of-mine", 401)):
            connection.request("GET", "/health", headers={"Authorization": f"Bearer {given}"})
            response = connection.getresponse()
            response.read()
            assert response.status == status
        hub.config.with_name("token").write_text("another-token-of-mine")
        hub.manager.reload()
        connection.request("GET", "/health", headers={"Authorization": "Bearer another-token-of-mine"})
        assert connection.getresponse().status == 200
    assert over_tcp(port, token=token)[0] == 401


def test_a_port_that_is_taken_refuses_the_reload_where_it_is_named_and_all_goes_on(
    hub: Hub, port: int, token: str
) -> None:
    with socket.socket() as stranger:
        stranger.bind((LOOPBACK, 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        hub.write(sleeper("b", default="true"), top=control(taken))
        with pytest.raises(ConfigError, match=rf"hub\.yaml:2:\d+: control\.port: {taken} is taken by another program"):
            hub.manager.reload()
    assert [model.name for model in hub.manager.get_status()] == ["a"]
    assert over_tcp(port, token=token)[0] == 200


def test_a_reload_that_fails_for_another_reason_leaves_no_listener(
    hub: Hub, port: int, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = free_port()
    hub.write(sleeper("b"), top=control(other))
    seen: list[int] = []

    def refuse(_settings: object) -> None:
        seen.append(over_tcp(other, token=token)[0])
        raise HubError("no port is free")

    monkeypatch.setattr(hub.manager._supervisor, "reserve_ports", refuse)
    with pytest.raises(HubError, match="no port is free"):
        hub.manager.reload()
    assert seen == [200]
    assert not listens(other)
    assert over_tcp(port, token=token)[0] == 200


def test_no_listener_outlives_its_hub(hub: Hub, port: int) -> None:
    hub.close()
    assert not listens(port)


def test_the_token_is_not_shown_by_what_holds_it(hub: Hub, port: int, token: str) -> None:
    frames = [repr(each) for each in (hub.server, *vars(hub.server).values(), hub.manager, *vars(hub.manager).values())]
    assert not [text for text in frames if token in text]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_can_read_neither_socket_nor_token(hub: Hub, port: int) -> None:
    place = place_of(hub.config)
    for path in (hub.config.parent, *hub.config.parent.iterdir()):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    program = f"""
import os, socket
os.setgroups([]); os.setgid({OTHER_UID}); os.setuid({OTHER_UID})
for attempt in (
    lambda: socket.socket(socket.AF_UNIX).connect({str(place.socket)!r}),
    lambda: open({str(hub.config.with_name("token"))!r}),
    lambda: os.listdir({str(place.directory)!r}),
):
    try:
        attempt()
    except PermissionError:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n" * 3, done.stderr
