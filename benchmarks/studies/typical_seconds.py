"""Typical costs of cells by method and budget, which ``run`` and ``plan`` use where a folder has no records.

    make bench RESULTS=DIR && python benchmarks/studies/typical_seconds.py --results DIR
    python benchmarks/studies/typical_seconds.py --trial paper

Writes the means of all records in DIR, which this machine must have computed on one scene, or what
``mmrs-bench plan --cost`` measures of a budget on the simulated scene at 2 shots, to
``benchmarks/typical_seconds.json``, over those of the same method and budget that are there.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import jsonargparse

from mmrs_bench.config import BudgetName, ExecutionConfig
from mmrs_bench.doctor.machine import processor
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.results.costs import (
    TYPICAL_FILE,
    TypicalCost,
    TypicalSeconds,
    expected_queries,
    short_names,
    typical_costs,
    typical_seconds,
)
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.evaluation.trial import CellCosts, measure_costs
from mmrs_bench.io import write_json


def main(results: str | None = None, trial: BudgetName | None = None, methods: Sequence[str] = ("all",)) -> None:
    """Write the file.

    Args:
        results: Results folder.
        trial: Budget whose cells are measured by short trainings.
        methods: Methods that are measured.
    """
    if results and not trial:
        _add(*_of_records(Path(results)))
    elif trial and not results:
        for cell in build_cells(Suite(methods=tuple(methods), draws=1, budget=trial)):
            if found := _of_trial(cell):
                _add(cell.protocol.scene, found)  # at once: an interrupted study keeps what it has measured
    else:
        raise ConfigError("give either --results DIR or --trial BUDGET")


def _add(scene: str, found: dict[str, dict[BudgetName, TypicalCost]]) -> None:
    """Write the costs over those of the same method and budget that are in the file."""
    known = typical_seconds().seconds if TYPICAL_FILE.exists() else {}
    if known and (typical_seconds().processor, typical_seconds().scene) != (processor(), scene):
        known = {}
    merged = {label: known.get(label, {}) | found.get(label, {}) for label in sorted(known.keys() | found.keys())}
    costs = TypicalSeconds(processor=processor(), scene=scene, seconds=merged)
    write_json(TYPICAL_FILE, costs.model_dump(mode="json", exclude_none=True))
    typical_seconds.cache_clear()
    print(f"{TYPICAL_FILE}: {', '.join(found)}, measured on {processor()}")


def _of_records(results: Path) -> tuple[str, dict[str, dict[BudgetName, TypicalCost]]]:
    records = load_records(results)
    scenes = sorted({record.protocol.scene for record in records})
    hosts = {record.measured.host for record in records}
    if len(scenes) != 1 or hosts != {platform.node()}:
        raise ConfigError(f"{results}: give a folder with records of one scene that this machine computed")
    return scenes[0], typical_costs(records)


def _of_trial(cell: Cell) -> dict[str, dict[BudgetName, TypicalCost]]:
    """The cost of one cell; empty, with a line that says why, if it cannot be measured."""
    (cost,) = measure_costs([cell], ExecutionConfig(), print)
    if cost.fault:
        print(f"not measured: {cell.title}: {cost.fault}")
    return {cell.method_label: {cell.protocol.budget: _typical(cost)}} if cost.measurement else {}


def _typical(cost: CellCosts) -> TypicalCost:
    measurement, n_query = cost.measurement, expected_queries(cost.cells[0])
    assert measurement is not None
    assert n_query is not None
    return TypicalCost(
        own=round(measurement.own, 2),
        predict=round(measurement.predict, 2),
        pretraining=short_names(measurement.pretraining),
        n_query=n_query,
        memory_mib=round(measurement.memory_mib),
    )


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
