"""``run``: compute the cells of a suite."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mmrs_bench.api.results import Results, results_of
from mmrs_bench.config import DEFAULT_RESULTS, BudgetName, ExecutionConfig, LoggerName, PixelScope, Selection, SplitName
from mmrs_bench.errors import ConfigError, RunError
from mmrs_bench.evaluation.cells import Suite, build_cells, left_out
from mmrs_bench.evaluation.run.display.console import line_printer
from mmrs_bench.evaluation.run.session import EXIT_INTERRUPTED, check_and_run

#: A name, or the path of a manifest or card.
Name = str | os.PathLike[str]


def run(
    datasets: Name | Sequence[Name] = "simulated",
    *,
    methods: Name | Sequence[Name] = "all",
    shots: int | Sequence[int] = 2,
    draws: int = 10,
    budget: BudgetName = "quick",
    splits: SplitName | Sequence[SplitName] = "random-v1",
    seeds: int | Sequence[int] = 0,
    selection: Selection | None = None,
    window: int = 11,
    modalities: str | Sequence[str] = (),
    drop: str | Sequence[str] = (),
    normalisation: Literal["zscore", "minmax"] = "zscore",
    normalisation_scope: PixelScope = "scene",
    unlabelled: PixelScope = "scene",
    pca: int | None = None,
    results: str | os.PathLike[str] = DEFAULT_RESULTS,
    workers: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "cpu",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    executor: str = "local",
    executor_options: Mapping[str, Any] | None = None,
    profile: str | Path | None = None,
    threads: int = 1,
    devices: int = 1,
    logger: Sequence[LoggerName] = ("csv", "tensorboard"),
    trainer: Mapping[str, Any] | None = None,
    keep_going: bool = False,
    force: bool = False,
    save_models: bool = False,
    progress: bool = True,
) -> Results:
    """Compute all cells that have no record yet, as ``mmrs-bench run`` does, and return the results of all cells.

    A cell is one combination of dataset, split, shots, draw, method and seed. Ctrl-C (the stop button of a notebook)
    keeps the finished cells; call ``run`` again to continue.

    Args:
        datasets: Names of `list_scenes`, or paths of manifests.
        methods: Names of `list_methods`, ``name:variant``, or paths of cards; ``all`` means every method that needs
            no pretrained weights.
        shots: Labels per class.
        draws: Number of support samples, numbered from 0.
        budget: Training lengths and query limit: ``smoke`` (seconds), ``quick`` (minutes) or ``paper``.
        splits: Split protocols.
        seeds: Training seeds.
        selection: Selection rule for trained states; None means each method's default.
        window: Side of the window in pixels, odd.
        modalities: Modalities that methods see; empty means all.
        drop: Modalities that are missing when pixels are predicted, although the training had them; see
            ``docs/protocol.md``.
        normalisation: Normalisation per channel.
        normalisation_scope: Pixels that normalisation is fitted to.
        unlabelled: Pixels that pretraining may use.
        pca: Number of principal components that replace the HSI bands; None keeps the bands.
        results: Folder of the records.
        workers: Number of worker processes; None means one per usable core, and 1 on a GPU.
        device: Device of the workers; not part of the cell's key, as ``precision``.
        precision: Lightning's setting.
        executor: Where the workers run: ``local``, ``slurm`` or ``ray``.
        executor_options: Options of ``slurm`` or ``ray`` by name.
        profile: YAML file of a cluster, which is then the executor; see ``docs/clusters.md``.
        threads: Threads of each worker; recorded, because several threads change the last digits.
        devices: GPUs or CPU cores of each long training (Lightning's ddp).
        logger: Where trainings log: ``csv``, ``tensorboard``, ``wandb`` (offline) and ``mlflow`` (a local folder).
        trainer: Flags of Lightning's trainer that change no result, see `mmrs_bench.config.TrainerFlags`.
        keep_going: Compute the other cells after one has failed, and return the results without the failed ones.
        force: Compute finished cells again and replace their records.
        save_models: Keep the fitted model of each cell in the subfolder ``models`` of the results (docs/models.md);
            cells without a model are computed again.
        progress: Whether to show bars, and a line for each finished cell.

    Raises:
        PreflightError: If the run cannot start; ``faults`` has one line per reason.
        RunError: If a cell fails and ``keep_going`` is false, or if no cell has a result.
        BenchError: If a setting is wrong, data are missing, or the folder cannot be used.
        KeyboardInterrupt: After Ctrl-C.
    """
    values = dict(locals())
    _check_process()
    suite = Suite.of({name: values[name] for name in Suite.__dataclass_fields__})
    execution = ExecutionConfig.of(
        device=device, precision=precision, threads=threads, devices=devices, logger=logger, trainer=trainer or {}
    )
    folder = Path(results).expanduser()
    show = line_printer(shown=progress)
    cells = build_cells(suite, fetch=show)
    for line in left_out(suite):
        show(line)
    status = check_and_run(
        cells,
        folder,
        execution,
        workers=workers,
        executor=executor,
        executor_options=executor_options,
        profile=None if profile is None else Path(profile).expanduser(),
        keep_going=keep_going,
        force=force,
        save_models=save_models,
        progress=progress,
    )
    if status == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    found = results_of(cells, folder)
    if status and not (keep_going and found.records):
        raise _run_error(found, len(cells))
    return found


def _check_process() -> None:
    """Refuse processes that cannot start workers."""
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):
        raise ConfigError(
            "run was called while a process that this script starts imports the script again; put what the script "
            'does below the line: if __name__ == "__main__":'
        )
    if process.daemon:
        raise ConfigError(
            "run starts worker processes, and a daemonic process (such as those of multiprocessing.Pool) cannot; call "
            "it in the main process"
        )


def _run_error(found: Results, total: int) -> RunError:
    reasons = dict.fromkeys(
        f"{failure.protocol.method} ({failure.error}): {failure.message}" for failure in found.failures
    )
    return RunError(
        f"{len(found)} of {total} cells are done, {len(found.failures)} failed: {'; '.join(reasons)}. Finished cells "
        "are kept: call run again to retry, or with keep_going=True to compute the others first"
    )
