"""RGB-like pictures of a scene's sensors, for models pretrained on photographs.

Percentiles and principal components are computed over the whole scene, test pixels included, but without labels. A
method that uses these pictures is therefore transductive and must declare it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import ConfigError, DataError, unknown_name
from mmrs_bench.scenes.normalise import CHUNK_PIXELS
from mmrs_bench.scenes.pictures.pseudo_rgb import STRETCH, Values, check_finite, pseudo_rgb, stretch
from mmrs_bench.scenes.scene import FloatArray, Scene

#: Factors on the red, green and blue of SAR after the stretch; the clipped products are raised to `SAR_GAMMA`.
SAR_GAINS = (1.25, 0.95, 1.15)
SAR_GAMMA = 0.7
#: Modalities that become grey pictures.
GREY = ("lidar", "dsm")


def sensor_images(scene: Scene, modalities: Collection[str] | None = None) -> dict[str, FloatArray]:
    """The RGB-like pictures of a scene's sensors: the inputs of UniDiff.

    | picture | modality | content |
    |---|---|---|
    | ``rgb`` | hsi | `pseudo_rgb` |
    | ``pca`` | hsi | the first 3 principal components; the largest loading of each is positive |
    | ``sar`` | sar | Pauli-like picture of the first two channels, the intensities C11 and C22 |
    | ``lidar``, ``dsm`` | the same | the raster, three times |
    | ``lidar0``, ``lidar1``, ... | lidar or dsm with several rasters | one picture for each raster |

    Each channel is scaled from its 2nd to its 98th percentile over the whole scene, clipped, and mapped to [-1, 1]. A
    channel with equal percentiles and a component without variance become -1. Pixels of the HSI with only zeros have no
    measurement: they are excluded from components and percentiles, and are -1 in ``pca``.

    SAR: R = |C11 - C22|, G = 2 sqrt|C22|, B = |C11 + C22|; clipped to the percentiles, square root, scaled to [0, 1],
    times `SAR_GAINS`, clipped, to the power `SAR_GAMMA`.

    The HSI is read in blocks of rows, so memory holds the scene, the pictures and one block in float64.

    Args:
        scene: The scene, not normalised.
        modalities: Modalities that the method uses; None uses all.

    Returns:
        Pictures (height, width, 3) float32 by name: those of the HSI, then the others in the manifest's order.

    Raises:
        ConfigError: If a modality is unknown, the HSI's colours are not defined (see `rgb_bands`), or a
            SAR image has only one channel.
        DataError: If an image contains NaN or infinite values, or the HSI only zeros.

    Reference: UniDiff (arXiv 2512.00261), inputs of the released code; GeoDiffNet (arXiv 2512.03430) uses ``rgb`` only.
    Deviation: no 8-bit files in between; components are scaled once, not twice (the second time changes only rounding);
        one gamma for all scenes (the code has 0.7 for Augsburg, 0.8 for Berlin). LiDAR, which the paper's two scenes do
        not have, is treated as its DSM; height and intensity are not averaged, because their units differ.
    """
    names = scene.manifest.modality_names
    chosen = set(names if modalities is None else modalities)
    for name in sorted(chosen - set(names)):
        raise unknown_name(f"modality of scene {scene.manifest.id}", name, names)
    pictures: dict[str, FloatArray] = {}
    if "hsi" in chosen:
        pictures["rgb"] = _signed(pseudo_rgb(scene))
        pictures["pca"] = _signed(_components(scene))
    for name in (name for name in names if name in chosen and name != "hsi"):
        if name == "sar":
            pictures[name] = _signed(_pauli_like(scene))
        else:
            pictures.update(_grey(scene, name))
    return pictures


def _signed(picture: Values | FloatArray) -> FloatArray:
    """[0, 1] to [-1, 1]."""
    return (2.0 * picture - 1.0).astype(np.float32)


def _components(scene: Scene) -> Values:
    """The first 3 principal components of the centred HSI (height, width, 3), scaled to [0, 1]."""
    hsi = scene.images["hsi"]
    bands = hsi.shape[2]
    present: NDArray[np.bool_] = np.any(hsi, axis=2)
    count, total = np.count_nonzero(present), np.zeros(bands)
    for spectra in _blocks(hsi, present):
        check_finite(scene, "the hsi contains", spectra)
        total += spectra.sum(axis=0)
    if count == 0:
        raise DataError(f"scene {scene.manifest.tag}: all values of the hsi are 0; check its file and key")
    mean = total / count
    scatter = np.zeros((bands, bands))
    for spectra in _blocks(hsi, present):
        spectra -= mean
        scatter += spectra.T @ spectra
    variances, directions = np.linalg.eigh(scatter)  # ascending
    variances, directions = variances[:-4:-1], directions[:, :-4:-1]
    largest = directions[np.abs(directions).argmax(axis=0), range(3)]
    # A component of rounding errors only would otherwise be scaled to a full picture.
    significant = variances > max(count, bands) * np.finfo(np.float64).eps * variances[0]
    directions = np.where(significant, directions * np.sign(largest), 0.0)
    scores = np.concatenate([(spectra - mean) @ directions for spectra in _blocks(hsi, present)])
    picture = np.zeros((*present.shape, 3))
    picture[present] = stretch(scores, *np.percentile(scores, STRETCH, axis=0))
    return picture


def _blocks(hsi: FloatArray, present: NDArray[np.bool_]) -> Iterator[Values]:
    """Spectra (n, bands) of the pixels with a measurement, in blocks of rows."""
    step = max(1, CHUNK_PIXELS // hsi.shape[1])
    for start in range(0, hsi.shape[0], step):
        rows = slice(start, start + step)
        yield hsi[rows][present[rows]].astype(np.float64)


def _pauli_like(scene: Scene) -> Values:
    """The SAR picture (height, width, 3) in [0, 1]; see `sensor_images`."""
    image = scene.images["sar"]
    if image.shape[2] < 2:
        raise ConfigError(
            f"scene {scene.manifest.tag}: the sar has 1 channel, expected at least 2, the intensities C11 and C22 (VV "
            "and VH, for example); add the other channel to the manifest, or exclude the sar with --modalities"
        )
    intensities = image[:, :, :2].astype(np.float64)
    check_finite(scene, "the sar contains", intensities)
    c11, c22 = np.moveaxis(intensities, 2, 0)
    colours = np.stack([np.abs(c11 - c22), 2.0 * np.sqrt(np.abs(c22)), np.abs(c11 + c22)], axis=2)
    # The square root is monotone, so clipping can follow it.
    low, high = np.sqrt(np.percentile(colours, STRETCH, axis=(0, 1)))
    return np.asarray((stretch(np.sqrt(colours), low, high) * SAR_GAINS).clip(0.0, 1.0) ** SAR_GAMMA)


def _grey(scene: Scene, name: str) -> dict[str, FloatArray]:
    """One grey picture for each raster of a modality, with a number in its name if there are several."""
    rasters = scene.images[name].astype(np.float64)
    check_finite(scene, f"the {name} contains", rasters)
    grey = _signed(stretch(rasters, *np.percentile(rasters, STRETCH, axis=(0, 1))))
    count = rasters.shape[2]
    return {name if count == 1 else f"{name}{k}": np.repeat(grey[:, :, [k]], 3, axis=2) for k in range(count)}
