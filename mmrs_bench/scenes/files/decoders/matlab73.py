"""Reads variables of MATLAB files of version 7.3, which are HDF5 files.

HDF5 can take values from other files: by external links, external storage and virtual datasets. None of them is
followed, because a data set could then return any file of the machine. Soft links stay within the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.decoders.faults import absent, check_declared, damaged, outside, shown
from mmrs_bench.scenes.files.decoders.matlab5 import Step, dense
from mmrs_bench.scenes.files.decoders.raster import AnyArray

#: Soft links that lead to each other end here.
_MOST_LINKS = 16
_OBJECTS = ("string", "table", "datetime", "categorical", "function_handle", "opaque")


def read_variable(path: Path, steps: list[Step], size: tuple[int, int]) -> AnyArray:
    """Read the array that ``steps`` lead to, in MATLAB's order of axes; a sparse matrix must have the scene's size."""
    with h5py.File(path, "r") as file:
        reader = _Reader(file, path.stat().st_size)
        node = reader.find(steps)
        if isinstance(node, h5py.Group) and "MATLAB_sparse" in node.attrs:
            return reader.sparse(node, size)
        if not isinstance(node, h5py.Dataset):
            raise DataError(f"is a struct with {shown(list(node))}; name a numeric field")
        if h5py.check_ref_dtype(node.dtype):
            raise DataError("is a list; add [0] and name a numeric field")
        _check_numeric(node)
        # HDF5 stores MATLAB's column-major arrays with reversed axes.
        return reader.values(node).T


class _Reader:
    """An open file; ``stored`` is its number of bytes."""

    def __init__(self, file: h5py.File, stored: int) -> None:
        self.file, self.stored = file, stored

    def values(self, dataset: h5py.Dataset) -> AnyArray:
        """The values of a dataset that lie in this file."""
        if not isinstance(dataset, h5py.Dataset):
            raise damaged("a group is in the place of an array")
        if dataset.external or dataset.is_virtual:
            raise DataError("takes its values from another file, which is not followed; store them in this file")
        if dataset.shape is None:
            raise DataError("is empty, expected real numbers; correct the key")
        check_declared(dataset.size * dataset.dtype.itemsize, self.stored)
        return np.asarray(dataset[()])

    def enter(self, group: Any, name: str, links: int = 0) -> Any:
        """The object of a name in a group."""
        present = list(group) if isinstance(group, h5py.Group) else []
        if name not in present:
            raise absent(name, [other for other in present if not other.startswith("#")])
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.HardLink):
            return group[name]
        if not isinstance(link, h5py.SoftLink):
            raise DataError(f"{name!r} is a link to another file, which is not followed; store the array in this file")
        if links >= _MOST_LINKS:
            raise damaged(f"the link {name!r} leads to itself")
        node = self.file if link.path.startswith("/") else group
        for part in link.path.split("/"):
            if part not in ("", "."):
                node = self.enter(node, part, links + 1)
        return node

    def find(self, steps: list[Step]) -> Any:
        """The object of a key. A list of structs stores each field as a list of references."""
        node: Any = self.file
        position: int | None = None
        for step in steps:
            if isinstance(step, int):
                if isinstance(node, h5py.Dataset):
                    node = self.follow(node, step)
                else:
                    position = step
                continue
            node = self.enter(node, step)
            if position is not None:
                if isinstance(node, h5py.Dataset) and h5py.check_ref_dtype(node.dtype):
                    node = self.follow(node, position)
                elif position > 0:
                    raise outside(position, 1)
                position = None
        return node

    def follow(self, references: h5py.Dataset, position: int) -> Any:
        """The object that a list of references contains at a position."""
        if not h5py.check_ref_dtype(references.dtype):
            raise outside(position, references.size)
        listed = self.values(references).reshape(-1)
        if position >= listed.size:
            raise outside(position, listed.size)
        if not listed[position]:
            raise DataError(f"position [{position}] is empty, expected real numbers; correct the key")
        return self.file[listed[position]]

    def sparse(self, group: h5py.Group, size: tuple[int, int]) -> AnyArray:
        """A sparse matrix as an array."""
        starts = self.values(self.enter(group, "jc")).reshape(-1)
        shape = int(group.attrs["MATLAB_sparse"]), starts.size - 1
        if "data" not in group:  # MATLAB leaves the values out if there are none
            empty = np.empty(0)
            return dense(empty, starts, empty, shape, size)
        values = self.enter(group, "data")
        _check_numeric(values)
        return dense(self.values(self.enter(group, "ir")), starts, self.values(values), shape, size)


def _check_numeric(dataset: h5py.Dataset) -> None:
    """Refuse text and objects, which MATLAB stores as numbers with another meaning."""
    kind = dataset.attrs.get("MATLAB_class", b"")
    name = kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind)
    if name == "char" or name in _OBJECTS or "MATLAB_object_decode" in dataset.attrs:
        kind = "text" if name == "char" else "a string, table, date or function"
        raise DataError(f"contains {kind}, expected real numbers; save it as a numeric array")
    if dataset.attrs.get("MATLAB_empty"):
        raise DataError("is empty, expected real numbers; correct the key")
    if set(dataset.dtype.names or ()) == {"real", "imag"}:
        raise DataError("contains complex numbers, expected real numbers; save abs(x) or real(x)")
