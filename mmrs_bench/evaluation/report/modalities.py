"""What each modality adds: a method with all modalities compared with the same method on some of them."""

from __future__ import annotations

from collections.abc import Sequence

from mmrs_bench.evaluation.report.comparison import OUTCOME_COLUMNS, outcome
from mmrs_bench.evaluation.report.entries import Entry, Group
from mmrs_bench.evaluation.report.statistics import holm, p_text, paired
from mmrs_bench.evaluation.report.tables import Column, Section, Table, Value

COLUMNS = (
    Column("label", "Method", fixed=True),
    Column("modalities", "Modalities", fixed=True),
    Column("oa", "OA %", "estimate"),
    Column("difference", "All - these", "estimate"),
    *OUTCOME_COLUMNS,
    Column("draws", "Draws", "number"),
    Column("p", "p (Holm)", fixed=True),
)


def modality_tables(groups: Sequence[Group]) -> list[Table]:
    """Compare methods on all modalities with themselves on fewer modalities, over common draws.

    Returns:
        One table per group of one scene that has such results; p is corrected by Holm over the table.
    """
    tables = []
    for group in groups:
        if "mod" not in group.fields:
            fewer = [other for other in groups if other.fields == {**group.fields, "mod": other.fields.get("mod")}]
            tables.append(_table(group, fewer))
    return [table for table in tables if table.rows]


def _table(group: Group, fewer: Sequence[Group]) -> Table:
    rows: list[dict[str, Value]] = []
    p_values: dict[int, float] = {}
    compared = []
    for entry in group.entries:
        partial = [(g.fields["mod"], e) for g in fewer for e in g.entries if e.method_id == entry.method_id]
        if not partial:
            continue
        compared.append(entry)
        rows.append(_row(entry, " + ".join(entry.records[0].modalities)))
        for modalities, other in partial:
            row = _row(other, modalities.replace("+", " + "))
            pair = paired(entry.by_draw("oa"), other.by_draw("oa"))
            if pair is not None:
                row |= outcome(pair)
                if pair.p is not None:
                    p_values[len(rows)] = pair.p
            rows.append(row)
    for index, corrected in zip(p_values, holm(list(p_values.values())), strict=True):
        rows[index]["p"] = p_text(corrected)
    return Table(
        title=f"{group.title}, what each modality adds",
        columns=COLUMNS,
        sections=(Section("", tuple(rows)),),
        card=(("signature", group.signature(compared)),),
        notes=(
            "All - these: mean difference over common draws, in points, with its sd; p: exact paired Wilcoxon test, "
            "two-sided, Holm over the table.",
        ),
    )


def _row(entry: Entry, modalities: str) -> dict[str, Value]:
    return {"label": entry.label, "modalities": modalities, "oa": entry.estimate("oa"), "draws": len(entry.draws)}
