"""Executors: who runs the workers of a job (local processes, a Slurm cluster, a Ray cluster).

The process that owns the job stays light: it imports no torch, starts workers, and learns what they achieved by
looking at the results folder, which is the only truth. That way it also sees what another run on the folder does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.run.jobs import Job, StageListener
from mmrs_bench.evaluation.run.pool import Pool

ExecutorName = Literal["local", "slurm", "ray"]


def make_pool(name: ExecutorName, job: Job, workers: int, options: Mapping[str, str]) -> Pool:
    """The pool of an executor.

    Args:
        name: Executor.
        job: What to compute.
        workers: Number of workers.
        options: Settings of the cluster (``partition=gpu``), passed on to submitit or ray; none for ``local``.

    Raises:
        ConfigError: If the executor's package is not installed, or options are given to ``local``.
    """
    if name != "local":
        from mmrs_bench.evaluation.run.clusters import RayPool, SlurmPool

        return SlurmPool(job, workers, options) if name == "slurm" else RayPool(job, workers, options)
    if options:
        raise ConfigError("--executor-options are for --executor slurm or ray; the local executor has none")
    from mmrs_bench.evaluation.run.local import LocalPool

    return LocalPool(job, workers)


def execute(
    job: Job,
    pool: Pool,
    *,
    on_stage: StageListener,
    on_outcome: Callable[[Cell, Path], None],
) -> None:
    """Run a job to its end.

    Args:
        job: The job.
        pool: Its workers, not yet started.
        on_stage: Told how cells get on, as far as the executor can tell.
        on_outcome: Told each cell's outcome file (record or failure) once, in the order of appearance.

    Raises:
        BenchError: If workers cannot run at all. Failures of cells are outcomes, not errors.
    """
    job.lock_dir.mkdir(parents=True, exist_ok=True)
    pending = list(job.cells)
    alive = True
    try:
        with pool:
            while pending and alive:
                for stage in pool.poll():
                    on_stage(*stage)
                alive = pool.alive  # asked before looking, so that nothing written meanwhile is missed
                pending = [cell for cell in pending if not _report_outcome(job, cell, on_outcome)]
    finally:
        job.clean_up()


def _report_outcome(job: Job, cell: Cell, on_outcome: Callable[[Cell, Path], None]) -> bool:
    path = job.outcome(cell)
    if path is not None:
        on_outcome(cell, path)
    return path is not None
