"""The classical baselines: against plain references, and that hyper-parameters come from the support set alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.method_helpers import SHIPPED, fitted, make, small_data
from sklearn.svm import SVC

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.classical.method import ARRAYS_FILE, SETTINGS_FILE, Classical
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray, Scene

TUNED = ("svm", "svm-spatial", "svm-emp", "rf", "rf-spatial")
ALL_PIXELS = np.arange(36 * 40)


def test_majority_predicts_class_1_when_all_tie(tmp_path: Path) -> None:
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


def test_svm_is_scikit_learns_on_the_normalised_pixels(tmp_path: Path) -> None:
    data = small_data(5)
    method = fitted("svm", tmp_path, data, costs=(10.0,), gammas=(0.5,))
    reference = SVC(C=10, gamma=0.5 / 7).fit(data.features(data.support), data.support_targets)
    np.testing.assert_array_equal(method.predict(data, ALL_PIXELS), reference.predict(data.features(ALL_PIXELS)))


@pytest.mark.parametrize("name", SHIPPED)
def test_predicts_the_whole_scene_and_beats_the_floor(name: str, tmp_path: Path) -> None:
    data = small_data(5)
    method = fitted(name, tmp_path, data)
    prediction = method.predict(data, ALL_PIXELS)
    assert prediction.dtype == np.int64
    assert prediction.shape == ALL_PIXELS.shape
    accuracy = (prediction[data.query] == data.query_targets).mean()
    assert accuracy > (0.5 if name != "majority" else 0.2)


def renamed_classes(scene: Scene, new: IntArray) -> Scene:
    """The scene with class k+1 called new[k]+1."""
    return replace(scene, ground_truth=np.concatenate([[0], new + 1])[scene.ground_truth])


@pytest.mark.parametrize("name", ["nearest-prototype", "svm", "svm-spatial", "rf"])
def test_the_order_of_the_classes_does_not_matter(name: str, tmp_path: Path) -> None:
    """With other class numbers the same pixels get the same classes (one point of the grid: no ties in tuning)."""
    new = np.array([2, 0, 3, 1])
    data = small_data(4)
    grid: dict[str, Any] = {"svm": {"costs": (100.0,)}, "rf": {"max_features": (1.0,), "trees": 200}}
    changes = grid.get(name.split("-")[0], {})
    other = _with_support(renamed_classes(data.scene, new), data.support)
    one = fitted(name, tmp_path, data, **changes).predict(data, ALL_PIXELS)
    two = fitted(name, tmp_path, other, **changes).predict(other, ALL_PIXELS)
    # A vote of trees or of pairs of machines can tie, and ties go to the lower number.
    assert (new[one] == two).mean() > (0.97 if name == "rf" else 0.995)


def _with_support(scene: Scene, support: IntArray) -> SceneDataModule:
    """The scene under a split whose support are the given pixels, in some order."""
    test = np.setdiff1d(scene.labelled_pixels, support)
    shots = len(support) // scene.num_classes
    return SceneDataModule(
        replace(scene, official=(np.sort(support), test)), DataConfig(split="official-v1", shots=shots)
    )


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize(("shots", "folds"), [(2, 2), (4, 4), (7, 5)])
def test_tuning_splits_the_support_and_nothing_else(
    name: str, shots: int, folds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_data(shots)
    parts: list[tuple[IntArray, IntArray]] = []

    def spy(self: Classical, chosen: dict[str, Any], train: IntArray, test: IntArray) -> int:
        assert self._features.shape[0] == len(data.support)
        parts.append((train, test))
        return 0

    monkeypatch.setattr(Classical, "_correct", spy)
    fitted(name, tmp_path, data)
    points = 8 if name.startswith("svm") else 2
    assert len(parts) == points * folds
    for train, test in parts:
        np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(4 * shots))
        assert (np.bincount(data.support_targets[test], minlength=4) >= 1).all()
    tested = np.concatenate([test for _, test in parts[:folds]])
    np.testing.assert_array_equal(np.sort(tested), np.arange(4 * shots))


@pytest.mark.parametrize("name", TUNED)
def test_ties_and_one_shot_take_the_first_point_of_the_grid(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"cost": 100.0, "gamma": 1.0} if name.startswith("svm") else {"max_features": "sqrt"}
    assert _chosen(fitted(name, tmp_path, small_data(1))) == first
    monkeypatch.setattr(Classical, "_correct", lambda *_: 3)
    assert _chosen(fitted(name, tmp_path, small_data(2))) == first


def test_the_best_point_of_the_grid_is_taken(tmp_path: Path) -> None:
    """A kernel so narrow that every pixel is alone cannot win."""
    method = fitted("svm", tmp_path, small_data(5), costs=(100.0,), gammas=(1e4, 1.0))
    assert _chosen(method) == {"cost": 100.0, "gamma": 1.0}


def _chosen(method: Any) -> dict[str, Any]:
    chosen: dict[str, Any] = method._chosen
    return chosen


def test_forest_depends_on_draw_and_seed_only(tmp_path: Path) -> None:
    data = small_data(3)
    one, again, seed, draw = (
        fitted("rf", tmp_path, data, **options).predict(data, ALL_PIXELS)
        for options in ({}, {}, {"seed": 1}, {"draw": 1})
    )
    np.testing.assert_array_equal(one, again)
    assert (one != seed).any()
    assert (one != draw).any()


@pytest.mark.parametrize("name", SHIPPED)
def test_saved_and_loaded_it_predicts_the_same(name: str, tmp_path: Path) -> None:
    data = small_data(3)
    method = fitted(name, tmp_path / "work", data)
    method.save(tmp_path / "saved")
    loaded = make(name, tmp_path / "other")
    loaded.load(tmp_path / "saved")
    np.testing.assert_array_equal(method.predict(data, ALL_PIXELS), loaded.predict(data, ALL_PIXELS))
    assert loaded.parameter_counts() == method.parameter_counts()


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_to_load_is_one_clear_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fit and save"):
        make(name, tmp_path).load(tmp_path)


@pytest.mark.parametrize("file", [ARRAYS_FILE, SETTINGS_FILE])
def test_damaged_state_is_one_clear_line(file: str, tmp_path: Path) -> None:
    fitted("svm", tmp_path, small_data()).save(tmp_path)
    (tmp_path / file).write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match=file):
        make("svm", tmp_path).load(tmp_path)


def test_saved_state_cannot_run_code(tmp_path: Path) -> None:
    np.savez(tmp_path / ARRAYS_FILE, features=np.array([object()], dtype=object), targets=np.arange(2))
    with pytest.raises(DataError, match="allow_pickle"):
        make("svm", tmp_path).load(tmp_path)


def test_a_neighbourhood_beyond_the_window_is_refused(tmp_path: Path) -> None:
    """The buffer of block-v1 and the leakage audit rely on the window."""
    with pytest.raises(ConfigError, match="neighbourhood 11 reaches beyond the protocol's window 7"):
        fitted("rf-spatial", tmp_path, small_data(window=7))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("svm", {"no_such": 1}, "no_such"),
        ("svm", {"costs": (0.0,)}, "costs.0"),
        ("svm", {"features": {"kind": "pixels"}}, "features"),
        ("rf", {"trees": 0}, "trees"),
        ("rf-spatial", {"features": {"kind": "neighbourhood", "sizes": [4]}}, "odd"),
    ],
)
def test_faulty_settings_are_refused(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name, tmp_path, **changes)


def test_only_the_chosen_modalities_are_seen(tmp_path: Path) -> None:
    data = small_data(2, modalities=("lidar",))
    assert fitted("nearest-prototype", tmp_path, data).parameter_counts().total == 4 * 2


def test_progress_of_tuning_ends_at_one(tmp_path: Path) -> None:
    seen: list[float] = []
    fitted("svm", tmp_path, small_data(2), progress=lambda stage, done: seen.append(done))
    assert len(seen) == 9
    assert seen == sorted(seen)
    assert seen[-1] == 1
