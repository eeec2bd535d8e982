"""Reads official splits: masks, or lists of pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.labels.codes import (
    Value,
    Values,
    class_of,
    list_of,
    read_values,
    suggestion,
    without_label,
)
from mmrs_bench.scenes.files.labels.ground_truth import Counts, count_fault, counts_error
from mmrs_bench.scenes.files.labels.positions import read_positions
from mmrs_bench.scenes.files.rasters import SceneFiles
from mmrs_bench.scenes.manifest import ArrayRef, OfficialSplit
from mmrs_bench.scenes.scene import IntArray

IGNORE_FIELD = "official_split.ignore"


class _Reading(NamedTuple):
    """One way to understand a mask: the values of pixels outside the part, and whether the others are classes."""

    outside: frozenset[Value]
    classes: bool


def read_official(files: SceneFiles, split: OfficialSplit, ground_truth: IntArray) -> tuple[IntArray, IntArray]:
    """Flat indices of the train and test pixels, ascending.

    Raises:
        DataError: If a file cannot be read or has another form than the manifest states, a part contradicts the ground
            truth or its counts, or the parts share a pixel.
    """
    read = read_positions if split.kind == "index" else _mask
    train = read(files, split, split.train, split.train_counts, ground_truth)
    test = read(files, split, split.test, split.test_counts, ground_truth)
    if shared := np.intersect1d(train, test).size:
        raise files.fault("official_split", f"{shared} pixels are in train and in test, expected none; correct it")
    return train, test


def _mask(files: SceneFiles, split: OfficialSplit, ref: ArrayRef, counts: Counts, ground_truth: IntArray) -> IntArray:
    """Pixels of a raster that contains classes, or one value for every pixel of the part."""
    values, encoding = read_values(files, ref, mask=True)
    classes = class_of(files.manifest, encoding)
    readings = list(_readings(files, split, values, encoding))
    if not readings:
        found = values.with_counts(values.distinct) or "no values"
        fix = "correct the key, or official_split.ignore"
        raise files.fault(ref, f"contains only {found}, which are all outside the part; {fix}")
    for reading in readings:
        inside = _inside(values, reading)
        if not _disagreeing(values, reading, classes, ground_truth).any() and not count_fault(
            files, np.where(inside, ground_truth, 0), counts
        ):
            return np.flatnonzero(inside)
    raise _refusal(files, ref, values, encoding, readings[0], counts, ground_truth)


def _readings(files: SceneFiles, split: OfficialSplit, values: Values, encoding: str) -> Iterator[_Reading]:
    """The ways to understand a mask, the most likely first; at most one of them agrees with the ground truth.

    0 is outside, and so are the values without a label. Two kinds need care. Where 0 is a class, a mask of classes
    marks the outside by another value. And a mask of 0 and 255 may belong to a ground truth in which 255 is no label.
    """
    classes = class_of(files.manifest, encoding)
    zero: Value = "#000000" if encoding == "rgb" else 0
    ignored = frozenset(without_label(files.manifest) if split.ignore is None else split.ignore)
    if encoding == "one-hot":  # a pixel outside is zero in all channels
        outsides = [ignored]
    elif zero in classes and zero not in ignored and ignored & {*values.distinct}:
        outsides = [ignored, ignored | {zero}]
    else:
        outsides = [ignored | {zero}]
    if split.ignore is None and encoding != "one-hot":
        outsides.append(frozenset({zero}))
    for outside in dict.fromkeys(outsides):
        inside = [value for value in values.distinct if value not in outside]
        if len(inside) == 1 and inside != [zero] and encoding != "one-hot":
            yield _Reading(outside, classes=False)
        elif inside:
            yield _Reading(outside, classes=True)


def _inside(values: Values, reading: _Reading) -> NDArray[np.bool_]:
    return values.where(value for value in values.distinct if value not in reading.outside)


def _disagreeing(
    values: Values, reading: _Reading, classes: dict[Value, int], ground_truth: IntArray
) -> NDArray[np.bool_]:
    """Pixels of the part that have no label, or another class, in the ground truth."""
    wrong = values.mapped(classes) != ground_truth if reading.classes else ground_truth == 0
    disagreeing: NDArray[np.bool_] = _inside(values, reading) & wrong
    return disagreeing


def _refusal(
    files: SceneFiles,
    ref: ArrayRef,
    values: Values,
    encoding: str,
    reading: _Reading,
    counts: Counts,
    ground_truth: IntArray,
) -> DataError:
    """The error for a mask that disagrees with the ground truth in every reading."""
    classes = class_of(files.manifest, encoding)
    unknown = [value for value in values.distinct if value not in reading.outside and value not in classes]
    if reading.classes and unknown:
        expected = (
            f"one value for the part, or {list_of(classes)} for the classes, and {list_of(reading.outside)} outside"
        )
        fix = suggestion(files.manifest, values, encoding, IGNORE_FIELD)
        return files.fault(ref, f"unknown values {values.with_counts(unknown)}, expected {expected}; {fix}")
    if wrong := int(np.count_nonzero(_disagreeing(values, reading, classes, ground_truth))):
        fix = "it belongs to another version of the scene, or correct official_split"
        return files.fault(ref, f"{wrong} pixels disagree with the ground truth, expected none; {fix}")
    return counts_error(files, ref, count_fault(files, np.where(_inside(values, reading), ground_truth, 0), counts))
