"""Superpixels, their graph and label propagation against slow references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.method_helpers import fitted, refused, small_data

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.classical.features import StackFeatures
from mmrs_bench.methods.classical.superpixels import likeness_graph, superpixel_means, superpixels
from mmrs_bench.randomness import numpy_generator

ALL_PIXELS = np.arange(36 * 40)


def weights_by_loops(points: np.ndarray, neighbours: int, labelled: np.ndarray) -> np.ndarray:
    count = len(points)
    distance = [[float(np.sqrt(((x - y) ** 2).sum())) for y in points] for x in points]
    order = [sorted((j for j in range(count) if j != i), key=distance[i].__getitem__) for i in range(count)]
    reach = [distance[i][order[i][neighbours - 1]] for i in range(count)]
    weights = np.zeros((count + len(labelled), count + len(labelled)))
    for i in range(count):
        for j in {*order[i][:neighbours], min(set(labelled), key=distance[i].__getitem__)}:
            weights[i, j] = weights[j, i] = np.exp(-(distance[i][j] ** 2) / (reach[i] * reach[j]))
    for copy, point in enumerate(labelled):
        weights[count + copy, point] = weights[point, count + copy] = 1
    return weights


def test_the_graph_equals_slow_loops() -> None:
    points = numpy_generator("points").normal(size=(30, 3))
    labelled = np.array([4, 9, 4])  # one superpixel with two labels
    found = likeness_graph(points, 3, labelled).toarray()
    np.testing.assert_allclose(found, weights_by_loops(points, 3, labelled), atol=1e-12)


def test_means_of_superpixels_equal_slow_loops() -> None:
    image = numpy_generator("image").normal(size=(6, 7, 4)).astype(np.float32)
    segments = numpy_generator("segments").permutation(np.arange(42) % 5)
    found = superpixel_means(StackFeatures([image]), segments)
    expected = [image.reshape(-1, 4)[segments == n].mean(axis=0, dtype=np.float64) for n in range(5)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_superpixels_follow_a_clear_border() -> None:
    image = np.zeros((24, 24, 1), np.float32)
    image[:, 11:] = 2
    found = superpixels({"lidar": image}, np.arange(576), pixels=16, compactness=0.5, components=3, variance=0.99)
    sides = np.broadcast_to(np.arange(24) < 11, (24, 24)).ravel()
    assert sorted(set(found.tolist())) == list(range(found.max() + 1))
    assert not set(found[sides].tolist()) & set(found[~sides].tolist())


def test_the_probabilities_solve_the_equation_of_label_spreading(tmp_path: Path) -> None:
    data = small_data(3)
    method = fitted("label-propagation", tmp_path, data, segment_pixels=20, spread=0.8)
    segments, points = method._superpixels(data)
    labelled = segments[data.support]
    weights = weights_by_loops(points, 10, labelled)
    degrees = weights.sum(axis=1)
    spread = weights / np.sqrt(np.outer(degrees, degrees))
    labels = np.zeros((len(weights), 4))
    labels[np.arange(len(points), len(weights)), data.support_targets] = 1
    solved = np.linalg.solve(np.eye(len(weights)) - 0.8 * spread, 0.2 * labels)[: len(points)]
    expected = (solved / solved.sum(axis=1, keepdims=True))[segments]
    targets, confidence = method.predict_with_confidence(data, ALL_PIXELS)
    np.testing.assert_allclose(confidence, expected.max(axis=1), atol=0.02)
    assert (targets == expected.argmax(axis=1)).mean() > 0.99
    assert (targets == data.scene.labels - 1)[data.query].mean() > 0.9


def test_a_scene_that_is_one_superpixel_is_refused(tmp_path: Path) -> None:
    with refused(ConfigError, "segment_pixels 1440 makes a single superpixel of the 1440 pixels"):
        fitted("label-propagation", tmp_path, small_data(), segment_pixels=1440)
