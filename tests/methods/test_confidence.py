"""Confidence of predictions: the largest class probability, with the same targets as without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.method_helpers import few_epochs

from mmrs_bench.config import DataConfig
from mmrs_bench.methods.base import Method, Prediction, RunContext, method_class
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.classical.method import Majority
from mmrs_bench.methods.conformance import PIXELS, tiny_scene
from mmrs_bench.methods.setting_files import usable_config
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

#: One method of each kind: trees, spread labels, softmax of a network and of cosines, mean of branches, votes of tiles.
WITH = ("rf", "label-propagation", "cnn", "clip", "bdgf", "unidiff-tiny", "geodiffnet-f-tiny")
WITHOUT = ("majority", "nearest-prototype", "svm")


def data_of_tiny_scene(**options: object) -> SceneDataModule:
    fields = {"split": "official-v1", "shots": 2, "window": 11, "selection": "last", **options}
    return SceneDataModule(tiny_scene({"hsi": 5, "lidar": 1}), DataConfig.model_validate(fields))


def fitted(name: str, data: SceneDataModule, folder: Path) -> Method:
    card = method_card(name)
    settings = usable_config(resolve_config(card, "default", "smoke"), name) | few_epochs(name)
    method = method_class(card)(settings, RunContext(0, 0, folder))
    method.pretrain(data)
    method.fit(data)
    return method


@pytest.mark.parametrize("name", WITH)
def test_methods_with_probabilities_have_a_confidence(tmp_path: Path, name: str) -> None:
    data = data_of_tiny_scene(selection="support-cv") if name == "rf" else data_of_tiny_scene()
    method = fitted(name, data, tmp_path)
    targets, confidence = method.predict_with_confidence(data, PIXELS)
    np.testing.assert_array_equal(targets, method.predict(data, PIXELS))
    assert confidence is not None
    assert confidence.dtype == np.float32
    assert 1 / 3 - 1e-6 <= confidence.min() <= confidence.max() <= 1 + 1e-6
    assert method.predict_with_confidence(data, PIXELS[:0]).targets.shape == (0,)


@pytest.mark.parametrize("name", WITHOUT)
def test_methods_without_probabilities_have_none(tmp_path: Path, name: str) -> None:
    data = data_of_tiny_scene(selection="support-cv") if name == "svm" else data_of_tiny_scene()
    method = fitted(name, data, tmp_path)
    targets, confidence = method.predict_with_confidence(data, PIXELS)
    np.testing.assert_array_equal(targets, method.predict(data, PIXELS))
    assert confidence is None


def test_confidence_of_a_forest_is_the_mean_vote_of_its_trees(tmp_path: Path) -> None:
    data = data_of_tiny_scene(selection="support-cv")
    method = fitted("rf", data, tmp_path)
    features = method.config.features.extractor(data)(PIXELS)
    votes = np.mean([tree.predict_proba(features) for tree in method._estimator.estimators_], axis=0)
    _, confidence = method.predict_with_confidence(data, PIXELS)
    np.testing.assert_allclose(confidence, votes.max(axis=1), atol=1e-6)


def test_a_dropped_modality_is_missing_from_the_confidence_too(tmp_path: Path) -> None:
    data = data_of_tiny_scene(selection="support-cv", drop=("lidar",))
    method = fitted("rf", data, tmp_path)
    targets, confidence = method.classify_with_confidence(data, PIXELS)
    np.testing.assert_array_equal(targets, method.classify(data, PIXELS))
    np.testing.assert_array_equal(confidence, method.predict_with_confidence(data.without(("lidar",)), PIXELS)[1])


class OwnWay(Majority):
    """Has its own prediction without modalities, which has no confidence."""

    def predict_with_confidence(self, data: SceneDataModule, pixels: IntArray) -> Prediction:
        return Prediction(self.predict(data, pixels), np.ones(len(pixels), np.float32))

    def predict_without(self, data: SceneDataModule, pixels: IntArray, missing: object) -> IntArray:
        return np.full(len(pixels), 2, np.int64)


def test_a_method_with_its_own_way_without_modalities_keeps_it(tmp_path: Path) -> None:
    data = data_of_tiny_scene(drop=("lidar",))
    method = OwnWay({}, RunContext(0, 0, tmp_path))
    method.fit(data)
    targets, confidence = method.classify_with_confidence(data, PIXELS)
    assert (set(targets), confidence) == ({2}, None)
