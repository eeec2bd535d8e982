"""``run`` and ``plan``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mmrs_bench.commands.output import say, say_columns, table_console
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.results.records import load_failures, load_records, record_path
from mmrs_bench.evaluation.run.executors import ExecutorName, execute, make_pool, usable_cores
from mmrs_bench.evaluation.run.jobs import RUN_CELL, Job, stale_outcomes
from mmrs_bench.evaluation.run.planning import State, make_plan, remaining_seconds
from mmrs_bench.evaluation.run.progress import RunDisplay, duration_text
from mmrs_bench.io import write_text
from mmrs_bench.scenes.catalogue import load_manifest

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def plan(*, results: str, workers: int | None, **suite_options: Any) -> int:
    """Show every cell, its key, its state and how long the rest will take."""
    folder = Path(results).expanduser()
    cells = build_cells(make_suite(suite_options))
    planned = make_plan(folder, cells, load_records(folder))
    rows = [("key", "method", "scene", "split", "shots", "draw", "seed", "state", "estimate")]
    for cell, state, seconds in planned:
        protocol, data = cell.protocol, cell.protocol.data
        estimate = "?" if seconds is None else duration_text(seconds)
        numbers = (str(data.shots), str(data.draw), str(protocol.seed))
        rows.append((cell.key, cell.method_label, protocol.scene, data.split, *numbers, state.value, estimate))
    say_columns(rows)
    count = worker_count(workers, "cpu")
    seconds, unknown = remaining_seconds(planned, count)
    open_cells = sum(state is not State.DONE for _, state, _ in planned)
    text = f"{len(cells)} cells, {len(cells) - open_cells} done, {open_cells} to do"
    if open_cells > unknown:
        text += f": about {duration_text(seconds)} on {count} worker{'s' if count > 1 else ''}"
    if unknown:
        text += f"; no estimate for {unknown} (nothing comparable has been measured in {folder})"
    say(text)
    return 0


def run(
    *,
    results: str,
    workers: int | None,
    device: str,
    precision: str,
    executor: ExecutorName,
    executor_options: Sequence[str],
    keep_going: bool,
    force: bool,
    **suite_options: Any,
) -> int:
    """Compute all cells that have no record yet, then show the leaderboard."""
    folder = Path(results).expanduser()
    cells = build_cells(make_suite(suite_options))
    execution = ExecutionConfig.model_validate({"device": device, "precision": precision})
    status = run_cells(
        cells,
        folder,
        execution,
        workers=worker_count(workers, device),
        executor=executor,
        executor_options=parse_options(executor_options),
        keep_going=keep_going,
        force=force,
    )
    if status != EXIT_INTERRUPTED:
        show_tables(cells, folder)
    return status


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


def make_suite(options: dict[str, Any]) -> Suite:
    """The suite that command-line options describe."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
    return Suite(**values)


def worker_count(workers: int | None, device: str) -> int:
    """The number of workers: as asked for, else one per usable core, on a GPU one.

    Raises:
        ConfigError: If fewer than one was asked for.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers {workers}: somebody has to do the work; give --workers 1 or more")
    return workers or (usable_cores() if device == "cpu" else 1)


def parse_options(texts: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as a dictionary.

    Raises:
        ConfigError: If a text has no ``=``.
    """
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ConfigError(f"executor option {text!r}: write it as NAME=VALUE, e.g. slurm_partition=gpu")
        options[name] = value
    return options


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


def show_tables(cells: Iterable[Cell], results: Path) -> None:
    """Print the leaderboard of some cells; `mmrs-bench leaderboard` shows all that is in the folder."""
    from mmrs_bench.evaluation.report.leaderboard import build_leaderboard
    from mmrs_bench.evaluation.report.render import print_tables
    from mmrs_bench.evaluation.report.reported import load_reported

    keys = {cell.key for cell in cells}
    records = [record for record in load_records(results) if record.key in keys]
    failures = [failure for failure in load_failures(results) if failure.key in keys]
    print_tables(build_leaderboard(records, failures, load_reported()), table_console())
