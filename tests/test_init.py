"""`mlxhub init`: a hub.yaml to start from, that is right as it stands and never overwrites another."""

from __future__ import annotations

import errno
import json
import re
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from mlxhub_core.cli import cli, init
from mlxhub_core.errors import HubError
from mlxhub_core.settings import load_settings
from mlxhub_core.testing.tiny_model import write_tiny_model
from mlxhub_core.yaml_source import Source

MLXHUB = str(Path(sysconfig.get_path("scripts")) / "mlxhub")


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLXHUB_CONFIG", "MLXHUB_NO_SINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))


def mlxhub_init(*arguments: str) -> str:
    """What the command says. Raises what it raises."""
    result = CliRunner().invoke(cli, ["init", *arguments], prog_name="mlxhub", catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def refused(*arguments: str) -> str:
    with pytest.raises(HubError) as caught:
        mlxhub_init(*arguments)
    assert caught.value.exit_code == 1
    return str(caught.value)


def schema(file: str = init.SCHEMA_FILE) -> Any:
    return json.loads(Path(file).read_text(encoding="utf-8"))


def test_the_file_that_is_written_is_right_without_a_warning() -> None:
    for arguments in ("init", "check"):
        done = subprocess.run([MLXHUB, arguments], capture_output=True, text=True, timeout=50, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "hub.yaml: ok (1 model; sinks: loguru)\n"
    assert load_settings("hub.yaml").warnings == ()


def test_its_first_line_names_the_schema_that_is_written_beside_it_and_that_it_is_valid_by() -> None:
    mlxhub_init()
    first, _, _ = Path("hub.yaml").read_text(encoding="utf-8").partition("\n")
    prefix, _, name = first.partition("=")
    assert prefix == "# yaml-language-server: $schema"
    assert sorted(path.name for path in Path().iterdir()) == sorted(["hub.yaml", name])
    jsonschema.Draft202012Validator(schema(name)).validate(Source("hub.yaml", Path("hub.yaml").read_text()).value)


@pytest.mark.sinks("prometheus", "statsd", "otlp")
def test_what_is_commented_out_in_it_is_right_as_well() -> None:
    mlxhub_init()
    text = Path("hub.yaml").read_text(encoding="utf-8")
    examples = re.sub(r"^( *)# (?=( *)([a-z]+:|- ))", r"\1", text.partition("\n\n")[2], flags=re.MULTILINE)
    assert examples.count("#") < text.count("#")
    Path("all.yaml").write_text(examples, encoding="utf-8")
    settings = load_settings("all.yaml")
    assert settings.warnings == ()
    assert [sink.key for sink in settings.sinks] == ["loguru", "prometheus", "statsd", "otlp"]
    assert [model.name for model in settings.models] == ["qwen3", "other"]
    assert settings.models[0].memory.required == 2_000_000_000
    assert list(settings.groups) == ["big"]
    jsonschema.Draft202012Validator(schema()).validate(Source("all.yaml", examples).value)


def test_it_says_what_it_wrote_and_what_to_do_next() -> None:
    assert mlxhub_init() == (
        "wrote hub.yaml and hub.schema.json\n"
        "Put your models in, then: mlxhub check && mlxhub start\n"
        "After you install a sink, `mlxhub schema > hub.schema.json` tells your editor its options.\n"
    )


def test_a_hub_yaml_that_is_there_is_left_as_it_is() -> None:
    Path("hub.yaml").write_text("mine\n")
    assert refused() == "hub.yaml is there already, and is left as it is; name another: mlxhub init OTHER.yaml"
    assert Path("hub.yaml").read_text() == "mine\n"
    assert not Path("hub.schema.json").exists()
    Path("hub.yaml").unlink()
    Path("hub.yaml").symlink_to("nowhere.yaml")
    assert "is there already" in refused()
    assert not Path("nowhere.yaml").exists(), "nor is what it leads to"


def test_another_name_is_told_in_the_commands_that_come_next_as_a_shell_wants_it() -> None:
    Path("hub.yaml").write_text("mine\n")
    said = mlxhub_init("my hubs/big one.yaml")
    assert Path("hub.yaml").read_text() == "mine\n"
    assert sorted(path.name for path in Path("my hubs").iterdir()) == ["big one.yaml", "hub.schema.json"]
    (line,) = [line for line in said.splitlines() if "check" in line]
    for command in line.partition(": ")[2].split(" && "):
        assert shlex.split(command)[2:] == ["-c", "my hubs/big one.yaml"]
    assert "`mlxhub schema > 'my hubs/hub.schema.json'`" in said
    assert load_settings("my hubs/big one.yaml").warnings == ()


def test_a_schema_that_is_there_is_made_anew() -> None:
    Path("hub.schema.json").write_text("{}")
    mlxhub_init()
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_a_directory_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert refused("sub/hub.yaml") == "sub/hub.yaml cannot be written: Permission denied"
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert refused("sub/hub.yaml") == "sub cannot be written: Permission denied"


def test_a_disk_that_is_full_is_told_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert refused() == "hub.yaml cannot be written: No space left on device"


def test_a_directory_that_is_a_file_is_no_hub_yaml_that_is_there_already() -> None:
    Path("notes").write_text("mine\n")
    assert refused("notes/hub.yaml") == "notes cannot be written: File exists"
    assert refused("notes/sub/hub.yaml").startswith("notes/sub cannot be written: ")
    assert Path("notes").read_text() == "mine\n"


def test_a_directory_is_no_file_to_write() -> None:
    Path("sub").mkdir()
    result = CliRunner().invoke(cli, ["init", "sub"], prog_name="mlxhub")
    assert result.exit_code == 2
    assert list(Path("sub").iterdir()) == []


def test_nothing_is_written_when_the_schema_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> object:
        raise HubError("no schema")

    monkeypatch.setattr("mlxhub_core.cli.schema.hub_schema", fail)
    assert refused() == "no schema"
    assert list(Path().iterdir()) == []


def cached(cache: Path, name: str) -> Path:
    """A real MLX model in the cache of Hugging Face: links into a store of files, as its library makes them."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = write_tiny_model(repository / "snapshots" / "c0ffee")
    (repository / "blobs").mkdir()
    for file in list(snapshot.iterdir()):
        blob = file.rename(repository / "blobs" / file.name)
        file.symlink_to(blob.resolve())
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    return snapshot


def models_of(text: str) -> dict[str, str | None]:
    """Name and model of all that is found and commented out, once somebody takes the marks away."""
    head, _, found = text.partition("  # In the cache of Hugging Face")
    Path("found.yaml").write_text(head + re.sub("^  # ", "  ", found.partition("\n")[2], flags=re.MULTILINE))
    return {model.name: model.model_path for model in load_settings("found.yaml").models[1:]}


def test_mlx_models_of_the_cache_are_in_it_commented_out_and_right() -> None:
    for name in ("mlx-community/Qwen3-4B-4bit", "me/Llama_3.2--odd", "other/qwen3-4b-4bit", "them/Qwen3"):
        cached(Path("cache"), name)
    said = mlxhub_init()
    assert "MLX models found in cache, in there commented out: 4\n" in said
    text = Path("hub.yaml").read_text(encoding="utf-8")
    assert "  # In the cache of Hugging Face (cache), so that nothing is downloaded:\n" in text
    assert "  #   model_path: mlx-community/Qwen3-4B-4bit   # 0.0 GB\n" in text
    assert [model.name for model in load_settings("hub.yaml").models] == ["qwen3"]
    assert models_of(text) == {
        "llama-3-2-odd": "me/Llama_3.2--odd",
        "qwen3-4b-4bit": "mlx-community/Qwen3-4B-4bit",
        "qwen3-4b-4bit-2": "other/qwen3-4b-4bit",
        "qwen3-2": "them/Qwen3",
    }


def test_what_is_no_mlx_model_or_not_all_there_is_not_in_it() -> None:
    cache = Path("cache")
    cached(cache, "a/whole")
    (cached(cache, "a/no-weights") / "model.safetensors").unlink()
    (cached(cache, "a/emptied").parent.parent / "blobs" / "model.safetensors").unlink()
    (cached(cache, "a/no-config") / "config.json").unlink()
    for name, config in (("a/list", "[]"), ("a/half", "{"), ("a/no-type", "{}")):
        (cached(cache, name) / "config.json").resolve().write_text(config)
    weights = (cached(cache, "a/torch") / "model.safetensors").resolve()
    weights.write_bytes(weights.read_bytes().replace(b'"mlx"', b'"pt" '))
    (cached(cache, "a/empty") / "model.safetensors").resolve().write_bytes(b"")
    (cached(cache, "a/no-ref").parent.parent / "refs" / "main").unlink()
    (cache / "models--a--a-file").write_text("")
    (cache / "datasets--a--b").mkdir()
    mlxhub_init()
    assert models_of(Path("hub.yaml").read_text(encoding="utf-8")) == {"whole": "a/whole"}


def test_where_the_cache_is_empty_nothing_is_said_of_it() -> None:
    assert "Hugging Face (" not in mlxhub_init() + Path("hub.yaml").read_text(encoding="utf-8")
