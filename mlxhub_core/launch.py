"""The command line and the environment of a model's process. The only place that knows `mlx_lm server`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlxhub_core.errors import LaunchError
from mlxhub_core.hf_cache import cache_directory, is_complete
from mlxhub_core.settings import HubSettings, ModelSettings

_PLACEHOLDER = re.compile(r"\{(name|host|port|model_path)\}")
_UNFIT_MLX = re.compile(r"0\.31(?!\d)")
_BROKEN_METADATA = (OSError, ValueError)
"""What reading the version of a package raises that pip has left half installed, once importlib-metadata is imported."""
_ADVICE = {
    "command": "install it, or write its whole path, and each word of the command as an entry of its own",
    "python": "name an interpreter that has mlx-lm, as ~/venv/bin/python",
}


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
    model: ModelSettings,
    *,
    host: str,
    port: int | None,
    directory: Path,
    environ: Mapping[str, str] | None = None,
    withheld: Collection[str] = (),
) -> Launch:
    """How to start a model.

    Args:
        model: its entry of hub.yaml.
        host: the address to listen on.
        port: the port to listen on; None for a command that has no place for one.
        directory: that of hub.yaml: a relative `working_directory` or `python` starts there, and so does the process
            unless told otherwise. What the process itself opens, as the model, starts where the process does.
        environ: the environment to add to; default: the hub's own.
        withheld: variables of that which it does not get, unless its `env` has them.

    Raises:
        LaunchError: what it needs is not there.
    """
    environ = os.environ if environ is None else environ
    model_path = _expanded(model.model_path or "")
    values = {"name": model.name, "host": host, "port": str(port or ""), "model_path": model_path}
    cwd = (directory / _expanded(model.working_directory or ".")).absolute()
    if not cwd.is_dir():
        raise LaunchError(model.name, f"working_directory: {cwd} {_lack(cwd)}; make it, or name another")
    own = {key: _filled(value, values) for key, value in model.env.items()}
    env = {**_handed_on(environ, withheld), "PYTHONUNBUFFERED": "1", **own}
    if model.command is None:
        weights = [("model_path", model_path), *_draft_models(model)]
        for key, path in weights:
            _check_weights(model.name, key, path, cwd)
        env = {**env, **_mlx_environment([path for _, path in weights], cwd, env), **own}
        argv = [_interpreter(model, directory, env.get("PATH")), "-m", "mlx_lm", "server", "--model", model_path]
        argv += ["--host", host, "--port", str(port), *_flags(model.options), *model.args]
    else:
        program, *arguments = (_filled(word, values) for word in model.command)
        argv = [_program(model.name, _expanded(program), cwd, env.get("PATH")), *arguments]
    return Launch(tuple(argv), env, cwd, model_path if model.command is None else None)


def lacks(settings: HubSettings) -> Iterator[tuple[int, LaunchError]]:
    """What the models of a hub.yaml lack to be started as things are now, each with its place among them."""
    for index, model in enumerate(settings.models):
        try:
            prepare(model, host=settings.host, port=model.port or 1, directory=settings.directory)
        except LaunchError as error:
            yield index, error


def _handed_on(environ: Mapping[str, str], withheld: Collection[str]) -> dict[str, str]:
    """The hub's own environment, but for what is meant for it alone: as where it sends its telemetry, and as whom."""
    return {name: value for name, value in environ.items() if not name.startswith("OTEL_") and name not in withheld}


def _filled(text: str, values: Mapping[str, str]) -> str:
    # One pass, so that a value which happens to hold a placeholder is not filled in turn.
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


def _expanded(path: str) -> str:
    # Unlike pathlib's, this one leaves the home of an unknown user as it is: then the path is said to be not there.
    return os.path.expanduser(path)  # noqa: PTH111


def _flags(options: Mapping[str, Any]) -> Iterator[str]:
    """`{max-tokens: 512, trust-remote-code: true}` as flags. False and nothing leave a flag out; mappings become JSON."""
    for key, value in options.items():
        if value is None or value is False:
            continue
        yield "--" + key.replace("_", "-")
        if value is not True:
            yield value if isinstance(value, str) else json.dumps(value)


def _interpreter(model: ModelSettings, directory: Path, path: str | None) -> str:
    if model.python is not None:
        python = _program(model.name, _expanded(model.python), directory, path, key="python")
        if advice := mlx_is_unfit(_version_beside(python), python):
            raise LaunchError(model.name, f"python: {python} has {advice}")
        return python
    if advice := mlx_is_missing():
        raise LaunchError(model.name, f"needs {advice}, or name a Python that has it with `python:`")
    if advice := mlx_is_unfit(_own_version(), sys.executable):
        raise LaunchError(model.name, f"this Python has {advice}")
    return sys.executable


def mlx_is_missing() -> str | None:
    """What to do about it, with this interpreter's own pip line; None if mlx-lm is installed. Does not import it."""
    try:
        _own_version()
    except importlib.metadata.PackageNotFoundError:
        pip = f'{shlex.quote(sys.executable)} -m pip install "mlxhub-core[mlx]"'
        return f"mlx-lm, which is not installed here; run `{pip}`"
    return None


def mlx_version() -> str | None:
    """The version of mlx-lm in this interpreter; None if it is not there, or does not say. Does not import it."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return _own_version()
    return None


def _own_version() -> str | None:
    """The version of mlx-lm here; None if it does not say. Raises PackageNotFoundError."""
    with contextlib.suppress(*_BROKEN_METADATA):
        return importlib.metadata.version("mlx-lm")
    return None


def mlx_is_unfit(version: str | None, python: str) -> str | None:
    """What is wrong with this version of mlx-lm, and the pip line of that interpreter; None if nothing is known."""
    if version is None or not _UNFIT_MLX.match(version):
        return None
    pip = f'{shlex.quote(python)} -m pip install -U "mlx-lm>=0.32.2"'
    return f"mlx-lm {version}, whose server says for ever that it is well when its model is dead; run `{pip}`"


def _version_beside(python: str) -> str | None:
    """The version of mlx-lm that another interpreter has, where it keeps its packages in the usual place."""
    # Not the path that a link leads to: that would be the interpreter which a virtual environment was made of.
    places = list(Path(python).parent.parent.glob("lib/python3*/site-packages"))
    if len(places) > 1:
        # As where Homebrew keeps several, or an environment was upgraded; there only its name tells which one is its own.
        names = {Path(python).name, Path(python).resolve().name}
        places = [place for place in places if place.parent.name in names]
    found = importlib.metadata.distributions(name="mlx-lm", path=[str(place) for place in places])
    with contextlib.suppress(*_BROKEN_METADATA):
        return next((distribution.version for distribution in found), None)
    return None


def _program(model: str, program: str, cwd: Path, path: str | None, key: str = "command") -> str:
    """The absolute path of a program: looked for on the PATH, or from `cwd` if it names a directory."""
    found = str(cwd / program) if os.sep in program else shutil.which(program, path=path)
    if found is None:
        raise LaunchError(model, f"{key}: no program {program!r} on the PATH; {_ADVICE[key]}")
    if not os.path.isfile(found):
        lack = "is a directory" if Path(found).is_dir() else "is not there"
        raise LaunchError(model, f"{key}: {found} {lack}; {_ADVICE[key]}")
    if not os.access(found, os.X_OK):
        raise LaunchError(model, f"{key}: {found} is not executable; run `chmod +x` on it")
    # An entry of the PATH may be relative, and the process does not start where the hub did.
    return str(Path(found).absolute())


def _lack(directory: Path) -> str:
    return "is not a directory" if directory.exists() else "is not there"


def _check_weights(name: str, key: str, path: str, cwd: Path) -> None:
    # mlx_lm would take a path that is not there for the name of a model to download, and say so at length.
    if (path.startswith(("/", ".", "~")) or path.count("/") > 1) and not (cwd / path).is_dir():
        message = f"{key}: {cwd / path} {_lack(cwd / path)}"
        raise LaunchError(name, f"{message}; name the directory of a model, or a model on the Hugging Face hub")


def _mlx_environment(weights: Iterable[str], cwd: Path, env: Mapping[str, str]) -> dict[str, str]:
    # `python -m` would else import from the working directory first: a stray json.py there would break the server.
    added = {"PYTHONSAFEPATH": "1"}
    if "HF_HUB_OFFLINE" not in env and all(_is_local(path, cwd, env) for path in weights):
        # The `model` field of any request makes mlx_lm load, and fetch, that model; any web page can send one.
        added["HF_HUB_OFFLINE"] = "1"
    return added


def _draft_models(model: ModelSettings) -> Iterator[tuple[str, str]]:
    for key, value in model.options.items():
        if key.replace("_", "-") == "draft-model" and isinstance(value, str):
            yield f"options.{key}", value
    for flag, following in pairwise([*model.args, ""]):
        name, _, value = flag.partition("=")
        if name == "--draft-model":
            yield "args", value or following


def _is_local(model_path: str, cwd: Path, env: Mapping[str, str]) -> bool:
    """Whether the weights are on this machine: as a directory, or in the Hugging Face cache."""
    return (cwd / model_path).is_dir() or is_complete(cwd / cache_directory(env), model_path)
