"""Who may ask over TCP: whoever has the token, and no web page that a browser was lured to."""

from __future__ import annotations

import ipaddress
import re
import socket

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mlxhub_core.control.app import error_response
from mlxhub_core.secret import Secret

_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]]+))(?::[0-9]{1,5})?")


class Guard:
    """Lets only those through to an app that may ask.

    Attributes:
        token: the token that is asked for. It may be exchanged at any moment.

    Args:
        app: answers the others.
        host: the address or the name that is listened on.
        token: see above.
    """

    def __init__(self, app: ASGIApp, host: str, token: Secret) -> None:
        self._app = app
        machine = socket.gethostname().lower()
        self._names = {"localhost", host.lower(), machine, f"{machine.partition('.')[0]}.local"}
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI has it."""
        headers = Headers(scope=scope)
        if not self._is_ours(headers.get("host", "")):
            message = "the Host header names no address of this hub; ask it by its address, or as localhost"
            refusal = error_response(403, message, "forbidden_host")
        elif not self._has_token(headers.get("authorization", "")):
            message = "the token is missing or wrong; send `Authorization: Bearer` with what is in control.token_file"
            refusal = error_response(401, message, "unauthorized", {"WWW-Authenticate": 'Bearer realm="mlxhub"'})
        else:
            # Nothing behind this needs the token, and so nothing can tell it.
            rest = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
            await self._app({**scope, "headers": rest}, receive, send)
            return
        await refusal(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        """Whether a name was asked for that is this machine's, or an address: a page's own name can be made to lead here."""
        match = _HOST.fullmatch(host)
        name = match and (match["six"] or match["name"])
        return bool(name) and (str(name).lower().rstrip(".") in self._names or _is_address(str(name)))

    def _has_token(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        # Two secrets are compared in a time that tells nothing.
        return scheme.lower() == "bearer" and Secret(token.strip()) == self.token


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
