"""Pictures of scenes for figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.tiny import striped_map, tiny_scene, with_colours

from mmrs_bench.scenes.pictures.display import pseudo_colour, second_sensor
from mmrs_bench.scenes.pictures.pseudo_rgb import pseudo_rgb
from mmrs_bench.scenes.scene import Scene


def scene_with(number: int, scene: Scene, **changes: Any) -> Scene:
    """The scene with other fields of a modality in its manifest."""
    modalities = [*scene.manifest.modalities]
    modalities[number] = modalities[number].model_copy(update=changes)
    return replace(scene, manifest=scene.manifest.model_copy(update={"modalities": tuple(modalities)}))


def test_pseudo_colour_uses_the_bands_nearest_to_red_green_and_blue() -> None:
    scene = tiny_scene(striped_map(20, 20, 2), bands={"hsi": 6})
    image, shown = pseudo_colour(scene_with(0, scene, wavelengths_nm=(400, 475, 540, 660, 800, 900)))
    assert shown == "hsi, 660 540 475 nm"
    red = scene.images["hsi"][:, :, 3]
    inside = (image[:, :, 0] > 0) & (image[:, :, 0] < 1)
    assert np.corrcoef(image[:, :, 0][inside], red[inside])[0, 1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("bands", "shown"), [(1, "band 1"), (3, "3 bands"), (6, "bands 6 4 2"), (144, "bands 121 73 25")]
)
def test_pseudo_colour_without_wavelengths_uses_evenly_spaced_bands(bands: int, shown: str) -> None:
    image, description = pseudo_colour(tiny_scene(striped_map(12, 12, 2, field=4), bands={"hsi": bands}))
    assert description == f"hsi, {shown}"
    assert image.shape == (12, 12, 3)
    assert 0 <= image.min() <= image.max() <= 1


def test_pseudo_colour_takes_the_bands_of_the_manifest_as_methods_do() -> None:
    scene = with_colours(tiny_scene(striped_map(12, 12, 2, field=4)))
    image, shown = pseudo_colour(scene)
    assert shown == "hsi, bands 3 2 1"
    np.testing.assert_array_equal(image, pseudo_rgb(scene))


def test_the_second_sensor_is_grey_and_sar_is_coloured() -> None:
    truth = striped_map(12, 12, 2, field=4)
    assert second_sensor(tiny_scene(truth, bands={"hsi": 4})) is None
    lidar = second_sensor(scene_with(1, tiny_scene(truth), channel_names=("height_m", "intensity")))
    assert lidar is not None
    assert lidar.shown == "lidar, height_m"
    assert (lidar.image == lidar.image[:, :, :1]).all()
    assert (lidar.image.min(), lidar.image.max()) == (0, 1)
    for bands, shown in ((1, "sar, band 1"), (3, "sar, Pauli-like")):
        sar = second_sensor(tiny_scene(truth, bands={"hsi": 4, "sar": bands}))
        assert sar is not None
        assert (sar.shown, sar.image.shape, sar.image.dtype) == (shown, (12, 12, 3), np.float32)
        assert 0 <= sar.image.min() <= sar.image.max() <= 1
