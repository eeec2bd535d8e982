"""Sensors to images: what each sensor of a scene measured as an RGB-like picture, for models of photographs.

Every statistic here (percentiles, principal components) is taken over the whole scene, test pixels included, and never
with a label. A method that uses these pictures is therefore transductive, and has to say so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import ConfigError, DataError, unknown_name
from mmrs_bench.scenes.normalise import CHUNK_PIXELS
from mmrs_bench.scenes.pictures.pseudo_rgb import STRETCH, Values, pseudo_rgb, stretched
from mmrs_bench.scenes.scene import FloatArray, Scene

#: Red, green and blue of SAR after the stretch are multiplied by these, clipped, and raised to the power `SAR_GAMMA`.
SAR_GAINS = (1.25, 0.95, 1.15)
SAR_GAMMA = 0.7
#: Modalities whose rasters become grey pictures.
GREY = ("lidar", "dsm")


def sensor_images(scene: Scene, modalities: Collection[str] | None = None) -> dict[str, FloatArray]:
    """The RGB-like pictures of a scene's sensors, as UniDiff's backbone sees them.

    | picture | from | made by |
    |---|---|---|
    | ``rgb`` | hsi | `pseudo_rgb`: the bands that truly are, or are declared as, red, green and blue |
    | ``pca`` | hsi | the first 3 principal components; each counts its largest loading as positive |
    | ``sar`` | sar | Pauli-like, of the first two channels C11 and C22 (intensities); others are not used |
    | ``lidar``, ``dsm`` | the same | the raster in grey, three times |
    | ``lidar0``, ``lidar1``, ... | lidar (dsm alike) with several rasters | each raster in grey, a picture of its own |

    Each channel is stretched by itself from its 2nd to its 98th percentile over the whole scene and clipped, then
    [0, 1] becomes [-1, 1]. A channel whose two percentiles are equal shows nothing and becomes -1, and so does a
    component without variance (a HSI of three equal bands has two of them). Pixels whose bands are all exactly 0 hold
    no measurement: components and their percentiles leave them out, and they are -1 in ``pca``.

    SAR: R = |C11 - C22|, G = 2 sqrt|C22|, B = |C11 + C22|; each is clipped to its percentiles, then the square root is
    taken, scaled to [0, 1], multiplied by `SAR_GAINS`, clipped and raised to the power `SAR_GAMMA`.

    Memory: the HSI is read in blocks of rows, so beside the scene there are only pictures and one block in float64.

    Args:
        scene: The scene, raw.
        modalities: Those of the scene's modalities that the method may see; None takes all.

    Returns:
        Pictures (height, width, 3) float32 in [-1, 1] by name: those of the HSI first, then the others in the
        manifest's order.

    Raises:
        ConfigError: If a modality is not one of the scene's or has no rule here, if nothing says which bands of the
            HSI are red, green and blue (see `rgb_bands`), or if a SAR image has only one channel.
        DataError: If an image holds NaN or infinite values, or no pixel of the HSI holds a measurement.

    Reference: UniDiff (arXiv 2512.00261), inputs of the released code; GeoDiffNet (arXiv 2512.03430) sees ``rgb`` only.
    Deviation: no detour over 8-bit files; components are stretched once, not twice (the second time moves nothing but
        rounding); one gamma for all scenes (the code has 0.7 for Augsburg, 0.8 for Berlin). LiDAR, which the paper's
        two scenes do not have, is treated as its DSM; height and intensity are not averaged, for their units differ.
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
        elif name in GREY:
            pictures.update(_grey(scene, name))
        else:
            raise ConfigError(
                f"scene {scene.manifest.tag}: no rule makes a picture of modality {name}, only of hsi, sar, "
                f"{' and '.join(GREY)}; leave it out with --modalities, or add a rule to "
                "mmrs_bench/scenes/pictures/sensor_images.py"
            )
    return pictures


def _signed(picture: Values | FloatArray) -> FloatArray:
    """[0, 1] to [-1, 1]."""
    return (2.0 * picture - 1.0).astype(np.float32)


def _finite(scene: Scene, name: str, values: Values) -> Values:
    """The values, if they are numbers."""
    if not np.isfinite(values).all():
        raise DataError(
            f"scene {scene.manifest.tag}: the {name} holds NaN or infinite values, expected finite ones; mend or "
            "exclude them"
        )
    return values


def _components(scene: Scene) -> Values:
    """The first 3 principal components of the HSI (height, width, 3), stretched to [0, 1]; bands are centred only."""
    hsi = scene.images["hsi"]
    bands = hsi.shape[2]
    count, total = 0, np.zeros(bands)
    for _, _, spectra in _blocks(hsi):
        count += len(spectra)
        total += _finite(scene, "hsi", spectra).sum(axis=0)
    if count == 0:
        raise DataError(
            f"scene {scene.manifest.tag}: all values of the hsi are 0, expected measurements; check file and key"
        )
    mean = total / count
    scatter = np.zeros((bands, bands))
    for _, _, spectra in _blocks(hsi):
        spectra -= mean
        scatter += spectra.T @ spectra
    strengths, directions = np.linalg.eigh(scatter)  # ascending
    strengths, directions = strengths[:-4:-1], directions[:, :-4:-1]
    largest = directions[np.abs(directions).argmax(axis=0), range(3)]
    # Variance that is no more than rounding would otherwise be stretched into a picture of it.
    shown = strengths > max(count, bands) * np.finfo(np.float64).eps * strengths[0]
    directions = np.where(shown, directions * np.sign(largest), 0.0)

    scores, present = np.zeros((*hsi.shape[:2], 3)), np.zeros(hsi.shape[:2], dtype=bool)
    for rows, measured, spectra in _blocks(hsi):
        present[rows] = measured
        scores[rows][measured] = (spectra - mean) @ directions
    low, high = np.percentile(scores[present], STRETCH, axis=0)
    return np.where(present[..., None], stretched(scores, low, high), 0.0)


def _blocks(hsi: FloatArray) -> Iterator[tuple[slice, NDArray[np.bool_], Values]]:
    """Blocks of rows: which, the mask (rows, width) of pixels that hold a measurement, and their spectra (n, bands)."""
    step = max(1, CHUNK_PIXELS // hsi.shape[1])
    for start in range(0, hsi.shape[0], step):
        rows = slice(start, start + step)
        measured: NDArray[np.bool_] = np.any(hsi[rows], axis=2)
        yield rows, measured, hsi[rows][measured].astype(np.float64)


def _pauli_like(scene: Scene) -> Values:
    """The SAR as a picture (height, width, 3) in [0, 1]; see `sensor_images`."""
    image = scene.images["sar"]
    if image.shape[2] < 2:
        raise ConfigError(
            f"scene {scene.manifest.tag}: the sar has 1 channel, expected at least 2, the intensities C11 and C22 (VV "
            "and VH, say); add the other channel to the manifest, or leave the sar out with --modalities"
        )
    c11, c22 = np.moveaxis(_finite(scene, "sar", image[:, :, :2].astype(np.float64)), 2, 0)
    colours = np.stack([np.abs(c11 - c22), 2.0 * np.sqrt(np.abs(c22)), np.abs(c11 + c22)], axis=2)
    low, high = np.percentile(colours, STRETCH, axis=(0, 1))
    # The root is monotone, so clipping after it is clipping before it.
    scaled = stretched(np.sqrt(colours), np.sqrt(low), np.sqrt(high))
    return np.asarray((scaled * SAR_GAINS).clip(0.0, 1.0) ** SAR_GAMMA)


def _grey(scene: Scene, name: str) -> dict[str, FloatArray]:
    """Every raster of a modality as a grey picture: under the modality's name, numbered from 0 if there are several."""
    rasters = _finite(scene, name, scene.images[name].astype(np.float64))
    grey = stretched(rasters, *np.percentile(rasters, STRETCH, axis=(0, 1)))
    count = rasters.shape[2]
    return {
        name if count == 1 else f"{name}{k}": _signed(np.repeat(grey[:, :, k : k + 1], 3, axis=2)) for k in range(count)
    }
