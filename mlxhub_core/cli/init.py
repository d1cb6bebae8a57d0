"""`mlxhub init`: a hub.yaml to start from."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from mlxhub_core.cli.common import style
from mlxhub_core.errors import HubError

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
    default: true                     # starts with the hub; others with `HubManager.start_model`
    restart: on-failure               # or: never, always
    options:                          # any flag of `mlx_lm server`, without its dashes
      max-tokens: 512
    # memory: {{required: 2GB}}         # is not started into less
  # - name: other
  #   command: [my-server, --port, "{{port}}"]   # any other server
  #   health: {{path: /health}}
"""


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default=Path("hub.yaml"), metavar="[HUB.YAML]")
def init(file: Path) -> None:
    """Write a commented hub.yaml to start from, and beside it the schema for your editor.

    Asks nothing, and never overwrites a hub.yaml.
    """
    from mlxhub_core.cli.schema import hub_schema

    schema = file.with_name(SCHEMA_FILE)
    known = json.dumps(hub_schema(), indent=2) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write_new(file)
        schema.write_text(known, encoding="utf-8")
    except OSError as error:
        raise HubError(f"{error.filename or file} cannot be written: {error.strerror}") from None
    config = "" if file == Path("hub.yaml") else f" -c {shlex.quote(str(file))}"
    click.echo(style(f"wrote {file} and {schema}", "green"))
    click.echo(f"Put your models in, then: mlxhub check{config} && mlxhub start{config}")
    click.echo(f"After you install a sink, `mlxhub schema > {shlex.quote(str(schema))}` tells your editor its options.")


def _write_new(file: Path) -> None:
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(HUB_YAML)
    except FileExistsError:
        raise HubError(f"{file} is there already, and is left as it is; name another: mlxhub init OTHER.yaml") from None
