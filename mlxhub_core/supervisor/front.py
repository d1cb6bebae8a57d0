"""What other threads may ask of the loop."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from mlxhub_core.actor import Actor
from mlxhub_core.errors import HubStateError
from mlxhub_core.settings import HubSettings
from mlxhub_core.states import ModelStatus
from mlxhub_core.supervisor import messages as say
from mlxhub_core.supervisor.loop import Loop
from mlxhub_core.supervisor.plan import Plan, ReloadResult

T = TypeVar("T")


class Supervisor:
    """Runs the models of hub.yaml.

    All methods may be called from any thread, also from inside a sink; they wait for the answer and never hold a lock.
    `status` does not even wait.

    Args:
        loop: does what is asked.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    @property
    def actor(self) -> Actor[say.Message]:
        """The loop's thread and inbox."""
        return self.loop.actor

    def start(self) -> None:
        """Start the loop."""
        self.actor.start()

    def status(self) -> tuple[ModelStatus, ...]:
        """Every model as it was after the last message. Returns at once."""
        return self.loop.status()

    def start_model(self, name: str) -> None:
        """Start a model; returns when its process runs. Raises HubError."""
        self._ask(lambda reply: say.Start(name, reply))

    def stop_model(self, name: str) -> None:
        """Stop a model; returns when its process has ended. Raises HubError."""
        self._ask(lambda reply: say.Stop(name, reply))

    def restart_model(self, name: str) -> None:
        """Stop a model if it runs and start it; returns when the new process runs. Raises HubError."""
        self._ask(lambda reply: say.Restart(name, reply))

    def reset_model(self, name: str) -> None:
        """Have a model that has failed be as if it had not. Raises HubError."""
        self._ask(lambda reply: say.Reset(name, reply))

    def rotate_log(self, name: str) -> None:
        """Rotate the log of a model; returns when that is done. Raises HubError."""
        self._ask(lambda reply: say.RotateLog(name, reply))

    def reserve_ports(self, settings: HubSettings) -> None:
        """Find a port for each model of `settings`, and start or stop none. Raises HubError and changes nothing.

        The first time it also finds what a former hub has left running, which keeps its ports.
        """
        self._ask(lambda reply: say.Reserve(settings, reply))

    def plan(self, settings: HubSettings) -> Plan:
        """What `apply` would do. Raises HubError as that would, and changes nothing."""
        return self._ask(lambda reply: say.Preview(settings, reply))

    def apply(self, settings: HubSettings) -> ReloadResult:
        """Make the models be as `settings` say; returns when that is done. Raises HubError and changes nothing."""
        return self._ask(lambda reply: say.Apply(settings, reply))

    def shutdown(self, *, keep_models: bool = False) -> None:
        """Stop every model and refuse everything from now on; returns when all have ended.

        With `keep_models` they run on instead, for the next hub.
        """
        self._ask(lambda reply: say.Shutdown(reply, keep_models))

    def kill(self) -> None:
        """End those that are stopping at once, and give no model a grace any more. Returns at once."""
        self.actor.tell(say.Kill())

    def _ask(self, message: Callable[[Future[T]], say.Message]) -> T:
        if self.actor.is_here:
            raise HubStateError("a registered plug-in cannot ask this on the hub's own thread; do it from another one")
        reply: Future[T] = Future()
        if not self.actor.tell(message(reply)):
            raise HubStateError("the hub was shut down; start it again first")
        return reply.result()
