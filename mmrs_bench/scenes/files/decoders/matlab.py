"""Reads one variable from a MATLAB file of version 4 to 7.3."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.decoders import matlab5, matlab73
from mmrs_bench.scenes.files.decoders.faults import absent, check_declared
from mmrs_bench.scenes.files.decoders.matlab5 import Step
from mmrs_bench.scenes.files.decoders.raster import AnyArray, Raster

_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*|\[\d{1,9}\])*", re.ASCII)
_STEP = re.compile(r"\.?([A-Za-z_]\w*)|\[(\d+)\]", re.ASCII)


def read_matlab(path: Path, key: str | None, size: tuple[int, int]) -> Raster:
    """Read an array in MATLAB's order of axes.

    Args:
        path: The file.
        key: Name of the variable, with fields and list positions from 0, such as ``hsi.Lidar[0].z``.
        size: (height, width) of the scene, which a sparse matrix must have.
    """
    if key and not _KEY.fullmatch(key):
        raise DataError(f"key {key!r} is not a variable name such as 'data' or 'hsi.Lidar[0].z'; correct it")
    key = key or ""
    steps: list[Step] = [name or int(position) for name, position in _STEP.findall(key)] or [""]
    import h5py

    if h5py.is_hdf5(path):
        return Raster(matlab73.read_variable(path, steps, size))
    with path.open("rb") as file:
        start = file.read(4)
    # The first four bytes of version 5 are text; those of version 4 are a small number.
    if 0 in start:
        return Raster(_read_version4(path, key, size))
    return Raster(matlab5.read_variable(path, steps, size))


def _read_version4(path: Path, key: str, size: tuple[int, int]) -> AnyArray:
    import scipy.io
    import scipy.sparse

    sizes = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
    if key not in sizes:
        raise absent(key, sizes)
    if sizes[key] is not None:
        check_declared(int(np.prod(sizes[key], dtype=object)), path.stat().st_size)
    values = scipy.io.loadmat(path, variable_names=[key])[key]
    if scipy.sparse.issparse(values):
        columns = values.tocsc()
        columns.sum_duplicates()
        return matlab5.dense(columns.indices, columns.indptr, columns.data, columns.shape, size)
    array: AnyArray = np.asarray(values)
    return array
