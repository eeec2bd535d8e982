"""Reads arrays from files: MATLAB, NumPy, GeoTIFF, ENVI regions as text.

To add a format, write a function that reads it and add a row to `FORMATS`. `read_array` turns any exception into a
`DataError` that names the file. The function itself raises a `DataError` only for a wrong key or content.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmrs_bench.errors import BenchError, ConfigError, DataError
from mmrs_bench.scenes.files.decoders.raster import AnyArray, Raster
from mmrs_bench.scenes.files.envi import read_roi_text
from mmrs_bench.scenes.files.matlab import absent, read_matlab


def _read_npy(path: Path) -> AnyArray:
    array: AnyArray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _read_npz(path: Path, key: str | None) -> AnyArray:
    # np.load does not close a file that is not an archive.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if key not in archive.files:
            raise absent(key, archive.files)
        array: AnyArray = archive[key]
        return array


def _read_geotiff(path: Path) -> AnyArray:
    try:
        import rasterio
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{path}: GeoTIFF needs rasterio, which is not installed; run: pip install 'mmrs-bench[geo]'"
        ) from error
    with warnings.catch_warnings():
        # The rasters of a scene share one pixel grid, so their georeference is not needed.
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as raster:
            array: AnyArray = raster.read()
            return array


#: Readers by file ending. A reader receives the path, the key, and (height, width) of the scene.
FORMATS: dict[str, Callable[[Path, str | None, tuple[int, int]], AnyArray]] = {
    ".mat": lambda path, key, _: read_matlab(path, key),
    ".npy": lambda path, *_: _read_npy(path),
    ".npz": lambda path, key, _: _read_npz(path, key),
    ".tif": lambda path, *_: _read_geotiff(path),
    ".tiff": lambda path, *_: _read_geotiff(path),
    ".txt": lambda path, _, size: read_roi_text(path, size),
}


def read_array(path: Path, key: str | None, size: tuple[int, int]) -> Raster:
    """Read one numeric array in the axis order of its file.

    Args:
        path: The file; its ending selects the format (see `FORMATS`).
        key: Variable name, in MATLAB files with struct fields and list positions from 0 (``hsi.Lidar[0].z``).
        size: (height, width) of the scene, for formats that list pixels.

    Returns:
        The array: MATLAB files in MATLAB's order of axes, GeoTIFF as (bands, height, width), ENVI regions as an int64
        raster (height, width) of region numbers 1..n, 0 elsewhere.

    Raises:
        DataError: If the file is absent, unreadable, or contains no real numeric array under ``key``.
        ConfigError: If the format is unknown or needs an extra that is not installed.
    """
    if not path.is_file():
        raise DataError(f"{path}: the file is absent; run: mmrs-bench data fetch")
    read = FORMATS.get(path.suffix.lower())
    if read is None:
        raise ConfigError(f"{path}: unknown format {path.suffix!r}; use one of {' '.join(FORMATS)}")
    place = f"{path}[{key}]" if key else str(path)
    try:
        array = read(path, key, size)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    except BenchError:
        raise
    except Exception as error:  # libraries raise many types on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: cannot be read ({reason}); it is cut off or not a {path.suffix} file, so fetch it again"
        ) from error
    if array.dtype.kind not in "buif":
        raise DataError(f"{place}: contains {array.dtype}, expected real numbers; correct the key")
    return Raster(array)
