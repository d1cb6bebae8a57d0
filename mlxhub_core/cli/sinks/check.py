"""`mlxhub sinks check`: the same as `mlxhub check`, which says what is wrong with the sinks as well."""

from mlxhub_core.cli.check import check

__all__ = ["check"]
