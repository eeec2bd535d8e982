"""Accuracy metrics of a K x K confusion matrix of counts (rows: truth, columns: predictions).

To add a metric, add a function of `ClassCounts` and a row of `METRICS`: regression, tables and CSV files then contain
it. To store it in new records too, add a field of the same name, with the default None, to `Scores`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mmrs_bench.accuracy import (
    ClassCounts,
    average_accuracy,
    class_counts,
    kappa,
    overall_accuracy,
    ratio,
    recalls,
)
from mmrs_bench.errors import DataError, TrainingError
from mmrs_bench.evaluation.results.schema import Record, Scores
from mmrs_bench.scenes.scene import IntArray


class Metric(NamedTuple):
    """A metric: name in records, baselines and CSV files, title in tables, and a function.

    The function returns a fraction between ``lowest`` and 1, or None where the metric is undefined.
    """

    name: str
    title: str
    compute: Callable[[ClassCounts], float | None]
    higher_is_better: bool = True
    lowest: float = 0.0


#: Metrics that tables, CSV files and baselines contain, by name, in this order.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("oa", "OA", overall_accuracy),
        Metric("aa", "AA", average_accuracy),
        Metric("kappa", "κ", kappa, lowest=-1.0),
    )
}


def metric_value(record: Record, name: str) -> float | None:
    """Value of a metric of `METRICS` in a record: the stored one, else computed from the confusion matrix."""
    if name in record.scores.model_fields_set:
        value: float | None = getattr(record.scores, name)
        return value
    return METRICS[name].compute(class_counts(record.confusion))


def scores(confusion: ArrayLike) -> Scores:
    """All stored metrics of a confusion matrix (K, K); raises as `class_counts`."""
    return Scores.model_validate(score_values(confusion))


def score_values(confusion: ArrayLike) -> dict[str, Any]:
    """The fields of `scores`.

    Reference:
        Pontius and Millones 2011, Int. J. Remote Sensing 32(15), eqs. 2-7 (quantity and allocation disagreement,
        which add up to 1 - OA).
    """
    counts = class_counts(confusion)
    classes = list(zip(*counts, strict=True))
    total = sum(counts.true)
    quantity = sum(abs(row - column) for _, row, column in classes)
    allocation = sum(2 * min(row - hit, column - hit) for hit, row, column in classes)
    return {
        **{name: metric.compute(counts) for name, metric in METRICS.items() if name in Scores.model_fields},
        "recall": recalls(counts),
        "f1": tuple(ratio(2 * hit, row + column) for hit, row, column in classes),
        "iou": tuple(ratio(hit, row + column - hit) for hit, row, column in classes),
        "quantity_disagreement": quantity / (2 * total),
        "allocation_disagreement": allocation / (2 * total),
    }


def confusion_matrix(target: ArrayLike, prediction: ArrayLike, num_classes: int) -> IntArray:
    """Count the pixels (int64, shape (K, K)) by true class (row) and predicted class (column).

    Args:
        target: True classes (n,) in 0..K-1.
        prediction: Predicted classes (n,) in 0..K-1.
        num_classes: K.

    Raises:
        DataError: If a target is not a class, or the arrays differ in length.
        TrainingError: If a prediction is not a class.
    """
    rows, columns = np.asarray(target).ravel(), np.asarray(prediction).ravel()
    if rows.shape != columns.shape:
        raise DataError(f"{rows.size} targets but {columns.size} predictions; predict every query pixel exactly once")
    _check_classes(rows, num_classes, "target", DataError)
    _check_classes(columns, num_classes, "prediction", TrainingError)
    flat = rows.astype(np.int64) * num_classes + columns.astype(np.int64)
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def _check_classes(values: np.ndarray, num_classes: int, kind: str, error: type[Exception]) -> None:
    if values.size == 0:
        return
    if not np.issubdtype(values.dtype, np.integer):
        raise error(f"{kind}s have type {values.dtype}; expected whole numbers in 0..{num_classes - 1}")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= num_classes:
        raise error(
            f"{kind} {low if low < 0 else high} is not a class; expected 0..{num_classes - 1} (unlabelled pixels are "
            "never scored; class ids of the ground truth start at 1, targets at 0)"
        )
