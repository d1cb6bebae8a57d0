"""`mlxhub new-sink`: a package that works as it is written, and leaves alone what is there."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlxhub_core.cli import cli, new_sink
from mlxhub_core.discovery import PACKAGES
from mlxhub_core.errors import HubError

SCRIPTS = Path(sysconfig.get_path("scripts"))
NOT_INSTALLED = "tests/test_conformance.py::TestMyThing::test_its_package_declares_it"
LONGEST = "a-name-of-thirty-letters-thats"


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(*arguments: str) -> str:
    """What the command says. Raises what it raises."""
    result = CliRunner().invoke(cli, ["new-sink", *arguments], prog_name="mlxhub", catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def refused(*arguments: str) -> str:
    with pytest.raises(HubError) as caught:
        made(*arguments)
    assert caught.value.exit_code == 1
    return str(caught.value)


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_the_package_has_all_that_one_needs() -> None:
    made("my-thing")
    assert files(Path("my-thing")) == {
        ".github/workflows/ci.yml",
        ".gitignore",
        "LICENSE",
        "README.md",
        "mlxhub_my_thing_sink/__init__.py",
        "mlxhub_my_thing_sink/py.typed",
        "pyproject.toml",
        "tests/test_conformance.py",
        "tests/test_sink.py",
    }


def test_no_word_of_the_template_is_left_in_it() -> None:
    made("my-thing")
    texts = [path.read_text(encoding="utf-8") for path in Path("my-thing").rglob("*") if path.is_file()]
    assert not [text for text in texts if "acme" in text.lower()]
    assert "class MyThingSink(Sink):" in Path("my-thing/mlxhub_my_thing_sink/__init__.py").read_text()
    assert 'my-thing = "mlxhub_my_thing_sink:MyThingSink"' in Path("my-thing/pyproject.toml").read_text()


@pytest.mark.parametrize("name", ["x", "my-thing", "z9-9z", LONGEST])
def test_style_and_types_are_right_by_its_own_rules_whatever_its_name(name: str) -> None:
    made(name)
    # As one of who has just made it, mypy's own cache apart: it need not look at the core again for each name.
    cache = Path(sysconfig.get_path("data")) / "mypy-of-new-sinks"
    for tool, *arguments in (
        ["ruff", "check", "--no-cache", "."],
        ["ruff", "format", "--check", "--no-cache", "."],
        ["mypy", "--strict", "--cache-dir", str(cache)],
    ):
        done = subprocess.run(
            [SCRIPTS / tool, *arguments],
            cwd=name,
            env={**os.environ, "MYPYPATH": "."},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_template_itself_is_in_order_with_the_tests_that_it_brings() -> None:
    """What `pip install` adds is shown by test_tutorial.py; here the files stand where Python finds them."""
    made("my-thing", "there")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--deselect", NOT_INSTALLED],
        cwd="there",
        env={**os.environ, "PYTHONPATH": str(Path("there").resolve())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_it_says_to_do_next_is_what_a_shell_takes() -> None:
    said = made("demo", "my sinks/demo").splitlines()
    assert said[0] == "wrote my sinks/demo: the package mlxhub-demo-sink, whose sink hub.yaml calls demo"
    install, test, pytest_ = (shlex.split(line) for line in said[2:])
    assert install == [sys.executable, "-m", "pip", "install", "-e", "./my sinks/demo", "pytest"]
    assert test == ["mlxhub", "sinks", "test", "demo"]
    assert pytest_ == [sys.executable, "-m", "pytest", "./my sinks/demo"]
    (elsewhere,) = [line for line in made("demo", str(Path("other").resolve())).splitlines() if "pip install" in line]
    assert Path(shlex.split(elsewhere)[5]) == Path("other").resolve()


def test_files_are_readable_as_the_umask_has_it_though_they_were_made_in_a_place_of_their_own() -> None:
    made("demo")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(Path("demo").stat().st_mode) == 0o777 & ~umask
    assert files(Path()) == {f"demo/{file}" for file in files(Path("demo"))}, "nothing is left beside it"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Demo", "did you mean 'demo'?"),
        ("my_thing", "did you mean 'my-thing'?"),
        ("mlxhub-demo-sink", "did you mean 'demo'?"),
        ("demo-sink", "did you mean 'demo'?"),
        ("9lives", None),
        ("a--b", "did you mean 'a-b'?"),
        ("../up", "did you mean 'up'?"),
        ("a/b", "did you mean 'a-b'?"),
        ("", None),
        (f"{LONGEST}x", None),
        ("모델", None),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_with_the_nearest_that_can(name: str, hint: str | None) -> None:
    result = CliRunner().invoke(cli, ["new-sink", "--", name], prog_name="mlxhub")
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert f"{name!r} cannot be the name of a sink{f'; {hint}' if hint else ''} (small letters" in said
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", PACKAGES)
def test_the_name_of_a_sink_of_ours_is_refused_with_its_package(name: str) -> None:
    result = CliRunner().invoke(cli, ["new-sink", name], prog_name="mlxhub")
    assert result.exit_code == 2
    assert f"{name!r} is the sink of {PACKAGES[name]}; choose another name" in result.stderr


def test_what_is_there_is_left_as_it_is() -> None:
    Path("demo").mkdir()
    Path("demo/mine").write_text("mine\n")
    assert refused("demo") == ("demo is there already, and is left as it is; name another: mlxhub new-sink demo DIR")
    assert files(Path()) == {"demo/mine"}
    Path("link").symlink_to("nowhere")
    assert "link is there already" in refused("demo", "link")


def test_an_empty_directory_is_as_good_as_none() -> None:
    Path("demo").mkdir()
    made("demo")
    assert "pyproject.toml" in files(Path("demo"))


def test_a_disk_that_is_full_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(path: Path, text: str, encoding: str) -> int:
        if path.name == "pyproject.toml":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, text, encoding=encoding)

    monkeypatch.setattr(Path, "write_text", full)
    assert refused("demo").endswith("pyproject.toml cannot be written: No space left on device")
    assert list(Path().iterdir()) == []


def test_a_place_that_cannot_be_is_told() -> None:
    Path("file").write_text("")
    assert refused("demo", "file/demo") == "file cannot be written: File exists"


def test_ctrl_c_in_the_middle_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Path, __: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    CliRunner().invoke(cli, ["new-sink", "demo"], prog_name="mlxhub", standalone_mode=False)
    assert list(Path().iterdir()) == []
    assert new_sink.TEMPLATE.is_dir()
