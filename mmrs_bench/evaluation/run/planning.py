"""Plans: what state each cell of a suite is in, and how long the rest will take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from mmrs_bench.config import QUERY_LIMITS
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import failure_path, record_path
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.jobs import cell_lock
from mmrs_bench.scenes.catalogue import load_manifest


class State(StrEnum):
    """What there is to know about a cell without computing it."""

    DONE = "done"
    FAILED = "failed"
    RUNNING = "running"
    TO_DO = "to do"


class PlannedCell(NamedTuple):
    """A cell with its state and its expected seconds (None where nothing comparable has been measured)."""

    cell: Cell
    state: State
    seconds: float | None


def state_of(results: Path, cell: Cell) -> State:
    """State of a cell: finished, being computed by any process, failed in its last run, or still to do."""
    if record_path(results, cell.protocol).exists():
        return State.DONE
    lock_dir = results / "locks"
    if (lock_dir / f"{cell.key}.lock").exists():
        with cell_lock(lock_dir, cell.key) as free:
            if not free:
                return State.RUNNING
    return State.FAILED if failure_path(results, cell.protocol).exists() else State.TO_DO


def make_plan(results: Path, cells: Iterable[Cell], records: Sequence[Record]) -> list[PlannedCell]:
    """State and estimate of every cell.

    Args:
        results: The results folder.
        cells: The cells.
        records: All records of the folder; estimates come from their clock readings.
    """
    estimate = _Estimator(records)
    return [PlannedCell(cell, state_of(results, cell), estimate(cell)) for cell in cells]


def remaining_seconds(plan: Iterable[PlannedCell], workers: int) -> tuple[float, int]:
    """Expected wall-clock seconds of all unfinished cells on so many workers, and how many have no estimate."""
    open_cells = [planned.seconds for planned in plan if planned.state is not State.DONE]
    known = [seconds for seconds in open_cells if seconds is not None]
    return sum(known) / workers, len(open_cells) - len(known)


class _Estimator:
    """Mean seconds of the finished cells that resemble a cell most.

    Alike in method, variant and budget; then, while any such record exists, also in scene, and in shots. A record of
    another scene is scaled by the number of scored pixels.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._alike: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
        for record in records:
            protocol = record.protocol
            self._alike[protocol.method, protocol.variant, protocol.budget].append(record)
        self._known: dict[tuple[str, ...], float | None] = {}

    def __call__(self, cell: Cell) -> float | None:
        wanted = cell.protocol
        kind = (cell.dataset, wanted.method, wanted.variant, wanted.budget, str(wanted.data.shots))
        if kind not in self._known:
            self._known[kind] = self._estimate(cell)
        return self._known[kind]

    def _estimate(self, cell: Cell) -> float | None:
        wanted = cell.protocol
        alike = self._alike.get((wanted.method, wanted.variant, wanted.budget))
        if not alike:
            return None
        alike = _narrow(alike, lambda record: record.protocol.scene_fingerprint == wanted.scene_fingerprint)
        alike = _narrow(alike, lambda record: record.protocol.data.shots == wanted.data.shots)
        if alike[0].protocol.scene_fingerprint == wanted.scene_fingerprint:
            return fmean(sum(record.measured.seconds.values()) for record in alike)
        pixels = expected_queries(cell)
        if pixels is None:
            return None
        return pixels * fmean(sum(record.measured.seconds.values()) / record.n_query for record in alike)


def _narrow(records: list[Record], fits: Callable[[Record], bool]) -> list[Record]:
    return [record for record in records if fits(record)] or records


def expected_queries(cell: Cell) -> int | None:
    """Pixels that will be scored, as the manifest's class counts and the budget tell; None without counts."""
    counts = [scene_class.count for scene_class in load_manifest(cell.dataset).classes]
    if None in counts:
        return None
    total = sum(count for count in counts if count is not None) - cell.protocol.data.shots * len(counts)
    limit = QUERY_LIMITS[cell.protocol.budget]
    return total if limit is None else min(total, limit)
