"""Reads the ground truth."""

from __future__ import annotations

import numpy as np

from mmrs_bench.scenes.files.rasters import SceneFiles, integral, listed
from mmrs_bench.scenes.manifest import ArrayRef
from mmrs_bench.scenes.scene import IntArray

#: Expected pixels per class; None where the manifest contains none.
Counts = list[int | None] | tuple[int, ...] | None


def read_ground_truth(files: SceneFiles) -> IntArray:
    """The ground truth (height, width): 0 for unlabelled, 1..K for the classes; a `DataError` names any fault."""
    joined = np.zeros(files.size, dtype=np.int64)
    for ref in files.manifest.ground_truth.parts:
        labels = read_labels(files, ref)
        clash = (joined != 0) & (labels != 0) & (joined != labels)
        if clash.any():
            raise files.fault(ref, f"{clash.sum()} pixels have another class in another part; fetch the files again")
        joined = np.where(labels != 0, labels, joined)
    check_counts(files, "ground truth", joined, [c.count for c in files.manifest.classes])
    return joined


def read_labels(files: SceneFiles, ref: ArrayRef) -> IntArray:
    """A label raster (height, width): 0 for unlabelled, 1..K for the classes."""
    values = files.array(ref, 1)[:, :, 0]
    if not integral(values):
        raise files.fault(ref, "labels are NaN or fractions, expected integers 1..K; correct the key")
    labels = values.astype(np.int64)
    unlabelled, classes = files.manifest.ground_truth.unlabelled, len(files.manifest.classes)
    unknown = (labels != unlabelled) & ((labels < 1) | (labels > classes))
    if unknown.any():
        counts = zip(*np.unique(labels[unknown], return_counts=True), strict=True)
        found = listed([f"{k} ({n} pixels)" for k, n in counts])
        fix = "correct ground_truth.unlabelled or the classes"
        raise files.fault(ref, f"unknown class {found}, expected 1..{classes}, or {unlabelled} if unlabelled; {fix}")
    labels[labels == unlabelled] = 0
    return np.ascontiguousarray(labels)


def check_counts(files: SceneFiles, place: ArrayRef | str, labels: IntArray, counts: Counts) -> None:
    """Raise a `DataError` if classes have another number of pixels than expected."""
    if fault := count_fault(files, labels, counts):
        raise files.fault(place, f"{fault}; it is another version of the file, or correct the manifest's counts")


def count_fault(files: SceneFiles, labels: IntArray, counts: Counts) -> str:
    """Classes with another number of pixels than expected; empty if there are none."""
    classes = files.manifest.classes
    found = np.bincount(labels.reshape(-1), minlength=len(classes) + 1)[1:].tolist()
    faults = [
        f"{scene_class.name} has {have} pixels, expected {want}"
        for scene_class, have, want in zip(classes, found, counts or found, strict=True)
        if want is not None and have != want
    ]
    return listed(faults, separator="; ")
