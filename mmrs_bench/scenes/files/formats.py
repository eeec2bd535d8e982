"""Reads arrays from files: MATLAB, NumPy, GeoTIFF, ENVI rasters, ENVI regions as text.

To add a format, write a function that reads it and add a row to `FORMATS`. `read_array` turns any exception into a
`DataError` that names the file. The function itself raises a `DataError` only for a wrong key or content. A format that
a C library reads belongs into the child process (`mmrs_bench.scenes.files.decoders.guard`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmrs_bench.errors import BenchError, ConfigError, DataError
from mmrs_bench.plugins import missing_package
from mmrs_bench.scenes.files.decoders.envi import ENDINGS, HEADER_ENDING, find_pair
from mmrs_bench.scenes.files.decoders.faults import damaged
from mmrs_bench.scenes.files.decoders.guard import read_guarded
from mmrs_bench.scenes.files.decoders.numpy_files import read_npy, read_npz
from mmrs_bench.scenes.files.decoders.raster import Raster
from mmrs_bench.scenes.files.decoders.roi_text import read_roi_text
from mmrs_bench.texts import one_line

#: A reader receives the path, the key, and (height, width) of the scene.
Reader = Callable[[Path, str | None, tuple[int, int]], Raster]


def _read_matlab(path: Path, key: str | None, size: tuple[int, int]) -> Raster:
    return read_guarded("matlab", path, path.stat().st_size, key=key, size=size)


def _read_geotiff(path: Path, *_: object) -> Raster:
    _need_rasterio(path, "GeoTIFF")
    return read_guarded("geotiff", path, path.stat().st_size)


def _read_envi(path: Path, *_: object) -> Raster:
    _need_rasterio(path, "ENVI")
    return read_guarded("envi", path, sum(part.stat().st_size for part in find_pair(path)))


def _need_rasterio(path: Path, name: str) -> None:
    if fault := missing_package("rasterio"):
        raise ConfigError(f"{path}: {name} cannot be read: {fault}")


#: Readers by file ending. A file with another ending is an ENVI raster if an ENVI header lies beside it.
FORMATS: dict[str, Reader] = {
    ".mat": _read_matlab,
    ".npy": lambda path, *_: Raster(read_npy(path)),
    ".npz": lambda path, key, _: Raster(read_npz(path, key)),
    ".tif": _read_geotiff,
    ".tiff": _read_geotiff,
    ".txt": lambda path, _, size: Raster(read_roi_text(path, size)),
    **dict.fromkeys((HEADER_ENDING, *ENDINGS), _read_envi),
}


def read_array(path: Path, key: str | None, size: tuple[int, int]) -> Raster:
    """Read one numeric array in the axis order of its file.

    Args:
        path: The file; its ending selects the format (see `FORMATS`).
        key: Variable name, in MATLAB files with struct fields and list positions from 0 (``hsi.Lidar[0].z``).
        size: (height, width) of the scene, for formats that list pixels.

    Returns:
        The array with what the file declares about it: MATLAB files in MATLAB's order of axes, GeoTIFF and ENVI rasters
        as (bands, height, width), ENVI regions as an int64 raster (height, width) of region numbers 1..n, 0 elsewhere.

    Raises:
        DataError: If the file is absent, unreadable, or contains no real numeric array under ``key``.
        ConfigError: If the format is unknown or needs an extra that is not installed.
    """
    if not path.is_file():
        raise DataError(f"{path}: the file is absent; run: mmrs-bench data fetch")
    place = f"{path}[{key}]" if key else str(path)
    try:
        raster = _reader(path)(path, key, size)
    except ConfigError:
        raise
    except BenchError as error:
        raise type(error)(one_line(f"{place}: {error}")) from error
    except Exception as error:  # libraries raise many types on damaged files
        raise DataError(one_line(f"{place}: {damaged(str(error) or type(error).__name__)}")) from error
    if raster.array.dtype.kind not in "buif":
        found = "complex numbers" if raster.array.dtype.kind == "c" else str(raster.array.dtype)
        raise DataError(f"{place}: contains {found}, expected real numbers; correct the key")
    return raster


def companion(path: Path) -> Path | None:
    """The file that belongs to a file: the data of an ENVI header, or the header of an ENVI raster; else None.

    Raises:
        DataError: If it is absent, or several files fit.
    """
    reader = FORMATS.get(path.suffix.lower())
    if reader not in (None, _read_envi):
        return None
    try:
        header, data = find_pair(path)
    except BenchError as error:
        if reader is None:  # no ENVI raster
            return None
        raise DataError(f"{path}: {error}") from error
    return data if header == path else header


def _reader(path: Path) -> Reader:
    reader = FORMATS.get(path.suffix.lower())
    if reader is not None:
        return reader
    try:
        find_pair(path)
    except BenchError as error:
        known = " ".join(filter(None, FORMATS))
        raise ConfigError(f"{path}: unknown format {path.suffix!r}; use one of {known}") from error
    return _read_envi
