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

    They grow with the training, and get the length of a state dict that is loaded. They are in the state dict and no
    buffers, because what copies buffers during a training, such as weight averaging, expects that their sizes stay.

    Args:
        columns: Number of values per epoch, by name of the curve.
    """

    def __init__(self, columns: Mapping[str, int]) -> None:
        super().__init__()
        self._curves = {name: torch.zeros(0, count, dtype=torch.float32) for name, count in columns.items()}

    def __getitem__(self, name: str) -> Tensor:
        """A curve (epochs, columns)."""
        return self._curves[name]

    def reserve(self, epochs: int) -> None:
        """Append zeros up to so many epochs."""
        for name, curve in self._curves.items():
            missing = max(0, epochs - len(curve))
            self._curves[name] = torch.cat([curve, curve.new_zeros(missing, curve.shape[1])])

    def record(self, epoch: int, **rows: Tensor) -> None:
        """Set the values (columns,) of an epoch."""
        self.reserve(epoch + 1)
        for name, row in rows.items():
            self._curves[name][epoch] = row.detach().cpu()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination.update({prefix + name: curve for name, curve in self._curves.items()})

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for name, curve in self._curves.items():
            found = state_dict.get(prefix + name)
            if found is None:
                missing_keys.append(prefix + name)
            elif found.shape[1:] != curve.shape[1:]:
                error_msgs.append(f"{prefix}{name} has shape {tuple(found.shape)}, expected {curve.shape[1]} columns")
            else:
                self._curves[name] = found.detach().to("cpu", torch.float32, copy=True)
        known = {prefix + name for name in self._curves}
        unexpected_keys += [key for key in state_dict if key.startswith(prefix) and key not in known]


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
