"""Two methods over the draws that both have."""

from __future__ import annotations

from collections.abc import Iterable

from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.evaluation.report.entries import METRIC_TITLES, METRICS, Entry, Group, group_records
from mmrs_bench.evaluation.report.statistics import p_text, paired
from mmrs_bench.evaluation.report.tables import Column, Estimate, Section, Table, Value
from mmrs_bench.evaluation.results.schema import Record

COLUMNS = (
    Column("metric", "Metric"),
    Column("draws", "Draws", "number"),
    Column("a", "A %", "number"),
    Column("b", "B %", "number"),
    Column("difference", "A - B", "estimate"),
    Column("low", "95 % from", "number"),
    Column("high", "to", "number"),
    Column("won", "Won", "number"),
    Column("lost", "Lost", "number"),
    Column("tied", "Tied", "number"),
    Column("p", "p", fixed=True),
)


def compare(records: Iterable[Record], a: str, b: str) -> list[Table]:
    """Paired differences of two methods under every protocol that both have been run under.

    Args:
        records: All records.
        a: ``method``, ``method:variant``, or a label of the leaderboard.
        b: The same, of the other method.

    Returns:
        One table a protocol, one row a metric: means over the common draws in percent, mean difference with its sd
        and 95 % t-interval in points, draws won, lost and tied by ``a``, and the p of the exact paired Wilcoxon test.

    Raises:
        ConfigError: If a method has no records, a name fits several entries, or there is no common draw.
    """
    groups = group_records(records)
    for name in (a, b):
        if not any(_has(group, name) for group in groups):
            entries = [entry for group in groups for entry in group.entries]
            known = {name for entry in entries for name in (entry.label, entry.entrant.name)}
            raise unknown_name("method with records", name, known)
    common = [group for group in groups if _has(group, a) and _has(group, b)]
    tables = [_table(group, group.find(a), group.find(b)) for group in common]
    found = [table for table in tables if table is not None]
    if not found:
        raise ConfigError(
            f"{a} and {b} have no draw in common under any one protocol; run both with the same scene, split, shots, "
            "budget and draws"
        )
    return found


def _has(group: Group, name: str) -> bool:
    return any(name in (entry.label, entry.entrant.name) for entry in group.entries)


def _table(group: Group, one: Entry, other: Entry) -> Table | None:
    rows: list[dict[str, Value]] = []
    for metric in METRICS:
        values, others = one.by_draw(metric), other.by_draw(metric)
        pair = paired(values, others)
        if pair is None:
            continue
        common = values.keys() & others.keys()
        difference = Estimate.percent(pair.difference)
        rows.append(
            {
                "metric": METRIC_TITLES[metric],
                "draws": len(common),
                "a": 100 * sum(values[draw] for draw in common) / len(common),
                "b": 100 * sum(others[draw] for draw in common) / len(common),
                "difference": difference,
                "low": difference.low if difference else None,
                "high": difference.high if difference else None,
                "won": pair.wins,
                "lost": pair.losses,
                "tied": pair.ties,
                "p": p_text(pair.p),
            }
        )
    if not rows:
        return None
    return Table(
        title=f"{group.scene_label}: A = {one.label}, B = {other.label}",
        columns=COLUMNS,
        sections=(Section("", tuple(rows)),),
        card=(("signature", group.signature([one, other])),),
        notes=(
            "p: exact paired Wilcoxon test over common draws, two-sided, for this one pair and metric by itself; when "
            "many pairs are looked at, read the groups of the leaderboard.",
            "A result on one scene supports claims about that scene.",
        ),
    )
