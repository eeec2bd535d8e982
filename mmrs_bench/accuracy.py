"""Counts by class and accuracies of a K x K confusion matrix (rows: truth, columns: predictions).

Records and `torchmetrics` metrics of training modules are computed by the same functions.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mmrs_bench.errors import DataError


class ClassCounts(NamedTuple):
    """Pixels by class, each list (K,), as Python integers: their products are exact at any scene size."""

    correct: list[int]
    true: list[int]
    predicted: list[int]


def overall_accuracy(counts: ClassCounts) -> float:
    """Share of correctly classified pixels."""
    return sum(counts.correct) / sum(counts.true)


def average_accuracy(counts: ClassCounts) -> float:
    """Mean recall over the classes that have query pixels; a class that is only predicted is left out."""
    defined = [value for value in recalls(counts) if value is not None]
    # One after the other: since Python 3.12, ``sum`` rounds in another way, and records are compared to the last bit.
    return reduce(add, defined) / len(defined)


def kappa(counts: ClassCounts) -> float | None:
    """Cohen's kappa (Cohen 1960); None where the chance agreement is 1."""
    total = sum(counts.true)
    chance = sum(row * column for row, column in zip(counts.true, counts.predicted, strict=True))
    return ratio(total * sum(counts.correct) - chance, total * total - chance)


def recalls(counts: ClassCounts) -> tuple[float | None, ...]:
    """Recall by class (K,); None for a class without query pixels."""
    return tuple(map(ratio, counts.correct, counts.true))


def class_counts(confusion: ArrayLike) -> ClassCounts:
    """The counts by class of a confusion matrix (K, K).

    Raises:
        DataError: If the matrix is not square, contains a negative or fractional count, or no pixel at all.
    """
    matrix = np.asarray(confusion)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"confusion matrix has shape {matrix.shape}; expected (K, K)")
    if matrix.dtype.kind not in "iu" or (matrix.size and matrix.min() < 0):
        raise DataError("confusion matrix must contain whole, non-negative counts")
    true = matrix.sum(axis=1).tolist()
    if not any(true):
        raise DataError("confusion matrix is empty: no query pixel was scored; lower the shots or the block buffer")
    return ClassCounts(matrix.diagonal().tolist(), true, matrix.sum(axis=0).tolist())


def ratio(numerator: int, denominator: int) -> float | None:
    """The quotient, or None if the denominator is 0."""
    return numerator / denominator if denominator else None
