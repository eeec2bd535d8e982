"""Jobs: the cells of one run, which several workers share through one results folder.

There is no scheduler. A worker repeatedly takes the first cell that has no outcome and no lock. The operating system
releases a lock when its process dies, so a killed run leaves nothing to clean up, and two runs share the work. A cell
whose worker was killed is computed again (see `mmrs_bench.evaluation.run.claims`).
"""

from __future__ import annotations

import importlib
import os
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import cast

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import BenchError, ConfigError, Deferred, RecordError, TrainingError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.models import has_model
from mmrs_bench.evaluation.results.records import failure_path, record_path, save_failure, save_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.claims import (
    MAX_ATTEMPTS,
    Attempt,
    Claim,
    cell_lock,
    read_claim,
    remove_quietly,
    results_errors,
)
from mmrs_bench.evaluation.run.processes import import_core_metrics
from mmrs_bench.io import garbage_kept, write_text

#: Called with a cell's key, the name of a stage and the share of the stage that is done, in [0, 1].
StageListener = Callable[[str, str, float], None]
#: Computes a cell's record from (cell, execution, results folder, progress, wait); for the last two see
#: `mmrs_bench.methods.base.RunContext`.
CellFunction = Callable[[Cell, ExecutionConfig, Path, Callable[[str, float], None], Callable[[str], None]], Record]

RUN_CELL = "mmrs_bench.evaluation.run.runner:run_cell"
#: As `RUN_CELL`, and also writes the fitted model.
RUN_AND_SAVE = "mmrs_bench.evaluation.run.runner:run_and_save"

#: Name of the stage of a cell that a worker left for later, because it would have to wait for another process.
DEFERRED = "deferred"

#: Seconds that a worker sleeps when other workers compute all remaining cells.
WAIT_SECONDS = 0.2
#: Seconds that a worker waits for the cause of another worker's death before it lets a cell fail without it.
CAUSE_SECONDS = 20.0

UNKNOWN_CAUSE = "the process ended without a message"


@dataclass(frozen=True)
class Job:
    """The input of every worker of a run.

    Attributes:
        cells: The cells to compute; cells that have an outcome are skipped.
        keep_going: Whether to compute the remaining cells after one has failed.
        stale: Outcomes of earlier runs that are computed again, as path -> modification time in ns.
        compute: ``module:function`` of the `CellFunction`; only workers import it.
    """

    results: Path
    cells: tuple[Cell, ...]
    execution: ExecutionConfig
    keep_going: bool = False
    stale: dict[str, int] = field(default_factory=dict)
    compute: str = RUN_CELL
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def lock_dir(self) -> Path:
        """Folder of the locks."""
        return self.results / "locks"

    @property
    def runs_code_of_users(self) -> bool:
        """Whether a method or a callback of the trainer is not of this package."""
        one_of_each = {(cell.protocol.method, cell.card_path): cell for cell in self.cells}.values()
        own = all(cell.card.class_path.startswith("mmrs_bench.") for cell in one_of_each)
        return not own or bool(self.execution.trainer.callbacks)

    def file(self, name: str) -> Path:
        """A file that only this run uses."""
        return self.lock_dir / f"{self.run_id}.{name}"

    def open(self) -> None:
        """Create the marker of this run; its workers end when it vanishes.

        Raises:
            BenchError: If the results folder cannot be written.
        """
        write_text(self.file("run"), "")

    def check_folder(self) -> None:
        """Raise a `BenchError` if the results folder vanished, or was replaced, while the run is on."""
        with results_errors(self.lock_dir):
            if self.file("run").is_file():
                return
            state = "is no longer a folder" if self.results.exists() and not self.results.is_dir() else "was removed"
            if self.results.is_dir():
                state = f"or its subfolder {self.lock_dir.name} was replaced or removed"
        raise BenchError(
            f"{self.results}: {state} while the run was on. Records that are still there are kept; put the folder "
            "back, and run the command again."
        )

    def stop(self) -> None:
        """Prevent all workers of this run from taking another cell."""
        with results_errors(self.lock_dir):
            self.file("stop").touch()

    @property
    def stopped(self) -> bool:
        """Whether any worker called `stop`, or the run has ended."""
        with results_errors(self.lock_dir):
            return self.file("stop").exists() or not self.file("run").exists()

    def clean_up(self) -> None:
        """Remove the files that only this run needs."""
        for path in self.lock_dir.glob(f"{self.run_id}.*"):
            remove_quietly(path)

    def report_end(self, worker: str, cause: str) -> None:
        """Save why a worker ended, for the next worker that takes its cell."""
        write_text(self.file(f"{worker}.end"), cause)

    def _end_of(self, attempt: Attempt) -> str:
        path = self.file(f"{attempt.worker}.end")
        with results_errors(path):
            try:
                return attempt.cause or path.read_text(encoding="utf-8")
            except FileNotFoundError:
                return ""

    def with_causes(self, claim: Claim) -> Claim:
        """The claim with the causes that are known by now, for attempts of this run."""
        attempts = (
            Attempt(a.run, a.worker, self._end_of(a) if a.run == self.run_id else a.cause) for a in claim.attempts
        )
        return Claim(claim.path, tuple(attempts))

    def outcome(self, cell: Cell) -> Path | None:
        """Path of the cell's record, or of its failure record of this run, or None.

        Raises:
            BenchError: If the folders of the records cannot be read.
        """
        for path in (record_path(self.results, cell.protocol), failure_path(self.results, cell.protocol)):
            modified = _modification_time(path)
            if modified is not None and modified != self.stale.get(str(path)):
                return path
        return None


@dataclass
class Worker:
    """What a worker is doing. The name is unique within the run, also among workers that replace dead ones."""

    name: str
    number: int = 0
    claim: Claim | None = None
    #: Called with the cause of an interruption, if other processes compute for this worker.
    on_interruption: Callable[[str], None] | None = None

    def interrupted(self, cause: str) -> None:
        """Save in the claim of the current cell why it cannot be finished; the worker must end now."""
        if self.claim is not None:
            self.claim = self.claim.ended(cause)
        if self.on_interruption is not None:
            self.on_interruption(cause)


def is_done(results: Path, cell: Cell, *, save_models: bool = False) -> bool:
    """Whether a cell has a record, and with ``save_models`` also a model."""
    done = record_path(results, cell.protocol).exists()
    return done and (not save_models or has_model(results, cell.protocol))


def stale_outcomes(results: Path, cells: Iterable[Cell], *, force: bool) -> dict[str, int]:
    """`Job.stale` at the start of a run: all failure records and, with ``force``, all records."""
    stale = {}
    for cell in cells:
        paths = [failure_path(results, cell.protocol)]
        if force:
            paths.append(record_path(results, cell.protocol))
        for path in paths:
            modified = _modification_time(path)
            if modified is not None:
                stale[str(path)] = modified
    return stale


def _modification_time(path: Path) -> int | None:
    with results_errors(path):
        try:
            return path.stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None


def work(job: Job, on_stage: StageListener, worker: Worker | None = None) -> None:
    """Compute cells until every cell of the job has an outcome, or the job is stopped.

    A cell that has to wait for another process is deferred until no other cell is left to compute.
    A cell whose worker was killed is computed again, and fails after `MAX_ATTEMPTS` attempts.

    Workers with different numbers start with different scenes, because each keeps the scene that it loaded. Workers
    with an odd number begin each draw with its last cells, which are the expensive ones: so one worker pretrains while
    others compute cells that need no pretraining.

    Raises:
        BenchError: If the results folder, a lock, a claim or an outcome cannot be read or written.
    """
    worker = worker or Worker(f"{os.getpid()}-{uuid.uuid4().hex[:8]}")
    pending = order_of_worker(job.cells, worker.number)
    _import_cell_function(job)
    may_wait = False
    while pending:
        remaining = []
        for cell in pending:
            if job.stopped:
                return
            if job.outcome(cell) is None and not _try_cell(job, cell, worker, on_stage, may_wait=may_wait):
                remaining.append(cell)
        may_wait = len(remaining) == len(pending)
        if may_wait:
            time.sleep(WAIT_SECONDS)
        pending = remaining


def draw_blocks(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Consecutive cells of one scene, split, number of shots and draw."""

    def draw_of(cell: Cell) -> tuple[object, ...]:
        data = cell.protocol.data
        return cell.protocol.scene_fingerprint, data.split, data.shots, data.draw

    return [list(block) for _, block in groupby(cells, draw_of)]


def order_of_worker(cells: Iterable[Cell], number: int) -> list[Cell]:
    """The order in which the worker with this number tries to take cells, see `work`."""
    scenes: dict[str, list[Cell]] = {}
    for cell in cells:
        scenes.setdefault(cell.protocol.scene_fingerprint, []).append(cell)
    groups = list(scenes.values())
    first = number % max(len(groups), 1)
    direction = -1 if number % 2 else 1
    blocks = draw_blocks(cell for group in groups[first:] + groups[:first] for cell in group)
    return [cell for block in blocks for cell in block[::direction]]


def _try_cell(job: Job, cell: Cell, worker: Worker, on_stage: StageListener, *, may_wait: bool) -> bool:
    """Compute a cell; return False if it is locked by another worker, or deferred.

    If the cell is unlocked but its claim has attempts, the workers of those attempts died while computing it.
    """
    with cell_lock(job.lock_dir, cell.key) as locked:
        if not locked:
            return False
        if job.outcome(cell) is not None:
            return True
        before = job.with_causes(read_claim(job.lock_dir / f"{cell.key}.claim"))
        attempts = before.of_run(job.run_id)
        if len(attempts) >= MAX_ATTEMPTS:
            if not (attempts[-1].cause or _is_old(before.path)):
                return False  # the process that owns the run may not have noticed the death yet
            error: Exception | None = _killed_too_often(attempts)
        else:
            worker.claim = before.started(job.run_id, worker.name)
            try:
                error = _compute(job, cell, worker, partial(on_stage, cell.key), may_wait=may_wait)
            except Deferred:
                before.restore()
                on_stage(cell.key, DEFERRED, 0.0)
                return False
        worker.claim = None
        if error is not None:
            with results_errors(job.results):
                save_failure(job.results, cell.protocol, error)
        Claim(before.path).restore()
        if error is not None and not job.keep_going:
            job.stop()
        return True


def _is_old(claim: Path) -> bool:
    with results_errors(claim):
        return time.time() - claim.stat().st_mtime > CAUSE_SECONDS


def _killed_too_often(attempts: tuple[Attempt, ...]) -> TrainingError:
    causes = dict.fromkeys(attempt.cause or UNKNOWN_CAUSE for attempt in attempts)
    return TrainingError(
        f"the worker of this cell ended {len(attempts)} times before the cell was finished: {'; '.join(causes)}. If "
        "memory is short, use fewer --workers or a smaller --window; if time is, a longer time limit. Run again."
    )


def _compute(
    job: Job, cell: Cell, worker: Worker, progress: Callable[[str, float], None], *, may_wait: bool
) -> Exception | None:
    """Compute and save a cell's record; return the error if that fails."""

    def wait(reason: str) -> None:
        if not may_wait:
            raise Deferred
        progress(f"waiting for {reason}", 0.0)

    progress("start", 0.0)
    try:
        record = _cell_function(job.compute)(cell, job.execution, job.results, progress, wait)
    except Deferred:
        raise
    except Exception as error:  # every error of a cell goes into its failure record, with traceback
        if worker.claim is not None and worker.claim.attempts[-1].cause:
            raise  # raised by the signal handler that interrupted the cell
        _check_usable(job)
        if isinstance(error, OSError) and _lies_within(error.filename, job.results):
            with results_errors(job.results):
                raise
        return error
    try:
        with results_errors(job.results):
            save_record(job.results, record)
    except RecordError as error:  # a defect of the cell's function
        _check_usable(job)
        return error
    return None


def _check_usable(job: Job) -> None:
    """Raise a `BenchError` if the results folder is the reason of a cell's error."""
    job.check_folder()
    for name in ("work", "records", "failures", "logs", "models"):
        folder = job.results / name
        with results_errors(folder):
            if folder.exists() and not folder.is_dir():
                raise BenchError(
                    f"{folder}: expected a folder, which this run needs. Move the file away, and run the command again."
                )


def _lies_within(path: object, folder: Path) -> bool:
    return isinstance(path, str | os.PathLike) and Path(path).absolute().is_relative_to(folder.absolute())


def _import_cell_function(job: Job) -> None:
    """Import the code that computes cells before a cell is taken, which may take longer than a cell.

    Errors are left to the first cell, whose failure record has the traceback.
    """
    with garbage_kept(), suppress(Exception):
        if not job.runs_code_of_users:
            import_core_metrics()
    with garbage_kept(), suppress(Exception):
        _cell_function(job.compute)


def _cell_function(address: str) -> CellFunction:
    module, _, name = address.partition(":")
    try:
        return cast(CellFunction, getattr(importlib.import_module(module), name))
    except AttributeError as error:
        raise ConfigError(f"{address} does not exist; expected module:function of a cell function") from error
