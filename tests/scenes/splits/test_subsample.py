"""Limited queries and the validation pixels of ``paper-val``."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiny import striped_map, tiny_scene

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import Scene


def make(scene: Scene, *, seed: int = 0, **config: object) -> SceneDataModule:
    return SceneDataModule(scene, DataConfig.model_validate({"window": 5, **config}), seed=seed)


def test_a_limited_query_keeps_every_class_and_the_proportions() -> None:
    truth = striped_map(96, 112, 3)
    truth[truth == 3] = 1
    truth.flat[np.flatnonzero(truth == 1)[:15]] = 3  # a class of 15 pixels
    scene = tiny_scene(truth)
    full = np.bincount(make(scene).query_targets)
    for limit in (300, 1000):
        data = make(scene, query_limit=limit)
        counts = np.bincount(data.query_targets, minlength=3)
        assert counts.sum() == limit
        assert counts[2] == 10
        assert counts[0] / counts[1] == pytest.approx(full[0] / full[1], rel=0.05)
        assert np.isin(data.query, data.split.query).all()
        assert (np.diff(data.query) > 0).all()
        np.testing.assert_array_equal(data.query, make(scene, query_limit=limit, seed=9, modalities=("hsi",)).query)
        assert not np.array_equal(data.query, make(scene, query_limit=limit, draw=1).query)
    assert np.bincount(make(scene, query_limit=3).query_targets).tolist() == [1, 1, 1]
    np.testing.assert_array_equal(make(scene, query_limit=10**6).query, make(scene).query)
    with pytest.raises(ConfigError, match="query_limit 2 is below the number of classes; use at least 3"):
        make(scene, query_limit=2).setup()


def test_paper_validation_is_200_query_pixels_that_stay_in_the_query() -> None:
    scene = tiny_scene(striped_map(96, 112))
    data = make(scene, selection="paper-val", shots=3)
    assert data.validation.size == np.unique(data.validation).size == 200
    assert np.isin(data.validation, data.query).all()
    np.testing.assert_array_equal(data.query, make(scene, shots=3).query)
    np.testing.assert_array_equal(data.validation_targets, scene.labels[data.validation] - 1)
    assert data.labels_used == 12 + 200
    np.testing.assert_array_equal(next(iter(data.val_dataloader()))["pixel"].numpy(), data.validation)
    np.testing.assert_array_equal(data.validation, make(scene, selection="paper-val", shots=3, seed=5).validation)
    assert len(make(scene).val_dataloader()) == 0


def test_a_small_pool_of_paper_validation_is_used_completely() -> None:
    data = make(tiny_scene(striped_map(24, 24, 2, field=6)), selection="paper-val", shots=2)
    counts = np.bincount(data.scene.labels)[1:]
    assert data.validation.size == sum(int(0.2 * count) for count in counts) < 200
    assert data.labels_used == 4 + data.validation.size
