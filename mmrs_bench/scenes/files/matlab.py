"""Reads one variable from a MATLAB file of version 5 to 7.3."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import DataError

_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*|\[\d+\])*")
_STEP = re.compile(r"\.?([A-Za-z_]\w*)|\[(\d+)\]")

#: A field name or a list position.
Step = str | int


def read_matlab(path: Path, key: str | None) -> NDArray[Any]:
    """Read an array in MATLAB's order of axes; ``key`` is a path such as ``hsi.Lidar[0].z``, counted from 0."""
    import h5py

    if key is None or not _KEY.fullmatch(key):
        raise DataError(f"key {key!r} is not a variable name such as 'data' or 'hsi.Lidar[0].z'; correct it")
    steps: list[Step] = [name or int(position) for name, position in _STEP.findall(key)]
    return _read_hdf5(path, steps) if h5py.is_hdf5(path) else _read_version5(path, steps)


def absent(name: str | int | None, present: Iterable[str]) -> DataError:
    """The error for a name that a file or a struct does not contain."""
    return DataError(f"there is no {name!r}; present: {', '.join(sorted(present)) or 'nothing'}")


def _outside(position: int, length: int) -> DataError:
    return DataError(f"position [{position}] is outside a list of {length}")


def _read_version5(path: Path, steps: list[Step]) -> NDArray[Any]:
    import scipy.io

    root = str(steps[0])
    names = [name for name, _, _ in scipy.io.whosmat(path)]
    if root not in names:
        raise absent(root, names)
    node = scipy.io.loadmat(path, variable_names=[root])[root]
    for step in steps[1:]:
        node = _enter_version5(node, step)
    if not isinstance(node, np.ndarray) or node.dtype.names or node.dtype == object:
        fields = getattr(getattr(node, "dtype", None), "names", None)
        kind = f"a struct with {', '.join(fields)}" if fields else f"{type(node).__name__} of several items"
        raise DataError(f"is {kind}; name a numeric field or an item such as [0]")
    return node


def _enter_version5(node: Any, step: Step) -> Any:
    if isinstance(step, int):
        if not isinstance(node, np.ndarray) or step >= node.size:
            raise _outside(step, np.size(node))
        return node.reshape(-1, order="F")[step]
    names = getattr(node, "dtype", np.dtype(float)).names or ()
    if step not in names:
        raise absent(step, names)
    if isinstance(node, np.ndarray):
        if node.size != 1:
            raise DataError(f"{step!r} belongs to a list of {node.size} structs; add [0] before it")
        node = node.reshape(-1)[0]
    return node[step]


def _read_hdf5(path: Path, steps: list[Step]) -> NDArray[Any]:
    import h5py

    with h5py.File(path, "r") as file:
        node = _find_hdf5(file, steps)
        if not isinstance(node, h5py.Dataset):
            raise DataError(f"is a struct with {', '.join(node)}; name a numeric field")
        if h5py.check_ref_dtype(node.dtype):
            raise DataError("is a list; add [0] and name a numeric field")
        # HDF5 stores MATLAB's column-major arrays with reversed axes.
        return np.asarray(node[()]).T


def _find_hdf5(file: Any, steps: list[Step]) -> Any:
    """The HDF5 object of a key. A list of structs stores each field as a list of references."""
    import h5py

    node: Any = file
    position: int | None = None
    for step in steps:
        if isinstance(step, int):
            if isinstance(node, h5py.Dataset):
                node = _follow(file, node, step)
            else:
                position = step
            continue
        if not isinstance(node, h5py.Group) or step not in node:
            raise absent(step, [name for name in node if name[0] != "#"] if isinstance(node, h5py.Group) else ())
        node = node[step]
        if position is not None:
            if isinstance(node, h5py.Dataset) and h5py.check_ref_dtype(node.dtype):
                node = _follow(file, node, position)
            elif position > 0:
                raise _outside(position, 1)
            position = None
    return node


def _follow(file: Any, references: Any, position: int) -> Any:
    import h5py

    if not h5py.check_ref_dtype(references.dtype) or position >= references.size:
        raise _outside(position, references.size)
    return file[references[()].reshape(-1)[position]]
