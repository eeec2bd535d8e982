"""Reads NumPy files of scenes: a mapped array, or one array of an archive."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from mmrs_bench.numpy_files import read_header, read_values
from mmrs_bench.scenes.files.decoders.faults import absent, check_declared, damaged
from mmrs_bench.scenes.files.decoders.raster import AnyArray


def read_npy(path: Path) -> AnyArray:
    """Map the array of an .npy file."""
    with path.open("rb") as file:
        shape, order, dtype = read_header(file, path.stat().st_size)
        start = file.tell()
    array: AnyArray = np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape, order=order)
    return array


def read_npz(path: Path, key: str | None) -> AnyArray:
    """Read one array of an .npz file."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if key not in members:
            raise absent(key, members)
        info = members[key]
        if info.compress_size > path.stat().st_size:
            raise damaged("an array is longer than the file")
        check_declared(info.file_size, info.compress_size)
        with archive.open(info) as file:
            array = read_values(file, info.file_size)
            file.read(1)  # verifies the check sum
            return array
