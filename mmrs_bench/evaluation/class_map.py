"""Class maps of whole scenes: every pixel, classified by the methods of some cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmrs_bench.config import ExecutionConfig, torch_threads
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.prediction import classify_all, saved_method
from mmrs_bench.evaluation.report.maps.panels import MethodMap
from mmrs_bench.evaluation.report.maps.sheet import MapSheet
from mmrs_bench.evaluation.results.models import has_model, model_folder
from mmrs_bench.evaluation.run.preflight import preflight
from mmrs_bench.io import content_hash

if TYPE_CHECKING:
    from mmrs_bench.methods.base import Prediction, Progress
    from mmrs_bench.scenes.datamodule import SceneDataModule


#: Most methods on one sheet.
MOST_METHODS = 8


class _Classified(NamedTuple):
    prediction: Prediction
    data: SceneDataModule


def classify_scene(
    cells: Sequence[Cell],
    execution: ExecutionConfig,
    results: Path,
    progress: Progress,
    *,
    labels: Sequence[str] | None = None,
    **checked: Any,
) -> MapSheet:
    """Classify the whole scene with the method of each cell, in this process.

    A method whose model ``run --save-models`` saved is not trained again.

    Args:
        cells: Cells that differ in the method only, at least one; whether they have records does not matter.
        execution: Device and precision of trainings, and threads of predictions; trainings have one thread. A saved
            model has the precision of its training.
        results: Folder of saved models and training logs.
        progress: Callback for the progress of a stage.
        labels: Names of the maps; by default those of the methods.
        checked: What else `preflight` checks before the first training.

    Raises:
        PreflightError: If a cell cannot be computed.
        BenchError: If data or settings are wrong, or a training fails.
    """
    preflight(
        [cell for cell in cells if not has_model(results, cell.protocol)], results, execution, force=True, **checked
    )
    with torch_threads():
        found = [_classified(cell, execution, results, progress) for cell in cells]
    maps = tuple(
        MethodMap(label, *each.prediction)
        for label, each in zip(labels or [cell.method_label for cell in cells], found, strict=True)
    )
    data = found[0].data
    notes: tuple[str, ...] = ()
    if data.query.size < data.split.query.size:
        notes = (f"Records of budget {cells[0].protocol.budget} count {data.query.size:,} of the query pixels.",)
    return MapSheet(data.scene, maps, data.split.query, data.support, _title(cells[0]), notes)


def map_name(cells: Sequence[Cell]) -> str:
    """A short name of the maps of some cells that no other cells have: ``trento-svm-1a2b3c4d``."""
    scene = cells[0].protocol.scene.rpartition("-")[0]
    if len(cells) == 1:
        return f"{scene}-{cells[0].method_label.replace(':', '-')}-{cells[0].key[:8]}"
    return f"{scene}-{len(cells)}-methods-{content_hash([cell.key for cell in cells])[:8]}"


def _classified(cell: Cell, execution: ExecutionConfig, results: Path, progress: Progress) -> _Classified:
    if has_model(results, cell.protocol):
        progress(f"{cell.method_label}: load its model", 0.0)
        model = model_folder(results, cell.protocol)
        with saved_method(model, cell.dataset, execution.device, progress) as (method, data):
            progress(f"{cell.method_label}: predict the whole scene", 0.0)
            return _Classified(classify_all(method, data, execution.threads), data)
    from mmrs_bench.evaluation.run.runner import fit_cell  # after the checks, because it imports torch

    progress(f"{cell.method_label}: train", 0.0)
    training = execution.resolved().model_copy(update={"threads": 1})
    method, data, _ = fit_cell(cell, training, results, progress)
    progress(f"{cell.method_label}: predict the whole scene", 0.0)
    return _Classified(classify_all(method, data, execution.threads), data)


def _title(cell: Cell) -> str:
    """The protocol of a cell without its method."""
    protocol, data = cell.protocol, cell.protocol.data
    shots = "shot" if data.shots == 1 else "shots"
    parts = [data.split, f"{data.shots} {shots}", f"draw {data.draw}", f"budget {protocol.budget}"]
    parts += [f"seed {protocol.seed}"] if protocol.seed else []
    parts += [f"predicted without {' and '.join(data.drop)}"] if data.drop else []
    return ", ".join(parts)
