"""Reads the ground truth."""

from __future__ import annotations

import numpy as np

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.labels.codes import class_of, list_of, read_values, suggestion, without_label
from mmrs_bench.scenes.files.rasters import SceneFiles, listed
from mmrs_bench.scenes.manifest import ArrayRef
from mmrs_bench.scenes.scene import IntArray

#: Expected pixels per class; None where the manifest contains none.
Counts = list[int | None] | tuple[int, ...] | None


def read_ground_truth(files: SceneFiles) -> IntArray:
    """The ground truth (height, width): 0 for unlabelled, 1..K for the classes.

    Raises:
        DataError: If a file cannot be read or contains unknown values, parts contradict each other, or a class has
            another number of pixels than the manifest states.
    """
    joined = np.zeros(files.size, dtype=np.int64)
    if not files.manifest.labelled:
        return joined
    for ref in files.manifest.ground_truth.parts:
        labels = _read_part(files, ref)
        clash = (joined != 0) & (labels != 0) & (joined != labels)
        if clash.any():
            fix = "correct ground_truth.parts, or take both from one version of the data"
            raise files.fault(ref, f"{clash.sum()} pixels have another class in another part; {fix}")
        joined = np.where(labels != 0, labels, joined)
    if fault := count_fault(files, joined, [c.count for c in files.manifest.classes]):
        raise counts_error(files, "ground truth", fault)
    return joined


def _read_part(files: SceneFiles, ref: ArrayRef) -> IntArray:
    values, encoding = read_values(files, ref)
    classes, ignored = class_of(files.manifest, encoding), without_label(files.manifest)
    unknown = [value for value in values.distinct if value not in classes and value not in ignored]
    if unknown:
        expected = f"{list_of(classes)} for the classes"
        expected += f" and {list_of(ignored)} for no label" if ignored else ""
        fix = suggestion(files.manifest, values, encoding, "ground_truth.ignore")
        raise files.fault(ref, f"unknown values {values.with_counts(unknown)}, expected {expected}; {fix}")
    return values.mapped(classes)


def counts_error(files: SceneFiles, place: ArrayRef | str, fault: str) -> DataError:
    """The error for classes with another number of pixels than expected."""
    return files.fault(place, f"{fault}; it is another version of the file, or correct the manifest's counts")


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
