"""What the workers of clusters do on their nodes. The results folder must be on a file system that all nodes share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mmrs_bench.errors import BenchError, TrainingError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import failure_path, load_failure, save_failure
from mmrs_bench.evaluation.run.claims import cell_lock, results_errors
from mmrs_bench.evaluation.run.clusters.ending import finish_if_done
from mmrs_bench.evaluation.run.jobs import Job, Worker, work
from mmrs_bench.evaluation.run.local import LocalPool
from mmrs_bench.evaluation.run.pool import worker_environment
from mmrs_bench.evaluation.run.stage_files import StageFile

Options = Mapping[str, Any]

#: The stage of a cell that begins when its pretraining is there.
FIT = "fit"


class NothingLeftError(Exception):
    """No cell is left for the workers that depend on this one; the cluster then cancels them."""


class Task(NamedTuple):
    """What a worker gets.

    Attributes:
        job: Its cells.
        worker: Its name.
        variables: Environment variables.
        rest: Cells of the workers that depend on this one.
        processes: Number of processes that compute at the same time.
        detached: Whether the process that started the run has exited.
    """

    job: Job
    worker: Worker
    variables: Mapping[str, str]
    rest: tuple[Cell, ...] = ()
    processes: int = 1
    detached: bool = False


def worker_variables(job: Job) -> dict[str, str]:
    """Environment variables of a worker on another machine: as local ones, and the settings of this package."""
    own = {name: value for name, value in os.environ.items() if name.startswith("MMRS_BENCH_")}
    return {**worker_environment(job.execution.threads), **own}


def shared_job(job: Job) -> Job:
    """The job with absolute paths, because workers on other machines have other working directories."""
    stale = {str(Path(path).absolute()): modified for path, modified in job.stale.items()}
    return replace(job, results=job.results.absolute(), stale=stale)


def remote_work(task: Task) -> str:
    """Main function of a worker on another machine.

    Returns:
        The message of the `BenchError` that ended it, or "".

    Raises:
        NothingLeftError: If other workers depend on this one, and their cells all have an outcome.
    """
    os.environ.update(task.variables)
    job, compute = task.job, _compute_first if task.rest else _compute
    try:
        if not job.stopped:  # it may have been queued for long
            compute(task)
        nothing_left = job.stopped or all(job.outcome(cell) is not None for cell in task.rest)
        if task.detached:
            finish_if_done(job)
        if task.rest and nothing_left:
            raise NothingLeftError(f"{task.worker.name}: the cells that wait for it are done, or the run has stopped")
    except BenchError as error:
        return str(error)
    return ""


def _compute_first(task: Task) -> None:
    """Compute cells that pretrain. If a pretraining fails, the cells of the same method that wait for it fail, too."""
    job, report = task.job, StageFile(task.job, task.worker.name)
    begun, fitted = set[str](), set[str]()

    def on_stage(key: str, stage: str, done: float) -> None:
        begun.add(key)
        if stage == FIT:
            fitted.add(key)
        report(key, stage, done)

    work(job, on_stage, task.worker)
    for cell in job.cells:
        path = failure_path(job.results, cell.protocol)
        if cell.key in begun - fitted and job.outcome(cell) == path and not job.stopped:
            others = [other for other in task.rest if other.method_label == cell.method_label]
            _fail(job, others, f"{cell.title}, which pretrains for this cell, failed: {load_failure(path).message}")


def _fail(job: Job, cells: list[Cell], cause: str) -> None:
    """Write failure records for cells that have no outcome."""
    for cell in cells:
        with cell_lock(job.lock_dir, cell.key) as locked, results_errors(job.results):
            if locked and job.outcome(cell) is None:
                save_failure(job.results, cell.protocol, TrainingError(cause))


def _compute(task: Task) -> None:
    """Compute cells, with several processes if wanted; those that die are replaced."""
    worker = task.worker
    if task.processes == 1:
        work(task.job, StageFile(task.job, worker.name), worker)
        return
    with LocalPool(task.job, task.processes, {}, name=worker.name, first=worker.number) as pool:
        worker.on_interruption = pool.report_ends
        while pool.alive:
            pool.poll()


def one_line(error: object) -> str:
    """The first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def last_line(error: object) -> str:
    """The last line of an error's text, which for a traceback states the error."""
    lines = [line for line in str(error).splitlines() if line.strip(" -")]
    return lines[-1].strip() if lines else type(error).__name__
