"""The hub's side of the keepers: orders them, hears what they say, and finds those that a former hub has left.

What a keeper is, and what it says, is told in ``mlxhub_core.keeper``.
"""

from mlxhub_core.keepers.factory import STEM, Keepers

__all__ = ["STEM", "Keepers"]
