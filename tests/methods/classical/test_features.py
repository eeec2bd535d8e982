"""Features of pixels against slow loops, and properties of morphological profiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.method_helpers import small_data
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.classical import features
from mmrs_bench.methods.classical.config import Input
from mmrs_bench.methods.classical.features import (
    NeighbourhoodFeatures,
    StackFeatures,
    extended_profile,
    leading_components,
    morphological_profile,
    window_statistics,
)
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import FloatArray

SIZES = (3, 7, 11)


def images(height: int = 21, width: int = 17, channels: tuple[int, ...] = (18, 2), seed: int = 0) -> list[FloatArray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(height, width, count)).astype(np.float32) for count in channels]


def slow_neighbourhood(image: FloatArray, row: int, column: int, size: int) -> tuple[FloatArray, FloatArray]:
    radius = size // 2
    padded = np.pad(image.astype(np.float64), ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    cut = padded[row : row + size, column : column + size].reshape(size * size, -1)
    return cut.mean(axis=0), cut.std(axis=0)


@pytest.mark.parametrize("block_numbers", [20, 1 << 25])
def test_stack_returns_the_values_of_the_pixels(block_numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in blocks of a pixel."""
    monkeypatch.setattr(features, "BLOCK_NUMBERS", block_numbers)
    one, two = images()
    pixels = np.array([5, 0, 356, 5])
    expected = np.concatenate([one.reshape(-1, 18), two.reshape(-1, 2)], axis=1)[pixels]
    np.testing.assert_array_equal(StackFeatures([one, two])(pixels), expected)


@pytest.mark.parametrize("band_numbers", [1, 1 << 25])
def test_neighbourhoods_equal_a_slow_loop(band_numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At corners, borders and inside; in one band and in many; with more channels than are filtered at once."""
    monkeypatch.setattr(features, "BLOCK_NUMBERS", band_numbers)
    monkeypatch.setattr(features, "MIN_BAND_ROWS", 4)
    pair = images()
    pixels = np.array([0, 16, 340, 356, 180, 90, 91, 17 * 4, 17 * 4 - 1])
    computed = NeighbourhoodFeatures(pair, SIZES)(pixels)
    assert computed.shape == (9, 7 * 20)
    parts = []
    for image, channels in zip(pair, ([slice(0, 16), slice(16, 18)], [slice(0, 2)]), strict=True):
        for block in channels:
            maps = [image[pixels // 17, pixels % 17, block]]
            for size in SIZES:
                statistics = [slow_neighbourhood(image[:, :, block], p // 17, p % 17, size) for p in pixels]
                maps += [np.stack(values) for values in zip(*statistics, strict=True)]
            parts += maps
    np.testing.assert_allclose(computed, np.concatenate(parts, axis=1), rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 356), max_size=40))
def test_neighbourhoods_do_not_depend_on_the_other_pixels(pixels: list[int]) -> None:
    """Bitwise, in any order and with repeats."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "BLOCK_NUMBERS", 1)
        extractor = NeighbourhoodFeatures(images(channels=(2, 1)), SIZES)
        some = np.array(pixels, dtype=np.int64)
        np.testing.assert_array_equal(extractor(some), extractor(np.arange(357))[some])


def test_constant_areas_have_deviation_zero() -> None:
    """There, E[x^2] - E[x]^2 is a rounding error, on which trees could split."""
    flat = np.full((15, 15, 1), 0.1234567, np.float32)
    flat[0, 0] = 7.0
    _, deviation = window_statistics(flat, 3)
    assert not deviation[5:, 5:].any()
    assert deviation[0, 0] > 1


def smooth(seed: int, side: int = 24) -> FloatArray:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 5, size=(side // 3, side // 3)).repeat(3, axis=0).repeat(3, axis=1)
    return (blocks + 0.1 * rng.normal(size=(side, side))).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_a_profile_is_descending(seed: int) -> None:
    """Larger closings >= smaller closings >= image >= smaller openings >= larger openings, everywhere."""
    image = smooth(seed)
    profile = morphological_profile(image, (1, 2, 4))
    assert profile.shape == (24, 24, 7)
    np.testing.assert_array_equal(profile[:, :, 3], image)
    assert (np.diff(profile, axis=2) <= 0).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_openings_and_closings_are_idempotent_and_dual(seed: int) -> None:
    profile = morphological_profile(smooth(seed), (2,))
    closing, _, opening = np.moveaxis(profile, 2, 0)
    np.testing.assert_array_equal(morphological_profile(opening, (2,))[:, :, 2], opening)
    np.testing.assert_array_equal(morphological_profile(closing, (2,))[:, :, 0], closing)
    np.testing.assert_array_equal(morphological_profile(-smooth(seed), (2,))[:, :, 2], -closing)


def test_an_opening_removes_structures_smaller_than_the_disk_and_keeps_others() -> None:
    image = np.zeros((30, 30), np.float32)
    image[3:6, 3:6] = 1  # a disk of radius 2 does not fit
    image[12:24, 12:24] = 1  # fits, and reconstruction restores its corners
    opening = morphological_profile(image, (2,))[:, :, 2]
    expected = image.copy()
    expected[3:6, 3:6] = 0
    np.testing.assert_array_equal(opening, expected)


def test_leading_components_are_uncorrelated_and_limited_by_count_and_variance() -> None:
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(400, 2)) * (5, 2)
    image = (sources @ rng.normal(size=(2, 9))).reshape(20, 20, 9).astype(np.float32)
    components = leading_components(image, np.arange(400), 5, 0.9999)
    assert components.shape == (20, 20, 2)
    np.testing.assert_allclose(np.cov(components.reshape(-1, 2).T, ddof=0), np.eye(2), atol=1e-3)
    assert leading_components(image, np.arange(400), 1, 0.9999).shape == (20, 20, 1)
    assert leading_components(image, np.arange(400), 5, 0.01).shape == (20, 20, 1)


def test_components_are_fitted_on_the_scope_only() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(size=(10, 10, 4)).astype(np.float32)
    changed = image.copy()
    changed[5:] *= 100
    scope = np.arange(50)
    one, other = (leading_components(x, scope, 3, 1.0)[:5] for x in (image, changed))
    np.testing.assert_array_equal(one, other)


def test_an_extended_profile_has_components_of_the_hsi_and_channels_of_the_others() -> None:
    hsi, lidar = images(12, 12, (6, 2))
    profile = extended_profile({"hsi": hsi, "lidar": lidar}, np.arange(144), 3, 1.0, (1, 2))
    assert profile.shape == (12, 12, (3 + 2) * 5)
    np.testing.assert_array_equal(profile[:, :, 5 * 4 + 2], lidar[:, :, 1])


def test_a_profile_without_the_hsi_has_zeros_in_its_components_and_the_same_size() -> None:
    images = {
        name: np.random.default_rng(bands).normal(size=(12, 12, bands)).astype(np.float32)
        for name, bands in (("hsi", 4), ("lidar", 1))
    }
    whole = extended_profile(images, np.arange(144), 3, 1.0, (1, 2))
    missing = extended_profile(images, np.arange(144), 3, 1.0, (1, 2), without_hsi=True)
    assert not missing[:, :, :15].any()
    np.testing.assert_array_equal(missing[:, :, 15:], whole[:, :, 15:])


@pytest.mark.parametrize("scope", ["scene", "support"])
def test_components_of_profiles_are_fitted_on_the_scope_of_the_normalisation(
    scope: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SceneDataModule(small_data().scene, shots=3, normalisation_scope=scope)
    found: list[np.ndarray] = []

    def profile(images: Any, pixels: np.ndarray, *_: Any, **__: Any) -> np.ndarray:
        found.append(pixels)
        return next(iter(images.values()))

    monkeypatch.setattr("mmrs_bench.methods.classical.config.extended_profile", profile)
    settings = resolve_config(method_card("svm-emp"), "default", "paper")["features"]
    TypeAdapter(Input).validate_python(settings).extractor(data)
    expected = data.support if scope == "support" else np.arange(data.scene.labels.size)
    np.testing.assert_array_equal(np.sort(found[0]), np.sort(expected))
