"""Densities and statistics of the simulated sensors, against independent references."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mmrs_bench.scenes.simulator.sensors import GaussianSensor, WishartSensor


def gaussian() -> GaussianSensor:
    rng = np.random.default_rng(0)
    means = rng.normal(size=(6, 4)).astype(np.float32)
    return GaussianSensor(
        mean=lambda pixels: means[pixels],
        group=np.array([0, 1, 0, 1, 1, 0], dtype=np.int32),
        modes=rng.normal(size=(2, 3, 4)).astype(np.float32),
        std=rng.uniform(0.2, 1.0, size=(2, 4)).astype(np.float32),
    )


def wishart(looks: float = 4.0) -> WishartSensor:
    matrix = np.array([[0.5, 0.1, 0.05, -0.03], [1.0, 0.4, -0.2, 0.3]])
    return WishartSensor(covariance=lambda pixels: matrix[pixels], looks=looks)


def complex_matrix(channels: np.ndarray) -> np.ndarray:
    vv, vh, real, imaginary = channels
    return np.array([[vv, real + 1j * imaginary], [real - 1j * imaginary, vh]])


def test_gaussian_density_equals_scipy() -> None:
    sensor, pixels = gaussian(), np.array([0, 1, 4])
    values = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    got = sensor.log_density(values, pixels)
    for j, group in enumerate(sensor.group[pixels]):
        covariance = np.diag(sensor.std[group] ** 2) + sensor.modes[group].T @ sensor.modes[group]
        expected = stats.multivariate_normal(sensor.mean(pixels)[j], covariance).logpdf(values)
        np.testing.assert_allclose(got[:, j], expected, atol=1e-5)


def test_gaussian_samples_have_the_stated_mean_and_covariance() -> None:
    sensor = gaussian()
    values = sensor.sample(np.full(40_000, 3), np.random.default_rng(2))
    assert values.dtype == np.float32
    assert values.mean(0) == pytest.approx(sensor.mean(np.array([3]))[0], abs=0.05)
    assert np.cov(values.T) == pytest.approx(sensor.covariance(1), abs=0.12)


def test_wishart_density_equals_the_textbook_formula() -> None:
    sensor, looks = wishart(), 4.0
    values = sensor.sample(np.array([0, 1, 0, 1]), np.random.default_rng(3))
    got = sensor.log_density(values, np.array([0, 1]))
    constant = 2 * looks * math.log(looks) - math.log(math.pi) - math.lgamma(looks) - math.lgamma(looks - 1)
    for i, value in enumerate(values.astype(np.float64)):
        for j, true in enumerate(sensor.covariance(np.array([0, 1]))):
            seen, sigma = complex_matrix(value), complex_matrix(true)
            determinants = (looks - 2) * np.linalg.slogdet(seen)[1] - looks * np.linalg.slogdet(sigma)[1]
            expected = constant + determinants - looks * np.trace(np.linalg.inv(sigma) @ seen).real
            assert got[i, j] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("looks", [2.0, 4.0, 9.5])
def test_speckle_is_multiplicative_gamma(looks: float) -> None:
    sensor = wishart(looks)
    for p, true in enumerate(sensor.covariance(np.array([0, 1]))):
        seen = sensor.sample(np.full(60_000, p), np.random.default_rng(p)).astype(np.float64)
        assert seen.mean(0) == pytest.approx(true, abs=0.02)
        for channel in (0, 1):
            assert seen[:, channel].std() / seen[:, channel].mean() == pytest.approx(1 / np.sqrt(looks), rel=0.03)
            distribution = stats.gamma(looks, scale=true[channel] / looks)
            assert stats.kstest(seen[:5000, channel], distribution.cdf).pvalue > 1e-3
        assert (seen[:, 0] * seen[:, 1] - seen[:, 2] ** 2 - seen[:, 3] ** 2 > -1e-9).all()
