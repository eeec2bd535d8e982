"""``regress``: golden metrics of the simulated scene."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmrs_bench.commands.options import parse_options
from mmrs_bench.commands.output import say, table_console
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells, weightless_methods
from mmrs_bench.evaluation.regression import MIN_REPEATS, load_baselines, update_baselines
from mmrs_bench.evaluation.regression import regress as check_records
from mmrs_bench.evaluation.report.render import print_tables
from mmrs_bench.evaluation.results.provenance import git_state
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.evaluation.run.pool import environment
from mmrs_bench.evaluation.run.session import check_writable, run_cells, worker_count
from mmrs_bench.methods.catalogue import method_cards
from mmrs_bench.paths import CACHE_VARIABLE

#: Draws of the golden cells.
DRAWS = 5


def golden_cells(seeds: tuple[int, ...] = (0,)) -> list[Cell]:
    """What the baselines are about: the cells of a plain ``make bench``, under each method's golden budget."""
    budgets = {name: method_cards()[name].golden_budget for name in weightless_methods()}
    suites = [
        Suite(
            draws=DRAWS, seeds=seeds, budget=budget, methods=tuple(name for name in budgets if budgets[name] == budget)
        )
        for budget in sorted(set(budgets.values()))
    ]
    return [cell for suite in suites for cell in build_cells(suite)]


def regress(
    *,
    results: str,
    update_baselines_file: bool,
    workers: int | None,
    device: str,
    precision: str,
    executor: Any,
    executor_options: list[str],
    keep_going: bool,
) -> int:
    """Compute the golden cells anew and compare them with the baselines, or make new baselines of them.

    Records, pretrainings and features of earlier runs never count, for they may come from other code: the cells run
    on a cache of their own, which goes when they are done.
    """
    if update_baselines_file and git_state().dirty is not False:
        raise ConfigError(
            "baselines are updated in a clean git checkout only, so that they can be traced; commit or stash first"
        )
    baselines = load_baselines()
    if not update_baselines_file:
        check_records((), baselines)  # refuses an empty file now rather than after all cells
    cells = golden_cells(tuple(range(MIN_REPEATS))) if update_baselines_file else golden_cells()
    folder = Path(results).expanduser()
    check_writable(folder)
    own = TemporaryDirectory(prefix="regress-cache-", dir=folder.resolve())
    with own as cache, environment({CACHE_VARIABLE: cache}):
        status = run_cells(
            cells,
            folder,
            ExecutionConfig.model_validate({"device": device, "precision": precision}),
            workers=worker_count(workers, device),
            executor=executor,
            executor_options=parse_options(executor_options),
            keep_going=keep_going,
            force=True,
        )
    if status:
        return status
    keys = {cell.key for cell in cells}
    records = [record for record in load_records(folder) if record.key in keys]
    if update_baselines_file:
        for line in update_baselines(records):
            say(line)
        return 0
    report = check_records(records, baselines)
    print_tables([report.table()], table_console())
    return report.exit_code
