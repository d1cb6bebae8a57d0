"""`mlxhub completion`: the script with which a shell completes the command line, and the names that it completes.

The script asks the command itself, by a variable in the environment; click does that. Of the names it knows nothing: for
what the help calls MODEL, KEY or TYPE they are taught to it here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from mlxhub_core.errors import HubError

VARIABLE = "_MLXHUB_COMPLETE"
_ZSH_NEEDS = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n"
"""A bare zsh, as on a Mac, completes nothing before this."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, options, models and sinks when you press Tab.

    Turn it on with the line for your shell; it takes effect in new shells:

    \b
      echo 'eval "$(mlxhub completion bash)"' >> ~/.bashrc
      echo 'eval "$(mlxhub completion zsh)"' >> ~/.zshrc
      mlxhub completion fish > ~/.config/fish/completions/mlxhub.fish

    Bash must be 4.4 or newer; that of macOS is not. Names of models come from the hub.yaml in the current directory, of
    --config or of MLXHUB_CONFIG.
    """  # noqa: D301  # click needs the character, to leave the lines as they are
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(click.Group(), {}, "mlxhub", VARIABLE).source()
    if shell == "zsh":
        head, _, rest = script.partition("\n")  # `#compdef` must stay the first line
        script = f"{head}\n{_ZSH_NEEDS}{rest}"
    click.echo(script, nl=False)


class Name(click.types.StringParamType):
    """A parameter that is a name, and the names that there are.

    Args:
        kind: as the help calls it.
        names: finds them. Whoever presses Tab hears of no error.
    """

    def __init__(self, kind: str, names: Callable[[click.Context], Iterable[object]]) -> None:
        self.name = kind.lower()
        self._names = names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so, without those that the line has already."""
        try:
            names = list(self._names(ctx))
        except (HubError, OSError, LookupError, TypeError, ValueError):
            return []
        said = ctx.params.get(param.name or "")
        before = said if isinstance(said, tuple) else ()
        fits = [name for name in names if isinstance(name, str) and name.startswith(incomplete) and name not in before]
        return [CompletionItem(name) for name in fits]


def teach(command: click.Command) -> None:
    """Have what is a name in the help of a command complete to the names that there are."""
    for parameter in command.params:
        shown = parameter.metavar or (parameter.name if isinstance(parameter, click.Argument) else None) or ""
        if names := _NAMES.get(shown.upper().strip("[].")):
            parameter.type = Name(shown, names)


def _models(ctx: click.Context) -> list[object]:
    return [model["name"] for model in _hub_yaml(ctx)["models"]]


def _keys(ctx: click.Context) -> list[object]:
    return [*_hub_yaml(ctx).get("sinks", ())]


def _types(_ctx: click.Context) -> list[object]:
    from mlxhub_core.discovery import scan

    return list(dict.fromkeys(offer.type for offer in scan().offers))


def _hub_yaml(ctx: click.Context) -> dict[str, Any]:
    """What stands in hub.yaml, unchecked: to check it would take four times as long."""
    from mlxhub_core.yaml_source import Source

    path = Path(ctx.params.get("config") or "hub.yaml")
    value = Source.read(path.expanduser()).value
    return value if isinstance(value, dict) else {}


_NAMES = {"MODEL": _models, "KEY": _keys, "TYPE": _types}
