"""Reads official splits that are lists of pixels.

Files seldom document whether they count from 0, which column is which, and in which order a linear index runs. The form
that the manifest declares is checked, and an error names the forms that fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from mmrs_bench.scenes.files.decoders.raster import AnyArray
from mmrs_bench.scenes.files.labels.codes import Value, class_of
from mmrs_bench.scenes.files.labels.ground_truth import Counts, count_fault
from mmrs_bench.scenes.files.rasters import SceneFiles, integral, shape_text
from mmrs_bench.scenes.manifest import ArrayRef, OfficialSplit
from mmrs_bench.scenes.manifest_labels import Column
from mmrs_bench.scenes.scene import IntArray

#: Orders of columns that are tried, by number of columns.
COLUMNS: dict[int, tuple[tuple[Column, ...], ...]] = {
    1: (("linear",),),
    2: (("row", "column"), ("x", "y"), ("linear", "class"), ("class", "linear")),
    3: (("row", "column", "class"), ("x", "y", "class"), ("class", "row", "column"), ("class", "x", "y")),
}


@dataclass(frozen=True)
class _Form:
    """How the rows of a list name pixels."""

    columns: tuple[Column, ...]
    base: int
    order: Literal["c", "matlab"] = "c"

    def __str__(self) -> str:
        order = f", order: {self.order}" if "linear" in self.columns else ""
        return f"columns: [{', '.join(self.columns)}]{order}, index_base: {self.base}"


def read_positions(
    files: SceneFiles, split: OfficialSplit, ref: ArrayRef, counts: Counts, ground_truth: IntArray
) -> IntArray:
    """Flat indices of the pixels in a list, ascending.

    Raises:
        DataError: If the array is no list, or a pixel lies outside the raster, has no label or another class, or is
            repeated, or a class has another number of pixels than expected.
    """
    declared = _Form(split.columns, split.index_base, split.order)
    rows = _rows(files, ref, declared)
    fault = _fault(files, rows, declared, counts, ground_truth)
    if not fault and rows.shape[1] == len(declared.columns):
        return np.sort(_flat(rows, declared, files.size))
    forms = [form for form in _forms(rows.shape[1]) if not _fault(files, rows, form, counts, ground_truth)]
    fix = f"all rows fit another form, so set {' or '.join(map(str, forms))}" if forms else "no other form fits"
    raise files.fault(ref, f"with {declared}, {fault}; {fix}")


def _rows(files: SceneFiles, ref: ArrayRef, declared: _Form) -> IntArray:
    """The list (n, columns) as int64."""
    array = files.raw(ref)
    if array.ndim == 1 or (array.ndim == 2 and array.shape[0] == 1 and len(declared.columns) == 1):
        array = array.reshape(-1, 1)
    if array.ndim != 2 or array.shape[1] not in COLUMNS or not integral(array):
        found, width = f"{array.dtype} {shape_text(array)}", len(declared.columns)
        fix = "save its transpose" if array.ndim == 2 and array.shape[0] == width else "correct the key"
        raise files.fault(ref, f"is {found}, expected integers Nx{width} ({', '.join(declared.columns)}); {fix}")
    with np.errstate(invalid="ignore"):  # values beyond int64 lie outside any raster
        return array.astype(np.int64)


def _forms(columns: int) -> Iterator[_Form]:
    for names, base in product(COLUMNS[columns], (0, 1)):
        yield _Form(names, base)
        if "linear" in names:
            yield _Form(names, base, "matlab")


def _flat(rows: IntArray, form: _Form, size: tuple[int, int]) -> IntArray:
    """Flat indices in C order; -1 for positions outside the raster."""
    values = dict(zip(form.columns, rows.T, strict=True))
    height, width = size
    if "linear" in values:
        linear = values["linear"] - form.base
        row, column = (linear // width, linear % width) if form.order == "c" else (linear % height, linear // height)
    else:
        row = values["row" if "row" in values else "y"] - form.base
        column = values["column" if "column" in values else "x"] - form.base
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return np.where(inside, row * width + column, -1)


def _fault(files: SceneFiles, rows: IntArray, form: _Form, counts: Counts, ground_truth: IntArray) -> str:
    """What is wrong with a list in a form; empty if nothing is."""
    if rows.shape[1] != len(form.columns):
        return f"it has {rows.shape[1]} columns, expected {len(form.columns)}"
    pixels, total = _flat(rows, form, files.size), len(rows)
    if not total:
        return "the list is empty"
    if outside := int(np.count_nonzero(pixels < 0)):
        return f"{outside} of {total} positions lie outside the raster"
    labels = ground_truth.reshape(-1)[pixels]
    if unlabelled := int(np.count_nonzero(labels == 0)):
        return f"{unlabelled} of {total} positions are unlabelled"
    if repeated := total - np.unique(pixels).size:
        return f"{repeated} positions are repeated"
    if "class" in form.columns:
        listed = _classes(files, rows[:, form.columns.index("class")])
        if other := int(np.count_nonzero(listed != labels)):
            return f"{other} of {total} positions have another class than in the ground truth"
    return count_fault(files, labels, counts)


def _classes(files: SceneFiles, values: AnyArray) -> IntArray:
    """Class ids of the values in a column of classes; 0 for unknown values."""
    encoding = files.manifest.ground_truth.encoding
    classes: dict[Value, int] = class_of(files.manifest, "labels" if encoding == "labels" else "rgb")
    if encoding != "labels":  # a list holds no colours and channels
        classes = {c.id: c.id for c in files.manifest.classes}
    distinct, index = np.unique(values, return_inverse=True)
    return np.array([classes.get(value, 0) for value in distinct.tolist()], dtype=np.int64)[index.reshape(-1)]
