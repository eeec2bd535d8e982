"""The leaderboard: tables of records, and the files in ``results/leaderboard``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

from mmrs_bench.config import MethodSpec
from mmrs_bench.evaluation.report.card import protocol_card
from mmrs_bench.evaluation.report.curves import write_curves
from mmrs_bench.evaluation.report.entries import Entry, Group, MethodId, group_records, mean_leakage, metric_columns
from mmrs_bench.evaluation.report.exports import classes_table, draws_table, identity
from mmrs_bench.evaluation.report.modalities import modality_tables
from mmrs_bench.evaluation.report.page.document import build_document
from mmrs_bench.evaluation.report.page.page import render_page
from mmrs_bench.evaluation.report.paper.figures import write_figures
from mmrs_bench.evaluation.report.paper.latex import paper_tables
from mmrs_bench.evaluation.report.ranks.diagram import write_ranks
from mmrs_bench.evaluation.report.render import render
from mmrs_bench.evaluation.report.reported import ReportedResult, reported_tables
from mmrs_bench.evaluation.report.statistics import MIN_DRAWS, draws_needed, separable, tie_groups
from mmrs_bench.evaluation.report.tables import Column, Estimate, Section, Table, Value
from mmrs_bench.evaluation.results.costs import own_seconds, pretraining_seconds
from mmrs_bench.evaluation.results.metrics import METRICS
from mmrs_bench.evaluation.results.schema import FailureRecord, Leakage, Record
from mmrs_bench.io import write_text


def build_leaderboard(
    records: Iterable[Record],
    failures: Iterable[FailureRecord] = (),
    reported: Sequence[ReportedResult] = (),
) -> list[Table]:
    """Tables of all results, as `leaderboard_tables`."""
    return leaderboard_tables(group_records(records, failures), reported)


def leaderboard_tables(groups: Iterable[Group], reported: Sequence[ReportedResult] = ()) -> list[Table]:
    """Tables of groups in the order of `group_records`, by scene.

    For each protocol: one ranking by OA per shot count, and an overview if there are several shot counts. Then what
    each modality adds, what a missing one costs, and results reported in papers.
    """
    tables: list[Table] = []
    for scene, grouped in groupby(groups, key=lambda group: group.scene_id):
        of_scene = list(grouped)
        for _, family in groupby(of_scene, key=lambda group: group.fields_without_shots):
            of_family = list(family)
            tables += map(ranking, of_family)
            if sum(bool(group.entries) for group in of_family) > 1:
                tables.append(_overview([group for group in of_family if group.entries]))
        tables += modality_tables(of_scene)
        tables += reported_tables(reported, scene)
    return tables


def write_leaderboard(
    results: Path,
    tables: Sequence[Table],
    groups: Sequence[Group],
    *,
    reported: Sequence[ReportedResult] = (),
    cards: Mapping[str, MethodSpec] | None = None,
    metrics: Sequence[str] = ("oa",),
) -> list[Path]:
    """Write tables, the page and figures to the folder ``leaderboard`` of a results folder; return the files.

    Args:
        results: The results folder.
        tables: What `leaderboard_tables` made of the groups.
        groups: The results of the folder, in the order of `group_records`.
        reported: Results of papers for the page.
        cards: Cards of methods for the page, by name.
        metrics: Metrics in the tables for papers.

    Raises:
        BenchError: If the folder cannot be written.
    """
    rankings = [table for table in tables if table.in_csv]
    folder = results / "leaderboard"
    texts = {f"leaderboard.{fmt}": render(tables, fmt) for fmt in ("md", "csv", "tex")}
    texts["paper.tex"] = paper_tables(groups, rankings, metrics)
    texts["leaderboard.html"] = render_page(build_document(groups, rankings, reported, cards))
    texts["draws.csv"] = render([draws_table(groups)], "csv")
    texts["classes.csv"] = render([classes_table(groups)], "csv")
    for name, text in texts.items():
        write_text(folder / name, text)
    figures = (write_curves, write_figures, write_ranks)
    return [folder / name for name in texts] + [path for write in figures for path in write(groups, folder)]


def ranking(group: Group) -> Table:
    """The ranking of one protocol by OA: a section of ranked entries, and one for each reason of unranked ones."""
    entries = sorted(group.entries, key=lambda e: (e.unranked, -fmean(e.by_draw("oa").values()), e.label))
    ranked = [entry for entry in entries if not entry.unranked]
    values = [entry.by_draw("oa") for entry in ranked]
    ranks = tie_groups(values) if separable(values) else [None] * len(ranked)
    ranks += [None] * (len(entries) - len(ranked))
    rows = [_row(group, entry, rank) for entry, rank in zip(entries, ranks, strict=True)]
    sections = [Section("", tuple(rows[: len(ranked)]))]
    for reason, of_reason in groupby(rows[len(ranked) :], key=lambda row: row["unranked"]):
        sections.append(Section(f"unranked: {reason}", tuple(of_reason)))
    return Table(
        title=group.title,
        columns=_columns(
            pretraining=any(row["pretraining_seconds"] is not None for row in rows),
            origins=any(row["origin"] for row in rows),
        ),
        sections=tuple(sections),
        card=protocol_card(group, ranked or entries) if entries else (),
        notes=(*_notes(group, ranked), *_draw_notes(ranked, ranks), *_failure_notes(group.failures)),
        in_csv=True,
    )


def _columns(*, pretraining: bool, origins: bool) -> tuple[Column, ...]:
    """The columns of a ranking; those of shared pretraining and of origins are shown if they have values."""
    return (
        *map(Column, ("scene", "simulated", "split", "shots", "budget")),
        Column("group", "Group", "number"),
        Column("label", "Method"),
        *map(Column, ("method", "variant", "selection")),
        Column("origin", "Origin" if origins else ""),
        Column("unranked"),
        *metric_columns(),
        Column("draws", "Draws", "number"),
        Column("seeds"),
        Column("labels_used", "Labels", "number"),
        *(Column(f"leakage_{name}") for name in Leakage.model_fields),
        Column("parameters_total", "Params", "size"),
        Column("parameters_trainable"),
        Column("seconds", "Seconds", "number", 1),
        Column("pretraining_seconds", "Pretrain" if pretraining else "", "number", 1),
        *map(Column, ("peak_memory_mib", "external_data", "signature")),
    )


def _row(group: Group, entry: Entry, rank: int | None) -> dict[str, Value]:
    records, first = entry.records, entry.records[0]
    return {
        **identity(first),
        "group": rank,
        "label": entry.label,
        "unranked": entry.unranked,
        **{name: entry.estimate(name) for name in METRICS},
        "draws": len(entry.draws),
        "seeds": len(entry.seeds),
        "labels_used": max(r.labels_used for r in records),
        **{f"leakage_{name}": share for name, share in mean_leakage(records).items()},
        "parameters_total": first.parameters_total or None,
        "parameters_trainable": first.parameters_trainable or None,
        "seconds": fmean(own_seconds(r) for r in records),
        "pretraining_seconds": _mean(pretraining_seconds(r) for r in records),
        "peak_memory_mib": max(r.measured.peak_memory_mib for r in records),
        "external_data": first.external_data,
        "signature": group.signature([entry]),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _notes(group: Group, ranked: Sequence[Entry]) -> list[str]:
    notes = []
    bounds = {bound.modalities: bound for record in group.records for bound in record.pixel_bounds}
    if bounds:
        texts = (
            f"{' + '.join(bound.modalities)} {100 * bound.accuracy:.2f}"
            + (f" ± {100 * bound.standard_error:.2f} %" if bound.standard_error else " %")
            for bound in bounds.values()
        )
        notes.append(
            "Reference: OA of the best possible classifier of single pixels, which only spatial context can beat: "
            f"{', '.join(texts)}."
        )
    if imported := [entry.label for entry in group.entries if entry.method_id.origin]:
        notes.append(
            f"Imported: {', '.join(imported)}. Checksums show that these records are as their origin exported them; "
            "they were not computed again here."
        )
    noted = defaultdict(list)
    for entry in group.entries:
        for note in dict.fromkeys(note for record in entry.records for note in record.notes):
            noted[note].append(entry.label)
    notes += [f"{', '.join(labels)}: {note}." for note, labels in noted.items()]
    pretrained = defaultdict(list)
    for entry in group.entries:
        pretrained[entry.records[0].external_data].append(entry.label)
    for external, labels in sorted(pretrained.items()):
        if external != "none":
            notes.append(f"Uses weights pretrained on {external}: {', '.join(labels)}.")
    return notes


def _draw_notes(ranked: Sequence[Entry], ranks: Sequence[int | None]) -> list[str]:
    """What the means and the groups of ranked entries (with their groups) are over."""
    notes = []
    counts = {len(entry.draws) for entry in ranked}
    if len({entry.draws for entry in ranked}) > 1:
        many = f"Methods have {min(counts)} to {max(counts)} draws: their" if len(counts) > 1 else "Methods'"
        notes.append(f"{many} means are not over the same draws; groups compare common draws only.")
    if any(len(entry.seeds) > 1 for entry in ranked):
        notes.append("Where a method has several seeds, a draw's value is the mean over its seeds.")
    for metric in METRICS.values():
        missing = {e.label: (len(e.draws) - len(e.by_draw(metric.name)), len(e.draws)) for e in ranked}
        if texts := [f"{label} ({few} of {all_})" for label, (few, all_) in missing.items() if few]:
            notes.append(f"{metric.title} is undefined in draws of {', '.join(texts)}, which its means leave out.")
    ungrouped = [entry.label for entry, rank in zip(ranked, ranks, strict=False) if rank is None]
    if len(ungrouped) < len(ranked):
        if ungrouped:
            notes.append(f"No group, because a test takes {MIN_DRAWS} common draws: {', '.join(ungrouped)}.")
    elif len(ranked) > 1:
        common = set.intersection(*(set(entry.draws) for entry in ranked))
        notes.append(
            f"No groups: to separate {len(ranked)} methods takes at least {draws_needed(len(ranked))} common draws "
            f"(exact paired Wilcoxon test, Holm, 0.05); these have {len(common)}."
        )
    return notes


def _failure_notes(failures: Iterable[FailureRecord]) -> list[str]:
    draws_of = defaultdict(set)
    for failure in failures:
        draws_of[MethodId.of(failure.protocol).name, failure.error, failure.message].add(failure.protocol.data.draw)
    return [
        f"Failed: {name}, {'draws' if len(draws) > 1 else 'draw'} {', '.join(map(str, sorted(draws)))}: "
        f"{error}: {message}"
        for (name, error, message), draws in sorted(draws_of.items())
    ]


def _overview(groups: Sequence[Group]) -> Table:
    """OA over shots: one row per ranked method, one column per shot count."""
    values: dict[str, dict[str, Estimate | None]] = defaultdict(dict)
    for group in groups:
        for entry in group.ranked:
            values[entry.label][f"shots{group.shots}"] = entry.estimate("oa")
    columns = [Column(f"shots{group.shots}", f"{group.shots}-shot OA %", "estimate") for group in groups]

    def order(label: str) -> tuple[list[float], str]:
        found = [values[label].get(column.key) for column in columns]
        return [-estimate.mean if estimate else 0.0 for estimate in found], label

    rows: list[dict[str, Value]] = [{"label": label, **values[label]} for label in sorted(values, key=order)]
    fields = groups[0].fields
    return Table(
        title=f"{groups[0].scene_label}, {groups[0].protocol_label}, budget {fields['budget']}, OA over shots",
        columns=(Column("label", "Method", fixed=True), *columns),
        sections=(Section("", tuple(rows)),),
        notes=("Draws are nested over shots; leakage grows with shots, so part of a curve is leakage.",),
    )
