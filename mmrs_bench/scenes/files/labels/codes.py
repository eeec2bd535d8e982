"""Converts values of label rasters to classes, as the manifest maps them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.scenes.files.decoders.raster import AnyArray
from mmrs_bench.scenes.files.rasters import SceneFiles, listed
from mmrs_bench.scenes.manifest import ArrayRef, Manifest
from mmrs_bench.scenes.manifest_labels import NAN, values_of, values_without_label
from mmrs_bench.scenes.scene import IntArray

#: A label value: a number, ``"nan"``, or in RGB rasters ``"#rrggbb"``.
Value = int | float | str
#: Values that usually mean "no label", in the order in which they are suggested.
USUAL_IGNORED: tuple[Value, ...] = (NAN, 255, -1, 0, 65535, -9999, -99, -999, -32768, -128, 254, 99, 127)
#: Largest number of distinct values that a suggestion is sought for.
MOST_DISTINCT = 100


@dataclass(frozen=True)
class Values:
    """The distinct values of a raster.

    Attributes:
        distinct: They, ascending; NaN is last.
        index: Index into ``distinct`` (height, width); -1 where the raster has no value.
        counts: Number of pixels of each.
    """

    distinct: tuple[Value, ...]
    index: IntArray
    counts: tuple[int, ...]

    def where(self, values: Iterable[Value]) -> NDArray[np.bool_]:
        """Mask (height, width) of the pixels with one of these values."""
        return self.mapped(dict.fromkeys(values, 1)).astype(np.bool_)

    def mapped(self, classes: Mapping[Value, int]) -> IntArray:
        """Classes (height, width); 0 for other values and where the raster has no value."""
        table = np.array([*(classes.get(value, 0) for value in self.distinct), 0], dtype=np.int64)
        return table[self.index]

    def with_counts(self, values: Iterable[Value]) -> str:
        """Some of the values with their numbers of pixels, as text."""
        pixels = dict(zip(self.distinct, self.counts, strict=True))
        return listed([f"{text_of(value)} ({pixels[value]} pixels)" for value in values])


def class_of(manifest: Manifest, encoding: str) -> dict[Value, int]:
    """Class ids by the value that means them in rasters of an encoding."""
    return {value: c.id for c in manifest.classes for value in values_of(c, encoding)}


def without_label(manifest: Manifest) -> tuple[Value, ...]:
    """The values of pixels without a label in the ground truth."""
    return values_without_label(manifest.classes, manifest.ground_truth)


def read_values(files: SceneFiles, ref: ArrayRef, *, mask: bool = False) -> tuple[Values, str]:
    """The values of a label raster and its encoding.

    Args:
        files: The scene's files.
        ref: The array.
        mask: Whether it is a mask, which may have one channel whatever the ground truth's encoding.

    Raises:
        DataError: If the array has another shape, or is not encoded as the manifest states.
    """
    encoding = files.manifest.ground_truth.encoding
    if encoding == "labels":
        return _single(_array(files, ref, 1)[:, :, 0]), encoding
    if mask:
        array = _array(files, ref, None)
        if array.shape[2] == 1:
            return _single(array[:, :, 0]), "labels"
    if encoding == "rgb":
        return _colours(files, ref, _array(files, ref, 3)), encoding
    channels = [*class_of(files.manifest, encoding), *without_label(files.manifest)]
    return _one_hot(files, ref, _array(files, ref, 1 + max(int(channel) for channel in channels))), encoding


def _array(files: SceneFiles, ref: ArrayRef, channels: int | None) -> AnyArray:
    """A masked array (height, width, channels); pixels that the file declares as missing are masked."""
    raster = files.raster(ref, channels)
    array: AnyArray = np.ma.masked_array(raster.array, mask=False if raster.nodata is None else raster.nodata)
    return array


def _single(raster: AnyArray) -> Values:
    known = ~np.ma.getmaskarray(raster)
    distinct, index, counts = np.unique(np.ma.getdata(raster)[known], return_inverse=True, return_counts=True)
    full = np.full(raster.shape, -1, dtype=np.int64)
    full[known] = index.reshape(-1)
    return Values(tuple(map(_value, distinct.tolist())), full, tuple(counts.tolist()))


def _value(value: Any) -> Value:
    """A number of a file as a label value: whole numbers are int, NaN is a text."""
    if isinstance(value, float):
        if math.isnan(value):
            return NAN
        return int(value) if value.is_integer() else value
    return int(value)


def _colours(files: SceneFiles, ref: ArrayRef, raster: AnyArray) -> Values:
    known = ~np.min(np.ma.getmaskarray(raster), axis=2)  # a colour may contain the value of nodata in one channel
    channels = np.where(known[:, :, None], np.ma.getdata(raster), 0)
    with np.errstate(invalid="ignore"):  # NaN and infinity fail the comparison
        codes = channels.astype(np.int64)
    if not np.array_equal(codes, channels) or codes.min() < 0 or codes.max() > 255:
        raise files.fault(ref, "is not an RGB raster: expected integers from 0 to 255; correct ground_truth.encoding")
    values = _single(np.ma.masked_array(codes @ np.array([1 << 16, 1 << 8, 1]), mask=~known))
    return Values(tuple(f"#{code:06x}" for code in values.distinct), values.index, values.counts)


def _one_hot(files: SceneFiles, ref: ArrayRef, stack: AnyArray) -> Values:
    channels = np.ma.filled(stack, 0)
    set_values = [value for value in np.unique(channels).tolist() if value != 0]
    if len(set_values) > 1 or any(value != value for value in set_values):
        found = listed([text_of(_value(value)) for value in set_values])
        raise files.fault(ref, f"is not a one-hot stack: it contains {found}, expected 0 and one other value")
    chosen = channels != 0
    if several := int(np.count_nonzero(chosen.sum(axis=2) > 1)):
        fix = "each pixel has at most one class; correct the file or ground_truth.encoding"
        raise files.fault(ref, f"is not a one-hot stack: {several} pixels have several channels set; {fix}")
    return _single(np.ma.masked_array(chosen.argmax(axis=2), mask=~chosen.any(axis=2)))


def text_of(value: Value) -> str:
    """A label value as it is written in YAML."""
    if value == NAN:
        return ".nan"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def list_of(values: Iterable[Value]) -> str:
    """Label values as a YAML list."""
    return f"[{', '.join(map(text_of, values))}]"


def suggestion(manifest: Manifest, values: Values, encoding: str, field: str) -> str:
    """The lines of the manifest with which all values of a raster are known.

    Args:
        manifest: The manifest.
        values: The raster's values, of which some are unknown.
        encoding: The raster's encoding.
        field: The list of values without a label, such as ``ground_truth.ignore``.
    """
    known, ignored = class_of(manifest, encoding), without_label(manifest)
    unknown = [value for value in values.distinct if value not in known and value not in ignored]
    missing = {id for value, id in known.items() if value not in values.distinct}
    declared = [value for value in ignored if value != 0 or "unlabelled" in manifest.ground_truth.model_fields_set]
    if set(unknown) <= {*USUAL_IGNORED} and not missing:
        return _ignore_line(field, [*declared, *unknown]) + " if they mean no label"
    if len(values.distinct) <= MOST_DISTINCT:
        for classes in _fitting(manifest, values, {*known, *ignored}):
            rest = [value for value in values.distinct if value not in classes]
            lines = [
                f"{c.name}: values: {list_of([value])}" for c, value in zip(manifest.classes, classes, strict=True)
            ]
            changed = [
                line for line, c, v in zip(lines, manifest.classes, classes, strict=True) if known.get(v) != c.id
            ]
            ignore = [value for value in rest if value not in ignored]
            fix = [f"classes {', '.join(changed)}"] if changed else []
            fix += [_ignore_line(field, rest)] if ignore else []
            fix += (
                ["remove ground_truth.unlabelled"] if manifest.ground_truth.unlabelled in classes and declared else []
            )
            return f"these lines would fit: {'; '.join(fix)}"
    if unknown == [NAN]:  # no class can have it
        return _ignore_line(field, [*declared, NAN])
    return (
        f"add each value to the values: of its class (such as values: {list_of(unknown[:1])}), or, if it means no "
        f"label, to {field}: {list_of([*declared, *unknown][:5])}"
    )


def _ignore_line(field: str, values: Iterable[Value]) -> str:
    return f"set {field}: {list_of(dict.fromkeys(values))}"


def _fitting(manifest: Manifest, values: Values, known: set[Value]) -> Iterator[tuple[Value, ...]]:
    """Values of the classes, in their order, that would explain a raster: by pixel counts, else in ascending order.

    Among the values that usually mean no label, those that the manifest does not know are left out first: labels from
    0 with a background of 255 are commoner than a class 255 without a class 0.
    """
    pixels = {value: count for value, count in zip(values.distinct, values.counts, strict=True) if value != NAN}
    by_count = [[value for value, count in pixels.items() if count == c.count] for c in manifest.classes]
    if all(len(found) == 1 for found in by_count):
        yield tuple(found[0] for found in by_count)
    usual = [value for value in (*without_label(manifest), *USUAL_IGNORED) if value in pixels]
    usual.sort(key=lambda value: value in known)
    for number in range(min(len(usual), 3) + 1):
        for left_out in combinations(dict.fromkeys(usual), number):
            rest = tuple(value for value in pixels if value not in left_out)
            if len(rest) == len(manifest.classes):
                yield rest
