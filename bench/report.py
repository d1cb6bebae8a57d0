"""The table, the plot, and the three ratios that the README quotes: all made of figures."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.figure import OURS, Bound, Figure

RATIOS = (
    ("crash to a sink's hook", "supervisord", "A crash is told {ratio} times sooner than by supervisord"),
    ("crash to the next process", "supervisord", "A crashed model is back {ratio} times sooner than under supervisord"),
    ("log throughput, bulk", "supervisord", "Output gets into the log {ratio} times as fast as through supervisord"),
)
"""Figure, peer, and the words for it."""
MARKS = ("<!-- from bench/RESULTS.md -->", "<!-- end -->")


def markdown(figures: Sequence[Figure], about: Mapping[str, str], failed: Mapping[str, str]) -> str:
    """All of RESULTS.md."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [
        "# Results",
        "",
        f"Measured {now} with `make bench`, which writes this page; change nothing here by hand.",
        "",
    ]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    lines += [
        "",
        "Each cell is the median (95th percentile; number of samples). Everybody in a line was measured in turns.",
    ]
    lines += ["", *ratios(figures), "", "![How many times worse than mlxhub the others are](results.png)", ""]
    lines += [
        "| figure | unit | better | mlxhub | floor | others | target | met |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(figure) for figure in figures]
    lines += [f"| {name} | | | could not be taken: {error} | | | | |" for name, error in failed.items()]
    missed = [figure for figure in figures if verdict(figure) == "no"]
    if missed:
        lines += ["", "## Not met", ""]
        lines += [f"- {figure.name}: {figure.why or 'still to be explained.'}" for figure in missed]
    lines += ["", "## How each was taken", "", *(f"- {figure.name}: {figure.how}." for figure in figures)]
    return "\n".join(lines) + "\n"


def ratios(figures: Sequence[Figure]) -> list[str]:
    """Three lines for README, from the figures that were taken."""
    named = {figure.name: figure for figure in figures}
    lines = []
    for name, peer, words in RATIOS:
        figure = named.get(name)
        ratio = figure.ratio(peer) if figure else None
        if figure and ratio:
            ours, other = (number(figure.value("median", each) or 0) for each in (OURS, peer))
            lines.append(f"- {words.format(ratio=number(ratio))}: {ours} beside {other} {figure.unit}.")
    return lines


def put_into_readme(readme: Path, lines: Sequence[str]) -> None:
    """Exchange what stands between the two marks."""
    begin, end = MARKS
    text = re.sub(
        f"{begin}\n.*?{end}", lambda _: "\n".join([begin, *lines, end]), readme.read_text("utf-8"), flags=re.DOTALL
    )
    readme.write_text(text, encoding="utf-8")


def verdict(figure: Figure) -> str:
    """Whether its target is met: yes, no, or not known."""
    held = [figure.holds(bound) for bound in figure.target]
    if not held:
        return ""
    return "no" if False in held else "not known" if None in held else "yes"


def _row(figure: Figure) -> str:
    others = [name for name in figure.samples if name not in (OURS, figure.floor)]
    cells = [
        figure.name,
        figure.unit,
        figure.better,
        _cell(figure, OURS),
        f"{figure.floor}: {_cell(figure, figure.floor)}" if figure.floor else "",
        "; ".join(f"{name}: {_cell(figure, name)}" for name in others),
        ", ".join(_words(figure, bound) for bound in figure.target),
        {"no": "**no**"}.get(verdict(figure), verdict(figure)),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell(figure: Figure, name: str) -> str:
    median, high = figure.value("median", name), figure.value("p95", name)
    if median is None or high is None:
        return "-"
    return f"{number(median)} ({number(high)}; {len(figure.samples[name])})"


def _words(figure: Figure, bound: Bound) -> str:
    sign = "≤" if figure.better == "less" else "≥"
    return f"{bound.statistic} {sign} {number(bound.limit)}" + (f" × {bound.than}" if bound.than else "")


def number(value: float) -> str:
    """Three digits that count, and no exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.4f}"


def plot(figures: Sequence[Figure], path: Path) -> None:
    """How many times worse than ours each floor and peer is, in powers of ten; a floor is a tick, a peer a dot."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    shown = [figure for figure in figures if any(figure.ratio(name) for name in figure.samples if name != OURS)]
    canvas, axes = plt.subplots(figsize=(10, 1.5 + 0.32 * len(shown)), layout="constrained")
    axes.axvline(1, color="black", linewidth=1)
    for name, points in _points(shown).items():
        marker = "|" if name == "floor" else "o"
        axes.plot(*zip(*points, strict=True), marker=marker, linestyle="", markersize=9, label=name, alpha=0.8)
    axes.set_yticks(range(len(shown)), [figure.name for figure in shown])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("times worse than mlxhub (left of 1: better)")
    axes.grid(axis="x", alpha=0.3)
    if shown:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
    canvas.savefig(path, dpi=110)
    plt.close(canvas)


def _points(shown: Sequence[Figure]) -> dict[str, list[tuple[float, int]]]:
    points: dict[str, list[tuple[float, int]]] = {}
    for place, figure in enumerate(shown):
        for name, ratio in _named_ratios(figure):
            points.setdefault(name, []).append((ratio, place))
    return points


def _named_ratios(figure: Figure) -> Iterator[tuple[str, float]]:
    for name in figure.samples:
        ratio = figure.ratio(name)
        if name != OURS and ratio:
            yield ("floor" if name == figure.floor else name), ratio
