"""Tables of the page about the simulated scene: labelled components, bounds, pairs of classes, classifiers, few shots.

    python benchmarks/studies/simulated_scene.py bounds

Scores are overall accuracies in %, of classifiers with fixed settings and without tuning. ``classifiers`` and ``pairs``
train on half of the labelled pixels and test on the other half. The tables are written to
``benchmarks/results/studies``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jsonargparse
import numpy as np
from committed import write_table
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.base import ClassifierMixin
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mmrs_bench.scenes.catalogue import load_manifest, load_scene
from mmrs_bench.scenes.scene import Scene
from mmrs_bench.scenes.simulator.simulated import simulate

SCENES = ("simulated", "sim-trento", "sim-muufl", "sim-houston2013", "sim-augsburg", "sim-berlin")
PAIRS = (
    ("Meadow", "Woodland"),
    ("Parking lot", "Flat roof"),
    ("Tile roof", "Flat roof"),
    ("Bare soil", "Stressed grass"),
    ("Meadow", "Stressed grass"),
)
Values = NDArray[Any]


def components(scenes: Sequence[str] = SCENES) -> None:
    """Number and sizes of the 8-connected labelled components, also of real scenes."""
    lines = ["| scene | labelled px | share of raster | components | median px | largest px |", "|" + "---|" * 6]
    for name in scenes:
        scene = load_scene(name)
        truth = scene.ground_truth
        labels = [ndimage.label(truth == k, np.ones((3, 3)))[0] for k in range(1, truth.max() + 1)]
        sizes = np.concatenate([np.bincount(label.reshape(-1))[1:] for label in labels])
        row = f"{sizes.sum():,} | {100 * sizes.sum() / truth.size:.1f} % | {sizes.size} | {int(np.median(sizes))}"
        title = scene.manifest.id if scene.manifest.simulated else f"*{scene.manifest.id}, real labels*"
        lines.append(f"| {title} | {row} | {sizes.max():,} |")
    _write("components", lines)


def bounds(scenes: Sequence[str] = SCENES) -> None:
    """Bounds on pixelwise accuracy."""
    lines = ["| scene | HSI | second sensor | both |", "|---|---|---|---|"]
    for name in scenes:
        cells = [
            f"{'+'.join(b.modalities)} {100 * b.accuracy:.1f} ± {100 * b.standard_error:.1f}"
            for b in load_scene(name).pixel_bounds
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    _write("bounds", lines)


def pairs() -> None:
    """Balanced accuracy of an RBF support vector machine (C = 1, balanced class weights) on pairs of classes."""
    scene = load_scene("simulated")
    names = scene.manifest.class_names
    lines = ["| pair | HSI | LiDAR | both |", "|---|---|---|---|"]
    for pair in PAIRS:
        chosen = [names.index(name) + 1 for name in pair]
        train, test = (half[np.isin(scene.labels[half], chosen)] for half in _halves(scene))
        scores = []
        for modalities in (("hsi",), ("lidar",), ("hsi", "lidar")):
            x = _features(scene, modalities)
            rule = make_pipeline(StandardScaler(), SVC(C=1.0, class_weight="balanced")).fit(
                x[train], scene.labels[train]
            )
            scores.append(100 * balanced_accuracy_score(scene.labels[test], rule.predict(x[test])))
        lines.append(f"| {' / '.join(pair)} | {' | '.join(f'{score:.1f}' for score in scores)} |")
    _write("pairs", lines)


def classifiers(seeds: int = 5) -> None:
    """Accuracy of pixelwise classifiers beside the bound, and of a forest that also sees means of neighbourhoods."""
    base = load_manifest("simulated")
    assert base.generator is not None
    lines = ["| seed | modalities | bound | QDA | random forest | SVM |", "|" + "---|" * 6]
    for seed in range(seeds):
        generator = base.generator.model_copy(update={"seed": seed})
        scene = simulate(base.model_copy(update={"generator": generator}))
        forest = RandomForestClassifier(200, random_state=0)
        for bound in scene.pixel_bounds:
            x = _features(scene, bound.modalities)
            rules = (
                make_pipeline(StandardScaler(), QuadraticDiscriminantAnalysis(reg_param=1e-3)),
                forest,
                make_pipeline(StandardScaler(), SVC(C=10.0)),
            )
            scores = [100 * bound.accuracy, *(_accuracy(rule, x, scene, _halves(scene)) for rule in rules)]
            lines.append(f"| {seed} | {'+'.join(bound.modalities)} | {' | '.join(f'{v:.1f}' for v in scores)} |")
        means = [_flat(ndimage.uniform_filter(image, (n, n, 0))) for image in scene.images.values() for n in (3, 7)]
        spatial = _accuracy(forest, np.concatenate([x, *means], axis=1), scene, _halves(scene))
        lines.append(f"| {seed} | both, with 3 x 3 and 7 x 7 means | | | {spatial:.1f} | |")
    _write("classifiers", lines)


def shots(counts: Sequence[int] = (2, 5, 10, 40), draws: int = 8) -> None:
    """Accuracy with few labels per class, on random supports and 4,000 query pixels; mean and sd over draws."""
    scene = load_scene("simulated")
    labels = scene.labels
    hsi, lidar = (StandardScaler().fit_transform(_flat(scene.images[name])) for name in ("hsi", "lidar"))
    both = np.concatenate([hsi, lidar], axis=1)
    cube = both.reshape(scene.height, scene.width, -1).astype(np.float64)
    context = []
    for n in (3, 7, 11):
        mean, square = (ndimage.uniform_filter(values, (n, n, 0)) for values in (cube, cube**2))
        context += [_flat(mean), _flat(np.sqrt(np.maximum(square - mean**2, 0)))]
    spatial = np.concatenate([both, *context], axis=1)
    forest, machine = RandomForestClassifier(200, random_state=0), SVC(C=100.0)
    cases = ((machine, both), (forest, both), (forest, spatial), (machine, hsi), (machine, lidar))
    lines = [
        "| shots | SVM | random forest | spatial random forest | SVM, HSI only | SVM, LiDAR only |",
        "|" + "---|" * 6,
    ]
    for count in counts:
        scores = []
        for draw in range(draws):
            rng = np.random.default_rng(draw)
            support = np.concatenate([rng.permutation(np.flatnonzero(labels == k))[:count] for k in range(1, 11)])
            query = rng.permutation(np.setdiff1d(scene.labelled_pixels, support))[:4000]
            scores.append([_accuracy(rule, x, scene, (support, query)) for rule, x in cases])
        row = zip(np.mean(scores, axis=0), np.std(scores, axis=0, ddof=1), strict=True)
        lines.append(f"| {count} | {' | '.join(f'{mean:.1f} ± {sd:.1f}' for mean, sd in row)} |")
    _write("shots", lines)


def _write(name: str, lines: Sequence[str]) -> None:
    print(*lines, sep="\n")
    write_table(f"simulated-{name}", lines, simulated=True)


def _flat(image: Values) -> Values:
    return image.reshape(-1, image.shape[-1])


def _features(scene: Scene, modalities: Sequence[str]) -> Values:
    return np.concatenate([_flat(scene.images[name]) for name in modalities], axis=1)


def _halves(scene: Scene) -> tuple[Values, Values]:
    train, test = np.array_split(np.random.default_rng(0).permutation(scene.labelled_pixels), 2)
    return train, test


def _accuracy(rule: ClassifierMixin, x: Values, scene: Scene, pixels: tuple[Values, Values]) -> float:
    """Accuracy in % on the second pixels after training on the first."""
    train, test = pixels
    return 100 * float(np.mean(rule.fit(x[train], scene.labels[train]).predict(x[test]) == scene.labels[test]))


if __name__ == "__main__":
    jsonargparse.auto_cli([components, bounds, pairs, classifiers, shots])
