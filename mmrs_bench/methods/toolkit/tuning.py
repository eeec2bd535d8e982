"""Cross-validation inside the support set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from sklearn.model_selection import StratifiedKFold

from mmrs_bench.methods.base import RunContext
from mmrs_bench.scenes.scene import IntArray

Choice = TypeVar("Choice")


def best_by_cross_validation(
    choices: Sequence[Choice],
    fit: Callable[[Choice, Any, IntArray], Any],
    features: Any,
    targets: IntArray,
    *,
    folds: int,
    context: RunContext,
) -> Choice:
    """The choice that classifies most held-out support pixels correctly.

    Ties go to the earlier choice. With one label per class nothing can be held out, and the first choice is returned.

    Args:
        choices: Hyper-parameters, the preferred first.
        fit: From a choice, features (m, d) and targets (m,), makes a fitted estimator with ``predict``.
        features: Of the support pixels (n, d).
        targets: Their targets (n,). They are in random draw order within each class, so folds need no shuffling.
        folds: Folds at most; with fewer labels per class, as many folds as labels.
        context: Its progress receives the share of choices that are done, as stage ``training``.
    """
    folds = min(folds, int(np.bincount(targets).min()))
    if folds < 2 or len(choices) == 1:
        return choices[0]
    parts = list(StratifiedKFold(folds).split(features, targets))
    correct = []
    for done, choice in enumerate(choices, start=1):
        predictions = [(fit(choice, features[a], targets[a]).predict(features[b]), targets[b]) for a, b in parts]
        correct.append(sum(int((predicted == truth).sum()) for predicted, truth in predictions))
        context.progress("training", done / (len(choices) + 1))
    return choices[int(np.argmax(correct))]
