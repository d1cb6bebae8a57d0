"""The SDK's exporters, each request made once, and the truth about what became of it.

They try again by themselves, which nothing could interrupt here, and of a failure they say only that it was one; so each
has a `Watch` of ours between it and the network, which also adds the headers that are secret. The hub tries again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mlxhub_core import DeliveryRefusedError, HubError

from .hushed import Hushed
from .target import Signal, Target


class Exporter(Protocol):
    """Those of the SDK, as far as they are used here."""

    def export(self, data: Any, /) -> Any:
        """Send it; what is returned has a name."""

    def shutdown(self) -> None:
        """Let go."""


@dataclass(slots=True)
class Watch:
    """What became of the last request.

    Attributes:
        url: where to.
        problem: why it was not taken; None: it was.
    """

    url: str
    problem: HubError | None = None


class Channel:
    """One signal's way to the server.

    Args:
        exporter: the SDK's.
        watch: what it tells the truth to.
        hushed: has what the SDK said.
    """

    def __init__(self, exporter: Exporter, watch: Watch, hushed: Hushed) -> None:
        self._exporter = exporter
        self._watch = watch
        self._hushed = hushed

    @property
    def url(self) -> str:
        """Where it leads."""
        return self._watch.url

    def send(self, data: Any) -> None:
        """Send it.

        Raises:
            DeliveryRefusedError: it will never be taken.
            HubError: it may be taken later.
        """
        self._watch.problem, self._hushed.last = None, ""
        result = self._exporter.export(data)
        if (problem := self._watch.problem) is not None:
            raise problem
        if result.name != "SUCCESS":
            # Before it came to a request: it is too large, or cannot be written as OTLP.
            raise DeliveryRefusedError(f"{self.url} was not asked: {self._hushed.last or 'the SDK does not say why'}")

    def close(self) -> None:
        """Let go of the connection."""
        self._exporter.shutdown()


Make = Callable[[Signal, Target, Watch, float], Exporter]


def channel(signal: Signal, target: Target, hushed: Hushed, environ: Mapping[str, str] = os.environ) -> Channel:
    """The way to the server. Raises HubError or OSError if hub.yaml or a variable names what cannot be used."""
    make: Make
    if target.protocol_in(environ) == "grpc":
        from .over_grpc import exporter_of as make
    else:
        from .over_http import exporter_of as make
    if target.certificate is not None:
        target.certificate.read_bytes()  # else it would be missed only by the first request, in other words
    hushed.listen()
    watch = Watch(target.url(signal, environ))
    return Channel(make(signal, target, watch, target.timeout_in(signal, environ)), watch, hushed)
