"""Compute cells from start to end: checks, data, workers, progress display."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mmrs_bench.config import ExecutionConfig, usable_cores
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.collected import collected_files
from mmrs_bench.evaluation.results.records import load_failures, load_records, record_path
from mmrs_bench.evaluation.run.clusters.detached import SubmittingPool, detached_notes, submit_detached
from mmrs_bench.evaluation.run.clusters.groups import make_groups
from mmrs_bench.evaluation.run.clusters.profile import Profile, read_profile
from mmrs_bench.evaluation.run.display.announcement import announced, plan_of
from mmrs_bench.evaluation.run.display.progress import RunDisplay, make_display
from mmrs_bench.evaluation.run.executors import CLUSTERS, execute, make_pool
from mmrs_bench.evaluation.run.jobs import RUN_AND_SAVE, RUN_CELL, Job, is_done, stale_outcomes
from mmrs_bench.evaluation.run.planning import estimate_text, expected_seconds, in_cost_order, wall_seconds
from mmrs_bench.evaluation.run.preflight import notes_of, preflight
from mmrs_bench.io import write_text
from mmrs_bench.scenes.catalogue import load_manifest

#: A run of fewer cells than workers that will take more seconds than this prints how to use the other cores.
LONG_RUN = 120.0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def check_and_run(
    cells: Sequence[Cell],
    results: Path,
    execution: ExecutionConfig,
    *,
    workers: int | None = None,
    executor: str = "local",
    force: bool = False,
    save_models: bool = False,
    profile: Path | None = None,
    **options: Any,
) -> int:
    """Call `preflight`, then `run_cells` with the default number of workers if ``workers`` is None.

    The cluster of a ``profile`` is the executor.
    """
    read = read_profile(profile) if profile is not None else None
    if read is not None and executor not in ("local", read.executor):
        raise ConfigError(f"--executor {executor}: {profile} is of a {read.executor} cluster; leave --executor out")
    executor = read.executor if read is not None else executor
    options |= {"executor": executor, "force": force, "save_models": save_models, "profile": read}
    count = worker_count(workers, execution.device, execution.devices * execution.threads)
    if options.get("detach") and executor != "slurm":
        raise ConfigError(
            f"--detach: the workers of --executor {executor} end with this process; use --executor slurm, or run the "
            "command inside tmux"
        )
    preflight(cells, results, execution, executor=executor, force=force, save_models=save_models)
    return run_cells(cells, results, execution, workers=count, **options)


def run_cells(
    cells: Sequence[Cell],
    results: Path,
    execution: ExecutionConfig,
    *,
    workers: int,
    executor: str = "local",
    executor_options: Mapping[str, Any] | None = None,
    keep_going: bool = False,
    force: bool = False,
    save_models: bool = False,
    compute: str = "",
    progress: bool = True,
    profile: Profile | None = None,
    detach: bool = False,
) -> int:
    """Compute the cells that have no record (with ``force``, all cells), and show the progress unless it is false.

    With ``save_models``, every cell ends with a model, and cells that have a record but no model are computed again.
    Their records are replaced, so that record and model are of the same training.

    ``keep_going`` and ``compute`` are those of `Job`, ``executor`` is a name in
    `mmrs_bench.evaluation.run.executors.EXECUTORS`, ``profile`` describes its cluster.

    Returns:
        0 if every cell has a record, or after jobs were submitted with ``detach``; 1 if cells failed, 130 after Ctrl-C.

    Raises:
        BenchError: If the results folder cannot be used, data are missing, or workers cannot run.
    """
    check_writable(results)
    records = load_records(results)
    load_failures(results)
    pending = [cell for cell in cells if force or not is_done(results, cell, save_models=save_models)]
    pending, count = in_cost_order(pending, records), max(1, min(workers, len(pending)))
    seconds = expected_seconds(pending, records)
    expected = dict(zip((cell.key for cell in pending), seconds, strict=True))
    by_key = {cell.key: cell for cell in cells}
    finished = [record for record in records if record.key in by_key and record.key not in expected]
    display = make_display(by_key, finished, results, shown=progress, seconds=expected, workers=count)
    if not pending:
        display.line(f"all {len(cells)} cells are done; nothing to compute (--force computes them again)")
        return 0
    stale = stale_outcomes(results, pending, force=force or save_models)
    again = sum(record_path(results, cell.protocol).exists() for cell in pending)
    if again and not force:
        display.line(f"{again} of {len(cells)} cells have a record but no model: they are computed again")
    compute = compute or (RUN_AND_SAVE if save_models else RUN_CELL)
    job = Job(results, tuple(pending), execution, keep_going=keep_going, stale=stale, compute=compute)
    of_cluster: dict[str, Any] = {}
    if executor in CLUSTERS:
        of_cluster = {"groups": make_groups(pending, records, execution.device, profile), "profile": profile}
    if detach:
        of_cluster["detached"] = True
    pool = make_pool(executor, job, workers, executor_options or {}, **of_cluster)
    try:
        provide_data(pending, display)
        for line in (*notes_of(pending).lines, *detached_notes(job.lock_dir)):
            display.line(line)
        display.line(estimate_text(pending, seconds, records, count))
        if executor == "local" and count < workers and wall_seconds(seconds, count)[0] > LONG_RUN:
            for line in free_core_notes(count, execution):
                display.line(line)
        plan = plan_of(job, cells, finished, expected, count)
        if detach:
            return submit_detached(job, cast(SubmittingPool, pool), plan, display.line)
        with announced(job, plan), display:
            execute(job, pool, on_stage=display.on_stage, on_outcome=display.on_outcome)
    except KeyboardInterrupt:
        return _report_interrupt(job, display, len(cells))
    return _report_end(job, display, len(cells))


def _report_interrupt(job: Job, display: RunDisplay, total: int) -> int:
    # Not from the display: the interrupt may have come after a record was written and before it was displayed.
    missing = sum(job.outcome(cell) != record_path(job.results, cell.protocol) for cell in job.cells)
    display.line(f"stopped: {total - missing} of {total} cells are done; run the same command again to continue")
    return EXIT_INTERRUPTED


def _report_end(job: Job, display: RunDisplay, total: int) -> int:
    board = display.board
    if board.done == total:
        return 0
    hint = "" if job.keep_going else "; add --keep-going to compute the others first"
    display.line(
        f"{board.done} of {total} cells are done, {board.failed} failed; run the same command again to retry{hint}"
    )
    return EXIT_FAILED


def worker_count(workers: int | None, device: str, cores: int = 1) -> int:
    """Number of workers: ``workers`` (at least 1), or by default one per ``cores`` usable cores, and one on a GPU."""
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ConfigError(f"workers {workers!r}: at least one worker is needed; give --workers 1 or more")
    return workers or (max(1, usable_cores() // cores) if device == "cpu" else 1)


def free_core_notes(workers: int, execution: ExecutionConfig) -> list[str]:
    """How so many workers on a CPU can use all cores, in one line; none if they do."""
    threads = usable_cores() // (workers * execution.devices)
    if execution.device != "cpu" or threads <= execution.threads:
        return []
    return [
        f"there are more cores than cells: --threads {threads} uses them; it needs pretrainings of its own, and "
        "accuracies differ a little (docs/clusters.md)"
    ]


def check_writable(results: Path) -> None:
    """Raise a `BenchError` if the results folder cannot be written, or has collected records, which no run adds to."""
    if collected := collected_files(results):
        raise ConfigError(
            f"{results}: contains collected records ({collected[0].name}); give --results another folder, and add its "
            f"records afterwards with mmrs-bench collect"
        )
    write_text(results / "locks" / "writable", "")


def provide_data(cells: Iterable[Cell], display: RunDisplay) -> None:
    """Fetch and verify the files of all real scenes; a `DataError` names what is missing or wrong."""
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        manifest = load_manifest(dataset)
        if not manifest.simulated:
            from mmrs_bench.scenes.files.fetch import ensure_files

            ensure_files(manifest, progress=display.line)
