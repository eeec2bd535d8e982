"""Reads NumPy files without pickles. What a header declares is compared with what the file contains first."""

from __future__ import annotations

import zipfile
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.decoders.faults import absent, check_declared, damaged
from mmrs_bench.scenes.files.decoders.raster import AnyArray

_ENDING = ".npy"


def read_npy(path: Path) -> AnyArray:
    """Map the array of an .npy file."""
    with path.open("rb") as file:
        shape, order, dtype = _read_header(file)
        start = file.tell()
    _check_bytes(start, shape, dtype, path.stat().st_size)
    array: AnyArray = np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape, order=order)
    return array


def read_npz(path: Path, key: str | None) -> AnyArray:
    """Read one array of an .npz file."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(_ENDING): info for info in archive.infolist()}
        if key not in members:
            raise absent(key, members)
        info = members[key]
        if info.compress_size > path.stat().st_size:
            raise damaged("an array is longer than the file")
        with archive.open(info) as file:
            shape, order, dtype = _read_header(file)
            _check_bytes(file.tell(), shape, dtype, info.file_size)
            check_declared(info.file_size, info.compress_size)
            array: AnyArray = np.empty(shape, dtype, order)
            _fill(file, array.reshape(-1, order=order))
            return array


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], Any, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:  # 3.0 differs in the names of fields, which an array of numbers has not
        raise damaged(f"its header has version {version[0]}.{version[1]}, expected 1.0 or 2.0")
    shape, fortran, dtype = read(file)
    if dtype.kind not in "buif":
        what = {"c": "complex numbers", "O": "Python objects", "V": "a table"}.get(dtype.kind, str(dtype))
        raise DataError(f"contains {what}, expected real numbers; correct the key, or save numbers")
    if any(isinstance(length, bool) or length < 0 for length in shape):
        raise damaged(f"it declares the shape {shape}")
    return shape, "F" if fortran else "C", dtype


def _check_bytes(start: int, shape: tuple[int, ...], dtype: np.dtype[Any], stored: int) -> None:
    declared = start + prod(shape) * dtype.itemsize
    if declared != stored:
        raise damaged(f"it declares {declared:,} bytes and contains {stored:,}")


def _fill(file: IO[bytes], flat: AnyArray) -> None:
    """Read values up to the end of a member, where its check sum is verified."""
    view = flat.view(np.uint8).data
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise damaged("an array is cut off")
        view = view[count:]
    if file.read(1):
        raise damaged("an array is longer than it declares")
