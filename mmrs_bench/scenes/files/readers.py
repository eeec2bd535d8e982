"""Reads the verified files of a scene and checks them against its manifest."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from mmrs_bench.scenes.files.decoders.raster import AnyArray, Raster
from mmrs_bench.scenes.files.labels.ground_truth import read_ground_truth
from mmrs_bench.scenes.files.labels.official import read_official
from mmrs_bench.scenes.files.rasters import SceneFiles, listed
from mmrs_bench.scenes.manifest import Manifest, Modality
from mmrs_bench.scenes.scene import FloatArray, Scene

#: Measured values are smaller; programs mark missing values by the largest float32 number.
LARGEST = 1e30
#: A band with a smaller range, in steps of float32 at its values, is refused: different values would become equal.
LEAST_STEPS = 100


def read_scene(manifest: Manifest, folder: Path) -> Scene:
    """Read a scene's files from a folder and check them against its manifest.

    The official split is read if the manifest has one and its files are present.

    Raises:
        DataError: If a file or key is absent or unreadable, axes, sizes or pixel grids differ, a value is missing or
            not finite, a band is constant, classes or their counts differ, or the official split contradicts the ground
            truth.
    """
    files = SceneFiles(manifest, folder)
    images: dict[str, FloatArray] = {modality.name: _read_image(files, modality) for modality in manifest.modalities}
    ground_truth = read_ground_truth(files)
    official = None
    if manifest.official_split is not None and all((folder / ref.file).is_file() for ref in manifest.official_refs):
        official = read_official(files, manifest.official_split, ground_truth)
    grid = files.grids.first
    crs, transform = (None, None) if grid is None else (grid.crs or None, grid.transform)
    return Scene(manifest, images, ground_truth, official, crs=crs, transform=transform)


def _read_image(files: SceneFiles, modality: Modality) -> FloatArray:
    image: FloatArray | None = None
    only = modality.bands if len(modality.parts) == 1 else None
    stop = 0
    for ref in modality.parts:
        raster = files.raster(ref, only)
        part = raster.array
        if image is None:  # after the first file has proven the size
            image = _empty(files, modality)
        if fault := _nodata_fault(raster):
            raise files.fault(ref, fault)
        start, stop = stop, stop + part.shape[2]
        if stop > modality.bands:
            break
        # Values beyond float32 become infinite and are reported by the check below.
        with np.errstate(over="ignore"):
            image[:, :, start:stop] = part
        if fault := _rounding_fault(part, image[:, :, start:stop]):
            raise files.fault(ref, fault)
    if image is None or stop != modality.bands:
        fault = f"its parts have {stop} channels together, expected bands: {modality.bands}; correct bands or parts"
        raise files.fault(modality.name, fault)
    if fault := _value_fault(image):
        raise files.fault(modality.name, fault)
    return image


def _empty(files: SceneFiles, modality: Modality) -> FloatArray:
    shape = (*files.size, modality.bands)
    try:
        return np.empty(shape, dtype=np.float32)
    except MemoryError as error:
        needed = f"{4 * math.prod(shape) / 2**30:,.1f} GiB"
        raise files.fault(modality.name, f"needs {needed} of memory, which this machine does not have free") from error


def _nodata_fault(raster: Raster) -> str:
    """Bands with values that the file declares as missing; empty if there are none."""
    if raster.nodata is None:
        return ""
    counts = np.count_nonzero(raster.nodata, axis=(0, 1)).tolist()
    values = dict(enumerate(raster.nodata_values)) if len(raster.nodata_values) == len(counts) else {}
    found = [
        f"band {band}: {count} pixels" + (f" are {_exact(value)}" if (value := values.get(band)) is not None else "")
        for band, count in enumerate(counts)
        if count
    ]
    return (
        f"missing values in {len(found)} of {len(counts)} bands ({listed(found)}; counted from 0), which the file "
        "declares as nodata; fill them, or correct the declaration if these are measured values"
    )


def _exact(value: float) -> str:
    return f"{value:.0f}" if abs(value) < 1e15 and value == int(value) else repr(value)


def _rounding_fault(part: AnyArray, stored: FloatArray) -> str:
    """Bands whose values differ by too little for float32; empty if there are none."""
    if np.can_cast(part.dtype, np.float32):
        return ""
    low, high = stored.min(axis=(0, 1)), stored.max(axis=(0, 1))
    found = []
    with np.errstate(invalid="ignore", over="ignore"):  # NaN, infinity and huge values are reported later
        narrow = np.flatnonzero(high - low < LEAST_STEPS * np.spacing(np.maximum(-low, high))).tolist()
    for band in narrow:
        first, last = part[:, :, band].min(), part[:, :, band].max()
        if first < last and not np.array_equal(part[:, :, band], stored[:, :, band]):
            found.append(f"band {band}: {first:.15g} to {last:.15g}")
    if not found:
        return ""
    return (
        f"float32, the type of images, cannot resolve the values of {len(found)} of {part.shape[2]} bands "
        f"({listed(found)}; counted from 0); subtract an offset, such as the smallest value, in the file"
    )


def _value_fault(image: FloatArray) -> str:
    """Bands with NaN or infinite values, or constant ones; empty if there are none."""
    bands = image.reshape(-1, image.shape[2])
    # NaN and infinity survive min and max, so only bands that contain one are searched.
    low, high = bands.min(axis=0), bands.max(axis=0)
    if faulty := np.flatnonzero(~np.isfinite(low) | ~np.isfinite(high)).tolist():
        counts = listed([f"band {b}: {np.count_nonzero(~np.isfinite(bands[:, b]))}" for b in faulty])
        share = f"{len(faulty)} of {bands.shape[1]} bands ({counts}; counted from 0)"
        return f"NaN or infinite values in {share}, expected finite ones; fill or remove those bands"
    if marked := np.flatnonzero((low < -LARGEST) | (high > LARGEST)).tolist():
        counts = listed([f"band {b}: {np.count_nonzero(np.abs(bands[:, b]) > LARGEST)}" for b in marked])
        share = f"{len(marked)} of {bands.shape[1]} bands ({counts}; counted from 0)"
        return f"values beyond {LARGEST:g} in {share}, which usually mark missing values; fill them"
    if constant := np.flatnonzero(low == high).tolist():
        values = listed([f"band {b} is {low[b]:g} everywhere" for b in constant])
        return f"{values} (counted from 0), expected bands that vary; remove it from the file"
    return ""
