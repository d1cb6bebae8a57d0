"""Hooks of mkdocs: the pages that are made from the code, and those that stand beside what they are about.

READMEs, the changelog and the rest are written to be read in the repository. Their links are turned into links of the
site here; one that leads to a file that has no page becomes plain words.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

import make_reference  # beside this file

ELSEWHERE = {
    "index.md": ROOT / "README.md",
    "changelog.md": ROOT / "CHANGELOG.md",
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "examples/index.md": ROOT / "examples" / "README.md",
    **{f"examples/{path.parent.name}.md": path for path in ROOT.glob("examples/*/README.md")},
    "sinks/prometheus.md": ROOT / "plugins" / "prom_sink" / "README.md",
    "sinks/statsd.md": ROOT / "plugins" / "statsd_sink" / "README.md",
    "sinks/otlp.md": ROOT / "plugins" / "otlp_sink" / "README.md",
}
"""Where in the repository a page of the site is, if not in docs/."""
LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them."""
    made = make_reference.pages()
    made |= {place: path.read_text(encoding="utf-8") for place, path in ELSEWHERE.items()}
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: object, config: MkDocsConfig, files: Files) -> str:
    """Turn links, and add to the page of a sink what is made from the code."""
    del config
    place: str = page.file.src_uri  # type: ignore[attr-defined]
    sink = place.removeprefix("sinks/").removesuffix(".md")
    if place.startswith("sinks/"):
        markdown += f"\n\n{make_reference.sink_tables(sink)}"
    here = ELSEWHERE.get(place, DOCS / place)
    sites = {path: src for src, path in ELSEWHERE.items()} | {DOCS / src: src for src in files.src_uris}

    def turned(link: re.Match[str]) -> str:
        words, target, anchor = link.groups()
        path = Path(os.path.normpath(here.parent / target))
        there = sites.get(path) or sites.get(path / "README.md")
        if there is None or there not in files.src_uris:
            return words
        return f"[{words}]({os.path.relpath(there, Path(place).parent)}{anchor or ''})"

    return LINK.sub(turned, markdown)
