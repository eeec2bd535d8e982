"""``sweep``: accuracy over timestep and block of a method's features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mmrs_bench.commands.options import make_execution, make_suite
from mmrs_bench.commands.output import say, say_progress, table_console
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.report.render import print_tables
from mmrs_bench.evaluation.run.preflight import preflight
from mmrs_bench.evaluation.sweep import run_sweep, sweep_cells, sweep_figure, sweep_path, sweep_table, write_rows
from mmrs_bench.io import write_png


def sweep(
    *, timesteps: Sequence[int], blocks: Sequence[int], out: str, device: str, precision: str, **suite_options: Any
) -> int:
    """Score a method at every timestep and block. Points that have a record in OUT are not computed again."""
    cells = sweep_cells(make_suite(suite_options), timesteps, blocks, fetch=say_progress)
    folder = Path(out).expanduser()
    execution = make_execution(device, precision)
    preflight(cells, folder, execution)
    console = Console(stderr=True)
    with console.status("") as status:

        def show(number: int, cell: Cell, stage: str, done: float) -> None:
            settings = cell.protocol.method_config
            point = f"block {settings['block']}, timestep {settings['timestep']}, draw {cell.protocol.data.draw}"
            text = f"{number}/{len(cells)} {point}: {stage}"
            if console.is_terminal:
                status.update(text)
            elif done == 0.0:
                console.print(text, markup=False, highlight=False, soft_wrap=True)

        records = run_sweep(cells, folder, execution, show)
    path = sweep_path(cells, folder)
    figure_path = path.with_suffix(".png")
    write_rows(cells, records, path)
    write_png(figure_path, sweep_figure(cells, records), dpi=200)
    print_tables([sweep_table(cells, records)], table_console())
    say(str(path))
    say(str(figure_path))
    return 0
