"""From verified files to a scene, with every claim of the manifest checked on the way."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.formats import AnyArray, read_array
from mmrs_bench.scenes.manifest import ArrayRef, Manifest, Modality, OfficialSplit
from mmrs_bench.scenes.scene import FloatArray, IntArray, Scene

#: Faulty bands, classes or values that a message names before it says "...".
_NAMED = 5


def read_scene(manifest: Manifest, folder: Path) -> Scene:
    """Read a scene's files and check them against its manifest.

    Args:
        manifest: A manifest with sources.
        folder: Folder that holds the files, as `mmrs_bench.scenes.files.fetch.ensure_files` returns it.

    Returns:
        The scene: float32 images (height, width, channels), int64 ground truth, and the official split where the
        manifest has one and its files are there (they may be optional).

    Raises:
        DataError: If a file is missing or unreadable, a key is missing, axes or sizes differ, values are not finite,
            a band is constant, classes or their counts differ, or the official split contradicts the ground truth.
            The message says what was found.
    """
    images: dict[str, FloatArray] = {
        modality.name: _read_image(manifest, folder, modality) for modality in manifest.modalities
    }
    ground_truth = _read_ground_truth(manifest, folder)
    _check_counts(f"{manifest.tag}: ground truth", ground_truth, [c.count for c in manifest.classes], manifest)
    official = None
    if all((folder / ref.file).is_file() for ref in manifest.official_refs) and manifest.official_split:
        official = _read_official(manifest, folder, manifest.official_split, ground_truth)
    return Scene(manifest, images, ground_truth, official)


def _where(manifest: Manifest, ref: ArrayRef) -> str:
    return f"{manifest.tag}: {ref.file}" + (f"[{ref.key}]" if ref.key else "")


def _read_oriented(manifest: Manifest, folder: Path, ref: ArrayRef, channels: int | None) -> AnyArray:
    """The array of a reference as a view (height, width, channels); ``channels`` None accepts any number."""
    array = read_array(folder / ref.file, ref.key, (manifest.height, manifest.width))
    expected = (manifest.height, manifest.width, channels)
    view = _oriented(array, ref.axes)
    if view is not None and _fits(view, expected):
        return view
    shape = "x".join(map(str, array.shape))
    wanted = f"{manifest.height} rows x {manifest.width} columns" + (f" x {channels} channels" if channels else "")
    orders = ["".join(p) for p in permutations("hwc" if array.ndim == 3 else "hw")]
    named = [axes for axes in orders if axes in ("hwc", "chw", "whc", "cwh", "hw", "wh")]
    fitting = [axes for axes in named if (other := _oriented(array, axes)) is not None and _fits(other, expected)]
    fix = f"set axes: {' or '.join(fitting)}" if fitting else "no order of axes fits, so it belongs to another raster"
    raise DataError(f"{_where(manifest, ref)}: has shape {shape} under axes {ref.axes}, expected {wanted}; {fix}")


def _oriented(array: AnyArray, axes: str) -> AnyArray | None:
    if array.ndim != len(axes):
        return None
    view = array.transpose([axes.index(axis) for axis in "hwc" if axis in axes])
    return view if view.ndim == 3 else view[:, :, None]


def _fits(view: AnyArray, expected: tuple[int, int, int | None]) -> bool:
    return all(want is None or have == want for have, want in zip(view.shape, expected, strict=True))


def _read_image(manifest: Manifest, folder: Path, modality: Modality) -> FloatArray:
    image = np.empty((manifest.height, manifest.width, modality.bands), dtype=np.float32)
    single = modality.bands if len(modality.parts) == 1 else None
    filled = 0
    for ref in modality.parts:
        part = _read_oriented(manifest, folder, ref, single)
        stop = filled + part.shape[2]
        if stop > modality.bands:
            break
        # Values beyond float32 become infinite and are reported by the check below.
        with np.errstate(over="ignore"):
            image[:, :, filled:stop] = part
        filled = stop
    if filled != modality.bands:
        raise DataError(
            f"{manifest.tag}: the parts of {modality.name} have {stop} channels together, expected bands: "
            f"{modality.bands}; correct bands or parts"
        )
    _check_values(f"{manifest.tag}: {modality.name}", image)
    return image


def _check_values(where: str, image: FloatArray) -> None:
    bands = image.reshape(-1, image.shape[2])
    low, high = bands.min(axis=0), bands.max(axis=0)
    # NaN and infinity survive min and max, so the cube is searched only where there is one.
    if faulty := np.flatnonzero(~np.isfinite(low) | ~np.isfinite(high)).tolist():
        counts = [f"band {b}: {int(np.count_nonzero(~np.isfinite(bands[:, b])))}" for b in faulty[:_NAMED]]
        raise DataError(
            f"{where}: NaN or infinite values in {len(faulty)} of {bands.shape[1]} bands ({_some(counts, faulty)}, "
            "counted from 0), expected finite ones; fill or remove those bands, or fetch the file again"
        )
    if constant := np.flatnonzero(low == high).tolist():
        values = [f"band {b} is {low[b]:g} everywhere" for b in constant[:_NAMED]]
        raise DataError(
            f"{where}: {_some(values, constant)} (counted from 0), expected bands that vary; remove it from the file "
            "or fetch the file again"
        )


def _some(named: list[str], everything: list[int]) -> str:
    return ", ".join(named) + (", ..." if len(everything) > len(named) else "")


def _whole(values: AnyArray) -> bool:
    return values.dtype.kind != "f" or bool(np.all(np.isfinite(values) & (values == np.round(values))))


def _read_labels(manifest: Manifest, folder: Path, ref: ArrayRef) -> IntArray:
    """A raster of whole numbers (height, width), with the manifest's unlabelled value turned into 0."""
    values = _read_oriented(manifest, folder, ref, 1)[:, :, 0]
    where = _where(manifest, ref)
    if not _whole(values):
        raise DataError(f"{where}: labels are not whole numbers (NaN or fractions), expected 1..K; correct the key")
    labels = values.astype(np.int64)
    unlabelled = manifest.ground_truth.unlabelled
    stray = (labels != unlabelled) & ((labels < 1) | (labels > len(manifest.classes)))
    if stray.any():
        found, counts = np.unique(labels[stray], return_counts=True)
        named = [f"{value} ({count} pixels)" for value, count in zip(found[:_NAMED], counts, strict=False)]
        raise DataError(
            f"{where}: unknown class {_some(named, found.tolist())}, expected 1..{len(manifest.classes)} and "
            f"{unlabelled} for unlabelled; correct ground_truth.unlabelled or the classes"
        )
    labels[labels == unlabelled] = 0
    return np.ascontiguousarray(labels)


def _read_ground_truth(manifest: Manifest, folder: Path) -> IntArray:
    joined = np.zeros((manifest.height, manifest.width), dtype=np.int64)
    for ref in manifest.ground_truth.parts:
        labels = _read_labels(manifest, folder, ref)
        clash = (joined != 0) & (labels != 0) & (joined != labels)
        if clash.any():
            raise DataError(
                f"{_where(manifest, ref)}: {int(clash.sum())} pixels have another class in the other parts of the "
                "ground truth; expected one class a pixel. Fetch the files again"
            )
        joined = np.where(labels != 0, labels, joined)
    return joined


def _check_counts(where: str, labels: IntArray, expected: list[int | None], manifest: Manifest) -> None:
    if fault := _count_fault(labels, expected, manifest):
        raise DataError(f"{where}: {fault}; it is another version of the file, or the manifest's counts are wrong")


def _count_fault(labels: IntArray, expected: list[int | None], manifest: Manifest) -> str:
    found = np.bincount(labels.reshape(-1), minlength=len(manifest.classes) + 1)[1:].tolist()
    named = [
        f"{scene_class.name} has {have} pixels, expected {want}"
        for scene_class, have, want in zip(manifest.classes, found, expected, strict=True)
        if want is not None and have != want
    ]
    return "; ".join(named[:_NAMED]) + ("; ..." if len(named) > _NAMED else "")


def _read_official(
    manifest: Manifest, folder: Path, split: OfficialSplit, ground_truth: IntArray
) -> tuple[IntArray, IntArray]:
    read = _read_index if split.kind == "index" else _read_mask
    train = read(manifest, folder, split, split.train, split.train_counts, ground_truth)
    test = read(manifest, folder, split, split.test, split.test_counts, ground_truth)
    if shared := np.intersect1d(train, test).size:
        raise DataError(
            f"{manifest.tag}: {shared} pixels are in the official train and the official test part, expected none; "
            f"correct official_split or fetch {split.train.file} again"
        )
    return train, test


def _expected(counts: tuple[int, ...] | None, manifest: Manifest) -> list[int | None]:
    return list(counts) if counts else [None] * len(manifest.classes)


def _read_mask(
    manifest: Manifest,
    folder: Path,
    split: OfficialSplit,
    ref: ArrayRef,
    counts: tuple[int, ...] | None,
    ground_truth: IntArray,
) -> IntArray:
    """Pixels of a raster that holds classes, or 1 for every pixel of the part."""
    labels = _read_labels(manifest, folder, ref)
    inside = labels != 0
    wrong = inside & (labels != ground_truth) if labels.max() > 1 else inside & (ground_truth == 0)
    if wrong.any():
        raise DataError(
            f"{_where(manifest, ref)}: {int(wrong.sum())} pixels disagree with the ground truth, expected the same "
            "class there; it belongs to another version of the scene"
        )
    _check_counts(_where(manifest, ref), np.where(inside, ground_truth, 0), _expected(counts, manifest), manifest)
    return np.flatnonzero(inside)


def _read_index(
    manifest: Manifest,
    folder: Path,
    split: OfficialSplit,
    ref: ArrayRef,
    counts: tuple[int, ...] | None,
    ground_truth: IntArray,
) -> IntArray:
    """Pixels of a list of positions; the declared base is checked, for files seldom say whether they count from 0."""
    where = _where(manifest, ref)
    rows = read_array(folder / ref.file, ref.key, (manifest.height, manifest.width))
    if rows.ndim != 2 or rows.shape[1] != 2 or not _whole(rows):
        shape = "x".join(map(str, rows.shape))
        raise DataError(f"{where}: is {rows.dtype} {shape}, expected whole numbers Nx2 (row, column); correct the key")
    positions = rows.astype(np.int64)
    expected = _expected(counts, manifest)
    fault = _index_fault(positions - split.index_base, expected, ground_truth, manifest)
    if fault:
        other = 1 - split.index_base
        fits = not _index_fault(positions - other, expected, ground_truth, manifest)
        fix = f"everything fits with index_base: {other}, so set that" if fits else "it fits under neither base"
        raise DataError(f"{where}: counted from {split.index_base}, {fault}; {fix}")
    return np.sort(np.ravel_multi_index(tuple((positions - split.index_base).T), ground_truth.shape)).astype(np.int64)


def _index_fault(positions: IntArray, expected: list[int | None], ground_truth: IntArray, manifest: Manifest) -> str:
    outside = int(np.count_nonzero(((positions < 0) | (positions >= ground_truth.shape)).any(axis=1)))
    if outside:
        return f"{outside} of {len(positions)} positions lie outside the raster"
    marked = np.zeros_like(ground_truth)
    marked[tuple(positions.T)] = ground_truth[tuple(positions.T)]
    if unlabelled := int(np.count_nonzero(ground_truth[tuple(positions.T)] == 0)):
        return f"{unlabelled} of {len(positions)} positions are unlabelled"
    if repeated := len(positions) - int(np.count_nonzero(marked)):
        return f"{repeated} positions are given twice"
    return _count_fault(marked, expected, manifest)
