"""The arrays of a fitted method in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import DataError
from mmrs_bench.io import atomic_write
from mmrs_bench.numpy_files import read_npz

ARRAYS_FILE = "arrays.npz"
REFIT_ADVICE = "fit and save the method again"


def load_arrays(folder: Path, **expected: str) -> dict[str, NDArray[Any]]:
    """The arrays that `save_arrays` wrote.

    Args:
        folder: Folder of the file.
        expected: By name, kind and axes of an array: ``fnd`` is floating-point with the axes n and d.

    Raises:
        DataError: If the file is missing or damaged, or its arrays are not as expected or not finite.
    """
    path = folder / ARRAYS_FILE
    arrays = read_npz(path, error=DataError, advice=REFIT_ADVICE)
    sizes: dict[str, int] = {}
    fits = {name: (array.dtype.kind, array.ndim) for name, array in arrays.items()} == {
        name: (axes[0], len(axes) - 1) for name, axes in expected.items()
    } and all(
        sizes.setdefault(axis, size) == size
        for name, axes in expected.items()
        for axis, size in zip(axes[1:], arrays[name].shape, strict=True)
    )
    if not fits or not all(np.isfinite(array).all() for array in arrays.values()):
        found = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in arrays.items())
        raise DataError(
            f"{path}: expected finite {', '.join(expected)} that fit each other, found {found}; {REFIT_ADVICE}"
        )
    return arrays


def save_arrays(folder: Path, **arrays: NDArray[Any]) -> None:
    """Write named arrays to a folder."""
    atomic_write(folder / ARRAYS_FILE, lambda file: np.savez(file, allow_pickle=False, **arrays))
