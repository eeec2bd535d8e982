"""One call that computes cells: checks first, then data, workers and progress."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import load_failures, load_records, record_path
from mmrs_bench.evaluation.run.executors import ExecutorName, execute, make_pool
from mmrs_bench.evaluation.run.jobs import RUN_CELL, Job, stale_outcomes
from mmrs_bench.evaluation.run.pool import usable_cores
from mmrs_bench.evaluation.run.progress import RunDisplay
from mmrs_bench.io import write_text
from mmrs_bench.scenes.catalogue import load_manifest

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def run_cells(
    cells: Sequence[Cell],
    results: Path,
    execution: ExecutionConfig,
    *,
    workers: int,
    executor: ExecutorName = "local",
    executor_options: dict[str, str] | None = None,
    keep_going: bool = False,
    force: bool = False,
    compute: str = RUN_CELL,
) -> int:
    """Compute what is missing among some cells, with progress on standard error.

    Returns:
        0 if every cell has a record, 1 if cells failed, 130 after Ctrl-C.

    Raises:
        BenchError: If the results folder cannot be used, data cannot be had, or workers cannot run.
    """
    check_writable(results)
    load_records(results)
    load_failures(results)
    pending = [cell for cell in cells if force or not record_path(results, cell.protocol).exists()]
    console = Console(stderr=True)
    display = RunDisplay({cell.key: cell for cell in cells}, len(cells) - len(pending), results, console)
    if not pending:
        display.line(f"all {len(cells)} cells are done; nothing to compute (--force computes them again)")
        return 0
    job = Job(
        results=results,
        cells=tuple(pending),
        execution=execution,
        keep_going=keep_going,
        stale=stale_outcomes(results, pending, force=force),
        compute=compute,
    )
    pool = make_pool(executor, job, workers, executor_options or {})
    try:
        provide_data(pending, display)
        with display:
            execute(job, pool, on_stage=display.on_stage, on_outcome=display.on_outcome)
    except KeyboardInterrupt:
        # Counted anew: the interrupt may have come between a record and its line.
        left = sum(job.outcome(cell) != record_path(results, cell.protocol) for cell in pending)
        display.line(f"stopped: {len(cells) - left} of {len(cells)} cells are done; the same command goes on from here")
        return EXIT_INTERRUPTED
    if display.done == len(cells):
        return 0
    hint = "" if keep_going else "; --keep-going computes the others first"
    display.line(
        f"{display.done} of {len(cells)} cells are done, {display.failed} failed; the same command tries again{hint}"
    )
    return EXIT_FAILED


def worker_count(workers: int | None, device: str) -> int:
    """The number of workers: as asked for, else one per usable core, on a GPU one.

    Raises:
        ConfigError: If fewer than one was asked for.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers {workers}: somebody has to do the work; give --workers 1 or more")
    return workers or (usable_cores() if device == "cpu" else 1)


def check_writable(results: Path) -> None:
    """Fail before the first cell rather than after it.

    Raises:
        BenchError: If the results folder cannot be written.
    """
    probe = results / "locks" / "writable"
    write_text(probe, "")


def provide_data(cells: Iterable[Cell], display: RunDisplay) -> None:
    """Fetch and verify, once and before any worker starts, the files of all real scenes among some cells.

    Raises:
        FetchError: If files are missing and cannot be fetched.
        DataError: If files disagree with the manifest.
    """
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        manifest = load_manifest(dataset)
        if not manifest.simulated:
            from mmrs_bench.scenes.files.fetch import ensure_files

            ensure_files(manifest, progress=display.line)
