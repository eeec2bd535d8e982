"""Measure what a cell costs without computing it: short trainings, and the prediction of a sample of its pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import BenchError, DataError, TrainingError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.report.tables import Column, Section, Table, Value
from mmrs_bench.evaluation.results.costs import pretraining_group
from mmrs_bench.evaluation.results.provenance import peak_memory_mib
from mmrs_bench.evaluation.run.pool import environment, worker_environment
from mmrs_bench.evaluation.run.processes import redirect_output, start_child
from mmrs_bench.io import end_with_parent
from mmrs_bench.methods.base import Trial
from mmrs_bench.methods.catalogue import resolve_config
from mmrs_bench.methods.setting_files import file_hashes, missing_files
from mmrs_bench.paths import CACHE_VARIABLE, DATA_VARIABLE, cache_root, data_root
from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.files.verify import status
from mmrs_bench.scenes.scene import IntArray
from mmrs_bench.texts import rough_duration

#: Seconds for which each training is measured.
TRAINING_SECONDS = 10.0
if TYPE_CHECKING:
    from mmrs_bench.evaluation.run.runner import Fitted

COST_COLUMNS = (
    Column("method", "Method", fixed=True),
    Column("scene", "Scene", fixed=True),
    Column("split", "Split", fixed=True),
    Column("shots", "Shots", "number"),
    Column("cells", "Cells", "number"),
    Column("seconds", "Seconds", "number", 1),
    Column("pretraining_seconds", "Pretrain", "number", 1),
    Column("memory_mib", "MiB", "number"),
)
_NOTES = (
    "Measured now, with one worker: each training for some seconds, and the prediction of a sample of the pixels; "
    "without the start of workers, which load code and scene.",
    "Seconds: those of one cell without the pretraining. Pretrain: that of a pretraining which the cache lacks; it "
    "counts once in the total.",
    "MiB: peak resident memory of the process that measured.",
)
#: What a trial does not share with runs: its trainings are unfinished.
_OWN = ("pretraining", "features")


class Measurement(NamedTuple):
    """What a cell is expected to cost.

    Attributes:
        own: Seconds of the cell without a shared pretraining.
        predict: Those of its prediction.
        pretraining: Seconds of each shared pretraining, by cache entry.
        memory_mib: Peak resident memory of the process that measured, which loaded the scene, trained and predicted.
    """

    own: float
    predict: float
    pretraining: Mapping[str, float]
    memory_mib: float


class Trials:
    """Measures cells one after the other, each in a process like that of a worker.

    Used as a context manager. Trials share a temporary cache, so that each pretraining is measured once; the weights
    and texts are those of the user's cache.
    """

    def __init__(self, execution: ExecutionConfig) -> None:
        self._execution = execution
        self._folder = TemporaryDirectory(prefix="mmrs-bench-trial-")

    def __enter__(self) -> Trials:
        _make_cache(self._path / "cache")
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    @property
    def _path(self) -> Path:
        return Path(self._folder.name)

    def measure(self, cell: Cell) -> Measurement:
        """Measure a cell.

        Raises:
            BenchError: If the cell cannot be computed, for example because data or weights are missing.
        """
        places = {CACHE_VARIABLE: str(self._path / "cache"), DATA_VARIABLE: str(data_root().absolute())}
        variables = worker_environment(self._execution.threads) | places
        child = start_child(_measure_and_report, variables, cell, self._execution, self._path / cell.key)
        try:
            found: Measurement | BenchError = child.pipe.recv()
        except EOFError as error:
            child.process.join()
            raise TrainingError(f"the trial ended with exit code {child.process.exitcode}; is memory short?") from error
        finally:
            child.end()
        if isinstance(found, BenchError):
            raise found
        return found


def _make_cache(folder: Path) -> None:
    """Make a cache with links to the weights and texts of the present one, without its pretrainings and features."""
    folder.mkdir(parents=True)
    for entry in cache_root().iterdir() if cache_root().is_dir() else ():
        if entry.name not in _OWN:
            (folder / entry.name).symlink_to(entry.absolute())


def _measure_and_report(pipe: Connection, cell: Cell, execution: ExecutionConfig, folder: Path) -> None:
    """Main function of the process of a trial."""
    end_with_parent()
    redirect_output(folder / "log")
    try:
        pipe.send(measure_cell(cell, execution, folder / "work"))
    except BenchError as error:
        pipe.send(error)
    except Exception as error:  # noqa: BLE001 - any other fault of a method
        pipe.send(TrainingError(f"{type(error).__name__}: {error}"))


def measure_cell(
    cell: Cell, execution: ExecutionConfig, work_dir: Path, seconds: float = TRAINING_SECONDS
) -> Measurement:
    """Measure a cell in this process, whose cache then contains unfinished pretrainings.

    Trainings end after ``seconds`` each; the other steps are assumed to take as long as the measured ones. Everything
    else of fitting is done. Of the pixels, some batches are predicted; the others are assumed to take as long.

    Raises:
        BenchError: See `mmrs_bench.evaluation.run.runner.run_cell`.
    """
    from mmrs_bench.scenes.splits.audit import audit

    _warm_up(cell, execution, work_dir / "warm-up")
    trial = Trial(seconds)
    method, data, by_stage = _pretrained(cell, execution, work_dir, trial)
    shared = {name: value for name, value in method.context.pretraining_seconds.items() if value is not None}
    own = by_stage["data"] if shared else by_stage["data"] + by_stage["pretrain"] + trial.left_out
    trial.left_out = 0.0
    start = perf_counter()
    method.fit(data)
    own += perf_counter() - start + trial.left_out
    start = perf_counter()
    audit(data.scene, data.split)
    own += perf_counter() - start
    predict = _prediction_seconds(partial(method.classify, data), data.query, execution.inference_batch)
    return Measurement(own + predict, predict, shared, peak_memory_mib())


def _pretrained(cell: Cell, execution: ExecutionConfig, work_dir: Path, trial: Trial) -> Fitted:
    from mmrs_bench.evaluation.run.runner import pretrain_cell

    work_dir.mkdir(parents=True, exist_ok=True)
    return pretrain_cell(cell, execution, work_dir, lambda _stage, _share: None, trial=trial)


def _warm_up(cell: Cell, execution: ExecutionConfig, folder: Path) -> None:
    """Load the scene, and the code that a worker loads once, by a few steps of the shortest trainings."""
    config = resolve_config(cell.card, cell.protocol.variant, "smoke")
    changes = {"method_config": config, "files": file_hashes(config, cell.card, cell.card_path)}
    short = replace(cell, protocol=cell.protocol.model_copy(update=changes))
    _make_cache(folder / "cache")
    with environment({CACHE_VARIABLE: str(folder / "cache")}):
        method, data, _ = _pretrained(short, execution, folder, Trial(0.0))
        method.fit(data)
        method.classify(data, data.query[:1])


def _prediction_seconds(predict: Callable[[IntArray], object], query: IntArray, batch: int) -> float:
    """Expected seconds of a prediction of all query pixels, from that of four batches of them, in random order."""
    order = np.random.default_rng(0).permutation(query)

    def measured(first: int, count: int) -> float:
        start = perf_counter()
        predict(np.sort(order[first * batch : (first + count) * batch]))
        return perf_counter() - start

    if len(query) <= 4 * batch:
        return measured(0, 4)
    # The first prediction contains what is done once, such as the features of a scene.
    first, second, two = measured(0, 1), measured(1, 1), measured(2, 2)
    return first + max(0.0, two - second) * (len(query) / batch - 1)


class CellCosts(NamedTuple):
    """Cells of one method, scene, split and number of shots.

    Attributes:
        cells: The cells.
        measurement: That of the first cell; None if it cannot be measured.
        fault: Why it cannot be measured.
    """

    cells: tuple[Cell, ...]
    measurement: Measurement | None
    fault: str = ""


def measure_costs(
    cells: Iterable[Cell], execution: ExecutionConfig, report: Callable[[str], object]
) -> list[CellCosts]:
    """Measure one cell for each method, scene, split and number of shots.

    Args:
        cells: The cells.
        execution: Device, precision and threads.
        report: Called with one line before each measurement.
    """
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        data = cell.protocol.data
        groups.setdefault((cell.dataset, data.split, data.shots, cell.method_label), []).append(cell)
    found = []
    with Trials(execution) as trials:
        for number, group in enumerate(groups.values(), 1):
            report(f"[{number}/{len(groups)}] measuring {group[0].title}")
            try:
                _check_present(group[0])
                found.append(CellCosts(tuple(group), trials.measure(group[0])))
            except BenchError as error:
                found.append(CellCosts(tuple(group), None, str(error)))
    return found


def _check_present(cell: Cell) -> None:
    """Raise an error if files of the scene or of the method are not on this machine; nothing is fetched."""
    manifest = load_manifest(cell.dataset)
    if status(manifest).state not in ("simulated", "present"):
        raise DataError(f"files of {cell.dataset} are not on this machine; run mmrs-bench data fetch {cell.dataset}")
    if lines := missing_files(cell.protocol.method_config, cell.card, cell.card_path):
        raise DataError(lines[0])


def pretraining_to_do(costs: Iterable[CellCosts]) -> dict[tuple[object, ...], float]:
    """Seconds of all pretrainings that the cells need and the user's cache lacks; each one counts once.

    Whether the cache has one is known for the cell that was measured. Those of other seeds, and of other draws if they
    depend on the draw, count in any case.
    """
    cached = {path.stem for path in (cache_root() / "pretraining").glob("*.safetensors")}
    return {
        (name, pretraining_group(cell.protocol)): seconds
        for cost in costs
        if cost.measurement
        for name, seconds in cost.measurement.pretraining.items()
        for cell in cost.cells
        if name not in cached or pretraining_group(cell.protocol) != pretraining_group(cost.cells[0].protocol)
    }


def cost_table(costs: Sequence[CellCosts], workers: int) -> Table:
    """What cells cost: one row per method, scene, split and number of shots; the totals are in the notes."""
    rows: list[dict[str, Value]] = []
    for cost in costs:
        protocol, measurement = cost.cells[0].protocol, cost.measurement
        row: dict[str, Value] = {
            "method": cost.cells[0].method_label,
            "scene": protocol.scene,
            "split": protocol.data.split,
            "shots": protocol.data.shots,
            "cells": len(cost.cells),
        }
        if measurement:
            to_do = sum(pretraining_to_do([cost]).values())
            row |= {
                "seconds": measurement.own,
                "pretraining_seconds": to_do or None,
                "memory_mib": round(measurement.memory_mib),
            }
        rows.append(row)
    return Table(
        title=f"expected cost, budget {costs[0].cells[0].protocol.budget}",
        columns=COST_COLUMNS,
        sections=(Section("", tuple(rows)),),
        notes=(_total(costs, workers), *_NOTES, *_faults(costs)),
    )


def _total(costs: Sequence[CellCosts], workers: int) -> str:
    measured = [(cost, cost.measurement) for cost in costs if cost.measurement]
    cells = sum(len(cost.cells) * measurement.own for cost, measurement in measured)
    pretraining = sum(pretraining_to_do(costs).values())
    unknown = sum(len(cost.cells) for cost in costs if not cost.measurement)
    memory = max((measurement.memory_mib for _, measurement in measured), default=0.0)
    return (
        f"Total: {(cells + pretraining) / 3600:.2f} hours, {pretraining / 3600:.2f} of them pretraining; divided by "
        f"{workers} worker{'s' if workers > 1 else ''}: {rough_duration((cells + pretraining) / workers)}. Memory: up "
        f"to {memory:,.0f} MiB for each worker."
        + (f" Without {unknown} cells that were not measured." if unknown else "")
    )


def _faults(costs: Iterable[CellCosts]) -> list[str]:
    return [f"Not measured: {cost.cells[0].title}: {cost.fault}" for cost in costs if cost.fault]
