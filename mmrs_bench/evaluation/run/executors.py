"""Executors run the workers of a job: local processes, a Slurm cluster, or a Ray cluster.

The process that owns the job imports no torch. It starts the workers and finds finished cells in the results folder,
so it also sees cells that another run computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmrs_bench.errors import unknown_name

if TYPE_CHECKING:
    from mmrs_bench.evaluation.cells import Cell
    from mmrs_bench.evaluation.run.jobs import Job, StageListener
    from mmrs_bench.evaluation.run.pool import Pool

#: ``module:class`` of the pool of each executor (see `mmrs_bench.evaluation.run.pool.Pool`).
EXECUTORS = {
    "local": "mmrs_bench.evaluation.run.local:LocalPool",
    "slurm": "mmrs_bench.evaluation.run.clusters.slurm:SlurmPool",
    "ray": "mmrs_bench.evaluation.run.clusters.ray_cluster:RayPool",
}
#: Executors whose pools take groups of cells, and a profile.
CLUSTERS = ("slurm", "ray")

#: Other runs compute cells, too: all cells are looked at, but only in one part of the time in so many.
LOOK_SHARE = 20


def make_pool(executor: str, job: Job, workers: int, options: Mapping[str, Any], **of_cluster: Any) -> Pool:
    """Create the pool of an executor; a `ConfigError` says what is unknown or not installed.

    Args:
        executor: Name in `EXECUTORS`.
        job: The cells.
        workers: Most workers at the same time.
        options: Options from the command line.
        of_cluster: What only the pools of clusters take: groups of cells, and the profile.
    """
    if executor not in EXECUTORS:
        raise unknown_name("executor", executor, EXECUTORS)
    module, _, name = EXECUTORS[executor].partition(":")
    return cast("Pool", getattr(import_module(module), name)(job, workers, options, **of_cluster))


def execute(job: Job, pool: Pool, *, on_stage: StageListener, on_outcome: Callable[[Cell, Path], None]) -> None:
    """Run a job until every cell has an outcome or no worker is left.

    ``on_outcome`` is called once per cell with the path of its record or failure record.

    Raises:
        BenchError: If workers cannot run at all, or the results folder cannot be used any more. A failed cell is an
            outcome, not an error.
    """
    job.open()
    pending = {cell.key: cell for cell in job.cells}
    started: dict[str, None] = {}  # keys of the cells that workers of this run compute, in this order
    alive, next_look = True, 0.0
    try:
        with pool:
            while pending and alive:
                for stage in pool.poll():
                    on_stage(*stage)
                    started.setdefault(stage.key)
                job.check_folder()
                alive = pool.alive  # before the outcomes are read, so that the last ones are not missed
                now = time.monotonic()
                look_at_all = now >= next_look or not alive
                for key in list(pending if look_at_all else started):
                    if key in pending and _report_outcome(job, pending[key], on_outcome):
                        del pending[key]
                        started.pop(key, None)
                if look_at_all:
                    next_look = now + LOOK_SHARE * (time.monotonic() - now)
    finally:
        job.clean_up()


def _report_outcome(job: Job, cell: Cell, on_outcome: Callable[[Cell, Path], None]) -> bool:
    path = job.outcome(cell)
    if path is not None:
        on_outcome(cell, path)
    return path is not None
