"""What a hub leaves of a process for the next one, and what that reads in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from mlxhub_core.events import Reason
from mlxhub_core.settings import HubSettings, ModelSettings, load_settings
from mlxhub_core.supervisor.legacy import Record, essence, reason_of, stand_in

Essence = Callable[[str], str]
MODEL = "model_path: x, options: {a: 1}, env: {TOKEN: s3cret}"


@pytest.fixture
def essence_of(tmp_path: Path) -> Essence:
    """Of a model with these keys; what comes before a ``|`` is for the whole hub."""

    def of(text: str) -> str:
        top, _, keys = text.rpartition("|")
        settings = _settings(tmp_path, keys, top)
        return essence(settings, settings.models[0])

    return of


def _settings(path: Path, keys: str, top: str = "") -> HubSettings:
    file = path / "hub.yaml"
    file.write_text(f"{top}\nmodels: [{{name: a, {keys}}}]\n")
    return load_settings(file)


def test_what_is_left_is_found_again_by_way_of_json() -> None:
    record = Record("g", "127.0.0.1", 8080, "org/model", 3, "abc", 7.5)
    assert Record.read(json.loads(json.dumps(record.written()))) == record


def test_hubs_of_other_versions_understand_each_other() -> None:
    assert Record.read({"port": 8080, "of a later version": 1}) == Record(port=8080)
    assert Record.read({}) == Record()


@pytest.mark.parametrize(
    ("keys", "same"),
    [
        (MODEL, True),
        (f"{MODEL}, args: [], working_directory: null", True),
        ("env: {TOKEN: s3cret}, options: {a: 1}, model_path: x", True),
        (f"{MODEL}, default: true, group: g, restart: always, stop_timeout: 1, health: off, memory: {{required: 1GB}}", True),
        (f"log_rotation: off|{MODEL}", True),
        (MODEL.replace("s3cret", "other"), False),
        (MODEL.replace("a: 1", "a: true"), False),
        (MODEL.replace("a: 1", "a: 1.0"), False),
        (MODEL.replace("model_path: x", "model_path: y"), False),
        (f"{MODEL}, port: 8080", False),
        (f"{MODEL}, args: [--b]", False),
        (f"log_path: elsewhere|{MODEL}", False),
        (f"host: 0.0.0.0|{MODEL}", False),
    ],
)  # fmt: skip
def test_the_essence_is_what_a_process_can_notice(essence_of: Essence, keys: str, same: bool) -> None:
    assert (essence_of(keys) == essence_of(MODEL)) == same


def test_another_place_of_hub_yaml_is_of_the_essence_because_paths_begin_there(tmp_path: Path) -> None:
    top = "log_path: /tmp/logs"
    here, there = _settings(tmp_path, MODEL, top), _settings(tmp_path.parent, MODEL, top)
    assert essence(here, here.models[0]) != essence(there, there.models[0])


def test_the_essence_gives_no_secret_away(essence_of: Essence) -> None:
    assert len(essence_of(MODEL)) == 16
    assert "s3cret" not in essence_of(MODEL)


def test_a_key_that_a_later_version_adds_restarts_no_model(tmp_path: Path) -> None:
    class Later(ModelSettings):
        new_key: int = 1

    settings = _settings(tmp_path, MODEL)
    (old,) = settings.models
    later = TypeAdapter(Later).validate_python(old.model_dump())
    assert essence(settings, later) == essence(settings, old)
    assert essence(settings, later.model_copy(update={"new_key": 2})) != essence(settings, old)


def test_who_stands_in_for_a_model_that_is_gone_is_good_for_stopping_it() -> None:
    model = stand_in("a", Record(group="g", stop_timeout=7.5))
    assert (model.name, model.group, model.stop_timeout, model.port) == ("a", "g", 7.5, None)
    assert not model.wants_port


@pytest.mark.parametrize("reason", Reason)
def test_the_reason_for_an_end_is_handed_on(reason: Reason) -> None:
    assert reason_of(str(reason)) is reason


def test_a_reason_that_is_not_known_yet_is_taken_for_somebodys_wish() -> None:
    assert reason_of("eclipse") is Reason.OPERATOR
