"""docs/first-sink.md, done as it says: in a virtual environment with the wheel of the core, block after block."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Home

PAGE = (Path(__file__).parent.parent / "docs" / "first-sink.md").read_text(encoding="utf-8")
BLOCK = re.compile(r'```(\w+)(?: title="([^"]+)")?\n(.*?)```', re.DOTALL)


def as_pattern(shown: str) -> re.Pattern[str]:
    """What the page shows, where `…` stands for anything, and how long something took for how long it takes now."""
    escaped = re.escape(re.sub(r" +[0-9.]+ ms", " TIME", shown.strip()))
    return re.compile(escaped.replace(r"\ TIME", r" +[0-9.]+ ms").replace("\\\n…", "(?s:.*)").replace("…", "(?s:.*)"))


@pytest.mark.install
@pytest.mark.timeout(300)
def test_the_whole_tutorial_works_as_it_is_printed(home: Home, tmp_path: Path) -> None:
    said, done = "", []
    for language, title, text in BLOCK.findall(PAGE):
        if language == "sh":
            ran = subprocess.run(
                ["/bin/sh", "-euc", text], cwd=tmp_path, env=home.env, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 0, f"{text}\n{ran.stdout}\n{ran.stderr}"
            said = ran.stdout
            done.append(said)
        elif language == "text":
            assert as_pattern(text).search(said), f"the page shows\n{text}\nand it is\n{said}"
        else:
            assert title, f"nobody knows where to put this: {text}"
            (tmp_path / title).write_text(text, encoding="utf-8")
    made, tried, kept, described, tested, ran_ = done
    assert made.startswith("wrote demo: ")
    # From the wheel, too: what builds it leaves out files whose names begin with a dot, unless it is told not to.
    assert {".gitignore", ".github/workflows/ci.yml", "mlxhub_demo_sink/py.typed"} <= {
        str(path.relative_to(tmp_path / "demo")) for path in (tmp_path / "demo").rglob("*")
    }
    assert "model_failed" in tried
    assert kept.count('"hook": "model_failed"') == 2
    assert "first_hour" in described
    assert "a line for each failure, in the hours when somebody is there" in " ".join(described.split())
    assert re.search(r"\b1[0-9] passed", tested), tested
    assert ran_
    assert (tmp_path / "failures.txt").read_text(encoding="utf-8") == "brief ended with 3 (crash)\n"


@pytest.mark.install
@pytest.mark.timeout(300)
def test_what_the_command_prints_for_the_next_steps_works_as_it_is_printed(home: Home, tmp_path: Path) -> None:
    """Under another name than in the tutorial, so that neither finds the package of the other.

    What pip fetches to build it is there already: that this works is shown by the tutorial.
    """
    env = {**home.env, "PIP_NO_BUILD_ISOLATION": "0"}

    def sh(command: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-euc", command], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    lines = [line.strip() for line in sh("mlxhub new-sink my-thing").splitlines() if line.startswith("  ")]
    install, try_, test = lines
    sh(install)
    assert "my-thing took them all" in sh(try_)
    assert re.search(r"\b1[0-9] passed", sh(test))
