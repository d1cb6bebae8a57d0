"""Which port each model listens on: the one from hub.yaml, or a free one that it then keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlxhub_core.errors import HubError, LaunchError
from mlxhub_core.net import is_free
from mlxhub_core.settings import ModelSettings


class PortBook:
    """The ports that models have. A model keeps its port for as long as it is in hub.yaml.

    Args:
        host: the address they listen on.
        start: where the search for free ports begins.
        before: the ports that models have so far, by name; they go on being theirs.
    """

    def __init__(self, host: str, start: int, before: Mapping[str, int] | None = None) -> None:
        self.host = host
        self.start = start
        self._ports: dict[str, int] = dict(before or {})

    @property
    def ports(self) -> Mapping[str, int]:
        """The port of each model that has one, by name."""
        return dict(self._ports)

    def port_of(self, name: str) -> int | None:
        """The port of a model, if it has one."""
        return self._ports.get(name)

    def assign(self, models: Iterable[ModelSettings]) -> None:
        """Give every model that wants one its port, and take back those of models that are gone.

        Raises:
            HubError: no port is free, or nobody could listen on the host; then nothing has changed.
        """
        models = list(models)
        ports = {model.name: model.port for model in models if model.port is not None}
        for model in models:
            old = self._ports.get(model.name)
            if model.wants_port and model.name not in ports and old is not None and old not in ports.values():
                ports[model.name] = old
        for model in models:
            if model.wants_port and model.name not in ports:
                ports[model.name] = self._free_besides(set(ports.values()))
        self._ports = ports

    def claim(self, model: ModelSettings) -> int | None:
        """The port to start a model on now. One that the hub chose is changed if a stranger has taken it.

        Raises:
            LaunchError: the port that hub.yaml names is taken or cannot be had, or none is free.
        """
        try:
            return self._claim(model)
        except HubError as error:
            raise LaunchError(model.name, str(error)) from None

    def _claim(self, model: ModelSettings) -> int | None:
        port = self._ports.get(model.name)
        if port is None or is_free(self.host, port):
            return port
        if model.port is not None:
            raise HubError(f"port {port} is taken by another program; stop that one, or leave out `port:`")
        self._ports[model.name] = self._free_besides(set(self._ports.values()))
        return self._ports[model.name]

    def _free_besides(self, taken: set[int]) -> int:
        for port in range(self.start, 65536):
            if port not in taken and is_free(self.host, port):
                return port
        raise HubError(f"model_starting_port: no port from {self.start} to 65535 is free; write a lower one")
