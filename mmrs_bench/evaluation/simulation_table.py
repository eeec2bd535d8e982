"""Tables of simulated runs on clusters."""

from __future__ import annotations

from collections.abc import Sequence

from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.report.tables import Column, Section, Table, Value
from mmrs_bench.evaluation.results.costs import typical_seconds
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.simulation import START_SECONDS, Outcome, simulate, steps_of

#: Numbers of workers in the table.
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
#: Mean hours until a worker dies.
DEATH_HOURS = 24.0

COLUMNS = (
    Column("workers", "Workers", "number"),
    Column("hours", "Hours", "number", 2),
    Column("efficiency", "Efficiency %", "number", 1),
    Column("node_hours", "Node hours", "number", 1),
    Column("deaths", "Died", "number"),
    Column("failed", "Failed", "number"),
)


def simulated_runs(
    cells: Sequence[Cell], records: Sequence[Record], death_hours: float, seed: int = 0
) -> tuple[list[Outcome], list[Cell]]:
    """Simulated runs on each number of workers, and the cells without times, which they leave out."""
    steps, unknown = steps_of(cells, records)
    hours = death_hours or None
    return [simulate(steps, workers, death_hours=hours, seed=seed) for workers in WORKERS], unknown


def simulation_table(cells: Sequence[Cell], records: Sequence[Record], death_hours: float) -> Table:
    """Time, efficiency and node hours of the cells on 1 to 256 workers.

    Args:
        cells: Cells to compute, in this order.
        records: Finished cells.
        death_hours: Mean hours until a worker dies; 0 if none dies.
    """
    outcomes, unknown = simulated_runs(cells, records, death_hours)
    deaths = (
        f"a worker dies after {death_hours:g} hours on average, and its cell is computed again"
        if death_hours
        else "no worker dies"
    )
    rows = tuple(_row(outcome) for outcome in outcomes)
    return Table(
        title=f"SIMULATED run of {len(cells) - len(unknown):,} cells, budget {cells[0].protocol.budget}",
        columns=COLUMNS,
        sections=(Section("", rows),),
        notes=(
            f"Simulated, not measured: {deaths}; a worker starts in {START_SECONDS:g} s and does not wait in a queue. "
            "Times of cells: records of this folder, else one core of: "
            f"{typical_seconds().processor}.",
            "Efficiency: useful part of the time of all workers until the end. Node hours: time that workers run; one "
            "that finds no cell ends. Failed: cells whose workers died three times.",
            *_left_out(unknown),
        ),
    )


def _row(outcome: Outcome) -> dict[str, Value]:
    return {
        "workers": outcome.workers,
        "hours": outcome.makespan / 3600,
        "efficiency": 100 * outcome.efficiency,
        "node_hours": outcome.held / 3600,
        "deaths": outcome.deaths,
        "failed": outcome.failed,
    }


def _left_out(unknown: Sequence[Cell]) -> list[str]:
    if not unknown:
        return []
    methods = ", ".join(dict.fromkeys(cell.method_label for cell in unknown))
    return [f"Without {len(unknown):,} cells of methods that nobody measured under this budget: {methods}."]
