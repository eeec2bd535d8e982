"""The Bayes bound: right against independent evaluations, unbeaten by single-pixel rules, beaten by context."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, stats
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.scene import Scene
from mmrs_bench.scenes.simulator.landscape import build_ground
from mmrs_bench.scenes.simulator.pixel_bayes import class_log_likelihoods, pixel_bounds, sample_components
from mmrs_bench.scenes.simulator.profiles import class_profiles
from mmrs_bench.scenes.simulator.radiometry import build_context, make_sensor
from mmrs_bench.scenes.simulator.sensors import GaussianSensor, Sensor
from mmrs_bench.scenes.simulator.simulated import simulate


def line_sensor(centres: list[float], deviation: float) -> GaussianSensor:
    points = np.array(centres, dtype=np.float32)[:, None]
    return GaussianSensor(
        centre=lambda pixels: points[pixels],
        group=np.zeros(len(centres), dtype=np.int32),
        modes=np.zeros((1, 0, 1), dtype=np.float32),
        deviation=np.full((1, 1), deviation, dtype=np.float32),
    )


def grid_bound(grids: list[NDArray[np.float64]], centres: list[list[float]], sds: list[float], labels: list[int]):
    """The integral of max_k p(x, k) by a Riemann sum, one pixel and one modality at a time."""
    mesh = np.meshgrid(*grids, indexing="ij")
    joint = np.zeros((max(labels), *mesh[0].shape))
    for p, k in enumerate(labels):
        density = np.full(mesh[0].shape, 1 / len(labels))
        for axis, centre, sd in zip(mesh, centres, sds, strict=True):
            density = density * stats.norm.pdf(axis, centre[p], sd)
        joint[k - 1] += density
    return joint.max(axis=0).sum() * np.prod([g[1] - g[0] for g in grids])


def test_two_normal_classes_have_the_closed_form() -> None:
    labels = np.array([1, 2])
    (bound,) = pixel_bounds({"hsi": line_sensor([0.0, 2.0], 1.0)}, labels, np.random.default_rng(0), draws=20_000)
    assert bound.modalities == ("hsi",)
    assert bound.accuracy == pytest.approx(stats.norm.cdf(1.0), abs=4 * bound.standard_error)
    assert 0 < bound.standard_error < 0.005


def test_mixtures_of_two_modalities_match_numeric_integration() -> None:
    labels = [1, 1, 1, 2, 2, 3, 3, 3, 3]
    first = [0.0, 0.7, 4.0, 1.5, 2.0, 3.0, 3.2, -1.0, 0.2]
    second = [0.0, 1.0, 0.5, 3.0, 2.5, 0.0, 4.0, 2.0, 0.1]
    sensors: dict[str, Sensor] = {"hsi": line_sensor(first, 0.8), "lidar": line_sensor(second, 1.1)}
    bounds = pixel_bounds(sensors, np.array(labels), np.random.default_rng(1), draws=20_000)
    a, b = np.linspace(-6, 9, 600), np.linspace(-6, 10, 600)
    expected = (
        grid_bound([a], [first], [0.8], labels),
        grid_bound([b], [second], [1.1], labels),
        grid_bound([a, b], [first, second], [0.8, 1.1], labels),
    )
    assert [bound.modalities for bound in bounds] == [("hsi",), ("lidar",), ("hsi", "lidar")]
    for bound, value in zip(bounds, expected, strict=True):
        assert bound.accuracy == pytest.approx(value, abs=4 * bound.standard_error)


def test_a_sample_of_components_errs_upwards_only() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([1, 2], 400)
    sensor = line_sensor((rng.normal(size=800) + np.repeat([0, 1], 400)).tolist(), 0.3)
    (full,) = pixel_bounds({"hsi": sensor}, labels, rng, draws=4000)
    few = [pixel_bounds({"hsi": sensor}, labels, rng, draws=1000, components=30)[0].accuracy for _ in range(20)]
    assert np.mean(few) > full.accuracy - 3 * np.std(few) / np.sqrt(20)


def test_components_are_stratified() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 900, 90, 10])
    chosen = sample_components(labels, 100, np.random.default_rng(0))
    assert [set(labels[c]) for c in chosen] == [{1}, {2}, {3}]
    assert 90 <= sum(c.size for c in chosen) <= 110
    assert all(np.unique(c).size == c.size for c in chosen)
    everything = sample_components(labels, 1000, np.random.default_rng(0))
    assert np.array_equal(np.concatenate(everything), np.arange(50, 1050))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return simulate(load_manifest("simulated"))


@pytest.fixture(scope="module")
def halves(scene: Scene) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shuffled = np.random.default_rng(0).permutation(scene.labelled_pixels)
    return shuffled[: shuffled.size // 2], shuffled[shuffled.size // 2 :]


def features(scene: Scene, modalities: tuple[str, ...]) -> NDArray[np.float32]:
    return np.concatenate([scene.images[m].reshape(scene.labels.size, -1) for m in modalities], axis=1)


def test_fusion_pays_by_construction(scene: Scene) -> None:
    *single, together = scene.pixel_bounds
    assert [b.modalities for b in scene.pixel_bounds] == [("hsi",), ("lidar",), ("hsi", "lidar")]
    assert together.accuracy > max(b.accuracy for b in single) + 0.1
    assert all(b.accuracy < 0.8 for b in single)
    assert 0.9 < together.accuracy < 0.97


def test_no_pixel_rule_with_many_labels_beats_the_bound_and_a_good_one_comes_near(
    scene: Scene, halves: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> None:
    train, test = halves
    for bound in scene.pixel_bounds:
        values = features(scene, bound.modalities)
        rules = [
            make_pipeline(StandardScaler(), QuadraticDiscriminantAnalysis(reg_param=1e-3)),
            RandomForestClassifier(40, max_features=7 if values.shape[1] > 2 else 1, random_state=0),
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=60, tol=1e-2)),
            make_pipeline(StandardScaler(), SVC(C=10.0)),
        ]
        scores = []
        for rule in rules:
            rule.fit(values[train[:4000]], scene.labels[train[:4000]])
            scores.append(float((rule.predict(values[test[:3000]]) == scene.labels[test[:3000]]).mean()))
        sampling = np.sqrt(bound.accuracy * (1 - bound.accuracy) / 3000)
        limit = bound.accuracy + 3 * float(np.hypot(bound.standard_error, sampling))
        assert max(scores) < limit, (bound, scores)
        assert max(scores) > bound.accuracy - 0.06, (bound, scores)


def test_the_bound_is_attained_by_a_rule_that_knows_other_pixels_laws() -> None:
    """The Bayes rule built from half of the labelled pixels is nearly optimal on the other half: little slack."""
    manifest = load_manifest("simulated")
    profiles = class_profiles(manifest.class_names)
    ground = build_ground(manifest, profiles, gsd_m=1.0, address=("test",))
    context = build_context(ground, profiles, gsd_m=1.0, address=("test",))
    sensors = {m.name: make_sensor(context, m, 1.0) for m in manifest.modalities}
    labels = ground.ground_truth.reshape(-1)
    bounds = pixel_bounds(sensors, labels, np.random.default_rng(0), draws=2000)
    shuffled = np.random.default_rng(1).permutation(np.flatnonzero(labels))
    known, probe = shuffled[:3000], shuffled[-2000:]
    components = [known[labels[known] == k] for k in range(1, labels.max() + 1)]
    values = {name: sensor.draw(probe, np.random.default_rng(2)) for name, sensor in sensors.items()}
    likelihood = class_log_likelihoods(sensors, [b.modalities for b in bounds], values, components)
    chosen = (likelihood + np.log([c.size for c in components])).argmax(axis=-1) + 1
    for bound, rule in zip(bounds, chosen, strict=True):
        score = float((rule == labels[probe]).mean())
        error = float(np.hypot(bound.standard_error, np.sqrt(score * (1 - score) / probe.size)))
        assert bound.accuracy - 0.02 - 3 * error < score < bound.accuracy + 3 * error


def test_pairs_of_one_material_cannot_be_told_apart_by_spectrum(
    scene: Scene, halves: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> None:
    train, test = halves
    names = scene.manifest.class_names
    for low, high in (("Meadow", "Woodland"), ("Parking lot", "Flat roof")):
        pair = [names.index(low) + 1, names.index(high) + 1]
        fit, probe = (half[np.isin(scene.labels[half], pair)] for half in (train, test))
        majority = np.bincount(scene.labels[probe]).max() / probe.size
        scores = {}
        for modality in ("hsi", "lidar"):
            values = features(scene, (modality,))
            rule = make_pipeline(StandardScaler(), SVC(C=1.0, class_weight="balanced"))
            rule.fit(values[fit], scene.labels[fit])
            scores[modality] = float((rule.predict(values[probe]) == scene.labels[probe]).mean())
        assert scores["hsi"] < majority + 0.16, (low, scores)
        assert scores["lidar"] > 0.9, (low, scores)


def test_spatial_context_beats_the_bound(scene: Scene, halves: tuple[NDArray[np.int64], NDArray[np.int64]]) -> None:
    train, test = halves
    means = [
        ndimage.uniform_filter(image, (size, size, 0)).reshape(scene.labels.size, -1)
        for image in scene.images.values()
        for size in (3, 7)
    ]
    values = np.concatenate([features(scene, ("hsi", "lidar")), *means], axis=1)
    rule = RandomForestClassifier(60, random_state=0).fit(values[train[:4000]], scene.labels[train[:4000]])
    bound = scene.pixel_bounds[-1]
    score = float((rule.predict(values[test]) == scene.labels[test]).mean())
    assert score > bound.accuracy + 0.01
