"""``regress``: compare accuracies on the simulated scene with the baselines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmrs_bench.commands.options import compute
from mmrs_bench.commands.output import say, table_console
from mmrs_bench.errors import unknown_name
from mmrs_bench.evaluation import regression
from mmrs_bench.evaluation.cells import ALL_METHODS, Cell, Suite, build_cells
from mmrs_bench.evaluation.report.render import print_tables
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.evaluation.run.pool import environment
from mmrs_bench.evaluation.run.session import EXIT_FAILED, check_writable
from mmrs_bench.methods.catalogue import method_cards, weightless_methods
from mmrs_bench.paths import CACHE_VARIABLE

#: Draws of the cells that have baselines.
DRAWS = 5


def baseline_cells(seeds: tuple[int, ...] = (0,), chosen: Collection[str] = (ALL_METHODS,)) -> list[Cell]:
    """The cells that have baselines: those of ``make bench``, with each method's ``golden_budget``.

    Args:
        seeds: Training seeds.
        chosen: Names of methods, or ``all``.

    Raises:
        ConfigError: If a method is unknown or needs weights, so that it has no baselines.
    """
    names = weightless_methods()
    for name in chosen:
        if name not in (*names, ALL_METHODS):
            raise unknown_name("method with baselines", name, names)
    methods = defaultdict(list)
    for name in names if ALL_METHODS in chosen else dict.fromkeys(chosen):
        methods[method_cards()[name].golden_budget].append(name)
    suites = [
        Suite(draws=DRAWS, seeds=seeds, budget=budget, methods=tuple(methods[budget])) for budget in sorted(methods)
    ]
    return [cell for suite in suites for cell in build_cells(suite)]


def regress(*, methods: Collection[str], results: str, update_baselines: bool, **execution_options: Any) -> int:
    """Compute the cells of some methods that have baselines and compare them with these, or create new baselines.

    Records and caches of earlier runs are not used, because other code may have written them. The run has a temporary
    cache of its own.
    """
    if update_baselines:
        regression.check_traceable()
    cells = baseline_cells(tuple(range(regression.MIN_SEEDS) if update_baselines else (0,)), methods)
    computed = {cell.protocol.method for cell in cells}
    baselines = [b for b in regression.load_baselines() if ALL_METHODS in methods or b.method in computed]
    if not update_baselines:
        regression.regress((), baselines)  # raises if there are no baselines, before any cell is computed
    folder = Path(results).expanduser()
    check_writable(folder)
    temporary = TemporaryDirectory(prefix="regress-cache-", dir=folder.resolve())
    with temporary as cache, environment({CACHE_VARIABLE: cache}):
        status = compute(cells, folder, force=True, **execution_options)
    if status:
        return status
    keys = {cell.key for cell in cells}
    records = [record for record in load_records(folder) if record.key in keys]
    if update_baselines:
        for line in regression.update_baselines(records):
            say(line)
        return 0
    report = regression.regress(records, baselines)
    print_tables([report.table()], table_console())
    return 0 if report.passed else EXIT_FAILED
