"""Normalisation and PCA: fitted on the scope only, equal to plain NumPy, defined for constant channels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes import normalise
from mmrs_bench.scenes.normalise import Normaliser, principal_components
from mmrs_bench.scenes.scene import FloatArray, IntArray


def image_and_scope(seed: int, channels: int = 4) -> tuple[FloatArray, IntArray]:
    rng = np.random.default_rng(seed)
    image = rng.normal(
        loc=1000 * rng.normal(size=channels), scale=rng.uniform(0.1, 50, channels), size=(13, 17, channels)
    )
    pixels = rng.permutation(13 * 17)[: int(rng.integers(2, 13 * 17))]
    return image.astype(np.float32), pixels.astype(np.int64)


@given(st.integers(0, 10_000), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_scope_spans_0_to_1_and_the_rest_is_not_clipped(seed: int, channels: int) -> None:
    image, pixels = image_and_scope(seed, channels)
    result = Normaliser.fit(image, pixels, "minmax").apply(image).reshape(-1, channels)
    np.testing.assert_allclose(result[pixels].min(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(result[pixels].max(axis=0), 1, atol=1e-4)
    order = np.argsort(image.reshape(-1, channels), axis=0, kind="stable")
    assert (np.diff(np.take_along_axis(result, order, axis=0), axis=0) >= 0).all()
    if image.reshape(-1, channels).max() > image.reshape(-1, channels)[pixels].max():
        assert result.max() > 1


def test_statistics_in_chunks_are_those_of_numpy_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    image, pixels = image_and_scope(1)
    values = image.reshape(-1, 4)[pixels].astype(np.float64)
    monkeypatch.setattr(normalise, "CHUNK_PIXELS", 7)
    for method, offset, scale in (
        ("zscore", values.mean(axis=0), values.std(axis=0)),
        ("minmax", values.min(axis=0), np.ptp(values, axis=0)),
    ):
        fitted = Normaliser.fit(image, pixels, method)
        np.testing.assert_allclose(fitted.offset, offset, rtol=1e-12)
        np.testing.assert_allclose(fitted.factor, 1 / scale, rtol=1e-12)


def test_a_cube_is_scaled_by_the_smallest_and_largest_value_of_all_channels() -> None:
    image, pixels = image_and_scope(3)
    values = image.reshape(-1, 4)[pixels].astype(np.float64)
    expected = (image.astype(np.float64) - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(Normaliser.fit(image, pixels, "cube").apply(image), expected, atol=1e-4)
    constant = np.full((3, 4, 2), 7.0, np.float32)
    assert not Normaliser.fit(constant, np.arange(12), "cube").apply(constant).any()


@pytest.mark.parametrize("method", ["zscore", "minmax"])
def test_channel_that_is_constant_in_the_scope_becomes_zero_everywhere(method: str) -> None:
    image, _ = image_and_scope(2)
    pixels = np.array([3, 5, 8])
    image.reshape(-1, 4)[pixels, 1] = 0.1
    result = Normaliser.fit(image, pixels, method).apply(image)
    assert np.isfinite(result).all()
    assert (result[..., 1] == 0).all()
    assert (result[..., 0] != 0).any()


def test_pixels_outside_the_scope_do_not_matter() -> None:
    image, pixels = image_and_scope(3)
    changed = image.copy()
    outside = np.setdiff1d(np.arange(13 * 17), pixels)
    changed.reshape(-1, 4)[outside] += 1e6
    for method in ("zscore", "minmax"):
        first, second = Normaliser.fit(image, pixels, method), Normaliser.fit(changed, pixels, method)
        np.testing.assert_array_equal(first.offset, second.offset)
        np.testing.assert_array_equal(first.factor, second.factor)
    first, second = principal_components(image, pixels, 2), principal_components(changed, pixels, 2)
    np.testing.assert_array_equal(first.reshape(-1, 2)[pixels], second.reshape(-1, 2)[pixels])


def test_result_is_written_into_a_given_view() -> None:
    image, pixels = image_and_scope(4)
    canvas = np.full((13, 17, 9), 7, dtype=np.float32)
    fitted = Normaliser.fit(image, pixels, "zscore")
    returned = fitted.apply(image, out=canvas[..., 2:6])
    assert returned.base is canvas
    np.testing.assert_array_equal(canvas[..., 2:6], fitted.apply(image))
    assert (canvas[..., [0, 1, 6, 7, 8]] == 7).all()


def test_empty_scope_is_an_error() -> None:
    image, _ = image_and_scope(5)
    with pytest.raises(ConfigError, match="pixel scope is empty"):
        Normaliser.fit(image, np.empty(0, dtype=np.int64), "zscore")


def test_components_are_the_leading_eigenvectors_of_the_scope() -> None:
    image, pixels = image_and_scope(6, channels=5)
    result = principal_components(image, pixels, 3).reshape(-1, 3)
    values = image.reshape(-1, 5).astype(np.float64)
    mean = values[pixels].mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(values[pixels].T))
    expected = (values - mean) @ vectors[:, ::-1][:, :3]
    for component in range(3):  # the sign of an eigenvector is free
        sign = np.sign(expected[:, component] @ result[:, component])
        np.testing.assert_allclose(sign * result[:, component], expected[:, component], rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(result, principal_components(image, pixels, 3).reshape(-1, 3))


def test_too_many_components_are_an_error() -> None:
    image, _ = image_and_scope(7)
    with pytest.raises(ConfigError, match="pca 5: the image has 4 bands; use at most 4"):
        principal_components(image, np.arange(100), 5)
    with pytest.raises(ConfigError, match=r"pca 3: its scope contains only 3 pixels; use at most 2 components"):
        principal_components(image, np.arange(3), 3)
    assert principal_components(image, np.arange(4), 3).shape == (13, 17, 3)
