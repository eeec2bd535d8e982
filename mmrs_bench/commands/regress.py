"""``regress``: golden metrics of the simulated scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mmrs_bench.commands.output import say, table_console
from mmrs_bench.commands.run import parse_options, run_cells, worker_count
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Suite, build_cells
from mmrs_bench.evaluation.provenance import git_state
from mmrs_bench.evaluation.records import load_records
from mmrs_bench.evaluation.regression import MIN_REPEATS, load_baselines, update_baselines
from mmrs_bench.evaluation.regression import regress as check_records
from mmrs_bench.evaluation.render import print_tables

#: What the baselines are about: the cells of a plain ``make bench``.
GOLDEN = Suite(draws=5)


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

    Records of earlier runs never count: they may come from other code.
    """
    if update_baselines_file and git_state().dirty is not False:
        raise ConfigError(
            "baselines are updated in a clean git checkout only, so that they can be traced; commit or stash first"
        )
    baselines = load_baselines()
    if not update_baselines_file:
        check_records((), baselines)  # refuses an empty file now rather than after all cells
    suite = replace(GOLDEN, seeds=tuple(range(MIN_REPEATS))) if update_baselines_file else GOLDEN
    cells = build_cells(suite)
    folder = Path(results).expanduser()
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
