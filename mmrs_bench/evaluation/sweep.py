"""Sweeps: accuracy over the diffusion timestep and the network block of a method's features.

A sweep works for any method with the settings ``timestep`` and ``block``. It scores query labels at every point, so
it must not be used to choose the settings of a reported result: its records lie in a folder of their own, unranked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from mmrs_bench.config import ExecutionConfig, ProtocolConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.report.curves import add_title, file_stem, line_style, style_axes
from mmrs_bench.evaluation.report.statistics import summarise
from mmrs_bench.evaluation.report.tables import Column, Estimate, Section, Table, Value
from mmrs_bench.evaluation.results.metrics import METRICS, metric_value
from mmrs_bench.evaluation.results.records import load_record, load_records, record_path, save_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.results.signature import signature, signature_fields
from mmrs_bench.io import write_csv
from mmrs_bench.methods.base import Progress, RunContext, method_class
from mmrs_bench.methods.catalogue import method_cards
from mmrs_bench.methods.setting_files import usable_config
from mmrs_bench.scenes.catalogue import load_manifest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The varied settings.
SETTINGS = ("timestep", "block")
#: Part of every file, table and figure of a sweep.
NOTE = "scores query labels: for analysis, never for choosing the settings of a reported run"

#: Metrics in a sweep's file.
ROW_METRICS = ("oa", "aa", "kappa")
COLUMNS = (
    Column("block", "Block", "number"),
    Column("timestep", "Timestep", "number"),
    *(Column(name, f"{METRICS[name].title} %", "estimate") for name in ROW_METRICS),
    Column("draws", "Draws", "number"),
)

_ADVICE = "correct the line, or move the file away to compute its points again"

#: Called with the number of a point, its cell, the name of a stage, and the share of the stage that is done.
PointListener = Callable[[int, Cell, str, float], None]


def sweep_cells(
    suite: Suite, timesteps: Sequence[int], blocks: Sequence[int], *, fetch: Callable[[str], object] | None = None
) -> list[Cell]:
    """The points of a sweep on every draw, as cells; the draw varies slowest. For ``fetch`` see `build_cells`.

    Raises:
        ConfigError: If the suite has several methods, scenes, splits, shots or seeds, or the method lacks a setting.
        BenchError: As `mmrs_bench.evaluation.cells.build_cells`.
    """
    cells = build_cells(suite, fetch=fetch)
    curves = len(cells) // suite.draws
    if curves != 1:
        raise ConfigError(
            f"a sweep shows one method on one scene, and these options describe {curves} combinations; give one "
            "--dataset, --split, --shots, --method and --seed"
        )
    missing = [name for name in SETTINGS if name not in cells[0].protocol.method_config]
    if missing:
        able = [card.name for card in method_cards().values() if set(SETTINGS) <= set(card.config)]
        raise ConfigError(
            f"method {cells[0].protocol.method!r} has no setting {' and '.join(missing)}, and a sweep varies "
            f"{' and '.join(SETTINGS)}; methods that have both: {', '.join(able) or 'none'}"
        )
    return [
        _at(cell, block=block, timestep=timestep)
        for cell in cells
        for block in sorted(set(blocks))
        for timestep in sorted(set(timesteps))
    ]


def _at(cell: Cell, **settings: int) -> Cell:
    # Not a copy: it would keep the cached key of the old settings.
    fields = cell.protocol.model_dump()
    fields["method_config"] |= settings
    return Cell(cell.dataset, ProtocolConfig.model_validate(fields), cell.card_path)


def sweep_path(cells: Sequence[Cell], folder: Path) -> Path:
    """``sweep-<scene>-<method>-<split>-<shots>-....csv`` in a folder: sweeps of other protocols have other files."""
    protocol = cells[0].protocol
    fields = {name: value for name, value in signature_fields(protocol).items() if name not in ("scene", "sel")}
    fields |= {"seed": str(protocol.seed)} if protocol.seed else {}
    return folder / f"{file_stem('sweep', protocol.scene, cells[0].method_label, fields=fields)}.csv"


def run_sweep(
    cells: Sequence[Cell], folder: Path, execution: ExecutionConfig, listener: PointListener
) -> dict[str, Record]:
    """Compute the points that have no record in the folder of the sweep; each is stored before the next one starts.

    Args:
        cells: Result of `sweep_cells`.
        folder: Folder of records, locks and logs; never a results folder.
        execution: How to compute them.
        listener: Callback for progress.

    Returns:
        The records of the given cells by key. They are marked as unranked.

    Raises:
        ConfigError: If the folder has other records.
        RecordError: If a record is damaged.
        BenchError: If a point cannot be computed; settings are checked before the first one.
    """
    if any(record.unranked != NOTE for record in load_records(folder)):
        raise ConfigError(
            f"--out {folder}: contains results of runs, which a sweep would mix with its own; give another"
        )
    missing = [cell for cell in cells if not record_path(folder, cell.protocol).exists()]
    _check_settings(missing, folder)
    for number, cell in enumerate(cells, 1):
        if cell in missing:
            _compute(cell, folder, execution, partial(listener, number, cell))
    return {cell.key: load_record(record_path(folder, cell.protocol)) for cell in cells}


def _check_settings(cells: Sequence[Cell], folder: Path) -> None:
    """Refuse invalid settings before any point is computed."""
    for cell in cells:
        protocol = cell.protocol
        context = RunContext(seed=protocol.seed, draw=protocol.data.draw, work_dir=folder)
        config = usable_config(protocol.method_config, cell.card_path or protocol.method)
        method_class(cell.card)(config, context)


def _compute(cell: Cell, folder: Path, execution: ExecutionConfig, progress: Progress) -> None:
    from mmrs_bench.evaluation.run.runner import run_cell

    locks = folder / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{cell.key}.lock"):  # two simultaneous sweeps compute a common point once
        if not record_path(folder, cell.protocol).exists():
            record = run_cell(cell, execution, folder, progress)
            save_record(folder, record.model_copy(update={"unranked": NOTE}))


def write_rows(cells: Sequence[Cell], records: Mapping[str, Record], path: Path) -> None:
    """Write one line per point and draw as CSV: settings, metrics as fractions, query pixels, signature and note."""
    names = ("key", "method", "seed", "draw", *SETTINGS, *ROW_METRICS, "n_query", "simulated", "signature", "note")
    rows = []
    for cell in cells:
        record, data = records[cell.key], cell.protocol.data
        settings = [cell.protocol.method_config[name] for name in SETTINGS]
        metrics = [getattr(record.scores, name) for name in ROW_METRICS]
        scene = (record.n_query, record.simulated, record.signature, NOTE)
        rows.append((cell.key, cell.method_label, cell.protocol.seed, data.draw, *settings, *metrics, *scene))
    write_csv(path, names, rows)


def sweep_table(cells: Sequence[Cell], records: Mapping[str, Record]) -> Table:
    """Mean and standard deviation over draws of OA, AA and kappa in percent, with one section per block."""
    first = cells[0].protocol
    lines = _lines(cells, records)
    blocks = sorted({line["block"] for line in lines})  # type: ignore[type-var]
    return Table(
        title=f"{', '.join(_heading(cells))}: accuracy over timesteps",
        columns=COLUMNS,
        sections=tuple(Section("", tuple(line for line in lines if line["block"] == block)) for block in blocks),
        card=(("signature", signature(first, draws=_draws(cells))),),
        notes=(f"This sweep {NOTE}.",),
    )


def _lines(cells: Sequence[Cell], records: Mapping[str, Record]) -> list[dict[str, Value]]:
    points: dict[tuple[int, int], list[Record]] = {}
    for cell in cells:
        settings = cell.protocol.method_config
        points.setdefault((settings["block"], settings["timestep"]), []).append(records[cell.key])
    return [
        {
            "block": block,
            "timestep": timestep,
            **{name: _estimate(name, found) for name in ROW_METRICS},
            "draws": len(found),
        }
        for (block, timestep), found in points.items()
    ]


def _estimate(metric: str, records: Sequence[Record]) -> Estimate | None:
    defined = [value for record in records if (value := metric_value(record, metric)) is not None]
    return Estimate.percent(summarise(defined, lowest=METRICS[metric].lowest)) if defined else None


def _draws(cells: Sequence[Cell]) -> int:
    return len({cell.protocol.data.draw for cell in cells})


def _heading(cells: Sequence[Cell]) -> tuple[str, str]:
    """The scene, and the method with its protocol."""
    protocol, manifest = cells[0].protocol, load_manifest(cells[0].dataset)
    simulated = "SIMULATED: " if manifest.simulated else ""
    seed = f", seed {protocol.seed}" if protocol.seed else ""
    data = protocol.data
    how = f"{cells[0].method_label}, {data.split}, {data.shots}-shot, budget {protocol.budget}{seed}"
    return f"{simulated}{manifest.title}", how


def sweep_figure(cells: Sequence[Cell], records: Mapping[str, Record]) -> Figure:
    """OA in percent over the timestep, with one line per block and the standard deviation over draws as error bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    sections = sweep_table(cells, records).sections
    timesteps = sorted({cell.protocol.method_config["timestep"] for cell in cells})
    for number, section in enumerate(sections):
        estimates = [line["oa"] for line in section.rows]
        # Small shifts between blocks keep their error bars apart.
        shift = 0.005 * (timesteps[-1] - timesteps[0]) * (number - (len(sections) - 1) / 2)
        axes.errorbar(
            [timestep + shift for timestep in timesteps],
            [estimate.mean for estimate in estimates if isinstance(estimate, Estimate)],
            yerr=[estimate.sd or 0.0 for estimate in estimates if isinstance(estimate, Estimate)],
            label=f"block {section.rows[0]['block']}",
            **line_style(number),
        )
    draws = _draws(cells)
    spread = f"mean ± sd of {draws} draws" if draws > 1 else "one draw"
    axes.set_xticks(timesteps)
    axes.set_xlabel("timestep")
    scene, how = _heading(cells)
    add_title(figure, f"{scene}\n{how}; {spread}")
    style_axes(figure, axes)
    figure.supxlabel(f"This sweep {NOTE}.", fontsize=7)
    return figure
