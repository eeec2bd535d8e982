"""The simulated scenes: reproducible bytes, mixing, shadows, noise, options, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.new_process import in_new_process
from helpers.simulation import digest, landscape_and_state, small
from scipy import ndimage

from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes.catalogue import load_manifest, load_scene, shipped_names
from mmrs_bench.scenes.manifest import Generator
from mmrs_bench.scenes.simulator.radiometry import PixelState, make_sensor, wavelengths
from mmrs_bench.scenes.simulator.sensors import GaussianSensor
from mmrs_bench.scenes.simulator.simulated import simulate

TESTS = Path(__file__).resolve().parents[2]
TWINS = [name for name in shipped_names() if name.startswith("sim-")]

FRESH_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from helpers.new_process import in_new_process
from helpers.simulation import digest, small
from mmrs_bench.scenes.simulator.simulated import simulate
print(digest(simulate(small())))
"""

THREE_RASTERS = load_manifest("simulated").modalities[1].model_copy(update={"bands": 3, "channel_names": ()})


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
        assert (image.shape, image.dtype) == ((manifest.height, manifest.width, modality.bands), np.float32)
        assert np.isfinite(image).all()
    assert np.bincount(scene.labels)[1:].tolist() == [c.count for c in manifest.classes]


@pytest.mark.parametrize("threads", ["1", "2"])
def test_bytes_are_equal_in_a_new_process_with_any_number_of_threads(threads: str) -> None:
    found = in_new_process(FRESH_PROCESS, str(TESTS), OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads)
    assert found == digest(simulate(small()))


def test_another_seed_gives_another_scene() -> None:
    first, second = (simulate(small(seed=seed)) for seed in (0, 1))
    assert (first.images["hsi"] != second.images["hsi"]).any()
    assert (first.ground_truth != second.ground_truth).any()


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


def test_pixels_are_mixed_at_borders_and_pure_inside() -> None:
    landscape, state = landscape_and_state(small(60))
    own = np.take_along_axis(state.abundances, state.classes[:, None], axis=1).reshape(landscape.classes.shape)
    np.testing.assert_allclose(state.abundances.sum(axis=1), 1, atol=1e-5)
    edge = np.diff(landscape.classes, axis=1) != 0
    assert 0.3 < own[:, 1:][edge].mean() < 0.85
    near = {"size": 7, "mode": "constant", "cval": -1}
    inside = ndimage.minimum_filter(landscape.classes, **near) == ndimage.maximum_filter(landscape.classes, **near)
    assert inside.any()
    np.testing.assert_allclose(own[inside], 1, rtol=1e-6)


def test_the_expected_spectrum_of_a_mixed_pixel_is_the_mixture_of_those_of_its_classes() -> None:
    _, state = landscape_and_state(small(60))
    sensor, shares = hsi_of(state), state.abundances.copy()
    mixed = np.flatnonzero((shares.max(axis=1) < 0.7) & ~state.shadow)[:20]
    found, expected = sensor.mean(mixed), np.zeros((mixed.size, sensor.std.shape[1]))
    for k in range(len(state.profiles)):
        state.abundances[mixed] = np.eye(len(state.profiles))[k]
        expected += shares[mixed, k, None] * sensor.mean(mixed)
    np.testing.assert_allclose(found, expected, atol=1e-5)


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
    ("options", "changes", "message"),
    [
        ({"nois": 2.0}, {}, r"nois is not a known field; did you mean noise\? Known fields: noise, dominant"),
        ({"noise": 0.0}, {}, r"generator.options: noise: .*greater than 0 \(found 0.0\)"),
        ({"dominant": "sar"}, {}, "the scene has no modality 'sar'; use one of hsi, lidar"),
        ({}, {"generator": Generator(layout="moon")}, "unknown layout"),
        ({}, {"generator": None}, "real scene without a generator"),
        ({}, {"modalities": (THREE_RASTERS,)}, "lidar with 1 or 2 channels, but the manifest has 3"),
    ],
)
def test_wrong_options_and_unsupported_manifests_are_an_error(
    options: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(small(**options).model_copy(update=changes))
