"""Figures of accuracy over shots, each with the CSV behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrs_bench.evaluation.report.entries import Group
from mmrs_bench.evaluation.report.render import render
from mmrs_bench.evaluation.report.tables import Column, Estimate, Section, Table, Value
from mmrs_bench.io import atomic_write, write_png, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's palette without yellow, which is too light on white: told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")

COLUMNS = (
    Column("label", data_only=True),
    Column("shots", data_only=True),
    Column("oa", kind="estimate", data_only=True),
    Column("draws", data_only=True),
)


def write_curves(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Write OA over shots for every protocol that has at least two shot counts.

    Args:
        groups: As `mmrs_bench.evaluation.report.entries.group_records` gives them.
        folder: Where ``curves-<scene>-<split>-<budget>....{png,pdf,csv}`` go.

    Returns:
        The files.
    """
    files: list[Path] = []
    for _, family in groupby(groups, key=lambda group: group.family):
        members = list(family)
        rows = [row for group in members for row in _rows(group)]
        if len({row["shots"] for row in rows}) < 2:
            continue
        stem = folder / _stem(members[0])
        table = Table(title="OA over shots", columns=COLUMNS, sections=(Section("", tuple(rows)),), tidy=True)
        write_text(stem.with_suffix(".csv"), render([table], "csv"))
        _save(curve_figure(members), stem)
        files += [stem.with_suffix(suffix) for suffix in (".csv", ".png", ".pdf")]
    return files


def _save(figure: Figure, stem: Path) -> None:
    write_png(stem.with_suffix(".png"), figure, dpi=200)
    # Without a date in it, the same records give the same bytes.
    undated = {"CreationDate": None}
    atomic_write(stem.with_suffix(".pdf"), lambda file: figure.savefig(file, format="pdf", metadata=undated))


def _stem(group: Group) -> str:
    """A file name that no other family has: every field of the signature but the shots."""
    parts = [value for name, value in group.fields.items() if name != "shots"]
    return "curves-" + re.sub(r"[^A-Za-z0-9+-]", "_", "-".join(parts))


def _rows(group: Group) -> list[dict[str, Value]]:
    return [
        {
            "label": entry.label,
            "shots": group.shots,
            "oa": Estimate.percent(entry.summary("oa")),
            "draws": len(entry.draws),
        }
        for entry in group.entries
        if not entry.unranked
    ]


def curve_figure(groups: Sequence[Group]) -> Figure:
    """OA in percent over shots (log axis) of all ranked methods, with 95 % t-intervals over draws.

    Args:
        groups: Groups of one protocol that differ in their shots.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, NullLocator

    rows = [row for group in groups for row in _rows(group)]
    shots = sorted({group.shots for group in groups})
    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    labels = sorted({str(row["label"]) for row in rows}, key=lambda label: -_last_mean(rows, label))
    for number, label in enumerate(labels):
        points = [(row["shots"], row["oa"]) for row in rows if row["label"] == label]
        x, means, below, above = [], [], [], []
        for count, estimate in points:
            if isinstance(count, int) and isinstance(estimate, Estimate):
                # Points of different methods at one shot count are set apart, so that intervals can be read.
                x.append(count * 1.02 ** (number - (len(labels) - 1) / 2))
                means.append(estimate.mean)
                below.append(0.0 if estimate.low is None else estimate.mean - estimate.low)
                above.append(0.0 if estimate.high is None else estimate.high - estimate.mean)
        axes.errorbar(
            x,
            means,
            yerr=(below, above),
            label=label,
            **line_style(number),
        )
    axes.set_xscale("log")
    axes.set_xticks(shots, [str(count) for count in shots])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("shots (labels per class)")
    fields = groups[0].fields
    axes.set_title(
        f"{groups[0].scene_label}\n{fields['split']}, budget {fields['budget']}; mean and 95 % t-interval over draws",
        fontsize=10,
    )
    finish(figure, axes)
    return figure


def line_style(number: int) -> dict[str, Any]:
    """What tells the line of this number from the others, for ``Axes.errorbar``."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": ("-", "--", ":")[number // len(COLOURS) % 3],
        "markersize": 5,
        "linewidth": 1.4,
        "capsize": 2.5,
    }


def finish(figure: Figure, axes: Axes) -> None:
    """Accuracy, a faint grid, no box, and the legend beside the lines."""
    axes.set_ylabel("overall accuracy, %")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)


def _last_mean(rows: Sequence[dict[str, Value]], label: str) -> float:
    """Mean at the largest shot count, so that the legend is in the order of the curves' ends."""
    last = [row["oa"] for row in rows if row["label"] == label][-1]
    return last.mean if isinstance(last, Estimate) else 0.0
