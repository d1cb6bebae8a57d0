"""The command line and the environment of a model's process, from collections.abc import Collection
from its entry of hub.yaml."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import importlib_metadata  # noqa: F401  # as the hub does: from then on it reads the metadata for `importlib.metadata` too
import pytest

from mlxhub_core.errors import LaunchError
from mlxhub_core.launch import Launch, prepare
from mlxhub_core.settings import load_settings

PORT = 27850
REPO = "mlx-community/Qwen3-4B-4bit"
REAL_VERSION = importlib.metadata.version
SHARDS = ("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has mlx-lm, and an empty home."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.32.2")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def prepared(
    directory: Path,
    *,
    environ: dict[str, str] | None = None,
    host: str = "127.0.0.1",
    port: int | None = PORT,
    withheld: Collection[str] = (),
    **entry: Any,
) -> Launch:
    """How the hub would start the model `m` with these keys; its hub.yaml is in `directory`."""
    path = directory / "hub.yaml"
    # JSON is YAML.
    path.write_text(json.dumps({"models": [{"name": "m", **entry}]}))
    model = load_settings(path).models[0]
    environ = {} if environ is None else environ
    return prepare(model, host=host, port=port, directory=directory, environ=environ, withheld=withheld)


def refusal(directory: Path, *, environ: dict[str, str] | None = None, **entry: Any) -> str:
    """Why the hub would not start the model `m`. The message names the model; that part is left out here."""
    with pytest.raises(LaunchError) as caught:
        prepared(directory, environ=environ, **entry)
    assert caught.value.name == "m"
    name, _, message = str(caught.value).partition(": ")
    assert name == "m"
    return message


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def cached(hub: Path, repo: str, *weights: str, ref: str | None = "c0ffee", commit: str = "c0ffee") -> None:
    """Files of a model in a Hugging Face cache, as `huggingface_hub` lays them out."""
    repository = hub / f"models--{repo.replace('/', '--')}"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / commit
    blobs.mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True)
    for name in ("config.json", *weights):
        (blobs / name).write_text("")
        (snapshot / name).symlink_to(blobs / name)
    if ref is not None:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(ref)


# mlx_lm server.


def test_mlx_lm_server_gets_model_host_and_port(tmp_path: Path) -> None:
    launch = prepared(tmp_path, model_path=REPO, host="::1", port=18000)
    server = (sys.executable, "-m", "mlx_lm", "server")
    assert launch.argv == (*server, "--model", REPO, "--host", "::1", "--port", "18000")
    assert launch.mlx_model == REPO


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"max-tokens": 512}, ["--max-tokens", "512"]),
        ({"prompt_cache_size": 10}, ["--prompt-cache-size", "10"]),
        ({"temp": 0.7, "top-p": 1e-05}, ["--temp", "0.7", "--top-p", "1e-05"]),
        ({"trust-remote-code": True}, ["--trust-remote-code"]),
        ({"trust-remote-code": False}, []),
        ({"adapter-path": None}, []),
        ({"max-tokens": 0}, ["--max-tokens", "0"]),
        ({"chat-template": ""}, ["--chat-template", ""]),
        ({"log-level": "DEBUG"}, ["--log-level", "DEBUG"]),
        ({"chat-template": "{{ name }} {port}"}, ["--chat-template", "{{ name }} {port}"]),
        ({"chat-template-args": {"enable_thinking": False}}, ["--chat-template-args", '{"enable_thinking": false}']),
        ({"allowed-origins": "http://a,http://b"}, ["--allowed-origins", "http://a,http://b"]),
        ({"b": 1, "a": 2}, ["--b", "1", "--a", "2"]),
    ],
    ids=[
        "number", "underscores", "fractions", "true", "false", "nothing", "zero is a value", "so is empty text", "text",
        "placeholders are left alone", "mapping", "commas", "order of the file",
    ],
)  # fmt: skip
def test_options_become_flags(tmp_path: Path, options: dict[str, Any], flags: list[str]) -> None:
    assert list(prepared(tmp_path, model_path=REPO, options=options).argv[10:]) == flags


def test_args_come_last_and_as_they_are(tmp_path: Path) -> None:
    args = ["--top-k", 3, "{port}", "~", "--chat-template={model_path}", "", "--top-k", "$HOME"]
    launch = prepared(tmp_path, model_path=REPO, options={"temp": 1}, args=args)
    assert launch.argv[10:] == ("--temp", "1", "--top-k", "3", *args[2:])


@pytest.mark.parametrize("path", ["models/qwen", "./models/qwen", "models/qwen/", "."], ids=str)
def test_a_model_path_reaches_the_server_as_it_is_written(tmp_path: Path, path: str) -> None:
    # The server knows its model by exactly this text, and so asks the probe.
    (tmp_path / "models" / "qwen").mkdir(parents=True)
    launch = prepared(tmp_path, model_path=path)
    assert (launch.argv[5], launch.mlx_model) == (path, path)


def test_a_model_path_in_the_home_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "home" / "qwen").mkdir(parents=True)
    launch = prepared(tmp_path, model_path="~/qwen")
    assert launch.argv[5] == launch.mlx_model == str(tmp_path / "home" / "qwen")


def test_options_are_heeded_by_a_real_parser(tmp_path: Path) -> None:
    # argparse is what mlx_lm reads its flags with.
    flags = prepared(tmp_path, model_path=REPO, options={"temp": -1, "a_map": {"x": [1]}, "flag": True}).argv[10:]
    parser = "import argparse as a, sys; p = a.ArgumentParser(); p.add_argument('--temp', type=float); "
    parser += "p.add_argument('--a-map'); p.add_argument('--flag', action='store_true'); print(p.parse_args())"
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", parser, *flags], capture_output=True, text=True, check=True
    )
    assert said.stdout == """Namespace(temp=-1.0, a_map='{"x": [1]}', flag=True)\n"""


# Which Python.


def test_python_names_another_interpreter_which_need_not_be_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lacking)
    other = program(tmp_path / "venv" / "bin" / "python")
    assert prepared(tmp_path, model_path=REPO, python=str(other)).argv[:4] == (str(other), "-m", "mlx_lm", "server")


def test_a_relative_python_starts_at_hub_yaml_wherever_the_process_does(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    other = program(tmp_path / "venv" / "bin" / "python")
    launch = prepared(tmp_path, model_path=REPO, python="venv/bin/python", working_directory="work")
    assert (launch.argv[0], launch.cwd) == (str(other), tmp_path / "work")


def test_a_python_in_the_home_directory_is_found(tmp_path: Path) -> None:
    other = program(tmp_path / "home" / "venv" / "bin" / "python")
    assert prepared(tmp_path, model_path=REPO, python="~/venv/bin/python").argv[0] == str(other)


def test_a_python_is_looked_for_on_the_path_that_the_process_gets(tmp_path: Path) -> None:
    hubs, models = program(tmp_path / "hubs" / "python9"), program(tmp_path / "models" / "python9")
    environ = {"PATH": str(hubs.parent)}
    assert prepared(tmp_path, environ=environ, model_path=REPO, python="python9").argv[0] == str(hubs)
    launch = prepared(tmp_path, environ=environ, model_path=REPO, python="python9", env={"PATH": str(models.parent)})
    assert launch.argv[0] == str(models)


def test_the_link_that_makes_a_virtual_environment_is_not_followed(tmp_path: Path) -> None:
    link = tmp_path / "venv" / "bin" / "python"
    link.parent.mkdir(parents=True)
    link.symlink_to(sys.executable)
    assert prepared(tmp_path, model_path=REPO, python=str(link)).argv[0] == str(link)


# Versions of mlx-lm: the server of 0.31 says that it is well when its model is dead.

UNFIT = ["0.31.0", "0.31.1", "0.31.3", "0.31", "0.31.0rc1", "0.31rc1", "0.31.3.dev0", "0.31.3+local", "0.31.10"]
FIT = ["0.28.4", "0.30.0", "0.30.7", "0.32.0", "0.32.2", "0.33.0", "0.310.1", "0.3.31", "1.31.0", "10.31.3", "1.0.31.2"]
EXECUTED = "#!/bin/sh\ntouch {0}.was-run\n"


def installed(site: Path, version: str | None) -> None:
    """mlx-lm as pip installs it, which nobody must import. Without a version its metadata are broken."""
    (site / "mlx_lm").mkdir(parents=True, exist_ok=True)
    (site / "mlx_lm" / "__init__.py").write_text("raise SystemExit('was imported')")
    information = site / f"mlx_lm-{version or 'broken'}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: mlx-lm\nVersion: {version}\n" if version else ""
    )


def environment(venv: Path, version: str | None, python: str = "python3.11", link: Path | None = None) -> Path:
    """A virtual environment with mlx-lm; its interpreter is a link to another, or tells if it was run."""
    installed(venv / "lib" / python / "site-packages", version)
    interpreter = venv / "bin" / "python"
    interpreter.parent.mkdir()
    if link is not None:
        interpreter.symlink_to(link)
    else:
        interpreter.write_text(EXECUTED.format(interpreter))
        interpreter.chmod(0o755)
    return interpreter


def upgrade(python: Path | str) -> str:
    """The line that helps, to be pasted into a shell."""
    return f'run `{shlex.quote(str(python))} -m pip install -U "mlx-lm>=0.32.2"`'


@pytest.mark.parametrize("version", UNFIT)
def test_mlx_lm_0_31_is_refused_with_the_pip_line_of_this_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    message = refusal(tmp_path, model_path=REPO)
    assert message.startswith(f"this Python has mlx-lm {version}, whose server says for ever that it is well")
    assert message.endswith(upgrade(sys.executable))


@pytest.mark.parametrize("version", [*FIT, None])
def test_other_versions_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert prepared(tmp_path, model_path=REPO).argv[0] == sys.executable


def test_the_version_is_read_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", REAL_VERSION)
    installed(tmp_path / "site", "0.31.3")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "mlx_lm", raising=False)
    assert "this Python has mlx-lm 0.31.3" in refusal(tmp_path, model_path=REPO)
    assert "mlx_lm" not in sys.modules


def test_half_an_installation_is_left_to_mlx_lm_to_complain_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", REAL_VERSION)
    installed(tmp_path / "site", None)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert prepared(tmp_path, model_path=REPO).argv[0] == sys.executable


@pytest.mark.parametrize("metadata", [b"", b"\xff\xfe\xfa", None], ids=["empty", "no text", "none"])
def test_nor_is_half_an_installation_elsewhere_a_reason(tmp_path: Path, metadata: bytes | None) -> None:
    python = environment(tmp_path / "venv", None)
    file = next(tmp_path.glob("venv/lib/*/site-packages/mlx_lm-*/METADATA"))
    file.unlink() if metadata is None else file.write_bytes(metadata)
    assert prepared(tmp_path, model_path=REPO, python=str(python)).argv[0] == str(python)


def test_the_pip_line_of_an_upgrade_can_be_pasted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = environment(tmp_path / "my venv", "0.31.3")
    message = refusal(tmp_path, model_path=REPO, python=str(python))
    assert f"`'{python}' -m pip install -U" in message
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.31.3")
    monkeypatch.setattr(sys, "executable", "/Applications/My App/python")
    assert "`'/Applications/My App/python' -m pip install -U" in refusal(tmp_path, model_path=REPO)


@pytest.mark.parametrize("version", UNFIT)
def test_in_another_interpreter_too_and_with_its_pip_line(tmp_path: Path, version: str) -> None:
    python = environment(tmp_path / "venv", version)
    message = refusal(tmp_path, model_path=REPO, python="venv/bin/python")
    assert message.startswith(f"python: {python} has mlx-lm {version}, whose server says for ever that it is well")
    assert message.endswith(upgrade(python))


@pytest.mark.parametrize("version", [*FIT, None])
def test_what_other_versions_another_interpreter_has_is_its_own_business(tmp_path: Path, version: str | None) -> None:
    python = environment(tmp_path / "venv", version)
    assert prepared(tmp_path, model_path=REPO, python=str(python)).argv[0] == str(python)


def test_the_other_interpreter_is_not_run(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", "0.31.3")
    refusal(tmp_path, model_path=REPO, python=str(python))
    assert not Path(f"{python}.was-run").exists()


def test_only_the_interpreter_counts_that_the_model_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.31.3")
    python = environment(tmp_path / "venv", "0.32.2")
    assert prepared(tmp_path, model_path=REPO, python=str(python)).argv[0] == str(python)


def test_a_command_may_use_what_it_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.31.3")
    python = environment(tmp_path / "venv", "0.31.3")
    assert prepared(tmp_path, command=[str(python), "-m", "mlx_lm", "server"]).argv[0] == str(python)


@pytest.mark.parametrize(("versions", "fit"), [(("0.31.3", "0.32.2"), False), (("0.32.2", "0.31.3"), True)])
def test_an_environment_counts_and_not_the_interpreter_that_it_is_made_of(
    tmp_path: Path, versions: tuple[str, str], fit: bool
) -> None:
    base = environment(tmp_path / "base", versions[1])
    python = environment(tmp_path / "venv", versions[0], link=base)
    if fit:
        assert prepared(tmp_path, model_path=REPO, python=str(python)).argv[0] == str(python)
    else:
        assert upgrade(python) in refusal(tmp_path, model_path=REPO, python=str(python))


def test_a_link_to_a_whole_environment_is_looked_into(tmp_path: Path) -> None:
    environment(tmp_path / "venv", "0.31.3")
    (tmp_path / "current").symlink_to("venv")
    message = refusal(tmp_path, model_path=REPO, python="current/bin/python")
    assert upgrade(tmp_path / "current" / "bin" / "python") in message


def test_an_environment_that_was_found_on_the_path_is_looked_into(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", "0.31.3")
    environ = {"PATH": str(python.parent)}
    assert upgrade(python) in refusal(tmp_path, environ=environ, model_path=REPO, python="python")


# How an interpreter of Python 3.13 is named, and what a link of that name leads to.
NAMES = {
    "by its file": ("python3.13", None),
    "by its link": ("python3.13", "sh"),
    "by its target": ("py", "python3.13"),
}


@pytest.mark.parametrize(("name", "target"), NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("own", ["0.31.3", "0.32.2", None])
def test_of_several_pythons_in_one_place_only_the_named_one_counts(
    tmp_path: Path, name: str, target: str | None, own: str | None
) -> None:
    # Homebrew keeps them so; and an environment that was upgraded to another Python has two.
    installed(tmp_path / "lib" / "python3.11" / "site-packages", "0.32.2" if own == "0.31.3" else "0.31.3")
    site = tmp_path / "lib" / "python3.13" / "site-packages"
    site.mkdir(parents=True)
    if own is not None:
        installed(site, own)
    python = tmp_path / "bin" / name
    program(python if target is None else python.with_name(target))
    if target is not None:
        python.symlink_to(target)
    if own == "0.31.3":
        assert upgrade(python) in refusal(tmp_path, model_path=REPO, python=str(python))
    else:
        assert prepared(tmp_path, model_path=REPO, python=str(python)).argv[0] == str(python)


def test_of_several_pythons_without_a_name_none_counts(tmp_path: Path) -> None:
    installed(tmp_path / "lib" / "python3.11" / "site-packages", "0.31.3")
    installed(tmp_path / "lib" / "python3.13" / "site-packages", "0.31.3")
    python = program(tmp_path / "bin" / "python")
    assert prepared(tmp_path, model_path=REPO, python=str(python)).argv[0] == str(python)


def test_an_upgrade_is_seen_at_the_next_start(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", "0.31.3")
    refusal(tmp_path, model_path=REPO, python=str(python))
    site = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    (site / "mlx_lm-0.31.3.dist-info").rename(tmp_path / "gone")
    installed(site, "0.32.2")
    later = site.stat().st_mtime_ns + 1_000_000_000
    os.utime(site, ns=(later, later))
    assert prepared(tmp_path, model_path=REPO, python=str(python)).argv[0] == str(python)


def lacking(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_without_mlx_lm_the_message_has_the_pip_line_of_this_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lacking)
    message = refusal(tmp_path, model_path=REPO)
    assert f'`{shlex.quote(sys.executable)} -m pip install "mlxhub-core[mlx]"`' in message
    assert "`python:`" in message


def test_the_pip_line_can_be_pasted_even_if_the_interpreter_has_a_space_in_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lacking)
    monkeypatch.setattr(sys, "executable", "/Applications/My App/python")
    assert "`'/Applications/My App/python' -m pip install" in refusal(tmp_path, model_path=REPO)


def test_a_command_needs_no_mlx_lm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lacking)
    assert prepared(tmp_path, command=["/bin/sh"]).argv == ("/bin/sh",)


# Commands.


@pytest.mark.parametrize(
    ("word", "filled"),
    [
        ("{port}", "27850"),
        ("{host}", "127.0.0.1"),
        ("{model_path}", "org/model"),
        ("{name}", "m"),
        ("--bind={host}:{port}", "--bind=127.0.0.1:27850"),
        ("{port}{port}", "2785027850"),
        ('{"port": {port}, "name": "{name}"}', '{"port": 27850, "name": "m"}'),
        ("{{port}}", "{27850}"),
        ("{other}", "{other}"),
        ("{}", "{}"),
        ("{PORT} { port } {port:d} {port!r} {0}", "{PORT} { port } {port:d} {port!r} {0}"),
        ("$port ${port} %(port)s", "$port $27850 %(port)s"),
        ("~/x", "~/x"),
        ("", ""),
    ],
    ids=[
        "port", "host", "model_path", "name", "within a word", "twice", "within JSON", "double braces", "unknown name",
        "empty braces", "no format language", "no shell", "no home", "empty word",
    ],
)  # fmt: skip
def test_placeholders_are_filled_in_command_and_env_and_nothing_else_is_touched(
    tmp_path: Path, word: str, filled: str
) -> None:
    launch = prepared(tmp_path, model_path="org/model", command=["/bin/sh", word], env={"WORD": word})
    assert (launch.argv[1], launch.env["WORD"]) == (filled, filled)


def test_the_env_of_an_mlx_model_has_placeholders_too(tmp_path: Path) -> None:
    env = prepared(tmp_path, model_path=REPO, env={"ME": "{name}@{host}:{port} {model_path}"}).env
    assert env["ME"] == f"m@127.0.0.1:27850 {REPO}"


def test_a_value_that_looks_like_a_placeholder_is_not_filled_in_turn(tmp_path: Path) -> None:
    launch = prepared(tmp_path, model_path="{port}/{name}", command=["/bin/sh", "{model_path}"])
    assert launch.argv[1] == "{port}/{name}"


def test_the_program_too_may_be_a_placeholder(tmp_path: Path) -> None:
    path = program(tmp_path / "m")
    assert prepared(tmp_path, command=["./{name}"]).argv == (str(path),)


def test_a_command_gets_the_model_path_in_the_home_directory_in_full(tmp_path: Path) -> None:
    launch = prepared(tmp_path, model_path="~/no-such-model", command=["/bin/sh", "{model_path}"])
    assert launch.argv[1] == str(tmp_path / "home" / "no-such-model"), "and is not asked whether it is there"


def test_a_command_without_a_port_gets_nothing_for_one(tmp_path: Path) -> None:
    launch = prepared(tmp_path, port=None, command=["/bin/sh", "[{port}]"])
    assert launch.argv[1] == "[]"
    assert launch.mlx_model is None


def test_numbers_in_a_command_are_words(tmp_path: Path) -> None:
    launch = prepared(tmp_path, command=["/bin/sh", "--port", 8080], env={"OMP_NUM_THREADS": 4})
    assert (launch.argv[2], launch.env["OMP_NUM_THREADS"]) == ("8080", "4")


def test_a_program_is_looked_for_on_the_path_that_the_process_gets(tmp_path: Path) -> None:
    hubs, models = program(tmp_path / "hubs" / "serve"), program(tmp_path / "models" / "serve")
    environ = {"PATH": str(hubs.parent)}
    assert prepared(tmp_path, environ=environ, command=["serve"]).argv == (str(hubs),)
    launch = prepared(tmp_path, environ=environ, command=["serve"], env={"PATH": str(models.parent)})
    assert launch.argv == (str(models),)


def test_a_program_with_a_directory_in_its_name_is_not_looked_for_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    path = program(tmp_path / "work" / "bin" / "serve")
    launch = prepared(tmp_path, environ={"PATH": "/bin"}, command=["bin/serve"], working_directory="work")
    assert launch.argv == (str(path),)


def test_a_program_in_the_home_directory_is_found(tmp_path: Path) -> None:
    path = program(tmp_path / "home" / "serve")
    assert prepared(tmp_path, command=["~/serve"]).argv == (str(path),)


def test_a_program_found_through_a_relative_path_has_its_absolute_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    path = program(tmp_path / "bin" / "serve")
    launch = prepared(tmp_path, environ={"PATH": "bin"}, command=["serve"], working_directory="work")
    assert launch.argv == (str(path),)


def test_everything_is_absolute_even_if_hub_yaml_was_named_relatively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = program(tmp_path / "serve")
    launch = prepared(Path(), command=["./serve"])
    assert (launch.argv, launch.cwd) == ((str(path),), tmp_path)


def test_a_working_directory_in_the_home_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "home" / "work").mkdir(parents=True)
    assert prepared(tmp_path, command=["/bin/sh"], working_directory="~/work").cwd == tmp_path / "home" / "work"


# The environment.


def test_where_the_hub_sends_its_telemetry_is_not_handed_on_but_a_model_may_have_its_own(tmp_path: Path) -> None:
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "key=s3cret", "OTEL_SERVICE_NAME": "hub", "HOTEL_": "kept"}
    env = prepared(
        tmp_path, command=["sh"], environ={"PATH": os.defpath, **environ}, env={"OTEL_SERVICE_NAME": "m"}
    ).env
    assert {name: value for name, value in env.items() if "OTEL_" in name} == {
        "OTEL_SERVICE_NAME": "m",
        "HOTEL_": "kept",
    }


def test_the_environment_is_the_hubs_with_the_models_on_top(tmp_path: Path) -> None:
    environ = {"LANG": "C", "THREADS": "1"}
    env = prepared(tmp_path, environ=environ, command=["/bin/sh"], env={"THREADS": 4}).env
    assert env == {"LANG": "C", "THREADS": "4", "PYTHONUNBUFFERED": "1"}
    assert environ == {"LANG": "C", "THREADS": "1"}, "the hub's own is not changed"


def test_what_is_withheld_of_it_the_model_gets_only_from_its_own_entry(tmp_path: Path) -> None:
    environ = {"LANG": "C", "TOKEN": "t", "KEY": "k"}
    model = prepared(tmp_path, environ=environ, withheld={"TOKEN", "KEY"}, command=["/bin/sh"], env={"KEY": "own"})
    assert model.env == {"LANG": "C", "KEY": "own", "PYTHONUNBUFFERED": "1"}


def test_by_default_it_is_that_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXHUB_TEST", "here")
    prepared(tmp_path, command=["/bin/sh"])
    model = load_settings(tmp_path / "hub.yaml").models[0]
    assert prepare(model, host="127.0.0.1", port=None, directory=tmp_path).env["MLXHUB_TEST"] == "here"


@pytest.mark.parametrize("entry", [{"model_path": REPO}, {"command": ["/bin/sh"]}], ids=["mlx_lm", "command"])
@pytest.mark.parametrize("hubs", [{}, {"PYTHONUNBUFFERED": ""}], ids=["unset", "off in the hub's environment"])
def test_output_is_never_held_back(tmp_path: Path, entry: dict[str, Any], hubs: dict[str, str]) -> None:
    assert prepared(tmp_path, environ=hubs, **entry).env["PYTHONUNBUFFERED"] == "1"


def test_a_stray_file_in_the_working_directory_cannot_break_mlx_lm(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported by mistake')")
    launch = prepared(tmp_path, model_path=REPO)
    done = subprocess.run(
        [launch.argv[0], "-S", "-m", "json.tool", "-h"],
        check=False,
        cwd=launch.cwd,
        env=launch.env,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("hubs", [{}, {"PYTHONSAFEPATH": ""}], ids=["unset", "off in the hub's environment"])
def test_safe_imports_are_for_mlx_lm_and_the_users_word_counts_more(tmp_path: Path, hubs: dict[str, str]) -> None:
    assert prepared(tmp_path, environ=hubs, model_path=REPO).env["PYTHONSAFEPATH"] == "1"
    assert prepared(tmp_path, environ=hubs, model_path=REPO, env={"PYTHONSAFEPATH": ""}).env["PYTHONSAFEPATH"] == ""
    assert not prepared(tmp_path, environ=hubs, command=["/bin/sh"]).env.get("PYTHONSAFEPATH")


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    launch = prepared(tmp_path, environ={"AWS_KEY": "hunter2"}, command=["/bin/sh"], env={"HF_TOKEN": "hunter3"})
    assert isinstance(launch, Launch)
    assert "hunter" not in repr(launch)
    assert "hunter" not in str(launch)
    assert "/bin/sh" in repr(launch)


def test_what_is_prepared_can_be_run(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    script = "import os, sys; print(os.getcwd(), os.environ['WHO'], sys.argv[1:])"
    command = [sys.executable, "-S", "-c", script, "{port}", "a b"]
    launch = prepared(tmp_path, command=command, env={"WHO": "{name}"}, working_directory="./work")
    done = subprocess.run(launch.argv, check=False, cwd=launch.cwd, env=launch.env, capture_output=True, text=True)
    assert done.stdout == f"{os.path.realpath(tmp_path / 'work')} m ['27850', 'a b']\n", done.stderr


# Offline exactly when all weights are here.


def offline(directory: Path, **given: Any) -> str | None:
    return prepared(directory, **{"model_path": REPO, **given}).env.get("HF_HUB_OFFLINE")


def test_a_model_that_must_be_downloaded_may_go_online(tmp_path: Path) -> None:
    assert offline(tmp_path) is None


@pytest.mark.parametrize("path", ["{tmp}/model", "./model", "model", "org/model", "~/model"])
def test_a_directory_is_served_offline(tmp_path: Path, path: str) -> None:
    for directory in ("model", "org/model", "home/model"):
        (tmp_path / directory).mkdir(parents=True)
    assert offline(tmp_path, model_path=path.replace("{tmp}", str(tmp_path))) == "1"


def test_a_relative_directory_starts_where_the_process_does(tmp_path: Path) -> None:
    (tmp_path / "work" / "org" / "model").mkdir(parents=True)
    assert offline(tmp_path, model_path="org/model", working_directory="work") == "1"
    assert offline(tmp_path, model_path="org/model") is None


CACHES = {
    "default": ({}, "home/.cache/huggingface/hub"),
    "XDG_CACHE_HOME": ({"XDG_CACHE_HOME": "{tmp}/xdg"}, "xdg/huggingface/hub"),
    "HF_HOME": ({"HF_HOME": "{tmp}/hf", "XDG_CACHE_HOME": "{tmp}/xdg"}, "hf/hub"),
    "HF_HOME with ~": ({"HF_HOME": "~/hf"}, "home/hf/hub"),
    "HF_HUB_CACHE": ({"HF_HUB_CACHE": "{tmp}/cache", "HF_HOME": "{tmp}/hf"}, "cache"),
    "HF_HUB_CACHE with ~": ({"HF_HUB_CACHE": "~/cache"}, "home/cache"),
    "its former name": ({"HUGGINGFACE_HUB_CACHE": "{tmp}/cache", "HF_HOME": "{tmp}/hf"}, "cache"),
    "a relative one": ({"HF_HUB_CACHE": "cache"}, "cache"),
    "an empty one": ({"HF_HUB_CACHE": "", "HF_HOME": "", "XDG_CACHE_HOME": ""}, "home/.cache/huggingface/hub"),
}


@pytest.mark.parametrize(("variables", "place"), CACHES.values(), ids=CACHES)
@pytest.mark.parametrize("of", ["hub", "model"])
def test_a_model_in_the_cache_is_served_offline(tmp_path: Path, variables: dict[str, str], place: str, of: str) -> None:
    variables = {name: value.replace("{tmp}", str(tmp_path)) for name, value in variables.items()}
    given = {"environ": variables} if of == "hub" else {"env": variables}
    assert offline(tmp_path, **given) is None
    cached(tmp_path / place, REPO, "model.safetensors")
    assert offline(tmp_path, **given) == "1"


def test_the_cache_is_the_one_that_the_model_will_look_into(tmp_path: Path) -> None:
    cached(tmp_path / "hubs", REPO, "model.safetensors")
    environ = {"HF_HUB_CACHE": str(tmp_path / "hubs")}
    assert offline(tmp_path, environ=environ) == "1"
    assert offline(tmp_path, environ=environ, env={"HF_HUB_CACHE": str(tmp_path / "models")}) is None


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([], None),
        (["model.safetensors"], "1"),
        (SHARDS[:1], None),
        (SHARDS[:2], None),
        (SHARDS, "1"),
        (["model.safetensors", *SHARDS[:2]], None),
        (["adapters.safetensors"], None),
    ],
    ids=["no weights", "one file", "1 of 3", "2 of 3", "3 of 3", "2 of 3 and another", "others than the model's"],
)
def test_a_download_that_was_interrupted_may_go_on(tmp_path: Path, weights: list[str], expected: str | None) -> None:
    cached(tmp_path / "cache", REPO, *weights)
    assert offline(tmp_path, environ={"HF_HUB_CACHE": str(tmp_path / "cache")}) == expected


@pytest.mark.parametrize("ref", [None, "a11ce"], ids=["no version", "another version"])
def test_only_the_version_that_would_be_loaded_counts(tmp_path: Path, ref: str | None) -> None:
    cached(tmp_path / "cache", REPO, "model.safetensors", ref=ref)
    assert offline(tmp_path, environ={"HF_HUB_CACHE": str(tmp_path / "cache")}) is None


def test_a_link_into_a_cache_that_was_emptied_is_no_model(tmp_path: Path) -> None:
    cached(tmp_path / "cache", REPO, "model.safetensors")
    next(tmp_path.glob("cache/*/blobs/model.safetensors")).unlink()
    assert offline(tmp_path, environ={"HF_HUB_CACHE": str(tmp_path / "cache")}) is None


DRAFTS: dict[str, dict[str, Any]] = {
    "option": {"options": {"draft-model": "org/draft"}},
    "option with _": {"options": {"draft_model": "org/draft"}},
    "args, two words": {"args": ["--num-draft-tokens", 3, "--draft-model", "org/draft"]},
    "args, one word": {"args": ["--draft-model=org/draft", "--log-level", "DEBUG"]},
}


@pytest.mark.parametrize("draft", DRAFTS.values(), ids=DRAFTS)
def test_a_draft_model_must_be_here_too(tmp_path: Path, draft: dict[str, Any]) -> None:
    environ = {"HF_HUB_CACHE": str(tmp_path / "cache")}
    cached(tmp_path / "cache", REPO, "model.safetensors")
    assert offline(tmp_path, environ=environ, **draft) is None
    cached(tmp_path / "cache", "org/draft", "model.safetensors")
    assert offline(tmp_path, environ=environ, **draft) == "1"


@pytest.mark.parametrize("value", [None, False], ids=["nothing", "false"])
def test_a_draft_model_that_is_left_out_need_not_be_here(tmp_path: Path, value: bool | None) -> None:
    (tmp_path / "model").mkdir()
    assert offline(tmp_path, model_path="./model", options={"draft-model": value}) == "1"


@pytest.mark.parametrize("of", ["hub", "model"])
@pytest.mark.parametrize("here", [True, False], ids=["weights are here", "weights are not here"])
def test_the_users_own_word_about_offline_counts_more(tmp_path: Path, of: str, here: bool) -> None:
    if here:
        (tmp_path / REPO).mkdir(parents=True)
    for word in ("0", "1", ""):
        given = {"environ" if of == "hub" else "env": {"HF_HUB_OFFLINE": word}}
        assert offline(tmp_path, **given) == word
    assert offline(tmp_path, environ={"HF_HUB_OFFLINE": "1"}, env={"HF_HUB_OFFLINE": "0"}) == "0"


def test_other_servers_decide_for_themselves(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert offline(tmp_path, model_path="./model", command=["/bin/sh", "{model_path}"]) is None


# What is missing is said at once, and what to do.


MISSING: dict[str, tuple[dict[str, Any], list[str]]] = {
    "program on the PATH": (
        {"command": ["no-such-program"]}, ["command: no program 'no-such-program' on the PATH", "install it"],
    ),
    "program at its path": (
        {"command": ["/no/such/program"]}, ["command: /no/such/program is not there", "install it"],
    ),
    "program beside hub.yaml": (
        {"command": ["./serve"]}, ["command: {tmp}/serve is not there", "whole path"],
    ),
    "the whole command in one word": (
        {"command": ["serve --port {port}"]}, ["'serve --port 27850'", "each word of the command as an entry of its own"],
    ),
    "a directory instead of a program": (
        {"command": ["{tmp}"]}, ["command: {tmp} is a directory", "whole path"],
    ),
    "a program that may not be run": (
        {"command": ["./plain"]}, ["command: {tmp}/plain is not executable", "chmod +x"],
    ),
    "an empty program": (
        {"command": [""]}, ["command: no program ''"],
    ),
    "working directory": (
        {"command": ["/bin/sh"], "working_directory": "sub"}, ["working_directory: {tmp}/sub is not there", "make it"],
    ),
    "a file as a working directory": (
        {"command": ["/bin/sh"], "working_directory": "plain"}, ["working_directory: {tmp}/plain is not a directory"],
    ),
    "home of an unknown user": (
        {"command": ["/bin/sh"], "working_directory": "~no-such-user/x"}, ["~no-such-user/x is not there"],
    ),
    "interpreter": (
        {"model_path": REPO, "python": "venv/bin/python"}, ["python: {tmp}/venv/bin/python is not there", "mlx-lm"],
    ),
    "interpreter on the PATH": (
        {"model_path": REPO, "python": "python9"}, ["python: no program 'python9' on the PATH", "mlx-lm"],
    ),
    "a virtual environment instead of its interpreter": (
        {"model_path": REPO, "python": "{tmp}"}, ["python: {tmp} is a directory", "as ~/venv/bin/python"],
    ),
    "an interpreter that may not be run": (
        {"model_path": REPO, "python": "./plain"}, ["python: {tmp}/plain is not executable", "chmod +x"],
    ),
    "model": (
        {"model_path": "/no/such/model"}, ["model_path: /no/such/model is not there", "Hugging Face"],
    ),
    "model at the root": (
        {"model_path": "/no-such-model"}, ["model_path: /no-such-model is not there"],
    ),
    "model beside hub.yaml": (
        {"model_path": "./models/qwen"}, ["model_path: {tmp}/models/qwen is not there"],
    ),
    "model above hub.yaml": (
        {"model_path": "../no-such-model"}, ["model_path: {tmp}/../no-such-model is not there"],
    ),
    "model in the home directory": (
        {"model_path": "~/qwen"}, ["model_path: {tmp}/home/qwen is not there"],
    ),
    "model of an unknown user": (
        {"model_path": "~no-such-user/qwen"}, ["~no-such-user/qwen is not there"],
    ),
    "model at a path that cannot be a name": (
        {"model_path": "models/mlx/qwen"}, ["model_path: {tmp}/models/mlx/qwen is not there"],
    ),
    "a file instead of a model's directory": (
        {"model_path": "./plain"}, ["model_path: {tmp}/plain is not a directory"],
    ),
    "draft model among the options": (
        {"model_path": REPO, "options": {"draft_model": "./draft"}}, ["options.draft_model: {tmp}/draft is not there"],
    ),
    "draft model among the args": (
        {"model_path": REPO, "args": ["--draft-model", "/no/draft"]}, ["args: /no/draft is not there"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "parts"), MISSING.values(), ids=MISSING)
def test_what_is_missing_is_said_with_the_next_step(tmp_path: Path, entry: dict[str, Any], parts: list[str]) -> None:
    (tmp_path / "plain").write_text("")
    (tmp_path / "plain").chmod(0o644)
    entry = json.loads(json.dumps(entry).replace("{tmp}", str(tmp_path)))
    message = refusal(tmp_path, environ={"PATH": "/usr/bin:/bin"}, **entry)
    for part in parts:
        assert part.replace("{tmp}", str(tmp_path)) in message


def test_a_directory_that_was_deleted_under_the_hub_is_missed(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    prepared(tmp_path / "gone", command=["/bin/sh"])
    model = load_settings(tmp_path / "gone" / "hub.yaml").models[0]
    (tmp_path / "gone" / "hub.yaml").unlink()
    (tmp_path / "gone").rmdir()
    with pytest.raises(LaunchError, match=r"m: working_directory: .*/gone is not there"):
        prepare(model, host="127.0.0.1", port=PORT, directory=tmp_path / "gone")
