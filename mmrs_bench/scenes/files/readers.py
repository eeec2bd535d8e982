"""Reads the verified files of a scene and checks them against its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.formats import AnyArray, read_array
from mmrs_bench.scenes.manifest import ArrayRef, Axes, Manifest, Modality, OfficialSplit
from mmrs_bench.scenes.scene import FloatArray, IntArray, Scene

#: Number of faulty bands, classes or values that a message lists.
_LISTED = 5

#: Expected pixels per class; None where the manifest contains none.
Counts = list[int | None] | tuple[int, ...] | None


def read_scene(manifest: Manifest, folder: Path) -> Scene:
    """Read a scene's files from a folder and check them against its manifest.

    The official split is read if the manifest has one and its files are present.

    Raises:
        DataError: If a file or key is absent or unreadable, axes or sizes differ, a value is not finite, a band is
            constant, classes or their counts differ, or the official split contradicts the ground truth.
    """
    reader = _SceneReader(manifest, folder)
    images: dict[str, FloatArray] = {modality.name: reader.image(modality) for modality in manifest.modalities}
    ground_truth = reader.ground_truth()
    split, official = manifest.official_split, None
    if split is not None and all((folder / ref.file).is_file() for ref in manifest.official_refs):
        official = reader.official(split, ground_truth)
    return Scene(manifest, images, ground_truth, official)


@dataclass(frozen=True)
class _SceneReader:
    manifest: Manifest
    folder: Path

    @property
    def size(self) -> tuple[int, int]:
        return self.manifest.height, self.manifest.width

    def fault(self, place: ArrayRef | str, text: str) -> DataError:
        if isinstance(place, ArrayRef):
            place = f"{place.file}[{place.key}]" if place.key else place.file
        return DataError(f"{self.manifest.tag}: {place}: {text}")

    def array(self, ref: ArrayRef, channels: int | None) -> AnyArray:
        """A view (height, width, channels) of an array; ``channels`` None accepts any number."""
        array = read_array(self.folder / ref.file, ref.key, self.size)
        view = _view(array, ref.axes, self.size, channels)
        if view is not None:
            return view
        fitting = [axes for axes in get_args(Axes) if _view(array, axes, self.size, channels) is not None]
        fix = f"set axes: {' or '.join(fitting)}" if fitting else "no order of axes fits; it belongs to another raster"
        expected = f"{self.size[0]} rows x {self.size[1]} columns" + (f" x {channels} channels" if channels else "")
        raise self.fault(ref, f"has shape {_shape(array)} with axes {ref.axes}, expected {expected}; {fix}")

    def image(self, modality: Modality) -> FloatArray:
        image = np.empty((*self.size, modality.bands), dtype=np.float32)
        only = modality.bands if len(modality.parts) == 1 else None
        stop = 0
        for ref in modality.parts:
            part = self.array(ref, only)
            start, stop = stop, stop + part.shape[2]
            if stop > modality.bands:
                break
            # Values beyond float32 become infinite and are reported by the check below.
            with np.errstate(over="ignore"):
                image[:, :, start:stop] = part
        if stop != modality.bands:
            fault = f"its parts have {stop} channels together, expected bands: {modality.bands}; correct bands or parts"
            raise self.fault(modality.name, fault)
        if fault := _value_fault(image):
            raise self.fault(modality.name, fault)
        return image

    def labels(self, ref: ArrayRef) -> IntArray:
        """A label raster (height, width): 0 for unlabelled, 1..K for the classes."""
        values = self.array(ref, 1)[:, :, 0]
        if not _integral(values):
            raise self.fault(ref, "labels are NaN or fractions, expected integers 1..K; correct the key")
        labels = values.astype(np.int64)
        unlabelled, classes = self.manifest.ground_truth.unlabelled, len(self.manifest.classes)
        unknown = (labels != unlabelled) & ((labels < 1) | (labels > classes))
        if unknown.any():
            counts = zip(*np.unique(labels[unknown], return_counts=True), strict=True)
            found = _listed([f"{k} ({n} pixels)" for k, n in counts])
            fix = "correct ground_truth.unlabelled or the classes"
            raise self.fault(ref, f"unknown class {found}, expected 1..{classes}, or {unlabelled} if unlabelled; {fix}")
        labels[labels == unlabelled] = 0
        return np.ascontiguousarray(labels)

    def ground_truth(self) -> IntArray:
        joined = np.zeros(self.size, dtype=np.int64)
        for ref in self.manifest.ground_truth.parts:
            labels = self.labels(ref)
            clash = (joined != 0) & (labels != 0) & (joined != labels)
            if clash.any():
                raise self.fault(ref, f"{clash.sum()} pixels have another class in another part; fetch the files again")
            joined = np.where(labels != 0, labels, joined)
        self.check_counts("ground truth", joined, [c.count for c in self.manifest.classes])
        return joined

    def check_counts(self, place: ArrayRef | str, labels: IntArray, counts: Counts) -> None:
        if fault := self.count_fault(labels, counts):
            raise self.fault(place, f"{fault}; it is another version of the file, or correct the manifest's counts")

    def count_fault(self, labels: IntArray, counts: Counts) -> str:
        """Classes with another number of pixels than expected; empty if there are none."""
        classes = self.manifest.classes
        found = np.bincount(labels.reshape(-1), minlength=len(classes) + 1)[1:].tolist()
        faults = [
            f"{scene_class.name} has {have} pixels, expected {want}"
            for scene_class, have, want in zip(classes, found, counts or found, strict=True)
            if want is not None and have != want
        ]
        return _listed(faults, separator="; ")

    def official(self, split: OfficialSplit, ground_truth: IntArray) -> tuple[IntArray, IntArray]:
        parts = ((split.train, split.train_counts), (split.test, split.test_counts))
        if split.kind == "index":
            train, test = (self.positions(ref, counts, split.index_base, ground_truth) for ref, counts in parts)
        else:
            train, test = (self.mask(ref, counts, ground_truth) for ref, counts in parts)
        if shared := np.intersect1d(train, test).size:
            raise self.fault("official_split", f"{shared} pixels are in train and in test, expected none; correct it")
        return train, test

    def mask(self, ref: ArrayRef, counts: Counts, ground_truth: IntArray) -> IntArray:
        """Pixels of a raster that contains classes, or 1 for every pixel of the part."""
        labels = self.labels(ref)
        inside = labels != 0
        wrong = inside & (labels != ground_truth) if labels.max() > 1 else inside & (ground_truth == 0)
        if wrong.any():
            fix = "it belongs to another version of the scene"
            raise self.fault(ref, f"{wrong.sum()} pixels disagree with the ground truth, expected none; {fix}")
        self.check_counts(ref, np.where(inside, ground_truth, 0), counts)
        return np.flatnonzero(inside)

    def positions(self, ref: ArrayRef, counts: Counts, base: int, ground_truth: IntArray) -> IntArray:
        """Pixels of a list of positions. The declared base is checked, because files seldom document it."""
        rows = read_array(self.folder / ref.file, ref.key, self.size)
        if rows.ndim != 2 or rows.shape[1] != 2 or not _integral(rows):
            found = f"{rows.dtype} {_shape(rows)}"
            raise self.fault(ref, f"is {found}, expected integers Nx2 (row, column); correct the key")
        positions = rows.astype(np.int64)
        if fault := self.position_fault(positions - base, counts, ground_truth):
            other = 1 - base
            fits = not self.position_fault(positions - other, counts, ground_truth)
            fix = f"all positions fit index_base: {other}, so set that" if fits else "no index_base fits"
            raise self.fault(ref, f"with index_base: {base}, {fault}; {fix}")
        return np.sort(np.ravel_multi_index(tuple((positions - base).T), self.size)).astype(np.int64)

    def position_fault(self, positions: IntArray, counts: Counts, ground_truth: IntArray) -> str:
        """What is wrong with positions (n, 2) from 0; empty if nothing is."""
        outside = int(np.count_nonzero(((positions < 0) | (positions >= self.size)).any(axis=1)))
        if outside:
            return f"{outside} of {len(positions)} positions lie outside the raster"
        labels = ground_truth[tuple(positions.T)]
        if unlabelled := int(np.count_nonzero(labels == 0)):
            return f"{unlabelled} of {len(positions)} positions are unlabelled"
        if repeated := len(positions) - np.unique(np.ravel_multi_index(tuple(positions.T), self.size)).size:
            return f"{repeated} positions are repeated"
        return self.count_fault(labels, counts)


def _view(array: AnyArray, axes: str, size: tuple[int, int], channels: int | None) -> AnyArray | None:
    """The array as a view (height, width, channels); None if it has another size in these axes."""
    if array.ndim != len(axes):
        return None
    view = array.transpose([axes.index(axis) for axis in "hwc" if axis in axes])
    if view.ndim == 2:
        view = view[:, :, None]
    return view if view.shape[:2] == size and channels in (None, view.shape[2]) else None


def _shape(array: AnyArray) -> str:
    return "x".join(map(str, array.shape))


def _value_fault(image: FloatArray) -> str:
    """Bands with NaN or infinite values, or constant ones; empty if there are none."""
    bands = image.reshape(-1, image.shape[2])
    # NaN and infinity survive min and max, so only bands that contain one are searched.
    low, high = bands.min(axis=0), bands.max(axis=0)
    if faulty := np.flatnonzero(~np.isfinite(low) | ~np.isfinite(high)).tolist():
        counts = _listed([f"band {b}: {np.count_nonzero(~np.isfinite(bands[:, b]))}" for b in faulty])
        share = f"{len(faulty)} of {bands.shape[1]} bands ({counts}; counted from 0)"
        return f"NaN or infinite values in {share}, expected finite ones; fill or remove those bands"
    if constant := np.flatnonzero(low == high).tolist():
        values = _listed([f"band {b} is {low[b]:g} everywhere" for b in constant])
        return f"{values} (counted from 0), expected bands that vary; remove it from the file"
    return ""


def _listed(items: list[str], separator: str = ", ") -> str:
    return separator.join(items[:_LISTED]) + (f"{separator}..." if len(items) > _LISTED else "")


def _integral(values: AnyArray) -> bool:
    return values.dtype.kind != "f" or bool(np.all(np.isfinite(values) & (values == np.round(values))))
