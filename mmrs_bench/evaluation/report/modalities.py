"""What each modality adds: a method on all modalities against itself on some of them, draw by draw."""

from __future__ import annotations

from collections.abc import Sequence

from mmrs_bench.evaluation.report.entries import Entry, Group
from mmrs_bench.evaluation.report.statistics import holm, p_text, paired
from mmrs_bench.evaluation.report.tables import Column, Estimate, Section, Table, Value

COLUMNS = (
    Column("label", "Method", fixed=True),
    Column("modalities", "Modalities", fixed=True),
    Column("oa", "OA %", "estimate"),
    Column("gain", "All - these", "estimate"),
    Column("won", "Won", "number"),
    Column("lost", "Lost", "number"),
    Column("tied", "Tied", "number"),
    Column("draws", "Draws", "number"),
    Column("p", "p (Holm)", fixed=True),
)


def modality_tables(groups: Sequence[Group]) -> list[Table]:
    """Paired comparisons of all modalities with fewer, for the groups of one scene.

    Args:
        groups: Groups of one scene, of any protocols.

    Returns:
        One table for each protocol and shot count under which some method has been run both on all modalities and on
        some; one row per method and choice of modalities. p is that of the exact paired Wilcoxon test over common
        draws, after Holm's correction over the table.
    """
    tables = [_table(group, _partial(group, groups)) for group in groups if "mod" not in group.fields]
    return [table for table in tables if table is not None]


def _partial(whole: Group, groups: Sequence[Group]) -> list[Group]:
    """Groups that differ from ``whole`` in the modalities only."""
    return [
        group
        for group in groups
        if "mod" in group.fields and {k: v for k, v in group.fields.items() if k != "mod"} == dict(whole.fields)
    ]


def _table(whole: Group, partial: Sequence[Group]) -> Table | None:
    rows: list[dict[str, Value]] = []
    tests: list[tuple[int, float]] = []
    for entry in whole.entries:
        fewer = [(g, e) for g in partial for e in g.entries if e.entrant == entry.entrant]
        if not fewer:
            continue
        rows.append(_row(entry, " + ".join(entry.records[0].modalities)))
        for group, other in fewer:
            row = _row(other, group.fields["mod"].replace("+", " + "))
            pair = paired(entry.by_draw("oa"), other.by_draw("oa"))
            if pair is not None:
                row |= {"gain": Estimate.percent(pair.difference), "won": pair.wins, "lost": pair.losses}
                row |= {"tied": pair.ties, "p": p_text(pair.p)}
                if pair.p is not None:
                    tests.append((len(rows), pair.p))
            rows.append(row)
    for (place, _), corrected in zip(tests, holm([p for _, p in tests]), strict=True):
        rows[place]["p"] = p_text(corrected)
    if not rows:
        return None
    shots = "shot" if whole.shots == 1 else "shots"
    return Table(
        title=f"{whole.scene_label}, {whole.fields['split']}, {whole.shots} {shots}, budget {whole.fields['budget']}, "
        "what each modality adds",
        columns=COLUMNS,
        sections=(Section("", tuple(rows)),),
        card=(("signature", whole.signature([e for e in whole.entries if any(r["label"] == e.label for r in rows)])),),
        notes=(
            "All - these: mean difference over common draws, in points, with its sd; p: exact paired Wilcoxon test, "
            "two-sided, Holm over the table.",
        ),
    )


def _row(entry: Entry, modalities: str) -> dict[str, Value]:
    return {
        "label": entry.label,
        "modalities": modalities,
        "oa": Estimate.percent(entry.summary("oa")),
        "draws": len(entry.draws),
    }
