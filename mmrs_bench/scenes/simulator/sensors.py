"""Sensors of the simulated scene, each with the exact probability density of its measurements.

The distribution of a measurement depends on the state of its pixel (see
`mmrs_bench.scenes.simulator.radiometry.PixelState`). Given the states, pixels are independent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Values = NDArray[np.float32]
Pixels = NDArray[np.intp]
LogDensity = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GaussianSensor:
    """Normal measurements with a low-rank plus diagonal covariance, shared by all pixels of a group.

    Attributes:
        mean: Function that returns the means (n, channels) of pixels (n,).
        group: Group of every pixel (pixels,).
        modes: Noise modes (groups, modes, channels); the coefficient of each one is standard normal.
        std: Standard deviation of the independent noise (groups, channels).
    """

    mean: Callable[[Pixels], Values]
    group: NDArray[np.int32]
    modes: NDArray[np.float32]
    std: NDArray[np.float32]

    def sample(self, pixels: Pixels, rng: np.random.Generator) -> Values:
        """One random measurement of each of ``pixels`` (n,): (n, channels)."""
        coefficients = rng.standard_normal((pixels.size, self.modes.shape[1]), dtype=np.float32)
        values = rng.standard_normal((pixels.size, self.std.shape[1]), dtype=np.float32)
        group = self.group[pixels]
        for g in np.unique(group):
            rows = np.flatnonzero(group == g)
            # einsum instead of BLAS: the result does not depend on the number of threads.
            values[rows] = values[rows] * self.std[g] + np.einsum("nr,rc->nc", coefficients[rows], self.modes[g])
        values += self.mean(pixels)
        return values

    def covariance(self, group: int) -> NDArray[np.float64]:
        """Noise covariance (channels, channels) of a group."""
        modes = self.modes[group].astype(np.float64)
        return np.asarray(modes.T @ modes + np.diag(self.std[group].astype(np.float64) ** 2))

    @cached_property
    def _whitening(self) -> list[tuple[NDArray[np.float64], float]]:
        """Whitening matrix and log normalisation constant of every group."""
        constant = -0.5 * self.std.shape[1] * np.log(2.0 * np.pi)
        factors = [np.linalg.cholesky(self.covariance(g)) for g in range(len(self.std))]
        return [(np.linalg.inv(f), constant - float(np.sum(np.log(np.diag(f))))) for f in factors]

    def log_density(self, values: Values, pixels: Pixels) -> LogDensity:
        """Log density (m, n) of each of ``values`` (m, channels) at each of ``pixels`` (n,)."""
        out = np.empty((len(values), pixels.size))
        group = self.group[pixels]
        means = self.mean(pixels).astype(np.float64)
        for g in np.unique(group):
            columns = np.flatnonzero(group == g)
            matrix, constant = self._whitening[g]
            x, mean = values.astype(np.float64) @ matrix.T, means[columns] @ matrix.T
            square = np.sum(x**2, axis=1)[:, None] + np.sum(mean**2, axis=1)[None, :] - 2.0 * x @ mean.T
            out[:, columns] = constant - 0.5 * square
        return out


@dataclass(frozen=True, eq=False)
class WishartSensor:
    """Multilook SAR: intensities VV and VH and their complex correlation, as four real channels.

    The multilook covariance matrix is complex Wishart distributed, so intensities have multiplicative speckle.

    Attributes:
        covariance: Function that returns the true ``(C_vv, C_vh, Re C_vv,vh, Im C_vv,vh)`` (n, 4) of pixels (n,).
        looks: Number of looks > 1, not necessarily an integer.
    """

    covariance: Callable[[Pixels], NDArray[np.float64]]
    looks: float

    def sample(self, pixels: Pixels, rng: np.random.Generator) -> Values:
        """One multilook covariance of each of ``pixels`` (n,): (n, 4), by the Bartlett decomposition."""
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
        """Log density (m, n) of each of ``values`` (m, 4) at each of ``pixels`` (n,)."""
        vv, vh, real, imaginary = self.covariance(pixels).T
        determinant = vv * vh - real**2 - imaginary**2
        # tr(S^-1 C) is linear in the four channels of C.
        inverse = np.stack([vh, vv, -2.0 * real, -2.0 * imaginary]) / determinant
        x, looks = values.astype(np.float64), self.looks
        measured = x[:, 0] * x[:, 1] - x[:, 2] ** 2 - x[:, 3] ** 2
        # Rounding to float32 can make the determinant of a nearly singular measurement negative.
        measured = np.maximum(measured, 1e-12 * x[:, 0] * x[:, 1])
        constant = 2 * looks * np.log(looks) - np.log(np.pi) - gammaln(looks) - gammaln(looks - 1.0)
        scores = (looks - 2.0) * np.log(measured)[:, None] + constant - looks * (x @ inverse)
        return np.asarray(scores - looks * np.log(determinant))


Sensor = GaussianSensor | WishartSensor
