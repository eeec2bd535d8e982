"""The simulated scenes: reproducible bytes, mixing, shadows, noise, options, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.simulation import digest, landscape_and_state, small
from scipy import stats

from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes.catalogue import load_scene, shipped_names
from mmrs_bench.scenes.simulator.pixel_bayes import pixel_bounds
from mmrs_bench.scenes.simulator.radiometry import PixelState, make_sensor, wavelengths
from mmrs_bench.scenes.simulator.sensors import GaussianSensor
from mmrs_bench.scenes.simulator.simulated import simulate

TESTS = Path(__file__).resolve().parents[2]
TWINS = [name for name in shipped_names() if name.startswith("sim-")]

FRESH_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from helpers.simulation import digest, small
from mmrs_bench.scenes.simulator.simulated import simulate
print(digest(simulate(small())))
"""


def hsi_of(state: PixelState) -> GaussianSensor:
    sensor = make_sensor(state, small().modalities[0], 1.0)
    assert isinstance(sensor, GaussianSensor)
    return sensor


def test_the_shipped_scene_matches_its_manifest() -> None:
    scene = load_scene("simulated")
    manifest = scene.manifest
    assert manifest.simulated
    assert list(scene.images) == list(manifest.modality_names) == ["hsi", "lidar"]
    for modality in manifest.modalities:
        image = scene.images[modality.name]
        assert image.shape == (manifest.height, manifest.width, modality.bands)
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
    assert scene.ground_truth.dtype == np.int64
    assert np.bincount(scene.labels)[1:].tolist() == [c.count for c in manifest.classes]
    assert 10_000 <= scene.labelled_pixels.size <= 14_000


@pytest.mark.parametrize("threads", ["1", "2"])
def test_bytes_are_equal_in_a_new_process_with_any_number_of_threads(threads: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    run = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(TESTS)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert run.stdout.strip() == digest(simulate(small()))


def test_another_seed_gives_another_scene() -> None:
    first, second = (simulate(small(seed=seed)) for seed in (0, 1))
    assert not np.array_equal(first.images["hsi"], second.images["hsi"])
    assert not np.array_equal(first.ground_truth, second.ground_truth)


def test_scenes_are_cached_and_read_only() -> None:
    manifest = small()
    first = simulate(manifest)
    again = simulate(manifest.model_copy(update={"title": "renamed"}))
    assert again.images["hsi"] is first.images["hsi"]
    assert again.manifest.title == "renamed"
    with pytest.raises(ValueError, match="read-only"):
        again.images["hsi"][0, 0, 0] = 1.0


@pytest.mark.parametrize("name", TWINS)
def test_twins_have_the_bands_and_class_counts_of_the_manifest(name: str) -> None:
    manifest = small(70, dataset=name)
    scene = simulate(manifest)
    assert {m: image.shape[2] for m, image in scene.images.items()} == {m.name: m.bands for m in manifest.modalities}
    assert np.bincount(scene.labels)[1:].tolist() == [c.count for c in manifest.classes]
    *single, together = scene.pixel_bounds
    assert together.modalities == manifest.modality_names
    majority = max(c.count or 0 for c in manifest.classes) / scene.labelled_pixels.size
    for bound in single:
        assert majority - 4 * bound.standard_error < bound.accuracy < together.accuracy
    assert together.accuracy < 0.995


def test_the_bound_matches_a_naive_estimate_on_a_small_scene() -> None:
    """The estimate uses densities of scipy, all labelled pixels as components, and counts correct predictions."""
    manifest = small(24)
    landscape, state = landscape_and_state(manifest)
    sensors = {m.name: make_sensor(state, m, 1.0) for m in manifest.modalities}
    labels = landscape.ground_truth.reshape(-1)
    bounds = pixel_bounds(sensors, labels, np.random.default_rng(0), samples=3000)
    labelled = np.flatnonzero(labels)
    rng = np.random.default_rng(1)
    pixels = rng.choice(labelled, size=3000)
    density: dict[str, np.ndarray] = {}
    for name, sensor in sensors.items():
        assert isinstance(sensor, GaussianSensor)
        values = sensor.sample(pixels, rng).astype(np.float64)
        means = sensor.mean(labelled).astype(np.float64)
        density[name] = np.stack(
            [
                stats.multivariate_normal(c, sensor.covariance(int(g)), allow_singular=False).logpdf(values)
                for c, g in zip(means, sensor.group[labelled], strict=True)
            ],
            axis=-1,
        )
    density["both"] = density["hsi"] + density["lidar"]
    for bound, name in zip(bounds, ("hsi", "lidar", "both"), strict=True):
        likelihood = np.exp(density[name] - density[name].max(axis=1, keepdims=True))
        posterior = np.stack(
            [likelihood[:, labels[labelled] == k].sum(axis=1) for k in range(1, labels.max() + 1)], axis=1
        )
        right = posterior.argmax(axis=1) + 1 == labels[pixels]
        error = np.hypot(bound.standard_error, right.std() / np.sqrt(right.size))
        assert bound.accuracy == pytest.approx(right.mean(), abs=4 * error)


def test_pixels_are_mixed_at_borders_and_pure_inside() -> None:
    manifest = small(60)
    landscape, state = landscape_and_state(manifest)
    own = np.take_along_axis(state.abundances, state.classes[:, None], axis=1)[:, 0].reshape(landscape.classes.shape)
    assert state.abundances.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    edge = np.zeros(landscape.classes.shape, dtype=bool)
    edge[:, 1:] |= np.diff(landscape.classes, axis=1) != 0
    assert 0.3 < own[edge].mean() < 0.85
    far = np.ones_like(edge)
    for rows in range(-3, 4):
        for columns in range(-3, 4):
            far &= np.roll(landscape.classes, (rows, columns), axis=(0, 1)) == landscape.classes
    far[:3], far[-3:], far[:, :3], far[:, -3:] = False, False, False, False
    assert far.any()
    assert own[far] == pytest.approx(1.0)
    # The expected spectrum of a mixed pixel is the mixture of the expected spectra of its classes.
    sensor = hsi_of(state)
    mixed = np.flatnonzero((own.reshape(-1) < 0.7) & ~state.shadow)[:20]
    expected = np.zeros((mixed.size, sensor.channels))
    whole = state.abundances.copy()
    for k in range(len(state.profiles)):
        state.abundances[mixed] = 0.0
        state.abundances[mixed, k] = 1.0
        expected += whole[mixed, k, None] * sensor.mean(mixed)
    state.abundances[:] = whole
    assert sensor.mean(mixed) == pytest.approx(expected, abs=1e-5)


def test_shadows_are_dark_and_lie_on_lower_ground() -> None:
    _, state = landscape_and_state(small(60))
    assert 0.005 < state.shadow.mean() < 0.4
    assert state.elevation[state.shadow].mean() < state.elevation.mean()
    sensor = hsi_of(state)
    shaded = np.flatnonzero(state.shadow)
    dark = sensor.mean(shaded)
    state.shadow[shaded] = False
    assert (dark / sensor.mean(shaded)).max() < 0.55


def test_noise_is_strongest_in_the_water_vapour_bands() -> None:
    _, state = landscape_and_state(small(60))
    sensor = hsi_of(state)
    nm = wavelengths(small().modalities[0])
    noise = sensor.std[0]
    window, absorbed = np.argmin(abs(nm - 850)), np.argmin(abs(nm - 1880))
    assert noise[absorbed] > 2 * noise[window]
    level = sensor.mean(np.arange(400)).mean(axis=0)
    assert level[absorbed] < 0.3 * level[np.argmin(abs(nm - 1670))]


def test_noise_options_change_the_bounds() -> None:
    normal, hard, spectral = (simulate(small(48, **o)) for o in ({}, {"noise": 2.0}, {"dominant": "hsi"}))
    assert hard.pixel_bounds[-1].accuracy < normal.pixel_bounds[-1].accuracy - 0.05
    hsi, lidar, both = (b.accuracy for b in spectral.pixel_bounds)
    assert hsi == pytest.approx(normal.pixel_bounds[0].accuracy, abs=0.03)
    assert lidar < normal.pixel_bounds[1].accuracy - 0.1
    assert hsi > lidar + 0.2
    # The noisy modality still adds information.
    assert both > hsi + 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nois": 2.0}, "nois is not a known field; known fields: noise, dominant"),
        ({"noise": 0.0}, r"generator.options: noise: .*greater than 0 \(found 0.0\)"),
        ({"dominant": "sar"}, "the scene has no modality 'sar'; use one of hsi, lidar"),
        ({"dominant": "radar"}, "generator.options: dominant: "),
    ],
)
def test_wrong_options_are_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(small(**options))


def test_unsupported_manifests_are_an_error() -> None:
    manifest = small()
    assert manifest.generator is not None
    moon = manifest.model_copy(update={"generator": manifest.generator.model_copy(update={"layout": "moon"})})
    with pytest.raises(ConfigError, match="unknown layout"):
        simulate(moon)
    with pytest.raises(ConfigError, match="real scene without a generator"):
        simulate(manifest.model_copy(update={"generator": None}))
    three = manifest.modalities[1].model_copy(update={"bands": 3, "channel_names": ()})
    with pytest.raises(ConfigError, match="lidar with 1 or 2 channels, but the manifest has 3"):
        simulate(manifest.model_copy(update={"modalities": (manifest.modalities[0], three)}))
