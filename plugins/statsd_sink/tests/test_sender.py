"""Lines over real sockets to servers that hang, die, come back and move."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlxhub_statsd_sink.address import Address, parse_address
from mlxhub_statsd_sink.links import connect
from mlxhub_statsd_sink.sender import LOOK_UP_AGAIN, Sender
from statsd import TCPStatsClient  # type: ignore[import-untyped]

from mlxhub_core.testing import FakeClock, wait_until

Make = Callable[..., Sender]


class StreamServer:
    """Takes connections, and keeps what came over each until its end."""

    def __init__(self, family: int, place: object) -> None:
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(place)  # type: ignore[arg-type]
        self._listener.listen()
        self._connections: list[socket.socket] = []
        self.received: list[bytearray] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def lines(self) -> list[str]:
        return [line for received in self.received for line in received.decode().splitlines()]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self.received.append(bytearray())
                threading.Thread(target=self._read, args=(connection, self.received[-1]), daemon=True).start()

    def _read(self, connection: socket.socket, into: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                into += data

    def hang_up(self) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        self.hang_up()


@pytest.fixture
def sender() -> Iterator[Make]:
    made: list[Sender] = []

    def make(address: Address, max_packet: int = 1432, timeout: float = 5.0, **more: object) -> Sender:
        made.append(Sender(address, max_packet, timeout, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=["tcp", "tcp6", "unix"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Address, Callable[[], StreamServer]]]:
    """Where a server is to be, and what starts it there."""
    servers: list[StreamServer] = []
    if request.param == "unix":
        path = str(tmp_path / "s")
        address, family, place = Address("unix", path=path), socket.AF_UNIX, path
    else:
        family, host = (socket.AF_INET, "127.0.0.1") if request.param == "tcp" else (socket.AF_INET6, "::1")
        with socket.socket(family) as probe:
            probe.bind((host, 0))
            place = probe.getsockname()
        address = Address("tcp", host, int(place[1]))

    def start() -> StreamServer:
        Path(address.path).unlink(missing_ok=True) if address.path else None
        servers.append(StreamServer(family, place))
        return servers[-1]

    yield address, start
    for server in servers:
        server.stop()


def numbered(first: int, count: int) -> deque[str]:
    return deque(f"line.{number}:1|c" for number in range(first, first + count))


def test_a_stream_carries_whole_lines_in_order(
    sender: Make, stream: tuple[Address, Callable[[], StreamServer]]
) -> None:
    address, start = stream
    server = start()
    lines = numbered(0, 500)
    sent = list(lines)
    sender(address).send(lines)
    assert not lines
    wait_until(lambda: server.lines == sent)
    assert len(server.received) == 1
    assert server.received[0].endswith(b"\n")


def test_a_server_that_ended_the_connection_gets_the_next_line_over_a_new_one(
    sender: Make, stream: tuple[Address, Callable[[], StreamServer]]
) -> None:
    address, start = stream
    server = start()
    one = sender(address)
    one.send(deque(["a:1|c"]))
    wait_until(lambda: server.lines == ["a:1|c"])
    server.hang_up()
    one.send(deque(["b:1|c"]))
    wait_until(lambda: server.lines == ["a:1|c", "b:1|c"])


def test_while_there_is_no_server_lines_are_kept_and_the_error_says_where(
    sender: Make, stream: tuple[Address, Callable[[], StreamServer]]
) -> None:
    address, start = stream
    lines = numbered(0, 3)
    one = sender(address)
    with pytest.raises(OSError, match=f"^{re.escape(str(address))}: "):
        one.send(lines)
    assert len(lines) == 3
    server = start()
    one.send(lines)
    wait_until(lambda: len(server.lines) == 3)


def test_a_torn_line_is_sent_again_whole_and_never_continued(sender: Make) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        one = sender(Address("tcp", *listener.getsockname()), max_packet=10**7, timeout=1)
        lines = deque(f"line.{number}.{'x' * 1000}:1|c" for number in range(10_000))
        sent = list(lines)
        with pytest.raises(OSError, match="timed out"):
            one.send(lines)  # nobody reads, and no buffer is that large
        hung, _ = listener.accept()
        with hung:
            taken = b"".join(iter(lambda: hung.recv(1 << 20), b""))
        whole, _, torn = taken.rpartition(b"\n")
        assert torn, "the system took half a line, or else this test shows nothing"
        assert lines[0].startswith(torn.decode())
        assert whole.decode().split("\n") + list(lines) == sent

        second = threading.Thread(target=lambda: one.send(lines))
        second.start()
        reader, _ = listener.accept()
        with reader:
            rest = b""
            while rest.count(b"\n") < len(sent) - whole.count(b"\n") - 1:
                rest += reader.recv(1 << 20)
        second.join(10)
    assert whole + b"\n" + rest == "".join(f"{line}\n" for line in sent).encode()


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_over_udp_lines_share_packets(sender: Make, family: int, host: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.settimeout(10)
        server.bind((host, 0))
        sender(Address("udp", host, server.getsockname()[1]), 12).send(deque(["a:1|c", "b:1|c", "c:1|c"]))
        assert server.recv(999) == b"a:1|c\nb:1|c"
        assert server.recv(999) == b"c:1|c"


def test_a_datagram_agent_that_does_not_read_costs_the_timeout_and_loses_nothing(
    sender: Make, tmp_path: Path, fill: Callable[[str], int]
) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
        agent.bind(path)
        agent.settimeout(10)
        one = sender(Address("unixgram", path=path), max_packet=10, timeout=0.1)
        lines = numbered(0, 40)
        sent = list(lines)
        before = fill(path)
        with pytest.raises(OSError, match="timed out"):
            one.send(lines)
        assert [agent.recv(999) for _ in range(before)] == [b"filler"] * before
        got: list[str] = []
        while lines:
            while len(got) < len(sent) - len(lines):
                got.append(agent.recv(999).decode())
            with contextlib.suppress(OSError):
                one.send(lines)
        while len(got) < len(sent):
            got.append(agent.recv(999).decode())
        assert got == sent


def test_a_datagram_agent_that_was_restarted_is_found_again(sender: Make, tmp_path: Path) -> None:
    path = tmp_path / "s"
    one = sender(Address("unixgram", path=str(path)))
    lines = deque(["a:1|c"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
        agent.bind(str(path))
        one.send(lines)
    lines.append("b:1|c")
    with pytest.raises(OSError, match="unixgram://"):
        one.send(lines)
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
        agent.bind(str(path))
        agent.settimeout(10)
        one.send(lines)
        assert agent.recv(999) == b"b:1|c"


class Names:
    """A name service of its own: names are looked up there, and addresses as ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, port: int, family: int = 0, type: int = 0) -> list[tuple[object, ...]]:  # noqa: A002
        if host[0].isdigit() or ":" in host:
            return self._real(host, port, family, type)  # type: ignore[return-value]
        self.asked.append(host)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [info for place in self.known[host] for info in self._real(place, port, family, type)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


def test_a_name_is_looked_up_when_there_is_something_to_send_and_not_before(sender: Make, names: Names) -> None:
    one = sender(Address("udp", "stats", 9))
    assert names.asked == []
    with pytest.raises(OSError, match=r"udp://stats:9: the host 'stats' cannot be found .*check its spelling"):
        one.send(deque(["a:1|c"]))
    names.known["stats"] = ["127.0.0.1"]
    one.send(deque(["a:1|c"]))


def test_a_udp_server_that_moved_is_found_after_a_while_and_one_that_is_not_known_meanwhile_is_kept(
    sender: Make, names: Names
) -> None:
    clock = FakeClock()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as old,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as new,
    ):
        for server, host in ((old, "127.0.0.1"), (new, "127.0.0.2")):
            server.settimeout(10)
            server.bind((host, old.getsockname()[1]))
        names.known["stats"] = ["127.0.0.1"]
        one = sender(Address("udp", "stats", old.getsockname()[1]), clock=clock)

        def sent(line: str, to: socket.socket) -> None:
            one.send(deque([line]))
            assert to.recv(999) == line.encode()

        sent("a:1|c", old)
        names.known["stats"] = ["127.0.0.2"]
        sent("b:1|c", old)
        clock.advance(LOOK_UP_AGAIN)
        sent("c:1|c", new)
        names.known.clear()
        clock.advance(LOOK_UP_AGAIN)
        sent("d:1|c", new)
    assert len(names.asked) == 3


def test_over_tcp_the_first_address_of_a_name_that_answers_is_taken(sender: Make, names: Names) -> None:
    server = StreamServer(socket.AF_INET, ("127.0.0.1", 0))
    names.known["stats"] = ["::1", "127.0.0.2", "127.0.0.1"]
    sender(Address("tcp", "stats", server.port)).send(deque(["a:1|c"]))
    wait_until(lambda: server.lines == ["a:1|c"])
    server.stop()


def test_over_udp_ipv4_is_taken_where_a_name_has_both(sender: Make, names: Names) -> None:
    names.known["stats"] = ["::1", "127.0.0.1"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.settimeout(10)
        server.bind(("127.0.0.1", 0))
        sender(Address("udp", "stats", server.getsockname()[1])).send(deque(["a:1|c"]))
        assert server.recv(999) == b"a:1|c"


def test_a_name_that_no_dns_could_have_is_told_like_one_that_it_has_not(sender: Make) -> None:
    with pytest.raises(OSError, match=r"the host 'stats\.\.internal' cannot be found"):
        sender(Address("udp", "stats..internal", 9)).connect()


def test_what_was_sent_is_traced_and_what_was_not_is_not(sender: Make, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    seen: list[str] = []
    one = sender(Address("unixgram", path=path), trace=seen.append)
    with pytest.raises(OSError, match="No such file"):
        one.send(deque(["a:1|c"]))
    assert seen == []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
        agent.bind(path)
        one.send(deque(["a:1|c", "b:1|c"]))
    assert seen == ["a:1|c", "b:1|c"]


def test_a_socket_that_talks_to_itself_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def connect_from_there(client: TCPStatsClient) -> None:
        # The system may give a client the very port that it connects to; here it does for certain.
        client._sock = socket.socket()
        client._sock.bind(("127.0.0.1", port))
        client._sock.connect(("127.0.0.1", port))

    monkeypatch.setattr(TCPStatsClient, "connect", connect_from_there)
    with pytest.raises(ConnectionRefusedError):
        connect(parse_address(f"tcp://127.0.0.1:{port}"), 1)
