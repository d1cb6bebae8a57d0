"""The models in the cache of Hugging Face, found without its library and without the network.

The cache keeps a directory ``models--OWNER--NAME`` for each repository, with a file for each ref and a directory for
each revision; where it is, huggingface.co/docs/huggingface_hub/package_reference/environment_variables tells.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_SHARD = re.compile(r"-\d+-of-(\d+)\.safetensors")
_MADE_BY_MLX = re.compile(rb'"format"\s*:\s*"mlx"')
HEADER_BYTES = 1 << 20
"""How much of the head of a file of weights is looked at: what wrote it stands at its beginning."""


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model whose weights are all here.

    Attributes:
        name: as on the Hugging Face hub, ``owner/name``.
        size: of its weights, in bytes.
    """

    name: str
    size: int


def cache_directory(env: Mapping[str, str]) -> Path:
    """Where the cache of a process with this environment is. Relative if the variable that says so is."""
    cache = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE")
    home = env.get("HF_HOME") or str(Path(env.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    # Unlike pathlib's, this one leaves the home of an unknown user as it is: then the path is said to be not there.
    return Path(os.path.expandvars(os.path.expanduser(cache or str(Path(home, "hub")))))  # noqa: PTH111


def is_complete(cache: Path, name: str) -> bool:
    """Whether all weights of the model ``owner/name`` are in the cache."""
    return bool(_weights(cache / f"models--{name.replace('/', '--')}"))


def mlx_models(cache: Path) -> list[CachedModel]:
    """The models in the cache that MLX has written and `mlx_lm` may load, by name."""
    return sorted(_mlx_models(cache), key=lambda model: model.name.lower())


def _mlx_models(cache: Path) -> Iterator[CachedModel]:
    for repository in cache.glob("models--*--*"):
        weights = _weights(repository)
        if weights and _has_model_type(weights[0].parent) and _is_made_by_mlx(weights[0]):
            _, owner, name = repository.name.split("--", 2)
            yield CachedModel(f"{owner}/{name}", sum(path.stat().st_size for path in weights))


def _weights(repository: Path) -> list[Path]:
    """The files of weights of the revision in use; none if one is missing."""
    try:
        commit = (repository / "refs" / "main").read_text().strip()
        found = sorted(path for path in (repository / "snapshots" / commit).glob("model*.safetensors") if path.exists())
    except (OSError, ValueError):
        return []
    # A download that was interrupted left some of the shards: offline it could never be completed.
    shards = Counter(int(match[1]) for path in found if (match := _SHARD.search(path.name)))
    return found if all(count >= total for total, count in shards.items()) else []


def _has_model_type(snapshot: Path) -> bool:
    try:
        config = json.loads((snapshot / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and isinstance(config.get("model_type"), str)


def _is_made_by_mlx(weights: Path) -> bool:
    """Whether MLX wrote this file: its first eight bytes are the length of the JSON that says so."""
    try:
        with weights.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return _MADE_BY_MLX.search(file.read(min(length, HEADER_BYTES))) is not None
    except OSError:
        return False
