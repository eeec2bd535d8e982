"""Scenes: co-registered images with ground truth, checked against their manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.scenes.manifest import Manifest

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class PixelBound:
    """Accuracy that the best possible classifier of single pixels reaches on a simulated scene.

    Attributes:
        modalities: What the classifier sees, e.g. ``("hsi",)``.
        accuracy: Bayes-optimal overall accuracy over the labelled pixels, in [0, 1].
        standard_error: Monte Carlo error of ``accuracy`` (0 for a closed form).
    """

    modalities: tuple[str, ...]
    accuracy: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class Scene:
    """One scene in memory.

    A pixel is named by its flat index ``row * width + column`` everywhere in the suite.

    Attributes:
        manifest: The description that the arrays were checked against.
        images: Raw float32 images (height, width, channels) by modality, in the manifest's order.
        ground_truth: int64 raster (height, width); 0 is unlabelled, 1..K are classes.
        official: Flat indices of the publishers' ``(train, test)`` pixels, where there is an official split.
        official_missing: Why ``official`` is None, for the error message.
        pixel_bounds: For simulated scenes, what single pixels can tell (empty for real scenes).
    """

    manifest: Manifest
    images: Mapping[str, FloatArray]
    ground_truth: IntArray
    official: tuple[IntArray, IntArray] | None = None
    official_missing: str = "the scene was built without the official pixels"
    pixel_bounds: tuple[PixelBound, ...] = ()

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
    def ground_truth_sha256(self) -> str:
        """SHA-256 of size and labels; splits are bound to it."""
        head = f"{self.height}x{self.width}:".encode()
        return sha256(head + np.ascontiguousarray(self.ground_truth, dtype="<i8").tobytes()).hexdigest()
