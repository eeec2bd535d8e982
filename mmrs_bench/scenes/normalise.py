"""Normalisation of channels and principal components, fitted on a set of pixels without labels.

Statistics are computed in float64 and applied in float32. Pixels are processed in chunks to save memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.config import Normalisation
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
    """Per channel: subtract ``offset``, then multiply by ``factor``; ``mean`` is that of the fitted pixels.

    All are float64 (channels,). A channel that is constant on the fitted pixels gets factor 0, so that other pixels do
    not become arbitrarily large; under ``cube``, only if all channels are. Values outside the fitted range are not
    clipped.
    """

    offset: Statistics
    factor: Statistics
    mean: Statistics

    @classmethod
    def fit(cls, image: FloatArray, pixels: IntArray, method: Normalisation) -> Normaliser:
        """Fit on pixels (n,) of an image (height, width, channels).

        ``zscore`` (population) and ``minmax`` (0..1) are per channel; ``cube`` maps the smallest value of all channels
        to 0 and the largest to 1.

        Raises:
            ConfigError: If there are no pixels.
        """
        if pixels.size == 0:
            raise ConfigError("normalisation: its pixel scope is empty; choose a scope that contains pixels.")
        channels = image.shape[2]
        low, high, total = np.full(channels, np.inf), np.full(channels, -np.inf), np.zeros(channels)
        for values in _chunks(image, pixels):
            low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
            total += values.sum(axis=0)
        if method == "cube":
            low, high = np.full(channels, low.min()), np.full(channels, high.max())
        offset, scale, mean = low, high - low, total / pixels.size
        if method == "zscore":
            offset = mean
            squares = sum(((values - offset) ** 2).sum(axis=0) for values in _chunks(image, pixels))
            scale = np.sqrt(squares / pixels.size)
        constant = low == high
        return cls(offset, np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, scale)), mean)

    def apply(self, image: FloatArray, out: FloatArray | None = None) -> FloatArray:
        """Normalise an image (height, width, channels) into ``out`` (same shape; new if None) and return it."""
        result = np.subtract(image, self.offset.astype(np.float32), out=out)
        return np.multiply(result, self.factor.astype(np.float32), out=result)

    def normalised_mean(self) -> FloatArray:
        """The normalised mean (channels,) of the fitted pixels; exactly 0 under ``zscore``."""
        return self.apply(self.mean.astype(np.float32))


def principal_components(image: FloatArray, pixels: IntArray, components: int) -> FloatArray:
    """Project an image (height, width, bands) onto its leading principal components (height, width, components).

    Bands are centred but not scaled, so that noisy weak bands stay weak. Components are not whitened. The solver
    (eigenvectors of the covariance) is deterministic.

    Args:
        image: Raw bands.
        pixels: Flat indices of the pixels for mean and covariance.
        components: Number of components.

    Raises:
        ConfigError: If there are too few bands or pixels.
    """
    chunks = _chunks(image, np.arange(image.shape[0] * image.shape[1], dtype=np.int64))
    pca = _fitted_pca(image, pixels, components)
    projected = np.concatenate([pca.transform(values).astype(np.float32) for values in chunks])
    return projected.reshape(*image.shape[:2], components)


def principal_axes(image: FloatArray, pixels: IntArray, components: int) -> Statistics:
    """The directions (components, bands) of `principal_components`; arguments and errors as there."""
    axes: Statistics = _fitted_pca(image, pixels, components).components_
    return axes


def project(image: FloatArray, axes: Statistics) -> FloatArray:
    """Project an image (height, width, bands), centred on its mean, onto axes (components, bands) of another image.

    Returns:
        (height, width, components).
    """
    height, width, _ = image.shape
    pixels = np.arange(height * width, dtype=np.int64)
    mean = sum(values.sum(axis=0) for values in _chunks(image, pixels)) / pixels.size
    projected = [((values - mean) @ axes.T).astype(np.float32) for values in _chunks(image, pixels)]
    return np.concatenate(projected).reshape(height, width, len(axes))


def _fitted_pca(image: FloatArray, pixels: IntArray, components: int) -> Any:
    from sklearn.decomposition import PCA

    bands = image.shape[2]
    if components > bands:
        raise ConfigError(f"pca {components}: the image has {bands} bands; use at most {bands} components.")
    if pixels.size <= components:
        raise ConfigError(
            f"pca {components}: its scope contains only {pixels.size} pixels; use at most {pixels.size - 1} components "
            "or a larger normalisation scope."
        )
    return PCA(components, svd_solver="covariance_eigh").fit(image.reshape(-1, bands)[pixels].astype(np.float64))
