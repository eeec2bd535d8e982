"""``leaderboard``, ``report``, ``cite``, ``compare``, ``collect``, ``tables`` and ``map``."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmrs_bench.api.results import load_results
from mmrs_bench.commands.options import make_execution, make_suite
from mmrs_bench.commands.output import say, say_progress, table_console
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell, build_cells
from mmrs_bench.evaluation.class_map import MOST_METHODS, classify_scene, map_name
from mmrs_bench.evaluation.collect import collect
from mmrs_bench.evaluation.doc_tables import update_page
from mmrs_bench.evaluation.report.entries import Group, group_records
from mmrs_bench.evaluation.report.leaderboard import leaderboard_tables, ranking, write_leaderboard
from mmrs_bench.evaluation.report.maps.colours import DISTINCT
from mmrs_bench.evaluation.report.maps.rasters import missing_place, write_raster
from mmrs_bench.evaluation.report.page.document import build_document
from mmrs_bench.evaluation.report.page.page import render_page
from mmrs_bench.evaluation.report.page.sources import merged_records
from mmrs_bench.evaluation.report.paper.citation import bibtex, methods_paragraph
from mmrs_bench.evaluation.report.paper.latex import check_metrics
from mmrs_bench.evaluation.report.render import print_tables
from mmrs_bench.evaluation.report.reported import load_reported
from mmrs_bench.evaluation.results.records import load_records, remaining_failures
from mmrs_bench.evaluation.stage_lines import StageLines
from mmrs_bench.io import garbage_kept, write_text
from mmrs_bench.methods.catalogue import method_cards


def show_leaderboard(*, results: str, columns: Sequence[str] = ("oa",)) -> int:
    """Print the tables of a results folder, and write them to its subfolder ``leaderboard``."""
    check_metrics(columns)
    with garbage_kept():
        found = load_results(results)
        gc.freeze()  # the records stay until this process ends
        groups, reported = group_records(found.records, found.failures), load_reported()
        tables = leaderboard_tables(groups, reported)
        print_tables(tables, table_console())
        files = write_leaderboard(
            found.folder, tables, groups, reported=reported, cards=method_cards(), metrics=columns
        )
    say(f"written to {files[0].parent}: {', '.join(path.name for path in files)}")
    return 0


def report(*, results: Sequence[str], out: str) -> int:
    """Write the interactive page of one or more results folders."""
    with garbage_kept():
        groups = _merged_groups(results)
        document = build_document(groups, [ranking(group) for group in groups], load_reported(), method_cards())
        path = Path(out).expanduser() / "report.html"
        write_text(path, render_page(document))
    say(f"{sum(len(group.records) for group in groups)} records: {path}")
    return 0


def cite(*, results: Sequence[str]) -> int:
    """Print BibTeX of what the results of one or more folders use, and their protocol in words."""
    groups = _merged_groups(results)
    for text in (bibtex(groups, method_cards()), methods_paragraph(groups, method_cards())):
        for line in text.splitlines():
            say(line)
        say()
    return 0


def _merged_groups(results: Sequence[str]) -> list[Group]:
    found = [load_results(folder) for folder in results]
    gc.freeze()
    records = merged_records((each.folder, each.records) for each in found)
    return group_records(records, remaining_failures(records, (f for each in found for f in each.failures)))


def compare(*, one: str, other: str, results: str) -> int:
    """Print the paired comparison of two methods."""
    print_tables(load_results(results).compare(one, other).tables, table_console())
    return 0


def collect_records(*, folders: list[str], out: str, replace: bool) -> int:
    """Collect records into small files."""
    written = collect([Path(folder).expanduser() for folder in folders], Path(out).expanduser(), replace=replace)
    for path, cells, new, size in written:
        say(f"{path}: {cells} cells, {new} new or replaced; {size:,} bytes, {size / cells:.0f} a cell")
    if not written:
        say(f"{out} contains these records already")
    return 0


def write_tables(*, pages: list[str], results: str, check: bool) -> int:
    """Generate the tables of pages."""
    folder = Path(results).expanduser()
    records, studies = load_records(folder), folder / "studies"
    outdated = [p for p in pages if update_page(Path(p).expanduser(), records, studies=studies, write=not check)]
    for page in outdated:
        say(f"{page}: {'is out of date; run mmrs-bench tables without --check' if check else 'written'}")
    if not outdated:
        say("all pages are up to date")
    return int(check and bool(outdated))


def draw_map(
    *,
    results: str,
    device: str,
    precision: str,
    threads: int,
    draw: int,
    out: str | None,
    tif: bool,
    **suite_options: Any,
) -> int:
    """Classify every pixel of a scene with one or more methods, and write one sheet of their maps."""
    cells = _cells_of_map(suite_options, draw)
    folder = Path(results).expanduser()
    target_folder = Path(out).expanduser() if out else folder / "maps"
    execution = make_execution(device, precision, threads=threads)
    packages = ["rasterio"] if tif else []
    progress = StageLines(say_progress)
    sheet = classify_scene(cells, execution, folder, progress, folders=[target_folder], packages=packages)
    for line in sheet.warnings:
        say_progress(
            f"colours of {sheet.scene.manifest.dataset_name}: {line}; below {DISTINCT:.0f}, colours look alike "
            "(see docs/maps.md)"
        )
    written = sheet.write(target_folder / f"{map_name(cells)}.png")
    if tif:
        for cell, shown in zip(cells, sheet.maps, strict=True):
            written += write_raster(target_folder / f"{map_name([cell])}.tif", sheet.scene, shown.targets)
        if line := missing_place(sheet.scene):
            say_progress(line)
    for path in written:
        say(str(path))
    return 0


def _cells_of_map(suite_options: dict[str, Any], draw: int) -> list[Cell]:
    """The cells of one scene, split, number of shots, draw and seed."""
    if draw < 0:
        raise ConfigError(f"draw {draw}: draws are numbered from 0")
    cells = build_cells(make_suite({**suite_options, "draws": draw + 1}), fetch=say_progress)
    chosen = [cell for cell in cells if cell.protocol.data.draw == draw]
    methods = len({cell.method_label for cell in chosen})
    if methods != len(chosen):
        raise ConfigError(
            f"a map shows each method once, and these options describe {len(chosen)} cells of {methods} "
            f"method{'s' if methods > 1 else ''}; give one --dataset, --split, --shots and --seed"
        )
    if methods > MOST_METHODS:
        raise ConfigError(
            f"a map shows at most {MOST_METHODS} methods, and these options choose {methods}; name some with --methods"
        )
    return chosen
