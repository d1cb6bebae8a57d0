"""What the docs tell people to type, typed into a shell where a hub with such models is. Tutorials have tests of their own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlxhub_core.testing import FAKE_SERVER

for _program in ("curl", "jq"):
    if shutil.which(_program) is None:
        pytest.skip(f"{_program} is not installed", allow_module_level=True)

pytestmark = pytest.mark.sinks("statsd", "prometheus")

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]
TUTORIALS = ("first-hub.md", "first-sink.md")
ELSEWHERE = {
    "make run": "test_docs.py",
    "mlxhub service install": "test_service.py, where a stand-in for systemd is",
    "mlxhub service uninstall": "test_service.py",
}
BEFORE = {
    "mlxhub reset qwen3-4b": "mlxhub stop-model qwen3-4b",
    "--foreground": "mlxhub stop",
    "--previous": "mlxhub restart-model qwen3-4b --wait",
    "mlxhub init": "mlxhub stop; rm -f hub.yaml hub.schema.json",
    "mlxhub init ~/models/hub.yaml": "rm ~/models/hub.yaml",
}
"""What must have happened before something can be typed."""
AFTER = {
    "mlxhub start --foreground": "mlxhub start",
    "mlxhub init": "cp ~/usual.yaml hub.yaml",
    "mlxhub init ~/models/hub.yaml": "cp ~/a/hub.yaml ~/models",
}
ENDLESS = re.compile(r"watch\b|events -f|logs -f|start --foreground|mlxhub demo$|-N ")
"""These end when somebody presses Ctrl-C, which happens here after so many seconds."""
PATIENCE = 2.0
PORT = 12_000 + os.getpid() % 12_000  # not those of another hub on this machine
CONTROL = {"port": PORT + 9, "token_file": "~/.mlxhub/token"}
FISH = ".config/fish/completions"
SYSTEMD = ".config/systemd/user"


def blocks() -> Iterator[object]:
    for page in PAGES:
        found = re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        for number, text in enumerate(found):
            why = [elsewhere for words, elsewhere in ELSEWHERE.items() if words in text]
            if page.name not in TUTORIALS and not why:
                marks = [pytest.mark.mlx] if "mlxhub demo" in text else []
                yield pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}", marks=marks)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Whose models are called as in the docs, and whose `pip` does as if."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        home = Path(name).resolve()
        for directory in ("hub", "models", "a", "b", "src", "etc", FISH, SYSTEMD, "bin"):
            (home / directory).mkdir(parents=True)
        (home / "usual.yaml").write_text(hub_yaml("qwen3-4b", "embeddings", "qwen3", control=CONTROL))
        shutil.copy(home / "usual.yaml", home / "hub" / "hub.yaml")
        (home / "hub" / "other.yaml").write_text(hub_yaml("other", port=PORT + 10, log_path="other-logs"))
        for directory in ("models", "a", "b"):
            (home / directory / "hub.yaml").write_text(hub_yaml("qwen3-4b", port=PORT + 20))
        # No package is installed for a test of what people type; those of what installs them have wheels.
        python = home / "bin" / "python"
        python.write_text('#!/bin/sh\n[ "$1 $2 $3" = "-m pip install" ]\n')
        python.chmod(0o755)
        install(home / "site")
        yield home


def install(site: Path) -> None:
    """Put the sink of the contract where Python finds it, as pip would."""
    page = (ROOT / "docs" / "writing-a-sink.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    about = tomllib.loads(dict(blocks)["pyproject.toml"])["project"]
    info = site / f"mlxhub_print_sink-{about['version']}.dist-info"
    info.mkdir(parents=True)
    (site / "mlxhub_print_sink.py").write_text(dict(blocks)["mlxhub_print_sink.py"])
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    (offered,) = about["entry-points"]["mlxhub.sinks"].items()
    (info / "entry_points.txt").write_text(f"[mlxhub.sinks]\n{' = '.join(offered)}\n")


def hub_yaml(*models: str, port: int = PORT, log_path: str = "logs", **more: object) -> str:
    command = [sys.executable, "-I", "-S", FAKE_SERVER, "--port", "{port}"]
    listed = [{"name": name, "default": True, "command": command} for name in models]
    sinks = {"loguru": True, "statsd": True, "statsd/eu": True, "prometheus": {"listen": "127.0.0.1:0"}}
    return json.dumps({"log_path": log_path, "model_starting_port": port, "models": listed, "sinks": sinks, **more})


Shell = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def shell(home: Path) -> Iterator[Shell]:
    """Types a line into a shell, and presses Ctrl-C where there is no end."""
    path = os.pathsep.join([str(home / "bin"), sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": path,
        "PYTHONPATH": str(home / "site"),
        "HF_HUB_OFFLINE": "1",
    }

    def typed(line: str) -> subprocess.CompletedProcess[str]:
        line = line.replace("/etc/prometheus", "~/etc").replace("/tmp/", "~/").replace(":27800/", f":{PORT + 9}/")
        process = subprocess.Popen(
            ["/bin/sh", "-c", line],
            cwd=home / "hub",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=PATIENCE if ENDLESS.search(line) else 60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            output, _ = process.communicate(timeout=30)
        return subprocess.CompletedProcess(line, process.returncode, output)

    yield typed
    typed("mlxhub stop")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("text", list(blocks()))
def test_what_the_docs_tell_to_type_works(text: str, shell: Shell) -> None:
    assert shell("mlxhub start").returncode == 0
    said = ""
    for line in lines(text):
        for words, before in BEFORE.items():
            if line.endswith(words) or (words.startswith("--") and words in line):
                assert shell(before).returncode == 0
        done = shell(line)
        said += done.stdout
        ended_by_ctrl_c = ENDLESS.search(line) and done.returncode in (130, -signal.SIGINT)
        assert done.returncode == 0 or ended_by_ctrl_c, f"$ {line}\n{done.stdout}"
        if line in AFTER:
            assert shell(AFTER[line]).returncode == 0
    assert "Traceback" not in said
    shell("mlxhub stop -c other.yaml")


def lines(text: str) -> Iterator[str]:
    """Each line without its comment; variables are for those below them."""
    variables = ""
    for line in text.replace("\\\n", " ").splitlines():
        plain = re.sub(r"\s+#.*", "", line).replace("[MODEL]...", "").strip()
        if re.match(r"\w+=", plain):
            variables += f"{plain}; "
        elif plain and not plain.startswith("#"):
            yield variables + plain


def test_no_block_is_left_out_by_mistake() -> None:
    everything = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert all(words in everything for words in (*ELSEWHERE, *BEFORE, *AFTER))
    assert shlex.split(next(iter(lines("mlxhub x  # y\n")))) == ["mlxhub", "x"]
