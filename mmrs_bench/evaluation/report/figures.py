"""Figures that a notebook shows, and the figure of a confusion matrix. Imports matplotlib."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure

from mmrs_bench.evaluation.report.entries import Entry, Group
from mmrs_bench.texts import figure_text

#: Largest number of classes whose cells contain their numbers.
MAX_WRITTEN = 20


class ShownFigure(Figure):
    """A matplotlib figure without a window, which a notebook shows as a picture.

    Notebooks show figures of ``pyplot``. These figures do not belong to it, so that no window and no list of open
    figures is kept.
    """

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=100)
        return content.getvalue()


def confusion_figure(group: Group, entry: Entry) -> Figure:
    """Confusion matrix of one method, summed over draws and seeds, in percent of the pixels of each true class."""
    counts = np.sum([record.confusion for record in entry.records], axis=0)
    totals = counts.sum(axis=1, keepdims=True)
    shares = 100 * np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    names = [figure_text(name) for name in entry.records[0].class_names]
    side = 2.5 + 0.45 * len(names)
    figure = ShownFigure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=90)
    axes.set_yticks(ticks, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if len(names) <= MAX_WRITTEN:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 50 else "black"
            text = f"{shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, label="% of the pixels of the true class", shrink=0.8)
    draws = f"{len(entry.draws)} draw{'s' if len(entry.draws) > 1 else ''}"
    axes.set_title(f"{figure_text(entry.label)}: {figure_text(group.title)}\nsum over {draws}", fontsize=10, wrap=True)
    return figure
