"""``run``, ``plan`` and ``watch``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrs_bench.commands.options import compute, make_execution, make_suite
from mmrs_bench.commands.output import say, say_columns, say_progress, table_console
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell, build_cells, left_out
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.planning import State, estimate_text, in_cost_order, make_plan, states_of
from mmrs_bench.evaluation.run.preflight import method_faults, notes_of
from mmrs_bench.evaluation.run.session import EXIT_INTERRUPTED, worker_count
from mmrs_bench.texts import duration_text


def plan(
    *,
    results: str,
    workers: int | None,
    cost: bool,
    needs: bool,
    simulate: bool,
    death_hours: float,
    device: str,
    precision: str,
    **suite_options: Any,
) -> int:
    """Show every cell with its key and state, and the expected time of the run.

    With ``cost``, measure the time; with ``needs``, show what workers on clusters need; with ``simulate``, show how
    long the run takes on 1 to 256 workers, each of which dies after ``death_hours`` hours on average.
    """
    folder = Path(results).expanduser()
    suite = make_suite(suite_options)
    cells = build_cells(suite)
    if cost:
        return _show_costs(cells, folder, worker_count(workers, device), make_execution(device, precision))
    records = load_records(folder)
    if needs:
        return _show_needs(cells, records, device)
    if simulate:
        return _show_simulation(cells, records, folder, death_hours)
    planned = make_plan(folder, cells, records)
    rows = [("key", "method", "scene", "split", "shots", "draw", "seed", "state", "estimate")]
    for cell, state, seconds in planned:
        protocol, data = cell.protocol, cell.protocol.data
        estimate = "?" if seconds is None else duration_text(seconds)
        numbers = (str(data.shots), str(data.draw), str(protocol.seed))
        split = f"{data.split} without {'+'.join(data.drop)}" if data.drop else data.split
        rows.append((cell.key, cell.method_label, protocol.scene, split, *numbers, state.value, estimate))
    say_columns(rows)
    to_do = [entry for entry in planned if entry.state is not State.DONE]
    count = min(worker_count(workers, "cpu"), len(to_do))
    say(f"{len(cells)} cells, {len(cells) - len(to_do)} done, {len(to_do)} to do")
    notes = notes_of(cells)
    faults = [*notes.faults, *method_faults([entry.cell for entry in to_do])]
    for line in (*left_out(suite), *notes.lines, *(f"cannot be computed: {fault}" for fault in faults)):
        say(line)
    if to_do:
        say(estimate_text([e.cell for e in to_do], [e.seconds for e in to_do], records, count))
    return 0


def _show_needs(cells: Sequence[Cell], records: Sequence[Record], device: str) -> int:
    """Print what workers need, by method."""
    from mmrs_bench.evaluation.needs_table import needs_table
    from mmrs_bench.evaluation.report.render import print_tables

    print_tables([needs_table(cells, records, device)], table_console())
    return 0


def _show_simulation(cells: Sequence[Cell], records: Sequence[Record], folder: Path, death_hours: float) -> int:
    """Print how long the cells to do take on 1 to 256 workers."""
    from mmrs_bench.evaluation.report.render import print_tables
    from mmrs_bench.evaluation.simulation_table import simulation_table

    if death_hours < 0:
        raise ConfigError(f"death-hours {death_hours:g}: give the mean hours until a worker dies, or 0 if none dies")
    to_do = [cell for cell, state in zip(cells, states_of(folder, cells), strict=True) if state is not State.DONE]
    say(f"{len(cells)} cells, {len(cells) - len(to_do)} done, {len(to_do)} to do")
    if to_do:
        print_tables([simulation_table(in_cost_order(to_do, records), records, death_hours)], table_console())
    return 0


def _show_costs(cells: Sequence[Cell], folder: Path, workers: int, execution: ExecutionConfig) -> int:
    """Print what the cells to do will cost, by method, scene and shots."""
    from mmrs_bench.evaluation.report.render import print_tables
    from mmrs_bench.evaluation.trial import cost_table, measure_costs

    to_do = [cell for cell, state in zip(cells, states_of(folder, cells), strict=True) if state is not State.DONE]
    say(f"{len(cells)} cells, {len(cells) - len(to_do)} done, {len(to_do)} to do")
    if to_do:
        costs = measure_costs(to_do, execution, say_progress)
        print_tables([cost_table(costs, min(workers, len(to_do)))], table_console())
    return 0


def run(
    *,
    results: str,
    workers: int | None,
    device: str,
    precision: str,
    executor: str,
    executor_options: Sequence[str],
    threads: int,
    devices: int,
    logger: Sequence[str],
    trainer: Mapping[str, Any],
    keep_going: bool,
    force: bool,
    save_models: bool,
    profile: str | None,
    detach: bool,
    **suite_options: Any,
) -> int:
    """Compute all cells that have no record, then show the leaderboard; with ``detach``, submit them and end."""
    folder = Path(results).expanduser()
    suite = make_suite(suite_options)
    cells = build_cells(suite, fetch=say_progress)
    for line in left_out(suite):
        say_progress(line)
    status = compute(
        cells,
        folder,
        workers=workers,
        device=device,
        precision=precision,
        executor=executor,
        executor_options=executor_options,
        training={"threads": threads, "devices": devices, "logger": logger, "trainer": trainer},
        keep_going=keep_going,
        force=force,
        save_models=save_models,
        profile=Path(profile).expanduser() if profile else None,
        detach=detach,
    )
    if status != EXIT_INTERRUPTED and not detach:
        _print_leaderboard(cells, folder)
    return status


def watch(*, results: str, once: bool) -> int:
    """Show the progress of a run that another process computes."""
    from mmrs_bench.evaluation.run.display.console import watch_console
    from mmrs_bench.evaluation.run.display.watch import watch as watch_runs

    return watch_runs(Path(results).expanduser(), watch_console(), once=once)


def _print_leaderboard(cells: Iterable[Cell], results: Path) -> None:
    from mmrs_bench.api.results import results_of
    from mmrs_bench.evaluation.report.render import print_tables

    print_tables(results_of(cells, results).leaderboard().tables, table_console())
