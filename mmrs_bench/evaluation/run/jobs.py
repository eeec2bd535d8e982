"""Jobs: the cells of one run, and how any number of workers share them through one results folder.

There is no scheduler. A worker walks over the cells, takes the first one that has no outcome and that nobody has
locked, and goes on until every cell has an outcome. The kernel drops a lock when its process dies, so a run that
was killed leaves nothing to clean up, and two runs on one folder share the work.
"""

from __future__ import annotations

import importlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError, Deferred, TrainingError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import failure_path, record_path, save_failure, save_record
from mmrs_bench.evaluation.results.schema import Record

#: Told a cell's key, a stage's name and the share of the stage that is done, in [0, 1].
StageListener = Callable[[str, str, float], None]
#: Computes one cell's record: (cell, execution, results folder, progress, wait); the last two as in
#: `mmrs_bench.methods.base.RunContext`.
CellFunction = Callable[[Cell, ExecutionConfig, Path, Callable[[str, float], None], Callable[[str], None]], Record]

RUN_CELL = "mmrs_bench.evaluation.run.runner:run_cell"

#: Pause of a worker that finds only cells which others are computing, in seconds.
WAIT_SECONDS = 0.2

DIED = (
    "the process that computed this cell died before it could finish, most likely killed for lack of memory; "
    "run again with fewer --workers or a smaller --window"
)


@dataclass(frozen=True)
class Job:
    """What every worker of a run is given.

    Attributes:
        results: The results folder.
        cells: The cells to be done; cells that have an outcome already are passed over.
        execution: How to compute them.
        keep_going: Whether the other cells are still computed after one has failed.
        stale: Outcome files that do not count, as path -> modification time in ns: failures of earlier runs, which
            are retried, and with ``--force`` the records that are to be replaced.
        compute: ``module:function`` of the `CellFunction`; imported by the workers only.
        run_id: Tells this run from others on the same folder.
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

    @cached_property
    def _stop_file(self) -> Path:
        return self.lock_dir / f"{self.run_id}.stop"

    def stop(self) -> None:
        """Let no worker of this run take another cell."""
        self._stop_file.touch()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called by any worker."""
        return self._stop_file.exists()

    def clean_up(self) -> None:
        """Remove what only this run needed."""
        self._stop_file.unlink(missing_ok=True)

    def outcome(self, cell: Cell) -> Path | None:
        """The cell's record, else its failure of this run, else None."""
        for path in (record_path(self.results, cell.protocol), failure_path(self.results, cell.protocol)):
            stamp = _stamp(path)
            if stamp is not None and stamp != self.stale.get(str(path)):
                return path
        return None


def stale_outcomes(results: Path, cells: Iterable[Cell], *, force: bool) -> dict[str, int]:
    """`Job.stale` at the start of a run: failures, and with ``force`` the records too."""
    stale = {}
    for cell in cells:
        paths = [failure_path(results, cell.protocol)]
        paths += [record_path(results, cell.protocol)] if force else []
        for path in paths:
            stamp = _stamp(path)
            if stamp is not None:
                stale[str(path)] = stamp
    return stale


def _stamp(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextmanager
def cell_lock(lock_dir: Path, key: str) -> Iterator[bool]:
    """Try to lock a cell, without waiting; yields whether it was free. The lock ends with the block or the process."""
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


def work(job: Job, listener: StageListener, worker: int = 0) -> None:
    """Compute cells until every cell of the job has an outcome, or the job is stopped.

    A cell that has to wait for another process is put off until no other cell is left to compute.

    Args:
        job: The job.
        listener: Told how the cell in hand gets on.
        worker: Number of this worker; the workers begin with different scenes where there are several, because each
            keeps the scene it has loaded.

    Raises:
        BenchError: If an outcome cannot be written.
    """
    pending = _in_scene_order(job.cells, worker)
    patient = False
    while pending:
        left = []
        for cell in pending:
            if job.stopped:
                return
            if job.outcome(cell) is None and not _try_cell(job, cell, listener, patient=patient):
                left.append(cell)
        patient = len(left) == len(pending)
        if patient:
            time.sleep(WAIT_SECONDS)
        pending = left


def _in_scene_order(cells: Iterable[Cell], first: int) -> list[Cell]:
    scenes: dict[str, list[Cell]] = {}
    for cell in cells:
        scenes.setdefault(cell.protocol.scene_fingerprint, []).append(cell)
    groups = list(scenes.values())
    first %= max(len(groups), 1)
    return [cell for group in groups[first:] + groups[:first] for cell in group]


def _try_cell(job: Job, cell: Cell, listener: StageListener, *, patient: bool) -> bool:
    """Compute a cell unless another worker has it or, if not ``patient``, something it needs; whether it is done."""
    with cell_lock(job.lock_dir, cell.key) as free:
        if not free:
            return False
        return job.outcome(cell) is not None or _compute(job, cell, listener, patient=patient)


def _compute(job: Job, cell: Cell, listener: StageListener, *, patient: bool) -> bool:
    """Compute a locked cell and write its outcome, unless it is put off; return whether there is an outcome.

    The claim file says which run has begun the cell. Finding one's own run in it under the lock means that a fellow
    worker died on this cell: it then fails, instead of killing one worker after the other.
    """
    claim = job.lock_dir / f"{cell.key}.claim"
    if claim.is_file() and claim.read_text() == job.run_id:
        save_failure(job.results, cell.protocol, TrainingError(DIED))
        done = False
    else:
        claim.write_text(job.run_id)
        try:
            done = _record_or_failure(job, cell, listener, patient=patient)
        except Deferred:
            claim.unlink()
            return False
    claim.unlink()
    if not done and not job.keep_going:
        job.stop()
    return True


def _record_or_failure(job: Job, cell: Cell, listener: StageListener, *, patient: bool) -> bool:
    def progress(stage: str, done: float) -> None:
        listener(cell.key, stage, done)

    def wait(reason: str) -> None:
        listener(cell.key, f"waiting for {reason}", 0.0)
        if not patient:
            raise Deferred

    progress("start", 0.0)
    try:
        save_record(job.results, _cell_function(job.compute)(cell, job.execution, job.results, progress, wait))
    except Deferred:
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one cell is recorded, traceback and all
        save_failure(job.results, cell.protocol, error)
        return False
    return True


def _cell_function(address: str) -> CellFunction:
    module, _, name = address.partition(":")
    try:
        return cast(CellFunction, getattr(importlib.import_module(module), name))
    except AttributeError as error:
        raise ConfigError(f"{address} does not exist; give module:function of a cell function") from error
