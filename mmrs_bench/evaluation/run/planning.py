"""Plans: the state of each cell of a suite, the order of cells, and the expected time of those that remain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.costs import Cost, CostModel, assumed_seconds, pretraining_group, typical_seconds
from mmrs_bench.evaluation.results.records import Listing, names_in
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.claims import is_locked
from mmrs_bench.evaluation.run.jobs import draw_blocks
from mmrs_bench.texts import rough_duration


class State(StrEnum):
    """State of a cell; ``FAILED`` means that its last run failed."""

    DONE = "done"
    FAILED = "failed"
    RUNNING = "running"
    TO_DO = "to do"


class PlannedCell(NamedTuple):
    """A cell with its state and expected seconds; None if no similar cell was measured."""

    cell: Cell
    state: State
    seconds: float | None


def states_of(results: Path, cells: Iterable[Cell]) -> list[State]:
    """State of each cell in a results folder; ``RUNNING`` if any process computes it."""
    listing, lock_dir = Listing(results), results / "locks"
    locks = names_in(lock_dir)
    states = []
    for cell in cells:
        if listing.has_record(cell.protocol):
            states.append(State.DONE)
        elif f"{cell.key}.lock" in locks and is_locked(lock_dir, cell.key):
            states.append(State.RUNNING)
        else:
            states.append(State.FAILED if listing.has_failure(cell.protocol) else State.TO_DO)
    return states


def make_plan(results: Path, cells: Sequence[Cell], records: Sequence[Record]) -> list[PlannedCell]:
    """State and expected time of every cell, see `expected_seconds`; finished cells have no pretraining to do."""
    states = states_of(results, cells)
    to_do = (cell for cell, state in zip(cells, states, strict=True) if state is not State.DONE)
    expected, costs = iter(expected_seconds(to_do, records)), CostModel(records)
    plan = []
    for cell, state in zip(cells, states, strict=True):
        cost = costs.cost(cell) if state is State.DONE else None
        seconds = (cost and cost.own) if state is State.DONE else next(expected)
        plan.append(PlannedCell(cell, state, seconds))
    return plan


def expected_seconds(cells: Iterable[Cell], records: Sequence[Record]) -> list[float | None]:
    """Expected seconds of cells that are computed; None for a cell if no similar one was measured.

    A pretraining counts for the first of the cells that share it, and for none if one of ``records`` shares it.
    """
    costs, pretrained = CostModel(records), _pretrained(records)
    expected: list[float | None] = []
    for cell in cells:
        cost = costs.cost(cell)
        missing = _missing(cell, cost, pretrained)
        expected.append(None if cost is None else cost.own + sum(missing.values()))
        pretrained |= missing.keys()
    return expected


def in_cost_order(cells: Sequence[Cell], records: Sequence[Record]) -> list[Cell]:
    """The cells with the cheap ones first within each draw; the order of the draws is kept.

    A pretraining that is still to do counts for all cells of its first draw that share it, so that they come after the
    others. A cell that nobody measured is put in order by the length of its trainings.
    """
    costs, pretrained = CostModel(records), _pretrained(records)
    blocks, seconds = draw_blocks(cells), {}
    for block in blocks:
        done: set[_Pretraining] = set()
        for cell in block:
            cost = costs.cost(cell)
            missing = _missing(cell, cost, pretrained)
            seconds[cell.key] = cost.own + sum(missing.values()) if cost else assumed_seconds(cell.protocol)
            done |= missing.keys()
        pretrained |= done
    return [cell for block in blocks for cell in sorted(block, key=lambda cell: seconds[cell.key])]


#: A pretraining: the name of its cache entry, and what the cells that share it have in common.
_Pretraining = tuple[str, tuple[object, ...]]


def _pretrained(records: Iterable[Record]) -> set[_Pretraining]:
    return {(name, pretraining_group(r.protocol)) for r in records for name in r.measured.pretraining or ()}


def _missing(cell: Cell, cost: Cost | None, pretrained: set[_Pretraining]) -> dict[_Pretraining, float]:
    """Expected seconds of the pretrainings that a cell uses and that are still to do."""
    if not (cost and cost.pretraining):
        return {}
    group = pretraining_group(cell.protocol)
    return {(name, group): s for name, s in cost.pretraining.items() if (name, group) not in pretrained}


def wall_seconds(seconds: Sequence[float | None], workers: int) -> tuple[float, int]:
    """Wall-clock seconds of cells that workers share, no less than the longest; and how many are unknown."""
    known = [value for value in seconds if value is not None]
    return max([sum(known) / workers, *known], default=0.0), len(seconds) - len(known)


def estimate_text(
    cells: Sequence[Cell], seconds: Sequence[float | None], records: Iterable[Record], workers: int
) -> str:
    """What it will take to compute cells, whose `expected_seconds` are given, in one line.

    For example ``50 cells to compute: about 7 minutes on 2 workers (times of: AMD EPYC 7763)``.
    """
    total, unknown = wall_seconds(seconds, workers)
    count = f"{len(cells)} cell{'s' if len(cells) > 1 else ''} to compute"
    where = f"on {workers} worker{'s' if workers > 1 else ''}"
    if unknown == len(cells):
        return f"{count} {where}; no estimate of the time, because no similar cells were measured"
    costs = CostModel(records)
    shipped = any(known is not None and not costs.measured_here(c) for c, known in zip(cells, seconds, strict=True))
    source = f"times of: {typical_seconds().processor}" if shipped else "times of the records in this folder"
    rest = f"; no estimate for {unknown} of them" if unknown else ""
    return f"{count}: {rough_duration(total)} {where} ({source}){rest}"
