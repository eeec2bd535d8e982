"""Pseudo-RGB: a scene's HSI as an ordinary picture, for models that were trained on photographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.scene import FloatArray, Scene

#: Wavelengths (nm) whose nearest bands stand for the colours.
COLOURS_NM = {"red": 640.0, "green": 550.0, "blue": 460.0}
#: A band farther away than this (nm) is another colour. Less than half the gap between colours, so that no band serves
#: two of them; more than the red, green and blue of usual multispectral sensors differ from ours.
FARTHEST_NM = 40.0
#: Percentiles of a band, over the whole scene, that become 0 and 1.
STRETCH = (2.0, 98.0)

Values = NDArray[np.float64]


def rgb_bands(manifest: Manifest) -> tuple[int, int, int]:
    """The HSI's bands, counted from 0, that stand for red, green and blue.

    The manifest's ``rgb_bands`` if it gives them; else the channels named red, green and blue; else the bands nearest
    to 640, 550 and 460 nm by ``wavelengths_nm`` (the earlier one, if two are equally near). Nothing is guessed from a
    range of wavelengths.

    Raises:
        ConfigError: If the scene has no HSI, the manifest does not say which bands they are, or no band is within
            `FARTHEST_NM` of a colour.
    """
    where = manifest.path if manifest.path.name else f"scene {manifest.tag}"
    fill_in = "give modalities: hsi: rgb_bands: [red, green, blue], counted from 0"
    hsi = next((modality for modality in manifest.modalities if modality.name == "hsi"), None)
    if hsi is None:
        raise ConfigError(f"{where}: has no modality hsi, so no colours; choose a scene that has one")
    if hsi.rgb_bands is not None:
        return hsi.rgb_bands
    names = [name.lower() for name in hsi.channel_names]
    if set(COLOURS_NM) <= set(names):
        red, green, blue = (names.index(colour) for colour in COLOURS_NM)
        return red, green, blue
    if hsi.wavelengths_nm is None:
        raise ConfigError(
            f"{where}: nothing says which bands of the hsi are red, green and blue; {fill_in}, or wavelengths_nm where "
            "the band centres are truly known"
        )
    bands = []
    for colour, wanted in COLOURS_NM.items():
        distances = np.abs(np.asarray(hsi.wavelengths_nm) - wanted)
        band = int(distances.argmin())
        if distances[band] > FARTHEST_NM:
            raise ConfigError(
                f"{where}: wavelengths_nm of the hsi has no {colour} band: {hsi.wavelengths_nm[band]:g} nm is the "
                f"nearest to {wanted:g} nm, expected one within {FARTHEST_NM:g} nm; {fill_in}, to show others instead"
            )
        bands.append(band)
    return bands[0], bands[1], bands[2]


def pseudo_rgb(scene: Scene) -> FloatArray:
    """A scene's HSI as red, green and blue in [0, 1].

    Each band is stretched linearly from its 2nd to its 98th percentile over the whole scene, without labels, and
    clipped. A band whose two percentiles are equal shows nothing and becomes 0.

    Args:
        scene: The scene, raw.

    Returns:
        (height, width, 3) float32.

    Raises:
        ConfigError: If the bands are not known (see `rgb_bands`).
        DataError: If one of the bands holds NaN or infinite values.
    """
    bands = list(rgb_bands(scene.manifest))
    picture = scene.images["hsi"][:, :, bands].astype(np.float64)
    if not np.isfinite(picture).all():
        raise DataError(
            f"scene {scene.manifest.tag}: bands {bands} of the hsi hold NaN or infinite values; mend or exclude them"
        )
    return stretched(picture, *np.percentile(picture, STRETCH, axis=(0, 1))).astype(np.float32)


def stretched(values: Values, low: Values, high: Values) -> Values:
    """Channels (..., c) scaled linearly so that ``low`` (c,) is 0 and ``high`` 1, clipped; 0 where these are equal."""
    flat = high <= low
    return np.where(flat, 0.0, ((values - low) / np.where(flat, 1.0, high - low)).clip(0.0, 1.0))
