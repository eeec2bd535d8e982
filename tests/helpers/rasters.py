"""Writes GeoTIFF and ENVI rasters, and elements of MATLAB files, for tests of readers."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: (a, b, c, d, e, f) of a raster in UTM zone 32, with pixels of 2 m.
NORTH_UP = (2.0, 0.0, 600000.0, 0.0, -2.0, 5100000.0)
UTM_32 = "EPSG:32632"


def write_tif(path: Path, bands: np.ndarray, *, scale: tuple[float, float] | None = None, **profile: Any) -> Path:
    """Write (bands, height, width) as GeoTIFF; ``scale`` is (factor, summand) of every band."""
    rasterio = pytest.importorskip("rasterio", reason="GeoTIFF is the optional extra geo")
    count, height, width = bands.shape
    size = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    place = {"crs": UTM_32, "transform": NORTH_UP} | profile
    place["transform"] = place["transform"] and rasterio.Affine(*place["transform"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver=place.pop("driver", "GTiff"), **size, **place) as file:
            file.write(bands)
            if scale is not None:
                file.scales, file.offsets = (scale[0],) * count, (scale[1],) * count
    return path


def bands(dtype: str = "f4") -> np.ndarray:
    """Numbers (2, 6, 9) of a type."""
    return np.arange(108).reshape(2, 6, 9).astype(dtype)


ENVI_TYPES = {"u1": 1, "i2": 2, "i4": 3, "f4": 4, "f8": 5, "c8": 6, "u2": 12, "u4": 13, "i8": 14, "u8": 15}
_ORDERS = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}


def write_envi(
    data: Path, header: Path, bands: np.ndarray, *, interleave: str = "bsq", big_endian: bool = False, more: str = ""
) -> Path:
    """Write (bands, height, width) as ENVI raster with a Latin-1 header; returns the data file."""
    turned = bands.transpose(_ORDERS[interleave])
    data.write_bytes(np.ascontiguousarray(turned, turned.dtype.newbyteorder(">" if big_endian else "<")).tobytes())
    count, lines, samples = bands.shape
    text = f"""ENVI
description = {{
  Aufnahme über Trento, lines = 3}}
samples = {samples}
lines   = {lines}
bands   = {count}
header offset = 0
file type = ENVI Standard
data type = {ENVI_TYPES[bands.dtype.str[1:]]}
interleave = {interleave}
byte order = {int(big_endian)}
{more}
"""
    header.write_bytes(text.encode("latin-1"))
    return data


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    """An element of a MATLAB v5 file."""
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def opaque(name: bytes, of_class: bytes = b"string") -> bytes:
    """A MATLAB v5 variable that contains no numbers: a string, table, date."""
    meta = element(6, np.array([0xDD000000, 2, 1, 1, 1, 1], "<u4").tobytes())
    meta = element(6, struct.pack("<II", 13, 0)) + element(5, struct.pack("<ii", 6, 1)) + element(1, b"") + meta
    names = element(1, name) + element(1, b"MCOS") + element(1, of_class)
    return element(14, element(6, struct.pack("<II", 17, 0)) + names + element(14, meta))
