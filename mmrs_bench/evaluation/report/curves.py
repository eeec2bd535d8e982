"""Figures of accuracy over shots, each with the CSV of its data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from mmrs_bench.evaluation.report.entries import Group
from mmrs_bench.evaluation.report.exports import csv_table
from mmrs_bench.evaluation.report.render import render
from mmrs_bench.evaluation.report.tables import Estimate, Value
from mmrs_bench.io import atomic_write, write_png, write_text
from mmrs_bench.texts import figure_text, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's palette for colour-blind readers, without yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
#: Sizes of titles and legends in points, and their characters in an inch.
_TITLE_POINTS, _TITLE_CHARACTERS = 10, 12
_LEGEND_POINTS, _LEGEND_CHARACTERS = 9, 13
#: Width of a legend's symbol in characters, and height of one line of a legend in inches.
_LEGEND_SYMBOL, _LEGEND_LINE = 8, 0.19


def write_curves(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Write OA over shots for every protocol with at least two shot counts; return the files.

    Args:
        groups: Groups in the order of `mmrs_bench.evaluation.report.entries.group_records`.
        folder: Folder of the files ``curves-<scene>-<split>-<budget>....{png,pdf,csv}``.
    """
    files: list[Path] = []
    for members in curve_families(groups):
        rows = [row for group in members for row in _rows(group)]
        stem = folder / file_stem("curves", members[0].fields_without_shots.values())
        csv, png, pdf = (stem.with_suffix(suffix) for suffix in (".csv", ".png", ".pdf"))
        write_text(csv, render([csv_table("OA over shots", rows, estimates=["oa"])], "csv"))
        figure = curve_figure(members)
        write_png(png, figure, dpi=200)
        write_pdf(pdf, figure)
        files += [csv, png, pdf]
    return files


def curve_families(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups that form one curve each: those of one protocol with ranked results of at least two shot counts."""
    families = [list(family) for _, family in groupby(groups, key=lambda group: group.fields_without_shots)]
    return [family for family in families if len({group.shots for group in family if group.ranked}) > 1]


def file_stem(kind: str, fields: Iterable[str]) -> str:
    """Name of a figure's files without their ending: its kind and the fields of its protocol."""
    return f"{kind}-" + re.sub(r"[^A-Za-z0-9+-]", "_", "-".join(filter(None, fields)))


def write_pdf(path: Path, figure: Figure) -> None:
    """Write a figure atomically, as PDF without a date: the same records give the same bytes."""
    atomic_write(path, lambda file: figure.savefig(file, format="pdf", metadata={"CreationDate": None}))


def _rows(group: Group) -> list[dict[str, Value]]:
    return [
        {"label": entry.label, "shots": group.shots, "oa": entry.estimate("oa"), "draws": len(entry.draws)}
        for entry in group.ranked
    ]


def curve_figure(groups: Sequence[Group]) -> Figure:
    """OA over shots of the ranked methods in groups of one protocol, with 95 % intervals over draws."""
    from matplotlib.ticker import NullFormatter, NullLocator

    from mmrs_bench.evaluation.report.figures import ShownFigure

    curves: dict[str, list[tuple[int, Estimate]]] = {}
    for group in groups:
        for entry in group.ranked:
            if (estimate := entry.estimate("oa")) is not None:
                curves.setdefault(entry.label, []).append((group.shots, estimate))
    figure = ShownFigure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, label in enumerate(sorted(curves, key=lambda label: (-curves[label][-1][1].mean, label))):
        estimates = [estimate for _, estimate in curves[label]]
        axes.errorbar(
            # Points of different methods at one shot count are shifted so that their intervals do not overlap.
            [shots * 1.02 ** (number - (len(curves) - 1) / 2) for shots, _ in curves[label]],
            [estimate.mean for estimate in estimates],
            yerr=error_bars(estimates),
            label=figure_text(label),
            **line_style(number),
        )
    axes.set_xscale("log")
    shots = sorted({group.shots for group in groups})
    axes.set_xticks(shots, [str(count) for count in shots])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("shots (labels per class)")
    fields = groups[0].fields
    protocol = f"{groups[0].protocol_label}, budget {fields['budget']}"
    add_title(figure, f"{groups[0].scene_label}\n{protocol}; mean and 95 % interval over draws")
    style_axes(figure, axes)
    return figure


def error_bars(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Distances (2, n) from the mean to the lower and the upper end of the 95 % interval; 0 for a single draw."""
    lower = [0.0 if estimate.low is None else estimate.mean - estimate.low for estimate in estimates]
    upper = [0.0 if estimate.high is None else estimate.high - estimate.mean for estimate in estimates]
    return [lower, upper]


def add_title(figure: Figure, text: str) -> None:
    """Write a title above a figure, whose lines are broken where they would leave it."""
    width = round(_TITLE_CHARACTERS * figure.get_figwidth())
    lines = [part for line in text.splitlines() for part in wrap(printable(line), width)]
    figure.suptitle("\n".join(map(figure_text, lines)), fontsize=_TITLE_POINTS)


def line_style(number: int) -> dict[str, Any]:
    """Colour, marker and line style of curve ``number``, as arguments of ``Axes.errorbar``."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": ("-", "--", ":")[number // len(COLOURS) % 3],
        "markersize": 5,
        "linewidth": 1.4,
        "capsize": 2.5,
    }


def style_axes(figure: Figure, axes: Axes) -> None:
    """Label the y axis, add a grid, and put the legend below the axes, in a figure that is high enough for it."""
    axes.set_ylabel("overall accuracy, %")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    names = axes.get_legend_handles_labels()[1]
    columns = max(1, int(figure.get_figwidth() * _LEGEND_CHARACTERS / (max(map(len, names)) + _LEGEND_SYMBOL)))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * (rows - 1))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=_LEGEND_POINTS)
