"""The data behind the page of results, as plain values that `json` can write.

Numbers come from the tables of the leaderboard and the functions behind them; the page's script only sorts, filters and
draws them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from mmrs_bench.config import MethodSpec
from mmrs_bench.evaluation.report.card import merged_card
from mmrs_bench.evaluation.report.entries import Entry, Group
from mmrs_bench.evaluation.report.modalities import modality_tables
from mmrs_bench.evaluation.report.page.cards import card_data, family_of
from mmrs_bench.evaluation.report.page.details import (
    CLASS_SCORES,
    DIGITS,
    entry_details,
    packed,
    percent,
    printable_texts,
    record_id,
    rounded,
)
from mmrs_bench.evaluation.report.ranks.scene_ranks import SceneRanks, rank_over_scenes
from mmrs_bench.evaluation.report.reported import ReportedResult, reported_tables
from mmrs_bench.evaluation.report.tables import Estimate, Table, Value
from mmrs_bench.evaluation.results.metrics import METRICS, metric_value
from mmrs_bench.evaluation.results.schema import Leakage
from mmrs_bench.evaluation.results.signature import fields_in_words
from mmrs_bench.version import __version__

#: Fields of a protocol that have places of their own on the page.
_OWN_PLACE = {"scene", "split", "shots", "sel", "budget"}
#: Fields of a row of results, in the order of its values.
ROW_FIELDS = (
    "group",
    "label",
    "method",
    "origin",
    "rank",
    "unranked",
    "estimates",
    "draws",
    "seeds",
    "labels",
    "leakage",
    "parameters",
    "seconds",
    "pretraining",
    "memory",
    "external",
    "records",
    "details",
)


def build_document(
    groups: Sequence[Group],
    rankings: Sequence[Table],
    reported: Sequence[ReportedResult] = (),
    cards: Mapping[str, MethodSpec] | None = None,
) -> dict[str, Any]:
    """The document of some results.

    Args:
        groups: Groups in the order of `mmrs_bench.evaluation.report.entries.group_records`.
        rankings: The leaderboard's ranking of each group.
        reported: Results of papers.
        cards: Cards of methods by name; a method without one is shown without a description.
    """
    cards = cards or {}
    pairs = list(zip(groups, rankings, strict=True))
    families = [list(of_family) for _, of_family in groupby(pairs, key=lambda pair: pair[0].fields_without_shots)]
    protocols = {entry.method_id.name: entry.records[0].protocol for group in groups for entry in group.entries}
    known = list(dict.fromkeys(p.method for p in protocols.values() if p.method in cards))
    names = [*protocols]
    document = {
        "version": __version__,
        "metrics": [{"name": m.name, "title": m.title, "lowest": 100 * m.lowest} for m in METRICS.values()],
        "leakage": [*Leakage.model_fields],
        "classScores": CLASS_SCORES,
        "scenes": _scenes(groups),
        "protocols": [_protocol(family) for family in families],
        "groups": [
            {
                "protocol": number,
                "shots": group.shots,
                "title": ranking.title,
                "notes": ranking.notes,
                "signature": group.signature(group.entries),
            }
            for number, family in enumerate(families)
            for group, ranking in family
        ],
        "methods": [
            {
                "name": name,
                "family": family_of(cards.get(protocol.method)),
                "card": known.index(protocol.method) if protocol.method in known else None,
            }
            for name, protocol in protocols.items()
        ],
        "cards": [card_data(cards[name]) for name in known],
        "fields": ROW_FIELDS,
        "rows": [
            _row(number, group.find_one(str(row["label"])), row, names)
            for number, (group, ranking) in enumerate(pairs)
            for row in ranking.rows
        ],
        "ranks": [_ranks(ranks) for ranks in rank_over_scenes(groups)],
        **_derived_tables(groups, reported),
    }
    safe: dict[str, Any] = printable_texts(document)
    return safe


def _scenes(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """Id, label and whether it is simulated, of each scene."""
    first: dict[str, Group] = {}
    for group in groups:
        first.setdefault(group.scene_id, group)
    return [{"id": scene, "label": group.scene_label, "simulated": group.simulated} for scene, group in first.items()]


def _protocol(family: Sequence[tuple[Group, Table]]) -> dict[str, Any]:
    """A protocol with its card: each line once, or for each number of shots where they differ."""
    group = family[0][0]
    return {
        "scene": group.scene_id,
        "split": group.fields["split"],
        "budget": group.fields["budget"],
        "title": f"{group.scene_label}, {group.fields['split']}, budget {group.fields['budget']}",
        "further": fields_in_words(group.fields, without=_OWN_PLACE),
        "card": merged_card((member.shots, ranking.card) for member, ranking in family),
    }


def _row(number: int, entry: Entry, row: Mapping[str, Value], names: Sequence[str]) -> list[Any]:
    """The values of `ROW_FIELDS` of a row of a ranking."""
    values = {
        "group": number,
        "label": entry.label,
        "method": names.index(entry.method_id.name),
        "origin": row["origin"],
        "rank": row["group"],
        "unranked": row["unranked"],
        "estimates": [_estimate(row[name]) for name in METRICS],
        "draws": row["draws"],
        "seeds": row["seeds"],
        "labels": row["labels_used"],
        "leakage": [rounded(row[f"leakage_{name}"]) for name in Leakage.model_fields],
        "parameters": [row["parameters_total"], row["parameters_trainable"]],
        "seconds": rounded(row["seconds"]),
        "pretraining": rounded(row["pretraining_seconds"]),
        "memory": rounded(row["peak_memory_mib"]),
        "external": row["external_data"],
        "records": [
            [r.protocol.data.draw, r.protocol.seed, record_id(r), *(percent(metric_value(r, name)) for name in METRICS)]
            for r in entry.records
        ],
        "details": packed(entry_details(entry)),
    }
    return [values[field] for field in ROW_FIELDS]


def _estimate(value: Value) -> list[float | None] | None:
    """Mean, sd and interval in percent, not rounded: the page rounds them once, as the other tables do."""
    return list(value) if isinstance(value, Estimate) else None


def _ranks(ranks: SceneRanks) -> dict[str, Any]:
    return {
        "title": ranks.title,
        "split": ranks.fields["split"],
        "budget": ranks.fields["budget"],
        "shots": ranks.shots,
        "scenes": ranks.scenes,
        "methods": [
            [m.label, round(m.mean, DIGITS), round(m.low, DIGITS), round(m.high, DIGITS), m.ranks]
            for m in ranks.methods
        ],
        "leftOut": ranks.left_out,
        "difference": round(ranks.critical_difference, DIGITS),
        "connected": ranks.connected,
        "note": ranks.note,
    }


def _derived_tables(groups: Sequence[Group], reported: Sequence[ReportedResult]) -> dict[str, list[dict[str, Any]]]:
    """Tables that are shown as they are, by kind: what each modality adds, and what papers report."""
    tables: dict[str, list[dict[str, Any]]] = {"modalities": [], "reported": []}
    for scene, of_scene in groupby(groups, key=lambda group: group.scene_id):
        tables["modalities"] += [_table(scene, table) for table in modality_tables([*of_scene])]
        tables["reported"] += [_table(scene, table) for table in reported_tables(reported, scene)]
    return tables


def _table(scene: str, table: Table) -> dict[str, Any]:
    return {
        "scene": scene,
        "title": table.title,
        "columns": [[column.title, column.kind] for column in table.shown],
        "rows": [table.texts(row) for row in table.rows],
        "notes": table.notes,
    }
