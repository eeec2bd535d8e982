"""Sweeps: accuracy over the diffusion timestep and the network block of a method's features.

A sweep works for any method with the settings ``timestep`` and ``block``. It scores query labels at every point, so
it must not be used to choose the settings of a reported result: its rows are not records and are in no leaderboard.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from filelock import FileLock
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mmrs_bench.config import ExecutionConfig, ProtocolConfig
from mmrs_bench.errors import ConfigError, RecordError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.report.curves import line_style, style_axes
from mmrs_bench.evaluation.report.statistics import summarise
from mmrs_bench.evaluation.report.tables import Column, Estimate, Section, Table, Value
from mmrs_bench.evaluation.results.metrics import METRICS
from mmrs_bench.evaluation.results.signature import signature
from mmrs_bench.io import write_csv
from mmrs_bench.methods.base import RunContext, method_class
from mmrs_bench.methods.catalogue import method_cards
from mmrs_bench.reading import validated
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


class SweepRow(BaseModel):
    """One line of a sweep's file: one point on one draw.

    ``key`` is that of the cell with this timestep and block, ``method`` includes the variant. Accuracies are
    fractions; an undefined ``kappa`` is None, and an empty field in the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    key: str
    signature: str
    method: str
    seed: int
    block: int
    timestep: int
    draw: int
    oa: float = Field(ge=0, le=1)
    aa: float = Field(ge=0, le=1)
    kappa: Annotated[float | None, Field(ge=-1, le=1), BeforeValidator(lambda value: None if value == "" else value)]
    n_query: int = Field(ge=1)
    simulated: bool
    note: str


def sweep_cells(suite: Suite, timesteps: Sequence[int], blocks: Sequence[int]) -> list[Cell]:
    """The points of a sweep on every draw, as cells; the draw varies slowest.

    Raises:
        ConfigError: If the suite has several methods, scenes, splits, shots or seeds, or the method lacks a setting.
        BenchError: As `mmrs_bench.evaluation.cells.build_cells`.
    """
    cells = build_cells(suite)
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
    """``sweep-<scene>-<method>.csv`` in a folder; sweeps with other settings add rows to the same file."""
    name = f"sweep-{cells[0].protocol.scene}-{cells[0].method_label}"
    return folder / f"{re.sub(r'[^A-Za-z0-9_+-]', '-', name)}.csv"


def run_sweep(
    cells: Sequence[Cell], folder: Path, execution: ExecutionConfig, listener: PointListener
) -> dict[str, SweepRow]:
    """Compute the points that have no row, and return the rows of all points by key.

    Each row is written to the file before the next point starts.

    Raises:
        RecordError: If the file is damaged, or a row disagrees with the settings of its key.
        BenchError: If a point cannot be computed; settings are checked before the first one.
    """
    path = sweep_path(cells, folder)
    rows = read_rows(path)
    for cell in cells:
        if cell.key in rows and (wrong := _disagreement(rows[cell.key], cell)):
            raise RecordError(_damaged(path, f"row {cell.key} has another {wrong} than the settings of its key"))
    pending = [(number, cell) for number, cell in enumerate(cells, 1) if cell.key not in rows]
    if pending:
        _check_settings([cell for _, cell in pending], folder)
    locks = folder / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    for number, cell in pending:
        # Two simultaneous sweeps compute a common point once.
        with FileLock(locks / f"{cell.key}.lock"):
            rows = read_rows(path)
            if cell.key not in rows:
                rows = _add(path, _compute(cell, execution, folder, partial(listener, number, cell)))
    return {cell.key: rows[cell.key] for cell in cells}


def _check_settings(cells: Sequence[Cell], folder: Path) -> None:
    """Refuse invalid settings before any point is computed."""
    for cell in cells:
        protocol = cell.protocol
        context = RunContext(seed=protocol.seed, draw=protocol.data.draw, work_dir=folder)
        method_class(cell.card)(protocol.method_config, context)


def _compute(cell: Cell, execution: ExecutionConfig, folder: Path, progress: Callable[[str, float], None]) -> SweepRow:
    from mmrs_bench.evaluation.run.runner import run_cell

    record = run_cell(cell, execution, folder, progress)
    return SweepRow(
        **_identity(cell),
        **record.scores.model_dump(include=set(ROW_METRICS)),
        n_query=record.n_query,
        simulated=record.simulated,
        note=NOTE,
    )


def _identity(cell: Cell) -> dict[str, Any]:
    """The fields of a row that do not depend on the result."""
    protocol = cell.protocol
    return {
        "key": cell.key,
        "signature": signature(protocol),
        "method": cell.method_label,
        "seed": protocol.seed,
        "draw": protocol.data.draw,
        **{name: protocol.method_config[name] for name in SETTINGS},
    }


def _disagreement(row: SweepRow, cell: Cell) -> str:
    """The first field in which a row differs from the cell with its key; empty if there is none."""
    return next((name for name, value in _identity(cell).items() if getattr(row, name) != value), "")


def _add(path: Path, row: SweepRow) -> dict[str, SweepRow]:
    """Add a row to the file, which another sweep may have changed, and return all rows."""
    with FileLock(path.parent / "locks" / f"{path.name}.lock"):
        rows = {**read_rows(path), row.key: row}
        write_csv(path, list(SweepRow.model_fields), (list(entry.model_dump().values()) for entry in rows.values()))
    return rows


def read_rows(path: Path) -> dict[str, SweepRow]:
    """The rows of a sweep's file by key; a `RecordError` says which row is incomplete, invalid or repeated."""
    if not path.exists():
        return {}
    rows: dict[str, SweepRow] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames != list(SweepRow.model_fields):
                raise RecordError(_damaged(path, f"its columns are not {', '.join(SweepRow.model_fields)}"))
            for fields in reader:
                where = f"{path}: line {reader.line_num}"
                row = validated(SweepRow, fields, where=where, error=RecordError, advice=_ADVICE)
                if row.key in rows:
                    raise RecordError(f"{where}: row {row.key} occurs twice; {_ADVICE}")
                rows[row.key] = row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(_damaged(path, f"cannot be read ({error})")) from error
    return rows


def _damaged(path: Path, fault: str) -> str:
    return f"{path}: {fault}; {_ADVICE}"


def sweep_table(cells: Sequence[Cell], rows: Mapping[str, SweepRow]) -> Table:
    """Mean and standard deviation over draws of OA, AA and kappa in percent, with one section per block."""
    first = cells[0].protocol
    lines = _lines(cells, rows)
    blocks = sorted({line["block"] for line in lines})  # type: ignore[type-var]
    return Table(
        title=f"{', '.join(_heading(cells))}: accuracy over timesteps",
        columns=COLUMNS,
        sections=tuple(Section("", tuple(line for line in lines if line["block"] == block)) for block in blocks),
        card=(("signature", signature(first, draws=_draws(cells))),),
        notes=(f"This sweep {NOTE}.",),
    )


def _lines(cells: Sequence[Cell], rows: Mapping[str, SweepRow]) -> list[dict[str, Value]]:
    points: dict[tuple[int, int], list[SweepRow]] = {}
    for cell in cells:
        row = rows[cell.key]
        points.setdefault((row.block, row.timestep), []).append(row)
    return [
        {
            "block": block,
            "timestep": timestep,
            **{name: _estimate([getattr(row, name) for row in found]) for name in ROW_METRICS},
            "draws": len(found),
        }
        for (block, timestep), found in points.items()
    ]


def _estimate(values: Sequence[float | None]) -> Estimate | None:
    defined = [value for value in values if value is not None]
    return Estimate.percent(summarise(defined)) if defined else None


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


def sweep_figure(cells: Sequence[Cell], rows: Mapping[str, SweepRow]) -> Figure:
    """OA in percent over the timestep, with one line per block and the standard deviation over draws as error bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    sections = sweep_table(cells, rows).sections
    timesteps = sorted({row.timestep for row in rows.values()})
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
    figure.suptitle(f"{scene}\n{how}; {spread}", fontsize=10)
    style_axes(figure, axes)
    figure.supxlabel(f"This sweep {NOTE}.", fontsize=7)
    return figure
