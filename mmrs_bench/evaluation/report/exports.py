"""Results as plain data, for statistics and figures elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from mmrs_bench.evaluation.report.entries import METRICS, Metric, group_records
from mmrs_bench.evaluation.report.tables import Column, Section, Table, Value
from mmrs_bench.evaluation.results.schema import Record

#: Stages that are a method's own work; loading the scene and scoring are the suite's.
METHOD_STAGES = ("pretrain", "fit", "predict")


def method_seconds(record: Record) -> float:
    """Seconds of the method's own work: pretraining, fitting and predicting the query pixels."""
    return sum(record.measured.seconds.get(stage, 0.0) for stage in METHOD_STAGES)


def draws_table(records: Iterable[Record]) -> Table:
    """One row a record, for statistics elsewhere: accuracies in percent, all protocol fields, key."""
    rows: list[dict[str, Value]] = []
    for record in records:
        protocol = record.protocol
        shared: dict[str, Value] = {"key": record.key, **_identity(record), "draw": protocol.data.draw}
        metrics: dict[Metric, float | None] = {metric: getattr(record.scores, metric) for metric in METRICS}
        rows.append(
            {
                **shared,
                "seed": protocol.seed,
                **{metric: None if value is None else 100 * value for metric, value in metrics.items()},
                "quantity_disagreement": 100 * record.scores.quantity_disagreement,
                "allocation_disagreement": 100 * record.scores.allocation_disagreement,
                "n_query": record.n_query,
                "labels_used": record.labels_used,
                "unranked": record.unranked,
                "seconds": method_seconds(record),
                "signature": record.signature,
            }
        )
    return _data_table("draws", rows)


def classes_table(records: Iterable[Record]) -> Table:
    """Recall by class in percent, over draws; ``support`` is the mean number of query pixels of the class."""
    rows: list[dict[str, Value]] = []
    for group in group_records(records):
        for entry in group.entries:
            for index, name in enumerate(entry.records[0].class_names):
                recalls = [r.scores.recall[index] for r in entry.records]
                found = [100 * recall for recall in recalls if recall is not None]
                rows.append(
                    {
                        **_identity(entry.records[0]),
                        "class_id": index + 1,
                        "class_name": name,
                        "query_pixels": fmean(sum(r.confusion[index]) for r in entry.records),
                        "records": len(found),
                        "recall": fmean(found) if found else None,
                    }
                )
    return _data_table("recall by class", rows)


def _identity(record: Record) -> dict[str, Value]:
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
    }


def _data_table(title: str, rows: Sequence[dict[str, Value]]) -> Table:
    columns = tuple(Column(key, data_only=True) for key in (rows[0] if rows else {}))
    return Table(title=title, columns=columns, sections=(Section("", tuple(rows)),), tidy=True)
