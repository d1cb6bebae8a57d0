"""HTTPS, and who may ask for the metrics. Files that are renewed are taken up without a restart."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tls:
    """What HTTPS needs. There is no half of it: without both files the sink does not listen.

    Args:
        cert: the certificate with the chain below it, in PEM.
        key: its private key, in PEM, without a password.
        client_ca: only clients with a certificate of this authority are answered, in PEM; default: all are.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def files(self) -> dict[str, Path]:
        """Every file, by its option."""
        named = {"tls.cert": self.cert, "tls.key": self.key, "tls.client_ca": self.client_ca}
        return {option: path for option, path in named.items() if path is not None}


class TlsContext:
    """The context of connections, made anew when a file has changed.

    Args:
        tls: the files.

    Raises:
        OSError: a file cannot be used; the message names its option.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._stamps, self._context = self._seen(), _load(tls)

    def current(self) -> ssl.SSLContext:
        """The context to use now. Files that cannot be used leave the one before in force."""
        stamps = self._seen()
        if stamps != self._stamps:
            try:
                self._context = _load(self._tls)
            except OSError:
                return self._context  # They are just being written: the next connection looks again.
            self._stamps = stamps
        return self._context

    def _seen(self) -> list[tuple[int, int] | None]:
        return [_stamp(path) for path in self._tls.files.values()]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _load(tls: Tls) -> ssl.SSLContext:
    for option, path in tls.files.items():
        try:
            path.read_bytes()
        except OSError as error:
            raise OSError(f"{option}: {path} cannot be read ({error.strerror}); name another file") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        message = f"tls.cert and tls.key: {tls.cert} and {tls.key} are no pair of certificate and key in PEM"
        raise OSError(f"{message} ({_said(error)}); write both anew") from None
    if tls.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(tls.client_ca)
        except ssl.SSLError as error:
            raise OSError(f"tls.client_ca: {tls.client_ca} is no certificate in PEM ({_said(error)})") from None
    return context


def _no_password() -> str:
    # Else OpenSSL would ask for it on the terminal, and the sink would wait there for ever.
    raise ValueError("the key has a password")


def _said(error: Exception) -> str:
    reason = getattr(error, "reason", None) or str(error)
    return reason.replace("_", " ").lower() if isinstance(reason, str) else type(error).__name__
