"""The server of the Prometheus sink: HTTPS, and clients that mean no good."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from mlxhub_prom_sink import PrometheusSink, Tls, server
from mlxhub_prom_sink.tls import TlsContext

from mlxhub_core import HubManager
from mlxhub_core.testing import wait_until

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

MOMENT = 2.0
"""Seconds that a scrape may take beside clients who would each hold up a simple server for 10."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Tls:
    write(authority, tmp_path)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return Tls(tmp_path / "cert.pem", tmp_path / "key.pem")


@pytest.fixture
def listening() -> Iterator[Callable[[Tls | None], PrometheusSink]]:
    with ExitStack() as stack:

        def listen(tls: Tls | None) -> PrometheusSink:
            sink = PrometheusSink("127.0.0.1:0", tls=tls, process_metrics=False)
            sink.open()
            stack.callback(sink.close)
            return sink

        yield listen


def write(authority: trustme.CA, directory: Path) -> None:
    leaf = authority.issue_cert("127.0.0.1")
    (directory / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    (directory / "key.pem").write_bytes(leaf.private_key_pem.bytes())


def client(authority: trustme.CA, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


def scrape(sink: PrometheusSink, context: ssl.SSLContext | None = None) -> str:
    with urllib.request.urlopen(str(sink.where), timeout=5, context=context) as answer:
        return str(answer.read().decode())


def port_of(sink: PrometheusSink) -> int:
    return int(str(sink.where).split("/")[2].rpartition(":")[2])


def connection_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "process_request" in thread.name]


def test_https_with_a_certificate_that_clients_can_check(
    listening: Callable[..., PrometheusSink], files: Tls, authority: trustme.CA
) -> None:
    sink = listening(files)
    assert str(sink.where).startswith("https://127.0.0.1:")
    assert "mlxhub_model_up" in scrape(sink, client(authority))
    with pytest.raises(OSError, match="certificate verify failed"):
        scrape(sink, client(trustme.CA()))


def test_with_client_ca_only_its_own_clients_are_answered(
    listening: Callable[..., PrometheusSink], files: Tls, authority: trustme.CA, tmp_path: Path
) -> None:
    sink = listening(Tls(files.cert, files.key, tmp_path / "ca.pem"))
    assert "mlxhub_model_up" in scrape(sink, client(authority, authority.issue_cert("prometheus")))
    for stranger in (None, trustme.CA().issue_cert("prometheus")):
        with pytest.raises(OSError, match=r"alert|reset|EOF|closed"):
            scrape(sink, client(authority, stranger))


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
def test_20_idle_clients_do_not_delay_a_scrape(
    listening: Callable[..., PrometheusSink], files: Tls, authority: trustme.CA, secure: bool
) -> None:
    sink = listening(files if secure else None)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", port_of(sink))))
        wait_until(lambda: len(connection_threads()) == 20)
        began = time.monotonic()
        assert "mlxhub_model_up" in scrape(sink, client(authority) if secure else None)
        assert time.monotonic() - began < MOMENT
    wait_until(lambda: not connection_threads())


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
def test_a_client_that_is_silent_is_cut_when_its_time_is_over(
    listening: Callable[..., PrometheusSink], files: Tls, secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CLIENT_TIMEOUT", 0.2)
    sink = listening(files if secure else None)
    with socket.create_connection(("127.0.0.1", port_of(sink)), timeout=10) as silent:
        assert silent.recv(100) == b""
    wait_until(lambda: not connection_threads())


def test_a_client_that_writes_a_little_now_and_then_is_cut_as_well(
    listening: Callable[..., PrometheusSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CLIENT_TIMEOUT", 1.0)
    sink = listening(None)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port_of(sink)), timeout=0.05) as dripping:

        def is_cut() -> bool:
            try:
                dripping.sendall(b"G")
                return dripping.recv(100) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(is_cut)
    assert 0.9 < time.monotonic() - began < 10


def test_more_connections_than_anybody_needs_are_refused(
    listening: Callable[..., PrometheusSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    sink = listening(None)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port_of(sink))))
        wait_until(lambda: len(connection_threads()) == 3)
        with socket.create_connection(("127.0.0.1", port_of(sink)), timeout=10) as one_too_many:
            assert one_too_many.recv(100) == b""
    wait_until(lambda: not connection_threads())
    assert "mlxhub_model_up" in scrape(sink)


def test_closing_cuts_who_is_still_there(files: Tls) -> None:
    sink = PrometheusSink("127.0.0.1:0", tls=files)
    sink.open()
    with socket.create_connection(("127.0.0.1", port_of(sink)), timeout=5) as silent:
        wait_until(lambda: len(connection_threads()) == 1)
        sink.close()
        assert silent.recv(100) == b""
    wait_until(lambda: not connection_threads())


def test_a_request_that_is_no_http_gets_an_answer_and_no_traceback(
    listening: Callable[..., PrometheusSink], capfd: pytest.CaptureFixture[str]
) -> None:
    sink = listening(None)
    answers = []
    for request in (
        b"\x16\x03\x01 hello\r\n\r\n",
        b"GET /" + b"a" * 70000 + b" HTTP/1.0\r\n\r\n",
        b"POST /metrics HTTP/1.0\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port_of(sink)), timeout=5) as connection:
            connection.sendall(request)
            answers.append(b"".join(iter(lambda: _received(connection), b"")))
    assert b"400" in answers[0]
    assert b"405" in answers[2]
    assert capfd.readouterr().err == ""


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionResetError:
        return b""


def test_a_client_that_does_not_read_its_answer_is_cut_without_a_word(
    files: Tls, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "CLIENT_TIMEOUT", 0.5)

    def much(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * 1000] * 50_000

    answering = server.MetricsServer("127.0.0.1", 0, much, TlsContext(files))
    port = int(answering.url.split("/")[2].rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
        client(authority).wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
    ):
        wrapped.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        wait_until(lambda: len(connection_threads()) == 1)
        wait_until(lambda: not connection_threads())
    answering.close()
    assert capfd.readouterr().err == ""


# Files that are renewed, or cannot be used.


def test_a_renewed_certificate_is_taken_up_and_half_a_one_is_not(
    listening: Callable[..., PrometheusSink], files: Tls, authority: trustme.CA
) -> None:
    sink = listening(files)

    def serial() -> str:
        with (
            socket.create_connection(("127.0.0.1", port_of(sink)), timeout=5) as raw,
            client(authority).wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
        ):
            return str((wrapped.getpeercert() or {})["serialNumber"])

    first = serial()
    whole = files.cert.read_bytes()
    files.cert.write_bytes(whole[:200])
    assert serial() == first
    write(authority, files.cert.parent)
    assert serial() != first


def spoilt(files: Tls, how: str) -> Tls:
    """The same files with something wrong with them."""
    match how:
        case "missing":
            files.cert.unlink()
        case "no pair":
            files.key.write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes())
        case "no certificate":
            files.cert.write_text("hello")
        case "password":
            from cryptography.hazmat.primitives import serialization as s

            key = s.load_pem_private_key(files.key.read_bytes(), None)
            encryption = s.BestAvailableEncryption(b"s3cret")
            files.key.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, encryption))
        case "client_ca":
            other = files.cert.with_name("other.pem")
            other.write_text("hello")
            return Tls(files.cert, files.key, other)
    return files


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"tls\.cert: .*cert\.pem cannot be read \(No such file or directory\); name another file"),
        ("no pair", r"tls\.cert and tls\.key: .* are no pair .*key values mismatch"),
        ("no certificate", r"tls\.cert and tls\.key: .* are no pair of certificate and key in PEM"),
        ("password", r"tls\.cert and tls\.key: .*the key has a password"),
        ("client_ca", r"tls\.client_ca: .*other\.pem is no certificate in PEM"),
    ],
)
def test_files_that_cannot_be_used_are_told_by_their_option(files: Tls, how: str, message: str) -> None:
    sink = PrometheusSink("127.0.0.1:0", tls=spoilt(files, how))
    with pytest.raises(OSError, match=message):
        sink.open()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prom-")]


def test_a_hub_runs_on_without_its_certificate_and_answers_once_it_is_there(
    tmp_path: Path, files: Tls, authority: trustme.CA
) -> None:
    pem = files.cert.read_bytes()
    files.cert.unlink()
    config = {
        "log_path": "logs",
        "sinks": {
            "loguru": False,
            "prometheus": {"listen": "127.0.0.1:0", "tls": {"cert": "cert.pem", "key": "key.pem"}},
        },
        "models": [{"name": "qwen", "command": ["sleep", "1000"], "default": True}],
    }
    (tmp_path / "hub.yaml").write_text(json.dumps(config))
    with HubManager(tmp_path / "hub.yaml") as hub:
        hub.reload()
        wait_until(lambda: "tls.cert" in str(hub.sink_stats()[0].last_error))
        assert hub.get_status()[0].pid is not None
        files.cert.write_bytes(pem)
        wait_until(lambda: hub.sink_stats()[0].open)
        with urllib.request.urlopen(str(hub.sink_stats()[0].where), context=client(authority), timeout=5) as answer:
            assert b'mlxhub_model_up{group="",model="qwen"}' in answer.read()
