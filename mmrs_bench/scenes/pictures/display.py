"""Pictures of a scene for figures; methods never receive them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmrs_bench.scenes.manifest import Modality
from mmrs_bench.scenes.pictures.pseudo_rgb import COLOURS_NM, STRETCH, stretch
from mmrs_bench.scenes.pictures.sensor_images import sensor_images
from mmrs_bench.scenes.scene import FloatArray, Scene


class Picture(NamedTuple):
    """An image (height, width, 3) float32 in [0, 1], and what it shows."""

    image: FloatArray
    shown: str


def pseudo_colour(scene: Scene) -> Picture:
    """The scene's first modality in colours.

    The bands are ``rgb_bands`` of the manifest, else those nearest to red, green and blue if the wavelengths are known,
    else evenly spaced ones. Unlike `mmrs_bench.scenes.pictures.pseudo_rgb.pseudo_rgb`, it shows every scene.
    """
    modality = scene.manifest.modalities[0]
    bands, shown = _colour_bands(modality)
    image = scene.images[modality.name][:, :, bands].astype(np.float64)
    image = stretch(image, *np.percentile(image, STRETCH, axis=(0, 1)))
    return Picture(image.astype(np.float32), f"{modality.name}, {shown}")


def second_sensor(scene: Scene) -> Picture | None:
    """The scene's second modality: SAR in colours, other rasters in grey; None if there is only one modality."""
    if len(scene.manifest.modalities) < 2:
        return None
    modality = scene.manifest.modalities[1]
    if modality.name == "sar" and modality.bands > 1:
        image = (sensor_images(scene, ["sar"])["sar"] + 1) / 2
        return Picture(image.astype(np.float32), "sar, Pauli-like")
    grey = scene.images[modality.name][:, :, [0, 0, 0]].astype(np.float64)
    grey = stretch(grey, *np.percentile(grey, STRETCH, axis=(0, 1)))
    channel = modality.channel_names[0] if modality.channel_names else "band 1"
    return Picture(grey.astype(np.float32), f"{modality.name}, {channel}")


def _colour_bands(modality: Modality) -> tuple[list[int], str]:
    """Three bands, and their description."""
    if modality.rgb_bands is not None:
        return [*modality.rgb_bands], _numbered(modality.rgb_bands)
    if modality.wavelengths_nm is not None:
        centres = np.asarray(modality.wavelengths_nm)
        bands = [int(np.abs(centres - nm).argmin()) for nm in COLOURS_NM.values()]
        return bands, " ".join(f"{centres[band]:.0f}" for band in bands) + " nm"
    if modality.bands == 3:
        return [0, 1, 2], "3 bands"
    if modality.bands > 3:
        bands = [round(modality.bands * part) for part in (5 / 6, 3 / 6, 1 / 6)]
        return bands, _numbered(bands)
    return [0, 0, 0], "band 1"


def _numbered(bands: list[int] | tuple[int, ...]) -> str:
    return "bands " + " ".join(str(band + 1) for band in bands)
