"""Jobs: the cells of one run, which several workers share through one results folder.

There is no scheduler. A worker repeatedly takes the first cell that has no outcome and no lock. The operating system
releases a lock when its process dies, so a killed run leaves nothing to clean up, and two runs share the work.
"""

from __future__ import annotations

import importlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError, Deferred, TrainingError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import failure_path, record_path, save_failure, save_record
from mmrs_bench.evaluation.results.schema import Record

#: Called with a cell's key, the name of a stage and the share of the stage that is done, in [0, 1].
StageListener = Callable[[str, str, float], None]
#: Computes a cell's record from (cell, execution, results folder, progress, wait); for the last two see
#: `mmrs_bench.methods.base.RunContext`.
CellFunction = Callable[[Cell, ExecutionConfig, Path, Callable[[str, float], None], Callable[[str], None]], Record]

RUN_CELL = "mmrs_bench.evaluation.run.runner:run_cell"

#: Seconds that a worker sleeps when other workers compute all remaining cells.
WAIT_SECONDS = 0.2

WORKER_DIED = (
    "the process that computed this cell died before it could finish, most likely killed for lack of memory; "
    "run again with fewer --workers or a smaller --window"
)


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
    def _stop_file(self) -> Path:
        return self.lock_dir / f"{self.run_id}.stop"

    def stop(self) -> None:
        """Prevent all workers of this run from taking another cell."""
        self._stop_file.touch()

    @property
    def stopped(self) -> bool:
        """Whether any worker called `stop`."""
        return self._stop_file.exists()

    def clean_up(self) -> None:
        """Remove the files that only this run needs."""
        self._stop_file.unlink(missing_ok=True)

    def outcome(self, cell: Cell) -> Path | None:
        """Path of the cell's record, or of its failure record of this run, or None."""
        for path in (record_path(self.results, cell.protocol), failure_path(self.results, cell.protocol)):
            modified = _modification_time(path)
            if modified is not None and modified != self.stale.get(str(path)):
                return path
        return None


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
    try:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextmanager
def cell_lock(lock_dir: Path, key: str) -> Iterator[bool]:
    """Try to lock a cell without waiting, and yield whether it worked. The lock ends with the block or the process."""
    lock = FileLock(lock_dir / f"{key}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def work(job: Job, on_stage: StageListener, worker: int = 0) -> None:
    """Compute cells until every cell of the job has an outcome, or the job is stopped.

    A cell that has to wait for another process is deferred until no other cell is left to compute.

    Workers with different numbers start with different scenes, because each keeps the scene that it loaded.

    Raises:
        BenchError: If an outcome cannot be written.
    """
    pending = _in_scene_order(job.cells, worker)
    may_wait = False
    while pending:
        remaining = []
        for cell in pending:
            if job.stopped:
                return
            if job.outcome(cell) is None and not _try_cell(job, cell, on_stage, may_wait=may_wait):
                remaining.append(cell)
        may_wait = len(remaining) == len(pending)
        if may_wait:
            time.sleep(WAIT_SECONDS)
        pending = remaining


def _in_scene_order(cells: Iterable[Cell], first: int) -> list[Cell]:
    scenes: dict[str, list[Cell]] = {}
    for cell in cells:
        scenes.setdefault(cell.protocol.scene_fingerprint, []).append(cell)
    groups = list(scenes.values())
    first %= max(len(groups), 1)
    return [cell for group in groups[first:] + groups[:first] for cell in group]


def _try_cell(job: Job, cell: Cell, on_stage: StageListener, *, may_wait: bool) -> bool:
    """Compute a cell; return False if it is locked by another worker, or deferred.

    A claim file contains the run that started the cell. If the cell is unlocked but claimed by this run, a worker of
    this run died while computing it. The cell then fails, so that it does not kill one worker after the other.
    """
    with cell_lock(job.lock_dir, cell.key) as locked:
        if not locked:
            return False
        if job.outcome(cell) is not None:
            return True
        claim = job.lock_dir / f"{cell.key}.claim"
        error: Exception | None
        if claim.is_file() and claim.read_text() == job.run_id:
            error = TrainingError(WORKER_DIED)
        else:
            claim.write_text(job.run_id)
            try:
                error = _compute(job, cell, partial(on_stage, cell.key), may_wait=may_wait)
            except Deferred:
                claim.unlink()
                return False
        if error is not None:
            save_failure(job.results, cell.protocol, error)
        claim.unlink()
        if error is not None and not job.keep_going:
            job.stop()
        return True


def _compute(job: Job, cell: Cell, progress: Callable[[str, float], None], *, may_wait: bool) -> Exception | None:
    """Compute and save a cell's record; return the error if that fails."""

    def wait(reason: str) -> None:
        progress(f"waiting for {reason}", 0.0)
        if not may_wait:
            raise Deferred

    progress("start", 0.0)
    try:
        save_record(job.results, _cell_function(job.compute)(cell, job.execution, job.results, progress, wait))
    except Deferred:
        raise
    except Exception as error:  # noqa: BLE001 - every error of a cell goes into its failure record, with traceback
        return error
    return None


def _cell_function(address: str) -> CellFunction:
    module, _, name = address.partition(":")
    try:
        return cast(CellFunction, getattr(importlib.import_module(module), name))
    except AttributeError as error:
        raise ConfigError(f"{address} does not exist; expected module:function of a cell function") from error
