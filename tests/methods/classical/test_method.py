"""The classical baselines against plain references, and their tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.method_helpers import fitted, make, small_data
from sklearn.svm import SVC

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.classical import method as classical
from mmrs_bench.methods.classical.method import SETTINGS_FILE
from mmrs_bench.methods.classical.saved_arrays import ARRAYS_FILE
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray, Scene

TUNED = ("knn", "knn-spatial", "svm", "svm-spatial", "svm-emp", "rf", "rf-spatial")
ALL_PIXELS = np.arange(36 * 40)


def test_majority_predicts_class_1_at_equal_shots(tmp_path: Path) -> None:
    data = small_data()
    assert not fitted("majority", tmp_path, data).predict(data, ALL_PIXELS).any()


def test_nearest_prototype_equals_a_slow_loop(tmp_path: Path) -> None:
    data = small_data(3)
    support = data.features(data.support)
    means = [support[data.support_targets == k].mean(axis=0) for k in range(4)]
    expected = [int(np.argmin([np.linalg.norm(x - mean) for mean in means])) for x in data.features(ALL_PIXELS)]
    method = fitted("nearest-prototype", tmp_path, data)
    np.testing.assert_array_equal(method.predict(data, ALL_PIXELS), expected)
    assert method.parameter_counts() == (4 * 7, 4 * 7)


@pytest.mark.parametrize("count", [1, 3, 100])
def test_nearest_neighbours_equal_a_slow_loop(count: int, tmp_path: Path) -> None:
    data = small_data(3)
    method = fitted("knn", tmp_path, data, neighbours=(count,))
    support = data.features(data.support).astype(np.float64)
    others = np.setdiff1d(ALL_PIXELS, data.support)
    targets, confidence = method.predict_with_confidence(data, others)
    for place, x in enumerate(data.features(others).astype(np.float64)):
        distances = [float(np.sqrt(((x - point) ** 2).sum())) for point in support]
        votes = np.zeros(4)
        for nearest in sorted(range(len(support)), key=distances.__getitem__)[:count]:
            votes[data.support_targets[nearest]] += 1 / distances[nearest]
        assert targets[place] == votes.argmax()
        assert confidence is not None
        assert confidence[place] == pytest.approx(votes.max() / votes.sum(), abs=1e-6)


def test_svm_equals_scikit_learn_on_the_normalised_pixels(tmp_path: Path) -> None:
    data = small_data(5)
    method = fitted("svm", tmp_path, data, costs=(10.0,), gammas=(0.5,))
    reference = SVC(C=10, gamma=0.5 / 7).fit(data.features(data.support), data.support_targets)
    np.testing.assert_array_equal(method.predict(data, ALL_PIXELS), reference.predict(data.features(ALL_PIXELS)))


def renamed_classes(scene: Scene, new: IntArray) -> Scene:
    """The scene with class id new[k] + 1 instead of k + 1."""
    return replace(scene, ground_truth=np.concatenate([[0], new + 1])[scene.ground_truth])


@pytest.mark.parametrize("name", ["nearest-prototype", "knn", "svm", "svm-spatial", "rf"])
def test_the_order_of_the_classes_does_not_matter(name: str, tmp_path: Path) -> None:
    new = np.array([2, 0, 3, 1])
    data = small_data(4)
    grid: dict[str, Any] = {"svm": {"costs": (100.0,)}, "rf": {"max_features": (1.0,), "trees": 200}}
    changes = grid.get(name.split("-")[0], {})
    other = _with_support(renamed_classes(data.scene, new), data.support)
    one = fitted(name, tmp_path, data, **changes).predict(data, ALL_PIXELS)
    two = fitted(name, tmp_path, other, **changes).predict(other, ALL_PIXELS)
    # Ties in votes of trees or of pairs of classes go to the lower class.
    assert (new[one] == two).mean() > (0.97 if name == "rf" else 0.995)


def _with_support(scene: Scene, support: IntArray) -> SceneDataModule:
    """The scene with a split whose support set are the given pixels."""
    test = np.setdiff1d(scene.labelled_pixels, support)
    shots = len(support) // scene.num_classes
    return SceneDataModule(
        replace(scene, official=(np.sort(support), test)), DataConfig(split="official-v1", shots=shots)
    )


@pytest.mark.parametrize("name", TUNED)
def test_tuning_uses_the_support_set_only(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data(4)
    calls: list[tuple[Any, ...]] = []

    def choose_last(choices: Any, fit: Any, features: Any, targets: IntArray, *, folds: int, context: Any) -> Any:
        calls.append((choices, features, targets, folds))
        return choices[-1]

    monkeypatch.setattr(classical, "best_by_cross_validation", choose_last)
    method: Any = fitted(name, tmp_path, data)
    ((choices, features, targets, folds),) = calls
    np.testing.assert_array_equal(features, method.config.features.extractor(data)(data.support))
    np.testing.assert_array_equal(targets, data.support_targets)
    assert folds == 5
    if name.startswith("svm"):
        assert (len(choices), choices[0]) == (8, {"cost": 100.0, "gamma": 1.0})
        assert (method._estimator.C, method._estimator.gamma) == (1000.0, 0.1 / features.shape[1])
    elif name.startswith("knn"):
        assert choices == [{"neighbours": count} for count in (1, 3, 5, 9)]
        assert method._estimator.n_neighbors == 9
    else:
        assert choices == [{"max_features": "sqrt"}, {"max_features": 0.5}]
        assert (method._estimator.max_features, len(method._estimator)) == (0.5, 50)


def test_forests_are_smaller_in_tuning(tmp_path: Path) -> None:
    method: Any = make("rf", tmp_path, trees=7, tuning_trees=3)
    features, targets = np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1])
    chosen = {"max_features": "sqrt"}
    assert [len(method._fitted(chosen, features, targets, tuning=tuning)) for tuning in (False, True)] == [7, 3]


def test_forest_depends_on_draw_and_seed_only(tmp_path: Path) -> None:
    data = small_data(3)
    one, again, seed, draw = (
        fitted("rf", tmp_path, data, **options).predict(data, ALL_PIXELS)
        for options in ({}, {}, {"seed": 1}, {"draw": 1})
    )
    np.testing.assert_array_equal(one, again)
    assert (one != seed).any()
    assert (one != draw).any()


@pytest.mark.parametrize("file", [ARRAYS_FILE, SETTINGS_FILE])
def test_a_damaged_file_is_an_error(file: str, tmp_path: Path) -> None:
    fitted("svm", tmp_path, small_data()).save(tmp_path)
    (tmp_path / file).write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match=file):
        make("svm", tmp_path).load(tmp_path)


def test_saved_state_cannot_run_code(tmp_path: Path) -> None:
    np.savez(tmp_path / ARRAYS_FILE, features=np.array([object()], dtype=object), targets=np.arange(2))
    with pytest.raises(DataError, match="contains objects"):
        make("svm", tmp_path).load(tmp_path)


def test_a_neighbourhood_larger_than_the_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neighbourhood 11 is larger than the protocol's window 7"):
        fitted("rf-spatial", tmp_path, small_data(window=7))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("svm", {"no_such": 1}, "no_such"),
        ("svm", {"costs": (0.0,)}, "costs.0"),
        ("svm", {"features": {"kind": "pixels"}}, "features"),
        ("knn", {"neighbours": (0,)}, "neighbours.0"),
        ("rf", {"trees": 0}, "trees"),
        ("rf-spatial", {"features": {"kind": "neighbourhood", "sizes": [4]}}, "odd"),
    ],
)
def test_invalid_settings_are_refused(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name, tmp_path, **changes)


def test_progress_of_tuning_ends_at_one(tmp_path: Path) -> None:
    seen: list[float] = []
    fitted("svm", tmp_path, small_data(2), progress=lambda stage, done: seen.append(done))
    assert len(seen) == 9
    assert seen == sorted(seen)
    assert seen[-1] == 1
