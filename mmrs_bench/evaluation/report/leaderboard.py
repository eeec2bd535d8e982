"""The leaderboard: from records to tables, and to the files in ``results/leaderboard``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

from mmrs_bench.errors import RecordError
from mmrs_bench.evaluation.report.card import protocol_card
from mmrs_bench.evaluation.report.entries import METRICS, Entrant, Entry, Group, group_records
from mmrs_bench.evaluation.report.exports import classes_table, draws_table, method_seconds
from mmrs_bench.evaluation.report.modalities import modality_tables
from mmrs_bench.evaluation.report.render import render
from mmrs_bench.evaluation.report.reported import Reported, load_reported, reported_table
from mmrs_bench.evaluation.report.statistics import tie_groups
from mmrs_bench.evaluation.report.tables import Column, Estimate, Section, Table, Value
from mmrs_bench.evaluation.results.records import load_failures, load_records
from mmrs_bench.evaluation.results.schema import FailureRecord, Record
from mmrs_bench.io import write_text

COLUMNS = (
    Column("scene", data_only=True),
    Column("simulated", data_only=True),
    Column("split", data_only=True),
    Column("shots", data_only=True),
    Column("budget", data_only=True),
    Column("group", "Group", "number"),
    Column("label", "Method"),
    Column("method", data_only=True),
    Column("variant", data_only=True),
    Column("selection", data_only=True),
    Column("unranked", data_only=True),
    Column("oa", "OA %", "estimate"),
    Column("aa", "AA %", "estimate"),
    Column("kappa", "κ %", "estimate"),
    Column("draws", "Draws", "number"),
    Column("seeds", data_only=True),
    Column("labels_used", "Labels", "number"),
    Column("leakage_shared_window", data_only=True),
    Column("leakage_centre_inside", data_only=True),
    Column("leakage_same_component", data_only=True),
    Column("parameters_total", "Params", "size"),
    Column("parameters_trainable", data_only=True),
    Column("seconds", "Seconds", "number", 1),
    Column("peak_memory_mib", data_only=True),
    Column("external_data", data_only=True),
    Column("signature", data_only=True),
)


def build_leaderboard(
    records: Iterable[Record],
    failures: Iterable[FailureRecord] = (),
    reported: Sequence[Reported] = (),
) -> list[Table]:
    """Tables of everything that may be compared.

    For each scene and protocol: one table a shot count, an overview over the shots where there are several, what each
    modality adds where methods were run on fewer, and after the last table of a scene the claims of papers about it.
    Within a table methods are ordered by mean OA; their group follows
    `mmrs_bench.evaluation.report.statistics.tie_groups` on OA.
    """
    tables = []
    for scene, grouped in groupby(group_records(records, failures), key=lambda group: group.scene_id):
        of_scene = list(grouped)
        for _, family in groupby(of_scene, key=lambda group: group.family):
            groups = list(family)
            tables += [_ranking(group) for group in groups]
            if len([group for group in groups if group.entries]) > 1:
                tables.append(_overview(groups))
        tables += modality_tables(of_scene)
        claims = reported_table(list(reported), scene)
        if claims:
            tables.append(claims)
    return tables


def write_leaderboard(results: Path) -> list[Path]:
    """Write the leaderboard of a results folder to ``results/leaderboard``, each file atomically.

    ``leaderboard.{md,csv,tex,html}`` hold the tables, ``draws.csv`` one row a record, ``classes.csv`` recall by
    class, ``curves-*.{png,pdf,csv}`` OA over shots where there are several shot counts.

    Returns:
        The files.

    Raises:
        RecordError: If a record is corrupt, or there is nothing to show.
        BenchError: If the folder cannot be written.
    """
    from mmrs_bench.evaluation.report.curves import write_curves

    records, failures = load_records(results), load_failures(results)
    if not records and not failures:
        raise RecordError(f"{results} holds no records; run some cells first (`mmrs-bench run`)")
    tables = build_leaderboard(records, failures, load_reported())
    folder = results / "leaderboard"
    texts = {f"leaderboard.{fmt}": render(tables, fmt) for fmt in ("md", "csv", "tex", "html")}
    texts["draws.csv"] = render([draws_table(records)], "csv")
    texts["classes.csv"] = render([classes_table(records)], "csv")
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts] + write_curves(group_records(records), folder)


def _ranking(group: Group) -> Table:
    ranked = sorted((e for e in group.entries if not e.unranked), key=_by_oa)
    groups = tie_groups([entry.by_draw("oa") for entry in ranked])
    sections = [Section("", tuple(_row(group, e, n) for e, n in zip(ranked, groups, strict=True)))]
    unranked = sorted((e for e in group.entries if e.unranked), key=lambda e: (e.unranked, _by_oa(e)))
    for reason, of_reason in groupby(unranked, key=lambda entry: entry.unranked):
        sections.append(Section(f"unranked: {reason}", tuple(_row(group, entry, None) for entry in of_reason)))
    shots = "shot" if group.shots == 1 else "shots"
    return Table(
        title=f"{group.scene_label}, {group.fields['split']}, {group.shots} {shots}, budget {group.fields['budget']}",
        columns=COLUMNS,
        sections=tuple(sections),
        card=protocol_card(group, ranked or unranked) if group.entries else (),
        notes=tuple(_notes(group, ranked)),
        tidy=True,
    )


def _by_oa(entry: Entry) -> tuple[float, str]:
    return -_mean_oa(entry), entry.label


def _mean_oa(entry: Entry) -> float:
    return fmean(entry.by_draw("oa").values())


def _row(group: Group, entry: Entry, rank: int | None) -> dict[str, Value]:
    records, first = entry.records, entry.records[0]
    data = first.protocol.data
    estimates: dict[str, Value] = {metric: Estimate.percent(entry.summary(metric)) for metric in METRICS}
    return {
        "scene": first.protocol.scene,
        "simulated": str(first.simulated).lower(),
        "split": data.split,
        "shots": data.shots,
        "budget": first.protocol.budget,
        "group": rank,
        "label": entry.label,
        "method": entry.entrant.method,
        "variant": entry.entrant.variant,
        "selection": entry.entrant.selection,
        "unranked": entry.unranked,
        **estimates,
        "draws": len(entry.draws),
        "seeds": len(entry.seeds),
        "labels_used": max(r.labels_used for r in records),
        "leakage_shared_window": 100 * fmean(r.leakage.shared_window for r in records),
        "leakage_centre_inside": 100 * fmean(r.leakage.centre_inside for r in records),
        "leakage_same_component": 100 * fmean(r.leakage.same_component for r in records),
        "parameters_total": first.parameters_total or None,
        "parameters_trainable": first.parameters_trainable or None,
        "seconds": fmean(method_seconds(r) for r in records),
        "peak_memory_mib": max(r.measured.peak_memory_mib for r in records),
        "external_data": first.external_data,
        "signature": group.signature([entry]),
    }


def _notes(group: Group, ranked: Sequence[Entry]) -> list[str]:
    notes = []
    bounds = {bound.modalities: bound for record in group.records for bound in record.pixel_bounds}
    if bounds:
        lines = (
            f"{' + '.join(bound.modalities)} {100 * bound.accuracy:.2f}"
            + (f" ± {100 * bound.standard_error:.2f} %" if bound.standard_error else " %")
            for bound in bounds.values()
        )
        notes.append(
            "Reference: OA of the best possible classifier of single pixels, which only spatial context can beat: "
            f"{', '.join(lines)}."
        )
    counts = {len(entry.draws) for entry in ranked}
    if len(counts) > 1:
        notes.append(
            f"Methods have {min(counts)} to {max(counts)} draws: their means are not over the same draws; groups "
            "compare common draws only."
        )
    repeats = {len(entry.seeds) for entry in ranked}
    if repeats - {1}:
        notes.append("Where a method has several seeds, a draw's value is the mean over its seeds.")
    pretrained = defaultdict(list)
    for entry in group.entries:
        pretrained[entry.records[0].external_data].append(entry.label)
    for external, labels in sorted(pretrained.items()):
        if external != "none":
            notes.append(f"Uses weights pretrained on {external}: {', '.join(labels)}.")
    return notes + _failure_notes(group)


def _failure_notes(group: Group) -> list[str]:
    cells = defaultdict(list)
    for failure in group.failures:
        protocol = failure.protocol
        name = Entrant.of(protocol).name
        cells[name, failure.error, failure.message].append(protocol.data.draw)
    return [
        f"Failed: {name}, {'draws' if len(draws) > 1 else 'draw'} {', '.join(map(str, sorted(set(draws))))}: "
        f"{error}: {message}"
        for (name, error, message), draws in sorted(cells.items())
    ]


def _overview(groups: Sequence[Group]) -> Table:
    """OA over shots: one row a ranked method, one column a shot count."""
    groups = [group for group in groups if group.entries]
    values: dict[str, dict[str, Value]] = defaultdict(dict)
    for group in groups:
        for entry in group.entries:
            if not entry.unranked:
                values[entry.label][f"shots{group.shots}"] = Estimate.percent(entry.summary("oa"))
    columns = [Column(f"shots{group.shots}", f"{group.shots}-shot OA %", "estimate") for group in groups]

    def order(label: str) -> tuple[list[float], str]:
        found = [values[label].get(column.key) for column in columns]
        return [-value.mean if isinstance(value, Estimate) else 0.0 for value in found], label

    rows: list[dict[str, Value]] = [{"label": label, **values[label]} for label in sorted(values, key=order)]
    scene, fields = groups[0].scene_label, groups[0].fields
    return Table(
        title=f"{scene}, {fields['split']}, budget {fields['budget']}, OA over shots",
        columns=(Column("label", "Method", fixed=True), *columns),
        sections=(Section("", tuple(rows)),),
        notes=("Draws are nested over shots; leakage grows with shots, so part of a curve is leakage.",),
    )
