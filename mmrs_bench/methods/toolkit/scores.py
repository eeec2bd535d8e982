"""OA, AA and kappa as torchmetrics metrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from mmrs_bench.accuracy import average_accuracy, class_counts, kappa, overall_accuracy

_SCORES = {"OA": overall_accuracy, "AA": average_accuracy, "kappa": kappa}


class Score(MulticlassConfusionMatrix):
    """One score of the accumulated confusion matrix; a scalar in float64, NaN where it is undefined.

    torchmetrics' own macro average counts a class that is predicted but has no pixels; AA does not (see
    `mmrs_bench.accuracy`).

    Args:
        num_classes: K.
        score: ``OA``, ``AA`` or ``kappa``.
    """

    def __init__(self, num_classes: int, score: str) -> None:
        super().__init__(num_classes)
        self._score = score

    def compute(self) -> Tensor:
        """The score of all predictions and targets (n,) so far."""
        confusion = super().compute().cpu()
        value: Any = _SCORES[self._score](class_counts(confusion.numpy())) if confusion.any() else None
        return torch.tensor(float("nan") if value is None else value, dtype=torch.float64)


def score_collection(num_classes: int, prefix: str) -> MetricCollection:
    """OA, AA and kappa; they share one confusion matrix.

    Args:
        num_classes: K.
        prefix: Prefix of the names, such as ``test/``.
    """
    return MetricCollection({name: Score(num_classes, name) for name in _SCORES}, prefix=prefix)
