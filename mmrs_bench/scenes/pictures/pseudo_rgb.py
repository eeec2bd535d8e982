"""Pseudo-RGB: a scene's HSI as an RGB picture, for models pretrained on photographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.scene import FloatArray, Scene

#: Wavelengths of the colours in nm; the nearest bands are used.
COLOURS_NM = {"red": 640.0, "green": 550.0, "blue": 460.0}
#: Largest distance of a band from its colour in nm, less than half the distance between two colours.
MAX_DISTANCE_NM = 40.0
#: Percentiles of a band, over the whole scene, that become 0 and 1.
STRETCH = (2.0, 98.0)

Values = NDArray[np.float64]


def rgb_bands(manifest: Manifest) -> tuple[int, ...]:
    """Indices of the HSI bands for red, green and blue, counted from 0.

    The manifest's ``rgb_bands`` come first, then the channels named red, green and blue, then the bands nearest to 640,
    550 and 460 nm (the first of equally near ones). A range of wavelengths is not enough.

    Raises:
        ConfigError: If the scene has no HSI, the manifest does not define the bands, or no band is within
            `MAX_DISTANCE_NM` of a colour.
    """
    where = manifest.path if manifest.path.name else f"scene {manifest.tag}"
    advice = "set modalities: hsi: rgb_bands: [red, green, blue], counted from 0"
    hsi = next((modality for modality in manifest.modalities if modality.name == "hsi"), None)
    if hsi is None:
        raise ConfigError(f"{where}: has no modality hsi, so no colours; choose a scene that has one")
    if hsi.rgb_bands is not None:
        return hsi.rgb_bands
    names = [name.lower() for name in hsi.channel_names]
    if set(COLOURS_NM) <= set(names):
        return tuple(names.index(colour) for colour in COLOURS_NM)
    if hsi.wavelengths_nm is None:
        raise ConfigError(
            f"{where}: does not define which bands of the hsi are red, green and blue; {advice}, or wavelengths_nm if "
            "the band centres are known"
        )
    bands = []
    for colour, target in COLOURS_NM.items():
        distances = np.abs(np.asarray(hsi.wavelengths_nm) - target)
        band = int(distances.argmin())
        if distances[band] > MAX_DISTANCE_NM:
            raise ConfigError(
                f"{where}: wavelengths_nm of the hsi has no {colour} band: the nearest to {target:g} nm is "
                f"{hsi.wavelengths_nm[band]:g} nm, expected one within {MAX_DISTANCE_NM:g} nm; {advice}, to use others"
            )
        bands.append(band)
    return tuple(bands)


def pseudo_rgb(scene: Scene) -> FloatArray:
    """A scene's HSI as red, green and blue in [0, 1].

    Each band is scaled linearly from its 2nd to its 98th percentile over the whole scene, without labels, and clipped.
    A band with equal percentiles becomes 0.

    Returns:
        (height, width, 3) float32.

    Raises:
        ConfigError: If the bands are not defined (see `rgb_bands`).
        DataError: If one of the bands contains NaN or infinite values.
    """
    bands = list(rgb_bands(scene.manifest))
    picture = scene.images["hsi"][:, :, bands].astype(np.float64)
    check_finite(scene, f"bands {bands} of the hsi contain", picture)
    return stretch(picture, *np.percentile(picture, STRETCH, axis=(0, 1))).astype(np.float32)


def check_finite(scene: Scene, found: str, values: Values) -> None:
    """Raise a `DataError` if values are NaN or infinite; ``found`` is subject and verb of the message."""
    if not np.isfinite(values).all():
        raise DataError(f"scene {scene.manifest.tag}: {found} NaN or infinite values; correct or exclude them")


def stretch(values: Values, low: Values, high: Values) -> Values:
    """Channels (..., c) scaled linearly so that ``low`` (c,) is 0 and ``high`` 1, clipped; 0 where these are equal."""
    flat = high <= low
    return np.where(flat, 0.0, ((values - low) / np.where(flat, 1.0, high - low)).clip(0.0, 1.0))
