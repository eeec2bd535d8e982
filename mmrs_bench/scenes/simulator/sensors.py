"""Sensors of the simulated scene, each with the exact density of what it measures.

A measurement at pixel p is drawn from a law that depends on p through the landscape and its smooth random fields
(the *context*: abundances, illumination, shadow, roof heights, ...) and is independent between pixels given them:

- `GaussianSensor` (hsi, lidar, dsm): ``x ~ Normal(centre(p), noise covariance of p's group)``.
- `WishartSensor` (sar): the multilook covariance matrix is complex Wishart with the looks' number of degrees of
  freedom; its diagonal is gamma distributed, i.e. carries multiplicative speckle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Values = NDArray[np.float32]
Pixels = NDArray[np.intp]
LogDensity = NDArray[np.float64]


class Sensor(Protocol):
    """What the generator and the Bayes bound ask of a sensor."""

    @property
    def channels(self) -> int:
        """Channels of its image."""
        ...

    def draw(self, pixels: Pixels, rng: np.random.Generator) -> Values:
        """One measurement of every pixel (n, channels), with noise from ``rng``."""
        ...

    def log_density(self, values: Values, pixels: Pixels) -> LogDensity:
        """Log density (m, n) of each of ``values`` (m, channels) under the law of each of ``pixels`` (n,)."""
        ...


@dataclass(frozen=True, eq=False)
class GaussianSensor:
    """Normal measurements whose covariance is low-rank plus diagonal and shared by the pixels of a group.

    Attributes:
        centre: Returns the means (n, channels) of pixels (n,).
        group: Group of every pixel (pixels,).
        modes: Noise modes (groups, modes, channels); a pixel's own share of each is standard normal.
        deviation: Independent noise per channel (groups, channels).
    """

    centre: Callable[[Pixels], Values]
    group: NDArray[np.int32]
    modes: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @property
    def channels(self) -> int:
        """Channels of the image."""
        return int(self.deviation.shape[1])

    def draw(self, pixels: Pixels, rng: np.random.Generator) -> Values:
        """One measurement of every pixel (n, channels): centre + modes + independent noise."""
        shares = rng.standard_normal((pixels.size, self.modes.shape[1]), dtype=np.float32)
        values = rng.standard_normal((pixels.size, self.channels), dtype=np.float32)
        group = self.group[pixels]
        for g in np.unique(group):
            rows = np.flatnonzero(group == g)
            # einsum, not BLAS: its result does not depend on the number of threads.
            values[rows] = values[rows] * self.deviation[g] + np.einsum("nr,rc->nc", shares[rows], self.modes[g])
        values += self.centre(pixels)
        return values

    def covariance(self, group: int) -> NDArray[np.float64]:
        """Noise covariance (channels, channels) of a group."""
        modes = self.modes[group].astype(np.float64)
        return np.asarray(modes.T @ modes + np.diag(self.deviation[group].astype(np.float64) ** 2))

    @cached_property
    def _whiteners(self) -> list[tuple[NDArray[np.float64], float]]:
        """Per group, the matrix that makes its noise white and the log of its density's peak."""
        peak = -0.5 * self.channels * np.log(2.0 * np.pi)
        factors = [np.linalg.cholesky(self.covariance(g)) for g in range(len(self.deviation))]
        return [(np.linalg.inv(f), peak - float(np.sum(np.log(np.diag(f))))) for f in factors]

    def log_density(self, values: Values, pixels: Pixels) -> LogDensity:
        """Log density (m, n) of values (m, channels) under the pixels' laws (n,)."""
        out = np.empty((len(values), pixels.size))
        group = self.group[pixels]
        centres = self.centre(pixels).astype(np.float64)
        for g in np.unique(group):
            columns = np.flatnonzero(group == g)
            whitener, scale = self._whiteners[g]
            seen = values.astype(np.float64) @ whitener.T
            known = centres[columns] @ whitener.T
            square = np.sum(seen**2, axis=1)[:, None] + np.sum(known**2, axis=1)[None, :] - 2.0 * seen @ known.T
            out[:, columns] = scale - 0.5 * square
        return out


@dataclass(frozen=True, eq=False)
class WishartSensor:
    """Multilook polarimetric SAR: intensities VV and VH and their complex correlation, as four real channels.

    Attributes:
        covariance: Returns, for pixels (n,), the true ``(C_vv, C_vh, Re C_vv,vh, Im C_vv,vh)`` (n, 4), linear scale.
        looks: Number of looks L > 1 (need not be whole); a homogeneous area has coefficient of variation 1/sqrt(L).
    """

    covariance: Callable[[Pixels], NDArray[np.float64]]
    looks: float

    @property
    def channels(self) -> int:
        """VV, VH, real and imaginary part of the off-diagonal element."""
        return 4

    def draw(self, pixels: Pixels, rng: np.random.Generator) -> Values:
        """One multilook covariance per pixel (n, 4), by the Bartlett decomposition of the Wishart law."""
        vv, vh, real, imaginary = self.covariance(pixels).T
        first = np.sqrt(rng.gamma(self.looks, size=pixels.size))
        second = np.sqrt(rng.gamma(self.looks - 1.0, size=pixels.size))
        mixed = (rng.standard_normal(pixels.size) + 1j * rng.standard_normal(pixels.size)) / np.sqrt(2.0)
        low11 = np.sqrt(vv)
        low21 = (real - 1j * imaginary) / low11
        low22 = np.sqrt(vh - np.abs(low21) ** 2)
        b11, b21, b22 = low11 * first, low21 * first + low22 * mixed, low22 * second
        cross = b11 * np.conj(b21)
        looks = np.stack([b11**2, np.abs(b21) ** 2 + b22**2, cross.real, cross.imag], axis=-1)
        return np.asarray(looks / self.looks, dtype=np.float32)

    def log_density(self, values: Values, pixels: Pixels) -> LogDensity:
        """Log density (m, n) over the four channels of values (m, 4) under the pixels' laws (n,)."""
        vv, vh, real, imaginary = self.covariance(pixels).T
        determinant = vv * vh - real**2 - imaginary**2
        # tr(S^-1 C) is linear in the four channels of C.
        inverse = np.stack([vh, vv, -2.0 * real, -2.0 * imaginary]) / determinant
        seen = values.astype(np.float64)
        size = seen[:, 0] * seen[:, 1] - seen[:, 2] ** 2 - seen[:, 3] ** 2
        # Rounding to float32 can push the determinant of a nearly singular measurement below zero.
        size = np.maximum(size, 1e-12 * seen[:, 0] * seen[:, 1])
        looks = self.looks
        scale = 2 * looks * np.log(looks) - np.log(np.pi) - gammaln(looks) - gammaln(looks - 1.0)
        return np.asarray(
            (looks - 2.0) * np.log(size)[:, None] + scale - looks * (seen @ inverse) - looks * np.log(determinant)
        )
