"""Class maps of whole scenes: train the method of a cell, and classify every pixel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmrs_bench.config import ExecutionConfig, torch_threads
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.report.maps import map_figure, write_map
from mmrs_bench.evaluation.run.preflight import preflight
from mmrs_bench.scenes.scene import IntArray, Scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmrs_bench.methods.base import Progress


class ClassMap(NamedTuple):
    """The classified pixels of a scene.

    Attributes:
        scene: The scene.
        targets: Predicted target in 0..K-1 of each pixel (height * width,).
        support: Flat indices of the support pixels; None without a split.
        title: Heading of the figure.
    """

    scene: Scene
    targets: IntArray
    support: IntArray | None
    title: str

    def figure(self) -> Figure:
        """Image, ground truth, class map and errors."""
        return map_figure(self.scene, self.targets, support=self.support, title=self.title)

    def write(self, path: Path) -> None:
        """Write the map; see `mmrs_bench.evaluation.report.maps.write_map`."""
        write_map(path, self.scene, self.targets, support=self.support, title=self.title)


def classify_scene(
    cell: Cell, execution: ExecutionConfig, results: Path, progress: Progress, **checked: Any
) -> ClassMap:
    """Train a cell's method and classify the whole scene, in this process.

    Args:
        cell: The cell; whether it has a record does not matter.
        execution: Device and precision.
        results: Folder for training logs.
        progress: Callback for the progress of a stage.
        checked: What else `preflight` checks before the training.

    Raises:
        PreflightError: If the cell cannot be computed.
        BenchError: If data or settings are wrong, or the training fails.
    """
    preflight([cell], results, execution, force=True, **checked)
    from mmrs_bench.evaluation.run.runner import fit_cell  # after the checks, because it imports torch

    with torch_threads():
        method, data, _ = fit_cell(cell, execution.resolved(), results, progress)
        progress("predict the whole scene", 0.0)
        targets = method.classify(data, np.arange(data.scene.labels.size))
    return ClassMap(data.scene, targets, data.support, cell.title)
