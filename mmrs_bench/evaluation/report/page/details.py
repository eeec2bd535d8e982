"""What a row of the page shows when it is opened: per-class scores, confusion matrix, and each record.

The details of a row are JSON text, compressed, so that a page of 10,000 records stays small. The page's script unpacks
them when the row is opened.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from mmrs_bench.evaluation.report.entries import Entry
from mmrs_bench.evaluation.report.tables import Value
from mmrs_bench.evaluation.results.costs import own_seconds, pretraining_seconds
from mmrs_bench.evaluation.results.imported import folder_name, imported_place
from mmrs_bench.evaluation.results.metrics import METRICS, metric_value
from mmrs_bench.evaluation.results.records import record_place
from mmrs_bench.evaluation.results.schema import Leakage, Record
from mmrs_bench.texts import printable

#: Scores of each class in a record.
CLASS_SCORES = ("recall", "f1", "iou")
#: Decimals of percent and of seconds on the page, and of scores of classes.
DIGITS, CLASS_DIGITS = 4, 1
_NUMBERS = {int, float, type(None)}

#: Scores of classes in percent; NaN where they are undefined.
ClassScores = npt.NDArray[np.float64]


def packed(value: Any) -> str:
    """JSON text as base64 of a zlib stream."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    if "\\" in text or not text.isprintable():  # other characters are printable
        text = json.dumps(printable_texts(value), separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode())).decode("ascii")


def printable_texts(value: Any) -> Any:
    """Plain data in which all texts are `mmrs_bench.texts.printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(name)): printable_texts(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        # Rows of numbers are most of the data.
        return list(value) if set(map(type, value)) <= _NUMBERS else [printable_texts(item) for item in value]
    return value


def percent(value: float | None, digits: int = DIGITS) -> float | None:
    """A fraction in percent, rounded for the page."""
    return None if value is None else round(100 * value, digits)


def rounded(value: Value) -> float | None:
    """A number rounded for the page; None stays."""
    return round(value, DIGITS) if isinstance(value, int | float) else None


def entry_details(entry: Entry) -> dict[str, Any]:
    """Scores of classes, summed confusion matrix and records of one row."""
    records, first = entry.records, entry.records[0]
    confusion = np.sum([record.confusion for record in records], axis=0)
    query = (confusion.sum(axis=1) / len(records)).tolist()
    scores = [_class_scores(records, name) for name in CLASS_SCORES]
    of_records = zip(*map(_shares, scores), strict=True)
    protocol = first.protocol.model_dump(mode="json")
    del protocol["data"]["draw"], protocol["seed"]
    return {
        "classes": [
            _class_row(name, query[index], [values[:, index] for values in scores])
            for index, name in enumerate(first.class_names)
        ],
        "confusion": confusion.tolist(),
        "modalities": first.modalities,
        "protocol": protocol,
        "notes": [*dict.fromkeys(note for record in records for note in record.notes)],
        "stages": _mean_stages(records),
        "origin": entry.method_id.origin,
        "records": [_record(record, classes) for record, classes in zip(records, of_records, strict=True)],
    }


def _class_scores(records: Sequence[Record], name: str) -> ClassScores:
    """A score of each class in percent (n, K); NaN where it is undefined."""
    return 100 * np.array([getattr(record.scores, name) for record in records], dtype=float)


def _class_row(name: str, query: float, scores: Sequence[ClassScores]) -> list[Any]:
    """Name, mean number of query pixels, and mean, lowest and highest value of each score (n,) of one class."""
    row: list[Any] = [name, round(query, 1)]
    for values in scores:
        known = values[~np.isnan(values)]
        shown = [float(known.mean()), float(known.min()), float(known.max())] if known.size else []
        row.append([round(value, CLASS_DIGITS) for value in shown] or None)
    return row


def _shares(values: ClassScores) -> list[list[float | None]]:
    """Percents (n, K) rounded for the page; None for NaN."""
    shown = values.round(CLASS_DIGITS).astype(object)
    shown[np.isnan(values)] = None
    percents: list[list[float | None]] = shown.tolist()
    return percents


def _mean_stages(records: Sequence[Record]) -> dict[str, float]:
    stages = dict.fromkeys(stage for record in records for stage in record.measured.seconds)
    return {stage: round(fmean(record.measured.seconds.get(stage, 0.0) for record in records), 2) for stage in stages}


def _record(record: Record, classes: Sequence[Sequence[float | None]]) -> dict[str, Any]:
    scores, measured = record.scores, record.measured
    return {
        "key": record_id(record),
        "file": _place(record),
        "draw": record.protocol.data.draw,
        "seed": record.protocol.seed,
        "scores": {name: percent(metric_value(record, name)) for name in METRICS},
        "quantity": percent(scores.quantity_disagreement),
        "allocation": percent(scores.allocation_disagreement),
        "classes": classes,
        "confusion": record.confusion,
        "query": record.n_query,
        "labels": record.labels_used,
        "leakage": [percent(getattr(record.leakage, name)) for name in Leakage.model_fields],
        "split": record.split_sha256,
        "seconds": {stage: round(value, 2) for stage, value in measured.seconds.items()},
        "own": round(own_seconds(record), 2),
        "pretraining": rounded(pretraining_seconds(record)),
        "memory": round(measured.peak_memory_mib, 1),
        "host": measured.host,
        "finished": measured.finished_at,
        "execution": _fields(record.execution.model_dump_json()),
        "provenance": _fields(record.provenance.model_dump_json()),
        "signature": record.signature,
    }


def record_id(record: Record) -> str:
    """A name of the record in addresses of the page: its key, and the folder of its origin if it was imported."""
    return f"{record.key}-{folder_name(record.origin)}" if record.origin else record.key


def _place(record: Record) -> str:
    """Path of a record's file within its results folder."""
    return imported_place(record) if record.origin else record_place(record.protocol)


@lru_cache(maxsize=100)
def _fields(text: str) -> Any:
    """Fields that most records share."""
    return json.loads(text)
