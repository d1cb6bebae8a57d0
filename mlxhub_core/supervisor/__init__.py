"""Runs the models: one loop owns all their state and decides; see docs/ARCHITECTURE.md for the files."""

from mlxhub_core.supervisor.front import Supervisor
from mlxhub_core.supervisor.loop import Loop
from mlxhub_core.supervisor.plan import Plan, ReloadResult, Step

__all__ = ["Loop", "Plan", "ReloadResult", "Step", "Supervisor"]
