"""Normalisation of channels and principal components, fitted on a declared set of pixels and never with labels.

Statistics are computed in float64 and applied in float32. Images are worked through in blocks of rows, so that a
fit or an application needs no second copy of the scene.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes.scene import FloatArray, IntArray

CHUNK_PIXELS = 16_384

Statistics = NDArray[np.float64]


def _chunks(image: FloatArray, pixels: IntArray) -> Iterator[Statistics]:
    flat = image.reshape(-1, image.shape[2])
    for start in range(0, pixels.size, CHUNK_PIXELS):
        yield flat[pixels[start : start + CHUNK_PIXELS]].astype(np.float64)


@dataclass(frozen=True, eq=False)
class Normaliser:
    """Per channel: subtract ``offset``, then multiply by ``factor``.

    A channel that is constant within the scope has no scale there; it becomes 0 everywhere (factor 0), because any
    other choice would blow up pixels outside the scope. Values outside a scope's range are not clipped under
    ``minmax``: a clip would make materials that the scope has not seen indistinguishable.

    Attributes:
        offset: (channels,), float64.
        factor: (channels,), float64.
    """

    offset: Statistics
    factor: Statistics

    @classmethod
    def fit(cls, image: FloatArray, pixels: IntArray, method: Literal["zscore", "minmax"]) -> Normaliser:
        """Fit on the pixels of a scope.

        Args:
            image: (height, width, channels).
            pixels: Flat indices of the scope, at least one.
            method: ``zscore`` (mean 0, population standard deviation 1 within the scope) or ``minmax`` (range 0..1).

        Raises:
            ConfigError: If the scope is empty.
        """
        if pixels.size == 0:
            raise ConfigError("normalisation: its pixel scope is empty; choose a scope that holds pixels.")
        channels = image.shape[2]
        low, high, total = np.full(channels, np.inf), np.full(channels, -np.inf), np.zeros(channels)
        for values in _chunks(image, pixels):
            low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
            total += values.sum(axis=0)
        offset, scale = low, high - low
        if method == "zscore":
            offset = total / pixels.size
            squares = sum(((values - offset) ** 2).sum(axis=0) for values in _chunks(image, pixels))
            scale = np.sqrt(squares / pixels.size)
        constant = low == high
        return cls(offset, np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, scale)))

    def apply(self, image: FloatArray, out: FloatArray | None = None) -> FloatArray:
        """Normalise an image (height, width, channels) into ``out`` (same shape; new if None) and return it."""
        result = np.empty_like(image) if out is None else out
        offset, factor = self.offset.astype(np.float32), self.factor.astype(np.float32)
        np.subtract(image, offset, out=result)
        np.multiply(result, factor, out=result)
        return result


def principal_components(image: FloatArray, pixels: IntArray, components: int) -> FloatArray:
    """Project an image (height, width, bands) onto its leading principal components (height, width, components).

    Bands are centred, not scaled, so that noisy weak bands stay weak; components come unwhitened and are normalised
    like any channel afterwards. The solver (eigenvectors of the covariance) is deterministic.

    Args:
        image: Raw bands.
        pixels: Flat indices of the scope that mean and covariance are estimated on.
        components: Number of components.

    Raises:
        ConfigError: If bands or pixels of the scope are too few for so many components.
    """
    from sklearn.decomposition import PCA

    height, width, bands = image.shape
    if components > bands:
        raise ConfigError(f"pca {components}: the image has {bands} bands; use at most {bands} components.")
    if pixels.size <= components:
        raise ConfigError(
            f"pca {components}: its scope holds {pixels.size} pixels, and n pixels span at most n - 1 components; use "
            f"at most {pixels.size - 1} components or a larger normalisation scope."
        )
    flat = image.reshape(-1, bands)
    pca = PCA(components, svd_solver="covariance_eigh").fit(flat[pixels].astype(np.float64))
    result = np.empty((height * width, components), dtype=np.float32)
    for start in range(0, flat.shape[0], CHUNK_PIXELS):
        result[start : start + CHUNK_PIXELS] = pca.transform(flat[start : start + CHUNK_PIXELS].astype(np.float64))
    return result.reshape(height, width, components)
