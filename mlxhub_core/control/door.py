"""The listener over TCP: there, moved and gone as hub.yaml says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from mlxhub_core import net
from mlxhub_core.control.answering import answering
from mlxhub_core.control.guard import Guard
from mlxhub_core.errors import ConfigError, HubError
from mlxhub_core.secret import Secret
from mlxhub_core.settings import ControlSettings, HubSettings
from mlxhub_core.token_file import make_token, read_token

MAX_CONNECTIONS = 64
"""Whoever connects takes a file of the hub's, of which macOS gives a program 256, before the token is asked for."""


@dataclass(slots=True)
class _Open:
    """One listener.

    Attributes:
        address: host and port, as in hub.yaml.
        guard: has the token.
        held: closes it.
    """

    address: tuple[str, int]
    guard: Guard
    held: ExitStack


class Door:
    """Answers over TCP.

    Args:
        make_app: makes what answers those who may ask.
    """

    def __init__(self, make_app: Callable[[], ASGIApp]) -> None:
        self._make_app = make_app
        self._open: _Open | None = None

    @contextmanager
    def change(self, settings: HubSettings) -> Iterator[Callable[[], None]]:
        """See `settings.SettingsChange`. A listener whose address stays the same stays.

        Raises:
            ConfigError: nobody can listen there, or there is no token that could be asked for.
        """
        control = settings.control
        with ExitStack() as new, ExitStack() as leaving:
            token = None if control is None else _token(settings, control)
            opened = None if control is None or token is None else self._opened(settings, control, token, new)

            def put_in_force() -> None:
                new.pop_all()
                old, self._open = self._open, opened
                if opened is not None and token is not None:
                    opened.guard.token = token
                if old is not None and old is not opened:
                    # When all is applied, and not on this thread: somebody may have asked for it through that one.
                    end = threading.Thread(target=old.held.close, name="control-end", daemon=True)
                    leaving.callback(end.start)

            yield put_in_force

    def close(self) -> None:
        """Answer no more."""
        if self._open is not None:
            self._open.held.close()
            self._open = None

    def _opened(self, settings: HubSettings, control: ControlSettings, token: Secret, new: ExitStack) -> _Open:
        """A listener for these settings: the one that there is, or one that `new` closes."""
        address = control.host, control.port
        if self._open is not None and self._open.address == address:
            return self._open
        guard = Guard(self._make_app(), control.host, token)
        held = new.enter_context(ExitStack())
        try:
            listener = held.enter_context(_listening(*address))
            held.enter_context(answering(guard, listener, "control-tcp", MAX_CONNECTIONS))
        except HubError as error:
            raise ConfigError([settings.source.problem(("control", "port"), str(error))]) from None
        return _Open(address, guard, held)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises HubError if there can be none."""
    try:
        if not net.is_free(host, port):
            raise HubError(f"{port} is taken by another program, or by this hub under another host; choose another")
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, kind))
            # As all servers do: the remains of the last connections would else count as somebody listening.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
            stack.pop_all()
    except OSError as error:
        raise HubError(f"cannot listen on port {port} of {host} ({error.strerror or error})") from None
    return listener


def _token(settings: HubSettings, control: ControlSettings) -> Secret:
    path = Path(control.token_file)
    try:
        make_token(path)
        return read_token(path)
    except (HubError, FileNotFoundError) as error:
        raise ConfigError([settings.source.problem(("control", "token_file"), str(error))]) from None
