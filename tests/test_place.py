"""Where hubs keep sockets and locks: that there is one hub for each hub.yaml and log path, and whose all of it is."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlxhub_core.errors import HubError, HubStateError
from mlxhub_core.keepers import STEM, Keepers
from mlxhub_core.launch import Launch
from mlxhub_core.place import LOG_LOCK, LONGEST, NAMES, Place, held, held_logs, is_held, make_private, place_of
from mlxhub_core.process import Exit, Order
from mlxhub_core.testing import wait_until

HOLD = "import sys\nfrom mlxhub_core.place import held, place_of\nwith held(place_of(sys.argv[1])): print('held', flush=True); input()"


@pytest.fixture
def config(home: Path) -> Path:
    path = home / "hub.yaml"
    path.write_text("models: []\n")
    return path


@pytest.fixture
def place(config: Path) -> Place:
    return place_of(config)


@pytest.fixture
def logs(home: Path) -> Path:
    return home / "deep" / "logs"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# Where it is.


def test_every_way_to_write_one_hub_yaml_leads_to_the_same_place_and_another_to_another(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent)
    link = config.with_name("link.yaml")
    link.symlink_to(config)
    assert place_of("hub.yaml") == place_of(config) == place_of(link) == place_of(str(config))
    assert place_of("other.yaml").socket != place_of(config).socket


def test_the_place_is_known_without_touching_anything(home: Path, place: Place) -> None:
    assert place.directory == home / ".mlxhub" / "run"
    assert not place.directory.parent.exists()


def test_without_a_home_one_is_asked_for(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    with pytest.raises(HubError, match="set HOME"):
        place_of(config)


@pytest.mark.parametrize(("spare", "usual"), [(0, True), (-1, False)])
def test_even_the_longest_name_has_a_socket_that_works_everywhere_in_the_deepest_home_and_in_tmp(
    monkeypatch: pytest.MonkeyPatch, config: Path, home: Path, spare: int, usual: bool
) -> None:
    # The umlaut has two bytes: they count, and not the letters.
    more = LONGEST - NAMES - spare - len(os.fsencode(place_of(config).socket)) - len("/ü".encode())
    (home / f"ü{'x' * more}").mkdir()
    monkeypatch.setenv("HOME", f"{home}/ü{'x' * more}")
    place = place_of(config)
    assert (place.directory == Path(f"/tmp/mlxhub-{os.geteuid()}")) is not usual
    assert place.socket.name == place_of(config).socket.name
    exits: list[Exit] = []
    listener = SimpleNamespace(exited=exits.append, log_failing=pytest.fail, log_recovered=pytest.fail)
    run_id = uuid.uuid4().hex
    try:
        with held(place):
            assert mode(place.directory) == 0o700
            keepers = Keepers(place.runs, "test", pytest.fail)
            launch = Launch(("sleep", "600"), dict(os.environ), home)
            process = keepers.start(Order("x" * 64, run_id, launch, home / "a.log"), listener)
            wait_until(lambda: any(place.runs.glob("*.sock")))
            paths = [len(os.fsencode(file)) for file in place.runs.glob("*.sock")]
            process.kill()
            keepers.forget(run_id)
            process._thread.join(10)  # type: ignore[attr-defined]
            keepers.close()
            assert len(exits) == 1
            assert [length < 104 for length in paths] == [True]
            assert not usual or len(os.fsencode(place.runs)) + len("/-12345678.sock") + STEM == paths[0]
    finally:
        shutil.rmtree(place.runs, ignore_errors=True)
        place.lock.unlink(missing_ok=True)


# Whose it is.


def test_nobody_else_may_use_directory_or_lock_whatever_the_umask(place: Place) -> None:
    before = os.umask(0)
    try:
        with held(place):
            assert os.umask(0) == 0, "the umask of the program was changed"
    finally:
        os.umask(before)
    assert [mode(path) for path in (place.directory.parent, place.directory, place.lock)] == [0o700, 0o700, 0o600]


def make_writable(directory: Path) -> None:
    directory.mkdir(parents=True)
    directory.chmod(0o720)


def make_link(directory: Path) -> None:
    (directory.parent / "real").mkdir(parents=True, mode=0o700)
    directory.symlink_to("real")


def make_file(directory: Path) -> None:
    directory.parent.mkdir(mode=0o700)
    directory.write_text("")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (make_writable, "others may write to {}; run `chmod 700 {}`"),
        (make_link, "{} is no directory .nor may it be a symbolic link to one.; move it away"),
        (make_file, r"{} cannot be made .File exists.; make it with mode 700"),
    ],
    ids=["others-may-write", "link", "file"],
)
def test_a_directory_that_others_could_put_things_into_is_refused(
    place: Place, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(place.directory)
    with pytest.raises(HubError, match=words.format(*[place.directory] * 2)) as caught, held(place):
        pass
    assert type(caught.value) is HubError, "as if another hub ran"
    assert not place.lock.exists()


def test_a_directory_of_another_user_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.directory.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(HubError, match=f"belongs to another user .uid {os.getuid()}.; remove it"), held(place):
        pass


def test_a_home_that_is_no_directory_is_named_with_the_reason(home: Path, place: Place) -> None:
    (home / ".mlxhub").write_text("")
    with pytest.raises(HubError, match=r"/\.mlxhub/run cannot be made \(File exists\)"), held(place):
        pass


def test_a_lock_that_is_a_link_is_not_followed(home: Path, place: Place) -> None:
    make_private(place.directory)
    victim = home / "victim"
    victim.write_text("precious")
    place.lock.symlink_to(victim)
    with pytest.raises(HubError, match=rf"{place.lock} cannot be opened .*; remove it"), held(place):
        pass
    assert victim.read_text() == "precious"


# One hub for each hub.yaml.


def test_the_lock_file_says_whose_it_is_while_the_hub_lives(config: Path, place: Place) -> None:
    assert not is_held(place.lock), "it is not there"
    with held(place):
        assert place.lock.read_text() == f"{os.getpid()}\n{config}\n"
        assert is_held(place.lock)
    assert not is_held(place.lock)


def test_a_second_hub_is_refused_each_time_by_the_pid_of_the_first_which_notices_nothing(place: Place) -> None:
    with held(place):
        for _ in range(2):
            with (
                pytest.raises(HubStateError, match=rf"hub\.yaml already runs \(pid {os.getpid()}\); stop it first"),
                held(place),
            ):
                pass
        assert is_held(place.lock)
    with held(place):
        pass


def test_the_lock_of_a_killed_hub_holds_nobody_up(config: Path, place: Place) -> None:
    command = [sys.executable, "-c", HOLD, str(config)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hub:
        assert hub.stdout is not None
        assert hub.stdout.readline() == "held\n"
        with pytest.raises(HubStateError, match=rf"\(pid {hub.pid}\)"), held(place):
            pass
        hub.send_signal(signal.SIGKILL)
    with held(place):
        assert place.lock.read_text().startswith(f"{os.getpid()}\n")


@pytest.mark.parametrize("stale", [b"", b"4711471147114711\n" * 9, b"\xff\0"], ids=["empty", "another", "garbage"])
def test_what_a_power_cut_left_in_a_lock_file_does_not_matter(config: Path, place: Place, stale: bytes) -> None:
    make_private(place.directory)
    place.lock.write_bytes(stale)
    with held(place):
        assert place.lock.read_text() == f"{os.getpid()}\n{config}\n"


@contextmanager
def no_room() -> Iterator[None]:
    """No file can grow, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("which", ["of the hub", "of the logs"])
def test_a_full_disk_is_told_and_nothing_is_held(place: Place, logs: Path, which: str) -> None:
    lock = place.lock if which == "of the hub" else logs / LOG_LOCK

    def hold() -> AbstractContextManager[None]:
        return held(place) if which == "of the hub" else held_logs(logs, place)

    with pytest.raises(HubError, match=rf"{lock} cannot be written \(.*\); make room for it"), no_room(), hold():
        pass
    with hold():
        pass


# One hub for each log path.


def test_two_hubs_do_not_share_a_log_path_and_the_second_is_told_of_the_first(
    home: Path, place: Place, config: Path, logs: Path
) -> None:
    other = place_of(home / "other.yaml")
    words = rf"the hub for {config} \(pid {os.getpid()}\) writes its logs to {logs}; stop it first, or give each hub"
    with held_logs(logs, place):
        with pytest.raises(HubStateError, match=words), held_logs(logs, other):
            pass
        with held_logs(home / "elsewhere", other):
            pass
    with held_logs(logs, other):
        pass
    assert (mode(logs), mode(logs / LOG_LOCK)) == (0o700, 0o600)


def test_a_log_path_that_is_a_link_is_the_directory_it_leads_to(home: Path, place: Place, logs: Path) -> None:
    logs.mkdir(parents=True)
    (home / "link").symlink_to(logs)
    with (
        held_logs(logs, place),
        pytest.raises(HubStateError, match=f"writes its logs to {home}/link"),
        held_logs(home / "link", place_of(home / "other.yaml")),
    ):
        pass


@pytest.mark.parametrize("in_the_way", ["deep", "deep/logs/.mlxhub.lock/"], ids=["a file", "a directory"])
def test_a_log_path_that_cannot_be_used_is_named(home: Path, place: Place, logs: Path, in_the_way: str) -> None:
    if in_the_way.endswith("/"):
        (home / in_the_way).mkdir(parents=True)
        words = rf"{logs}/\.mlxhub\.lock cannot be opened .*; remove it"
    else:
        (home / in_the_way).write_text("")
        words = f"log_path: {logs} cannot be made .*; name another"
    with pytest.raises(HubError, match=words), held_logs(logs, place):
        pass


@pytest.mark.parametrize("bits", [0o777, 0o1777, 0o702], ids=oct)
def test_a_log_path_that_everybody_may_write_to_is_refused(place: Place, logs: Path, bits: int) -> None:
    logs.mkdir(parents=True)
    logs.chmod(bits)
    with (
        pytest.raises(HubError, match=f"everybody may write to {logs}.* run `chmod o-w {logs}`"),
        held_logs(logs, place),
    ):
        pass
    assert not list(logs.iterdir())
    logs.chmod(0o775)
    with held_logs(logs, place):
        pass


def test_models_that_a_dead_hub_left_keep_its_log_path_from_all_hubs_but_its_own(
    home: Path, config: Path, place: Place, logs: Path
) -> None:
    other = place_of(home / "other.yaml")
    with held_logs(logs, place):
        pass
    with ExitStack() as run:
        # As a keeper does: a lock in the directory of its hub's runs.
        make_private(place.directory)
        make_private(place.runs)
        run.enter_context(held(Place(config, place.runs / "a-12345678.sock")))
        words = f"models of the hub for {config}, which has ended, still write to {logs}; start that hub again"
        for _ in range(2):
            with pytest.raises(HubStateError, match=words), held_logs(logs, other):
                pass
        with held_logs(logs, place):
            pass
    with held_logs(logs, other):
        pass
    assert (logs / LOG_LOCK).read_text() == f"{os.getpid()}\n{other.config}\n"


def test_a_socket_in_the_place_of_a_lock_is_not_taken_for_one(place: Place) -> None:
    make_private(place.directory)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.lock))
        assert not is_held(place.lock)
