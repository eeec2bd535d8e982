"""Figures of accuracy over shots, each with the CSV of its data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from mmrs_bench.evaluation.report.entries import Group
from mmrs_bench.evaluation.report.exports import csv_table
from mmrs_bench.evaluation.report.render import render
from mmrs_bench.evaluation.report.tables import Estimate, Value
from mmrs_bench.evaluation.results.signature import COMMON_FIELDS
from mmrs_bench.io import write_png, write_text
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
#: Factor between the shots of two methods in a figure, and between those of the first and the last one.
_SHIFT, _WIDEST_SHIFT = 1.02, 1.15


def write_curves(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Write OA over shots for every protocol with at least two shot counts; return the files.

    Args:
        groups: Groups in the order of `mmrs_bench.evaluation.report.entries.group_records`.
        folder: Folder of the files ``curves-<scene>-<split>-<budget>....{png,csv}``; those for papers are written by
            `mmrs_bench.evaluation.report.paper.figures`.
    """
    files: list[Path] = []
    for members in curve_families(groups):
        rows = [row for group in members for row in _rows(group)]
        stem = curves_stem(members)
        csv, png = (folder / f"{stem}.{suffix}" for suffix in ("csv", "png"))
        write_text(csv, render([csv_table("OA over shots", rows, estimates=["oa"])], "csv"))
        write_png(png, curve_figure(members), dpi=200)
        files += [csv, png]
    return files


def curves_stem(family: Sequence[Group]) -> str:
    """Name of the files of one figure without their endings."""
    return file_stem("curves", fields=family[0].fields_without_shots)


def curve_families(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups that form one curve each: those of one protocol with ranked results of at least two shot counts."""
    ranked = (group for group in groups if group.ranked)
    families = [list(family) for _, family in groupby(ranked, key=lambda group: group.fields_without_shots)]
    return [family for family in families if len(family) > 1]


def file_stem(*first: str, fields: Mapping[str, str]) -> str:
    """Name of a figure's files without their ending: some texts, then the fields of its protocol.

    Fields that only some protocols have stand with their names: equal values of two fields are two protocols.
    """
    values = (value if name in COMMON_FIELDS else f"{name}-{value}" for name, value in fields.items() if value)
    return re.sub(r"[^A-Za-z0-9+-]", "_", "-".join([*first, *values]))


def _rows(group: Group) -> list[dict[str, Value]]:
    return [
        {"label": entry.label, "shots": group.shots, "oa": entry.estimate("oa"), "draws": len(entry.draws)}
        for entry in group.ranked
    ]


def curve_figure(groups: Sequence[Group]) -> Figure:
    """OA over shots of the ranked methods in groups of one protocol, with 95 % intervals over draws."""
    from mmrs_bench.evaluation.report.figures import ShownFigure

    figure = ShownFigure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    draw_curves(axes, groups)
    first = groups[0]
    add_title(figure, f"{first.scene_label}\n{first.protocol_text}; mean and 95 % interval over draws")
    style_axes(figure, axes)
    return figure


def draw_curves(axes: Axes, groups: Sequence[Group], *, numbers: Mapping[str, int] | None = None, **style: Any) -> None:
    """Draw the curves of `curve_figure`, the best method first.

    Args:
        axes: Where to draw.
        groups: Groups of one protocol.
        numbers: The methods to draw, by label, with the numbers of their `line_style`; by default all of them, in the
            order of their accuracy.
        style: Changes of `line_style`.
    """
    from matplotlib.ticker import NullFormatter, NullLocator

    curves: dict[str, list[tuple[int, Estimate]]] = {}
    for group in groups:
        for entry in group.ranked:
            if (estimate := entry.estimate("oa")) is not None:
                curves.setdefault(entry.label, []).append((group.shots, estimate))
    order = sorted(curves, key=lambda label: (-curves[label][-1][1].mean, label))
    numbers = {label: number for number, label in enumerate(order)} if numbers is None else numbers
    order = [label for label in order if label in numbers]
    # Points of different methods at one shot count are shifted so that their intervals do not overlap.
    shift = min(_SHIFT, _WIDEST_SHIFT ** (1 / max(1, len(order) - 1)))
    for place, label in enumerate(order):
        estimates = [estimate for _, estimate in curves[label]]
        axes.errorbar(
            [shots * shift ** (place - (len(order) - 1) / 2) for shots, _ in curves[label]],
            [estimate.mean for estimate in estimates],
            yerr=error_bars(estimates),
            label=figure_text(label),
            **{**line_style(numbers[label]), **style},
        )
    axes.set_xscale("log")
    shots = sorted({group.shots for group in groups})
    axes.set_xticks(shots, [str(count) for count in shots])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("shots (labels per class)")


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


def style_axes(
    figure: Figure, axes: Axes, *, points: float = _LEGEND_POINTS, characters: float = _LEGEND_CHARACTERS
) -> None:
    """Label the y axis, add a grid, and put the legend below the axes, in a figure that is high enough for it.

    Args:
        figure: The figure.
        axes: Its axes.
        points: Size of the legend.
        characters: Characters of the legend in an inch.
    """
    from matplotlib.container import ErrorbarContainer

    axes.set_ylabel("overall accuracy, %")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    columns = max(1, int(figure.get_figwidth() * characters / (max(map(len, names)) + _LEGEND_SYMBOL)))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * points / _LEGEND_POINTS * (rows - 1))
    lines = [handle[0] if isinstance(handle, ErrorbarContainer) else handle for handle in handles]
    figure.legend(lines, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=points)
