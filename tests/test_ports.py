"""Which port each model gets. The strangers on them are real sockets."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxhub_core import net
from mlxhub_core.errors import HubError, LaunchError
from mlxhub_core.net import is_free, reachable, refuse_itself
from mlxhub_core.ports import PortBook
from mlxhub_core.settings import ModelSettings, load_settings

HOST = "127.0.0.1"
START = 20600
LAST = 65535
AUTOMATIC: dict[str, Any] = {"model_path": "org/model"}

Models = list[ModelSettings]


def models(directory: Path, **entries: dict[str, Any]) -> Models:
    """The models of a hub.yaml, by name and in this order."""
    path = directory / "hub.yaml"
    # JSON is YAML.
    path.write_text(json.dumps({"models": [{"name": name, **entry} for name, entry in entries.items()]}))
    return list(load_settings(path).models)


def automatic(directory: Path, names: str) -> Models:
    """Models for each of which the hub finds a port; a name is one letter."""
    return models(directory, **dict.fromkeys(names, AUTOMATIC))


def ports_of(book: PortBook, names: str) -> list[int]:
    ports = [book.port_of(name) for name in names]
    assert None not in ports
    return [port for port in ports if port is not None]


@contextlib.contextmanager
def stranger(host: str = HOST, port: int = 0, *, dual_stack: bool = False, deaf: bool = False) -> Iterator[int]:
    """Somebody else who listens on a port; `deaf`: who has taken it but does not listen yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not dual_stack))
        listener.bind((host, port))
        if not deaf:
            listener.listen()
        yield listener.getsockname()[1]


def can_listen(host: str, port: int) -> bool:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        return False
    return True


@pytest.fixture
def book() -> PortBook:
    return PortBook(HOST, START)


# Whether a port is free.


@pytest.mark.parametrize("host", [HOST, "localhost", "0.0.0.0", "::1", "::"])
def test_a_free_port_is_free_and_stays_so(host: str) -> None:
    with stranger(host if host != "localhost" else HOST) as port:
        pass
    assert is_free(host, port)
    assert is_free(host, port)
    assert can_listen(HOST if host == "localhost" else host, port)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (HOST, HOST),
        (HOST, "localhost"),
        ("0.0.0.0", HOST),
        (HOST, "0.0.0.0"),
        ("::1", "::1"),
        ("::", "::1"),
        ("::1", "::"),
    ],
    ids=lambda host: host,
)
def test_a_port_on_which_somebody_listens_is_not_free(theirs: str, ours: str) -> None:
    if ours == "localhost" and socket.getaddrinfo("localhost", 1)[0][4][0] != HOST:
        theirs = "::1"
    with stranger(theirs) as port:
        assert not is_free(ours, port)


def test_a_port_of_both_internets_is_not_free() -> None:
    with stranger("::", dual_stack=True) as port:
        assert not is_free(HOST, port)


def test_a_port_that_somebody_has_taken_but_not_opened_yet_is_not_free() -> None:
    with stranger(deaf=True) as port:
        assert not is_free(HOST, port)


def test_the_same_port_of_the_other_internet_may_be_free() -> None:
    with stranger(HOST) as port:
        assert is_free("::1", port) == can_listen("::1", port)


def test_the_remains_of_a_servers_last_connections_do_not_take_its_port() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((HOST, port)) as client:
            server, _ = listener.accept()
            # Who closes first keeps the remains.
            server.close()
            assert client.recv(1) == b""
    assert is_free(HOST, port)


def test_a_listener_whom_the_system_lets_us_bind_beside_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    # As macOS does if the stranger listens on all addresses.
    monkeypatch.setattr(net, "_bind", lambda *address: None)
    with stranger() as port:
        assert not is_free(HOST, port)
    assert is_free(HOST, port)


def meet_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every connection start at the port that it goes to, as happens by chance on an ephemeral one."""
    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda to, timeout: connect(to, timeout, source_address=to))


def test_a_knock_that_meets_itself_has_met_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with stranger() as port:
        pass
    meet_itself(monkeypatch)
    with socket.create_connection((HOST, port), 5) as connection:
        assert connection.getsockname() == connection.getpeername(), "else this test tests nothing"
        with pytest.raises(ConnectionRefusedError, match="met itself"):
            refuse_itself(connection)
    assert is_free(HOST, port)
    assert can_listen(HOST, port), "the knock has left nothing behind"


def test_a_connection_between_two_has_not_met_itself() -> None:
    with stranger() as port, socket.create_connection((HOST, port)) as connection:
        refuse_itself(connection)


@pytest.mark.parametrize(
    ("host", "parts"),
    [
        ("a..b", ["host: 'a..b' cannot be resolved", "write 127.0.0.1"]),
        ("127.0.0.1:80", ["host: '127.0.0.1:80' cannot be resolved", "write 127.0.0.1"]),
        ("192.0.2.1", ["host: cannot listen on '192.0.2.1'", "write 127.0.0.1"]),
    ],
    ids=["no name at all", "with a port", "another machine's address"],
)
def test_a_host_on_which_nobody_could_listen_is_an_error(host: str, parts: list[str]) -> None:
    with pytest.raises(HubError) as caught:
        is_free(host, START)
    for part in parts:
        assert part in str(caught.value)


def test_a_port_for_administrators_is_not_said_to_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may be run by root, to whom this does not happen.
    def bind(*args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(net, "_bind", bind)
    with pytest.raises(HubError, match="port 80 is for administrators only; take one from 1024 on"):
        is_free(HOST, 80)


@pytest.mark.parametrize(
    ("host", "to"), [("0.0.0.0", HOST), ("::", "::1"), (HOST, HOST), ("::1", "::1"), ("localhost", "localhost")]
)
def test_a_server_on_all_addresses_is_reached_on_this_machine(host: str, to: str) -> None:
    assert reachable(host) == to


# Giving ports to models.


def test_every_model_gets_a_port_of_its_own_from_the_start_on(tmp_path: Path, book: PortBook) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    book.assign(automatic(tmp_path, letters))
    ports = ports_of(book, letters)
    assert ports == sorted(set(ports))
    assert ports[0] >= START
    taken = set(range(START, ports[-1])) - set(ports)
    assert all(not is_free(HOST, port) for port in taken), "no free one is left out"


def test_a_port_that_a_stranger_holds_is_skipped(tmp_path: Path) -> None:
    with stranger() as port:
        book = PortBook(HOST, port)
        book.assign(automatic(tmp_path, "ab"))
        assert min(ports_of(book, "ab")) > port


def test_the_last_port_of_all_is_given_too(tmp_path: Path) -> None:
    book = PortBook(HOST, LAST)
    book.assign(iter(automatic(tmp_path, "a")))
    assert book.port_of("a") == LAST


def test_an_explicit_port_is_kept_even_if_it_is_busy_now(tmp_path: Path, book: PortBook) -> None:
    with stranger() as port:
        book.assign(models(tmp_path, a={**AUTOMATIC, "port": port}))
    assert book.port_of("a") == port


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_an_explicit_port_is_given_to_no_other_model(tmp_path: Path, book: PortBook, order: str) -> None:
    entries = {"a": AUTOMATIC, "b": {**AUTOMATIC, "port": START}}
    book.assign(models(tmp_path, **{name: entries[name] for name in order}))
    assert book.port_of("b") == START
    assert book.port_of("a") not in (None, START)


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        (AUTOMATIC, True),
        ({"command": ["serve", "--port={port}"]}, True),
        ({"command": ["serve"], "env": {"PORT": "{port}"}}, True),
        ({"command": ["serve"], "port": 8080}, True),
        ({"command": ["serve", "{host}"]}, False),
    ],
    ids=["mlx_lm", "in the command", "in the env", "explicit", "no place for one"],
)
def test_a_model_gets_a_port_if_it_has_a_use_for_one(
    tmp_path: Path, book: PortBook, entry: dict[str, Any], wanted: bool
) -> None:
    model = models(tmp_path, a=entry)
    book.assign(model)
    assert (book.port_of("a") is not None) == wanted


def test_a_model_without_a_port_claims_none_and_needs_no_host(tmp_path: Path, book: PortBook) -> None:
    (model,) = models(tmp_path, a={"command": ["serve"]})
    book.host = "a..b"
    book.assign([model])
    assert book.claim(model) is None


@pytest.mark.parametrize(
    ("names", "then"),
    [("abc", "abc"), ("abc", "cba"), ("abc", "xaybzc"), ("abcd", "bd"), ("abc", "zc")],
    ids=["as it was", "reordered", "added between", "removed", "removed and added"],
)
def test_a_model_keeps_its_port(tmp_path: Path, book: PortBook, names: str, then: str) -> None:
    book.assign(automatic(tmp_path, names))
    before = {name: book.port_of(name) for name in names}
    book.assign(automatic(tmp_path, then))
    for name in set(names) & set(then):
        assert book.port_of(name) == before[name]
    assert len(set(ports_of(book, then))) == len(then)


def test_a_model_keeps_its_port_while_it_listens_there_itself(tmp_path: Path, book: PortBook) -> None:
    book.assign(automatic(tmp_path, "ab"))
    a, b = ports_of(book, "ab")
    with stranger(port=a), stranger(port=b):
        book.assign(automatic(tmp_path, "bca"))
        assert ports_of(book, "ab") == [a, b]
        assert book.port_of("c") not in (a, b)


def test_a_model_keeps_its_port_if_the_start_of_the_search_moves(tmp_path: Path, book: PortBook) -> None:
    book.assign(automatic(tmp_path, "a"))
    before = book.port_of("a")
    book.start = START + 500
    book.assign(automatic(tmp_path, "ab"))
    assert book.port_of("a") == before
    assert ports_of(book, "b")[0] >= START + 500


def test_the_port_of_a_model_that_is_gone_is_free_for_others(tmp_path: Path, book: PortBook) -> None:
    book.assign(automatic(tmp_path, "ab"))
    port = book.port_of("a")
    book.assign(automatic(tmp_path, "b"))
    assert book.port_of("a") is None
    book.assign(automatic(tmp_path, "bc"))
    assert book.port_of("c") == port


def test_a_model_without_a_use_for_its_port_gives_it_back(tmp_path: Path, book: PortBook) -> None:
    book.assign(automatic(tmp_path, "a"))
    book.assign(models(tmp_path, a={"command": ["serve"]}))
    assert book.port_of("a") is None


def test_a_model_whose_explicit_port_is_no_longer_written_keeps_it(tmp_path: Path, book: PortBook) -> None:
    book.assign(models(tmp_path, a={**AUTOMATIC, "port": START + 300}))
    book.assign(automatic(tmp_path, "a"))
    assert book.port_of("a") == START + 300


def test_a_model_gives_way_to_another_for_which_its_port_is_written(tmp_path: Path, book: PortBook) -> None:
    book.assign(automatic(tmp_path, "ab"))
    a, b = ports_of(book, "ab")
    book.assign(models(tmp_path, a=AUTOMATIC, b=AUTOMATIC, c={**AUTOMATIC, "port": a}))
    assert ports_of(book, "bc") == [b, a]
    assert book.port_of("a") not in (a, b, None)


def test_explicit_ports_can_be_exchanged(tmp_path: Path, book: PortBook) -> None:
    book.assign(models(tmp_path, a={**AUTOMATIC, "port": 8001}, b={**AUTOMATIC, "port": 8002}))
    book.assign(models(tmp_path, a={**AUTOMATIC, "port": 8002}, b={**AUTOMATIC, "port": 8001}))
    assert ports_of(book, "ab") == [8002, 8001]


def test_when_no_port_is_left_nothing_changes_and_the_message_names_the_key(tmp_path: Path, book: PortBook) -> None:
    book.assign(automatic(tmp_path, "ab"))
    before = ports_of(book, "ab")
    book.start = LAST
    with pytest.raises(
        HubError, match=f"model_starting_port: no port from {LAST} to {LAST} is free; write a lower one"
    ):
        book.assign(models(tmp_path, a={**AUTOMATIC, "port": 8001}, c=AUTOMATIC, d=AUTOMATIC))
    assert ports_of(book, "ab") == before
    assert (book.port_of("c"), book.port_of("d")) == (None, None)


@pytest.mark.parametrize("host", ["a..b", "192.0.2.1"])
def test_on_a_host_that_cannot_be_had_nothing_changes(tmp_path: Path, book: PortBook, host: str) -> None:
    book.assign(automatic(tmp_path, "a"))
    before = book.port_of("a")
    book.host = host
    with pytest.raises(HubError, match=r"write 127\.0\.0\.1"):
        book.assign(automatic(tmp_path, "ba"))
    assert (book.port_of("a"), book.port_of("b")) == (before, None)


@pytest.mark.parametrize("host", ["::1", "localhost", "0.0.0.0"])
def test_other_hosts_have_ports_too(tmp_path: Path, host: str) -> None:
    with stranger(HOST if host == "localhost" else host) as port:
        book = PortBook(host, port)
        (model,) = automatic(tmp_path, "a")
        book.assign([model])
        assert ports_of(book, "a")[0] >= port
        claimed = book.claim(model)
        assert claimed is not None
        assert is_free(host, claimed)


# Taking them for a start.


def test_a_free_port_is_claimed_as_it_is(tmp_path: Path, book: PortBook) -> None:
    (model,) = automatic(tmp_path, "a")
    book.assign([model])
    assert book.claim(model) == book.claim(model) == book.port_of("a")


def test_a_port_of_the_hubs_choice_is_changed_if_a_stranger_took_it(tmp_path: Path, book: PortBook) -> None:
    both = automatic(tmp_path, "ab")
    book.assign(both)
    old_a, b = ports_of(book, "ab")
    with stranger(port=old_a):
        new_a = book.claim(both[0])
    assert new_a not in (None, old_a)
    assert new_a != b, "though nobody listens there yet"
    assert ports_of(book, "ab") == [new_a, b]
    book.assign(both)
    assert ports_of(book, "ab") == [new_a, b], "it is kept from then on"


def test_an_explicit_port_that_a_stranger_took_is_refused(tmp_path: Path, book: PortBook) -> None:
    with stranger() as port:
        (model,) = models(tmp_path, a={**AUTOMATIC, "port": port})
        book.assign([model])
        with pytest.raises(LaunchError) as caught:
            book.claim(model)
    assert caught.value.name == "a"
    assert str(caught.value) == f"a: port {port} is taken by another program; stop that one, or leave out `port:`"
    assert book.claim(model) == port, "as soon as the stranger is gone"


def test_a_model_for_which_no_port_is_left_is_named(tmp_path: Path, book: PortBook) -> None:
    (model,) = automatic(tmp_path, "a")
    book.assign([model])
    with contextlib.ExitStack() as strangers:
        for port in (*ports_of(book, "a"), LAST):
            if is_free(HOST, port):
                strangers.enter_context(stranger(port=port))
        book.start = LAST
        with pytest.raises(LaunchError, match=r"^a: model_starting_port: no port from"):
            book.claim(model)


def test_a_model_on_a_host_that_is_gone_is_named(tmp_path: Path, book: PortBook) -> None:
    (model,) = automatic(tmp_path, "a")
    book.assign([model])
    book.host = "192.0.2.1"
    with pytest.raises(LaunchError, match=r"^a: host: cannot listen on '192\.0\.2\.1' \(.+\); write 127\.0\.0\.1"):
        book.claim(model)
