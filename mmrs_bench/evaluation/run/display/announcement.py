"""The plan of a run in its lock folder, for `mmrs_bench.evaluation.run.display.watch` in other processes.

The run's process holds a lock while it lives; the operating system releases it when the process dies. The run removes
the plan when it ends. The plan of a detached run names its Slurm jobs; the worker that computes the last cell removes
it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mmrs_bench.errors import RecordError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import FAILURES, RECORDS, failure_path, names_in, record_path
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.claims import cell_lock, is_locked, remove_quietly
from mmrs_bench.evaluation.run.display.board import ShownCell
from mmrs_bench.evaluation.run.jobs import Job
from mmrs_bench.io import canonical_json, write_text
from mmrs_bench.reading import read_json, validated

PLAN_SUFFIX = ".plan"
_ADVICE = "it may be of another version of mmrs-bench; watch the run with the version that started it"


class PlannedCell(NamedTuple):
    """A cell of a run.

    Attributes:
        cell: What is shown of it.
        pending: Whether the run computes it; otherwise an earlier one did.
        seconds: Expected seconds; None if unknown.
        oa: OA of the record of an earlier run, if it counts.
        stale: Modification times of record and failure record that do not count, in ns; 0 if there is none.
    """

    cell: ShownCell
    pending: bool
    seconds: float | None
    oa: float | None
    stale: tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """What a run computes.

    Attributes:
        started: Seconds since 1970.
        workers: Number of workers.
        cells: All its cells.
        jobs: Slurm jobs of a run whose process has exited; arrays by their id.
    """

    started: float
    workers: int
    cells: tuple[PlannedCell, ...]
    jobs: tuple[str, ...] = ()


def plan_of(
    job: Job, cells: Iterable[Cell], finished: Iterable[Record], seconds: Mapping[str, float | None], workers: int
) -> Plan:
    """The plan of a run.

    Args:
        job: The cells that the run computes.
        cells: All its cells.
        finished: Records of earlier runs that are not computed again.
        seconds: Expected seconds of the cells that it computes.
        workers: Number of workers.
    """
    earlier = {record.key: record.scores.oa for record in finished}

    def stale(path: Path) -> int:
        return job.stale.get(str(path), 0)

    planned = tuple(
        PlannedCell(
            ShownCell.of(cell),
            cell.key not in earlier,
            _rounded(seconds.get(cell.key), 1),
            _rounded(earlier.get(cell.key), 4),
            (stale(record_path(job.results, cell.protocol)), stale(failure_path(job.results, cell.protocol))),
        )
        for cell in cells
    )
    return Plan(time.time(), workers, planned)


@contextmanager
def announced(job: Job, plan: Plan) -> Iterator[None]:
    """Announce a run within a block; plans of dead runs are removed.

    Raises:
        BenchError: If the lock folder cannot be written.
    """
    for other in run_ids(job.lock_dir):
        if not has_owner(job.lock_dir, other) and not jobs_of(job.lock_dir, other):
            _remove(job.lock_dir, other)
    with cell_lock(job.lock_dir, _owner(job.run_id)):
        _write(job, plan)
        try:
            yield
        finally:
            _remove(job.lock_dir, job.run_id)


def announce_detached(job: Job, plan: Plan, jobs: Iterable[str]) -> None:
    """Announce a run whose process exits, with its Slurm jobs.

    Raises:
        BenchError: If the lock folder cannot be written.
    """
    _write(job, replace(plan, jobs=tuple(jobs)))


def _write(job: Job, plan: Plan) -> None:
    write_text(_plan_file(job.lock_dir, job.run_id), canonical_json(vars(plan)))


def jobs_of(lock_dir: Path, run_id: str) -> tuple[str, ...]:
    """The Slurm jobs of a detached run; none if it is another run, or its plan cannot be read."""
    try:
        plan = read_plan(lock_dir, run_id)
    except RecordError:
        return ()
    return plan.jobs if plan else ()


def planned_outcome(results: Path, planned: PlannedCell, names: dict[Path, frozenset[str]]) -> tuple[Path, bool] | None:
    """Path of the outcome of a cell, and whether it failed; None if there is none.

    Args:
        results: Folder of the records.
        planned: The cell.
        names: Keeps the names of files by folder.
    """
    place = planned.cell.place.removeprefix(f"{RECORDS}/")
    for kind, stale in zip((RECORDS, FAILURES), planned.stale, strict=True):
        path = results / kind / place
        if path.parent not in names:
            names[path.parent] = names_in(path.parent)
        if path.name in names[path.parent] and not (stale and _modified(path) in (stale, 0)):
            return path, kind == FAILURES
    return None


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # it was removed meanwhile
        return 0


def _remove(lock_dir: Path, run_id: str) -> None:
    remove_quietly(_plan_file(lock_dir, run_id))
    remove_quietly(lock_dir / f"{_owner(run_id)}.lock")


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _plan_file(lock_dir: Path, run_id: str) -> Path:
    return lock_dir / f"{run_id}{PLAN_SUFFIX}"


def _owner(run_id: str) -> str:
    return f"{run_id}.owner"


def run_ids(lock_dir: Path) -> list[str]:
    """The runs that are announced, those that were killed included."""
    return sorted(name.removesuffix(PLAN_SUFFIX) for name in names_in(lock_dir) if name.endswith(PLAN_SUFFIX))


def has_owner(lock_dir: Path, run_id: str) -> bool:
    """Whether the process that started a run lives."""
    return is_locked(lock_dir, _owner(run_id))


def read_plan(lock_dir: Path, run_id: str) -> Plan | None:
    """The plan of a run; None if it ended meanwhile.

    Raises:
        RecordError: If the file is not a plan.
    """
    path = _plan_file(lock_dir, run_id)
    try:
        fields = read_json(path, error=RecordError, advice=_ADVICE)
        return validated(Plan, fields, where=path, error=RecordError, advice=_ADVICE)
    except RecordError:
        if path.exists():
            raise
        return None
