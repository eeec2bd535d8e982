"""Accuracy measures, all derived from one integer K x K confusion matrix (rows: truth, columns: predictions)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mmrs_bench.errors import DataError, TrainingError
from mmrs_bench.evaluation.results.schema import Scores
from mmrs_bench.scenes.scene import IntArray


def confusion_matrix(target: ArrayLike, prediction: ArrayLike, num_classes: int) -> IntArray:
    """Count how often each class was predicted as each class.

    Args:
        target: True classes (n,) in 0..K-1.
        prediction: Predicted classes (n,) in 0..K-1.
        num_classes: K.

    Returns:
        int64 counts (K, K); row i, column j: pixels of class i that were predicted as class j.

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


def _check_classes(values: np.ndarray, num_classes: int, what: str, error: type[Exception]) -> None:
    if values.size == 0:
        return
    if not np.issubdtype(values.dtype, np.integer):
        raise error(f"{what}s have type {values.dtype}; expected whole numbers in 0..{num_classes - 1}")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        raise error(
            f"{what} {wrong} is not a class; expected 0..{num_classes - 1} (unlabelled pixels are never scored, "
            "and class ids of the ground truth start at 1, targets at 0)"
        )


def scores(confusion: ArrayLike) -> Scores:
    """All measures of a confusion matrix.

    Average accuracy (AA) is the mean recall over the classes that have query pixels: a class that is predicted but
    never true lowers the recall of others and must not enter a second time as a zero.

    Args:
        confusion: Whole counts (K, K); rows are truth, columns are predictions.

    Raises:
        DataError: If the matrix is not square, holds a negative or fractional count, or no pixel at all.

    Reference:
        Cohen 1960 (kappa); Pontius and Millones 2011, Int. J. Remote Sensing 32(15), eqs. 2-7 (quantity and
        allocation disagreement, which add up to 1 - OA).
    """
    matrix = np.asarray(confusion)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"confusion matrix has shape {matrix.shape}; expected (K, K)")
    if not np.issubdtype(matrix.dtype, np.integer) or (matrix < 0).any():
        raise DataError("confusion matrix must hold whole, non-negative counts")
    # Python integers: the products below are exact at any scene size, so kappa is 1 exactly on a diagonal matrix
    # and its undefined case (chance agreement of 1) is recognised exactly.
    truth = [int(v) for v in matrix.sum(axis=1)]
    predicted = [int(v) for v in matrix.sum(axis=0)]
    hits = [int(v) for v in np.diagonal(matrix)]
    total, correct = sum(truth), sum(hits)
    if total == 0:
        raise DataError("confusion matrix is empty: no query pixel was scored; lower the shots or the block buffer")
    classes = list(zip(hits, truth, predicted, strict=True))
    recall = tuple(_ratio(hit, row) for hit, row, _ in classes)
    supported = [value for value in recall if value is not None]
    chance = sum(row * column for _, row, column in classes)
    quantity = sum(abs(row - column) for _, row, column in classes)
    allocation = sum(2 * min(row - hit, column - hit) for hit, row, column in classes)
    return Scores(
        oa=correct / total,
        aa=sum(supported) / len(supported),
        kappa=_ratio(total * correct - chance, total * total - chance),
        recall=recall,
        f1=tuple(_ratio(2 * hit, row + column) for hit, row, column in classes),
        iou=tuple(_ratio(hit, row + column - hit) for hit, row, column in classes),
        quantity_disagreement=quantity / (2 * total),
        allocation_disagreement=allocation / (2 * total),
    )


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
