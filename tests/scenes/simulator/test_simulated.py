"""The simulated scenes as the rest of the suite meets them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes.catalogue import load_manifest, load_scene, shipped_names
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.scene import Scene
from mmrs_bench.scenes.simulator.landscape import Ground, build_ground
from mmrs_bench.scenes.simulator.painter import LAYOUTS
from mmrs_bench.scenes.simulator.pixel_bayes import pixel_bounds
from mmrs_bench.scenes.simulator.profiles import class_profiles
from mmrs_bench.scenes.simulator.radiometry import build_context, make_sensor, wavelengths
from mmrs_bench.scenes.simulator.sensors import GaussianSensor
from mmrs_bench.scenes.simulator.simulated import simulate

TWINS = [name for name in shipped_names() if name.startswith("sim-")]

FRESH_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from test_simulated import digest, small
from mmrs_bench.scenes.simulator.simulated import simulate
print(digest(simulate(small())))
"""


def small(side: int = 40, *, dataset: str = "simulated", seed: int = 0, **options: Any) -> Manifest:
    """A shipped simulated scene with a raster of about ``side`` squared and its counts in proportion."""
    manifest = load_manifest(dataset)
    assert manifest.generator is not None
    shrink = side / np.sqrt(manifest.height * manifest.width)
    height, width = (max(8, round(n * shrink)) for n in (manifest.height, manifest.width))
    share = 0.98 * height * width / (manifest.height * manifest.width)
    return manifest.model_copy(
        update={
            "height": height,
            "width": width,
            "classes": tuple(
                c.model_copy(update={"count": max(2, int((c.count or 2) * share))}) for c in manifest.classes
            ),
            "generator": manifest.generator.model_copy(update={"seed": seed, "options": options}),
        }
    )


def digest(scene: Scene) -> str:
    sha = hashlib.sha256(repr(scene.pixel_bounds).encode())
    for image in scene.images.values():
        sha.update(image.tobytes())
    sha.update(scene.ground_truth.tobytes())
    return sha.hexdigest()


def test_shipped_scene_is_as_its_manifest_says() -> None:
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
def test_same_bytes_in_a_fresh_process_with_any_number_of_threads(threads: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    run = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert run.stdout.strip() == digest(simulate(small()))


def test_seeds_and_layouts_give_other_scenes() -> None:
    scenes = [simulate(small(seed=seed)) for seed in (0, 1)]
    assert not np.array_equal(scenes[0].images["hsi"], scenes[1].images["hsi"])
    assert not np.array_equal(scenes[0].ground_truth, scenes[1].ground_truth)


def test_scenes_are_kept_and_protected() -> None:
    manifest = small()
    first = simulate(manifest)
    again = simulate(manifest.model_copy(update={"title": "renamed"}))
    assert again.images["hsi"] is first.images["hsi"]
    assert again.manifest.title == "renamed"
    with pytest.raises(ValueError, match="read-only"):
        again.images["hsi"][0, 0, 0] = 1.0


def test_every_twin_has_a_layout() -> None:
    for name in TWINS:
        manifest = load_manifest(name)
        assert manifest.generator is not None
        assert manifest.generator.layout in LAYOUTS


@pytest.mark.parametrize("name", TWINS)
def test_twins_have_the_shape_of_the_real_scene(name: str) -> None:
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


def ground_and_context(manifest: Manifest) -> tuple[Ground, Any]:
    profiles = class_profiles(manifest.class_names)
    ground = build_ground(manifest, profiles, gsd_m=1.0, address=("test",))
    return ground, build_context(ground, profiles, gsd_m=1.0, address=("test",))


def test_bound_matches_a_naive_estimate_on_a_whole_small_scene() -> None:
    """Independent: scipy's densities, every labelled pixel a component, plain counting of right answers."""
    manifest = small(24)
    ground, context = ground_and_context(manifest)
    sensors = {m.name: make_sensor(context, m, 1.0) for m in manifest.modalities}
    labels = ground.ground_truth.reshape(-1)
    bounds = pixel_bounds(sensors, labels, np.random.default_rng(0), draws=3000)
    labelled = np.flatnonzero(labels)
    rng = np.random.default_rng(1)
    pixels = rng.choice(labelled, size=3000)
    density: dict[str, np.ndarray] = {}
    for name, sensor in sensors.items():
        assert isinstance(sensor, GaussianSensor)
        values = sensor.draw(pixels, rng).astype(np.float64)
        centres = sensor.centre(labelled).astype(np.float64)
        density[name] = np.stack(
            [
                stats.multivariate_normal(c, sensor.covariance(int(g)), allow_singular=False).logpdf(values)
                for c, g in zip(centres, sensor.group[labelled], strict=True)
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


def test_borders_are_mixed_and_interiors_are_pure() -> None:
    manifest = small(60)
    ground, context = ground_and_context(manifest)
    own = np.take_along_axis(context.abundances, context.classes[:, None], axis=1)[:, 0].reshape(ground.classes.shape)
    assert context.abundances.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    edge = np.zeros(ground.classes.shape, dtype=bool)
    edge[:, 1:] |= np.diff(ground.classes, axis=1) != 0
    assert 0.3 < own[edge].mean() < 0.85
    far = np.ones_like(edge)
    for rows in range(-3, 4):
        for columns in range(-3, 4):
            far &= np.roll(ground.classes, (rows, columns), axis=(0, 1)) == ground.classes
    far[:3], far[-3:], far[:, :3], far[:, -3:] = False, False, False, False
    assert far.any()
    assert own[far] == pytest.approx(1.0)
    # A mixed pixel's expected spectrum is the mixture of what its classes would show there.
    sensor = make_sensor(context, manifest.modalities[0], 1.0)
    assert isinstance(sensor, GaussianSensor)
    mixed = np.flatnonzero((own.reshape(-1) < 0.7) & ~context.shadow)[:20]
    expected = np.zeros((mixed.size, sensor.channels))
    whole = context.abundances.copy()
    for k in range(len(context.profiles)):
        context.abundances[mixed] = 0.0
        context.abundances[mixed, k] = 1.0
        expected += whole[mixed, k, None] * sensor.centre(mixed)
    context.abundances[:] = whole
    assert sensor.centre(mixed) == pytest.approx(expected, abs=1e-5)


def test_shadows_fall_beside_what_is_high_and_darken() -> None:
    manifest = small(60)
    _, context = ground_and_context(manifest)
    assert 0.005 < context.shadow.mean() < 0.4
    # Roofs shade the ground, not the other way round.
    assert context.elevation[context.shadow].mean() < context.elevation.mean()
    sensor = make_sensor(context, manifest.modalities[0], 1.0)
    assert isinstance(sensor, GaussianSensor)
    shaded = np.flatnonzero(context.shadow)
    dark = sensor.centre(shaded)
    context.shadow[shaded] = False
    assert (dark / sensor.centre(shaded)).max() < 0.55


def test_noise_is_strongest_in_the_water_vapour_bands() -> None:
    manifest = small(40)
    _, context = ground_and_context(manifest)
    hsi = manifest.modalities[0]
    sensor = make_sensor(context, hsi, 1.0)
    assert isinstance(sensor, GaussianSensor)
    nm = wavelengths(hsi)
    noise = sensor.deviation[0]
    window, absorbed = np.argmin(abs(nm - 850)), np.argmin(abs(nm - 1880))
    assert noise[absorbed] > 2 * noise[window]
    level = sensor.centre(np.arange(400)).mean(axis=0)
    assert level[absorbed] < 0.3 * level[np.argmin(abs(nm - 1670))]


def test_options_change_the_difficulty() -> None:
    normal, hard, spectral = (simulate(small(48, **o)) for o in ({}, {"noise": 2.0}, {"dominant": "hsi"}))
    assert hard.pixel_bounds[-1].accuracy < normal.pixel_bounds[-1].accuracy - 0.05
    hsi, lidar, both = (b.accuracy for b in spectral.pixel_bounds)
    assert hsi == pytest.approx(normal.pixel_bounds[0].accuracy, abs=0.03)
    assert lidar < normal.pixel_bounds[1].accuracy - 0.1
    assert hsi > lidar + 0.2
    # The weak modality still helps, or there would be nothing to gain from balancing the two.
    assert both > hsi + 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nois": 2.0}, "unknown option of the simulated scene 'nois': did you mean noise"),
        ({"noise": 0.0}, r"generator.options.noise: .*greater than 0 \(found 0.0\)"),
        ({"dominant": "sar"}, "the scene has no 'sar'; name one of hsi, lidar"),
        ({"dominant": "radar"}, "generator.options.dominant"),
    ],
)
def test_bad_options_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(small(**options))


def test_other_bad_requests_are_explained() -> None:
    manifest = small()
    assert manifest.generator is not None
    moon = manifest.model_copy(update={"generator": manifest.generator.model_copy(update={"layout": "moon"})})
    with pytest.raises(ConfigError, match="unknown layout"):
        simulate(moon)
    with pytest.raises(ConfigError, match="real scene without a generator"):
        simulate(manifest.model_copy(update={"generator": None}))
    three = manifest.modalities[1].model_copy(update={"bands": 3, "channel_names": ()})
    with pytest.raises(ConfigError, match="lidar with 1 or 2 channels, the manifest asks for 3"):
        simulate(manifest.model_copy(update={"modalities": (manifest.modalities[0], three)}))
