"""Paired comparison of two methods over their common draws."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.evaluation.report.entries import Entry, Group, group_records
from mmrs_bench.evaluation.report.statistics import Paired, p_text, paired
from mmrs_bench.evaluation.report.tables import Column, Estimate, Section, Table, Value
from mmrs_bench.evaluation.results.metrics import METRICS
from mmrs_bench.evaluation.results.schema import Record

OUTCOME_COLUMNS = (Column("won", "Won", "number"), Column("lost", "Lost", "number"), Column("tied", "Tied", "number"))

COLUMNS = (
    *map(Column, ("scene", "split", "shots", "budget", "one", "other")),
    Column("metric", "Metric"),
    Column("draws", "Draws", "number"),
    Column("a", "A %", "number"),
    Column("b", "B %", "number"),
    Column("difference", "A - B", "estimate"),
    Column("low", "95 % from", "number", shown_only=True),
    Column("high", "to", "number", shown_only=True),
    *OUTCOME_COLUMNS,
    Column("p", "p", fixed=True, shown_only=True),
    Column("p_value"),
)


def compare(records: Iterable[Record], a: str, b: str) -> list[Table]:
    """Compare two methods over their common draws: one table per protocol, one row per metric.

    Args:
        records: Records of any methods and protocols.
        a: ``method``, ``method:variant``, or a label of the leaderboard.
        b: The other method.

    Raises:
        ConfigError: If both names are the same, a method has no records, a name fits several entries, or the methods
            have no common draw.
    """
    if a == b:
        raise ConfigError(f"{a} is compared with itself; give two different methods")
    groups = group_records(records)
    for name in (a, b):
        if not any(group.find(name) for group in groups):
            known = {known for group in groups for e in group.entries for known in (e.label, e.method_id.name)}
            raise unknown_name("method with records", name, known)
    common = [group for group in groups if group.find(a) and group.find(b)]
    tables = [_table(group, group.find_one(a), group.find_one(b)) for group in common]
    if not any(table.rows for table in tables):
        raise ConfigError(
            f"{a} and {b} have no draw in common under any one protocol; run both with the same scene, split, shots, "
            "budget and draws"
        )
    return [table for table in tables if table.rows]


def outcome(pair: Paired) -> dict[str, Value]:
    """The values of `OUTCOME_COLUMNS`, and of the columns ``difference`` and ``p``."""
    return {
        "difference": Estimate.percent(pair.difference),
        "won": pair.wins,
        "lost": pair.losses,
        "tied": pair.ties,
        "p": p_text(pair.p),
    }


def _table(group: Group, one: Entry, other: Entry) -> Table:
    rows: list[dict[str, Value]] = []
    same: dict[str, Value] = {
        "scene": group.fields["scene"].partition("@")[0],
        "split": group.fields["split"],
        "shots": group.shots,
    }
    for metric in METRICS.values():
        values, others = one.by_draw(metric.name), other.by_draw(metric.name)
        pair = paired(values, others, lowest=metric.lowest)
        if pair is None:
            continue
        common = values.keys() & others.keys()
        difference = Estimate.percent(pair.difference)
        rows.append(
            {
                **same,
                "budget": group.fields["budget"],
                "one": one.label,
                "other": other.label,
                "metric": metric.title,
                "draws": len(common),
                "a": 100 * fmean(values[draw] for draw in common),
                "b": 100 * fmean(others[draw] for draw in common),
                "low": difference.low,
                "high": difference.high,
                **outcome(pair),
                "p_value": pair.p,
            }
        )
    return Table(
        title=f"{group.scene_label}: A = {one.label}, B = {other.label}",
        columns=COLUMNS,
        sections=(Section("", tuple(rows)),),
        card=(("signature", group.signature([one, other])),),
        notes=(
            "p: exact paired Wilcoxon test over common draws, two-sided, not corrected for multiple comparisons; to "
            "compare many methods, use the groups of the leaderboard.",
            "A result on one scene supports claims about that scene.",
        ),
        in_csv=True,
    )
