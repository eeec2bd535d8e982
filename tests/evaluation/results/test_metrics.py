"""Metrics: comparison with scikit-learn, worked examples, and properties."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmrs_bench.errors import DataError, TrainingError
from mmrs_bench.evaluation.results.metrics import confusion_matrix, scores
from mmrs_bench.randomness import numpy_generator

Matrix = npt.NDArray[np.int64]


def matrices() -> st.SearchStrategy[Matrix]:
    sides = st.integers(1, 6)
    return sides.flatmap(lambda k: hnp.arrays(np.int64, (k, k), elements=st.integers(0, 50))).filter(
        lambda m: bool(m.sum())
    )


def random_labels(case: int) -> tuple[Matrix, Matrix, int]:
    rng = numpy_generator("metrics", case)
    k = int(rng.integers(2, 12))
    target = rng.integers(0, k, 500)
    prediction = np.where(rng.random(500) < 0.6, target, rng.integers(0, k, 500))
    return target, prediction, k


@pytest.mark.parametrize("case", range(8))
def test_metrics_equal_those_of_scikit_learn(case: int) -> None:
    from sklearn import metrics

    target, prediction, k = random_labels(case)
    labels = range(k)
    ours = confusion_matrix(target, prediction, k)
    found = scores(ours)
    np.testing.assert_array_equal(ours, metrics.confusion_matrix(target, prediction, labels=labels))
    assert found.oa == pytest.approx(metrics.accuracy_score(target, prediction))
    assert found.aa == pytest.approx(metrics.balanced_accuracy_score(target, prediction))
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(target, prediction))
    np.testing.assert_allclose(found.recall, metrics.recall_score(target, prediction, average=None, labels=labels))
    np.testing.assert_allclose(found.f1, metrics.f1_score(target, prediction, average=None, labels=labels))
    np.testing.assert_allclose(found.iou, metrics.jaccard_score(target, prediction, average=None, labels=labels))


@given(matrices())
def test_ranges_and_the_sum_of_the_disagreements(matrix: Matrix) -> None:
    found = scores(matrix)
    assert 0 <= found.oa <= 1
    assert 0 <= found.aa <= 1
    assert found.kappa is None or -1 <= found.kappa <= 1
    assert found.quantity_disagreement >= 0
    assert found.allocation_disagreement >= 0
    assert found.quantity_disagreement + found.allocation_disagreement == pytest.approx(1 - found.oa)


@given(matrices())
def test_kappa_is_one_exactly_on_diagonal_matrices(matrix: Matrix) -> None:
    kappa = scores(matrix).kappa
    diagonal = np.diag(np.diagonal(matrix))
    if kappa is not None:
        assert (kappa == 1) == bool((matrix == diagonal).all())
    if diagonal.sum():
        one_class = np.count_nonzero(np.diagonal(matrix)) == 1
        assert scores(diagonal).kappa == (None if one_class else 1)


@given(matrices(), st.randoms(use_true_random=False))
def test_permuting_classes_permutes_the_scores(matrix: Matrix, random: object) -> None:
    order = list(range(len(matrix)))
    random.shuffle(order)  # type: ignore[attr-defined]
    one, other = scores(matrix), scores(matrix[np.ix_(order, order)])
    for name in ("oa", "aa", "kappa", "quantity_disagreement", "allocation_disagreement"):
        assert getattr(other, name) == pytest.approx(getattr(one, name))
    for name in ("recall", "f1", "iou"):
        assert getattr(other, name) == tuple(getattr(one, name)[i] for i in order)


def test_aa_excludes_a_class_without_query_pixels() -> None:
    # Class 2 has no query pixel, but 5 pixels of class 0 are predicted as class 2.
    found = scores([[5, 0, 5], [0, 10, 0], [0, 0, 0]])
    assert found.aa == pytest.approx((0.5 + 1.0) / 2)
    assert found.recall == (0.5, 1.0, None)
    assert found.f1[2] == 0.0


def test_aa_has_the_same_last_bit_on_all_pythons() -> None:
    """Records are compared bit by bit, and since Python 3.12 ``sum`` rounds numbers like these in another way."""
    confusion = np.eye(10, dtype=np.int64) + 9 * np.roll(np.eye(10, dtype=np.int64), 1, axis=1)  # all recalls are 0.1
    one_by_one = 0.0
    for _ in range(10):
        one_by_one += 0.1
    assert one_by_one != math.fsum([0.1] * 10)
    assert scores(confusion).aa == one_by_one / 10


def test_a_class_in_neither_truth_nor_prediction_has_no_scores() -> None:
    found = scores([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert (found.recall[2], found.f1[2], found.iou[2]) == (None, None, None)


def test_disagreements_of_a_worked_example() -> None:
    # 20 pixels: class 0 is predicted 3 times too often (quantity), and one pair is exchanged (allocation).
    found = scores([[9, 1], [4, 6]])
    assert found.quantity_disagreement == pytest.approx(3 / 20)
    assert found.allocation_disagreement == pytest.approx(2 / 20)


def test_counts_of_a_large_scene_do_not_overflow() -> None:
    found = scores(np.array([[4_000_000_000, 0], [0, 4_000_000_000]]))
    assert found.kappa == 1.0


@pytest.mark.parametrize(
    ("target", "prediction", "error", "message"),
    [
        ([0, 3], [0, 0], DataError, "target 3 is not a class; expected 0..2"),
        ([-1, 0], [0, 0], DataError, "target -1"),
        ([0, 1], [0, 3], TrainingError, "prediction 3 is not a class; expected 0..2"),
        ([0, 1], [0.0, 1.0], TrainingError, "float64"),
        ([0, 1], [0], DataError, "2 targets but 1 predictions"),
    ],
)
def test_wrong_labels_are_errors(
    target: list[int], prediction: list[int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        confusion_matrix(target, prediction, 3)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1, 2, 3]], "shape"),
        ([[1, -1], [0, 1]], "non-negative"),
        ([[0.5, 0.5], [0.0, 1.0]], "whole"),
        ([[0, 0], [0, 0]], "no query pixel"),
    ],
)
def test_wrong_matrices_are_errors(matrix: list[list[float]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        scores(matrix)


def test_no_pixels_give_an_empty_matrix() -> None:
    assert confusion_matrix(np.empty(0, int), np.empty(0, int), 3).sum() == 0
