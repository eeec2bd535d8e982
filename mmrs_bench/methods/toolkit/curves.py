"""Files of the learning curves of a pretraining: a table and a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

from torch import Tensor

from mmrs_bench.io import write_csv, write_png


def write_curves(
    stem: Path, columns: Sequence[str], rows: Iterable[Sequence[object]], panels: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write ``<stem>.csv`` and ``<stem>.png``.

    Args:
        stem: Path without suffix.
        columns: Names of the columns of the table.
        rows: Its rows.
        panels: By label of the y axis, curves by name, one value per epoch; NaN is not drawn.

    Raises:
        BenchError: If a file cannot be written.
    """
    from matplotlib.figure import Figure

    write_csv(stem.with_suffix(".csv"), columns, rows)
    figure = Figure(figsize=(6.0, 5.0), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True)
    for panel, (label, curves) in zip(axes, panels.items(), strict=True):
        for (name, values), style in zip(curves.items(), cycle(("-", "--", ":", "-.")), strict=False):
            panel.plot(values.numpy(), style, marker=".", label=name)
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("epoch")
    write_png(stem.with_suffix(".png"), figure)
