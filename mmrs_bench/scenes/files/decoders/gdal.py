"""Reads GeoTIFF and ENVI rasters by GDAL.

A file can ask GDAL to open others: a VRT names rasters or addresses, sidecar files add values. Only the driver of the
format is allowed, and no other file is looked for.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.decoders.envi import find_pair, read_header
from mmrs_bench.scenes.files.decoders.faults import check_declared, damaged
from mmrs_bench.scenes.files.decoders.raster import AnyArray, Grid, Raster

_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_DRIVER_PATH": "disable",
    "GDAL_CACHEMAX": 64,
    "GDAL_NUM_THREADS": 1,
    "CPL_DEBUG": "OFF",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
}
#: Header of TIFF and BigTIFF in both byte orders.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_geotiff(path: Path) -> Raster:
    """Read a GeoTIFF as (bands, height, width)."""
    with path.open("rb") as file:
        if file.read(4) not in _TIFF:
            raise damaged("it is not a TIFF file")
    with warnings.catch_warnings(), rasterio.Env(**_OPTIONS):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with _open(path, "GTiff") as raster:
            if len(raster.subdatasets) > 1:
                raise DataError(
                    f"contains {len(raster.subdatasets)} pages, expected one raster with all bands; save it so (with "
                    "tifffile: photometric='minisblack', planarconfig='separate')"
                )
            array = _values(raster, path)
            values = raster.nodatavals
            missing = np.zeros(array.shape, dtype=bool)
            for band, (flags, value) in enumerate(zip(raster.mask_flag_enums, values, strict=True)):
                if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:  # a mask stored in the file
                    missing[band] = raster.read_masks(band + 1) == 0
                missing[band] |= _equal(array[band], value)
            array = _scaled(array, raster.scales, raster.offsets, 1.0)
            return Raster(array, missing if missing.any() else None, values, _grid(raster))


def read_envi(path: Path) -> Raster:
    """Read an ENVI raster, given its header or its data file, as (bands, lines, samples)."""
    header_path, data_path = find_pair(path)
    header = read_header(header_path)
    expected = header.offset + int(np.prod(header.shape, dtype=object)) * header.dtype.itemsize
    if data_path.stat().st_size != expected:
        raise DataError(
            f"{data_path.name} has {data_path.stat().st_size:,} bytes, its header {header_path.name} declares "
            f"{expected:,}; it is cut off, or correct the header"
        )
    with (
        tempfile.TemporaryDirectory(prefix="mmrs-envi-") as folder,
        warnings.catch_warnings(),
        rasterio.Env(**_OPTIONS | {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}),
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        # GDAL sees the checked fields only.
        data = Path(folder, "data")
        os.symlink(data_path.absolute(), data)
        Path(folder, "data.hdr").write_text(header.text(), encoding="utf-8")
        with _open(data, "ENVI") as raster:
            array, grid = _values(raster, data_path), _grid(raster)
    ignored = header.ignore_value
    missing = _equal(array, ignored)
    bands = header.shape[0]
    array = _scaled(array, header.gains or (1.0,) * bands, header.offsets or (0.0,) * bands, header.divisor)
    return Raster(array, missing if missing.any() else None, (ignored,) * bands, grid)


def same_crs(first: str, second: str) -> bool:
    """Whether two texts (WKT) describe the same coordinate reference system."""
    with rasterio.Env(**_OPTIONS):
        systems = [rasterio.CRS.from_wkt(text) for text in (first, second)]
        codes = [system.to_epsg() for system in systems]
        return bool(systems[0] == systems[1]) or (codes[0] is not None and codes[0] == codes[1])


def _open(path: Path, driver: str) -> rasterio.DatasetReader:
    try:
        return rasterio.open(path, driver=driver)
    except RasterioIOError as error:
        # GDAL's own words repeat the path.
        raise damaged(f"GDAL's driver {driver} does not open it") from error


def _values(raster: rasterio.DatasetReader, path: Path) -> AnyArray:
    shape = (raster.count, raster.height, raster.width)
    itemsize = max(np.dtype(_numpy_name(name)).itemsize for name in raster.dtypes)
    check_declared(int(np.prod(shape, dtype=object)) * itemsize, path.stat().st_size)
    array: AnyArray = raster.read()
    if array.dtype.kind == "c":
        raise DataError("contains complex numbers, expected real numbers; save their magnitude")
    return array


def _numpy_name(name: str) -> str:
    return {"complex_int16": "complex64"}.get(name, name)


def _equal(array: AnyArray, value: float | None) -> NDArray[np.bool_]:
    """Where an array has a value, NaN included; a value that its type cannot hold is nowhere."""
    if value is None:
        return np.zeros(array.shape, dtype=bool)
    if np.isnan(value):
        return np.isnan(array)
    if array.dtype.kind == "f":
        limits = np.finfo(array.dtype)  # GDAL writes the nearest number for one beyond the type's range
        return np.asarray(array == array.dtype.type(min(max(value, float(limits.min)), float(limits.max))))
    if not np.isfinite(value) or value != int(value):
        return np.zeros(array.shape, dtype=bool)
    return np.asarray(array == int(value))


def _scaled(array: AnyArray, gains: tuple[float, ...], offsets: tuple[float, ...], divisor: float) -> AnyArray:
    """The physical values; bands without scale and offset keep their type if all bands do."""
    if all(gain == 1 for gain in gains) and not any(offsets) and divisor == 1:
        return array
    if not np.isfinite([*gains, *offsets]).all() or 0 in gains:
        raise DataError("declares a scale of 0, NaN or infinity; correct or remove it")
    scaled = np.empty(array.shape, dtype=np.float32 if array.dtype.itemsize <= 4 else np.float64)
    with np.errstate(over="ignore"):
        for band, (gain, offset) in enumerate(zip(gains, offsets, strict=True)):
            scaled[band] = (array[band] * np.float64(gain) + offset) / divisor
    return scaled


def _grid(raster: rasterio.DatasetReader) -> Grid | None:
    """The georeference. GDAL gives the identity if the file has none."""
    transform = raster.transform
    if transform.is_identity or not np.isfinite(transform[:6]).all() or transform.is_degenerate:
        return None
    return Grid(raster.crs.to_wkt() if raster.crs else "", tuple(transform[:6]))
