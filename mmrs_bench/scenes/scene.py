"""A scene in memory: co-registered images with ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes.manifest import Manifest

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


def check_window(window: int, height: int, width: int) -> None:
    """Check that a window has a centre pixel and fits into a raster.

    Raises:
        ConfigError: If the window is even or larger than the raster.
    """
    if window < 1 or window % 2 == 0:
        raise ConfigError(f"window {window} has no centre pixel; use an odd number of at least 1.")
    if window > min(height, width):
        raise ConfigError(
            f"window {window} is larger than the scene ({height} x {width} pixels); use a smaller odd window, or, "
            "because a saved model keeps its window, predict a larger scene with it."
        )


class PixelBound(NamedTuple):
    """Accuracy of the best possible classifier of single pixels on a simulated scene.

    Attributes:
        modalities: Modalities that the classifier receives.
        accuracy: Bayes-optimal overall accuracy over the labelled pixels, in [0, 1].
        standard_error: Monte Carlo error of ``accuracy``; 0 for a closed form.
    """

    modalities: tuple[str, ...]
    accuracy: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class Scene:
    """One scene. The whole suite addresses a pixel by its flat index ``row * width + column``.

    Attributes:
        manifest: The description of the scene.
        images: Raw float32 images (height, width, channels) by modality, in the manifest's order.
        ground_truth: int64 raster (height, width); 0 is unlabelled, 1..K are classes.
        official: Flat indices of the official ``(train, test)`` pixels, if there is an official split.
        official_missing: Which files of the official split are missing; empty if none is.
        pixel_bounds: Upper bounds of pixelwise classifiers; empty for real scenes.
        crs: Coordinate reference system as WKT; None if the files contain none.
        transform: (a, b, c, d, e, f) with x = a column + b row + c and y = d column + e row + f, in units of the CRS;
            None if the files contain none.
    """

    manifest: Manifest
    images: Mapping[str, FloatArray]
    ground_truth: IntArray
    official: tuple[IntArray, IntArray] | None = None
    official_missing: str = ""
    pixel_bounds: tuple[PixelBound, ...] = ()
    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] | None = None

    @property
    def height(self) -> int:
        """Rows."""
        return self.manifest.height

    @property
    def width(self) -> int:
        """Columns."""
        return self.manifest.width

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.manifest.classes)

    @cached_property
    def labels(self) -> IntArray:
        """Flat ground truth (height * width,)."""
        return self.ground_truth.reshape(-1)

    @cached_property
    def labelled_pixels(self) -> IntArray:
        """Flat indices of all labelled pixels, ascending."""
        return np.flatnonzero(self.labels)

    @cached_property
    def class_counts(self) -> IntArray:
        """Labelled pixels (K,) of every class."""
        return np.bincount(self.labels, minlength=self.num_classes + 1)[1:]

    @cached_property
    def empty_classes(self) -> list[str]:
        """Names of the classes that no labelled pixel has."""
        return [self.manifest.class_names[k] for k in np.flatnonzero(self.class_counts == 0)]

    @cached_property
    def ground_truth_sha256(self) -> str:
        """SHA-256 of size and labels, which identifies the ground truth of a split."""
        head = f"{self.height}x{self.width}:".encode()
        return sha256(head + np.ascontiguousarray(self.ground_truth, dtype="<i8").tobytes()).hexdigest()
