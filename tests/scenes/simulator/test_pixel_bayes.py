"""The bound on pixelwise accuracy: equal to independent estimates, above pixelwise classifiers, below spatial ones."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.simulation import landscape_and_state
from numpy.typing import NDArray
from scipy import ndimage, stats
from sklearn.base import ClassifierMixin
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.scene import Scene
from mmrs_bench.scenes.simulator.pixel_bayes import choose_components, class_log_likelihoods, pixel_bounds
from mmrs_bench.scenes.simulator.radiometry import make_sensor
from mmrs_bench.scenes.simulator.sensors import GaussianSensor, Sensor
from mmrs_bench.scenes.simulator.simulated import simulate


def line_sensor(centres: list[float], std: float) -> GaussianSensor:
    points = np.array(centres, dtype=np.float32)[:, None]
    return GaussianSensor(
        mean=lambda pixels: points[pixels],
        group=np.zeros(len(centres), dtype=np.int32),
        modes=np.zeros((1, 0, 1), dtype=np.float32),
        std=np.full((1, 1), std, dtype=np.float32),
    )


def grid_bound(grids: list[NDArray[np.float64]], centres: list[list[float]], sds: list[float], labels: list[int]):
    """The integral of max_k p(x, k) as a Riemann sum, one pixel and one modality at a time."""
    mesh = np.meshgrid(*grids, indexing="ij")
    joint = np.zeros((max(labels), *mesh[0].shape))
    for p, k in enumerate(labels):
        density = np.full(mesh[0].shape, 1 / len(labels))
        for axis, centre, sd in zip(mesh, centres, sds, strict=True):
            density = density * stats.norm.pdf(axis, centre[p], sd)
        joint[k - 1] += density
    return joint.max(axis=0).sum() * np.prod([g[1] - g[0] for g in grids])


def test_mixtures_of_two_modalities_match_numerical_integration() -> None:
    labels = [1, 1, 1, 2, 2, 3, 3, 3, 3]
    first = [0.0, 0.7, 4.0, 1.5, 2.0, 3.0, 3.2, -1.0, 0.2]
    second = [0.0, 1.0, 0.5, 3.0, 2.5, 0.0, 4.0, 2.0, 0.1]
    sensors: dict[str, Sensor] = {"hsi": line_sensor(first, 0.8), "lidar": line_sensor(second, 1.1)}
    bounds = pixel_bounds(sensors, np.array(labels), np.random.default_rng(1), samples=20_000)
    a, b = np.linspace(-6, 9, 600), np.linspace(-6, 10, 600)
    expected = (
        grid_bound([a], [first], [0.8], labels),
        grid_bound([b], [second], [1.1], labels),
        grid_bound([a, b], [first, second], [0.8, 1.1], labels),
    )
    assert [bound.modalities for bound in bounds] == [("hsi",), ("lidar",), ("hsi", "lidar")]
    for bound, value in zip(bounds, expected, strict=True):
        assert bound.accuracy == pytest.approx(value, abs=4 * bound.standard_error)


def test_a_subset_of_components_raises_the_bound() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([1, 2], 400)
    sensor = line_sensor((rng.normal(size=800) + np.repeat([0, 1], 400)).tolist(), 0.3)
    (full,) = pixel_bounds({"hsi": sensor}, labels, rng, samples=4000)
    few = [pixel_bounds({"hsi": sensor}, labels, rng, samples=1000, components=30)[0].accuracy for _ in range(20)]
    assert np.mean(few) > full.accuracy - 3 * np.std(few) / np.sqrt(20)


def test_components_are_stratified() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 900, 90, 10])
    chosen = choose_components(labels, 100, np.random.default_rng(0))
    assert [set(labels[c]) for c in chosen] == [{1}, {2}, {3}]
    assert 90 <= sum(c.size for c in chosen) <= 110
    assert all(np.unique(c).size == c.size for c in chosen)
    everything = choose_components(labels, 1000, np.random.default_rng(0))
    assert np.array_equal(np.concatenate(everything), np.arange(50, 1050))


Halves = tuple[NDArray[np.int64], NDArray[np.int64]]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return simulate(load_manifest("simulated"))


@pytest.fixture(scope="module")
def halves(scene: Scene) -> Halves:
    train, test = np.array_split(np.random.default_rng(0).permutation(scene.labelled_pixels), 2)
    return train, test


def features(scene: Scene, modalities: tuple[str, ...]) -> NDArray[np.float32]:
    return np.concatenate([scene.images[m].reshape(scene.labels.size, -1) for m in modalities], axis=1)


def accuracy(rule: ClassifierMixin, values: NDArray[np.float32], scene: Scene, halves: Halves) -> float:
    """Accuracy on the second half of the labelled pixels after training on the first."""
    train, test = halves
    rule.fit(values[train], scene.labels[train])
    return float((rule.predict(values[test]) == scene.labels[test]).mean())


def test_both_modalities_together_have_a_higher_bound(scene: Scene) -> None:
    *single, together = scene.pixel_bounds
    assert [b.modalities for b in scene.pixel_bounds] == [("hsi",), ("lidar",), ("hsi", "lidar")]
    assert together.accuracy > max(b.accuracy for b in single) + 0.1
    assert all(b.accuracy < 0.8 for b in single)
    assert 0.9 < together.accuracy < 0.97


def test_pixelwise_classifiers_with_many_labels_come_near_the_bound_but_not_above(scene: Scene, halves: Halves) -> None:
    for bound in scene.pixel_bounds:
        values = features(scene, bound.modalities)
        rules = [
            make_pipeline(StandardScaler(), QuadraticDiscriminantAnalysis(reg_param=1e-3)),
            RandomForestClassifier(40, max_features=7 if values.shape[1] > 2 else 1, random_state=0),
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=60, tol=1e-2)),
            make_pipeline(StandardScaler(), SVC(C=10.0)),
        ]
        part = halves[0][:4000], halves[1][:3000]
        scores = [accuracy(rule, values, scene, part) for rule in rules]
        sampling = np.sqrt(bound.accuracy * (1 - bound.accuracy) / 3000)
        limit = bound.accuracy + 3 * float(np.hypot(bound.standard_error, sampling))
        assert max(scores) < limit, (bound, scores)
        assert max(scores) > bound.accuracy - 0.06, (bound, scores)


def test_the_bound_is_attained_by_the_bayes_rule_of_other_pixels() -> None:
    """The Bayes rule built from half of the labelled pixels is nearly optimal on the other half."""
    manifest = load_manifest("simulated")
    landscape, state = landscape_and_state(manifest)
    sensors = {m.name: make_sensor(state, m, 1.0) for m in manifest.modalities}
    labels = landscape.ground_truth.reshape(-1)
    bounds = pixel_bounds(sensors, labels, np.random.default_rng(0), samples=2000)
    shuffled = np.random.default_rng(1).permutation(np.flatnonzero(labels))
    known, probe = shuffled[:3000], shuffled[-2000:]
    components = [known[labels[known] == k] for k in range(1, labels.max() + 1)]
    values = {name: sensor.sample(probe, np.random.default_rng(2)) for name, sensor in sensors.items()}
    likelihood = class_log_likelihoods(sensors, [b.modalities for b in bounds], values, components)
    chosen = (likelihood + np.log([c.size for c in components])).argmax(axis=-1) + 1
    for bound, rule in zip(bounds, chosen, strict=True):
        score = float((rule == labels[probe]).mean())
        error = float(np.hypot(bound.standard_error, np.sqrt(score * (1 - score) / probe.size)))
        assert bound.accuracy - 0.02 - 3 * error < score < bound.accuracy + 3 * error


def test_a_spatial_classifier_exceeds_the_bound(scene: Scene, halves: Halves) -> None:
    means = [
        ndimage.uniform_filter(image, (size, size, 0)).reshape(scene.labels.size, -1)
        for image in scene.images.values()
        for size in (3, 7)
    ]
    values = np.concatenate([features(scene, ("hsi", "lidar")), *means], axis=1)
    score = accuracy(RandomForestClassifier(60, random_state=0), values, scene, (halves[0][:4000], halves[1]))
    assert score > scene.pixel_bounds[-1].accuracy + 0.01
