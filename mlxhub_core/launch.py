"""The command line and the environment of a model's process. The only place that knows `mlx_lm server`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlxhub_core.errors import LaunchError
from mlxhub_core.settings import ModelSettings, resolve

_PLACEHOLDER = re.compile(r"\{(name|host|port|model_path)\}")


@dataclass(frozen=True, slots=True)
class Launch:
    """What to execute.

    Attributes:
        argv: the program, by its absolute path, and its arguments.
        env: the whole environment. Not in the `repr`: it may hold secrets.
        cwd: the working directory.
        mlx_model: what mlx_lm's `--model` says; None for other servers.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path
    mlx_model: str | None = None


def prepare(
    model: ModelSettings, *, host: str, port: int | None, directory: Path, environ: Mapping[str, str] | None = None
) -> Launch:
    """How to start a model.

    Args:
        model: its entry of hub.yaml.
        host: the address to listen on.
        port: the port to listen on; None for a command that has no place for one.
        directory: that of hub.yaml: relative paths start there, and so does the process unless told otherwise.
        environ: the environment to add to; default: the hub's own.

    Raises:
        LaunchError: what it needs is not there.
    """
    environ = os.environ if environ is None else environ
    model_path = _expanded(model.model_path or "")
    values = {"name": model.name, "host": host, "port": str(port or ""), "model_path": model_path}
    cwd = resolve(directory, model.working_directory or ".")
    if not cwd.is_dir():
        raise LaunchError(model.name, f"working_directory {cwd} is not there")
    env = {**environ, "PYTHONUNBUFFERED": "1"}
    if model.command is None:
        _check_model_path(model.name, model_path, cwd)
        env |= _mlx_environment(model, model_path, cwd, environ)
    env |= {key: _filled(value, values) for key, value in model.env.items()}
    if model.command is None:
        argv = [_interpreter(model, directory), "-m", "mlx_lm", "server", "--model", model_path]
        argv += ["--host", host, "--port", str(port), *_flags(model.options), *model.args]
    else:
        program, *arguments = (_filled(word, values) for word in model.command)
        argv = [_program(model.name, _expanded(program), cwd, env.get("PATH")), *arguments]
    return Launch(tuple(argv), env, cwd, model_path if model.command is None else None)


def _filled(text: str, values: Mapping[str, str]) -> str:
    # One pass, so that a value which happens to hold a placeholder is not filled in turn.
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


def _expanded(path: str) -> str:
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _flags(options: Mapping[str, Any]) -> Iterator[str]:
    """`{max-tokens: 512, trust-remote-code: true}` as flags. False and nothing leave a flag out; mappings become JSON."""
    for key, value in options.items():
        if value is None or value is False:
            continue
        yield "--" + key.replace("_", "-")
        if value is not True:
            yield value if isinstance(value, str) else json.dumps(value)


def _interpreter(model: ModelSettings, directory: Path) -> str:
    if model.python is not None:
        path = _expanded(model.python)
        return _program(model.name, path, directory, os.environ.get("PATH"), key="python")
    try:
        importlib.metadata.version("mlx-lm")
    except importlib.metadata.PackageNotFoundError:
        install = f'{sys.executable} -m pip install "mlxhub-core[mlx]"'
        message = (
            f"needs mlx-lm, which is not installed here; run `{install}`, or name a Python that has it with `python:`"
        )
        raise LaunchError(model.name, message) from None
    return sys.executable


def _program(model: str, program: str, cwd: Path, path: str | None, key: str = "command") -> str:
    """The absolute path of a program: looked for on the PATH, or from `cwd` if it names a directory."""
    found = str(cwd / program) if os.sep in program else shutil.which(program, path=path)
    if found is None:
        raise LaunchError(model, f"{key}: no program {program!r} on the PATH")
    if not os.path.isfile(found):
        raise LaunchError(model, f"{key}: {found} is not there")
    if not os.access(found, os.X_OK):
        raise LaunchError(model, f"{key}: {found} is not executable; run `chmod +x` on it")
    return found


def _check_model_path(name: str, model_path: str, cwd: Path) -> None:
    # mlx_lm would take a path that is not there for the name of a model to download, and say so at length.
    if model_path.startswith(("/", "./", "../")) and not (cwd / model_path).exists():
        raise LaunchError(name, f"model_path: {cwd / model_path} is not there")


def _mlx_environment(model: ModelSettings, model_path: str, cwd: Path, environ: Mapping[str, str]) -> dict[str, str]:
    # `python -m` would else import from the working directory first: a stray json.py there would break the server.
    env = {"PYTHONSAFEPATH": "1"}
    if all(_is_local(path, cwd, environ) for path in (model_path, *_draft_models(model))):
        # The `model` field of any request makes mlx_lm load, and fetch, that model; any web page can send one.
        env["HF_HUB_OFFLINE"] = environ.get("HF_HUB_OFFLINE", "1")
    return env


def _draft_models(model: ModelSettings) -> Iterator[str]:
    for key, value in model.options.items():
        if key.replace("_", "-") == "draft-model":
            yield str(value)
    for flag, following in pairwise([*model.args, ""]):
        name, _, value = flag.partition("=")
        if name == "--draft-model":
            yield value or following


def _is_local(model_path: str, cwd: Path, environ: Mapping[str, str]) -> bool:
    """Whether the weights are on this machine: as a directory, or in the Hugging Face cache."""
    if (cwd / _expanded(model_path)).is_dir():
        return True
    snapshots = _hub_cache(environ) / f"models--{model_path.replace('/', '--')}" / "snapshots"
    return any(snapshots.glob("*/*.safetensors"))


def _hub_cache(environ: Mapping[str, str]) -> Path:
    # huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    if cache := environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = environ.get("HF_HOME") or Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"
