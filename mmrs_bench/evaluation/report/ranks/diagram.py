"""Critical-difference diagrams of mean ranks over scenes, each with the CSV of its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmrs_bench.evaluation.report.curves import add_title, file_stem
from mmrs_bench.evaluation.report.entries import Group
from mmrs_bench.evaluation.report.exports import csv_table
from mmrs_bench.evaluation.report.paper.figures import paper_style, write_pdf
from mmrs_bench.evaluation.report.ranks.scene_ranks import SceneRanks, rank_over_scenes
from mmrs_bench.evaluation.report.render import render
from mmrs_bench.evaluation.report.tables import Value
from mmrs_bench.io import write_png, write_text
from mmrs_bench.texts import figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Vertical distances in units of the axes: between connecting bars, and between labels of methods.
_BAR, _LABEL = 0.35, 0.8
#: Inches of one vertical unit.
_UNIT = 0.27
#: Most ranks of the axis that are numbered; more numbers would overlap.
_MOST_NUMBERS = 16


def write_ranks(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Write a critical-difference diagram for every protocol with at least two scenes; return the files.

    Args:
        groups: Groups in the order of `mmrs_bench.evaluation.report.entries.group_records`.
        folder: Folder of the files ``ranks-<split>-<shots>-<budget>....{csv,png,pdf}``.
    """
    files: list[Path] = []
    for ranks in rank_over_scenes(groups):
        stem = file_stem("ranks", fields=ranks.fields)
        csv, png, pdf = (folder / f"{stem}.{suffix}" for suffix in ("csv", "png", "pdf"))
        write_text(csv, render([csv_table("ranks", rank_rows(ranks))], "csv"))
        write_png(png, rank_figure(ranks), dpi=200)
        with paper_style():
            write_pdf(pdf, rank_figure(ranks))
        files += [csv, png, pdf]
    return files


def rank_rows(ranks: SceneRanks) -> list[dict[str, Value]]:
    """One row per method: its mean rank with the interval, the critical difference, and its rank on each scene."""
    return [
        {
            "label": method.label,
            "mean_rank": method.mean,
            "low": method.low,
            "high": method.high,
            "critical_difference": ranks.critical_difference,
            **{f"rank_{scene}": rank for scene, rank in zip(ranks.scenes, method.ranks, strict=True)},
        }
        for method in ranks.methods
    ]


def rank_figure(ranks: SceneRanks) -> Figure:
    """The mean ranks on an axis, the best at the left; bars connect methods that do not differ significantly."""
    from mmrs_bench.evaluation.report.figures import ShownFigure

    count, bars = len(ranks.methods), ranks.connected
    depth = 1.2 + _BAR * len(bars) + _LABEL * ((count + 1) // 2)
    figure = ShownFigure(figsize=(6.6, 1.2 + _UNIT * (depth + 1.6)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(0.5, count + 0.5)
    axes.set_ylim(-depth, 1.6)
    axes.axis("off")
    axes.hlines(0, 1, count, color="black", linewidth=1)
    axes.vlines(range(1, count + 1), 0, 0.2, color="black", linewidth=1)
    for tick in range(1, count + 1, -(-count // _MOST_NUMBERS)):
        axes.text(tick, 0.3, str(tick), ha="center", va="bottom", fontsize=9)
    if ranks.critical_difference < count - 1:
        _draw_difference(axes, ranks.critical_difference)
    for level, (first, last) in enumerate(bars, 1):
        ends = ranks.methods[first].mean - 0.03, ranks.methods[last].mean + 0.03
        axes.hlines(-_BAR * level, *ends, color="#D55E00", linewidth=3)
    for place in range(count):
        _draw_method(axes, ranks, place, top=_BAR * len(bars) + 0.8)
    add_title(figure, f"{ranks.title}: mean rank by overall accuracy\n{ranks.note}")
    return figure


def _draw_difference(axes: Axes, difference: float) -> None:
    axes.plot(
        [1, 1, 1, 1 + difference, 1 + difference, 1 + difference], [1.1, 1.4, 1.25, 1.25, 1.4, 1.1], color="black"
    )
    axes.text(1.1 + difference, 1.25, f"critical difference {difference:.2f}", va="center", fontsize=9)


def _draw_method(axes: Axes, ranks: SceneRanks, place: int, *, top: float) -> None:
    """Draw the line from a method's mean rank to its label: the better half at the left, the others at the right."""
    count, method = len(ranks.methods), ranks.methods[place]
    left = place < (count + 1) // 2
    row = place if left else count - 1 - place
    depth, end = -top - _LABEL * row, 0.95 if left else count + 0.05
    axes.plot([method.mean, method.mean, end], [0, depth, depth], color="#555555", linewidth=0.9)
    axes.plot([method.mean], [0], "o", color="#0072B2", markersize=5, zorder=3)
    text = f"{figure_text(method.label)}  {method.mean:.2f}"
    axes.text(end - 0.05 if left else end + 0.05, depth, text, ha="right" if left else "left", va="center", fontsize=9)
