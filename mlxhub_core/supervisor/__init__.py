"""The one loop that owns all model state and decides.

`loop` is the supervisor itself; `lifecycle` is the life of one model; `plan` says what a new hub.yaml asks for;
`messages` is what may be said to the loop.
"""

from mlxhub_core.supervisor.loop import Supervisor
from mlxhub_core.supervisor.plan import Plan, ReloadResult, Step

__all__ = ["Plan", "ReloadResult", "Step", "Supervisor"]
