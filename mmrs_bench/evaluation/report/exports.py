"""Results as plain data, for statistics and figures elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from mmrs_bench.evaluation.report.entries import Group
from mmrs_bench.evaluation.report.tables import Column, Section, Table, Value
from mmrs_bench.evaluation.results.costs import own_seconds, pretraining_seconds
from mmrs_bench.evaluation.results.metrics import METRICS, metric_value
from mmrs_bench.evaluation.results.schema import Record


def identity(record: Record) -> dict[str, Value]:
    """The fields that identify scene, protocol and method of a record in CSV files."""
    protocol = record.protocol
    return {
        "scene": protocol.scene,
        "simulated": str(record.simulated).lower(),
        "split": protocol.data.split,
        "shots": protocol.data.shots,
        "budget": protocol.budget,
        "method": protocol.method,
        "variant": protocol.variant,
        "selection": protocol.data.selection,
        "origin": record.origin,
    }


def draws_table(groups: Iterable[Group]) -> Table:
    """One row per record: metrics and disagreements in percent, the fields of its protocol, its key."""
    rows: list[dict[str, Value]] = []
    for entry, record in ((e, record) for group in groups for e in group.entries for record in e.records):
        metrics = {name: metric_value(record, name) for name in METRICS}
        rows.append(
            {
                "key": record.key,
                **identity(record),
                "label": entry.label,
                "draw": record.protocol.data.draw,
                "seed": record.protocol.seed,
                **{name: None if value is None else 100 * value for name, value in metrics.items()},
                "quantity_disagreement": 100 * record.scores.quantity_disagreement,
                "allocation_disagreement": 100 * record.scores.allocation_disagreement,
                "n_query": record.n_query,
                "labels_used": record.labels_used,
                "unranked": record.unranked,
                "seconds": own_seconds(record),
                "pretraining_seconds": pretraining_seconds(record),
                "signature": record.signature,
            }
        )
    return csv_table("draws", rows)


def classes_table(groups: Iterable[Group]) -> Table:
    """One row per entry and class: mean recall in percent over draws, and mean number of query pixels.

    As in the leaderboard, the value of a draw is the mean over its seeds.
    """
    rows: list[dict[str, Value]] = []
    for group, entry in ((g, e) for g in groups for e in g.entries):
        for index, name in enumerate(entry.records[0].class_names):
            recalls: dict[int, list[float]] = defaultdict(list)
            for record in entry.records:
                if (recall := record.scores.recall[index]) is not None:
                    recalls[record.protocol.data.draw].append(100 * recall)
            rows.append(
                {
                    **identity(entry.records[0]),
                    "label": entry.label,
                    "class_id": index + 1,
                    "class_name": name,
                    "query_pixels": fmean(sum(r.confusion[index]) for r in entry.records),
                    "records": sum(map(len, recalls.values())),
                    "recall": fmean(map(fmean, recalls.values())) if recalls else None,
                    "signature": group.signature([entry]),
                }
            )
    return csv_table("recall by class", rows)


def csv_table(title: str, rows: Sequence[dict[str, Value]], *, estimates: Sequence[str] = ()) -> Table:
    """A table for the CSV only; its columns are the keys of the rows. ``estimates`` names columns with a spread."""
    keys = rows[0] if rows else {}
    columns = tuple(Column(key, kind="estimate" if key in estimates else "text") for key in keys)
    return Table(title, columns, (Section("", tuple(rows)),), in_csv=True)
