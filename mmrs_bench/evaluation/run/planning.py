"""Plans: the state of each cell of a suite, and the expected time of the cells that remain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from mmrs_bench.config import QUERY_LIMITS, ProtocolConfig
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import failure_path, record_path
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.claims import cell_lock
from mmrs_bench.scenes.catalogue import load_manifest


class State(StrEnum):
    """State of a cell; ``FAILED`` means that its last run failed."""

    DONE = "done"
    FAILED = "failed"
    RUNNING = "running"
    TO_DO = "to do"


class PlannedCell(NamedTuple):
    """A cell with its state and expected seconds; None if no similar cell has a record."""

    cell: Cell
    state: State
    seconds: float | None


def state_of(results: Path, cell: Cell) -> State:
    """State of a cell in a results folder; ``RUNNING`` if any process computes it."""
    if record_path(results, cell.protocol).exists():
        return State.DONE
    lock_dir = results / "locks"
    if (lock_dir / f"{cell.key}.lock").exists():
        with cell_lock(lock_dir, cell.key) as free:
            if not free:
                return State.RUNNING
    return State.FAILED if failure_path(results, cell.protocol).exists() else State.TO_DO


def make_plan(results: Path, cells: Iterable[Cell], records: Sequence[Record]) -> list[PlannedCell]:
    """State and expected time of every cell; the estimates are based on the times of ``records``."""
    similar: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        similar[_kind(record.protocol)].append(record)
    estimates: dict[tuple[str, ...], float | None] = {}
    plan = []
    for cell in cells:
        kind = _kind(cell.protocol)
        key = (cell.dataset, *kind, str(cell.protocol.data.shots))
        if key not in estimates:
            estimates[key] = _estimate(cell, similar.get(kind, []))
        plan.append(PlannedCell(cell, state_of(results, cell), estimates[key]))
    return plan


def remaining_seconds(plan: Iterable[PlannedCell], workers: int) -> tuple[float, int]:
    """Expected wall-clock seconds of all unfinished cells, and the number of cells without an estimate."""
    open_cells = [planned.seconds for planned in plan if planned.state is not State.DONE]
    known = [seconds for seconds in open_cells if seconds is not None]
    return sum(known) / workers, len(open_cells) - len(known)


def _kind(protocol: ProtocolConfig) -> tuple[str, str, str]:
    return protocol.method, protocol.variant, protocol.budget


def _estimate(cell: Cell, records: list[Record]) -> float | None:
    """Mean seconds of the records of the same scene, if any, and the same shots, if any.

    The time of a record of another scene is scaled by the number of scored pixels.
    """
    if not records:
        return None
    fingerprint, shots = cell.protocol.scene_fingerprint, cell.protocol.data.shots
    records = _prefer(records, lambda record: record.protocol.scene_fingerprint == fingerprint)
    records = _prefer(records, lambda record: record.protocol.data.shots == shots)
    if records[0].protocol.scene_fingerprint == fingerprint:
        return fmean(sum(record.measured.seconds.values()) for record in records)
    pixels = expected_queries(cell)
    if pixels is None:
        return None
    return pixels * fmean(sum(record.measured.seconds.values()) / record.n_query for record in records)


def _prefer(records: list[Record], condition: Callable[[Record], bool]) -> list[Record]:
    return [record for record in records if condition(record)] or records


def expected_queries(cell: Cell) -> int | None:
    """Number of pixels that will be scored, from the manifest's class counts; None if it has none."""
    counts = [scene_class.count for scene_class in load_manifest(cell.dataset).classes]
    if None in counts:
        return None
    total = sum(count for count in counts if count is not None) - cell.protocol.data.shots * len(counts)
    limit = QUERY_LIMITS[cell.protocol.budget]
    return total if limit is None else min(total, limit)
