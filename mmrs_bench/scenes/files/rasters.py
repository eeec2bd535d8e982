"""Reads arrays of a scene's files in the order of axes that the manifest states."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import get_args

import numpy as np

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.decoders.raster import AnyArray, Raster
from mmrs_bench.scenes.files.formats import companion, read_array
from mmrs_bench.scenes.files.grids import Grids
from mmrs_bench.scenes.manifest import ArrayRef, Axes, Manifest

#: Number of faulty bands, classes or values that a message lists.
LISTED = 5


@dataclass(frozen=True)
class SceneFiles:
    """The files of one scene.

    Args:
        manifest: Their description.
        folder: The folder that contains them.
        grids: The georeference of the files that were read.
    """

    manifest: Manifest
    folder: Path
    grids: Grids = field(default_factory=Grids)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the scene."""
        return self.manifest.height, self.manifest.width

    def fault(self, place: ArrayRef | str, text: str) -> DataError:
        """The error for a fault of an array, or of a part of the manifest."""
        if isinstance(place, ArrayRef):
            place = f"{place.file}[{place.key}]" if place.key else place.file
        return DataError(f"{self.manifest.tag}: {place}: {text}")

    def read(self, ref: ArrayRef) -> Raster:
        """An array in the axis order of its file, with its missing values.

        Raises:
            DataError: As `read_array`; if the file lies on another pixel grid than one read before, or is read
                together with one that no source provides.
        """
        path = self.folder / ref.file
        if path.is_file() and (other := companion(path)) is not None:
            self._check_source(ref, other.name)
        raster = read_array(path, ref.key, self.size)
        if raster.grid is not None:
            stored_by_columns = ref.axes.index("w") < ref.axes.index("h")
            grid = raster.grid.transposed() if stored_by_columns else raster.grid
            try:
                self.grids.add(ref.file, grid, self.size)
            except DataError as error:
                raise DataError(f"{self.manifest.tag}: {error}") from error
        return raster

    def _check_source(self, ref: ArrayRef, companion_name: str) -> None:
        """Check that the other file of an ENVI raster is fetched and verified, too."""
        name = str(PurePosixPath(ref.file).with_name(companion_name))
        if name not in {file.path for source in self.manifest.sources for file in source.files}:
            raise self.fault(ref, f"is read together with {name}, which no source provides; add it to the sources")

    def raw(self, ref: ArrayRef) -> AnyArray:
        """An array in the axis order of its file; errors as `read_array`."""
        return self.read(ref).array

    def array(self, ref: ArrayRef, channels: int | None) -> AnyArray:
        """An array as a view (height, width, channels); ``channels`` None accepts any number.

        Raises:
            DataError: If the array cannot be read, or has another shape; the error names the axes that fit.
        """
        return self.raster(ref, channels).array

    def raster(self, ref: ArrayRef, channels: int | None) -> Raster:
        """As `array`, with the missing values, which are a view (height, width, channels), too."""
        raster = self.read(ref)
        array, missing = raster.array, raster.nodata
        view = _view(array, ref.axes, self.size, channels)
        if view is not None:
            return replace(
                raster, array=view, nodata=None if missing is None else _view(missing, ref.axes, self.size, channels)
            )
        fix = ", or ".join(self._fixes(ref, array, channels)) or "no order of axes fits; it belongs to another raster"
        expected = f"{self.size[0]} rows x {self.size[1]} columns" + (f" x {channels} channels" if channels else "")
        raise self.fault(ref, f"has shape {shape_text(array)} with axes {ref.axes}, expected {expected}; {fix}")

    def _fixes(self, ref: ArrayRef, array: AnyArray, channels: int | None) -> list[str]:
        """What may help against a wrong shape."""
        fitting = [axes for axes in get_args(Axes) if _view(array, axes, self.size, channels) is not None]
        fixes = [f"set axes: {' or '.join(fitting)}"] if fitting else []
        if _view(array, ref.axes, self.size[::-1], channels) is not None:
            return [*fixes, "exchange height and width"]
        if not fitting and ref in self.manifest.ground_truth.parts:
            fixes += self._encodings(array)
        if not fixes and (other := _view(array, ref.axes, self.size, None)) is not None:
            fixes.append(
                f"it has {other.shape[2]} channels, so correct their number in the manifest, the key or the file"
            )
        if not fixes and math.prod(self.size) in array.shape:
            fixes.append(f"it is flattened, so reshape it in the file to {self.size[0]} rows x {self.size[1]} columns")
        return fixes

    def _encodings(self, array: AnyArray) -> list[str]:
        """The encodings that fit the number of channels of a ground truth, with their axes."""
        views = {axes: _view(array, axes, self.size, None) for axes in get_args(Axes)}
        fitting = {axes: view.shape[2] for axes, view in views.items() if view is not None}
        axes = f"axes: {' or '.join(fitting)}"
        counts, classes = set(fitting.values()), len(self.manifest.classes)
        if 1 in counts:
            return [f"if it has one value per pixel, set encoding: labels and {axes}"]
        if self.manifest.ground_truth.encoding == "one-hot":
            return []
        fixes = []
        if 3 in counts:
            fixes.append(f"if it contains colours, set encoding: rgb and {axes}")
        if 4 in counts:
            fixes.append(f"if it contains colours, remove its alpha channel, and set encoding: rgb and {axes}")
        if classes in counts:
            fixes.append(f"if it has one channel per class, set encoding: one-hot and {axes}")
        if classes + 1 in counts:
            fixes.append(
                f"if it has one channel per class and one for no label, set encoding: one-hot and {axes}, and ignore: "
                "to the channel for no label, counted from 0"
            )
        return fixes


def _view(array: AnyArray, axes: str, size: tuple[int, int], channels: int | None) -> AnyArray | None:
    """The array as a view (height, width, channels); None if it has another size in these axes."""
    if array.ndim != len(axes):
        return None
    view = array.transpose([axes.index(axis) for axis in "hwc" if axis in axes])
    if view.ndim == 2:
        view = view[:, :, None]
    return view if view.shape[:2] == size and channels in (None, view.shape[2]) else None


def shape_text(array: AnyArray) -> str:
    """The shape of an array, such as ``6x9x4``."""
    return "x".join(map(str, array.shape))


def listed(items: list[str], separator: str = ", ") -> str:
    """The first items of a list as text."""
    return separator.join(items[:LISTED]) + (f"{separator}..." if len(items) > LISTED else "")


def integral(values: AnyArray) -> bool:
    """Whether all values are finite integers, of any type."""
    return values.dtype.kind != "f" or bool(np.all(np.isfinite(values) & (values == np.round(values))))
