"""Simulated time and efficiency of the full suite on 1 to 256 workers (docs/performance.md).

    python benchmarks/speed/cluster_simulation.py [--budget quick] [--out docs/images/cluster-simulation]

Draws the figure of `mmrs-bench plan --simulate` for several rates at which workers die. Cells whose time nobody
measured under the budget are left out; under `paper`, run it where the typical times of this budget are measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jsonargparse
import yaml
from matplotlib.figure import Figure

from mmrs_bench.config import BudgetName
from mmrs_bench.evaluation.cells import Suite, build_cells
from mmrs_bench.evaluation.report.curves import line_style
from mmrs_bench.evaluation.run.planning import in_cost_order
from mmrs_bench.evaluation.run.simulation import Outcome, simulate, steps_of
from mmrs_bench.evaluation.simulation_table import WORKERS
from mmrs_bench.paths import BENCHMARK_DIR

#: Mean hours until a worker dies; None if none dies.
DEATH_HOURS = (None, 24.0, 1.0, 0.25)


def main(budget: BudgetName = "quick", out: str = "docs/images/cluster-simulation") -> None:
    """Simulate and draw.

    Args:
        budget: Budget of the cells.
        out: The figure's path without its ending.
    """
    options = yaml.safe_load((BENCHMARK_DIR / "suites" / "full.yaml").read_text())
    cells = in_cost_order(build_cells(Suite.of({**options, "budget": budget})), [])
    steps, unknown = steps_of(cells, [])
    runs = {hours: [simulate(steps, w, death_hours=hours) for w in WORKERS] for hours in DEATH_HOURS}
    methods = len({cell.method_label for cell in cells} - {cell.method_label for cell in unknown})
    what = f"SIMULATED: {len(steps):,} cells of {methods} methods, budget {budget}"
    figure(runs, what).savefig(f"{out}.png", dpi=110)
    print(what)
    for hours, outcomes in runs.items():
        for outcome in outcomes:
            print(_name(hours), outcome, f"efficiency {outcome.efficiency:.3f}")


def _name(hours: float | None) -> str:
    return "no worker dies" if hours is None else f"a worker dies after {hours:g} h on average"


def figure(runs: Mapping[float | None, Sequence[Outcome]], title: str) -> Figure:
    """Makespan and efficiency over the number of workers."""
    drawn = Figure(figsize=(10, 4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for number, (hours, outcomes) in enumerate(runs.items()):
        style = {"label": _name(hours), **line_style(number)}
        left.errorbar([o.workers for o in outcomes], [o.makespan / 3600 for o in outcomes], **style)
        right.errorbar([o.workers for o in outcomes], [100 * o.efficiency for o in outcomes], **style)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(WORKERS, [str(workers) for workers in WORKERS])
        axes.set_xlabel("workers")
        axes.grid(alpha=0.3)
    left.set_yscale("log")
    left.set_ylabel("hours until the last cell")
    right.set_ylabel("efficiency in percent")
    right.set_ylim(0, 105)
    right.legend(frameon=False)
    drawn.suptitle(title)
    return drawn


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
