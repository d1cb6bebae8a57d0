"""`mlxhub init`: a hub.yaml to start from."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from mlxhub_core.cli.common import shortened, style
from mlxhub_core.errors import HubError, in_gigabytes
from mlxhub_core.hf_cache import CachedModel, cache_directory, mlx_models

SCHEMA_FILE = "hub.schema.json"

HUB_YAML = f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
# Which models run, and who is told. `mlxhub check` says what is wrong with it; `mlxhub start` runs it.

log_path: ~/mlx-openai-server/logs    # each model's output, in a file of its own: tail -F <log_path>/<name>.log
host: 127.0.0.1                       # where the models listen; others on the network cannot reach them

sinks:                                # who is told when a model starts, is ready, stops, fails, restarts
  loguru:                             # the hub's log; on by itself, `loguru: off` turns it off
  # prometheus:                       # pip install mlxhub-prom-sink
  #   listen: 127.0.0.1:9464
  # statsd:                           # pip install mlxhub-statsd-sink
  #   host: 127.0.0.1
  #   delivery: {{only: [model_failed, model_gave_up]}}
  # otlp:                             # pip install mlxhub-otlp-sink
  #   endpoint: http://localhost:4318

# groups:
#   - {{name: big, max_loaded: 1}}      # only one of them at a time

models:
  - name: qwen3                       # also the name of its log
    model_path: mlx-community/Qwen3-0.6B-4bit   # a name on the Hugging Face hub, or a directory
    default: true                     # starts with the hub; others with `mlxhub start-model NAME`
    restart: on-failure               # or: never, always
    options:                          # any flag of `mlx_lm server`, without its dashes
      max-tokens: 512
    # memory: {{required: 2GB}}         # is not started into less
  # - name: other
  #   command: [my-server, --port, "{{port}}"]   # any other server
  #   health: {{path: /health}}
"""


_TAKEN = ("qwen3", "other")
"""The names of the models in there."""
LONGEST_NAME = 90
"""Characters of a name that is made here; hub.yaml takes 100, and `-2` may have to follow."""


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default=Path("hub.yaml"), metavar="[HUB.YAML]")
def init(file: Path) -> None:
    """Write a commented hub.yaml to start from, and beside it the schema for your editor.

    Asks nothing, and never overwrites a hub.yaml. MLX models that are in the cache of Hugging Face already are in it,
    commented out: what you want of them is there without a download.

    \b
      mlxhub init
      mlxhub init ~/models/hub.yaml
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    from mlxhub_core.cli.schema import hub_schema

    schema = file.with_name(SCHEMA_FILE)
    known = json.dumps(hub_schema(), indent=2) + "\n"
    cache = Path.cwd() / cache_directory(os.environ)
    models = mlx_models(cache)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write_new(file, HUB_YAML + "".join(f"  # {line}\n" for line in _found(models, cache)))
        schema.write_text(known, encoding="utf-8")
    except OSError as error:
        raise HubError(f"{error.filename or file} cannot be written: {error.strerror}") from None
    config = "" if file == Path("hub.yaml") else f" -c {shlex.quote(str(file))}"
    click.echo(style(f"wrote {file} and {schema}", "green"))
    if models:
        click.echo(f"MLX models found in {shortened(str(cache))}, in there commented out: {len(models)}")
    click.echo(f"Put your models in, then: mlxhub check{config} && mlxhub start{config}")
    click.echo(f"After you install a sink, `mlxhub schema > {shlex.quote(str(schema))}` tells your editor its options.")


def _write_new(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError:
        raise HubError(f"{file} is there already, and is left as it is; name another: mlxhub init OTHER.yaml") from None


def _found(models: Iterable[CachedModel], cache: Path) -> Iterator[str]:
    """The entries of models that are there already."""
    taken = set(_TAKEN)
    for model in models:
        if len(taken) == len(_TAKEN):
            yield f"In the cache of Hugging Face ({shortened(str(cache))}), so that nothing is downloaded:"
        taken.add(name := _name(model, taken))
        yield f"- name: {name}"
        yield f"  model_path: {model.name}   # {in_gigabytes(model.size)}"


def _name(model: CachedModel, taken: set[str]) -> str:
    """A name as hub.yaml wants it, that no other model has."""
    words = re.findall("[a-z0-9]+", model.name.partition("/")[2].lower()) or ["model"]
    name = free = "-".join(words)[:LONGEST_NAME].rstrip("-")
    number = 2
    while free in taken:
        free = f"{name}-{number}"
        number += 1
    return free
