"""What each modality adds, and what a missing one costs: a method with all modalities, and with fewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmrs_bench.evaluation.report.comparison import OUTCOME_COLUMNS, outcome
from mmrs_bench.evaluation.report.entries import Entry, Group
from mmrs_bench.evaluation.report.statistics import holm, p_text, paired
from mmrs_bench.evaluation.report.tables import Column, Section, Table, Value


class _Comparison(NamedTuple):
    """A field of the signature that only the partial results have, and the texts of their table."""

    field: str
    title: str
    column: str
    start: str
    note: str


_P_NOTE = "p: exact paired Wilcoxon test, two-sided, Holm over the table."
_COMPARISONS = (
    _Comparison(
        field="mod",
        title="what each modality adds",
        column="Modalities",
        start="",
        note="All - these: mean difference over common draws, in points, with its sd; ",
    ),
    _Comparison(
        field="drop",
        title="what a missing modality costs",
        column="Predicted",
        start="without ",
        note="Trained with all modalities; the mean of a missing one stands in its place. All - these: mean difference "
        "over common draws, in points, with its sd; ",
    ),
)


def modality_tables(groups: Sequence[Group]) -> list[Table]:
    """Compare methods on all modalities with themselves on fewer modalities, over common draws.

    Returns:
        For each group of one scene that has such results: one table of results without some modalities at all, and one
        of results whose predictions lacked them; p is corrected by Holm over the table.
    """
    tables = []
    for group in groups:
        for comparison in _COMPARISONS:
            name = comparison.field
            if name not in group.fields:
                fewer = [other for other in groups if other.fields == {**group.fields, name: other.fields.get(name)}]
                tables.append(_table(group, fewer, comparison))
    return [table for table in tables if table.rows]


def _table(group: Group, fewer: Sequence[Group], comparison: _Comparison) -> Table:
    rows: list[dict[str, Value]] = []
    p_values: dict[int, float] = {}
    compared = []
    for entry in group.entries:
        partial = [(g.fields[comparison.field], e) for g in fewer for e in g.entries if e.method_id == entry.method_id]
        if not partial:
            continue
        compared.append(entry)
        modalities = " + ".join(entry.records[0].modalities)
        rows.append(_row(entry, f"with {modalities}" if comparison.start else modalities))
        for names, other in partial:
            row = _row(other, comparison.start + names.replace("+", " + "))
            pair = paired(entry.by_draw("oa"), other.by_draw("oa"))
            if pair is not None:
                row |= outcome(pair)
                if pair.p is not None:
                    p_values[len(rows)] = pair.p
            rows.append(row)
    for index, corrected in zip(p_values, holm(list(p_values.values())), strict=True):
        rows[index]["p"] = p_text(corrected)
    return Table(
        title=f"{group.title}, {comparison.title}",
        columns=(
            Column("label", "Method", fixed=True),
            Column("modalities", comparison.column, fixed=True),
            Column("oa", "OA %", "estimate"),
            Column("difference", "All - these", "estimate"),
            *OUTCOME_COLUMNS,
            Column("draws", "Draws", "number"),
            Column("p", "p (Holm)", fixed=True),
        ),
        sections=(Section("", tuple(rows)),),
        card=(("signature", group.signature(compared)),),
        notes=(comparison.note + _P_NOTE,),
    )


def _row(entry: Entry, modalities: str) -> dict[str, Value]:
    return {"label": entry.label, "modalities": modalities, "oa": entry.estimate("oa"), "draws": len(entry.draws)}
