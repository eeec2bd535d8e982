"""Pictures of sensors: scaling, components and Pauli-like colours against slow references, for all scenes."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.slow_pictures import channel, slow_percentile, slow_stretch
from helpers.tiny import striped_map, tiny_scene, with_colours

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.pictures import sensor_images as module
from mmrs_bench.scenes.pictures.pseudo_rgb import pseudo_rgb
from mmrs_bench.scenes.pictures.sensor_images import sensor_images
from mmrs_bench.scenes.scene import FloatArray, Scene

SIZE = (20, 24)


def scene_of(bands: dict[str, int], **images: FloatArray) -> Scene:
    """A tiny scene with defined colours, with some of its images replaced."""
    scene = with_colours(tiny_scene(striped_map(*SIZE), bands=bands))
    return replace(scene, images={**scene.images, **images})


def expected_components(hsi: FloatArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Scaled scores (pixels, 3) by singular value decomposition; the largest loading is positive."""
    flat = hsi.reshape(-1, hsi.shape[2]).astype(np.float64)
    centred = flat - flat.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:3]
    directions = np.array([d if max(d) > -min(d) else -d for d in directions])
    return np.array([slow_stretch(list(scores)) for scores in directions @ centred.T]).T


def assert_picture(found: FloatArray, expected: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    """Compare with [0, 1] values (pixels, 3), mapped to [-1, 1]."""
    assert (found.shape, found.dtype) == ((*SIZE, 3), np.float32)
    np.testing.assert_allclose(found.reshape(-1, 3), 2 * expected - 1, atol=1e-5)
    assert (found.min(), found.max()) == (-1, 1)


def test_rgb_is_the_pseudo_rgb_picture() -> None:
    scene = scene_of({"hsi": 5})
    np.testing.assert_array_equal(sensor_images(scene)["rgb"], 2 * pseudo_rgb(scene) - 1)


def test_components_are_those_of_the_singular_value_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in (module.CHUNK_PIXELS, 3 * SIZE[1], 1):  # all rows, blocks that do not divide the rows, single rows
        monkeypatch.setattr(module, "CHUNK_PIXELS", chunk)
        for bands in (3, 7):
            scene = scene_of({"hsi": bands})
            assert_picture(sensor_images(scene)["pca"], expected_components(scene.images["hsi"]))


def test_only_pixels_without_any_measurement_are_excluded() -> None:
    hsi = scene_of({"hsi": 6}).images["hsi"].copy()
    hsi[:5] = hsi[:, 20:] = 0
    hsi[7, 4, :5] = 0
    picture = sensor_images(scene_of({"hsi": 6}, hsi=hsi))["pca"]
    assert (picture[:5] == -1).all()
    assert (picture[:, 20:] == -1).all()
    expected = 2 * expected_components(hsi[5:, :20]) - 1
    np.testing.assert_allclose(picture[5:, :20].reshape(-1, 3), expected, atol=1e-5)


def test_components_without_variance_are_black() -> None:
    grey = scene_of({"hsi": 3}).images["hsi"][:, :, :1]
    picture = sensor_images(scene_of({"hsi": 3}, hsi=grey * np.float32([1, 3, -0.7])))["pca"]
    assert (picture[:, :, 0].min(), picture[:, :, 0].max()) == (-1, 1)
    assert (picture[:, :, 1:] == -1).all()
    constant = sensor_images(scene_of({"hsi": 3}, hsi=np.full((*SIZE, 3), 0.1, dtype=np.float32)))
    assert all((picture == -1).all() for picture in constant.values())


@pytest.mark.parametrize("channels", [2, 4])
def test_sar_follows_the_stated_formula(channels: int) -> None:
    scene = scene_of({"sar": channels})
    first, second = np.moveaxis(scene.images["sar"].astype(np.float64), 2, 0)[:2]
    colours = ((abs(first - second), 1.25), (2 * abs(second) ** 0.5, 0.95), (abs(first + second), 1.15))
    for k, (values, gain) in enumerate(colours):
        low, high = (slow_percentile(list(values.ravel()), share) for share in (0.02, 0.98))
        roots = values.clip(low, high) ** 0.5
        scaled = (roots - low**0.5) / (high**0.5 - low**0.5)
        expected = 2 * (gain * scaled).clip(0, 1) ** 0.7 - 1
        np.testing.assert_allclose(sensor_images(scene)["sar"][:, :, k], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["lidar", "dsm"])
def test_every_raster_is_a_grey_picture_with_its_own_scale(name: str) -> None:
    one = sensor_images(scene_of({name: 1}))
    assert list(one) == [name]
    scene = scene_of({name: 2})
    scene.images[name][:, :, 1] *= 1000
    pictures = sensor_images(scene)
    assert list(pictures) == [f"{name}0", f"{name}1"]
    for k, picture in enumerate(pictures.values()):
        assert_picture(picture, np.array([slow_stretch(channel(scene.images[name], k))] * 3).T)


EXPECTED = {
    "houston2013": ["rgb", "pca", "lidar"],
    "trento": ["rgb", "pca", "lidar0", "lidar1"],
    "muufl": ["rgb", "pca", "lidar0", "lidar1"],
    "augsburg": ["rgb", "pca", "sar"],
    "berlin": ["rgb", "pca", "sar"],
}


@pytest.mark.parametrize("dataset", EXPECTED)
def test_all_modalities_of_every_scene_have_a_picture(dataset: str) -> None:
    """The modalities of the manifests, with random values on a small raster."""
    manifest = load_manifest(dataset)
    rng = np.random.default_rng(0)
    images = {m.name: rng.gamma(2.0, size=(*SIZE, m.bands)).astype(np.float32) for m in manifest.modalities}
    small = manifest.model_copy(update={"height": SIZE[0], "width": SIZE[1]})
    pictures = sensor_images(with_colours(Scene(small, images, np.zeros(SIZE, dtype=np.int64))))
    assert list(pictures) == EXPECTED[dataset]
    for picture in pictures.values():
        assert (picture.shape, picture.dtype) == ((*SIZE, 3), np.float32)
        assert (picture.min(), picture.max()) == (-1, 1)


def test_pictures_do_not_depend_on_labels_and_images_are_not_changed() -> None:
    scene = scene_of({"hsi": 5, "lidar": 1, "sar": 4})
    for image in scene.images.values():
        image.flags.writeable = False
    other = replace(scene, ground_truth=np.ones_like(scene.ground_truth))
    for name, picture in sensor_images(scene).items():
        np.testing.assert_array_equal(picture, sensor_images(other)[name])


def test_the_hsi_comes_first_and_only_chosen_modalities_are_returned() -> None:
    scene = scene_of({"sar": 4, "dsm": 1, "hsi": 5})
    assert list(sensor_images(scene)) == ["rgb", "pca", "sar", "dsm"]
    assert list(sensor_images(scene, ("dsm", "hsi"))) == ["rgb", "pca", "dsm"]
    assert list(sensor_images(scene, ("sar",))) == ["sar"]
    with pytest.raises(ConfigError, match="unknown modality of scene tiny 'lidar'"):
        sensor_images(scene, ("hsi", "lidar"))


def test_the_hsi_is_never_copied_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = with_colours(tiny_scene(striped_map(128, 128), bands={"hsi": 200}))
    monkeypatch.setattr(module, "CHUNK_PIXELS", 512)
    tracemalloc.start()
    try:
        sensor_images(scene)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < scene.images["hsi"].nbytes / 2


@pytest.mark.parametrize("name", ["hsi", "sar", "lidar"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinite_values_are_an_error(name: str, value: float) -> None:
    scene = scene_of({"hsi": 5, "sar": 2, "lidar": 1})
    scene.images[name][2, 3, -1] = value  # in the HSI, not a colour band
    with pytest.raises(DataError, match=f"the {name} contains NaN or infinite values"):
        sensor_images(scene)


def test_scenes_that_cannot_be_shown_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"the sar has 1 channel, expected at least 2.*--modalities"):
        sensor_images(scene_of({"sar": 1}))
    with pytest.raises(DataError, match="all values of the hsi are 0"):
        sensor_images(scene_of({"hsi": 3}, hsi=np.zeros((*SIZE, 3), dtype=np.float32)))
