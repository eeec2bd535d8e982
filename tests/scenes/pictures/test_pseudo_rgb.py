"""Pseudo-RGB: choice of bands, scaling, and errors where the colours are not defined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.slow_pictures import channel, slow_percentile
from helpers.tiny import striped_map, tiny_scene

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.pictures.pseudo_rgb import pseudo_rgb, rgb_bands
from mmrs_bench.scenes.scene import Scene


def scene_with(bands: int = 6, **fields: Any) -> Scene:
    """A scene whose HSI's manifest entry has some fields set."""
    scene = tiny_scene(striped_map(20, 24), bands={"lidar": 2, "hsi": bands})
    lidar, hsi = scene.manifest.modalities
    changes = {"modalities": (lidar, hsi.model_copy(update=fields))}
    return replace(scene, manifest=scene.manifest.model_copy(update=changes))


COLOURS = ("red", "green", "blue", "a", "b", "c")
CENTRES = (640.0, 550.0, 460.0, 700.0, 800.0, 900.0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"wavelengths_nm": (800.0, 450.0, 552.0, 549.0, 655.0, 630.0)}, (5, 3, 1)),
        ({"wavelengths_nm": (650.0, 630.0, 560.0, 540.0, 450.0, 470.0)}, (0, 2, 4)),  # the first of equally near ones
        ({"channel_names": ("NIR", "Blue", "Red", "a", "b", "GREEN")}, (2, 5, 1)),
        ({"channel_names": COLOURS, "wavelengths_nm": CENTRES[::-1]}, (0, 1, 2)),
        ({"channel_names": COLOURS, "rgb_bands": (5, 4, 3)}, (5, 4, 3)),
    ],
)
def test_colours_are_the_rgb_bands_then_named_channels_then_the_nearest_wavelengths(
    fields: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert rgb_bands(scene_with(**fields).manifest) == expected


@pytest.mark.parametrize(
    ("dataset", "expected"), [("houston2013", (640.7, 550.2, 459.6)), ("simulated", (630.0, 550.0, 450.0))]
)
def test_bands_of_shipped_scenes_with_known_wavelengths(dataset: str, expected: tuple[float, ...]) -> None:
    manifest = load_manifest(dataset)
    centres = manifest.modalities[0].wavelengths_nm
    assert tuple(centres[band] for band in rgb_bands(manifest)) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "does not define which bands of the hsi are red, green and blue; set modalities: hsi: rgb_bands"),
        ({"channel_names": ("red", "green", "c", "d", "e", "f")}, "rgb_bands"),
        ({"wavelengths_nm": (0.64, 0.55, 0.46, 1.0, 2.0, 3.0)}, "no red band: the nearest to 640 nm is 3 nm"),
        (
            {"wavelengths_nm": (640.0, 460.0, 509.9, 590.1, 1000.0, 2000.0)},
            "no green band: the nearest to 550 nm is 509.9 nm",
        ),
    ],
)
def test_undefined_colours_are_an_error_that_names_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        pseudo_rgb(scene_with(**fields))
    assert "rgb_bands: [red, green, blue]" in str(caught.value)
    assert "scene tiny-r1" in str(caught.value)


def test_a_scene_without_hsi_is_an_error() -> None:
    with pytest.raises(ConfigError, match="has no modality hsi"):
        pseudo_rgb(tiny_scene(striped_map(20, 24), bands={"sar": 4}))


def test_each_band_is_scaled_from_its_2nd_to_its_98th_percentile() -> None:
    scene = scene_with(rgb_bands=(4, 0, 2))
    picture = pseudo_rgb(scene)
    assert picture.shape == (20, 24, 3)
    assert picture.dtype == np.float32
    for k, band in enumerate((4, 0, 2)):
        values = channel(scene.images["hsi"], band)
        low, high = (slow_percentile(values, share) for share in (0.02, 0.98))
        expected = [min(max((value - low) / (high - low), 0.0), 1.0) for value in values]
        np.testing.assert_allclose(channel(picture, k), expected, atol=1e-6)
    assert (picture == 0).any()
    assert (picture == 1).any()


def test_the_picture_does_not_depend_on_labels_and_units() -> None:
    scene = scene_with(rgb_bands=(4, 0, 2))
    other = replace(
        scene,
        ground_truth=np.zeros_like(scene.ground_truth),
        images={**scene.images, "hsi": scene.images["hsi"] * 512 + 4096},
    )
    np.testing.assert_allclose(pseudo_rgb(other), pseudo_rgb(scene), atol=1e-5)


def test_a_band_with_equal_percentiles_is_0() -> None:
    scene = scene_with(rgb_bands=(0, 1, 2))
    scene.images["hsi"][:, :, 1] = 7.0
    scene.images["hsi"][0, 0, 1] = 9.0
    picture = pseudo_rgb(scene)
    assert (picture[:, :, 1] == 0).all()
    assert picture[:, :, 0].std() > 0.1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinite_values_in_the_bands_are_an_error(value: float) -> None:
    scene = scene_with(rgb_bands=(0, 1, 2))
    scene.images["hsi"][3, 4, 5] = value
    pseudo_rgb(scene)  # another band
    scene.images["hsi"][3, 4, 2] = value
    with pytest.raises(DataError, match=r"bands \[0, 1, 2\] of the hsi contain NaN or infinite values"):
        pseudo_rgb(scene)
