"""Features of pixels for the classical methods, computed in blocks to save memory.

The features of a pixel do not depend on the other pixels of a call, to the last bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from skimage.morphology import dilation, disk, erosion, reconstruction

from mmrs_bench.scenes.normalise import Normaliser, principal_components
from mmrs_bench.scenes.scene import FloatArray, IntArray

#: Numbers in one block of features (128 MiB of float32).
BLOCK_NUMBERS = 1 << 25
#: Smallest number of rows in a band of `NeighbourhoodFeatures`.
MIN_BAND_ROWS = 8
#: Channels filtered at once.
CHANNEL_BLOCK = 16
#: Variance below which a neighbourhood is constant: smaller values are rounding errors of E[x^2] - E[x]^2.
CONSTANT_VARIANCE = 1e-10
#: Largest number of pixels that principal components are fitted on, to save memory.
MAX_FIT_PIXELS = 100_000

Block = tuple[IntArray, FloatArray]


class FeatureExtractor(ABC):
    """Features (n, f) float32 of pixels of one scene.

    Attributes:
        num_features: f.
    """

    num_features: int

    @abstractmethod
    def blocks(self, pixels: IntArray) -> Iterator[Block]:
        """Features of ``pixels`` (n,) in blocks.

        Yields:
            Positions (m,) in ``pixels`` and the features (m, f) there; every position occurs once.
        """

    def __call__(self, pixels: IntArray) -> FloatArray:
        """Features (n, f) of ``pixels`` (n,)."""
        features = np.empty((len(pixels), self.num_features), np.float32)
        for positions, block in self.blocks(pixels):
            features[positions] = block
        return features


class StackFeatures(FeatureExtractor):
    """The concatenated channels of all images at the pixel.

    Args:
        images: Images (h, w, c) of one size.
    """

    def __init__(self, images: Sequence[FloatArray]) -> None:
        self._images = images
        self.num_features = sum(image.shape[2] for image in images)

    def blocks(self, pixels: IntArray) -> Iterator[Block]:
        """See `FeatureExtractor.blocks`."""
        step = max(1, BLOCK_NUMBERS // self.num_features)
        for start in range(0, len(pixels), step):
            # No reshape to (h w, c): it would copy images that are views of padded arrays.
            rows, columns = np.divmod(pixels[start : start + step], self._images[0].shape[1])
            block = np.concatenate([image[rows, columns] for image in self._images], axis=1)
            yield np.arange(start, start + len(rows)), block


def window_statistics(image: FloatArray, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation over the ``size`` x ``size`` neighbourhood of every pixel.

    The border is mirrored without repeating the edge pixel.

    Args:
        image: (h, w, c), normalised.
        size: Side of the neighbourhood in pixels, odd.

    Returns:
        Means and standard deviations (ddof 0), both (h, w, c) float64.
    """
    values = image.astype(np.float64)
    window = (size, size, 1)
    mean = uniform_filter(values, window, mode="mirror")
    variance = uniform_filter(values * values, window, mode="mirror") - mean * mean
    variance[variance < CONSTANT_VARIANCE] = 0.0
    return mean, np.sqrt(variance)


class NeighbourhoodFeatures(FeatureExtractor):
    """The pixel, and mean and standard deviation of its neighbourhoods, in every channel.

    Computed in bands of rows that depend only on the size of the scene, so that rounding never depends on the pixels.

    Args:
        images: Normalised images (h, w, c) of one size.
        sizes: Sides of the neighbourhoods in pixels, odd.
    """

    def __init__(self, images: Sequence[FloatArray], sizes: Sequence[int]) -> None:
        self._images = images
        self._sizes = tuple(sizes)
        self._height, self._width = images[0].shape[:2]
        per_channel = 1 + 2 * len(self._sizes)
        self.num_features = per_channel * sum(image.shape[2] for image in images)
        self._margin = max(self._sizes, default=1) // 2
        self._band_rows = max(MIN_BAND_ROWS, BLOCK_NUMBERS // (self._width * self.num_features))

    def blocks(self, pixels: IntArray) -> Iterator[Block]:
        """See `FeatureExtractor.blocks`."""
        order = np.argsort(pixels, kind="stable")
        band_of = pixels[order] // (self._band_rows * self._width)
        starts = np.flatnonzero(np.diff(band_of, prepend=-1))
        for positions in np.split(order, starts[1:]) if len(order) else []:
            yield positions, self._band(pixels[positions])

    def _band(self, pixels: IntArray) -> FloatArray:
        first = int(pixels[0]) // self._width // self._band_rows * self._band_rows
        top = max(0, first - self._margin)
        bottom = min(self._height, first + self._band_rows + self._margin)
        rows, columns = pixels // self._width - top, pixels % self._width
        features = np.empty((len(pixels), self.num_features), np.float32)
        at = 0
        for image in self._images:
            for channel in range(0, image.shape[2], CHANNEL_BLOCK):
                part = image[top:bottom, :, channel : channel + CHANNEL_BLOCK]
                maps: list[NDArray[Any]] = [part]
                for size in self._sizes:
                    maps += window_statistics(part, size)
                for values in maps:
                    features[:, at : at + part.shape[2]] = values[rows, columns]
                    at += part.shape[2]
        return features


def morphological_profile(image: FloatArray, radii: Sequence[int]) -> FloatArray:
    """Openings and closings by reconstruction of one channel, with disks of ascending radius.

    They remove bright (opening) or dark (closing) structures that are smaller than the disk, and keep the shapes of
    all others.

    Reference:
        Benediktsson, Palmason, Sveinsson (2005), TGRS 43(3), Section II.

    Args:
        image: (h, w).
        radii: r radii of the disks in pixels, ascending.

    Returns:
        (h, w, 2 r + 1) float32: closings by descending radius, the image, openings by ascending radius.
    """
    rebuild: Callable[..., NDArray[np.float64]] = reconstruction
    openings, closings = [], []
    for radius in radii:
        footprint = disk(radius)  # type: ignore[no-untyped-call]
        openings.append(rebuild(erosion(image, footprint), image, method="dilation"))
        closings.append(rebuild(dilation(image, footprint), image, method="erosion"))
    return np.stack([*closings[::-1], image, *openings], axis=-1).astype(np.float32)


def leading_components(image: FloatArray, scope: IntArray, count: int, variance: float) -> FloatArray:
    """The leading principal components of an image, with mean 0 and variance 1 over the scope.

    Args:
        image: Normalised image (h, w, c).
        scope: Flat indices (n,) of the pixels to fit on, n >= 2; at most `MAX_FIT_PIXELS` of them are used.
        count: Largest number of components.
        variance: Share of the variance in (0, 1]; components beyond it are dropped.

    Returns:
        (h, w, k) float32 with 1 <= k <= ``count``.
    """
    width, channels = image.shape[1:]
    scope = scope[:: -(-len(scope) // MAX_FIT_PIXELS)]
    rows, columns = np.divmod(scope, width)
    components = principal_components(image, scope, min(count, channels, len(scope) - 1))
    shares = components[rows, columns].var(axis=0) / image[rows, columns].var(axis=0).sum()
    kept = components[:, :, np.cumsum(shares) - shares < variance]
    return Normaliser.fit(kept, scope, "zscore").apply(kept)


def extended_profile(
    images: Mapping[str, FloatArray],
    scope: IntArray,
    components: int,
    variance: float,
    radii: Sequence[int],
    *,
    without_hsi: bool = False,
) -> FloatArray:
    """Morphological profiles of the leading principal components of the HSI and of every channel of the others.

    Args:
        images: Normalised images (h, w, c) by modality.
        scope: Flat indices (n,) of the pixels that the principal components are fitted on.
        components: Largest number of principal components of the HSI.
        variance: Share of the HSI's variance; components beyond it are dropped.
        radii: Radii of the disks in pixels, ascending.
        without_hsi: Whether the components of the HSI are replaced by their mean, 0.

    Returns:
        (h, w, (2 r + 1) * channels) float32.
    """
    channels = dict(images)
    if "hsi" in images:
        channels["hsi"] = leading_components(images["hsi"], scope, components, variance)
    if without_hsi:
        channels["hsi"] = np.zeros_like(channels["hsi"])
    stack = np.concatenate(list(channels.values()), axis=2)
    return np.concatenate([morphological_profile(stack[:, :, c], radii) for c in range(stack.shape[2])], axis=2)
