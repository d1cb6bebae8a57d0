"""What the answers of a server mean: it is taken, it never will be, or it may be later."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from mlxhub_core import DeliveryDelayedError, DeliveryRefusedError, HubError

LATER = frozenset({429, 502, 503, 504})
"""The status codes after which OTLP says that a request may be sent again. 500 is none of them."""

_ADVICE = {
    401: "check `headers`",
    403: "check `headers`",
    404: "check `endpoint`: it is the URL without /v1/metrics, and the server must take OTLP there",
    405: "check `endpoint`: there is a server, but it takes no OTLP there",
    413: "it takes only smaller requests",
}
_ELSE = "look at its log"
_LONGEST = 200
"""Characters of what a server says that are repeated."""


class OtlpUnavailableError(HubError):
    """The server cannot be reached, or asks to be sent it again; the message names its URL and no secret."""


def judge(url: str, status: int, headers: Mapping[str, str]) -> HubError | None:
    """What an HTTP status code means; None: it was taken."""
    if 200 <= status < 300:
        return None
    if status in LATER:
        return later(f"{url} answered {status}; it is sent again", _seconds(headers.get("Retry-After", "")))
    advice = "it is elsewhere; name that place" if 300 <= status < 400 else _ADVICE.get(status, _ELSE)
    return DeliveryRefusedError(f"{url} answered {status}; {advice}")


def later(message: str, seconds: float | None) -> HubError:
    """That it may be sent again: after so many seconds, or, if nothing was said, as usual."""
    return OtlpUnavailableError(message) if seconds is None else DeliveryDelayedError(message, seconds)


def rejected(url: str, count: int, words: str) -> HubError | None:
    """What a partial success means; None if nothing was rejected."""
    if not count:
        return None
    said = "".join(char if char.isprintable() else " " for char in words[:_LONGEST])
    return DeliveryRefusedError(f"{url} rejected {count} of what was sent: {said or 'it does not say why'}")


def unreachable(url: str, error: BaseException) -> HubError:
    """That there was no answer; with the system's words for it, as the library's are long."""
    return OtlpUnavailableError(f"{url} cannot be reached: {_reason(error)}; check that it runs")


def _reason(error: BaseException) -> str:
    seen: set[int] = set()
    found: BaseException | None = error
    said = type(error).__name__
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, OSError) and found.strerror:
            said = found.strerror
        elif isinstance(found, TimeoutError) or "Timeout" in type(found).__name__:
            said = "no answer in time"
        inner = getattr(found, "reason", None) or next((a for a in found.args if isinstance(a, BaseException)), None)
        found = inner if isinstance(inner, BaseException) else found.__cause__ or found.__context__
    return said


def _seconds(text: str) -> float | None:
    """What `Retry-After` says: seconds, or a date."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
