"""Cross-validation on the support set: folds, ties, progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit.tuning import best_by_cross_validation
from mmrs_bench.scenes.scene import IntArray


class Estimator:
    """Predicts the target that is written in the features, if its choice is ``correct``."""

    def __init__(self, choice: str) -> None:
        self._choice = choice

    def predict(self, features: Any) -> IntArray:
        return features[:, 1] - (self._choice != "correct")


def tune(choices: list[str], shots: int, folds: int = 5) -> tuple[str, list[tuple[str, IntArray]], list[float]]:
    """The best choice, the choice and training items of each fit, and the progress."""
    targets = np.repeat(np.arange(3), shots)
    features = np.stack([np.arange(len(targets)), targets], axis=1)
    fits: list[tuple[str, IntArray]] = []
    progress: list[float] = []

    def fit(choice: str, some: Any, some_targets: IntArray) -> Estimator:
        np.testing.assert_array_equal(some[:, 1], some_targets)
        fits.append((choice, some[:, 0]))
        return Estimator(choice)

    context = RunContext(0, 0, Path("unused"), progress=lambda stage, share: progress.append(share))
    best = best_by_cross_validation(choices, fit, features, targets, folds=folds, context=context)
    return best, fits, progress


@pytest.mark.parametrize(("shots", "folds"), [(2, 2), (4, 4), (7, 5)])
def test_every_item_is_held_out_once_and_every_class_is_trained_on(shots: int, folds: int) -> None:
    _, fits, _ = tune(["wrong", "correct"], shots)
    assert [choice for choice, _ in fits] == ["wrong"] * folds + ["correct"] * folds
    held_out = [np.setdiff1d(np.arange(3 * shots), items) for _, items in fits[:folds]]
    np.testing.assert_array_equal(np.sort(np.concatenate(held_out)), np.arange(3 * shots))
    for items in held_out:
        assert set(items // shots) == {0, 1, 2}


@pytest.mark.parametrize(
    ("choices", "shots", "best"),
    [
        (["wrong", "correct"], 2, "correct"),
        (["correct", "wrong"], 2, "correct"),
        (["wrong", "other"], 2, "wrong"),  # a tie
        (["wrong", "correct"], 1, "wrong"),  # nothing can be held out
        (["wrong"], 3, "wrong"),
    ],
)
def test_the_choice_with_most_correct_predictions_wins(choices: list[str], shots: int, best: str) -> None:
    assert tune(choices, shots)[0] == best


def test_progress_leaves_a_share_for_the_final_fit() -> None:
    assert tune(["a", "b", "c"], 2)[2] == [0.25, 0.5, 0.75]
    assert tune(["a", "b", "c"], 1)[1:] == ([], [])
