"""Reads official splits."""

from __future__ import annotations

import numpy as np

from mmrs_bench.scenes.files.labels.ground_truth import Counts, check_counts, count_fault, read_labels
from mmrs_bench.scenes.files.rasters import SceneFiles, integral, shape_text
from mmrs_bench.scenes.manifest import ArrayRef, OfficialSplit
from mmrs_bench.scenes.scene import IntArray


def read_official(files: SceneFiles, split: OfficialSplit, ground_truth: IntArray) -> tuple[IntArray, IntArray]:
    """Flat indices of the train and test pixels, ascending; a `DataError` names any fault."""
    parts = ((split.train, split.train_counts), (split.test, split.test_counts))
    if split.kind == "index":
        train, test = (_positions(files, ref, counts, split.index_base, ground_truth) for ref, counts in parts)
    else:
        train, test = (_mask(files, ref, counts, ground_truth) for ref, counts in parts)
    if shared := np.intersect1d(train, test).size:
        raise files.fault("official_split", f"{shared} pixels are in train and in test, expected none; correct it")
    return train, test


def _mask(files: SceneFiles, ref: ArrayRef, counts: Counts, ground_truth: IntArray) -> IntArray:
    """Pixels of a raster that contains classes, or 1 for every pixel of the part."""
    labels = read_labels(files, ref)
    inside = labels != 0
    wrong = inside & (labels != ground_truth) if labels.max() > 1 else inside & (ground_truth == 0)
    if wrong.any():
        fix = "it belongs to another version of the scene"
        raise files.fault(ref, f"{wrong.sum()} pixels disagree with the ground truth, expected none; {fix}")
    check_counts(files, ref, np.where(inside, ground_truth, 0), counts)
    return np.flatnonzero(inside)


def _positions(files: SceneFiles, ref: ArrayRef, counts: Counts, base: int, ground_truth: IntArray) -> IntArray:
    """Pixels of a list of positions. The declared base is checked, because files seldom document it."""
    rows = files.raw(ref)
    if rows.ndim != 2 or rows.shape[1] != 2 or not integral(rows):
        found = f"{rows.dtype} {shape_text(rows)}"
        raise files.fault(ref, f"is {found}, expected integers Nx2 (row, column); correct the key")
    positions = rows.astype(np.int64)
    if fault := _position_fault(files, positions - base, counts, ground_truth):
        other = 1 - base
        fits = not _position_fault(files, positions - other, counts, ground_truth)
        fix = f"all positions fit index_base: {other}, so set that" if fits else "no index_base fits"
        raise files.fault(ref, f"with index_base: {base}, {fault}; {fix}")
    return np.sort(np.ravel_multi_index(tuple((positions - base).T), files.size)).astype(np.int64)


def _position_fault(files: SceneFiles, positions: IntArray, counts: Counts, ground_truth: IntArray) -> str:
    """What is wrong with positions (n, 2) from 0; empty if nothing is."""
    outside = int(np.count_nonzero(((positions < 0) | (positions >= files.size)).any(axis=1)))
    if outside:
        return f"{outside} of {len(positions)} positions lie outside the raster"
    labels = ground_truth[tuple(positions.T)]
    if unlabelled := int(np.count_nonzero(labels == 0)):
        return f"{unlabelled} of {len(positions)} positions are unlabelled"
    if repeated := len(positions) - np.unique(np.ravel_multi_index(tuple(positions.T), files.size)).size:
        return f"{repeated} positions are repeated"
    return count_fault(files, labels, counts)
