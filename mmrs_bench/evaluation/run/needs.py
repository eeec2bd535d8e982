"""What workers need for cells: GPUs and memory, from cards and measurements, and hours, from measurements."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from mmrs_bench.config import ResourceSpec
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.costs import CostModel

#: Memory that is asked for, as a multiple of what was measured.
HEADROOM = 1.5
#: Memory in GB is rounded up to one of these, so that few groups of workers result.
MEMORY_STEPS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Needs(NamedTuple):
    """What a worker needs for cells.

    Attributes:
        gpus: Number of GPUs.
        memory_gb: Memory in GB; None if it was neither stated nor measured.
    """

    gpus: int = 0
    memory_gb: float | None = None


def cell_needs(cell: Cell, costs: CostModel, device: str) -> Needs:
    """What a worker needs for a cell.

    The card's memory counts before the measured one. GPUs are those of the card with the device ``auto``; with ``cuda``
    every cell needs one, with ``cpu`` none does.

    Args:
        cell: The cell.
        costs: Measured costs.
        device: ``--device`` of the run.
    """
    stated = cell.card.resources.get(cell.protocol.budget, ResourceSpec())
    gpus = {"cpu": 0, "cuda": max(stated.gpu, 1)}.get(device, stated.gpu)
    return Needs(gpus, stated.memory_gb or _measured_memory(cell, costs))


def _measured_memory(cell: Cell, costs: CostModel) -> float | None:
    cost = costs.cost(cell)
    if cost is None or cost.memory_mib is None:
        return None
    gigabytes = HEADROOM * cost.memory_mib / 1024
    return next((step for step in MEMORY_STEPS if step >= gigabytes), math.ceil(gigabytes))


def worker_hours(seconds: Iterable[float | None], workers: int, *, most: float) -> float:
    """Time limit in hours of workers that share cells, from the expected seconds of the cells.

    It is three times what is expected and a quarter of an hour, and ``most`` if the time of a cell is unknown. A worker
    that needs longer goes back into the queue and continues.
    """
    known = []
    for value in seconds:
        if value is None:
            return most
        known.append(value)
    expected = max([sum(known) / max(workers, 1), *known], default=0.0)
    return min(most, 3 * expected / 3600 + 0.25)
