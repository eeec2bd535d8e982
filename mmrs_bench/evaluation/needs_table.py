"""What the cells of a suite need on a cluster, by method: GPUs, memory and hours."""

from __future__ import annotations

from collections.abc import Sequence

from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.report.tables import Column, Section, Table, Value
from mmrs_bench.evaluation.results.costs import CostModel, typical_seconds
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.needs import cell_needs
from mmrs_bench.evaluation.run.planning import expected_seconds

COLUMNS = (
    Column("method", "Method", fixed=True),
    Column("cells", "Cells", "number"),
    Column("gpus", "GPU", "number"),
    Column("memory_gb", "GB", "number"),
    Column("seconds", "Seconds", "number", 1),
    Column("hours", "Hours", "number", 2),
)


def needs_table(cells: Sequence[Cell], records: Sequence[Record], device: str) -> Table:
    """What cells need: one row per method.

    Args:
        cells: The cells, in the order in which they are computed.
        records: Finished cells.
        device: ``--device`` of the run.
    """
    costs, seconds = CostModel(records), expected_seconds(cells, records)
    groups: dict[str, list[tuple[Cell, float | None]]] = {}
    for cell, value in zip(cells, seconds, strict=True):
        groups.setdefault(cell.method_label, []).append((cell, value))
    rows = tuple(_row(label, group, costs, device) for label, group in groups.items())
    return Table(
        title=f"needs, budget {cells[0].protocol.budget}, --device {device}",
        columns=COLUMNS,
        sections=(Section("", rows),),
        notes=(
            "GPU: of a worker, by the card of the method. GB: memory of a worker, by the card, else 1.5 times the "
            "measured memory; empty: not measured.",
            "Seconds: of one cell without a shared pretraining. Hours: of all cells; a pretraining counts once, for "
            f"the first method that shares it. By records of this folder, else measured on one core of: "
            f"{typical_seconds().processor}. Empty: not measured.",
        ),
    )


def _row(label: str, group: Sequence[tuple[Cell, float | None]], costs: CostModel, device: str) -> dict[str, Value]:
    needs = [cell_needs(cell, costs, device) for cell, _ in group]
    memory = [need.memory_gb for need in needs if need.memory_gb is not None]
    own = [cost.own for cell, _ in group if (cost := costs.cost(cell))]
    known = [value for _, value in group if value is not None]
    return {
        "method": label,
        "cells": len(group),
        "gpus": max(need.gpus for need in needs),
        "memory_gb": max(memory, default=None),
        "seconds": sum(own) / len(own) if own else None,
        "hours": sum(known) / 3600 if len(known) == len(group) else None,
    }
