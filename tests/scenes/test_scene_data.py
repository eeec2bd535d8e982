"""A scene under a protocol: pixels, targets, images, features and components."""

from __future__ import annotations

import mmrs_bench  # noqa: F401 - its torchvision guard comes before lightning

# isort: split

import numpy as np
import pytest
import torch
from helpers.scene_loaders import make
from helpers.tiny import striped_map, tiny_scene

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import Scene
from mmrs_bench.scenes.splits.split import make_split

# Lightning's own use of torch's pytrees, with torch 2.9 and later.
pytestmark = pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return tiny_scene(striped_map(96, 112), bands={"hsi": 5, "lidar": 2})


def test_pixels_and_targets(scene: Scene) -> None:
    data = make(scene, shots=3, draw=4)
    split = make_split(scene, "random-v1", shots=3, draw=4, window=5)
    assert data.split.sha256 == split.sha256
    np.testing.assert_array_equal(data.support, split.support)
    np.testing.assert_array_equal(data.support_targets, np.repeat(np.arange(4), 3))
    np.testing.assert_array_equal(data.query, split.query)
    np.testing.assert_array_equal(data.query_targets, scene.labels[split.query] - 1)
    assert data.labels_used == 12
    assert (data.num_classes, data.class_names) == (4, ("class 1", "class 2", "class 3", "class 4"))
    assert data.validation.size == data.validation_targets.size == 0


def test_images_features_and_windows_agree(scene: Scene) -> None:
    data = make(scene)
    assert data.modalities == ("hsi", "lidar")
    assert data.channels == {"hsi": 5, "lidar": 2}
    for name, image in data.images.items():
        raw = scene.images[name].reshape(-1, image.shape[2]).astype(np.float64)
        expected = ((raw - raw.mean(axis=0)) / raw.std(axis=0)).reshape(image.shape)
        np.testing.assert_allclose(image, expected, atol=1e-5)
    features = data.features(data.support)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features[:, :5], data.images["hsi"].reshape(-1, 5)[data.support])
    np.testing.assert_array_equal(features[:, 5:], data.images["lidar"].reshape(-1, 2)[data.support])
    np.testing.assert_array_equal(data.features(data.support, ["lidar"]), features[:, 5:])
    windows = data.add_windows({"pixel": torch.from_numpy(data.support)})["windows"]
    centres = torch.cat([windows["hsi"], windows["lidar"]], dim=1)[:, :, 2, 2]
    np.testing.assert_array_equal(centres.numpy(), features)


def test_images_are_read_only_views(scene: Scene) -> None:
    data = make(scene)
    image = data.images["hsi"]
    assert np.shares_memory(image, data.images["lidar"].base)
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 0
    data.setup()
    assert np.shares_memory(image, data.images["hsi"])  # a second setup does nothing


def test_chosen_modalities_keep_the_manifest_order(scene: Scene) -> None:
    assert make(scene, modalities=("lidar", "hsi")).modalities == ("hsi", "lidar")
    only = make(scene, modalities=("lidar",))
    assert only.channels == {"lidar": 2}
    assert only.features(only.support).shape == (8, 2)
    with pytest.raises(ConfigError, match=r"unknown modality 'hsi'\. Known: lidar"):
        only.features(only.support, ["hsi"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modalities": ("lidr",)}, "unknown modality of scene tiny 'lidr': did you mean lidar"),
        ({"pca": 2, "modalities": ("lidar",)}, "pca 2 needs modality hsi"),
        ({"unlabelled": "train-blocks"}, "unlabelled train-blocks needs the split block-v1, the split is random-v1"),
        ({"normalisation_scope": "train-blocks"}, "normalisation_scope train-blocks needs the split block-v1"),
    ],
)
def test_settings_that_do_not_fit_the_scene_are_errors(scene: Scene, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(scene, **settings).setup()


def test_principal_components_replace_the_bands(scene: Scene) -> None:
    data = make(scene, pca=3)
    assert data.channels == {"hsi": 3, "lidar": 2}
    components = data.images["hsi"].reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(np.cov(components.T), np.eye(3), atol=1e-3)
    np.testing.assert_array_equal(data.images["lidar"], make(scene).images["lidar"])


@pytest.mark.parametrize("scope", ["scene", "train-blocks", "support"])
def test_normalisation_is_fitted_on_its_scope(scene: Scene, scope: str) -> None:
    data = make(scene, split="block-v1", normalisation_scope=scope, shots=5)
    pixels = {"scene": np.arange(96 * 112), "train-blocks": data.split.train_area, "support": data.support}
    inside = data.features(pixels[scope]).astype(np.float64)
    np.testing.assert_allclose(inside.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(inside.std(axis=0), 1, atol=1e-5)


def test_unlabelled_scopes(scene: Scene) -> None:
    np.testing.assert_array_equal(make(scene).unlabelled, np.arange(96 * 112))
    support = make(scene, unlabelled="support")
    np.testing.assert_array_equal(support.unlabelled, np.sort(support.support))
    blocks = make(scene, split="block-v1", unlabelled="train-blocks")
    np.testing.assert_array_equal(blocks.unlabelled, blocks.split.train_area)
    assert (scene.labels[blocks.unlabelled] == 0).any()


def test_the_hash_of_the_images_depends_on_their_values_only(scene: Scene) -> None:
    first = make(scene).images_sha256()
    relabelled = Scene(scene.manifest, scene.images, np.roll(scene.ground_truth, 7, axis=1))
    irrelevant = {"shots": 5, "draw": 3, "seed": 2, "unlabelled": "support", "selection": "paper-val"}
    for same in (make(scene, **irrelevant), make(scene, modalities=("hsi", "lidar")), make(relabelled)):
        assert same.images_sha256() == first
    changed = scene.images["lidar"].copy()
    changed[11, 17, 0] += 0.01
    others = [make(scene), make(Scene(scene.manifest, {**scene.images, "lidar": changed}, scene.ground_truth))]
    for change in (
        {"window": 3},
        {"modalities": ("hsi",)},
        {"pca": 2},
        {"normalisation": "minmax"},
        {"normalisation": "cube"},
        {"normalisation_scope": "support"},
        {"normalisation_scope": "support", "draw": 1},
    ):
        others.append(make(scene, **change))
    assert len({data.images_sha256() for data in others}) == len(others)


def test_with_components_replaces_bands_of_the_same_pixels(scene: Scene) -> None:
    settings = {"shots": 3, "draw": 2, "selection": "paper-val", "query_limit": 400, "unlabelled": "support"}
    data = SceneDataModule(
        scene, DataConfig(window=5, **settings), seed=4, batch_size=9, inference_batch=33, augment=False
    )
    fewer, expected = data.with_components(3), make(scene, pca=3, **settings)
    assert fewer.channels == {"hsi": 3, "lidar": 2}
    assert fewer.images_sha256() == expected.images_sha256()
    for name in ("support", "query", "unlabelled", "validation"):
        np.testing.assert_array_equal(getattr(fewer, name), getattr(data, name))
    kept = ("seed", "batch_size", "inference_batch", "augment")
    assert [getattr(fewer, name) for name in kept] == [getattr(data, name) for name in kept]
    assert fewer.config == expected.config
    assert data.channels == {"hsi": 5, "lidar": 2}
    assert data.with_components(99).channels == {"hsi": 5, "lidar": 2}
    assert data.with_components(99).images_sha256() != data.images_sha256(), "the components are the bands"


def test_with_normalisation_changes_the_images_of_the_same_pixels(scene: Scene) -> None:
    data = make(scene, normalisation_scope="support")
    assert data.with_normalisation("zscore") is data
    for method in ("minmax", "cube"):
        other, expected = (
            data.with_normalisation(method),
            make(scene, normalisation_scope="support", normalisation=method),
        )
        assert other is data.with_normalisation(method)
        assert other.images_sha256() == expected.images_sha256()
        assert other.config == expected.config
        np.testing.assert_array_equal(other.query, data.query)
    both = data.with_components(3).with_normalisation("cube")
    expected = make(scene, normalisation_scope="support", normalisation="cube", pca=3)
    assert both.images_sha256() == expected.images_sha256()
    assert list(data.component_axes()) == [3]


def test_with_components_changes_nothing_without_bands(scene: Scene) -> None:
    for data in (make(scene, pca=2), make(scene, modalities=("lidar",))):
        assert data.with_components(1) is data
