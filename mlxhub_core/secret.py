"""A text that is never shown."""

from __future__ import annotations

import hmac


class Secret:
    """A password or token for a sink. Whoever prints, logs or formats it gets stars.

    A parameter of this type may be written in hub.yaml as the text itself, as ``{env: NAME}``, or as ``{file: path}``.

    Args:
        text: what it is.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Call it where it is sent, and keep what it returns nowhere."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        # What comes from the environment may be no UTF-8.
        one, two = (secret.reveal().encode(errors="surrogatepass") for secret in (self, other))
        return hmac.compare_digest(one, two)

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not written anywhere, and so cannot be pickled or sent to another process")
