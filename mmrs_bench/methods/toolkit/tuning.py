"""Choice of hyperparameters by cross-validation on the support set."""

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
    """Select the choice with the most correctly classified held-out support pixels.

    Ties go to the earlier choice. With one label per class, the first choice is returned.

    Args:
        choices: Hyperparameters in order of preference.
        fit: Returns an estimator fitted with a choice to features (m, d) and targets (m,).
        features: Features of the support pixels (n, d).
        targets: Targets of the support pixels (n,), in random order within each class.
        folds: Largest number of folds; never more than labels per class.
        context: Receives the progress of stage ``training``.
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
