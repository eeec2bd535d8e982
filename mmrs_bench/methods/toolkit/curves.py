"""Learning curves of a pretraining: kept in its state dict, and written as a table and a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmrs_bench.io import write_csv, write_png


class Curves(nn.Module):
    """Learning curves (epochs, columns) by name; 0 for epochs to come.

    They grow with the training, and get the length of a state dict that is loaded.

    Args:
        columns: Number of values per epoch, by name of the curve.
    """

    def __init__(self, columns: Mapping[str, int]) -> None:
        super().__init__()
        for name, count in columns.items():
            self.register_buffer(name, torch.zeros(0, count))

    def __getitem__(self, name: str) -> Tensor:
        """A curve (epochs, columns)."""
        return self.get_buffer(name)

    def reserve(self, epochs: int) -> None:
        """Append zeros up to so many epochs."""
        for name, curve in self.named_buffers():
            missing = max(0, epochs - len(curve))
            setattr(self, name, torch.cat([curve, curve.new_zeros(missing, curve.shape[1])]))

    def record(self, epoch: int, **rows: Tensor) -> None:
        """Set the values (columns,) of an epoch."""
        self.reserve(epoch + 1)
        for name, row in rows.items():
            self[name][epoch] = row

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name, curve in self.named_buffers():
            if prefix + name in state_dict:
                setattr(self, name, curve.new_zeros(len(state_dict[prefix + name]), curve.shape[1]))
        super()._load_from_state_dict(state_dict, prefix, *rest)


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
