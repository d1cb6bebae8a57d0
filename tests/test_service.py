"""`mlxhub service`: files that launchd and systemd can read, and a hub that runs by what is in them."""

from __future__ import annotations

import os
import plistlib
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlxhub_core.cli.service import managers
from mlxhub_core.cli.service.units import MARGIN, MARK, Service, launchd_plist, name_of, service_of, systemd_unit
from mlxhub_core.control.client import ControlClient
from mlxhub_core.errors import HubError
from mlxhub_core.settings import load_settings
from mlxhub_core.testing import wait_until

MLXHUB = str(Path(sysconfig.get_path("scripts")) / "mlxhub")
TALKS = f"[{sys.executable}, -I, -S, -c, 'import signal; signal.pause()']"
HUB_YAML = f"log_path: logs\nmodels: [{{name: a, default: true, health: false, command: {TALKS}}}]\n"

SYSTEMCTL = """\
#!{python}
# What a user's systemd does with a unit, as far as a hub notices: it starts ExecStart, and ends it with SIGTERM.
import os, pathlib, shlex, signal, subprocess, sys, time
words = sys.argv[1:]
with open({calls!r}, "a") as calls:
    print(*words, file=calls)
units = pathlib.Path.home() / ".config/systemd/user"
pid = pathlib.Path.home() / "pid"
if words[1] == "start":
    lines = [line.partition("=") for line in (units / words[2]).read_text().splitlines() if line[:1] != "#"]
    plain = lambda text: [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(text)]
    environ = dict(word.split("=", 1) for key, _, value in lines if key == "Environment" for word in plain(value))
    (command,) = (plain(value) for key, _, value in lines if key == "ExecStart")
    output = open(pathlib.Path.home() / "journal", "a")
    hub = subprocess.Popen(command, cwd="/", env={{"HOME": os.environ["HOME"], **environ}}, stdout=output, stderr=output,
                           start_new_session=True)
    pid.write_text(str(hub.pid))
if words[1:3] == ["disable", "--now"] and pid.exists():
    os.kill(int(pid.read_text()), signal.SIGTERM)
    while pathlib.Path("/proc", pid.read_text()).exists() and open(f"/proc/{{pid.read_text()}}/stat").read().split()[2] != "Z":
        time.sleep(0.01)
"""


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/tmp")).resolve()
    for name in ("MLXHUB_CONFIG", "MLXHUB_NO_SINKS", "XDG_CONFIG_HOME", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.chdir(path)
    Path("hub.yaml").write_text(HUB_YAML)
    yield path
    if (path / "pid").exists():
        mlxhub("stop")
    shutil.rmtree(path)


def mlxhub(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [MLXHUB, *arguments], env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=50, check=False
    )
    assert "Traceback" not in done.stderr
    return done


def service(environ: Mapping[str, str] | None = None) -> Service:
    return service_of(load_settings("hub.yaml"), {"PATH": "/bin", **(environ or {})})


def unit(environ: Mapping[str, str] | None = None) -> list[str]:
    return systemd_unit(service(environ)).splitlines()


def job(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    return dict(plistlib.loads(launchd_plist(service(environ)).encode()))


# What is in the files.


STRANGE = ["plain", "with space", "per%cent", "dol$lar", 'quo"te', "back\\slash", "ümläut", "semi;colon", "it's"]


@pytest.mark.parametrize("name", STRANGE)
def test_systemd_finds_no_fault_in_the_unit_wherever_hub_yaml_is(home: Path, name: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    (home / name).mkdir()
    config = home / name / "hub.yaml"
    config.write_text(HUB_YAML)
    printed = mlxhub("service", "print", "--systemd", str(config), env={"MLXHUB_WORDS": "a b%c $d 'e\" \\"})
    assert (printed.returncode, printed.stderr) == (0, "")
    (line,) = (line for line in printed.stdout.splitlines() if line.startswith("ExecStart="))
    bare = line.replace("%%", "").replace("$$", "")
    assert not {"%", "$"} & set(bare), "systemd would put something else there"
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line.partition("=")[2])]
    assert words[-1] == str(config)
    file = home / "mlxhub.service"
    file.write_text(printed.stdout)
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(file)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(home), "SYSTEMD_UNIT_PATH": f"{home}:"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if "mlxhub.service" in line]) == (0, [])


def test_systemd_would_find_a_fault(home: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    file = home / "mlxhub.service"
    file.write_text("\n".join(unit()).replace("KillMode=process", "KillMode=nonsense"))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(file)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "nonsense" in done.stderr


@pytest.mark.parametrize("name", STRANGE)
def test_launchd_gets_a_property_list_with_the_very_words(home: Path, name: str) -> None:
    (home / name).mkdir()
    config = home / name / "hub.yaml"
    config.write_text(HUB_YAML)
    read = plistlib.loads(mlxhub("service", "print", "--launchd", str(config)).stdout.encode())
    log = str(config.parent / "logs" / "_hub.log")
    assert read["ProgramArguments"][1:] == [
        "-P",
        "-m",
        "mlxhub_core",
        "start",
        "--foreground",
        "--log-file",
        log,
        "--config",
        str(config),
    ]
    assert Path(read["ProgramArguments"][0]).samefile(sys.executable)
    assert read["StandardErrorPath"] == log


def test_models_survive_a_crash_of_the_hub_under_both() -> None:
    assert "KillMode=process" in unit()
    assert "OOMPolicy=continue" in unit()
    assert job()["AbandonProcessGroup"] is True
    assert "Restart=on-failure" in unit()
    assert job()["KeepAlive"] == {"SuccessfulExit": False}


def test_the_hub_has_the_time_that_its_most_patient_model_takes_to_stop() -> None:
    models = ", ".join(f"{{name: m{n}, command: [x], stop_timeout: {n}}}" for n in (5, 120, 60))
    Path("hub.yaml").write_text(f"models: [{models}]")
    assert f"TimeoutStopSec={120 + MARGIN}" in unit()
    assert job()["ExitTimeOut"] == 120 + MARGIN


def test_what_the_service_knows_of_the_environment_holds_no_secret() -> None:
    environ = {
        "PATH": "/usr/bin:relative::/bin",
        "HF_HOME": "/models",
        "HF_TOKEN": "hf_abc",
        "MLXHUB_NO_SINKS": "1",
        "MLXHUB_API_TOKEN": "abc",
        "MLXHUB_CONFIG": "/other.yaml",
        "HF_ENDPOINT": "https://me:abc@example.org",
        "XDG_CACHE_HOME": "",
        "SHELL": "/bin/zsh",
    }
    kept = {"PATH": "/usr/bin:/bin", "HF_HOME": "/models", "MLXHUB_NO_SINKS": "1"}
    assert job(environ)["EnvironmentVariables"] == kept
    assert [line for line in unit(environ) if line.startswith("Environment=")] == [
        f"Environment={name}={value}" for name, value in kept.items()
    ]


def test_each_hub_yaml_has_a_service_of_its_own_and_always_the_same() -> None:
    names = [
        name_of(Path(path)) for path in ("/a/models/hub.yaml", "/b/models/hub.yaml", "/a/models/big.yaml", "/hub.yaml")
    ]
    assert [name[:-7] for name in names] == ["mlxhub-models", "mlxhub-models", "mlxhub-models-big", "mlxhub"]
    assert len(set(names)) == 4
    assert name_of(Path("hub.yaml")) == name_of(Path("hub.yaml").absolute())
    assert all(shlex.quote(name) == name for name in [*names, name_of(Path("/x/Ünï cödé" * 9 + "/hub.yaml"))])


# To install it.


@pytest.fixture
def systemctl(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that does what systemd would do with our unit. Returns the file with its calls."""
    calls = home / "calls"
    program = home / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL.format(python=sys.executable, calls=str(calls)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return calls


linux = pytest.mark.skipif(sys.platform != "linux", reason="it is systemd that is asked")


@linux
def test_install_starts_a_hub_by_what_is_in_the_unit_and_uninstall_ends_it(home: Path, systemctl: Path) -> None:
    done = mlxhub("service", "install")
    name = name_of(Path("hub.yaml"))
    file = home / ".config" / "systemd" / "user" / f"{name}.service"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == [f"wrote {file}", f"{name} runs, and starts when you log in"]
    assert f"journalctl --user -u {name} -f" in done.stdout
    assert file.stat().st_mode & 0o777 == 0o644
    assert systemctl.read_text().splitlines() == [
        "--user daemon-reload",
        f"--user enable {name}.service",
        f"--user start {name}.service",
    ]
    wait_until(lambda: bool(ControlClient("hub.yaml").get("/hub/status")["models"]))
    done = mlxhub("service", "uninstall")
    assert (done.returncode, done.stderr) == (0, "")
    assert not file.exists()
    assert systemctl.read_text().splitlines()[3:] == [f"--user disable --now {name}.service", "--user daemon-reload"]
    assert mlxhub("status").returncode == 3
    (home / "pid").unlink()


@linux
def test_a_hub_that_runs_leaves_its_models_to_the_service(home: Path, systemctl: Path) -> None:
    hub = subprocess.Popen([MLXHUB, "start", "--foreground"], stderr=subprocess.PIPE, text=True)
    assert hub.stderr is not None
    while "Ctrl-C stops everything" not in hub.stderr.readline():
        pass
    before = ControlClient("hub.yaml").get("/hub/status")["models"][0]["pid"]
    done = mlxhub("service", "install")
    assert "the hub that ran has ended; its models go on\n" in done.stdout
    assert hub.wait(20) == 0
    hub.stderr.close()
    assert mlxhub("reload").returncode == 0  # so that the new one has read hub.yaml
    assert ControlClient("hub.yaml").get("/hub/status")["models"][0]["pid"] == before


def test_the_signal_of_a_restart_by_systemd_ends_the_hub_and_keeps_its_models() -> None:
    def hub() -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen([MLXHUB, "start", "--foreground"], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        while "Ctrl-C stops everything" not in process.stderr.readline():
            pass
        return process, ControlClient("hub.yaml").get("/hub/status")["models"][0]["pid"]

    (number,) = (line.partition("=")[2] for line in unit() if line.startswith("RestartKillSignal="))
    first, model = hub()
    first.send_signal(signal.Signals[number])
    assert first.wait(20) == 0
    second, after = hub()
    assert after == model
    second.terminate()
    assert second.wait(20) == 0
    for process in (first, second):
        assert process.stderr is not None
        process.stderr.close()


@linux
def test_a_second_install_writes_the_file_anew(home: Path, systemctl: Path) -> None:
    assert mlxhub("service", "install").returncode == 0
    Path("hub.yaml").write_text(HUB_YAML.replace("name: a", "name: a, stop_timeout: 99"))
    assert mlxhub("service", "install").returncode == 0
    (file,) = (home / ".config" / "systemd" / "user").iterdir()
    assert f"TimeoutStopSec={99 + MARGIN}" in file.read_text()


@linux
def test_a_file_of_that_name_that_is_not_ours_is_left_alone(home: Path, systemctl: Path) -> None:
    file = home / ".config" / "systemd" / "user" / f"{name_of(Path('hub.yaml'))}.service"
    file.parent.mkdir(parents=True)
    file.write_text("mine\n")
    for command in ("install", "uninstall"):
        done = mlxhub("service", command)
        assert done.returncode == 1
        assert f"{file} is" in done.stderr
        assert "left as it is" in done.stderr
        assert file.read_text() == "mine\n"
    file.unlink()
    (home / "elsewhere").write_text(MARK)
    file.symlink_to(home / "elsewhere")
    assert "left as it is" in mlxhub("service", "install").stderr
    assert (home / "elsewhere").read_text() == MARK, "nor is what it leads to"
    assert not systemctl.exists(), "nor was systemd asked"


@linux
def test_where_no_systemd_can_be_asked_the_file_is_there_and_it_is_said_what_to_run(home: Path) -> None:
    if shutil.which("systemctl") is None:
        pytest.skip("systemd is not installed")
    assert mlxhub("start").returncode == 0
    done = mlxhub("service", "install", env={"XDG_RUNTIME_DIR": str(home / "nobody")})
    assert mlxhub("stop").stdout == "stopped\n", "the hub that runs was left alone"
    name = name_of(Path("hub.yaml"))
    assert done.returncode == 1
    assert "`systemctl --user daemon-reload` failed: " in done.stderr
    assert f"run `systemctl --user daemon-reload && systemctl --user enable --now {name}`" in done.stderr
    assert (home / ".config" / "systemd" / "user" / f"{name}.service").exists()


@linux
def test_a_hub_that_does_not_come_up_is_told(systemctl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlxhub_core.cli.service import install

    monkeypatch.setattr(install, "PATIENCE", 0.0)
    with pytest.raises(HubError, match="was started, and no hub answers; look at its log"):
        install._wait_for(ControlClient("hub.yaml"), "mlxhub")


def test_secrets_that_the_service_will_not_have_are_told(home: Path, systemctl: Path) -> None:
    Path("hub.yaml").write_text(
        HUB_YAML + "sinks: {webhook: {delivery: {required: false}, list: [{token: {env: MY_TOKEN}}]}}\n"
    )
    done = mlxhub("service", "install", env={"MY_TOKEN": "abc"})
    assert "the service has no $MY_TOKEN; in hub.yaml, name a file with it: {file: path}" in done.stderr
    assert "abc" not in done.stderr + done.stdout + "".join(p.read_text() for p in home.rglob("*.service"))


def test_a_wrong_hub_yaml_is_not_installed(home: Path, systemctl: Path) -> None:
    Path("hub.yaml").write_text("models: 1\n")
    for command in ("install", "print"):
        done = mlxhub("service", command)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("hub.yaml:1:1: models:")
    Path("hub.yaml").write_text(HUB_YAML + "sinks: {nosuch: {}}\n")
    done = mlxhub("service", "install")
    assert (done.returncode, "no installed sink is called 'nosuch'" in done.stderr) == (2, True)
    assert not systemctl.exists()
    done = mlxhub("service", "uninstall")
    assert (done.returncode, "no service is installed for" in done.stderr) == (1, True)


# launchd, by what it says; the real one is a Mac's.


LAUNCHCTL = """\
#!/bin/sh
echo "$@" >> {calls}
case "$1" in
    bootstrap) n=$(cat {count}); echo $((n - 1)) > {count}; [ "$n" -gt 0 ] && {{ echo "Bootstrap failed: {code}: why" >&2; exit {code}; }} ;;
    bootout) exit {bootout} ;;
    print) exit {session} ;;
esac
exit 0
"""


@pytest.fixture
def launchctl(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def write(*, failures: int = 0, code: int = 5, bootout: int = 0, session: int = 0) -> Path:
        program, calls, count = home / "bin" / "launchctl", home / "calls", home / "count"
        program.parent.mkdir(exist_ok=True)
        count.write_text(str(failures))
        program.write_text(LAUNCHCTL.format(calls=calls, count=count, code=code, bootout=bootout, session=session))
        program.chmod(0o755)
        return calls

    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    return write


def test_launchd_is_told_to_forget_the_old_job_and_asked_again_until_it_has(home: Path, launchctl: Any) -> None:
    calls = launchctl(failures=2, bootout=3)
    assert managers.Launchd().start(service()) == []
    name, domain = name_of(Path("hub.yaml")), f"gui/{os.getuid()}"
    file = home / "Library" / "LaunchAgents" / f"{name}.plist"
    assert calls.read_text().splitlines() == [f"bootout {domain}/{name}", *[f"bootstrap {domain} {file}"] * 3]
    assert (home / "logs").is_dir(), "launchd would not make it"


def test_launchd_that_will_not_is_told_with_what_to_do(launchctl: Any) -> None:
    launchctl(failures=9, code=125)
    with pytest.raises(HubError, match=r"bootstrap gui/.* failed: Bootstrap failed: 125: why; .* `mlxhub start`"):
        managers.Launchd().start(service())
    managers.Launchd().enable(service())
    launchctl(session=113)
    with pytest.raises(HubError, match="it needs a user who is logged in on the screen of this Mac"):
        managers.Launchd().enable(service())
    launchctl(bootout=3)
    managers.Launchd().disable("gone")
    launchctl(bootout=1)
    with pytest.raises(HubError, match="`launchctl bootout` failed"):
        managers.Launchd().disable("x")
