"""`mlxhub reset`: forget that a model has failed."""

from __future__ import annotations

from pathlib import Path

import click

from mlxhub_core.cli.asking import all_done, post_for_each
from mlxhub_core.cli.common import config_option
from mlxhub_core.cli.models import models_argument
from mlxhub_core.control.client import ControlClient


@click.command()
@models_argument
@config_option
def reset(models: tuple[str, ...], config: Path) -> None:
    """Forget that these models have failed: each is stopped then, as if it never had, and its back-off starts over.

    For a model that the hub has given up. It is not started; `mlxhub start-model` does both. Exit code 1 for one that
    runs or is about to be restarted, 3 if no hub runs for this hub.yaml.

    \b
      mlxhub reset qwen3-4b
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    all_done(post_for_each(ControlClient(config), models, "reset"), models)
